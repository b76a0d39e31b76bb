"""Layers, places and edges of the plan's graph, and its mermaid chart."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.graphs import ALIKE, MOST_BOXES, gathered, mermaid
from workflowmaster.flows.layers import arrange, crossings, isotonic, layered, reduced
from workflowmaster.flows.reading import read
from workflowmaster.flows.report import graph_svg

SVG = "{http://www.w3.org/2000/svg}"
MERMAID_NODE = re.compile(r'  n\d+\["[^"<>`\[\]{}()|]*"\]')


@st.composite
def graphs(draw):
    """Return acyclic needs: node → some of the nodes before it."""
    count = draw(st.integers(0, 14))
    return {
        f"s{n}": tuple(f"s{m}" for m in draw(st.sets(st.integers(0, n - 1), max_size=4))) if n else ()
        for n in range(count)
    }


def reachable(needs, name):
    above = set()
    for need in needs[name]:
        above |= {need} | reachable(needs, need)
    return above


@given(graphs())
def test_every_step_stands_below_its_needs(needs):
    depth = {name: n for n, layer in enumerate(layered(needs)) for name in layer}
    assert set(depth) == set(needs)
    for name, sources in needs.items():
        assert depth[name] == max((depth[s] + 1 for s in sources), default=0)


@given(graphs(), st.randoms(use_true_random=False))
def test_layers_do_not_depend_on_the_order_of_names(needs, random):
    names = list(needs)
    random.shuffle(names)
    shuffled = layered({name: needs[name] for name in names})
    assert [set(layer) for layer in shuffled] == [set(layer) for layer in layered(needs)]


@given(graphs())
def test_reduction_keeps_what_depends_on_what(needs):
    less = reduced(needs)
    for name in needs:
        assert reachable(less, name) == reachable(needs, name)
        for need in less[name]:
            assert not any(need in reachable(needs, other) for other in less[name])


@given(graphs(), st.floats(1, 30))
def test_boxes_of_a_layer_keep_their_distance(needs, gap):
    size = {name: 10.0 + len(needs[name]) for name in needs}
    layout = arrange(needs, size, gap)
    for layer in layout.layers:
        for left, right in pairwise(layer):
            room = layout.centre[right] - layout.centre[left]
            assert room >= size.get(left, 0) / 2 + gap + size.get(right, 0) / 2 - 1e-6
    for name in needs:
        assert layout.centre[name] - size[name] / 2 >= -1e-6
        assert layout.centre[name] + size[name] / 2 <= layout.extent + 1e-6


@given(graphs())
def test_edges_pass_every_layer_between_their_ends(needs):
    layout = arrange(needs, {}, 5)
    depth = {name: n for n, layer in enumerate(layout.layers) for name in layer}
    assert set(layout.routes) == {(source, target) for target, sources in needs.items() for source in sources}
    for (source, target), route in layout.routes.items():
        assert (route[0], route[-1]) == (source, target)
        assert all(depth[b] == depth[a] + 1 for a, b in pairwise(route))


@given(st.lists(st.floats(-100, 100), max_size=20))
def test_isotonic_regression(wanted):
    found = isotonic(wanted)
    assert found == sorted(found)
    assert sum(found) == pytest.approx(sum(wanted), abs=1e-6)
    assert isotonic(found) == pytest.approx(found)


def test_ordering_takes_crossings_away():
    needs = {"a": (), "b": (), "c": ("b",), "d": ("a",)}
    links = [("b", "c"), ("a", "d")]
    assert crossings([["a", "b"], ["c", "d"]], links) == 1
    assert crossings(arrange(needs, {}, 1).layers, links) == 0


def test_a_fan_is_symmetric_about_its_ends(shapes):
    rows = read(shapes["fan"]()).rows
    layout = arrange({row.step.id: row.step.needs for row in rows}, {row.step.id: 40.0 for row in rows}, 10)
    assert layout.centre["build"] == pytest.approx(layout.extent / 2)
    assert layout.centre["join"] == pytest.approx(layout.extent / 2)


def nodes_and_edges(svg):
    root = ET.fromstring(svg)
    classes = [(e.tag.removeprefix(SVG), (e.get("class") or "").split()) for e in root.iter()]
    return sum(t == "rect" and "node" in c for t, c in classes), sum(t == "path" and "edge" in c for t, c in classes)


def test_a_small_plan_is_drawn_box_by_box(shapes):
    assert nodes_and_edges(graph_svg(shapes["fan"]())) == (10, 16)
    assert nodes_and_edges(graph_svg(shapes["failing"]())) == (6, 6)
    assert nodes_and_edges(graph_svg(shapes["single"]())) == (1, 0)


def test_many_alike_become_one_box(make):
    wide = [make.step(f"t/{n}", "a") for n in range(ALIKE + 1)]
    plan = make.plan(make.step("a"), *wide, make.step("z", *(s.id for s in wide)))
    nodes = gathered(read(make.state(plan, [])).rows)
    assert [(n.name, n.title, n.needs) for n in nodes] == [
        ("a", "a", ()),
        ("t/0", "t/… \N{MULTIPLICATION SIGN}9", ("a",)),
        ("z", "z", ("t/0",)),
    ]
    assert nodes[1].note == "all pending"


def test_a_huge_plan_is_told_by_layers(shapes):
    svg = graph_svg(shapes["many"]())
    assert nodes_and_edges(svg) == (0, 0)
    assert "70 steps: 1 failed, 69 completed" in svg


def test_a_box_of_many_shows_its_worst_status(shapes):
    rows = read(shapes["many"]()).rows
    chart = mermaid(rows)
    assert "build/" in chart
    assert chart.count("✗") == 1


def test_a_thousand_steps_are_drawn_in_time(make):
    steps = [make.step(f"s{n}", *(f"s{m}" for m in {n // 2, n // 3} if m < n)) for n in range(1000)]
    state = make.state(make.plan(*steps), [])
    began = time.perf_counter()
    graph_svg(state)
    mermaid(read(state).rows)
    # Measured 0.2 s on a busy two-core machine; a quadratic layout would take minutes.
    assert time.perf_counter() - began < 5


def test_mermaid_chart(failed_state):
    lines = mermaid(read(failed_state).rows).splitlines()
    assert lines[:4] == ["flowchart LR", '  n0["✓ reproduce"]', '  n1["✓ fix"]', '  n2["✓ lint"]']
    assert "  n1 --> n3" in lines
    assert "  class n3 failed" in lines


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5, unique=True))
def test_no_name_can_become_mermaid_syntax(make, names):
    chart = mermaid(read(make.state(make.plan(*(make.step(name) for name in names)), [])).rows).splitlines()
    assert len([line for line in chart if MERMAID_NODE.fullmatch(line)]) == len(names)
    assert len(chart) == 1 + len(names)


@pytest.mark.parametrize("apart", [1, 3])
def test_mermaid_stays_small(make, apart):
    steps = [make.step(f"s{n}", *([f"s{n - apart}"] if n >= apart else [])) for n in range(420)]
    chart = mermaid(read(make.state(make.plan(*steps), [])).rows)
    assert MOST_BOXES / 2 < len(MERMAID_NODE.findall(chart)) <= MOST_BOXES
    assert sum(int(n) for n in re.findall("\N{MULTIPLICATION SIGN}(\\d+)", chart)) == 420
