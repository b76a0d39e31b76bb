"""Work that nobody waits for, put off until it no longer stands in the way of what somebody waits for.

Removing a container costs the engine 50 ms of a core, and the moment a step has ended is the moment in which the next
one gets its go. On two cores that was 10 ms of every step of a chain.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

SECONDS = 0.05
"""How long it is put off: by then the next step has its go (measured: 20 to 30 ms)."""


class Clearing:
    """Does work in threads, a moment later. `later` belongs to the event loop's thread, `close` to any."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._numbers = itertools.count()
        self._waiting: dict[int, Callable[[], object]] = {}

    def later(self, work: Callable[[], object]) -> None:
        """Put work off."""
        number = next(self._numbers)
        self._waiting[number] = work
        asyncio.get_running_loop().call_later(SECONDS, self._begin, number)

    def _begin(self, number: int) -> None:
        # Whoever takes it out does it: the timer, or `close` before it.
        if work := self._waiting.pop(number, None):
            self._threads.submit(work)

    def close(self) -> None:
        """Begin everything that still waits; whoever closes the threads waits for its end."""
        for number in list(self._waiting):
            self._begin(number)
