"""Runs with no living owner, however they died, and which of them should go on without anybody asking.

What is near is believed first: whether a process of this machine works on a workflow is told by the claim's lock, which
the kernel frees the moment that process ends, and keeps for one that is only stopped. No clock has a say in it. Only
where there is no lock to look at, on other machines, do signs of life decide (`signs`), and there silence has to last.

The hard choice is what may go on by itself. The original resumed the first orphan it met, whatever it had been asked
to do; here a run only ever goes on as itself, by its own kept plan, and one that was cancelled, is old, has got
nowhere, or has died again and again without finishing a step waits for a person. The cost is that a run which a power
cut killed in its first step of twenty, after an important one had failed, has to be resumed by hand.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.flows import claim, folders, journal, serving
from workflowmaster.flows.claim import Holder
from workflowmaster.flows.folders import Folder, UnknownWorkflow
from workflowmaster.flows.looking import out
from workflowmaster.flows.wording import counted, duration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from workflowmaster.flows.settings import Settings
    from workflowmaster.flows.signs import Run, Signs
    from workflowmaster.flows.state import WorkflowState

ENOUGH: Final = 0.2
"""Progress above which a run goes on although an important step has failed: the original's figure."""
DEATHS: Final = 3
"""Times that a run may die without finishing a step in between before it is left to a person."""
UNFINISHED: Final = re.compile(rb'"status"\s*:\s*"running"')
TAKEN_IN: Final = re.compile(rb'"journal_at"\s*:\s*(\d+)')
TAIL: Final = 65_536
"""Last bytes of an audit log that are looked at."""
STOPPED: Final[Mapping[str, str]] = {"CANCELLING": "cancelled", "CANCELLED": "cancelled", "PAUSED": "paused"}
"""Types of a flow run's state that somebody has set → what the workflow is then."""


@dataclass(frozen=True)
class Orphan:
    """A run that nobody works on although it has not ended."""

    workflow_id: str
    name: str
    """Of its prompt."""
    age_seconds: float
    """Since its last sign of life; never negative, whatever the clock did."""
    progress: float
    """Completed steps as a share of all, 0 to 1; 0 where its plan cannot be seen from here."""
    resumable: bool
    """Whether `resume` can go on with it from here."""
    reason: str
    """How it is known to be dead, or why it cannot go on."""
    folder: Folder | None = None
    """None where its folder is not in this state directory."""
    flow_run_id: str = ""
    failed_important: tuple[str, ...] = ()
    """Steps of high priority that have failed."""
    deaths: int = 1
    """Times it has died since a step was last finished."""
    stopped: str = ""
    """`cancelled`, where somebody said so on the Prefect server before its process could hear of it."""

    def public(self) -> dict[str, Any]:
        """Return what `orphans --json` prints of it."""
        known = {"workflow_id": self.workflow_id, "name": self.name, "age_seconds": round(self.age_seconds, 1)}
        return {**known, "progress": round(self.progress, 3), "resumable": self.resumable, "reason": self.reason}


@dataclass(frozen=True)
class Choice:
    """Whether an orphan goes on without a person, and why."""

    resume: bool
    reason: str


# --- what is dead ---


@dataclass(frozen=True)
class Sight:
    """What can be seen of one workflow."""

    status: str
    """The workflow's; `?` where it cannot be read."""
    held: bool = False
    """Whether a process of this machine holds its claim."""
    alive: bool = False
    """Whether the server has a fresh sign of life from another machine."""
    flow_run: str = ""
    """Type of its flow run's state; empty where that is not known."""


def orphaned(sight: Sight) -> bool:
    """Say whether a workflow has lost its owner. Pure: this is the whole table."""
    if sight.held or sight.alive:
        return False
    # A run that was suspended and killed before it could write that down waits like any other that is paused.
    return sight.status in ("running", "?") and sight.flow_run != "PAUSED"


def detect_orphaned_workflows(*, server: bool = True) -> list[Orphan]:
    """Find the runs without a living owner, the newest first: of this state directory, and of a configured server.

    With `server=False`, or where none is configured, nobody but the file system is asked: a thousand workflows take a
    tenth of a second. Raises SandboxUnavailable if the server does not answer.
    """
    near = list(_near())
    if not (server and serving.api_url()):
        return list(_judged(near, None))
    with serving.server(), serving.trouble():
        return asyncio.run(_with_server(near))


async def everywhere() -> list[Orphan]:
    """Do the same from within an event loop, in a process that has its Prefect server already."""
    return await _with_server(await asyncio.to_thread(lambda: list(_near())))


async def _with_server(near: list[Near]) -> list[Orphan]:
    from workflowmaster.flows.signs import look

    signs = await look([one.state.flow_run_id for one in near if one.state and one.state.flow_run_id])
    return [*await asyncio.to_thread(lambda: list(_judged(near, signs))), *_far(signs)]


@dataclass(frozen=True)
class Near:
    """A workflow of this state directory that has not ended and that no process of this machine holds."""

    folder: Folder
    state: WorkflowState | None
    wrong: str
    """Why there is no state."""


def _near() -> Iterator[Near]:
    for folder in _folders():
        if _ended(folder) or claim.holder_of(folder) is not None:
            continue
        # Of what is no workflow yet there is nothing to go on with: somebody fills it this moment, or it is swept.
        if folder.known:
            state, wrong = _state(folder)
            if state or not _said_over(folder):
                yield Near(folder, state, wrong)


def _folders() -> list[Folder]:
    """Return all workflows, the newest first, also those that were killed before they had a state."""
    place = folders.workflows()
    made = [Folder(path) for path in place.iterdir() if path.is_dir()] if place.is_dir() else []
    return sorted((folder for folder in made if folders.ID.fullmatch(folder.id)), key=lambda f: f.id, reverse=True)


def _ended(folder: Folder) -> bool:
    """Whether a workflow has certainly ended or waits, told from the bytes: parsing a thousand takes a second."""
    try:
        data = folder.state_file.read_bytes()
    except OSError:
        return False
    taken = TAKEN_IN.search(data)
    later = folder.journal.exists() and folder.journal.stat().st_size > (int(taken[1]) if taken else 0)
    return bool(data) and not later and not UNFINISHED.search(data) and data.rstrip().endswith(b"}")


def _said_over(folder: Folder) -> bool:
    """Whether the audit log's end says that the run has ended. Only asked where no state can be had any more."""
    try:
        with folder.audit.open("rb") as file:
            file.seek(max(0, folder.audit.stat().st_size - TAIL))
            end = file.read()
    except OSError:
        return False
    return end.rfind(b'"workflow.finished"') > end.rfind(b'"workflow.started"')


def _judged(near: list[Near], signs: Signs | None) -> Iterator[Orphan]:
    for one in near:
        folder, state = one.folder, one.state
        run = signs.run_of(folder.id, state.flow_run_id if state else "") if signs else None
        # The lock last: who has taken the workflow up since it was read holds it now.
        sight = Sight(
            state.status if state else "?",
            alive=bool(signs and signs.alive(folder.id)),
            flow_run=run.state if run else "",
            held=claim.holder_of(folder) is not None,
        )
        if orphaned(sight):
            yield _orphan(one, run)


def _state(folder: Folder) -> tuple[WorkflowState | None, str]:
    try:
        return folder.state(), ""
    except UnknownWorkflow as error:
        return None, str(error)


def _orphan(one: Near, run: Run | None) -> Orphan:
    folder, state = one.folder, one.state
    known: dict[str, Any] = {"workflow_id": folder.id, "age_seconds": _age(folder), "folder": folder}
    stopped = STOPPED.get(run.state, "") if run else ""
    if state is None:
        return Orphan(**known, name=_name(folder), progress=0.0, resumable=False, reason=one.wrong, stopped=stopped)
    tasks = state.plan.tasks
    done = sum(result.status == "completed" for result in state.results.values())
    lost = tuple(s.id for s in tasks if s.priority == "high" and state.step_status(s.id) == "failed")
    return Orphan(
        **known,
        name=state.plan.name,
        progress=done / len(tasks) if tasks else 0.0,
        resumable=True,
        reason=f"{_death(folder)}; {done} of {counted(len(tasks), 'step')} done",
        flow_run_id=state.flow_run_id,
        failed_important=lost,
        deaths=_deaths(folder),
        stopped=stopped,
    )


def _death(folder: Folder) -> str:
    """Return who worked on it last, and how that one is known to be gone."""
    try:
        last = Holder.read(claim.lock_file(folder).read_bytes())
    except OSError:
        last = None
    if last is None:
        return "no process holds its claim"
    gave = (
        "has given it back" if last.released else "no longer holds its claim" if last.owner.elsewhere() else "is dead"
    )
    return f"{last}, {gave}"


def _name(folder: Folder) -> str:
    try:
        return folder.plan().name
    except (UnknownWorkflow, OSError):
        return folder.id


def _age(folder: Folder) -> float:
    """Return the seconds since anything of it was last written; 0 for what the clock puts into the future."""
    files = (folder.state_file, folder.journal, folder.audit, folder.record, folder.path)
    return max(0.0, time.time() - max(path.stat().st_mtime for path in files if path.exists()))


def _deaths(folder: Folder) -> int:
    """Count the parts of a run that began since a step was last finished: each has died, or we would not ask."""
    count = 0
    for entry in journal.read(folder.journal).of("begun", "result", "closed"):
        count = count + 1 if entry.kind == "begun" else 0
    return max(count, 1)


def _far(signs: Signs) -> Iterator[Orphan]:
    """Yield the runs of the server whose folder is not here and that have been silent for too long."""
    for run in signs.runs:
        if (folders.workflows() / run.name).exists() or signs.alive(run.name) or not signs.silent(run):
            continue
        yield Orphan(
            workflow_id=run.name,
            name=run.flow,
            age_seconds=signs.age(run),
            progress=0.0,
            resumable=False,
            reason=(
                f"no sign of life for {duration(signs.age(run))}, and its folder is not in this state directory: "
                "it lies on another host, or under another WORKFLOWMASTER_HOME"
            ),
            flow_run_id=run.id,
            stopped=STOPPED.get(run.state, ""),
        )


# --- what goes on by itself ---


def should_resume(orphan: Orphan, settings: Settings) -> Choice:
    """Say whether an orphan goes on without a person. The first rule that fits decides, and says so in words."""
    hours, dead = settings.resume_within_hours, duration(orphan.age_seconds)
    old = f"it has been dead for {dead}, more than the {hours:g} h of `resume_within_hours`"
    important = f"{', '.join(orphan.failed_important[:3])}, of high priority, failed"
    rules = (
        (not orphan.resumable, False, orphan.reason),
        (bool(orphan.stopped), False, f"it was {orphan.stopped} before it died"),
        (not settings.autonomous_mode, False, "`autonomous_mode` is off: a person resumes"),
        (orphan.age_seconds > hours * 3600, False, old),
        (orphan.deaths >= DEATHS, False, f"it has died {orphan.deaths} times without finishing a step in between"),
        (orphan.progress > ENOUGH, True, f"{orphan.progress:.0%} of its steps are done"),
        (bool(orphan.failed_important), False, f"{important}, and only {orphan.progress:.0%} of its steps are done"),
    )
    found = ((resume, reason) for holds, resume, reason in rules if holds)
    return Choice(*next(found, (True, "nothing speaks against it")))


def same_work(folder: Folder, prompt: Path, workspace: Path) -> bool:
    """Whether a workflow was made from this very prompt file for this very workspace: only then may a run offer it."""
    try:
        record = json.loads(folder.record.read_bytes())
        kept = record.get("source") or record["options"]["prompt"]
        return Path(kept).resolve() == prompt.resolve() and (
            Path(record["options"]["workspace"]).resolve() == workspace.resolve()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False  # what cannot be read is nobody's to go on with


# --- the command ---


def show(given: argparse.Namespace) -> int:
    """List the runs without a living owner, and how to go on with them."""
    found = detect_orphaned_workflows()
    if given.json:
        out(json.dumps([orphan.public() for orphan in found]))
        return 0
    for orphan in found:
        out(f"{orphan.workflow_id}  {duration(orphan.age_seconds):>8}  {orphan.progress:>4.0%}  {orphan.name}")
        out(f"    {orphan.reason}")
        if orphan.resumable:
            out(f"    workflowmaster resume {shlex.quote(orphan.workflow_id)}")
    if not found:
        out("no orphans: every run has ended, waits, or is being worked on")
    return 0
