"""The commands that read back what runs have left: `list`, `logs`, `report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.blocks.output import follow
from workflowmaster.flows import folders, report, waitinglist
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.claim import claimed
from workflowmaster.flows.wording import duration, moment

if TYPE_CHECKING:
    import argparse

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.state import WorkflowState


DAMAGED = "damaged"
"""Status that `list` shows of a run whose state is damaged or lost."""


def out(text: str) -> None:
    """Print an answer on stdout."""
    print(text)


def show_list(given: argparse.Namespace) -> int:
    """List the runs, the newest first, or what they wait for."""
    if given.waiting:
        return waitinglist.show(given)
    rows = [_row(folder) for folder in folders.everything()]
    if given.json:
        out(json.dumps(rows))
        return 0
    for row in rows:
        steps = f"{row['completed']}/{row['tasks']} steps"
        when = f"{moment(row['started_at'])}  {row['status']:<9}"
        out(f"{row['workflow_id']}  {when}  {steps}  {duration(row['seconds']):>8}  {row['name']}")
        if row["status"] == DAMAGED:
            sys.stderr.write(f"{row['reason']}\n")
    if not rows:
        sys.stderr.write("no runs yet: workflowmaster run FILE\n")
    return 0


def _row(folder: Folder) -> dict[str, Any]:
    """Return what `list` says of a run; of a damaged one what can be known, and the mend."""
    state, wrong = folder.condition()
    # Of one that has just begun, the first snapshot is on its way.
    damaged = {"status": DAMAGED, "reason": wrong} if wrong and not claimed(folder) else {}
    if state is None:
        lost = {"name": folder.id, "started_at": 0.0, "seconds": 0.0, "completed": 0, "tasks": 0}
        return {"workflow_id": folder.id, **lost, "branch": None, "workspace": "", "status": DAMAGED, "reason": wrong}
    return {**_summary(state), **damaged}


def _summary(state: WorkflowState) -> dict[str, Any]:
    done = sum(result.status == "completed" for result in state.results.values())
    return {
        "workflow_id": state.workflow_id,
        "name": state.plan.name,
        "status": state.status,
        "reason": state.reason,
        "started_at": state.started_at,
        "seconds": round(state.seconds, 3),
        "completed": done,
        "tasks": len(state.plan.tasks),
        "branch": state.branch or None,
        "workspace": state.workspace,
    }


def logs(given: argparse.Namespace) -> int:
    """Print the logs of a run: one step's raw bytes and nothing else, or all of them under headings."""
    folder = folders.find(given.id)
    if given.step:
        _known(folder, given.step)
        return _one_log(folder, given)
    for step in folder.state().plan.tasks:
        for path in folder.logs(step.id):
            sys.stdout.buffer.write(f"==> {step.id}, attempt {path.name.split('.')[-2]} <==\n".encode())
            _copy(path)
    return 0


def _known(folder: Folder, step_id: str) -> None:
    ids = [step.id for step in folder.state().plan.tasks]
    if step_id not in ids:
        shown = ", ".join(ids[:12])
        raise BadOption(f"{folder.id} has no step {step_id!r}; its steps are {shown}{' …' if len(ids) > 12 else ''}")


def _one_log(folder: Folder, given: argparse.Namespace) -> int:
    found = folder.logs(given.step)
    path = folder.log(given.step, given.attempt or max(1, len(found)))
    if given.follow:
        follow(path, lambda: _over(folder, given.step), _write)
    elif path.exists():
        _copy(path)
    elif given.attempt:
        raise BadOption(f"step {given.step} of {folder.id} has no attempt {given.attempt}; it has {len(found)}")
    return 0


def _over(folder: Folder, step_id: str) -> bool:
    return step_id in folder.state().results or not claimed(folder)


def _copy(path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(1 << 16):
            _write(chunk)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def show_report(given: argparse.Namespace) -> int:
    """Print where the report is, or write it somewhere, as HTML or Markdown."""
    folder = folders.find(given.id)
    state = folder.state()
    texts = folder.tails(state.results, 40)
    if given.format == "html" and not given.output:
        if not folder.report.exists():
            # The run was killed before it could write its own.
            write_atomically(folder.report, report.html(state, texts))
        out(str(folder.report))
        return 0
    text = report.html(state, texts) if given.format == "html" else report.markdown(state, texts)
    if given.output in (None, "-"):
        out(text)
    else:
        Path(given.output).write_text(text, encoding="utf-8")
    return 0
