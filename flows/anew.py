"""Starts a step where the engine may be away, and anew where it failed before any of the step's code had begun.

Nothing has happened then that could happen twice, so it is not the step's failure and costs none of its attempts. What
an engine is waited for is the run's patience, the same for all its steps: with its breaker open nobody tries, and one
looks now and again. An engine that answers and yet fails is given one more try a step, because what fails twice in a
row has more of a cause than bad luck.

The hard choice is what to make of an engine that has failed once. One that was restarted answers a moment later, and
one that was stopped does not; so it is looked at some times in a row, as many as open its breaker, before anything is
decided. That costs a failed step a second, and tells a lost container from a lost engine.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.failure import TRANSIENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workflowmaster.flows.execution import Attempt
    from workflowmaster.flows.going import Outcome
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.parking import Parked

    Done = tuple[float, Outcome]
    """When an attempt began, Unix time, and what came of it."""

LOST = "engine"
"""The reason of what fails because the engine does not answer."""

BACK_SECONDS = 20.0
"""How long an engine that went away under an adopted container may take to come back."""

LOOK_SECONDS = 0.25
"""Between two looks at an engine that has just failed."""

NAP_SECONDS = 1.0
"""Between two looks at the breaker of one that is away: another process may close it."""

STOP_SECONDS = 30.0
"""How long steps wait to be stopped once one of them has ended the run's patience. They have not failed themselves."""

log = logging.getLogger(__name__)


async def once_more(attempt: Attempt, work: Callable[[Attempt, list[Parked]], Awaitable[Done]]) -> Done:
    """Do the work, and again if the engine failed in a way that may have passed. Raises whatever the last try raises.

    `work` adds each container it takes to the list it is given, so that it can be seen whether a command was reached.
    """
    journey = attempt.journey
    held: list[Parked] = []
    spare = 1
    while True:
        await _available(journey)
        try:
            done = await work(attempt, held)
        except SandboxUnavailable as error:
            await _met(journey, error)
            spare -= error.reason != LOST
            if error.reason not in TRANSIENT or spare < 0 or any(parked.container.begun for parked in held):
                journey.health.ended("sandbox")
                raise
            log.warning("step %s is started anew: %s", attempt.step.id, error)
            told = {"attempt": attempt.number, "reason": error.reason, "error": str(error)}
            journey.audit.append("sandbox.retried", step=attempt.step.id, **told)
            await asyncio.sleep(LOOK_SECONDS)
        else:
            journey.health.engine_back(attempt.step.id, attempt.number)
            journey.health.ended(done[1].cause)
            return done


async def _met(journey: Journey, error: SandboxUnavailable) -> None:
    """Take a failure of the engine into account; of one that is away, know that it is when this returns."""
    journey.troubled = True
    if error.reason not in TRANSIENT:
        return
    breaker = journey.health.engine
    # In a thread: the first failure of a process imports what counts it.
    state = await asyncio.to_thread(breaker.failed, str(error))
    if error.reason != LOST:
        return
    while state == "closed" and not await asyncio.to_thread(journey.engine.answers):
        state = await asyncio.to_thread(breaker.failed, str(error))
        await asyncio.sleep(LOOK_SECONDS)
    if state != "closed":
        journey.health.engine_away(breaker.kept.why)


async def _available(journey: Journey) -> None:
    """Wait while the engine's breaker is not closed. SandboxUnavailable once the run's patience has ended."""
    health = journey.health
    while health.engine.state != "closed":
        health.engine_away(health.engine.kept.why)
        if await asyncio.to_thread(health.engine.probe, journey.engine.answers):
            return
        if not health.patience:
            raise await _out_of_patience(journey)
        await asyncio.sleep(min(max(health.engine.wait, LOOK_SECONDS), NAP_SECONDS, max(health.patience, 0.01)))


async def _out_of_patience(journey: Journey) -> SandboxUnavailable:
    """Return the failure of the one step whose wait has ended the run's patience with its engine."""
    health = journey.health
    if health.gave_up:
        await asyncio.sleep(STOP_SECONDS)
    health.gave_up = True
    why = health.engine.kept.why
    # Whoever decides about it must see an open breaker, whatever it was a moment ago.
    await asyncio.to_thread(health.engine.rest, health.engine.seconds, why)
    most = journey.settings.engine_patience_seconds
    return SandboxUnavailable(
        f"the engine was away for longer than {most:g} s (engine_patience_seconds): {why}", reason=LOST
    )
