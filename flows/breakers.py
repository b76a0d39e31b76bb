"""The breakers as this operator has configured them. What they are is told in `blocks.breaker`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from workflowmaster.blocks.breaker import NAMES, Breaker, states

if TYPE_CHECKING:
    from workflowmaster.flows.settings import Settings

__all__ = ["NAMES", "Breaker", "of", "states"]


def of(name: str, settings: Settings, *, at: str | None = None) -> Breaker:
    """Return the breaker of a service: `engine` or `github`. `at` is its address; None is the environment's engine.

    Raises KeyError for a name that has none.
    """
    if name not in NAMES:
        raise KeyError(f"{name}: no such breaker; there are {', '.join(NAMES)}")
    place = at if at is not None else os.environ.get("DOCKER_HOST", "") if name == "engine" else ""
    return Breaker(
        name, threshold=settings.circuit_breaker_threshold, seconds=settings.circuit_breaker_seconds, at=place
    )
