"""When a container must be over at the latest, written on it where anyone can read it.

A label cannot be changed once a container exists, and a parked one does not know yet when its go will come. So the
label says the latest that can be true: parked for as long as is allowed at all, then the step's whole wall time, then
the graces. It is kept by its owner, who gives no go to a container that has waited too long (`in_time`) but starts
another. The cost: of a container that got its go at once, the label promises an hour too much. It is for those who
cannot ask the owner, on another host or after its death; what is past it works for nobody.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PARKED_MOST = 3600.0
"""Seconds that a container may wait for its go."""

MARGIN = 120.0
"""Seconds for what comes before and after the wall time: the start, SIGTERM's grace, SIGKILL, taking the files out."""

LABEL = "deadline"


def labels(wall_seconds: float) -> dict[str, str]:
    """Return the label, without our prefix, of a container that is made now for a step with this wall time."""
    return {LABEL: str(int(time.time() + PARKED_MOST + wall_seconds + MARGIN))}


def of(labels: Mapping[str, str], prefix: str = "") -> float | None:
    """Return the Unix time by which a container must be over; None if its label is missing or not one of ours."""
    text = labels.get(f"{prefix}.{LABEL}" if prefix else LABEL, "")
    return float(text) if text.isdecimal() else None


def in_time(labels: Mapping[str, str], wall_seconds: float) -> bool:
    """Return whether a go that is given now leaves a container its wall time before its deadline."""
    until = of(labels)
    return until is None or time.time() + wall_seconds + MARGIN <= until
