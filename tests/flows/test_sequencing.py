"""Orders: of tasks, of prose steps, and circles named in full."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.flows.naming import clashes, instance_id, slug, step_name, variable
from workflowmaster.flows.ordering import ancestors, find_cycle, in_order
from workflowmaster.flows.sequencing import Node, sequence
from workflowmaster.flows.stepitems import Item


def node(node_id: str, name: str = "x", **item) -> Node:
    fields = {"text": "", "meaning": "implementation", "line": 1, "end_line": 1, "section": "s", "rule": "r"}
    return Node(node_id, node_id.partition(".")[0], Item(name=name, **(fields | item)))


def waits(*nodes: Node, texts: dict[str, str] | None = None):
    tasks: dict[str, list[Node]] = {}
    for one in nodes:
        tasks.setdefault(one.task, []).append(one)
    return sequence(tasks, {one.id: (texts or {}).get(one.id, "") for one in nodes})


def test_the_page_is_the_order():
    assert waits(node("5.1"), node("5.2"), node("6.1")).needs == {"5.1": (), "5.2": ("5.1",), "6.1": ()}


def test_a_parallel_list_stands_between_both_sides():
    found = waits(node("5.1"), node("5.2", parallel=9), node("5.3", parallel=9), node("5.4"), node("5.5", parallel=20))
    assert found.needs == {"5.1": (), "5.2": ("5.1",), "5.3": ("5.1",), "5.4": ("5.2", "5.3"), "5.5": ("5.4",)}


def test_a_shared_file_orders_parallel_steps():
    texts = {"5.1": "`a.py`", "5.2": "`b.py` `a.py`", "5.3": "`b.py`"}
    found = waits(*(node(f"5.{n}", parallel=9) for n in (1, 2, 3)), texts=texts)
    assert found.needs == {"5.1": (), "5.2": ("5.1",), "5.3": ("5.2",)}


def test_after_a_numbered_step():
    found = waits(
        node("5.1", number="1"), node("5.2", number="2"), node("5.3", "Paint after step 1", number="3", parallel=7)
    )
    assert found.needs["5.3"] == ("5.1", "5.2")


def test_after_a_phase_means_all_of_it():
    nodes = [
        node("5.1", phase="1"),
        node("5.2", phase="1", parallel=2),
        node("5.3", "Once phase 1 is done", phase="2", parallel=3),
    ]
    assert set(waits(*nodes).needs["5.3"]) == {"5.1", "5.2"}


def test_a_wait_for_a_later_task_is_dropped_and_named():
    found = waits(node("5.1", "Build after step 9"), node("6.1", number="9"))
    assert found.needs == {"5.1": (), "6.1": ()}
    assert [(one.id, number) for one, number in found.unresolved] == [("5.1", "9")]


def test_an_earlier_task_may_be_waited_for():
    assert waits(node("4.1", number="1"), node("5.1", "Build, depends on step 1")).needs["5.1"] == ("4.1",)


def test_a_cycle_is_named_from_its_first_member():
    assert find_cycle({"x": (), "a": ("c",), "b": ("a",), "c": ("b", "x")}) == ["a", "c", "b", "a"]
    assert find_cycle({"a": ("a",)}) == ["a", "a"]
    assert find_cycle({"a": (), "b": ("a",)}) == []


def test_what_hangs_behind_a_cycle_is_not_named():
    assert find_cycle({"late": ("a",), "a": ("b",), "b": ("a",)}) == ["a", "b", "a"]


graphs = st.integers(1, 25).flatmap(
    lambda size: st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=60).map(
        lambda edges: {str(one): tuple(sorted({str(b) for a, b in edges if a == one})) for one in range(size)}
    )
)


@settings(deadline=None)
@given(graphs)
def test_an_order_respects_every_need_or_there_is_a_cycle(needs):
    order = in_order(needs)
    for index, name in enumerate(order):
        assert set(needs[name]) <= set(order[:index])
    cycle = find_cycle(needs)
    assert bool(cycle) == (len(order) < len(needs))
    for one, other in pairwise(cycle):
        assert other in needs[one]
    assert not cycle or cycle[0] == cycle[-1]


@settings(deadline=None)
@given(graphs)
def test_an_order_is_the_smallest_by_the_page(needs):
    order = in_order(needs)
    done: set[str] = set()
    for name in order:
        ready = [one for one in needs if one not in done and set(needs[one]) <= done]
        assert name == ready[0]
        done.add(name)


@settings(deadline=None)
@given(graphs, st.data())
def test_ancestors_are_what_must_have_ended(needs, data):
    name = data.draw(st.sampled_from(sorted(needs)))
    before = ancestors(needs, name)
    assert set(needs[name]) <= before
    assert all(set(needs[one]) <= before for one in before)


@settings(deadline=None)
@given(st.text(max_size=100))
def test_slugs_are_ids(text):
    made = slug(text)
    assert len(made) <= 60
    assert slug(made) == made
    assert all(sign.isascii() and (sign.isalnum() or sign in "-_") for sign in made)
    assert not made or (made[0].isalnum() and made[-1].isalnum())
    assert step_name(text)[0] == slug(step_name(text)[0])


def test_variables():
    assert variable("STEP", "tests/3.11-x", "made-it") == "STEP_TESTS_3_11_X_MADE_IT"
    assert instance_id("t", {"a": "x y", "b": "//", "c": "1.0+2"}) == "t/x-y---1.0+2"
    assert clashes(["a-b", "c", "a_b", "A-B"], "INPUT") == {"a_b": "a-b", "A-B": "a-b"}
