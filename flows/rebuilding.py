"""Where a lost file's content can be had from, and what a damaged journal has to be told again. Writes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workflowmaster.flows import checkpoints, journal, schemas, snapshots, soundness, statekeeping
from workflowmaster.flows.folders import UnknownWorkflow, kept
from workflowmaster.flows.folding import Fold
from workflowmaster.flows.journey import Record
from workflowmaster.flows.past import past
from workflowmaster.flows.state import final_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.journal import Kind
    from workflowmaster.flows.plan import Plan
    from workflowmaster.flows.soundness import Look
    from workflowmaster.flows.state import WorkflowState

Fact = tuple["Kind", dict[str, Any]]
"""A record that is to be written: its kind and its fields."""


def plan(folder: Folder) -> Plan:
    """Return the plan that the run goes by, from a state or from the kept prompt. UnknownWorkflow if none has it."""
    known = statekeeping.hashes(folder)
    found = soundness.plan_of_hash(folder, known) or _compiled(folder, known)
    if found is None:
        raise UnknownWorkflow(
            f"{folder.path}: plan.json cannot be had: no state holds it, and prompt.md does not compile to it. Put it "
            "back from a copy. Nothing was changed"
        )
    return found


def _compiled(folder: Folder, known: set[str]) -> Plan | None:
    """Compile the kept prompt once more; its plan's hash says whether it is the same."""
    from workflowmaster.flows.asking import BadOption, plan_of
    from workflowmaster.flows.diagnostics import PromptError
    from workflowmaster.flows.settings import load

    try:
        options = kept(folder.record, Record).options
        made = plan_of(options.model_copy(update={"prompt": str(folder.prompt)}), load())
    except (UnknownWorkflow, PromptError, BadOption, OSError):
        return None
    named = made.model_copy(update={"prompt": made.prompt.model_copy(update={"path": options.prompt})})
    return named if made.workflow_hash in known else None


def record(folder: Folder) -> Record:
    """Return the run's record from the journal or a checkpoint. UnknownWorkflow if neither has one."""
    begun = [entry.fields.get("record") for entry in journal.read(folder.journal).of("begun")]
    found = [*reversed(begun), *(checkpoint.record for checkpoint in checkpoints.good(folder))]
    for raw in filter(None, found):
        try:
            made = Record.model_validate(raw)
        except ValidationError:
            continue  # of another version; an older one may do
        answers = {step: answer for step, answer in past(folder.journal).approvals.items() if answer}
        return made.model_copy(update={"approvals": {**made.approvals, **answers}})
    raise UnknownWorkflow(
        f"{folder.path}: run.json cannot be had: neither the records nor a checkpoint say what it held. Put it back "
        "from a copy, or run the prompt again. Nothing was changed"
    )


def prompt(folder: Folder) -> bytes | None:
    """Return the prompt the plan was made from, if the user's own file is still that; None otherwise."""
    try:
        source, wanted = kept(folder.record, Record).source, statekeeping.plan(folder).prompt.sha256
        body = Path(source).read_bytes() if source else b""
    except (UnknownWorkflow, ValueError, OSError):
        return None
    return body if hashlib.sha256(body).hexdigest() == wanted else None


def blanked(folder: Folder) -> bytes:
    """Return the journal with blanks in place of damaged lines: every other line stays where it was."""
    damaged = set(journal.read(folder.journal).damaged)
    with folder.journal.open("rb") as file:
        return b"".join(
            b" " * (len(line) - 1) + b"\n" if number in damaged else line for number, line in enumerate(file, 1)
        )


def settle(fold: Fold, seen: Look) -> None:
    """Make a derived state agree with the records where a snapshot did not, and its status with its steps."""
    entries = journal.read(seen.folder.journal).entries
    told = Fold(soundness.bare(fold.state()), lambda: fold.state().plan).take(entries)
    for flaw in seen.found:
        if flaw.code == "state.differs":
            step = flaw.where.partition("(step ")[2].rstrip(")")
            fold.results[step] = told.results[step]
    if seen.has("status."):
        _correct(fold, told.state())


def _correct(fold: Fold, told: WorkflowState) -> None:
    """Take how the run ended from the records, as far as its steps bear it out."""
    status = told.status
    if status == "completed":
        status = final_status(told.plan.tasks, fold.results)
    if status != "running":
        fold.running.clear()
    fold.correct(status=status, reason=told.reason, seconds=max(0.0, told.seconds))


def missing(folder: Folder, fold: Fold) -> Iterator[Fact]:
    """Yield the records that the journal would need for all that is known to follow from it."""
    entries = journal.read(folder.journal).entries
    state = fold.state()
    told = Fold(soundness.bare(state), lambda: state.plan).take(entries).state()
    begun = any(entry.kind == "begun" for entry in entries)
    if not begun:
        yield "begun", _begun(folder, state)
    late = {step: count for step, count in state.generations.items() if told.generations.get(step, 0) < count}
    for step, count in late.items():
        yield "rerun", {"steps": [step], "generation": count, "why": "recorded again by a repair"}
    for step, result in state.results.items():
        if step in late or told.results.get(step) != result:
            reused = step in state.reused
            yield "result", {"step": step, "reused": reused, "result": result.model_dump(mode="json")}
    for decision in state.decisions:
        if decision not in told.decisions:
            yield "decision", decision.model_dump(mode="json")
    wanted = state.status
    if wanted != "running" and (not begun or late or told.status != wanted):
        yield "closed", {**snapshots.closing(state)}


def anew(folder: Folder, steps: Mapping[str, str]) -> list[Fact]:
    """Return the records that make steps run again, each for its reason."""
    known = past(folder.journal).generations
    return [
        ("rerun", {"steps": [step], "generation": known.get(step, 0) + 1, "why": why}) for step, why in steps.items()
    ]


def _begun(folder: Folder, state: WorkflowState) -> dict[str, Any]:
    names = (
        "plan_hash",
        "flow_run_id",
        "started_at",
        "base_commit",
        "workspace",
        "images",
        "audit_log",
        "results_place",
    )
    known = {name: getattr(state, name) for name in names}
    try:
        return {**known, "record": kept(folder.record, Record).model_dump(mode="json")}
    except UnknownWorkflow as error:
        if schemas.is_newer(error):
            raise
        return known
