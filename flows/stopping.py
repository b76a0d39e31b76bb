"""Cancel and pause: how somebody outside stops a run, and how the run hears of it.

A run is asked in one of two places. One is its flow run on the Prefect server, where the UI, the API and a worker say
`Cancelling`, `Cancelled` or `Suspended`. The other is a file in the workflow's folder, written by `workflowmaster
cancel` and `pause` for a run of this machine. The run looks at both itself, every second and every quarter of one. The
hard choice is to look rather than to be called. A signal reaches a run that is still importing as something else, and
a worker's comes late: a process worker was seen to leave a container up for 31 s. A subscription to the server's
events hears nothing of what another server wrote into the same database, which is how runs without a server share
theirs. Looking works the same in all of these, and when one look fails there is a next. It costs 2.5 ms of processor
time a second in the run and 9 ms in the server, measured on two busy cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.blocks.owner import Owner
from workflowmaster.flows import folders
from workflowmaster.flows.claim import NeedsPerson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun, State

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.state import WorkflowState

Verb = Literal["cancel", "pause"]

FILE_SECONDS: Final = 0.25
"""Between two looks at the file."""
SERVER_SECONDS: Final = 1.0
"""Between two looks at the server. With a container's grace of three seconds this keeps within five."""
SERVERS: Final = "the Prefect server"
"""Who asked, where only the flow run's state says that somebody did."""
BEAT_SECONDS: Final = 30.0
"""Between two heartbeats of a run: the shortest that Prefect itself knows."""

EVENTS: Final[dict[Verb, str]] = {"cancel": "workflow.cancelled", "pause": "workflow.paused"}
PAUSES: Final[dict[str, str]] = {"waiting": "WaitingForPerson", "paused": "Suspended"}
"""Statuses of a workflow that goes on when a person says so → the name of its flow run's state."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """Somebody wants a run to stop."""

    verb: Verb
    by: str
    """Who: `ada on the command line`, `the Prefect server`; with what they said of it."""
    why: str = ""
    """The whole reason, where it is more than who."""

    @property
    def reason(self) -> str:
        """The reason of the state it leads to."""
        return self.why or f"{'cancelled' if self.verb == 'cancel' else 'paused'} by {self.by}"


# --- the file ---


def request_file(folder: Folder) -> Path:
    """Return where a request to the run of this machine lies."""
    return folder.path / "asked.json"


def ask(folder: Folder, asked: Asked, owner: Owner) -> None:
    """Ask the process that works on a workflow. The request is for that process alone: its successor ignores it."""
    write_atomically(request_file(folder), json.dumps({**asdict(asked), "owner": asdict(owner)}))


def request(folder: Folder, owner: Owner) -> Asked | None:
    """Return what this process was asked by file; None if nobody did, or the request was for another one."""
    try:
        said = json.loads(request_file(folder).read_bytes())
        asked, to = Asked(said["verb"], str(said["by"])), Owner(**said["owner"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or somebody else's file has its name
    return asked if to == owner and asked.verb in ("cancel", "pause") else None


# --- the server ---


def meant(state: State[Any] | None) -> Asked | None:
    """Return what a flow run's state asks of the process that runs it."""
    if state is None:
        return None
    said = f" ({state.message})" if state.message else ""
    if state.is_cancelling() or state.is_cancelled():
        return Asked("cancel", f"{SERVERS}{said}")
    return Asked("pause", f"{SERVERS}{said}") if state.is_paused() else None


async def on_server(journey: Journey) -> Asked | None:
    """Ask the server once. None if nobody wants anything, or the server has no answer: there will be a next look."""
    import httpx
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound

    number = flow_run_id()
    if number is None:
        return None
    try:
        async with get_client() as client:
            return meant((await client.read_flow_run(number)).state)
    except (httpx.HTTPError, ObjectNotFound) as error:
        log.info("%s: its flow run could not be looked at: %s", journey.id, error)
        return None


def flow_run_id() -> UUID | None:
    """Return the id of the flow run that this code belongs to."""
    run = _flow_run()
    return run.id if run else None


def deployed() -> bool:
    """Whether the flow run that this code belongs to is a deployment's, so that the server can have it started."""
    run = _flow_run()
    return bool(run and run.deployment_id)


def _flow_run() -> FlowRun | None:
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return context.flow_run if context else None


# --- the run ---


@contextlib.asynccontextmanager
async def watched(journey: Journey) -> AsyncIterator[None]:
    """Cancel what is under way within as soon as somebody has asked the run to stop; `journey.asked` says what."""
    task = asyncio.current_task()

    async def watch() -> None:
        journey.asked = await _until_asked(journey)
        if task:
            task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _until_asked(journey: Journey) -> Asked:
    due = time.monotonic() + SERVER_SECONDS
    while True:
        if asked := request(journey.folder, journey.owner):
            return asked
        if time.monotonic() >= due:
            if asked := await on_server(journey):
                return asked
            due = time.monotonic() + SERVER_SECONDS
        await asyncio.sleep(FILE_SECONDS)


async def conclude(journey: Journey) -> WorkflowState:
    """End a run that was stopped on its way: paused or aborted, with who wanted it."""
    from workflowmaster.flows import ending

    asked = await _who(journey)
    if asked is None:
        journey.interrupted = True
        return await ending.conclude(journey, aborted="it was interrupted")
    request_file(journey.folder).unlink(missing_ok=True)
    journey.audit.append(EVENTS[asked.verb], by=asked.by)
    if asked.verb == "pause":
        return await ending.conclude(journey, paused=asked.reason)
    return await ending.conclude(journey, aborted=asked.reason)


async def _who(journey: Journey) -> Asked | None:
    """Return who stopped a run; None for Ctrl-C and the like. A worker may signal before the run has looked."""
    task = asyncio.current_task()
    if journey.asked and task:
        # It was we who cancelled; left marked, the task would be cancelled again by the next time limit it meets.
        task.uncancel()
    return journey.asked or request(journey.folder, journey.owner) or await on_server(journey)


# --- signs of life ---


async def heartbeat(journey: Journey) -> None:
    """Send the flow run's heartbeat every 30 seconds, until cancelled.

    Prefect's own comes every three minutes unless every machine is told otherwise, and carries the name that a
    deployment's run had before it knew its workflow. Both are of the same kind, and more often is no harm.
    """
    from prefect.events import emit_event

    number = flow_run_id()
    while number:
        resource = {"prefect.resource.id": f"prefect.flow-run.{number}", "prefect.resource.name": journey.id}
        emit_event("prefect.flow-run.heartbeat", resource=resource)
        await asyncio.sleep(BEAT_SECONDS)


# --- what is left to do when the process is gone ---


def after_the_end(flow: Any, flow_run: Any, state: State[Any]) -> None:
    """Close a workflow whose flow run was cancelled and whose process did not get to it; Prefect's hook.

    Prefect calls it in the worker once the process is gone, and in the process itself where there is no worker. Only
    where the workflow is nobody's is there anything to do. After a crash nothing is done here: containers that still
    run are taken over by whoever resumes.
    """
    del flow
    from workflowmaster.flows import ceasing

    folder = folders.Folder(folders.workflows() / str(flow_run.name))
    asked = meant(state)
    if not (asked and asked.verb == "cancel" and folders.ID.fullmatch(folder.id) and folder.begun):
        return
    try:
        ceasing.close(folder, asked)
    except NeedsPerson as error:
        log.info("left to whoever works on it: %s", error)
