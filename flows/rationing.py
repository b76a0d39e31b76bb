"""What a run does about its budget: it warns, it stops what runs, and it begins nothing more.

Two kinds of limits end differently. Minutes run out while steps work, so what works is stopped: of the whole run by a
task that looks at the clock beside the one that looks for requests (`stopping.watched`), of one step by the wall time
that its container is given at go, which is what its budget leaves. Attempts and money are spent by the time they are
known, so nothing is stopped for them, and nothing more begins. Either way the run ends as one that somebody paused:
its branch, report and checkpoint are written, and it goes on with a larger budget. The hard choice is to look at the
clock again and again instead of setting an alarm: with each container that comes or goes the rate changes at which
container minutes are used, and an alarm would be wrong until it is set anew. It costs some sums twice a second, and
nothing where nothing is limited.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from workflowmaster.flows import steady
from workflowmaster.flows.execution import host_result
from workflowmaster.flows.metering import further
from workflowmaster.flows.plan import Decision
from workflowmaster.flows.stopping import Asked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Step, StepResult

RULE: Final = "budget-spent"
"""Name of the rule of decisions that are made because a budget is spent."""
LOOK: Final = 0.5
"""Seconds between two looks at the clock, at most; right before the end they come closer together."""


def begin(journey: Journey) -> None:
    """Write down the limits that were given to this part of the run.

    Not earlier: a run of which nothing is recorded yet can still be abandoned without a trace.
    """
    for given in journey.budget.granted:
        journey.journal.append("budget", durable=True, **given)
        journey.audit.append("budget.granted", **{name: given[name] for name in ("step", "limits", "by")})


@contextlib.asynccontextmanager
async def watched(journey: Journey, note: Callable[[str], None]) -> AsyncIterator[None]:
    """Stop what is under way as soon as the run's minutes or its containers' are spent; `journey.asked` says so.

    Warns through `note` when a limit is nearly reached, and writes down how long the run has worked. Does nothing at
    all where nothing is limited.
    """
    if not journey.budget:
        yield
        return
    task = asyncio.current_task()

    async def watch() -> None:
        await _until_spent(journey, note)
        # Somebody outside may have asked at the same moment: a task that is cancelled twice would stay so.
        if task and journey.asked is None:
            journey.asked = _request(journey, journey.budget.pressing(), journey.budget.names())
            task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _until_spent(journey: Journey, note: Callable[[str], None]) -> None:
    budget, warned, ticked = journey.budget, set[str](), 0.0
    while not budget.pressing():
        for name, said in budget.low().items():
            if name not in warned:
                warned.add(name)
                note(f"{journey.id}: {said} of its budget are used")
                journey.audit.append("budget.low", limit=name, said=said)
        # Of a workflow that was lost nothing is ours to write.
        if budget.worked() - ticked >= budget.tick() and not journey.claim.lost:
            ticked = budget.worked()
            journey.journal.append("spent", worked=round(ticked, 3))
        await asyncio.sleep(min(max(budget.due(), 0.02), LOOK))


def before(journey: Journey, step: Step) -> StepResult | None:
    """Return the outcome of a step that cannot begin for want of budget; None if it may, and its attempt is granted.

    Where the run's budget is spent the step is only held back. Where its own is, it fails, and that is decided on like
    any failure; steps that do not need it go on.
    """
    budget = journey.budget
    if not budget or not step.in_container:
        return None
    if said := budget.over(None):
        budget.held.add(step.id)
        return host_result(journey, step, status="pending", reason=said)
    if said := budget.own(step.id):
        _decided(journey, step, said)
        return host_result(journey, step, status="failed", reason=said)
    budget.reserve(step.id)
    return None


def _decided(journey: Journey, step: Step, said: str) -> None:
    """Write down that a step is not tried again, for want of a budget of its own."""
    factors = {"budget_spent": said, "priority": step.priority}
    made = Decision(step=step.id, verb="abort", reason=f"{RULE}: {said}", factors=factors, rule=RULE, at=steady.now())
    journey.decisions.append(made)
    journey.journal.append("decision", key=journey.keys.get(step.id, ""), **made.model_dump(mode="json"))
    journey.audit.append("decision", **made.model_dump(mode="json"))


def halted(journey: Journey, *, aborted: bool = False) -> str:
    """Return why the run stops for its budget although nothing had to be stopped; empty if it does not.

    It does where a step that was ready has not begun, or one that failed is not tried again, for want of budget. Where
    the run was `aborted` for another reason, what is only held back is none.
    """
    budget = journey.budget
    # Those before are of earlier parts of the run, which had another budget.
    mine = journey.decisions[len(journey.past.decisions) :]
    denied = [one for one in mine if one.rule == RULE and (one.verb == "abort" or budget.over(None))]
    if not denied and (aborted or not budget.held):
        return ""
    spent = [name for step in ("", *sorted(budget.held), *(one.step for one in denied)) for name in budget.names(step)]
    said = budget.over(None) or (budget.over(denied[0].step) if denied else "")
    return _request(journey, said, tuple(dict.fromkeys(spent))).reason if said else ""


def _request(journey: Journey, said: str, names: tuple[str, ...]) -> Asked:
    """Note that a budget stops the run, and return the request to stop that it is."""
    journey.budget.stopped_by = names
    for name in names:
        journey.journal.append("budget", limit=name, said=said)
    journey.audit.append("budget.spent", limits=names, said=said)
    return Asked("pause", "its budget", f"{said}. {further(journey.id, journey.budget, names)}")
