"""The Prefect task that is one step: its key, its retries, its log.

Retries are Prefect's own, so they show in the UI as what they are; whether there is one was decided before Prefect
asks. The result key is computed by us and only handed to
Prefect: it must be known before the task starts, because a step whose result exists needs no container.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext

from workflowmaster.flows import execution, hosting, metering, steady
from workflowmaster.flows.execution import Attempt
from workflowmaster.flows.journey import Journey, current
from workflowmaster.flows.keying import key_of, key_parts, shown
from workflowmaster.flows.limiting import longer

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect.client.schemas.objects import State, TaskRun
    from prefect.transactions import Transaction

    from workflowmaster.flows.parking import Parking
    from workflowmaster.flows.plan import Step, StepResult
    from workflowmaster.flows.slots import Slots

LOGGED_LINES = 2_000
"""Lines of one attempt's output that go to Prefect's log; the file has all of them."""


@dataclass
class Runtime:
    """What the tasks of one run share besides the journey."""

    journey: Journey
    parking: Parking
    slots: Slots
    rank: Callable[[str], tuple[float, int, int]]
    on_line: Callable[[str, str], None]
    """Called with a step's id and a line of its output, from any thread."""
    on_attempt: Callable[[str, int], None]
    queued: dict[str, float] = field(default_factory=dict)
    """Step id → when it became ready, Unix time."""
    failures: dict[str, BaseException] = field(default_factory=dict)
    """Step id → what its last attempt raised; Prefect's state only tells it as text."""
    unkept: set[str] = field(default_factory=set)
    """Keys whose result Prefect could not persist."""
    resting: set[str] = field(default_factory=set)
    """Steps that wait for their next attempt: they hold no slot and keep nobody from starting."""
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a step has begun to rest, so that the scheduler looks who may run instead."""

    def rest(self, step_id: str) -> None:
        """Take a step's slot back until its next attempt."""
        self.resting.add(step_id)
        self.slots.release(step_id)
        self.stirred.set()

    async def wake(self, step_id: str) -> None:
        """Give a step a slot for its attempt, as soon as there is one."""
        await self.slots.acquire(step_id, self.rank(step_id))
        self.resting.discard(step_id)


runtimes: dict[str, Runtime] = {}
"""Workflow id → the run under way in this process."""


@dataclass
class StepKey(CachePolicy):
    """Names a step's persisted result by the key that the run has computed for it."""

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """Return the step's key; None, so that nothing is stored, outside a run."""
        del flow_parameters, kwargs
        journey = current.get(None)
        if journey is None:
            return None
        # The first moment at which tags no longer cost a question to the server: see `task_for`.
        task_ctx.task_run.tags = list(tags_of(journey, journey.steps[inputs["step_id"]]))
        return journey.keys.get(inputs["step_id"])


def tags_of(journey: Journey, step: Step) -> tuple[str, ...]:
    """Return the tags of a step's task run."""
    return f"policy:{journey.policies[step.id].name}", f"kind:{step.kind}"


def result_key(journey: Journey, step: Step, tree: str, *, shared: bool = True) -> str:
    """Hash everything that can change a step's outcome; with `cache: true` the workflow's id is no part of it.

    `shared=False` gives the key of this workflow alone, for a cached result that cannot be used any more.

    Its parts are recorded, so that a later `why` can name those that changed.
    """
    parts = key_parts(journey, step, tree)
    key = key_of(journey, step, parts, shared=shared)
    # A key that stayed as it was is only named: a resume must not write all parts of a thousand keys once more.
    known = journey.past.keyed.get(step.id) == key
    told: dict[str, Any] = {} if known else {"parts": {name: shown(part) for name, part in parts.items()}}
    journey.past.keyed[step.id] = key
    journey.journal.append("keys", step=step.id, key=key, **told)
    return key


@task(persist_result=True, result_serializer="compressed/json", cache_policy=StepKey(), task_run_name="{step_id}")
async def run_step(step_id: str) -> StepResult:
    """Run one attempt of a step and return what it left behind; Prefect persists it under the step's key."""
    journey = current.get()
    runtime = runtimes[journey.id]
    step = journey.steps[step_id]
    number = _attempt_number(journey, step_id)
    journey.audit.append("step.started" if number == 1 else "step.retried", step=step_id, attempt=number)
    runtime.on_attempt(step_id, number)
    attempt = Attempt(
        journey=journey,
        parking=runtime.parking,
        step=longer(step, journey.grown.get(step_id)),
        number=number,
        lines=_Lines(step_id, get_run_logger(), runtime.on_line),
        queued_at=runtime.queued.get(step_id, steady.now()),
    )
    try:
        return await _held(attempt, runtime)
    except Exception as error:
        runtime.failures[step_id] = error
        runtime.queued[step_id] = steady.now()
        # Before anything else: whoever hears of the failure asks what was decided.
        decision = await journey.deciding.about(step, attempt.number, error)
        if decision.verb == "retry":
            runtime.rest(step_id)
        raise


async def _held(attempt: Attempt, runtime: Runtime) -> StepResult:
    """Make an attempt whose result may be kept: of a lost workflow another owner is doing it again."""
    journey, step = attempt.journey, attempt.step
    if not step.in_container:
        await journey.claim.must_hold(look=step.kind == "forge")
        return await hosting.run(journey, step)
    await runtime.wake(step.id)
    try:
        metering.must_afford(journey, step, runtime.failures.get(step.id))
        result = await execution.run(attempt)
        await journey.claim.must_hold()
    except BaseException:
        # A retry waits without a slot; the next attempt asks for one again.
        runtime.slots.release(step.id)
        raise
    return result


@run_step.on_rollback
def unkept(transaction: Transaction) -> None:
    """Note that a result could not be persisted: only for one that was made is this called.

    Prefect itself logs that and goes on, and the run would promise what no resume could keep.
    """
    runtimes[current.get().id].unkept.add(str(transaction.key))


def task_for(step: Step, journey: Journey) -> Task[[str], Any]:
    """Return the step's task: named, tagged, with the step's own retries.

    For each tag a task has when it starts, Prefect asks the server for a slot: 50 ms on a quiet machine, two seconds on
    a busy one, again every five seconds. So tags that no concurrency limit names are given once the task has begun.
    """
    tags = tags_of(journey, step)
    deciding = journey.deciding
    # What an earlier part of the run has tried counts: a crash is no way to more attempts.
    waits = deciding.delays(step)[deciding.counted(step) :]
    return run_step.with_options(
        name=step.name[:120],
        task_run_name=step.id,
        tags=tags if journey.limited_tags.intersection(tags) else (),
        retries=len(waits),
        retry_delay_seconds=waits or 0,
        retry_condition_fn=_condition(journey, step) if waits else None,
    )


def _condition(journey: Journey, step: Step) -> Callable[[Task[Any, Any], TaskRun, State[Any]], bool]:
    """Return the question Prefect asks after each failed attempt that is not the last.

    A retry after another wait than the one it was told of is not Prefect's: the scheduler makes a new task run then.
    """

    def again(_task: Task[Any, Any], _run: TaskRun, _state: State[Any]) -> bool:
        return journey.deciding.planned(step)

    return again


def _attempt_number(journey: Journey, step_id: str) -> int:
    """Count this attempt on top of those that an earlier part of the run made: it has a log and a name of its own."""
    context = TaskRunContext.get()
    return journey.attempts.get(step_id, 0) + (context.task_run.run_count if context else 1)


class _Lines:
    """Passes a container's lines on, to Prefect's log up to a bound and to whoever watches."""

    def __init__(self, step_id: str, logger: Any, watch: Callable[[str, str], None]) -> None:
        self._step, self._logger, self._watch, self._count = step_id, logger, watch, 0

    def __call__(self, line: str) -> None:
        self._count += 1
        if self._count <= LOGGED_LINES:
            # The UI's run log does not say which task a line is from.
            self._logger.log(logging.INFO, "[%s] %s", self._step, line)
        elif self._count == LOGGED_LINES + 1:
            self._logger.info("[%s] … more in the report and in `workflowmaster logs`", self._step)
        self._watch(self._step, line)
