"""Looks at everything that is kept of a workflow and says what is wrong with it. Changes nothing.

It reads each file by itself, and then holds them against each other: the snapshot against the records, both against
the results that Prefect persisted, those against the commits in the store, the plan against the hash that was recorded
when the run began to go by it. Two that disagree are told even where each holds its own checksum, because then one of
them is not of this run. It takes about a millisecond a step, most of it for unpacking results.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from workflowmaster.flows import checkpoints, claim, flaws, journal, persisted, schemas, snapshots, statekeeping
from workflowmaster.flows.flaws import REPAIR, Flaw
from workflowmaster.flows.folding import Fold

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.plan import Plan, StepResult
    from workflowmaster.flows.state import WorkflowState

UNNAMED = "UNKNOWN"


@dataclass
class Look:
    """What was found, and what could be read."""

    folder: Folder
    found: list[Flaw] = field(default_factory=list)
    state: WorkflowState | None = None
    """The state as people see it; None if it cannot be known."""
    untrusted: dict[str, str] = field(default_factory=dict)
    """Step → why its result cannot be trusted."""

    def say(
        self, code: str, where: str, what: str, mend: str, *, severity: Literal["error", "warning", "note"] = "error"
    ) -> None:
        """Add a flaw."""
        self.found.append(Flaw(code=code, severity=severity, where=where, what=what, mend=mend))

    def has(self, *codes: str) -> bool:
        """Whether one of these was found; `journal.` stands for all that begin so."""
        return any(flaw.code.startswith(code) for flaw in self.found for code in codes)


def validate(folder: Folder, *, ours: bool = False) -> list[Flaw]:
    """Return everything that is wrong with what is kept of a workflow, the worst first; nothing where all holds.

    `ours` says that this process holds the claim and is not at work on it; otherwise its holder may be writing.
    """
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(look(folder, ours=ours).found, key=lambda flaw: order[flaw.severity])


def look(folder: Folder, *, ours: bool = False) -> Look:
    """Look at all of it. Files of a newer version are told and not judged."""
    seen = Look(folder)
    held = not ours and claim.holder_of(folder) is not None
    files(seen, torn_is_fine=held)
    if seen.has("state.newer", "run.newer"):
        return seen
    try:
        seen.state = statekeeping.current(folder)
    except ValueError as error:
        if schemas.is_newer(error):
            seen.say("journal.newer", folder.journal.name, str(error), "use that version")
        elif not seen.found:
            seen.say("state.lost", folder.state_file.name, str(error), f"{REPAIR}derives it anew")
        return seen
    with contextlib.suppress(ValueError, FileNotFoundError):  # told already
        seen.found += flaws.strangers(snapshots.read(folder))
    seen.found += flaws.of_state(seen.state, now=time.time())
    if seen.state.status == "running" and not held:
        seen.found.append(flaws.orphaned(seen.state))
    _results(seen, seen.state)
    _commits(seen, seen.state)
    if not held:
        _agreement(seen, seen.state)
    return seen


def files(seen: Look, *, torn_is_fine: bool) -> None:
    """Look at each file by itself."""
    folder = seen.folder
    essentials(seen, torn_is_fine=torn_is_fine)
    _prompt(seen)
    for number, path in checkpoints.files(folder).items():
        name = f"checkpoints/{path.name}"
        _one(seen, "checkpoint", name, lambda path=path: checkpoints.read(path, folder), f"sets {number} aside")  # type: ignore[misc]


def essentials(seen: Look, *, torn_is_fine: bool) -> None:
    """Look at the files that a resume goes by before it has looked at any result."""
    folder = seen.folder
    if folder.begun:
        mend = "derives it from results and records"
        _one(seen, "state", folder.state_file.name, lambda: snapshots.read(folder), mend)
    _one(seen, "run", folder.record.name, lambda: statekeeping.record(folder), "takes it from the records")
    _one(seen, "plan", folder.plan_file.name, lambda: _plan(seen), "takes it from the state, or compiles it again")
    if folder.begun:
        _journal(seen, torn_is_fine=torn_is_fine)


def _one(seen: Look, code: str, name: str, read: Callable[[], object], mend: str) -> None:
    """Read one file, and tell why it cannot be believed."""
    try:
        read()
    except FileNotFoundError:
        seen.say(f"{code}.missing", name, "it is gone", f"{REPAIR}{mend}")
    except ValueError as error:
        newer = schemas.is_newer(error)
        kind = "newer" if newer else "missing" if str(error).endswith("is missing") else "damaged"
        seen.say(f"{code}.{kind}", name, str(error), "use that version" if newer else f"{REPAIR}{mend}")


def _plan(seen: Look) -> None:
    seen.found += flaws.of_plan(statekeeping.plan(seen.folder))


def _prompt(seen: Look) -> None:
    """Hold the kept prompt against the plan that was made from it."""
    folder = seen.folder
    try:
        wanted = statekeeping.plan(folder).prompt.sha256
    except ValueError:
        return  # told already
    try:
        given = hashlib.sha256(folder.prompt.read_bytes()).hexdigest()
    except FileNotFoundError:
        given = ""
    if given != wanted:
        what = "it is not the prompt that the plan was made from" if given else "it is gone"
        mend = f"{REPAIR}takes the prompt's own file, if that is unchanged; the run goes by its plan in any case"
        seen.say("prompt.differs", folder.prompt.name, what, mend, severity="warning")


def _journal(seen: Look, *, torn_is_fine: bool) -> None:
    folder, name = seen.folder, seen.folder.journal.name
    mend = f"{REPAIR}blanks what is damaged, and records again what is known"
    if not folder.journal.exists() or not folder.journal.stat().st_size:
        if _version_of(folder) > 1:
            seen.say("journal.missing", name, "it is gone" if not folder.journal.exists() else "it is empty", mend)
        return
    damaged = journal.read(folder.journal).damaged
    if torn_is_fine and damaged and _torn(folder):
        damaged = damaged[:-1]  # somebody is writing it
    for number in damaged:
        seen.say("journal.damaged", f"{name}:{number}", "the line is not what was written", mend)
    at = _journal_at(folder)
    if at > folder.journal.stat().st_size:
        what = f"it has {folder.journal.stat().st_size} bytes, and the state holds {at} of it"
        seen.say("journal.short", name, what, mend)


def _torn(folder: Folder) -> bool:
    with folder.journal.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _journal_at(folder: Folder) -> int:
    try:
        return snapshots.read(folder).journal_at
    except (ValueError, FileNotFoundError):
        return 0


def _version_of(folder: Folder) -> int:
    """Return the version that the snapshot was written in; today's where that cannot be told."""
    try:
        raw = schemas.parsed(folder.state_file.read_bytes())
        return schemas.readable(raw, schemas.NEWEST["state"], "state")
    except (ValueError, FileNotFoundError):
        return schemas.NEWEST["state"]


def _results(seen: Look, state: WorkflowState) -> None:
    """Hold the state against Prefect's results, the truth about finished steps."""
    wanted = {r.key: r for r in state.results.values() if r.status == "completed" and r.key}
    if persisted.elsewhere():
        if wanted:
            what = f"results are kept in {persisted.elsewhere()}, which is not looked at from here"
            seen.say("result.elsewhere", "results", what, "nothing: a resume asks for them", severity="note")
        return
    files = {key: persisted.file_of(key, state.results_place) for key in wanted}
    own = persisted.files_of(state.workflow_id, state.results_place)
    for path in sorted({*own, *filter(None, files.values())}):
        _result(seen, path, wanted.get(path.name))
    for key, result in wanted.items():
        if files[key] is None:
            _distrust(seen, result.step, "result.missing", key, "it is gone")


def _result(seen: Look, path: Path, known: StepResult | None) -> None:
    """Look at one persisted result; `known` is what the state says of it."""
    key = path.name
    try:
        found = persisted.read(path)
    except ValueError as error:
        step = known.step if known else _owner(seen, key)
        if schemas.is_newer(error):
            seen.say("result.newer", f"results/{key} (step {step})", str(error), "use that version")
            return
        _distrust(seen, step, "result.damaged", key, str(error))
        return
    if known and (different := _different(found, known)):
        _distrust(seen, known.step, "result.differs", key, f"it does not say what the state says: {different}")


def _owner(seen: Look, key: str) -> str:
    entries = journal.read(seen.folder.journal).of("keys")
    return next((entry.fields["step"] for entry in entries if entry.fields["key"] == key), UNNAMED)


def _different(found: StepResult, known: StepResult) -> str:
    """Return the fields in which a persisted result differs from the one in the state."""
    # The tree of another workflow's result was taken over as a commit of our own.
    apart = {"commit", "input_commit"} if found.workflow != known.workflow or found.key.startswith("shared-") else set()
    one, other = (result.model_dump(exclude=apart) for result in (found, known))
    return ", ".join(name for name in one if one[name] != other[name])


def _distrust(seen: Look, step: str, code: str, key: str, what: str) -> None:
    current = seen.state.results.get(step) if seen.state else None
    if current is None or current.key != key:
        what = f"{what} (an earlier attempt's)"
    else:
        seen.untrusted[step] = what
    where = f"results/{key} (step {step})"
    seen.say(code, where, what, f"{REPAIR}sets it aside and drops the result: the step runs again")


def _commits(seen: Look, state: WorkflowState) -> None:
    from workflowmaster.blocks.presence import missing

    of_step = {result.commit: result.step for result in state.results.values() if result.commit}
    for commit, why in missing(seen.folder.git_dir, of_step).items():
        step = of_step[commit]
        seen.untrusted[step] = why
        mend = f"{REPAIR}drops the result: the step runs again"
        seen.say("commit.missing", f"store.git {commit[:12]} (step {step})", why, mend)


def _agreement(seen: Look, state: WorkflowState) -> None:
    """Hold the state against the records alone, as far as those reach back."""
    entries = journal.read(seen.folder.journal).entries
    told = Fold(bare(state), lambda: state.plan).take(entries).state()
    differ = [
        step
        for step, result in told.results.items()
        if step in state.plan.ids and step not in seen.untrusted and state.results.get(step) != result
    ]
    for step in differ:
        known = state.results.get(step)
        what = f"the records say {told.results[step].status}, the state says {known.status if known else 'pending'}"
        seen.say("state.differs", f"state.json (step {step})", what, f"{REPAIR}derives it anew")


def bare(state: WorkflowState) -> WorkflowState:
    """Return a state without anything that records say."""
    empty = {"results": {}, "running": (), "reused": (), "decisions": (), "generations": {}, "journal_at": 0}
    return state.model_copy(update=empty)


def plan_of_hash(folder: Folder, wanted: set[str]) -> Plan | None:
    """Return a plan of one of these hashes from the snapshot or a checkpoint; None if neither has one."""
    states = []
    try:
        states.append(snapshots.read(folder))
    except (ValueError, FileNotFoundError):
        states += [checkpoint.state for checkpoint in checkpoints.good(folder)]
    return next((state.plan for state in states if not wanted or state.plan.workflow_hash in wanted), None)
