"""Linux capabilities as the kernel counts them: bits, and back to names. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.policies.values import CAPABILITY_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterable

EVERY = frozenset(CAPABILITY_NUMBERS)
"""All that this version knows by name."""


def mask(capabilities: Iterable[str]) -> int:
    """Return the kernel's bit mask of capabilities given by name. KeyError for one that Linux does not have."""
    return sum(1 << CAPABILITY_NUMBERS[name] for name in set(capabilities))


def names(bits: int) -> tuple[str, ...]:
    """Return the names of the capabilities in a bit mask, sorted; one that is newer than us by its number."""
    known = {number: name for name, number in CAPABILITY_NUMBERS.items()}
    numbers = (number for number in range(bits.bit_length()) if bits >> number & 1)
    return tuple(sorted(known.get(number, f"number {number}") for number in numbers))
