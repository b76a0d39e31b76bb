"""From a prepared run to its end: Prefect's import, the flow run, and what the process answers.

The order is the order of speed. A temporary server takes seconds to start, so it is started first and everything else
happens meanwhile; Prefect's import is the next longest, and the first containers are started before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

from workflowmaster.flows import embedded, flowruns, serving, standing
from workflowmaster.flows.collecting import listed
from workflowmaster.flows.importing import uncollected
from workflowmaster.flows.parking import Parking
from workflowmaster.flows.scheduling import ReadyQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflowmaster.flows.embedded import EmbeddedServer
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.state import WorkflowState
    from workflowmaster.flows.watching import Watcher

EXITS = {"completed": 0, "partial": 1, "failed": 1, "aborted": 1, "waiting": 3, "paused": 3, "running": 1}
"""Workflow status → exit code of the command that ran it."""

INFRASTRUCTURE, POLICY, BUDGET = 4, 5, 6


def execute(journey: Journey, watcher: Watcher, own: EmbeddedServer | None) -> WorkflowState:
    """Run a prepared journey to its end and return the state it left. KeyboardInterrupt after an orderly stop."""
    folder = journey.folder
    _hush()
    try:
        _set_off(journey, watcher, own)
        with _pointing_on(journey), serving.trouble():
            asyncio.run(_until_done(journey))
            if journey.crash:
                raise journey.crash
    finally:
        if not journey.begun:
            journey.abandon()
        if own:
            embedded.drain_client()
    if journey.interrupted:
        raise KeyboardInterrupt
    standing.seal(folder)
    return folder.state()


@contextlib.contextmanager
def _pointing_on(journey: Journey) -> Iterator[None]:
    """Note on whatever ends a run that has begun how to go on with it."""
    try:
        yield
    except Exception as error:
        if journey.begun:
            error.add_note(f"`workflowmaster resume {journey.id}` goes on from where it stopped")
        raise


def _set_off(journey: Journey, watcher: Watcher, own: EmbeddedServer | None) -> None:
    """Start the first containers, import Prefect and wait for the server, all at the same time."""
    # The import works as hard as a start does: with one for each core beside it, both took twice as long.
    with journey.starts:
        if not journey.record.flow_run_id:
            # Most of a start is waiting for the engine: let it work while this process imports Prefect.
            journey.parking = Parking(journey)
            journey.parking.ahead(ReadyQueue(journey.plan.tasks).upcoming((), journey.parking.limit))
        with _undisturbed(), uncollected():
            from workflowmaster.flows import delivery
    if own:
        own.wait_ready()
    delivery.prepared[journey.id] = (journey, watcher)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM for a second: raised in the middle of an import, they come out as anything."""
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda which, _: asked.append(which)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt


def _hush() -> None:
    """Keep what Prefect's sender of logs meets off the user's screen; what it means for the run, its end will say."""
    logging.raiseExceptions = False


async def _until_done(journey: Journey) -> None:
    """Await the flow run. Ctrl-C and SIGTERM end it in order, once: asking again does not make it quicker.

    Left alone, a second Ctrl-C would be raised wherever the loop is, and the containers would be left running.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(_flow_run(journey))
    asked: list[bool] = []

    def stop() -> None:
        if not asked:
            asked.append(task.cancel())

    def listen() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)

    listen()
    # Again once the flow has begun: Prefect's own handler throws into the middle of the event loop.
    journey.at_begin = listen
    try:
        await task
    except asyncio.CancelledError:
        if not asked:
            raise
        journey.interrupted = True  # before the flow had begun, which would have ended in order


async def _flow_run(journey: Journey) -> None:
    from prefect.exceptions import Abort, Pause
    from prefect.flow_engine import run_flow_async

    from workflowmaster.flows import epochs
    from workflowmaster.flows.delivery import deliver, parameters, prepared

    named = deliver.with_options(name=journey.plan.name)
    values = dict(parameters(journey.record.options, journey.id))
    again, told = None, ""
    try:
        if journey.record.flow_run_id:
            # First of all: the flow run may be that of a machine which is at work on it.
            await epochs.take(journey)
            again, told = await flowruns.again(journey)
        if told:
            prepared[journey.id][1].note(told)
        if again:
            await run_flow_async(named, flow_run=again, parameters=values, return_type="state")
        else:
            await named(**values, return_state=True)
    except (Pause, Abort):
        # The server would not take the state we ended in, for somebody had paused or ended the flow run there.
        if not journey.begun:
            raise
    finally:
        if not journey.begun:
            await epochs.release(journey, forget=False)


def answer(state: WorkflowState) -> dict[str, Any]:
    """Return what `run --json` prints: stable names that other programs rely on."""
    tasks = []
    for step in state.plan.tasks:
        result = state.result(step.id)
        last = result.receipts[-1] if result and result.receipts else None
        tasks.append(
            {
                "id": step.id,
                "status": state.step_status(step.id),
                "attempts": result.attempts if result else 0,
                "exit_code": result.exit_code if result else None,
                "seconds": round(result.seconds, 3) if result else 0.0,
                "reused": step.id in state.reused,
                "policy": step.policy,
                "container_id": last.container_id if last else None,
                "oom_killed": bool(last and last.oom_killed),
                "timed_out": bool(last and last.timed_out),
                "outputs": result.outputs if result else {},
                "artifacts": listed(result, state.workflow_id) if result else [],
                "reason": result.reason if result else "",
            }
        )
    keys = ("workflow_id", "flow_run_id", "status", "reason", "branch", "commit", "pull_request", "report", "audit_log")
    found = {key: getattr(state, key) or None for key in keys}
    decisions = [decision.model_dump(mode="json") for decision in state.decisions]
    return {
        **found,
        "name": state.plan.name,
        "seconds": round(state.seconds, 3),
        "budget": state.budget.model_dump(mode="json") if state.budget else None,
        "tasks": tasks,
        "decisions": decisions,
    }


def exit_code(state: WorkflowState, *, infrastructure: bool, refused: bool = False) -> int:
    """Return the process's exit code for a run's outcome; what a policy refused goes before all other reasons.

    A run that was stopped for its budget says so even where the engine failed it before: more of it is what it lacks.
    """
    if state.status == "completed":
        return EXITS[state.status]
    if state.status == "paused" and state.budget and state.budget.over:
        return POLICY if refused else BUDGET
    return POLICY if refused else INFRASTRUCTURE if infrastructure else EXITS[state.status]
