"""Rows on the Prefect server that nobody will end any more: of parts of a run whose process was killed.

A task or flow run that is under way when its process dies stays `Running` for ever, because only that process would
have said otherwise. In the graph such rows lie beside the new ones, and a run that completed long ago looks busy. So
whoever has the workflow ends them: the next part of the run in the background, and `recover-orphans` and `cancel` for
runs that do not go on. What belongs to the present part is told by time: only what began before it is touched. After a
clock has jumped back, a row or two may stay as they are; none is ever ended that somebody works on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State, TaskRun

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.stopping import Asked

PAGE: Final = 200
"""Rows that the server gives at once."""
LATE: Final = 20.0
"""Seconds after which the rows are looked at again: a killed run's server goes on storing its last words for a time."""
STUCK: Final = ("RUNNING", "PENDING", "SCHEDULED", "CANCELLING")
"""Types of state that a living process would have led on from."""
KILLED: Final = "its orchestrator was killed, and nobody works on it any more"
LOOK: Final = 0.25
"""Seconds between two looks at a run that was asked to stop."""

log = logging.getLogger(__name__)


async def tidy(journey: Journey) -> None:
    """End what earlier parts of a run have left open, while this part works: once, and again a little later."""
    import httpx
    from prefect import get_client

    from workflowmaster.flows.stopping import flow_run_id

    mine, began = flow_run_id(), datetime.now(UTC)
    if mine is None or journey.claim.fresh:
        return
    try:
        async with get_client() as client:
            for pause in (0.0, LATE):
                await asyncio.sleep(pause)
                await _end_flow_runs(client, journey.id, mine)
                await end_tasks(client, mine, before=began, done=journey.past.rows)
    except httpx.HTTPError as error:
        log.info("%s: rows of earlier parts are left as they are: %s", journey.id, error)


async def end_tasks(
    client: PrefectClient,
    flow_run: UUID,
    *,
    before: datetime,
    message: str = KILLED,
    done: frozenset[str] = frozenset(),
) -> int:
    """End a flow run's task runs that are open since before a moment, as Crashed; return how many there were.

    `done` are those whose result is on record: only the server's news of their end was lost, and they have completed.
    """
    from prefect.states import Completed, Crashed

    # Listed to the end first: each one that is ended would move the pages.
    stuck = [run async for run in _open_tasks(client, flow_run) if _since(run) < before]
    for run in stuck:
        known = str(run.id) in done
        over: State[Any] = Completed(message="its result is kept") if known else Crashed(message=message)
        await client.set_task_run_state(run.id, over, force=True)
    return len(stuck)


async def _open_tasks(client: PrefectClient, flow_run: UUID) -> AsyncIterator[TaskRun]:
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.sorting import TaskRunSort

    runs = FlowRunFilter.model_validate({"id": {"any_": [flow_run]}})
    tasks = TaskRunFilter.model_validate({"state": {"type": {"any_": list(STUCK)}}})
    offset = 0
    while True:
        page = await client.read_task_runs(
            flow_run_filter=runs, task_run_filter=tasks, sort=TaskRunSort.ID_DESC, limit=PAGE, offset=offset
        )
        for run in page:
            yield run
        if len(page) < PAGE:
            return
        offset += PAGE


def _since(run: TaskRun) -> datetime:
    return run.state.timestamp if run.state else datetime.fromtimestamp(0, UTC)


async def _end_flow_runs(client: PrefectClient, workflow: str, mine: UUID) -> None:
    """End the workflow's other flow runs: one goes on in another where its server did not know it for a time."""
    from prefect.states import Crashed

    for run in await _named(client, workflow):
        if run.id != mine and run.state_type and run.state_type.value in STUCK:
            gone_on: State[Any] = Crashed(message=f"{KILLED}; the workflow went on as flow run {mine}")
            await client.set_flow_run_state(run.id, gone_on, force=True)
            await end_tasks(client, run.id, before=datetime.now(UTC))


async def _named(client: PrefectClient, workflow: str) -> list[FlowRun]:
    """Return the flow runs of a workflow, the newest first."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    wanted = FlowRunFilter.model_validate({"name": {"any_": [workflow]}})
    return await client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=PAGE)


async def end_run(flow_run: str, state: State[Any]) -> bool:
    """Put a flow run that nobody works on into the state it ended in, and end its open task runs.

    Returns whether there was anything to do: a flow run that has ended keeps its state, and one that the server does
    not know is no concern of its.
    """
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            run = await client.read_flow_run(UUID(flow_run))
        except ObjectNotFound:
            return False
        # A paused one is open too, but only for somebody who ends it.
        waits = run.state is not None and run.state.is_paused() and not state.is_paused()
        stuck = waits or (run.state_type is not None and run.state_type.value in STUCK)
        if stuck:
            await client.set_flow_run_state(run.id, state, force=True)
        message = state.message or KILLED
        return bool(await end_tasks(client, run.id, before=datetime.now(UTC), message=message)) or stuck


async def ask_run(workflow: str, asked: Asked, *, seconds: float) -> tuple[str, str]:
    """Ask a run of another machine to stop, through its flow run, and wait until it has.

    Returns the status and the reason it has then. UnknownWorkflow if the server has no such run under way, NeedsPerson
    if it does not stop in time.
    """
    from prefect import get_client

    from workflowmaster.flows.claim import NeedsPerson

    async with get_client() as client:
        run = await _under_way(client, workflow)
        await client.set_flow_run_state(run.id, _wanted(run, asked), force=asked.verb == "pause")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if await _stopped(client, run.id, workflow):
                return "aborted" if asked.verb == "cancel" else "paused", asked.reason
            await asyncio.sleep(LOOK)
    raise NeedsPerson(
        f"{workflow} was asked to {asked.verb} through its flow run {run.id} and has not stopped within {seconds:.0f} "
        "s; is its host up? If nobody works on it any more, the flow `recover-orphans` closes it"
    )


async def _under_way(client: PrefectClient, workflow: str) -> FlowRun:
    from workflowmaster.flows.folders import UnknownWorkflow

    for run in await _named(client, workflow):
        if run.state_type and (run.state_type.value in STUCK or run.state_type.value == "PAUSED"):
            return run
    raise UnknownWorkflow(
        f"{workflow}: no such workflow here, and no flow run of that name is under way on the Prefect server"
    )


def _wanted(run: FlowRun, asked: Asked) -> State[Any]:
    from prefect.states import Cancelling, Paused

    if asked.verb == "cancel":
        return Cancelling(message=asked.reason)
    return Paused(name="Suspended", message=asked.reason, reschedule=run.deployment_id is not None)


async def _stopped(client: PrefectClient, flow_run: UUID, workflow: str) -> bool:
    """Whether nobody works on it any more: its claim was given back, or its flow run has ended."""
    from workflowmaster.flows.epochrows import Rows

    rows = await Rows(workflow).all()
    if rows:
        return rows[0].released
    state = (await client.read_flow_run(flow_run)).state
    return state is not None and (state.is_final() or state.is_paused())
