"""The Prefect task that is one step: its key, its retries, its log.

Retries are Prefect's own, so they show in the UI as what they are. The result key is computed by us and only handed to
Prefect: it must be known before the task starts, because a step whose result exists needs no container.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.flows import execution, hosting, steady
from workflowmaster.flows.decisions import delays, worth_retrying
from workflowmaster.flows.execution import Attempt, StepFailed
from workflowmaster.flows.invocation import environment
from workflowmaster.flows.journey import Journey, current
from workflowmaster.flows.networking import reach_of
from workflowmaster.flows.plan import Decision, Step, StepResult, canonical
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect.client.schemas.objects import State, TaskRun
    from prefect.transactions import Transaction

    from workflowmaster.flows.parking import Parking
    from workflowmaster.flows.slots import Slots

SHOWN = 2_000
"""Bytes up to which a part of a step's key is recorded as it is."""

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
    # What somebody wants to run anew must not come back from elsewhere either.
    owner = "shared" if step.cache and shared and "generation" not in parts else journey.id
    key = f"{owner}-{hashlib.sha256(canonical([step.id, parts])).hexdigest()}"
    # A key that stayed as it was is only named: a resume must not write all parts of a thousand keys once more.
    known = journey.past.keyed.get(step.id) == key
    told: dict[str, Any] = {} if known else {"parts": {name: shown(part) for name, part in parts.items()}}
    journey.past.keyed[step.id] = key
    journey.journal.append("keys", step=step.id, key=key, **told)
    return key


def shown(part: Any) -> Any:
    """Return a part of a key as it is recorded: itself, or its hash where it is long.

    A step's environment holds the outputs of all before it: written out, a thousand steps would take a million lines.
    """
    text = canonical(part)
    if len(text) <= SHOWN:
        return part
    digests = {name: shown(one) for name, one in part.items()} if _many(part) else None
    if digests and len(canonical(digests)) <= 2 * SHOWN:
        return digests
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


def _many(part: Any) -> bool:
    """Whether a part is an environment, of which at least the long values may be hashed one by one."""
    return isinstance(part, dict) and "interpreter" not in part


def key_parts(journey: Journey, step: Step, tree: str) -> dict[str, Any]:
    """Return everything that can change a step's outcome, by component: plain JSON values."""
    before = {name: journey.results[name] for name in journey.ancestors[step.id] if name in journey.results}
    return {
        "work": step.work and step.work.model_dump(exclude={"line"}),
        "check": step.check and step.check.model_dump(exclude={"line"}),
        "kind": step.kind,
        "policy": journey.policies[step.id].hash,
        "image": journey.record.images.get(step.image, ""),
        "tree": tree,
        "environment": environment(step, journey.plan, journey.record.options.inputs, before),
        "secrets": step.secrets,
        "inputs": step.inputs,
        "outputs": step.outputs,
        "artifacts": step.artifacts,
        "git": step.git,
        "agent": journey.record.options.agent if step.kind == "agent" else "",
        "timeout": step.timeout_seconds,
        **({"network": str(reach)} if (reach := reach_of(journey.policies[step.id], step.network)) else {}),
        **({"generation": count} if (count := journey.past.generations.get(step.id, 0)) else {}),
    }


@task(persist_result=True, result_serializer="compressed/json", cache_policy=StepKey(), task_run_name="{step_id}")
async def run_step(step_id: str) -> StepResult:
    """Run one attempt of a step and return what it left behind; Prefect persists it under the step's key."""
    journey = current.get()
    runtime = runtimes[journey.id]
    step = journey.steps[step_id]
    number = _attempt_number(journey, step_id)
    journey.audit.append("step.started" if number == 1 else "step.retried", step=step_id, attempt=number)
    runtime.on_attempt(step_id, number)
    if not step.in_container:
        await journey.claim.must_hold(look=step.kind == "forge")
        return await hosting.run(journey, step)
    await runtime.slots.acquire(step_id, runtime.rank(step_id))
    attempt = Attempt(
        journey=journey,
        parking=runtime.parking,
        step=step,
        number=number,
        lines=_Lines(step_id, get_run_logger(), runtime.on_line),
        queued_at=runtime.queued.get(step_id, steady.now()),
    )
    try:
        return await _held(attempt)
    except BaseException as error:
        runtime.failures[step_id] = error
        # A retry waits without a slot; the next attempt asks for one again.
        runtime.slots.release(step_id)
        runtime.queued[step_id] = steady.now()
        raise


async def _held(attempt: Attempt) -> StepResult:
    """Make an attempt whose result may be kept: of a lost workflow another owner is doing it again."""
    result = await execution.run(attempt)
    await attempt.journey.claim.must_hold()
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
    most = min(step.retries.max, journey.settings.max_retry_attempts)
    # What an earlier part of the run has tried counts: a crash is no way to more attempts.
    spent = min(journey.past.spent(step.id, journey.keys[step.id]), most)
    retries = most - spent
    return run_step.with_options(
        name=step.name[:120],
        task_run_name=step.id,
        tags=tags if journey.limited_tags.intersection(tags) else (),
        retries=retries,
        retry_delay_seconds=delays(step.retries, most)[spent:] or 0,
        retry_condition_fn=_condition(journey, step, spent) if retries else None,
    )


def _condition(journey: Journey, step: Step, spent: int) -> Callable[[Task[Any, Any], TaskRun, State[Any]], bool]:
    """Return the question Prefect asks after each failed attempt that is not the last."""

    def again(_task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
        error = state.data
        if isinstance(error, StepFailed):
            cause, reason = error.cause, error.result.reason
        elif isinstance(error, SandboxUnavailable):
            cause, reason = "sandbox", str(error)
        elif isinstance(error, PolicyError):
            cause, reason = "policy", str(error)
        else:
            return False
        decision = worth_retrying(step, attempt=spent + run.run_count, cause=cause, reason=reason)
        number = journey.attempts.get(step.id, 0) + run.run_count
        if number != decision.factors["attempt"]:
            # Tried anew in a later part of the run, it counts from 1 again; two decisions must not look like one.
            decision = decision.model_copy(update={"factors": {**decision.factors, "attempt_of_all": number}})
        record_decision(journey, decision)
        return decision.verb == "retry"

    return again


def record_decision(journey: Journey, decision: Decision) -> None:
    """Keep a decision with the run and in the audit log."""
    journey.decisions.append(decision)
    key = journey.keys.get(decision.step, "")
    journey.journal.append("decision", key=key, **decision.model_dump(mode="json"))
    journey.audit.append("decision", **decision.model_dump(mode="json"))


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
