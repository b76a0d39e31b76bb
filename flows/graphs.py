"""Which boxes stand for a plan, and the plan as a mermaid chart.

A graph is read by following edges, which stops working somewhere above forty nodes. Choice: steps with the same
neighbours (a wide matrix) become one node first, and what is still too large is told by layers, one line each with
the share of every status. Accepted cost: in a summary the single edges are gone; the table below the picture has them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workflowmaster.flows.layers import layered, reduced
from workflowmaster.flows.plaintext import one_line
from workflowmaster.flows.reading import Row, label
from workflowmaster.flows.wording import GLYPHS, STEP_WORDS, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from workflowmaster.flows.plan import StepStatus

ALIKE: Final = 8
"""So many steps with equal neighbours are still drawn one by one."""
MOST_BOXES: Final = 60
SEVERITY: Final[tuple[StepStatus, ...]] = (
    "failed",
    "waiting",
    "in_progress",
    "blocked",
    "pending",
    "skipped",
    "completed",
)
"""The status a box of several steps shows: the first of these that one of them has."""
MERMAID_STYLES: Final[dict[StepStatus, str]] = {
    "completed": "fill:#eef5f1,stroke:#3d7f5e,color:#1f2428",
    "failed": "fill:#fbeceb,stroke:#b8443a,color:#1f2428",
    "waiting": "fill:#fbf3e0,stroke:#a9741b,color:#1f2428",
    "skipped": "fill:#f6f6f4,stroke:#a7adb2,color:#6a7178",
    "blocked": "fill:#f6f6f4,stroke:#a7adb2,color:#6a7178",
}


@dataclass(frozen=True)
class Node:
    """What is drawn as one box: a step, or several alike."""

    name: str
    rows: tuple[Row, ...]
    needs: tuple[str, ...]

    @property
    def status(self) -> StepStatus:
        """The status that matters most among its steps."""
        return min((row.status for row in self.rows), key=SEVERITY.index)

    @property
    def critical(self) -> bool:
        """Whether one of its steps is on the critical path."""
        return any(row.critical for row in self.rows)

    @property
    def title(self) -> str:
        """The first line in the box."""
        if len(self.rows) == 1:
            return label(self.rows[0].step)
        stems = {row.step.id.split("/")[0] for row in self.rows}
        stem = f"{stems.pop()}/… " if len(stems) == 1 else f"{one_line(self.rows[0].step.id, 20)} … "
        return f"{stem}\N{MULTIPLICATION SIGN}{len(self.rows)}"

    @property
    def note(self) -> str:
        """The second line: time and policy, or how many ended how."""
        if len(self.rows) > 1:
            return _tally(self.rows)
        row = self.rows[0]
        if row.status != "completed" or row.seconds is None:
            return STEP_WORDS[row.status]
        where = row.step.policy if row.step.in_container else "host"
        return "reused" if row.reused else f"{duration(row.seconds)} · {where}"


def gathered(rows: Sequence[Row]) -> list[Node]:
    """Return the nodes to draw, in plan order: more than `ALIKE` steps with equal neighbours become one."""
    needs = reduced({row.step.id: row.step.needs for row in rows})
    users: dict[str, list[str]] = {}
    for name, sources in needs.items():
        for source in sources:
            users.setdefault(source, []).append(name)
    alike: dict[object, list[Row]] = {}
    for row in rows:
        alike.setdefault((needs[row.step.id], tuple(users.get(row.step.id, ()))), []).append(row)
    # Only whole groups become one box: a box for some of a matrix would hide which are missing.
    groups = [group for group in alike.values() if len(group) > ALIKE]
    head = {row.step.id: group[0].step.id for group in groups for row in group}
    members = {group[0].step.id: tuple(group) for group in groups}
    return [
        Node(row.step.id, members.get(row.step.id, (row,)), _through(needs[row.step.id], head))
        for row in rows
        if head.get(row.step.id, row.step.id) == row.step.id
    ]


def mermaid(rows: Sequence[Row]) -> str:
    """Return a mermaid flow chart (without its fence); above `MOST_BOXES` boxes one box for each layer."""
    # Prefect's page draws mermaid without scrolling, so a large chart would only be a smaller one.
    nodes = gathered(rows)
    if len(nodes) > MOST_BOXES:
        nodes = by_layer(rows)
    names = {node.name: f"n{index}" for index, node in enumerate(nodes)}
    # Few layers read best as time does; many would be shrunk to illegible boxes by the page's width.
    lines = ["flowchart LR" if len(layered({n.name: n.needs for n in nodes})) <= 6 else "flowchart TB"]
    lines += [f'  {names[n.name]}["{_quoted(f"{GLYPHS[n.status]} {n.title}")}"]' for n in nodes]
    lines += [f"  {names[need]} --> {names[n.name]}" for n in nodes for need in n.needs]
    for status, style in MERMAID_STYLES.items():
        marked = [names[n.name] for n in nodes if n.status == status]
        lines += [f"  classDef {status} {style}", f"  class {','.join(marked)} {status}"] if marked else []
    return "\n".join(lines)


def _through(needs: Iterable[str], head: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(head.get(need, need) for need in needs))


def by_layer(rows: Sequence[Row]) -> list[Node]:
    """Return one node for each layer of the plan, chained: the summary of a plan too large to draw.

    More than `MOST_BOXES` layers are bundled, neighbours with neighbours.
    """
    by_id = {row.step.id: row for row in rows}
    layers = layered({row.step.id: row.step.needs for row in rows})
    size = -(-len(layers) // MOST_BOXES)
    bundles = [[name for layer in layers[n : n + size] for name in layer] for n in range(0, len(layers), size or 1)]
    heads = ["", *(bundle[0] for bundle in bundles)]
    return [
        Node(bundle[0], tuple(by_id[name] for name in bundle), (before,) if before else ())
        for bundle, before in zip(bundles, heads, strict=False)
    ]


def _quoted(words: str) -> str:
    """Return a mermaid label: everything that could be syntax becomes a character entity."""
    # Only ASCII can be syntax. A full stop or hyphen could begin a list, which mermaid refuses to draw.
    safe = "".join(c if c.isalnum() or c in " _/," or ord(c) > 127 else f"#{ord(c)};" for c in one_line(words, 60))
    return safe or " "


def _tally(rows: Sequence[Row]) -> str:
    counts = Counter(row.status for row in rows)
    # One word is easier to check at a glance than two equal numbers.
    if len(counts) == 1:
        return f"all {STEP_WORDS[rows[0].status]}"
    return ", ".join(f"{counts[status]} {STEP_WORDS[status]}" for status in SEVERITY if counts[status])
