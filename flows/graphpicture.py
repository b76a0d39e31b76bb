"""The plan's graph drawn as SVG, coloured by how the steps ended.

Left to right where that fits the width of a page, because that is how time is read; else from top to bottom, which can
be as long as it must. The layout itself is in `layers.py`, what is one box in `graphs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from workflowmaster.flows.drawing import fitted, picture, text, text_width
from workflowmaster.flows.elements import Markup, element, joined
from workflowmaster.flows.graphs import SEVERITY, Node, by_layer, gathered
from workflowmaster.flows.layers import Layout, arrange, layered
from workflowmaster.flows.reading import Outcome, read
from workflowmaster.flows.wording import STEP_WORDS, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from workflowmaster.flows.state import WorkflowState

WIDTH: Final = 1000.0
MARGIN: Final = 16.0
NODE_HEIGHT: Final = 42.0
NODE_MOST: Final = 190.0
NODE_MOST_ALONE: Final = 300.0
"""Width of a box where at most three stand side by side."""
COLUMN_GAP: Final = 56.0
ROW_GAP: Final = 28.0
MOST_NODES: Final = 40
SUMMARY_PITCH: Final = 30.0


@dataclass(frozen=True)
class Port:
    """Where an edge passes a layer: between `enter` and `leave` along the flow, at `cross` across it."""

    enter: float
    leave: float
    cross: float


def graph_svg(state: WorkflowState, *, standalone: bool = True) -> str:
    """Return the plan's graph as an SVG, valid XML, coloured by how the steps ended."""
    return graph(read(state), standalone=standalone)


def graph(outcome: Outcome, *, standalone: bool = False) -> Markup:
    """Return the graph of an outcome that was read already; more than `MOST_NODES` boxes are told by layers."""
    nodes = gathered(outcome.rows)
    parts, width, height = _boxes(nodes) if len(nodes) <= MOST_NODES else _summary(by_layer(outcome.rows))
    return picture(width, height, parts, title=f"Plan of {outcome.state.plan.name}", standalone=standalone)


def _boxes(nodes: list[Node]) -> tuple[Markup, float, float]:
    needs = {node.name: node.needs for node in nodes}
    wide = {node.name: _node_width(node) for node in nodes}
    # All boxes of a column get its widest one's width, which keeps the edges between columns parallel.
    deep = [max(wide[name] for name in layer) for layer in layered(needs)]
    if sum(deep) + COLUMN_GAP * (len(deep) - 1) + 2 * MARGIN <= WIDTH:
        return _across(nodes, arrange(needs, dict.fromkeys(needs, NODE_HEIGHT), 14.0), deep)
    # A chain leaves the page's width unused, so long names of prose steps may be written out.
    if max(map(len, layered(needs))) <= 3:
        wide = {node.name: _node_width(node, NODE_MOST_ALONE) for node in nodes}
    return _down(nodes, arrange(needs, wide, 20.0), wide)


def _node_width(node: Node, most: float = NODE_MOST) -> float:
    return min(most, max(text_width(node.title, 12), text_width(node.note, 11), 70.0) + 38)


def _across(nodes: list[Node], layout: Layout, deep: list[float]) -> tuple[Markup, float, float]:
    """Draw the layers as columns."""
    total = sum(deep) + COLUMN_GAP * (len(deep) - 1)
    start = max(MARGIN, (WIDTH - total) / 2)
    left = [start + sum(deep[:depth]) + COLUMN_GAP * depth for depth in range(len(deep))]
    depth = _depth(layout)
    ports = {n: Port(left[d], left[d] + deep[d], layout.centre[n] + MARGIN) for n, d in depth.items()}
    edges = _edges(nodes, layout, ports, lambda along, cross: f"{along:.1f} {cross:.1f}")
    boxes = [_box(n, ports[n.name].enter, ports[n.name].cross - NODE_HEIGHT / 2, deep[depth[n.name]]) for n in nodes]
    return joined([*edges, *boxes]), WIDTH, layout.extent + 2 * MARGIN


def _down(nodes: list[Node], layout: Layout, wide: Mapping[str, float]) -> tuple[Markup, float, float]:
    """Draw the layers as rows."""
    pitch, depth = NODE_HEIGHT + ROW_GAP, _depth(layout)
    width = max(WIDTH, layout.extent + 2 * MARGIN)
    shift = (width - layout.extent) / 2
    tops = {name: MARGIN + d * pitch for name, d in depth.items()}
    ports = {n: Port(top, top + NODE_HEIGHT, layout.centre[n] + shift) for n, top in tops.items()}
    edges = _edges(nodes, layout, ports, lambda along, cross: f"{cross:.1f} {along:.1f}")
    boxes = [_box(n, ports[n.name].cross - wide[n.name] / 2, tops[n.name], wide[n.name]) for n in nodes]
    return joined([*edges, *boxes]), width, len(layout.layers) * pitch - ROW_GAP + 2 * MARGIN


def _depth(layout: Layout) -> dict[str, int]:
    return {name: index for index, layer in enumerate(layout.layers) for name in layer}


def _edges(
    nodes: list[Node], layout: Layout, ports: Mapping[str, Port], point: Callable[[float, float], str]
) -> list[Markup]:
    """Draw all edges, the critical ones last so that they lie on top; `point` turns (along, cross) into x and y."""
    marked = {node.name for node in nodes if node.critical}
    order = sorted(layout.routes, key=lambda edge: edge[0] in marked and edge[1] in marked)
    return [
        _edge([ports[n] for n in layout.routes[edge]], point, critical=edge[0] in marked and edge[1] in marked)
        for edge in order
    ]


def _edge(route: list[Port], point: Callable[[float, float], str], *, critical: bool) -> Markup:
    path = [f"M{point(route[0].leave, route[0].cross)}"]
    for here, there in pairwise(route):
        # Curves leave and enter along the flow, so an edge can be followed through a crowd of others.
        bend, end = (here.leave + there.enter) / 2, there.enter - (4 if there is route[-1] else 0)
        path.append(f"C{point(bend, here.cross)} {point(bend, there.cross)} {point(end, there.cross)}")
        if there is not route[-1]:
            path.append(f"L{point(there.leave, there.cross)}")
    end, cross = route[-1].enter, route[-1].cross
    tip = f"M{point(end - 7, cross - 3.5)}L{point(end, cross)}L{point(end - 7, cross + 3.5)}Z"
    tone = " critical" if critical else ""
    return joined([element("path", class_=f"edge{tone}", d="".join(path)), element("path", class_=f"tip{tone}", d=tip)])


def _box(node: Node, x: float, y: float, width: float) -> Markup:
    tone = f"node {node.status}{' critical' if node.critical else ''}"
    room = width - 36
    return element(
        "g",
        element("title", f"{node.title}: {node.note}"),
        element("rect", class_=tone, x=x, y=y, width=width, height=NODE_HEIGHT, rx=7.0),
        element("circle", class_=f"mark {node.status}", cx=x + 14, cy=y + 15, r=3.5),
        text(x + 25, y + 19, fitted(node.title, room, 12), class_="strong" if node.critical else None),
        text(x + 25, y + 34, fitted(node.note, room, 11), class_="minor"),
    )


def _summary(layers: list[Node]) -> tuple[Markup, float, float]:
    """Draw one line for each layer: its number, its steps, and a bar with the share of every status."""
    most = max(len(node.rows) for node in layers)
    parts = []
    for index, node in enumerate(layers):
        y = MARGIN + SUMMARY_PITCH * (index + 0.5)
        parts.append(text(MARGIN, y + 4, f"{index + 1}", class_="minor"))
        parts.append(text(MARGIN + 30, y + 4, fitted(node.title, 210, 12), class_="strong" if node.critical else None))
        parts.append(_shares(node, MARGIN + 250, y, 480 * len(node.rows) / most))
        words = f"{counted(len(node.rows), 'step')}: {node.note}" if len(node.rows) > 1 else node.note
        parts.append(text(MARGIN + 742, y + 4, fitted(words, 226, 11), class_="minor"))
    return joined(parts), WIDTH, 2 * MARGIN + SUMMARY_PITCH * len(layers)


def _shares(node: Node, x: float, y: float, width: float) -> Markup:
    # A single step among hundreds must not vanish.
    width = max(width, 6.0)
    parts = []
    for status in reversed(SEVERITY):
        share = width * sum(row.status == status for row in node.rows) / len(node.rows)
        if share:
            title = element("title", STEP_WORDS[status])
            box = element("rect", class_=f"mark {status}", x=x, y=y - 6, width=max(share - 1, 1.5), height=12.0, rx=2.0)
            parts.append(element("g", title, box))
            x += share
    return joined(parts)
