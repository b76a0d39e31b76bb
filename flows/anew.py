"""Starts a step anew where the engine failed before any of the step's code had begun.

That is not the step's failure and costs none of its retries: nothing has happened yet that could happen twice. Once,
because what fails twice in a row has more of a cause than bad luck; and only after the engine answers again, or a
restart of it, which takes seconds, would use the second try up in milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.failure import TRANSIENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workflowmaster.flows.execution import Attempt
    from workflowmaster.flows.parking import Parked

T = TypeVar("T")

BACK_SECONDS = 20.0
"""How long an engine that went away may take to come back, before a step is given up."""

log = logging.getLogger(__name__)


async def once_more(attempt: Attempt, work: Callable[[Attempt, list[Parked]], Awaitable[T]]) -> T:
    """Do the work, and again if the engine failed in a way that may have passed. Raises whatever the last try raises.

    `work` adds each container it takes to the list it is given, so that it can be seen whether a command was reached.
    """
    journey = attempt.journey
    held: list[Parked] = []
    try:
        return await work(attempt, held)
    except SandboxUnavailable as error:
        journey.troubled = True
        if error.reason not in TRANSIENT or any(parked.container.begun for parked in held):
            raise
        log.warning("step %s is started anew: %s", attempt.step.id, error)
        told = {"attempt": attempt.number, "reason": error.reason, "error": str(error)}
        journey.audit.append("sandbox.retried", step=attempt.step.id, **told)
    until = time.monotonic() + BACK_SECONDS
    while not await asyncio.to_thread(journey.engine.answers) and time.monotonic() < until:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.25)
    return await work(attempt, held)
