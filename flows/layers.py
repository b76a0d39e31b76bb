"""Where the nodes of a dependency graph go: layers by longest path, order by barycentre, places by least squares.

This is Sugiyama's method in its shortest form. Choice: own code instead of a graph library, because plans are small,
no library is otherwise needed, and equal plans must give equal pictures. Placing is exact: nodes of a layer want to
stand at the mean of their neighbours and must keep their distance, which is isotonic regression (pool adjacent
violators) after subtracting the distances. Accepted cost: few sweeps, so a crossing more than the optimum may stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SWEEPS = 8


@dataclass(frozen=True)
class Layout:
    """Layers of node names in order, with the centre of each across its layer; long edges pass through dummies."""

    layers: tuple[tuple[str, ...], ...]
    centre: Mapping[str, float]
    """Name → position across the layer, in pixels; the smallest edge of all nodes is at 0."""
    routes: Mapping[tuple[str, str], tuple[str, ...]]
    """Edge → its points from source to target, dummies in between."""
    extent: float
    """Pixels across of the widest layer."""


def layered(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the nodes by longest path from a source, each layer in the given order.

    `needs` is acyclic and maps every node to the nodes it depends on; names that are no node are ignored.
    """
    depth: dict[str, int] = {}
    pending = list(needs)
    while pending:
        # Names come in topological order, so this is one pass; another order only costs more passes.
        later = [n for n in pending if any(m in needs and m not in depth for m in needs[n])]
        for name in pending:
            known = [depth[m] for m in needs[name] if m in depth]
            if all(m in depth for m in needs[name] if m in needs):
                depth[name] = max(known, default=-1) + 1
        pending = [n for n in later if n not in depth]
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in needs:
        layers[depth[name]].append(name)
    return layers


def reduced(needs: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the needs without those that follow from others: an edge a→c beside a→b→c only clutters."""
    above: dict[str, frozenset[str]] = {}
    # Layer by layer, so everything above a node is known when its turn comes.
    for layer in layered(needs):
        for name in layer:
            direct = [n for n in needs[name] if n in needs]
            above[name] = frozenset(direct).union(*(above[n] for n in direct))
    return {
        name: tuple(n for n in dict.fromkeys(own) if n in needs and not any(n in above[m] for m in own if m in needs))
        for name, own in needs.items()
    }


def arrange(needs: Mapping[str, Sequence[str]], size: Mapping[str, float], gap: float) -> Layout:
    """Place the nodes; `size` is each node's extent across its layer and `gap` what lies between two, in pixels."""
    layers, routes = _with_dummies(needs)
    links = [edge for route in routes.values() for edge in pairwise(route)]
    before, after = _neighbours(links, 1), _neighbours(links, 0)
    layers = _ordered(layers, links, before, after)
    half = {name: size.get(name, 0.0) / 2 for layer in layers for name in layer}
    centre = {name: x for layer in layers for name, x in _spread(layer, half, gap).items()}
    # Up and down in turn: either direction alone lets the picture drift to one side.
    for sweep in range(SWEEPS):
        order = layers if sweep % 2 else layers[::-1]
        for layer in order:
            centre |= _settled(layer, centre, _merged(before, after), _distances(layer, half, gap))
    # Shifted to begin at 0, because sweeps move the whole picture.
    low = min((centre[n] - half[n] for n in half), default=0.0)
    centre = {name: x - low for name, x in centre.items()}
    extent = max((centre[n] + half[n] for n in half), default=0.0)
    return Layout(tuple(map(tuple, layers)), centre, routes, extent)


def isotonic(wanted: Sequence[float]) -> list[float]:
    """Return the non-decreasing values closest to `wanted` in least squares (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in wanted:
        mean, count = value, 1
        # A block that stands above its successor is merged with it: their common mean is the optimum.
        while blocks and blocks[-1][0] > mean:
            left, weight = blocks.pop()
            mean, count = (left * weight + mean * count) / (weight + count), weight + count
        blocks.append((mean, count))
    return [mean for mean, count in blocks for _ in range(count)]


def crossings(layers: Sequence[Sequence[str]], links: Iterable[tuple[str, str]]) -> int:
    """Return how many pairs of links cross, each link joining neighbouring layers."""
    place = {name: (depth, index) for depth, layer in enumerate(layers) for index, name in enumerate(layer)}
    by_layer: dict[int, list[tuple[int, int]]] = {}
    for source, target in links:
        by_layer.setdefault(place[source][0], []).append((place[source][1], place[target][1]))
    return sum(
        (a[0] - b[0]) * (a[1] - b[1]) < 0 for edges in by_layer.values() for n, a in enumerate(edges) for b in edges[:n]
    )


def _with_dummies(needs: Mapping[str, Sequence[str]]) -> tuple[list[list[str]], dict[tuple[str, str], tuple[str, ...]]]:
    layers = layered(needs)
    depth = {name: index for index, layer in enumerate(layers) for name in layer}
    routes: dict[tuple[str, str], tuple[str, ...]] = {}
    for target, sources in needs.items():
        for source in (n for n in sources if n in depth):
            # A line feed cannot be in a step id, so a dummy never has a step's name.
            dummies = [f"{source}\n{target}\n{level}" for level in range(depth[source] + 1, depth[target])]
            for level, dummy in enumerate(dummies, depth[source] + 1):
                layers[level].append(dummy)
            routes[source, target] = (source, *dummies, target)
    return layers, routes


def _neighbours(links: Iterable[tuple[str, str]], end: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for link in links:
        found.setdefault(link[end], []).append(link[1 - end])
    return found


def _merged(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: [*before.get(name, ()), *after.get(name, ())] for name in {**before, **after}}


def _ordered(
    layers: list[list[str]],
    links: list[tuple[str, str]],
    before: Mapping[str, list[str]],
    after: Mapping[str, list[str]],
) -> list[list[str]]:
    best, least = layers, crossings(layers, links)
    current = [list(layer) for layer in layers]
    for sweep in range(SWEEPS):
        # Sorting is stable and the first order is the plan's, so a plan without crossings is left as written.
        if least == 0:
            break
        neighbours = before if sweep % 2 == 0 else after
        for layer in current if sweep % 2 == 0 else current[::-1]:
            place = {name: float(index) for other in current for index, name in enumerate(other)}
            mean = {name: _mean([place[n] for n in neighbours.get(name, ())], place[name]) for name in layer}
            layer.sort(key=mean.__getitem__)
        count = crossings(current, links)
        # The best order seen is kept, as a sweep may also make things worse.
        if count < least:
            best, least = [list(layer) for layer in current], count
    return best


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _distances(layer: Sequence[str], half: Mapping[str, float], gap: float) -> list[float]:
    """Return how far each node's centre stands at least from the first one's."""
    total, distances = 0.0, [0.0] if layer else []
    for left, right in pairwise(layer):
        total += half[left] + gap + half[right]
        distances.append(total)
    return distances


def _spread(layer: Sequence[str], half: Mapping[str, float], gap: float) -> dict[str, float]:
    distances = _distances(layer, half, gap)
    return {name: x - distances[-1] / 2 for name, x in zip(layer, distances, strict=True)}


def _settled(
    layer: Sequence[str], centre: Mapping[str, float], neighbours: Mapping[str, list[str]], distances: list[float]
) -> dict[str, float]:
    wanted = [_mean([centre[n] for n in neighbours.get(name, ())], centre[name]) for name in layer]
    free = isotonic([want - distance for want, distance in zip(wanted, distances, strict=True)])
    return {name: x + distance for name, x, distance in zip(layer, free, distances, strict=True)}
