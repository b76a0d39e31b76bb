"""What the next attempt gets after one that ran out of memory or time. Pure.

Memory may grow as often as the caps allow, because its doubling ends after a few attempts and a peak at the limit says
nothing about the need. Time grows once: a step that took twice its time in vain hangs, and more patience with it is a
person's to give. The accepted cost is that a step which is only very slow waits for one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workflowmaster.flows.plan import Limits

if TYPE_CHECKING:
    from workflowmaster.flows.plan import FailureClass

MORE = 2.0
"""Factor by which a limit grows. Doubling on failure is what 14,249 measured tasks were replayed with."""

HEADROOM = 1.5
"""Times a measured peak that the next attempt gets at least, where that is more than doubling."""

WORTH = 1.1
"""Smallest growth that is worth an attempt. Where the cap leaves less, the step needs another cap."""

MIB = 2**20


def larger(  # noqa: PLR0913 - what failed, what it had, what it took and what it may have
    failure_class: FailureClass,
    *,
    current: Limits,
    peak_memory: int | None,
    used: float,
    caps: Limits,
    grown: Limits | None = None,
) -> Limits | None:
    """Return the limits of the next attempt, or None where nothing that would help can grow.

    Args:
        failure_class: Only a confirmed `out_of_memory` or `timeout` makes anything grow.
        current: What the failed attempt had.
        peak_memory: What it took, in bytes, where it was measured.
        used: Seconds it ran.
        caps: The lower of the policy's and the operator's; None in it is no cap.
        grown: What this step was given beyond its first limits so far.
    """
    grown = grown or Limits()
    if failure_class == "out_of_memory":
        memory = _memory(current.memory, peak_memory, caps.memory)
        return Limits(memory=memory, seconds=grown.seconds) if memory else None
    if failure_class == "timeout" and grown.seconds is None:
        seconds = _seconds(current.seconds, used, caps.seconds)
        return Limits(memory=grown.memory, seconds=seconds) if seconds else None
    return None


def _memory(current: int | None, peak: int | None, cap: int | None) -> int | None:
    """Return more memory in bytes, in whole MiB; None if there is none, or if no limit was the cause."""
    if current is None:
        return None
    # Rounded up before the cap is applied: what a cap grants is never exceeded for the sake of a round number.
    wanted = -(-int(max(current * MORE, (peak or 0) * HEADROOM)) // MIB) * MIB
    granted = min(wanted, cap) if cap is not None else wanted
    return granted if granted >= current * WORTH else None


def _seconds(current: float | None, used: float, cap: float | None) -> float | None:
    """Return more time in seconds; None if there is none."""
    if current is None:
        return None
    # In tenths of a second, as people read it, and up, as memory is.
    wanted = math.ceil(round(MORE * max(current, used) * 10, 6)) / 10
    granted = min(wanted, cap) if cap is not None else wanted
    return granted if granted >= current * WORTH else None
