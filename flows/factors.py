"""The factors of a decision as a report shows them: those that say something, with figures that can be read.

The record keeps every factor, because a decision must be replayed from it. Two dozen of them in a row of a table hide
the three that mattered, so what is empty, off or as always is left out here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SILENT = frozenset({"delays", "patience", "breaker_wait", "counts", "kind"})
"""Factors that say nothing beside the reason, the wait and the others."""

USUAL: Mapping[str, Any] = {"breaker": "closed", "mode": "autonomous", "on_failure": "auto", "health": 1.0}
"""Factors that are left out while they have this value."""


def shown(factors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the factors that a report shows, in the record's order."""
    return {name: _short(value) for name, value in factors.items() if _says(name, value)}


def _says(name: str, value: Any) -> bool:
    if name in SILENT or value is None or value is False or value in ("", [], {}):
        return False
    return bool(USUAL.get(name) != value)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items() if one is not None)
    return float(f"{value:.4g}") if isinstance(value, float) else value
