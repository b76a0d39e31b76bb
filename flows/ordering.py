"""Order of tasks: topological, stable, and a cycle named in full.

Kahn's algorithm over a heap of positions instead of `graphlib`: of all orders that respect the needs it gives the one
closest to the document, so that a plan reads like its prompt and equal prompts give equal plans.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def in_order(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the names with every name behind those it needs, else as they came; without those on a cycle.

    Every needed name must be a key.
    """
    position = {name: index for index, name in enumerate(needs)}
    names = list(needs)
    missing = {name: set(wanted) for name, wanted in needs.items()}
    followers: dict[str, list[str]] = {name: [] for name in needs}
    for name, wanted in missing.items():
        for other in wanted:
            followers[other].append(name)
    # Positions instead of names in the heap: ties are broken by the page, never by spelling.
    ready = [position[name] for name, wanted in missing.items() if not wanted]
    ordered: list[str] = []
    while ready:
        name = names[heapq.heappop(ready)]
        ordered.append(name)
        for follower in followers[name]:
            missing[follower].discard(name)
            if not missing[follower]:
                heapq.heappush(ready, position[follower])
    return ordered


def find_cycle(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Return one cycle, from its first name in the mapping's order back to it: `[a, b, a]`; empty where there is none.

    `a, b` means that `a` needs `b`.
    """
    stuck = set(needs) - set(in_order(needs))
    if not stuck:
        return []
    path: list[str] = []
    name = next(candidate for candidate in needs if candidate in stuck)
    # Every stuck name needs another stuck one, so walking on must come back to a name already seen.
    while name not in path:
        path.append(name)
        name = next(other for other in needs[name] if other in stuck)
    return _from_first(path[path.index(name) :], list(needs))


def ancestors(needs: Mapping[str, Iterable[str]], name: str) -> frozenset[str]:
    """Return everything that must have ended before `name` starts."""
    seen: set[str] = set()
    waiting = list(needs[name])
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting.extend(needs[other])
    return frozenset(seen)


def _from_first(cycle: Sequence[str], order: Sequence[str]) -> list[str]:
    start = min(range(len(cycle)), key=lambda index: order.index(cycle[index]))
    turned = [*cycle[start:], *cycle[:start]]
    return [*turned, turned[0]]
