"""The flow `deliver`: a prompt file becomes steps, steps become commits, and the commits become a branch.

The steps are awaited by a small scheduler of our own rather than submitted to a task runner: an async flow with
directly awaited tasks costs 4 ms a step and ends at once, a sync one ends only on its heartbeat's whole second, and
only our own queue knows what to prepare next. What it costs is this file.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prefect import flow, get_client
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Cancelled, Completed, Failed, Paused

from workflowmaster.flows import (
    admitting,
    ending,
    epochs,
    evidence,
    gates,
    questioning,
    rationing,
    readers,
    steady,
    stopping,
    suspending,
    sweeping,
    taskrows,
    tasktable,
)
from workflowmaster.flows.asking import Options
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.documents import from_server, limited_tags
from workflowmaster.flows.flowruns import opened, tie
from workflowmaster.flows.journey import Journey, current, prepare
from workflowmaster.flows.parking import Parking
from workflowmaster.flows.reuse import Reuse
from workflowmaster.flows.scheduling import ReadyQueue
from workflowmaster.flows.settings import load
from workflowmaster.flows.slots import Slots
from workflowmaster.flows.steps import Runtime, runtimes
from workflowmaster.flows.trying import Trying
from workflowmaster.flows.watching import Watcher, silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prefect.client.schemas.objects import State

    from workflowmaster.flows.plan import Step, StepResult
    from workflowmaster.flows.state import WorkflowState

prepared: dict[str, tuple[Journey, Watcher]] = {}
"""Workflow id → what this process has opened for it already, and who watches. The command line prepares a run before
Prefect is imported; a deployment's run finds nothing here and prepares itself."""


@flow(
    name="deliver",
    flow_run_name="{workflow_id}",
    persist_result=False,
    on_cancellation=[stopping.after_the_end],
)
async def deliver(  # noqa: PLR0913 - each is a field of the form in the Prefect UI
    prompt: str,
    workspace: str = ".",
    policy: str | None = None,
    inputs: dict[str, str] | None = None,
    max_parallel: int | None = None,
    agent: str = "",
    workflow_id: str = "new",
) -> State[Any]:
    """Do what a prompt file says, one container a step, and leave a branch, a patch and a report.

    Args:
        prompt: Path of the Markdown file.
        workspace: Directory to work on; a git repository, or any directory.
        policy: Security policy of steps that name none.
        inputs: Values of the prompt's inputs.
        max_parallel: Steps at one time.
        agent: Command that does agent steps, with the prompt on its stdin.
        workflow_id: `new`, or the id of a workflow to go on with, by its kept plan.
    """
    journey, watcher = prepared.pop(workflow_id, (None, silent))
    if journey is None:
        options = Options(
            prompt=prompt,
            workspace=workspace,
            policy=policy,
            inputs=inputs or {},
            max_parallel=max_parallel,
            agent=agent,
        )
        journey = await asyncio.to_thread(opened, workflow_id, lambda: prepare(options, load()))
    return await travel(journey, watcher)


async def travel(journey: Journey, watcher: Watcher) -> State[Any]:
    """Work through a prepared journey inside a flow run, and close it. Returns the flow run's final state."""
    token = current.set(journey)
    journey.begun = True
    readers.outlive()
    alive = asyncio.gather(stopping.heartbeat(journey), taskrows.tidy(journey))
    state: WorkflowState | None = None
    try:
        async with tasktable.kept(journey, watcher) as table:
            state = await _to_the_end(journey, table)
    except BaseException as error:
        if abort := epochs.stopped(journey, error):
            raise abort from error
        raise
    finally:
        alive.cancel()
        current.reset(token)
        await asyncio.to_thread(journey.close)
        await epochs.release(journey, forget=state is not None and state.status == "completed")
    return await suspending.ended(journey, state) or final_state(state)


async def _to_the_end(journey: Journey, watcher: Watcher) -> WorkflowState:
    """Begin, work and conclude; of a workflow that is somebody else's nothing is written."""
    try:
        journey.at_begin()
        journey.threads.submit(sweeping.at_start, journey)
        await _begin(journey)
        epochs.keep(journey)
        return await _work(journey, watcher)
    except (asyncio.CancelledError, Pause):
        if journey.claim.lost:
            raise
        # Ended here, so that the flow run is cancelled or paused in the server's eyes and not crashed.
        return await stopping.conclude(journey)
    except Exception as error:
        journey.crash = error
        if not (journey.claim.lost or isinstance(error, NeedsPerson)):
            # Whatever it was, nobody works on it any more, and the reason must be found where people look.
            await asyncio.to_thread(journey.save, journey.state(status="failed", reason=str(error), running=()))
            journey.audit.append("claim.released", claim=journey.claim.epoch)
            journey.audit.append("workflow.finished", status="failed", reason=str(error))
        raise


def final_state(state: WorkflowState) -> State[Any]:
    """Say in the UI's words how a workflow ended: the short name is the badge, the sentence is the message."""
    if state.status == "completed":
        return Completed(message=state.reason or "every step completed")
    if state.status in stopping.PAUSES:
        # Only a deployment's run can be started again by the server, and so by the UI's Resume.
        return Paused(name=stopping.PAUSES[state.status], message=state.reason, reschedule=stopping.deployed())
    if state.status == "aborted":
        return Cancelled(name="Aborted", message=state.reason)
    return Failed(name="StepsFailed" if state.status == "partial" else "Failed", message=state.reason)


async def _begin(journey: Journey) -> None:
    """Tie the run to its flow run, and take over what the server says about policies."""
    journey.started_at = steady.now()
    if not journey.claim.fresh:
        # Before anything is written: another machine may be at work on it.
        await epochs.take(journey)
    context = FlowRunContext.get()
    if context and context.flow_run:
        tie(journey, context.flow_run)
        if context.flow_run.name != journey.id:
            # A deployment's run could not know its id before it began.
            async with get_client() as client:
                await client.update_flow_run(context.flow_run.id, name=journey.id)
    asked = from_server(journey), limited_tags(), epochs.take(journey)
    limits, journey.limited_tags, _ = await asyncio.gather(*asked)
    journey.policies |= limits
    journey.audit.append(
        "workflow.started",
        workflow=journey.id,
        flow_run=journey.record.flow_run_id,
        prompt_sha256=journey.plan.prompt.sha256,
        plan=journey.plan.workflow_hash,
        base=journey.store.base,
        images=journey.record.images,
    )
    evidence.applied(journey)
    admitting.tell(journey)
    journey.adopting.tell(journey)
    rationing.begin(journey)
    await asyncio.to_thread(journey.keeping.begin)
    await suspending.taken_in(journey)


async def _work(journey: Journey, watcher: Watcher) -> WorkflowState:
    queue = ReadyQueue(journey.plan.tasks)
    runtime = Runtime(
        journey=journey,
        parking=journey.parking or Parking(journey),
        slots=Slots(journey.parallel),
        rank=queue.rank,
        on_line=watcher.step_log,
        on_attempt=watcher.step_started,
    )
    runtimes[journey.id] = runtime
    reuse = await Reuse.begin(journey, watcher)
    # Parked for steps whose results come back, hundreds of containers would be started for nothing.
    runtime.parking.enabled = not reuse
    walk = Walk(runtime, queue, watcher, reuse)
    walk.aborted = questioning.aborted(journey)
    try:
        async with stopping.watched(journey), rationing.watched(journey, watcher.note):
            await walk.to_the_end()
        # Before the run's last word in the audit log, which nothing may follow.
        await asyncio.to_thread(journey.network.hush)
        if spent := rationing.halted(journey, aborted=bool(walk.aborted)):
            return await ending.conclude(journey, paused=spent)
        return await ending.conclude(journey, aborted=walk.aborted)
    except (asyncio.CancelledError, Pause):
        await walk.stop()
        await asyncio.to_thread(journey.network.hush)
        raise
    finally:
        runtime.parking.close()
        runtimes.pop(journey.id, None)


class Walk:
    """The scheduler: starts what is ready, most urgent first, and settles what ends."""

    def __init__(self, runtime: Runtime, queue: ReadyQueue, watcher: Watcher, reuse: Reuse) -> None:
        self.runtime, self.queue, self.watcher, self.reuse = runtime, queue, watcher, reuse
        self.journey = runtime.journey
        self.active: dict[asyncio.Task[StepResult], Step] = {}
        self.trying = Trying(runtime, reuse)
        self.aborted = ""

    async def to_the_end(self) -> None:
        """Run until nothing is ready and nothing runs. A failed step stops only what needs it."""
        while True:
            self._start_ready()
            if not self.active:
                return
            ahead = self.queue.upcoming(self.journey.running, self.journey.parallel + len(self.active) + 3)
            self.runtime.parking.ahead(ahead)
            for task in await self._next():
                self._settle(self.active.pop(task), task.result())
            if self.aborted and self.journey.health.gave_up:
                # The others wait for the same engine. They have not failed, and a resume starts them.
                await self.stop()
                return

    async def _next(self) -> list[asyncio.Task[StepResult]]:
        """Wait until there may be something to do, and return the steps that have ended.

        There may be where a step has begun to rest, which leaves its place to another, or health is better now.
        """
        stirred, patrol = asyncio.create_task(self.runtime.stirred.wait()), self.journey.health.patrol
        try:
            awaited = [*self.active, stirred]
            done, _ = await asyncio.wait(awaited, timeout=patrol, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stirred.cancel()
        self.runtime.stirred.clear()
        return [task for task in self.active if task in done]

    def _start_ready(self) -> None:
        while self.queue and not self.aborted and self._room():
            step = self.queue.take()
            verdict = gates.before(step, self.journey)
            if verdict:
                self._settle(step, verdict)
                continue
            self.journey.running[step.id] = steady.now()
            self.runtime.queued[step.id] = steady.now()
            self.active[asyncio.create_task(self.trying.run(step))] = step

    def _room(self) -> bool:
        self.runtime.slots.limit = room = self.journey.health.parallel(self.journey.parallel)
        busy = (step for step in self.active.values() if step.id not in self.runtime.resting)
        return sum(step.in_container for step in busy) < room

    def _settle(self, step: Step, result: StepResult) -> None:
        """Take a step's outcome in: everything that follows from it happens here, in the loop's thread."""
        journey = self.journey
        if step.id in journey.budget.held:
            # It has no outcome, and what needs it waits as it does.
            journey.running.pop(step.id, None)
            return
        result = gates.after(step, result, journey)
        questioning.settle(journey, step, result)
        journey.results[step.id] = result
        journey.budget.took(result)
        journey.running.pop(step.id, None)
        self.runtime.slots.release(step.id)
        self.runtime.resting.discard(step.id)
        if result.status == "completed" and step.id not in journey.reused:
            self.runtime.parking.enabled = True
        self.runtime.parking.drop([step.id])
        self.queue.end(step.id)
        fields = result.model_dump(
            mode="json", include={"status", "reason", "key", "input_commit", "commit", "exit_code"}
        )
        reused = step.id in journey.reused
        if step.id not in self.reuse.settled:
            known: dict[str, Any] = {"result": result.model_dump(mode="json"), "flow_run": journey.record.flow_run_id}
            row = str(self.trying.row(step.id) or "")
            known |= {"refused": True} if result.reason in journey.refusals else {}
            journey.journal.append("result", step=step.id, reused=reused, task_run=row, **known)
        journey.audit.append("step.finished", step=step.id, reused=reused, **fields)
        self.watcher.step_finished(result)
        self.aborted = self.aborted or gates.aborts(step, result, journey)
        journey.keeping.settled(step, result, reused=reused)

    async def stop(self) -> None:
        """Cancel what runs and wait until its containers are gone."""
        for task in self.active:
            task.cancel()
        await asyncio.gather(*self.active, return_exceptions=True)


def parameters(options: Options, workflow_id: str) -> Mapping[str, Any]:
    """Return the flow's parameters for a run that was asked for by these options."""
    return {**options.model_dump(exclude={"include_dirty"}), "workflow_id": workflow_id}
