"""The commands that look after a workflow's state: `state show`, `validate`, `repair`, `restore`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from workflowmaster.flows import checkpoints, folders, repairing, soundness
from workflowmaster.flows.looking import out
from workflowmaster.flows.wording import counted, moment

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from workflowmaster.flows.checkpoints import Checkpoint
    from workflowmaster.flows.flaws import Flaw
    from workflowmaster.flows.state import WorkflowState

FLAWED = 1
"""Exit code where something is wrong."""


def show(given: argparse.Namespace) -> int:
    """Show the state as it stands, or as a checkpoint has it, and list the checkpoints."""
    folder = folders.find(given.id)
    state = repairing.checkpoint(folder, given.checkpoint).state if given.checkpoint else folder.state()
    known = [_row(checkpoint) for checkpoint in reversed(list(checkpoints.good(folder)))]
    if given.json:
        out(json.dumps({**state.model_dump(mode="json"), "checkpoints": known}))
        return 0
    for line in _lines(state):
        out(line)
    for row in known:
        done = f"{row['done']}/{row['tasks']} steps"
        out(f"checkpoint {row['number']:>4}  {moment(row['made_at'])}  {done:>12}  {row['name']}")
    return 0


def _row(checkpoint: Checkpoint) -> dict[str, Any]:
    state = checkpoint.state
    known = {name: getattr(checkpoint, name) for name in ("number", "name", "step", "made_at", "done")}
    return {**known, "tasks": len(state.plan.tasks), "status": state.status}


def _lines(state: WorkflowState) -> Iterable[str]:
    yield f"{state.workflow_id}: {state.status}" + (f", {state.reason}" if state.reason else "")
    for step in state.plan.tasks:
        result = state.result(step.id)
        reused = ", reused" if step.id in state.reused else ""
        told = f" at {result.commit[:10]}{reused}" if result and result.commit else ""
        yield f"  {state.step_status(step.id):<11}  {step.id}{told}"


def validate(given: argparse.Namespace) -> int:
    """Check everything that is kept of a run; exit code 1 if something is wrong that a resume would stumble over."""
    folder = folders.find(given.id)
    found = soundness.validate(folder)
    bad = any(flaw.severity == "error" for flaw in found)
    if given.json:
        flaws = [flaw.model_dump(mode="json") for flaw in found]
        out(json.dumps({"workflow_id": folder.id, "holds": not bad, "findings": flaws}))
        if bad:
            sys.stderr.write(f"{folder.id} is damaged: {counted(len(found), 'finding')}\n")
    else:
        _tell(found)
        out(f"{folder.id}: {'damaged' if bad else 'it holds'}")
    return FLAWED if bad else 0


def _tell(found: Iterable[Flaw]) -> None:
    for flaw in found:
        out(f"{flaw.severity:<7}  {flaw.code:<18}  {flaw.where}: {flaw.what}\n{'':<29}{flaw.mend}")


def repair(given: argparse.Namespace) -> int:
    """Mend what can be mended. Exit code 1 if something is still wrong."""
    folder = folders.find(given.id)
    done = repairing.repair(folder)
    bad = any(flaw.severity == "error" for flaw in done.left)
    if given.json:
        out(json.dumps({"workflow_id": folder.id, "holds": not bad, **done.model_dump(mode="json")}))
        return FLAWED if bad else 0
    for mend in done.done:
        out(mend.what + (f" (before: {mend.aside})" if mend.aside else ""))
    _tell(done.left)
    out(f"{folder.id}: {'still damaged' if bad else 'it holds' if done.done else 'nothing was to be mended'}")
    return FLAWED if bad else 0


def restore(given: argparse.Namespace) -> int:
    """Put the state back to a checkpoint: what came after it is dropped and runs again on resume."""
    folder = folders.find(given.id)
    dropped = repairing.restore(folder, given.checkpoint)
    if given.json:
        out(json.dumps({"workflow_id": folder.id, "checkpoint": given.checkpoint, "dropped": list(dropped)}))
        return 0
    what = (
        f"{counted(len(dropped), 'step')} will run again: {', '.join(dropped)}" if dropped else "nothing came after it"
    )
    sys.stderr.write(f"{folder.id} is back at checkpoint {given.checkpoint}; {what}\n")
    if dropped:
        sys.stderr.write(f"Next:   workflowmaster resume {folder.id}\n")
    return 0
