"""A workflow's state, derived from what is true: results, records, plan.

`state.json` is a snapshot that says up to which byte of the journal it holds; a reader adds the records after it. So
keeping a state fresh costs one line a change, and a thousand steps write their state twice and not a thousand times.
What is read here is believed only where a checksum holds: the snapshot has one, each record has one, Prefect's results
are compressed with one. Where any of them fails, the state is derived anew from those that hold, the persisted results
first; `list` and all who look then see what can be known, and only `state repair` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workflowmaster.flows import checkpoints, journal, persisted, schemas, snapshots
from workflowmaster.flows.folding import Fold
from workflowmaster.flows.plan import Plan
from workflowmaster.flows.snapshots import wrong
from workflowmaster.flows.state import WorkflowState

if TYPE_CHECKING:
    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.plan import StepResult


def current(folder: Folder) -> WorkflowState:
    """Return the state as it stands: the snapshot and what was recorded since; derived anew where those are damaged.

    ValueError, in one clause, if it cannot be known, or if a file was written by a newer version.
    """
    return fold(folder).state()


def fold(folder: Folder) -> Fold:
    """Return what `current` returns, ready to take in what will be recorded next."""
    try:
        base = snapshots.read(folder)
    except (ValueError, FileNotFoundError) as error:
        if schemas.is_newer(error):
            raise
        found = derived(folder)
        if folder.begun:
            found.wrong = f"{folder.state_file.name} {error if isinstance(error, ValueError) else 'is missing'}"
        return found
    records = journal.read(folder.journal, base.journal_at) if _reaches(folder, base.journal_at) else None
    if records is None or records.damaged:
        return derived(folder)
    return Fold(base, lambda: plan(folder)).take(records.entries)


def derive(folder: Folder) -> WorkflowState:
    """Derive the state from the truth. ValueError, in one clause, if not even the plan can be had."""
    return derived(folder).state()


def derived(folder: Folder) -> Fold:
    """Return what `derive` returns, as a fold.

    The best base is taken, a snapshot, a checkpoint, or plan and run record alone; all records since are added; then
    the persisted results, which win.
    """
    base = _base(folder)
    at = base.journal_at
    entries = journal.read(folder.journal).entries
    made = Fold(base, lambda: plan(folder)).recall(entry for entry in entries if entry.end <= at)
    made.take(entry for entry in entries if entry.end > at)
    # Of a journal that was cut off, what comes next stands where something else did.
    made.at = min(made.at, folder.journal.stat().st_size if folder.journal.exists() else 0)
    for result in _believed(folder, made):
        made.trust(result)
    return made


def plan(folder: Folder) -> Plan:
    """Read the plan. ValueError, naming the file, if it is gone, damaged, or not the one the run goes by."""
    try:
        found = Plan.model_validate_json(folder.plan_file.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{folder.plan_file.name} is missing") from error
    except ValidationError as error:
        raise ValueError(f"{folder.plan_file.name} is damaged ({wrong(error)})") from error
    known = hashes(folder)
    if known and found.workflow_hash not in known:
        raise ValueError(f"{folder.plan_file.name} is not the plan that {folder.record.name} names by its hash")
    return found


def record(folder: Folder) -> dict[str, Any]:
    """Read the values of `run.json`. ValueError if it is gone or damaged."""
    try:
        return schemas.opened(folder.record.read_bytes(), "run")
    except FileNotFoundError as error:
        raise ValueError(f"{folder.record.name} is missing") from error
    except ValueError as error:
        raise ValueError(f"{folder.record.name} {error}") from error


def hashes(folder: Folder) -> set[str]:
    """Return the hashes of the plans that the run may go by: its record's, and the last ones that were recorded."""
    entries = journal.read(folder.journal).entries
    recorded = {"plan": "hash", "begun": "plan_hash"}
    found = {entry.kind: str(entry.fields.get(recorded[entry.kind], "")) for entry in entries if entry.kind in recorded}
    try:
        found["run"] = str(record(folder).get("workflow_hash", ""))
    except ValueError as error:
        if schemas.is_newer(error):
            raise
    return set(found.values()) - {""}


def _reaches(folder: Folder, at: int) -> bool:
    """Whether the journal still holds what a snapshot has taken in, and a record begins right after it."""
    if at == 0:
        return True
    try:
        with folder.journal.open("rb") as file:
            file.seek(at - 1)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return False


def _base(folder: Folder) -> WorkflowState:
    """Return the newest state that can be believed as it is, or an empty one."""
    try:
        return snapshots.read(folder)
    except (ValueError, FileNotFoundError) as error:
        if schemas.is_newer(error):
            raise
    last = next(checkpoints.good(folder), None)
    return last.state if last else empty(folder)


def empty(folder: Folder) -> WorkflowState:
    """Return the state of a run that has only been prepared. ValueError if there is no plan to be had."""
    found = plan(folder)
    raw: dict[str, Any] = {}
    try:
        raw = record(folder)
    except ValueError as error:
        if schemas.is_newer(error):
            raise
    known = {name: raw[name] for name in ("flow_run_id", "images") if name in raw}
    workspace = raw.get("options", {}).get("workspace", "")
    return WorkflowState(workflow_id=folder.id, plan=found, workspace=workspace, audit_log=str(folder.audit), **known)


def _believed(folder: Folder, made: Fold) -> list[StepResult]:
    """Return the persisted results of the workflow that can be read, the newest first: it is the one to take."""
    place = made.state().results_place
    keyed = (persisted.file_of(key, place) for key in made.keys.values())
    paths = {*persisted.files_of(folder.id, place), *filter(None, keyed)}
    found = []
    for path in paths:
        try:
            found.append(persisted.read(path))
        except ValueError:
            continue  # `validate` names it; a step without a result runs again
    return sorted(found, key=lambda result: -result.started_at)
