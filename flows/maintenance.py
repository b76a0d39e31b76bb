"""The flow `recover-orphans`: what a schedule does about runs whose process died.

Each run that should go on is resumed by the command line, in a process of its own that outlives this flow. Within this
process they would share one event loop, one set of signal handlers and one end: a worker that cancels the maintenance
would cancel the work, and what killed the first run would kill those beside it. A flow run inside another would also
be a new one, where a resume goes on in its own. The price is a start, two seconds a run, and that what they print goes
to a file. Two of these flows at one time never resume a run twice, because a resume begins with the claim.

A run that does not go on keeps its state, and a person may still resume it; only its rows on the server are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State, StateType
from prefect.states import Crashed

from workflowmaster.flows import ceasing, claim, folders, orphans, recalling, stopping, suspending, taskrows
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.plaintext import one_line
from workflowmaster.flows.refusals import PERSON
from workflowmaster.flows.settings import Settings, load
from workflowmaster.flows.signs import WORKING, look
from workflowmaster.flows.stopping import SERVERS, Asked
from workflowmaster.flows.wording import duration

if TYPE_CHECKING:
    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.orphans import Orphan

BEGUN: Final = 120.0
"""Seconds that a resume may take to hold its claim, or to say why it does not."""
AT_ONCE: Final = 2
"""Resumes that may be starting at one time: each is a process that imports Prefect."""


@flow(name="recover-orphans", persist_result=False)
async def recover_orphans(dry_run: bool = False) -> list[dict[str, Any]]:
    """Find runs whose process died, let those go on that should, and close what is left of the others on the server.

    Args:
        dry_run: Only say what would be done.
    """
    settings, slots = load(), asyncio.Semaphore(AT_ONCE)
    found = await orphans.everywhere()

    async def one(orphan: Orphan) -> dict[str, Any]:
        async with slots:
            return await _recovered(orphan, settings, dry_run=dry_run)

    done = list(await asyncio.gather(*map(one, found)))
    done += await _carried_out(dry_run=dry_run)
    if not dry_run:
        done += await _close_rows_of_the_ended()
    for line in done:
        get_run_logger().info("%s: %s (%s)", line["workflow_id"], line["action"], line["reason"])
    await acreate_markdown_artifact(key="recover-orphans", markdown=_report(done), description=_summary(done))
    return done


async def _recovered(orphan: Orphan, settings: Settings, *, dry_run: bool) -> dict[str, Any]:
    """Do what is right for one orphan, and return it with `action` and its reason."""
    choice = orphans.should_resume(orphan, settings)
    action, reason = "resumed" if choice.resume else "closed" if orphan.stopped else "left", choice.reason
    if dry_run:
        action = f"would be {action}"
    elif choice.resume and orphan.folder:
        action, reason = await asyncio.to_thread(resume, orphan.folder)
        reason = reason or choice.reason
    elif orphan.stopped == "cancelled" and orphan.folder:
        action, reason = await asyncio.to_thread(_closed, orphan.folder)
    elif orphan.flow_run_id:
        crashed: State[Any] = Crashed(
            message=f"{one_line(orphan.reason, 300)}. Not resumed: {one_line(choice.reason, 300)}"
        )
        await taskrows.end_run(orphan.flow_run_id, crashed)
    return {**orphan.public(), "action": action, "reason": reason}


def resume(folder: Folder) -> tuple[str, str]:
    """Let the command line go on with a workflow; return what came of it: `resumed`, `held` or `failed`, and why.

    It goes on once its flow run has taken it over; how it ends, its state will say.
    """
    log = folder.path / "resume.log"
    before = folder.audit.stat().st_size if folder.audit.exists() else 0
    with log.open("ab") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "workflowmaster.flows.cli", "resume", folder.id, "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env=_environment(),
        )
    until = time.monotonic() + BEGUN
    while time.monotonic() < until:
        code = child.poll()
        if _started(folder, before):
            # It ends in its own time; saying so keeps Popen from waiting for it, or from warning that nobody did.
            child.returncode = code or 0
            return "resumed", ""
        if code is not None:
            # 3 is somebody else's claim, or a person who is needed: both are told in the last line.
            return "held" if code == PERSON else "failed", _last_line(log)
        time.sleep(claim.POLL)
    return "failed", f"process {child.pid} has not begun within {BEGUN:.0f} s; see {log}"


def _started(folder: Folder, before: int) -> bool:
    """Whether a flow run has taken the workflow over since its audit log had so many bytes."""
    # What a resume mends before it begins is in the records too, so those do not tell.
    with contextlib.suppress(FileNotFoundError), folder.audit.open("rb") as file:
        # A log that was full has begun a new file.
        file.seek(before if folder.audit.stat().st_size >= before else 0)
        return b'"workflow.started"' in file.read()
    return False


def _environment() -> dict[str, str]:
    """Return this process's environment with its server, and without what a worker says to its own flow run only."""
    from prefect.settings import get_current_settings

    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    url = get_current_settings().api.url
    return {**kept, **({"PREFECT_API_URL": url} if url else {})}


def _last_line(log: Any) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return one_line(lines[-1], 300) if lines else "it has said nothing"


def _closed(folder: Folder) -> tuple[str, str]:
    try:
        state = ceasing.close(folder, Asked("cancel", SERVERS))
    except NeedsPerson as error:
        return "held", str(error)
    return "closed", state.reason


async def _carried_out(*, dry_run: bool) -> list[dict[str, Any]]:
    """Go on with runs whose questions were answered while nobody worked on them."""
    done = []
    for folder, reason in await recalling.answered(enforce=not dry_run):
        known = {"workflow_id": folder.id, "name": folder.plan().name, "action": "would be resumed", "reason": reason}
        if not dry_run:
            action, wrong = await asyncio.to_thread(resume, folder)
            known |= {"action": action, "reason": wrong or reason}
        done.append(known)
    return done


async def _close_rows_of_the_ended() -> list[dict[str, Any]]:
    """Close flow runs that say `Running` although their workflow has ended: it was killed after its last word.

    A run that waits and was `resumed` in the UI, which starts no process for it, is put back to waiting.
    """
    done = []
    for run in (await look([])).runs:
        folder = folders.Folder(folders.workflows() / run.name)
        if run.state not in WORKING or not folder.state_file.exists() or claim.holder_of(folder):
            continue
        state = folder.state()
        # Looked at again after the state: who has begun to work on it since, has its row.
        if state.status == "running" or state.flow_run_id != run.id or claim.holder_of(folder):
            continue
        if state.status == "waiting" and await suspending.responses(run.id):
            continue  # what was filled in there could not be carried out yet, and must not be asked again
        final = _final(state.status, state.reason)
        if await taskrows.end_run(run.id, final):
            ended = f"it has ended: {state.status}"
            done.append({"workflow_id": run.name, "name": run.flow, "action": "closed", "reason": ended})
    return done


def _final(status: str, reason: str) -> State[Any]:
    kinds = {"completed": StateType.COMPLETED, "aborted": StateType.CANCELLED}
    kind = StateType.PAUSED if status in stopping.PAUSES else kinds.get(status, StateType.FAILED)
    return State(type=kind, name=stopping.PAUSES.get(status), message=reason or None)


def _summary(done: list[dict[str, Any]]) -> str:
    counts = {action: sum(line["action"] == action for line in done) for action in {line["action"] for line in done}}
    return ", ".join(f"{count} {action}" for action, count in sorted(counts.items())) or "no orphans"


def _report(done: list[dict[str, Any]]) -> str:
    """Return what was done as a table."""
    cells = [(x["workflow_id"], _cell(x["name"], 60), x["action"], _age(x), _cell(x["reason"])) for x in done]
    rows = [f"| {' | '.join(row)} |" for row in cells]
    head = ["| workflow | prompt | what was done | dead for | why |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([f"{_summary(done)}.", "", *(head + rows if rows else [])])


def _age(line: dict[str, Any]) -> str:
    return duration(line["age_seconds"]) if "age_seconds" in line else ""


def _cell(text: str, limit: int = 300) -> str:
    return one_line(text, limit).replace("|", "\\|")
