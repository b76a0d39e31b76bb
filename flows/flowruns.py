"""Which flow run a workflow belongs to: it keeps one for as long as the server knows it.

A plain flow run that was killed stays Running for ever, and Prefect retries only those of deployments. So whoever goes
on sets its flow run back himself, to Pending and not to Scheduled: a scheduled run of a deployment would be taken up by
a worker as well. The other way round, a flow run that Prefect starts again finds its workflow by the id in the records
of all workflows; a thousand of them are read in some 50 ms, and an index would be one more thing that can be wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from workflowmaster.flows import folders, serving
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.folders import Folder, UnknownWorkflow
from workflowmaster.flows.journey import Journey, Record, keep, prepare
from workflowmaster.flows.settings import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect.client.schemas.objects import FlowRun, State

ASK_SECONDS = 3.0
"""How long another server than the present one may take to say how a flow run stands there."""

OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})


def tie(journey: Journey, flow_run: FlowRun) -> None:
    """Write down which flow run the workflow has, and on which server."""
    known = {"flow_run_id": str(flow_run.id), "api_url": serving.lives_on()}
    keep(journey, journey.record.model_copy(update=known))


def opened(workflow_id: str, anew: Callable[[], Journey]) -> Journey:
    """Open the workflow that the present flow run goes on with, by its kept plan, or a new one.

    Raises UnknownWorkflow for an id that is not `new` and that no workflow has, and what `prepare` raises.
    """
    folder = _named(workflow_id) if workflow_id != "new" else _own()
    if folder is None:
        return anew()
    return prepare(folders.kept(folder.record, Record).options, load(), resume=folder)


def _named(workflow_id: str) -> Folder:
    folder = folders.find(workflow_id)
    if folder.id != workflow_id:
        raise UnknownWorkflow(f"workflow_id {workflow_id!r}: give the whole id, which may be {folder.id}")
    return folder


def _own() -> Folder | None:
    """Return the workflow of the present flow run, if an earlier try of it has begun one."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return workflow_of(str(context.flow_run.id)) if context and context.flow_run else None


def workflow_of(flow_run_id: str) -> Folder | None:
    """Return the workflow that has this flow run; None if none has."""
    needle = f'"{flow_run_id}"'.encode()
    for folder in folders.everything():
        # Most are told apart by their bytes: reading all as records would take a second for a thousand.
        if folder.record.exists() and needle in folder.record.read_bytes():
            record = folders.kept(folder.record, Record)
            if record.flow_run_id == flow_run_id:
                return folder
    return None


async def again(journey: Journey) -> tuple[FlowRun | None, str]:
    """Make the run's earlier flow run startable again; None and what to tell if this server does not know it.

    NeedsPerson if it has not ended on the server it was begun on, which is another one.
    """
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Pending

    run_id = UUID(journey.record.flow_run_id)
    async with get_client() as client:
        try:
            await client.set_flow_run_state(run_id, Pending(message="a resume goes on with it"), force=True)
            return await client.read_flow_run(run_id), ""
        except ObjectNotFound:
            pass
    told = await _elsewhere(journey)
    keep(journey, journey.record.model_copy(update={"flow_run_id": ""}))
    return None, told


async def _elsewhere(journey: Journey) -> str:
    """Say what became of a flow run that the present server does not know. NeedsPerson if it lives on another one."""
    run_id, there = journey.record.flow_run_id, journey.record.api_url
    if there == serving.lives_on():
        return f"flow run {run_id} is gone from the Prefect server: a new one goes on"
    state = await _state_on(there, run_id) if there else None
    if state is not None and state.type.value not in OVER:
        raise NeedsPerson(
            f"{journey.id} has flow run {run_id} on {there}, where it is {state.name}; the server in use is another. "
            f"Go on there: PREFECT_API_URL={there} workflowmaster resume {journey.id}; or cancel it there"
        )
    place = there or "a temporary server of its own"
    return f"flow run {run_id} was on {place}, which is not the server in use: a new one goes on here"


async def _state_on(url: str, run_id: str) -> State | None:
    """Ask another server how a flow run stands; None if it does not know it, or does not answer."""
    import httpx
    from prefect.client.schemas.objects import FlowRun

    try:
        async with httpx.AsyncClient(timeout=ASK_SECONDS) as client:
            answer = await client.get(f"{url}/flow_runs/{run_id}")
            return FlowRun.model_validate(answer.json()).state if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None
