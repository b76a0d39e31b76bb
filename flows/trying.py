"""One step from its inputs to its outcome: merged, run as Prefect's task, and whatever went wrong as a result.

The scheduler knows which step is next, and this knows what trying it means; neither needs the other's half. The hard
choice is that no failure leaves here as an exception: a step's end is a value that the scheduler settles, and only a
cancelled run is not an end. The cost is a list of every error that a step may end in, which is kept in `failed`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from prefect import get_run_logger
from prefect.client.schemas.objects import RunInput, State, TaskRunResult
from prefect.task_engine import run_task_async

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.layering import tree_of
from workflowmaster.blocks.workspace import WorkspaceError
from workflowmaster.flows import diskspace, persisted, rationing
from workflowmaster.flows.execution import StepFailed, host_result, in_git
from workflowmaster.flows.steps import task_for
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from uuid import UUID

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Step, StepResult
    from workflowmaster.flows.reuse import Reuse
    from workflowmaster.flows.steps import Runtime


class Trying:
    """Tries the steps of one run."""

    def __init__(self, runtime: Runtime, reuse: Reuse) -> None:
        self.runtime, self.reuse, self.journey = runtime, reuse, runtime.journey
        self.states: dict[str, State[Any]] = {}
        """Step id → what its last task run ended in."""

    async def run(self, step: Step) -> StepResult:
        """Merge the step's inputs, then run its task. Every outcome but a cancelled run comes back as a result."""
        journey = self.journey
        needs = [(name, journey.results[name].commit) for name in step.needs if journey.results[name].commit]
        try:
            commit, tree = await in_git(journey, lambda: _merge(journey, step, needs))
        except WorkspaceError as error:
            await self._final(step, error)
            return host_result(journey, step, status="failed", reason=str(error))
        journey.inputs[step.id] = commit
        if back := await self.reuse.of(step, tree):
            return back
        if unaffordable := rationing.before(journey, step):
            return unaffordable
        self.runtime.parking.enabled = True
        state = await self._task(step)
        found = await self.reuse.taken(step, tree, await state.aresult()) if state.name == "Cached" else None
        if state.name == "Cached" and found is None:
            state = await self._task(step)
        if state.is_completed() and not found and journey.keys[step.id] in self.runtime.unkept:
            return await self._unkept(step)
        if state.is_completed():
            return found or await state.aresult()
        return self._failed(step, self.runtime.failures.get(step.id), state)

    def _number(self, step: Step) -> int:
        """Return the number of the step's next attempt."""
        return self.journey.attempts.get(step.id, 0) + 1

    async def _final(self, step: Step, error: Exception) -> None:
        """Have it decided what a failure means for the rest that no attempt of the step's could mend."""
        await self.journey.deciding.about(step, self._number(step), error, final=True)

    async def _task(self, step: Step) -> State[Any]:
        """Run the step as Prefect's task, and again for each retry that Prefect could not be told of in advance."""
        deciding = self.journey.deciding
        await self._rest(step, deciding.begin(step))
        while True:
            before = deciding.last.get(step.id)
            state = await self._task_run(step)
            if state.is_completed():
                return state
            if deciding.last.get(step.id) is before:
                # Prefect itself has failed it, before or after our code.
                error = SandboxUnavailable(f"Prefect ended it: {state.message or state.name}", reason="prefect")
                self.runtime.failures[step.id] = error
                await deciding.about(step, self._number(step), error)
            last = deciding.last[step.id]
            if last.verb != "retry":
                return state
            # The next task run counts from 1 again.
            self.journey.attempts[step.id] = last.attempt
            await self._rest(step, deciding.rest(last))

    async def _rest(self, step: Step, seconds: float) -> None:
        """Wait, without a slot, until a step may be tried."""
        if seconds > 0:
            self.runtime.rest(step.id)
            await asyncio.sleep(seconds)

    async def _task_run(self, step: Step) -> State[Any]:
        """Run the step as Prefect's task, with the retries that Prefect can wait for, and return how it ended."""
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
        return {TaskRunResult(id=row) for name in step.needs if (row := self.row(name))}

    def row(self, step_id: str) -> UUID | None:
        """Return the task run that stands for a step in this flow run's graph."""
        state = self.states.get(step_id)
        return state.state_details.task_run_id if state else self.reuse.row(step_id)

    async def _unkept(self, step: Step) -> StepResult:
        """Return the result of a step whose own could not be persisted: what nobody can come back to is not done."""
        place = persisted.places()[0]
        why = diskspace.cramped(place) or f"see Prefect's log; {place} is where they lie, if nothing else is configured"
        reason = f"its work was done, but its result could not be kept: {why}"
        self.journey.infrastructure.append(reason)
        await self._final(step, SandboxUnavailable(reason, reason="disk"))
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


def _merge(journey: Journey, step: Step, needs: list[tuple[str, str]]) -> tuple[str, str]:
    commit = journey.store.merge(needs, message=f"Join the inputs of {step.id}")
    return commit, tree_of(journey.store, commit)
