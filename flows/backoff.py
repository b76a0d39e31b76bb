"""How long to wait before the next attempt. Pure.

The jitter is drawn once per step and run, from a seed, and not per attempt from a clock: a replay or a resume plans the
same waits, and a delay keeps the shape that was asked for, a fixed one included. What spreads the steps that met the
same outage is that each has another seed. It only ever adds, because who writes `wait: 10s` means at least that.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from workflowmaster.flows.facts import LONGEST_PAUSE

if TYPE_CHECKING:
    from workflowmaster.flows.plan import Retries

LONGEST_WAIT = 300.0
"""Cap of a planned delay between two attempts, jitter included, in seconds."""

JITTER = 0.25
"""Share of a delay that is added at most."""


def delays(retries: Retries, count: int, *, seed: str) -> list[float]:
    """Return the wait in seconds before each of `count` retries: doubling, growing by the first, or always the same.

    `seed` names the step of the run, so that equal steps of other runs wait otherwise.
    """
    first = retries.wait_seconds * (1 + JITTER * _share(seed))
    # 2.0 to the 1,024th is no float any more; the cap is met long before.
    grown = {
        "exponential": [first * 2.0 ** min(number, 64) for number in range(count)],
        "linear": [first * (number + 1) for number in range(count)],
        "fixed": [first] * count,
    }[retries.backoff]
    return [min(wait, LONGEST_WAIT) for wait in grown]


def wait(planned: float, retry_after: float | None) -> float:
    """Return the wait in seconds: the planned one, or longer where whoever refused asked for it, up to an hour."""
    asked = retry_after if retry_after is not None and math.isfinite(retry_after) else 0.0
    return min(max(planned, asked, 0.0), LONGEST_PAUSE)


def _share(seed: str) -> float:
    """Return a number in [0, 1) that is as good as random, and always the same for a seed."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big") / 2**56
