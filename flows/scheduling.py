"""Which step goes next: the one with the longest work still behind it.

Critical-path order is the classic list-scheduling rule (Hu, 1961): with it a long chain never waits for short side
work. Weights are the plan's own estimates. Everything here is pure; `delivery.py` does the waiting.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workflowmaster.flows.plan import Step

URGENCY = {"high": 0, "medium": 1, "low": 2}


def remaining_minutes(tasks: Sequence[Step]) -> dict[str, float]:
    """Return, for each step, the minutes from its start to the end of the longest path that begins with it.

    `tasks` are in topological order, so one pass from the back suffices.
    """
    longest = {step.id: 0.0 for step in tasks}
    total = {}
    for step in reversed(tasks):
        total[step.id] = longest[step.id] + step.estimated_minutes
        for need in step.needs:
            longest[need] = max(longest[need], total[step.id])
    return total


def ancestors(tasks: Sequence[Step]) -> dict[str, frozenset[str]]:
    """Return, for each step, every step it needs directly or through others."""
    known: dict[str, frozenset[str]] = {}
    for step in tasks:
        known[step.id] = frozenset(step.needs).union(*(known[need] for need in step.needs))
    return known


class ReadyQueue:
    """Steps whose needs have all ended, in critical-path order; ties go by priority, then by the plan's order.

    `end` tells it that a step has ended and returns nothing; `take` hands out the next ready one. The cost of a whole
    run is O((steps + edges) log steps), so a thousand steps are scheduled in milliseconds.
    """

    def __init__(self, tasks: Sequence[Step]) -> None:
        weight = remaining_minutes(tasks)
        self._rank = {s.id: (-weight[s.id], URGENCY[s.priority], index) for index, s in enumerate(tasks)}
        self._steps = {s.id: s for s in tasks}
        self._open = {s.id: len(set(s.needs)) for s in tasks}
        self._after: dict[str, list[str]] = {s.id: [] for s in tasks}
        for step in tasks:
            for need in set(step.needs):
                self._after[need].append(step.id)
        self._heap = [(self._rank[name], name) for name, count in self._open.items() if count == 0]
        heapq.heapify(self._heap)

    def __bool__(self) -> bool:
        return bool(self._heap)

    def rank(self, step_id: str) -> tuple[float, int, int]:
        """Return the step's place in the order; smaller goes first."""
        return self._rank[step_id]

    def take(self) -> Step:
        """Remove and return the most urgent ready step. IndexError when none is ready."""
        return self._steps[heapq.heappop(self._heap)[1]]

    def end(self, step_id: str) -> None:
        """Say that a step has ended, however it did: what only waited for it is ready now."""
        for name in self._after[step_id]:
            self._open[name] -= 1
            if self._open[name] == 0:
                heapq.heappush(self._heap, (self._rank[name], name))

    def after(self, step_id: str) -> Sequence[str]:
        """Return the steps that need this one directly."""
        return self._after[step_id]

    def upcoming(self, running: Iterable[str], limit: int) -> list[Step]:
        """Return the steps to prepare for, most urgent first: the ready ones, then what would be ready after those.

        It plays the run forward as if everything that runs and everything it has named ended well.
        """
        heap = heapq.nsmallest(limit, self._heap)
        left: dict[str, int] = {}
        for name in running:
            self._play(name, left, heap)
        chosen: list[Step] = []
        while heap and len(chosen) < limit:
            name = heapq.heappop(heap)[1]
            chosen.append(self._steps[name])
            self._play(name, left, heap)
        return chosen

    def _play(self, ended: str, left: dict[str, int], heap: list[tuple[tuple[float, int, int], str]]) -> None:
        for name in self._after[ended]:
            left[name] = left.get(name, self._open[name]) - 1
            if left[name] == 0:
                heapq.heappush(heap, (self._rank[name], name))
