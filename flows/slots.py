"""The parallel slots of a run, given to the most urgent step that waits for one.

Their number may change while they are held: where it falls below the holders nobody is sent away, and slots that are
given back are not handed on until there are few enough.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Any


class Slots:
    """At most `limit` holders. A semaphore that knows whose turn is next; for one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._holders: set[str] = set()
        self._waiting: list[tuple[Any, str, asyncio.Future[None]]] = []

    @property
    def free(self) -> int:
        """Slots that nobody holds or waits for; below 0 where there are more holders than there may be."""
        return self._free

    @property
    def limit(self) -> int:
        """How many there are."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        """Have more of them, which are handed out at once, or fewer."""
        self._free += limit - self._limit
        self._limit = limit
        while self._free > 0 and self._hand_on():
            self._free -= 1

    async def acquire(self, name: str, rank: Any) -> None:
        """Wait for a slot; nothing happens if `name` holds one already. Smaller ranks go first."""
        if name in self._holders:
            return
        if self._free > 0:
            self._free -= 1
            self._holders.add(name)
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, name, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(name)
            raise

    def release(self, name: str) -> None:
        """Give a slot back; nothing happens if `name` holds none."""
        if name not in self._holders:
            return
        self._holders.remove(name)
        if self._free < 0 or not self._hand_on():
            self._free += 1

    def _hand_on(self) -> bool:
        """Give a slot to the most urgent one that waits; return whether anybody does."""
        while self._waiting:
            _, name, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._holders.add(name)
                turn.set_result(None)
                return True
        return False
