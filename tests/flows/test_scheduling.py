"""The order of steps: held for graphs nobody drew, against definitions written down a second time, plainly."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.plan import Source, Step
from workflowmaster.flows.scheduling import ReadyQueue, ancestors, remaining_minutes

if TYPE_CHECKING:
    from collections.abc import Callable


def step(name: str, *needs: str, minutes: float = 1.0, priority: str = "medium") -> Step:
    place = Source(line=1, end_line=1)
    return Step.model_validate(
        {
            "id": name,
            "name": name,
            "kind": "command",
            "needs": needs,
            "estimated_minutes": minutes,
            "priority": priority,
            "source": place,
        }
    )


@st.composite
def graphs(draw: Callable[..., Any]) -> list[Step]:
    """Any acyclic graph of up to a dozen steps, in topological order."""
    count = draw(st.integers(1, 12))
    steps = []
    for index in range(count):
        earlier = [f"s{n}" for n in range(index)]
        needs = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=4)) if earlier else []
        minutes = draw(st.sampled_from([0.5, 1.0, 2.0, 5.0]))
        steps.append(
            step(f"s{index}", *needs, minutes=minutes, priority=draw(st.sampled_from(["high", "medium", "low"])))
        )
    return steps


def longest_path(name: str, steps: dict[str, Step]) -> float:
    behind = [longest_path(other.id, steps) for other in steps.values() if name in other.needs]
    return steps[name].estimated_minutes + max(behind, default=0.0)


def simulate(steps: list[Step], slots: int) -> list[tuple[float, str, str]]:
    """Run the steps on paper: (time, "start" or "end", step), each taking its estimated minutes."""
    queue, now, running = ReadyQueue(steps), 0.0, list[tuple[float, str]]()
    events = []
    while queue or running:
        while queue and len(running) < slots:
            taken = queue.take()
            running.append((now + taken.estimated_minutes, taken.id))
            events.append((now, "start", taken.id))
        running.sort()
        now, ended = running.pop(0)
        events.append((now, "end", ended))
        queue.end(ended)
    return events


@given(graphs())
def test_weights_are_longest_paths(steps: list[Step]) -> None:
    known = {one.id: one for one in steps}
    assert remaining_minutes(steps) == pytest.approx({name: longest_path(name, known) for name in known})


@given(graphs(), st.integers(1, 4))
def test_every_step_runs_once_and_after_its_needs(steps: list[Step], slots: int) -> None:
    events = simulate(steps, slots)
    started = [name for _, what, name in events if what == "start"]
    assert sorted(started) == sorted(one.id for one in steps)
    place = {(what, name): index for index, (_, what, name) in enumerate(events)}
    assert all(place["end", need] < place["start", one.id] for one in steps for need in one.needs)


@given(graphs(), st.integers(1, 4))
def test_no_slot_is_idle_while_a_step_is_ready(steps: list[Step], slots: int) -> None:
    needs = {one.id: set(one.needs) for one in steps}
    started, ended = set[str](), set[str]()
    events = simulate(steps, slots)
    for index, (now, what, name) in enumerate(events):
        (started if what == "start" else ended).add(name)
        if index + 1 < len(events) and events[index + 1][0] > now:
            ready = [one for one in needs if one not in started and needs[one] <= ended]
            assert not ready or len(started - ended) == slots


@given(graphs())
def test_ready_steps_go_in_order_of_their_rank(steps: list[Step]) -> None:
    queue = ReadyQueue(steps)
    weight = remaining_minutes(steps)
    taken = []
    while queue:
        taken.append(queue.take())
    assert [queue.rank(one.id) for one in taken] == sorted(queue.rank(one.id) for one in taken)
    assert [weight[one.id] for one in taken] == sorted((weight[one.id] for one in taken), reverse=True)


@given(graphs(), st.integers(0, 6), st.integers(0, 3), st.integers(0, 3))
def test_upcoming_is_what_would_be_taken_if_all_went_well(
    steps: list[Step], limit: int, ending: int, starting: int
) -> None:
    queue, ended, running = ReadyQueue(steps), set[str](), set[str]()
    for count, ends in ((ending, True), (starting, False)):
        for _ in range(count):
            if queue:
                name = queue.take().id
                if ends:
                    queue.end(name)
                (ended if ends else running).add(name)
    wanted = list[str]()
    while len(wanted) < limit:
        done = ended | running | set(wanted)
        free = [one.id for one in steps if one.id not in done and set(one.needs) <= done]
        if not free:
            break
        wanted.append(min(free, key=queue.rank))
    assert [one.id for one in queue.upcoming(running, limit)] == wanted


@given(graphs())
def test_ancestors_are_the_transitive_needs(steps: list[Step]) -> None:
    known = {one.id: one for one in steps}

    def all_needs(name: str) -> set[str]:
        return set(known[name].needs).union(*(all_needs(need) for need in known[name].needs))

    assert ancestors(steps) == {name: frozenset(all_needs(name)) for name in known}


def test_the_long_chain_goes_first_then_the_urgent_then_the_first_written() -> None:
    steps = [
        step("side"),
        step("later", priority="low"),
        step("urgent", priority="high"),
        step("chain"),
        step("end", "chain", minutes=9),
    ]
    queue = ReadyQueue(steps)
    assert [queue.take().id for _ in range(4)] == ["chain", "urgent", "side", "later"]


def test_nothing_ready_is_an_error() -> None:
    with pytest.raises(IndexError):
        ReadyQueue([]).take()


def test_a_thousand_steps_are_scheduled_in_no_time() -> None:
    steps = [step("s0"), *(step(f"s{n}", f"s{max(0, n - 7)}") for n in range(1, 5000))]
    began = time.perf_counter()
    assert len(simulate(steps, 8)) == 2 * len(steps)
    assert time.perf_counter() - began < 2.0
