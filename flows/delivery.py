"""The flow `deliver`: a prompt file becomes steps, steps become commits, and the commits become a branch.

The steps are awaited by a small scheduler of our own rather than submitted to a task runner: an async flow with
directly awaited tasks costs 4 ms a step and ends at once, a sync one ends only on its heartbeat's whole second, and
only our own queue knows what to prepare next. What it costs is this file.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from prefect import flow, get_client, get_run_logger
from prefect.client.schemas.objects import RunInput, State, TaskRunResult
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Cancelled, Completed, Failed, Paused
from prefect.task_engine import run_task_async

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.layering import tree_of
from workflowmaster.blocks.workspace import WorkspaceError
from workflowmaster.flows import (
    admitting,
    diskspace,
    ending,
    epochs,
    evidence,
    gates,
    persisted,
    readers,
    steady,
    stopping,
    sweeping,
    taskrows,
)
from workflowmaster.flows.asking import Options
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.documents import from_server, limited_tags
from workflowmaster.flows.execution import StepFailed, host_result, in_git
from workflowmaster.flows.flowruns import opened, tie
from workflowmaster.flows.journey import Journey, current, prepare
from workflowmaster.flows.parking import Parking
from workflowmaster.flows.reuse import Reuse
from workflowmaster.flows.scheduling import ReadyQueue
from workflowmaster.flows.settings import load
from workflowmaster.flows.slots import Slots
from workflowmaster.flows.steps import Runtime, runtimes, task_for
from workflowmaster.flows.watching import Watcher, silent
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

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
        state = await _to_the_end(journey, watcher)
    except BaseException as error:
        if abort := epochs.stopped(journey, error):
            raise abort from error
        raise
    finally:
        alive.cancel()
        current.reset(token)
        await asyncio.to_thread(journey.close)
        await epochs.release(journey, forget=state is not None and state.status == "completed")
    return final_state(state)


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
    await asyncio.to_thread(journey.keeping.begin)


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
    try:
        async with stopping.watched(journey):
            await walk.to_the_end()
        # Before the run's last word in the audit log, which nothing may follow.
        await asyncio.to_thread(journey.network.hush)
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
        self.states: dict[str, State[Any]] = {}
        self.aborted = ""

    async def to_the_end(self) -> None:
        """Run until nothing is ready and nothing runs. A failed step stops only what needs it."""
        while True:
            self._start_ready()
            if not self.active:
                return
            ahead = self.queue.upcoming(self.journey.running, self.journey.parallel + len(self.active) + 3)
            self.runtime.parking.ahead(ahead)
            done, _ = await asyncio.wait(self.active, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._settle(self.active.pop(task), task.result())

    def _start_ready(self) -> None:
        while self.queue and not self.aborted and self._room():
            step = self.queue.take()
            verdict = gates.before(step, self.journey)
            if verdict:
                self._settle(step, verdict)
                continue
            self.journey.running[step.id] = steady.now()
            self.runtime.queued[step.id] = steady.now()
            self.active[asyncio.create_task(self._run(step))] = step

    def _room(self) -> bool:
        return sum(step.in_container for step in self.active.values()) < self.journey.parallel

    async def _run(self, step: Step) -> StepResult:
        """Merge the step's inputs, then run its task. Every outcome but a cancelled run comes back as a result."""
        journey = self.journey
        needs = [(name, journey.results[name].commit) for name in step.needs if journey.results[name].commit]
        try:
            commit, tree = await in_git(journey, lambda: _merge(journey, step, needs))
        except WorkspaceError as error:
            return host_result(journey, step, status="failed", reason=str(error))
        journey.inputs[step.id] = commit
        if back := await self.reuse.of(step, tree):
            return back
        self.runtime.parking.enabled = True
        state = await self._task(step)
        found = await self.reuse.taken(step, tree, await state.aresult()) if state.name == "Cached" else None
        if state.name == "Cached" and found is None:
            state = await self._task(step)
        if state.is_completed() and not found and journey.keys[step.id] in self.runtime.unkept:
            return self._unkept(step)
        if state.is_completed():
            return found or await state.aresult()
        return self._failed(step, self.runtime.failures.get(step.id), state)

    async def _task(self, step: Step) -> State[Any]:
        """Run the step as Prefect's task, with its retries, and return the state it ended in."""
        state = await run_task_async(
            task_for(step, self.journey),
            parameters={"step_id": step.id},
            return_type="state",
            dependencies={"step_id": self._before(step)},
        )
        # However it ended: what follows is written down.
        await self.journey.claim.must_hold()
        self.states[step.id] = cast("State[Any]", state)  # as `return_type` says
        return self.states[step.id]

    def _before(self, step: Step) -> set[RunInput]:
        """Return the task runs a step follows, for the graph in the UI.

        As `wait_for`, Prefect would look into the states and draw an edge from every task that returned an equal short
        string, and would refuse to run a step whose `if` wants it after one that failed.
        """
        return {TaskRunResult(id=row) for name in step.needs if (row := self._row(name))}

    def _row(self, step_id: str) -> UUID | None:
        """Return the task run that stands for a step in this flow run's graph."""
        state = self.states.get(step_id)
        return state.state_details.task_run_id if state else self.reuse.row(step_id)

    def _unkept(self, step: Step) -> StepResult:
        """Return the result of a step whose own could not be persisted: what nobody can come back to is not done."""
        place = persisted.places()[0]
        why = diskspace.cramped(place) or f"see Prefect's log; {place} is where they lie, if nothing else is configured"
        reason = f"its work was done, but its result could not be kept: {why}"
        self.journey.infrastructure.append(reason)
        return host_result(self.journey, step, status="failed", reason=reason)

    def _failed(self, step: Step, error: BaseException | None, state: State[Any]) -> StepResult:
        if isinstance(error, StepFailed):
            if error.cause == "sandbox":
                self.journey.infrastructure.append(str(error))
            return error.result
        if isinstance(error, OSError) and diskspace.is_full(error):
            error = SandboxUnavailable(diskspace.told(error), reason="disk")
        if isinstance(error, SandboxUnavailable) or (isinstance(error, WorkspaceError) and error.code == "disk"):
            self.journey.infrastructure.append(str(error))
        elif isinstance(error, PolicyError):
            self.journey.refusals.append(str(error))
            findings = [finding._asdict() for finding in error.findings]
            self.journey.audit.append("step.refused", step=step.id, reason=str(error), findings=findings)
        elif not isinstance(error, (WorkspaceError, OSError)):
            get_run_logger().error("step %s ended in %s: %s", step.id, state.name, state.message)
        reason = str(error) if error else state.message or state.name or "it did not complete"
        return host_result(self.journey, step, status="failed", reason=reason)

    def _settle(self, step: Step, result: StepResult) -> None:
        """Take a step's outcome in: everything that follows from it happens here, in the loop's thread."""
        journey = self.journey
        result = gates.after(step, result, journey)
        journey.results[step.id] = result
        journey.running.pop(step.id, None)
        self.runtime.slots.release(step.id)
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
            row = str(self._row(step.id) or "")
            known |= {"refused": True} if result.reason in journey.refusals else {}
            journey.journal.append("result", step=step.id, reused=reused, task_run=row, **known)
        journey.audit.append("step.finished", step=step.id, reused=reused, **fields)
        self.watcher.step_finished(result)
        self.aborted = self.aborted or gates.aborts(step, result)
        journey.keeping.settled(step, result, reused=reused)

    async def stop(self) -> None:
        """Cancel what runs and wait until its containers are gone."""
        for task in self.active:
            task.cancel()
        await asyncio.gather(*self.active, return_exceptions=True)


def _merge(journey: Journey, step: Step, needs: list[tuple[str, str]]) -> tuple[str, str]:
    commit = journey.store.merge(needs, message=f"Join the inputs of {step.id}")
    return commit, tree_of(journey.store, commit)


def parameters(options: Options, workflow_id: str) -> Mapping[str, Any]:
    """Return the flow's parameters for a run that was asked for by these options."""
    return {**options.model_dump(exclude={"include_dirty"}), "workflow_id": workflow_id}
