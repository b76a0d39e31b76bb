"""The budget of a run under way: what it has used by now, and how much of it is left.

The ledger of the earlier parts comes out of the records; what goes on now is added from the clock. A container that
runs is counted with the time since its go, and by its receipt once it has ended. The hard choice is that a step's own
minutes are those of its containers and not of its wall clock: waiting for a slot, for a retry or for the engine is not
its doing, and a step whose budget could be used up by its neighbours would fail on a busy day only. The cost is that a
step's `minutes` and its `container-minutes` are the same thing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.flows.budgets import (
    LIMITS,
    LOW,
    TIMES,
    Budget,
    Grant,
    Ledger,
    Use,
    ceiling,
    command,
    cost,
    effective,
    least,
)
from workflowmaster.flows.plan import Account

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from workflowmaster.blocks.receipt import Receipt
    from workflowmaster.flows.budgets import Spent
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Plan, Step, StepResult
    from workflowmaster.flows.settings import Settings

TICK: Final = (1.0, 30.0)
"""Seconds between two records of the time worked, at least and at most: what a killed run forgets of it."""
FINE: Final = 0.01
"""Part of the smallest limit of time that a killed run may forget, where `TICK` allows."""
LEAST: Final = 0.1
"""Seconds that a container is given at least: what gets no time at all cannot be told from what never ran."""


class Meter:
    """What one run has used and may use. Belongs to the event loop's thread."""

    def __init__(self, plan: Plan, settings: Settings, ledger: Ledger, worked: Callable[[], float]) -> None:
        self.plan, self.ledger, self.ceiling = plan, ledger.settle(), ceiling(settings)
        self.worked = worked
        """Returns the seconds that this part of the run has worked so far."""
        self.running: dict[str, tuple[str, float]] = {}
        """Container id → its step, and the value of `worked` at its go."""
        self.granted: list[dict[str, Any]] = []
        """Limits that were given to this part of the run, as they are recorded when it begins."""
        self.reserved: set[str] = set()
        """Steps that an attempt was granted to which has not had its go yet."""
        self.held: set[str] = set()
        """Steps that were ready and have not begun, for want of budget."""
        self.stopped_by: tuple[str, ...] = ()
        """Limits that have stopped the run: `minutes`, or `STEP:minutes` for a step's own."""
        self._reckon()

    def __bool__(self) -> bool:
        """Whether anything is limited at all."""
        return bool(self.run.limits or self.steps)

    def grant(self, step_id: str, limits: Mapping[str, float], *, by: str = "") -> None:
        """Take in limits that somebody gives now, to a step or to the run."""
        written = self.written(step_id)
        given = {name: Grant(value, written.get(name)) for name, value in limits.items()}
        self.ledger.grants.setdefault(step_id, {}).update(given)
        self._reckon()
        was = {name: written[name] for name in limits if name in written}
        self.granted.append({"step": step_id, "limits": dict(limits), "written": was, "by": by})

    def written(self, step_id: str) -> dict[str, float]:
        """Return what the prompt says of a step's budget, or of the run's."""
        return dict(self.plan.step(step_id).budget if step_id else self.plan.front.get("budget", {}))

    def _reckon(self) -> None:
        """Find out which limits hold."""
        given = self.ledger.grants
        self.run = Budget(least(effective(self.written(""), given.get("", {})), self.ceiling))
        found = {step.id: effective(step.budget, given.get(step.id, {})) for step in self.plan.tasks}
        self.steps = {step_id: Budget(limits) for step_id, limits in found.items() if limits}

    def over(self, step_id: str | None = None) -> str:
        """Return which limits leave no room for another attempt, with numbers; empty while there is room.

        For None those of the whole run; for a step its own first, then the run's. What runs already may still be
        within its limits: the last attempt that is allowed is not one too many.
        """
        others = self.reserved - {step_id}
        return (self.own(step_id) if step_id else "") or self._over("", granted=len(others))

    def own(self, step_id: str) -> str:
        """Return which limits of its own leave no room for another attempt of a step."""
        return self._over(step_id)

    def reserve(self, step_id: str) -> None:
        """Grant an attempt to a step: until its container gets its go, it counts as made. Steps start side by side."""
        self.reserved.add(step_id)

    def pressing(self) -> str:
        """Return which limits of the run stop what runs, with numbers: its minutes, or its containers'."""
        return self._over("", TIMES)

    def names(self, step_id: str = "") -> tuple[str, ...]:
        """Return the limits of a step, or of the run, that are spent."""
        budget = self.steps.get(step_id) if step_id else self.run
        found = budget.over(self.spent(step_id)) if budget and budget.limits else ()
        return tuple(f"{step_id}:{name}" if step_id else name for name in found)

    def _over(self, step_id: str, names: Iterable[str] = LIMITS, *, granted: int = 0) -> str:
        budget = self.steps.get(step_id) if step_id else self.run
        if not budget or not budget.limits:
            return ""
        spent = self.spent(step_id)
        # Only attempts can be granted ahead: how long one will take, or cost, nobody knows.
        spent = replace(spent, attempts=spent.attempts + granted)
        found = [name for name in budget.over(spent) if name in names]
        whose = f"the budget of step {step_id}" if step_id else "the budget of the run"
        return f"{whose} is spent: {budget.said(spent, found)}" if found else ""

    def spent(self, step_id: str = "") -> Spent:
        """Return what a step, or the run, has used up to now."""
        now = self.worked()
        running = {name: Use(step, max(now - began, 0.0)) for name, (step, began) in self.running.items()}
        return self.ledger.spent(step_id, worked=now, running=running)

    def seconds(self, step_id: str, wanted: float) -> float:
        """Return the wall time of the step's next container: what is `wanted`, or what its own budget leaves of it."""
        budget = self.steps.get(step_id)
        times = [limit * 60 for name, limit in budget.limits.items() if name in TIMES] if budget else []
        if not times:
            return wanted
        # One that is adopted runs already, and its wall time is counted from its go: it must not count twice.
        own = {name: Use(step_id, 0.0) for name, (step, _) in self.running.items() if step == step_id}
        rest = min(times) - self.ledger.spent(step_id, running=own).minutes * 60
        return max(min(wanted, rest), LEAST)

    def told(self, step_id: str, reason: str, receipt: Receipt) -> str:
        """Return the reason of a failed attempt: another one where its budget has ended it before its wall time."""
        said = self._over(step_id, TIMES) if receipt.timed_out else ""
        return f"it was stopped, because {said}" if said else reason

    def due(self) -> float:
        """Return the seconds until the run's minutes or its containers' are spent, if all that runs runs on."""
        used, limits = self.spent(), self.run.limits
        left = [limits["minutes"] - used.minutes] if "minutes" in limits else []
        if "container-minutes" in limits and self.running:
            left.append((limits["container-minutes"] - used.container_minutes) / len(self.running))
        return max(min(left, default=math.inf) * 60, 0.0)

    def tick(self) -> float:
        """Return the seconds between two records of the time worked; infinite where no time is limited."""
        budgets = (self.run, *self.steps.values())
        least_of = [limit * 60 for one in budgets for name, limit in one.limits.items() if name in TIMES]
        return min(max(min(least_of) * FINE, TICK[0]), TICK[1]) if least_of else math.inf

    def begins(self, step_id: str, attempt: int, container: str, *, elapsed: float = 0.0) -> None:
        """Enter that a container gets its go, or had it `elapsed` seconds ago from an owner who is dead."""
        self.reserved.discard(step_id)
        self.ledger.tried.add((step_id, attempt))
        self.running[container] = (step_id, self.worked() - elapsed)

    def ends(self, container: str, seconds: float | None = None) -> float | None:
        """Enter that it has ended, after so many seconds or else by our clock; return them, None if it had before."""
        if container not in self.running:
            return None
        step, began = self.running.pop(container)
        used = max(self.worked() - began if seconds is None else seconds, 0.0)
        self.ledger.used[container] = Use(step, used)
        return used

    def took(self, result: StepResult) -> None:
        """Enter a step's result, or that of one failed attempt."""
        self.reserved.discard(result.step)
        # A receipt is long, and of a thousand steps only these two fields are counted.
        receipts = [{"container_id": one.container_id, "seconds": one.seconds} for one in result.receipts]
        known = {"step": result.step, "workflow": result.workflow, "attempts": result.attempts}
        self.ledger.result({**known, "receipts": receipts, "outputs": result.outputs})

    def low(self) -> dict[str, str]:
        """Return the limits that are nearly reached, `minutes` or `STEP:minutes`, each with numbers."""
        found: dict[str, str] = {}
        for step_id, budget in (("", self.run), *self.steps.items()):
            spent = self.spent(step_id)
            near = [name for name, part in budget.shares(spent).items() if part >= LOW]
            found |= {f"{step_id}:{name}" if step_id else name: budget.said(spent, [name]) for name in near}
        return found

    def account(self) -> Account:
        """Return limits and use, as the state keeps them; a step's own limits as `STEP:minutes`."""
        used, limits = dict(self.spent().named()), dict(self.run.limits)
        for step_id, budget in self.steps.items():
            own = self.spent(step_id).named()
            limits |= {f"{step_id}:{name}": limit for name, limit in budget.limits.items()}
            used |= {f"{step_id}:{name}": own[name] for name in budget.limits}
        rounded = {name: round(value, 6) for name, value in used.items()}
        return Account(limit=limits, spent=rounded, over=self.stopped_by)


def further(workflow_id: str, budget: Meter, names: Iterable[str]) -> str:
    """Say how a run goes on whose budget is spent."""
    account = budget.account().model_copy(update={"over": tuple(names)})
    # Twice as much would be refused there, so that is not what to type.
    tied = [name for name in account.over if account.limit[name] >= budget.ceiling.get(name, math.inf)]
    if tied:
        key = f"budget_{tied[0].replace('-', '_')}"
        return (
            f"The operator's setting {key} allows no more; once it does, `workflowmaster resume {workflow_id}` goes on"
        )
    return f"`{command(workflow_id, account)}` goes on with twice as much"


def must_afford(journey: Journey, step: Step, failed: BaseException | None) -> None:
    """Raise how a step `failed` before, where others have spent what it was to be tried again with meanwhile."""
    if failed and journey.budget.over(step.id):
        raise failed


def started(journey: Journey, step: Step, attempt: int, container: str, elapsed: float) -> Step:
    """Enter that a container is sent off, or was so many seconds ago; return the step with its wall time."""
    journey.budget.begins(step.id, attempt, container, elapsed=elapsed)
    seconds = journey.budget.seconds(step.id, step.timeout_seconds)
    return step if seconds == step.timeout_seconds else step.model_copy(update={"timeout_seconds": seconds})


def cut_short(journey: Journey, step: Step, attempt: int, container: str) -> None:
    """Write down what a container has used that was stopped, or lost, before there was a receipt."""
    seconds = journey.budget.ends(container)
    if seconds is not None:
        _written(journey, step.id, attempt, {container: seconds}, 0.0)


def failed(journey: Journey, result: StepResult) -> None:
    """Write down what a failed attempt has used: the result that is kept will be that of the last one alone."""
    journey.budget.took(result)
    seconds = {one.container_id: one.seconds for one in result.receipts}
    _written(journey, result.step, result.attempts, seconds, cost(result.outputs)[0])


def _written(journey: Journey, step_id: str, attempt: int, seconds: Mapping[str, float], usd: float) -> None:
    # Of a workflow that was lost nothing is ours to write, and its new owner counts the container himself.
    if not journey.claim.lost:
        journey.journal.append("spent", step=step_id, attempt=attempt, containers=seconds, usd=usd)
