"""What waits for what among the steps of a prose prompt.

Prose hardly ever states dependencies (one file of 124 did), but it has an order, and that order is the safe reading:
each step waits for the one before it. Two things loosen it: a list under words such as "in parallel", and nothing else.
Two things add to it: "after step 3", and a file that two parallel steps both name. An order that is written out wins
over the order of the page; only two written ones can contradict each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from workflowmaster.flows.ordering import ancestors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from workflowmaster.flows.stepitems import Item

_AFTER = re.compile(
    r"\b(?:after|once|following|depends on|depending on|requires|blocked by|when)\s+(?:the\s+)?"
    r"(?:completing\s+|finishing\s+|completion of\s+)?(?:step|phase|task|part|stage|item)s?\s+#?(\d+(?:\.\d+)*)",
    re.IGNORECASE,
)
_PHASE_WORD = re.compile(r"\bphases?\s", re.IGNORECASE)
_FILE = re.compile(r"`([\w./-]+\.\w{1,5})`")


@dataclass(frozen=True, slots=True)
class Node:
    """A step of the skeleton's tasks, before it is one of the plan's."""

    id: str
    task: str
    item: Item


@dataclass(frozen=True, slots=True)
class Waits:
    """What the written words and the page's order make of the nodes."""

    needs: dict[str, tuple[str, ...]]
    """Node id → ids of the nodes it waits for; empty for those that wait only for their task's predecessors."""
    unresolved: tuple[tuple[Node, str], ...] = ()
    """Nodes that name a step that does not exist or comes later by its kind, with the number they name."""


def sequence(tasks: Mapping[str, Sequence[Node]], texts: Mapping[str, str]) -> Waits:
    """Return what each node waits for.

    `tasks` maps task ids to their nodes in document order, `texts` node ids to everything a step's lines say.
    """
    nodes = [node for members in tasks.values() for node in members]
    needs: dict[str, dict[str, None]] = {node.id: {} for node in nodes}
    unresolved: list[tuple[Node, str]] = []
    rank = {node.id: (int(node.task), index) for index, node in enumerate(nodes)}
    for node in nodes:
        for number, is_phase in _written(node.item):
            targets = _targets(number, node, nodes, is_phase=is_phase)
            # A task never waits for a later one: the skeleton's own order would make that a circle.
            good = [target.id for target in targets if rank[target.id][0] <= rank[node.id][0]]
            needs[node.id].update(dict.fromkeys(good))
            if len(good) < max(1, len(targets)):
                unresolved.append((node, number))
    for members in tasks.values():
        for before, after in _page_order(members, texts):
            # Where the words already say the opposite, the page has nothing to add.
            if after not in ancestors(needs, before):
                needs[after].setdefault(before)
    return Waits({name: tuple(wanted) for name, wanted in needs.items()}, tuple(unresolved))


def _written(item: Item) -> Iterator[tuple[str, bool]]:
    for found in _AFTER.finditer(f"{item.name}. {item.text}"):
        yield found[1], bool(_PHASE_WORD.search(found[0]))


def _targets(number: str, node: Node, nodes: Sequence[Node], *, is_phase: bool) -> list[Node]:
    others = [other for other in nodes if other is not node]
    if is_phase:
        return [
            other
            for other in others
            if number in (other.item.phase, other.item.number) and other.item.phase != node.item.phase
        ]
    near = [other for other in others if other.item.number == number and other.item.section == node.item.section]
    return near or [other for other in others if other.item.number == number][:1]


def _page_order(members: Sequence[Node], texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (before, after) for neighbours on the page; each member of a parallel list is one of both sides."""
    frontier: list[str] = []
    for parallel, group in groupby(members, key=lambda node: node.item.parallel):
        run = list(group)
        if parallel:
            for node in run:
                yield from ((before, node.id) for before in frontier)
            yield from _sharing_a_file(run, texts)
            frontier = [node.id for node in run]
            continue
        for node in run:
            yield from ((before, node.id) for before in frontier)
            frontier = [node.id]


def _sharing_a_file(run: Sequence[Node], texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    owners: dict[str, str] = {}
    for node in run:
        for file in dict.fromkeys(_FILE.findall(texts[node.id])):
            if file in owners:
                yield owners[file], node.id
            owners[file] = node.id
