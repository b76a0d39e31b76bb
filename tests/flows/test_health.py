"""One number for how well everything is: its knees, its parts, and how many steps may run for it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.vitals import SILENT, Room, Vitals
from workflowmaster.flows.health import (
    ENGINE,
    FEWEST,
    FULL,
    GIB,
    LOAD,
    MARGIN,
    MIB,
    OURS,
    OWN,
    RECENT,
    SERVER,
    Health,
    failures,
    health,
    parallel,
    steadied,
    wanted,
)

WELL = Vitals(
    load=0.9,
    memory=Room(8 * GIB, 16 * GIB),
    disk=Room(100 * GIB, 200 * GIB),
    engine_disk=Room(100 * GIB, 200 * GIB),
    engine=0.002,
    server=0.01,
)
PARTS = ["cpu", "memory", "disk", "engine_disk", "engine", "server"]

seconds = st.one_of(st.none(), st.floats(0, 100), st.just(SILENT))
rooms = st.one_of(
    st.none(), st.tuples(st.integers(0, 2**44), st.integers(0, 2**44)).map(lambda two: Room(min(two), max(two)))
)
looks = st.builds(
    Vitals,
    load=st.one_of(st.none(), st.floats(0, 500)),
    memory=rooms,
    disk=rooms,
    engine_disk=rooms,
    engine=seconds,
    server=seconds,
)
histories = st.lists(st.sampled_from([0.0, OWN, OURS]), max_size=40).map(tuple)
states = st.sampled_from(["closed", "half-open", "open"])


def part(name: str, **changed: Any) -> float:
    return health(replace(WELL, **changed)).parts[name]


def test_a_machine_that_is_well_has_exactly_one() -> None:
    found = health(WELL, ended=(0.0,) * 20)
    assert found.value == 1
    assert list(found.parts) == [*PARTS, "failures"]
    assert found.low == []
    assert str(found) == "health 1.00"


@pytest.mark.parametrize(
    ("name", "changed", "value"),
    [
        ("cpu", {"load": 2.0}, 1.0),
        ("cpu", {"load": math.sqrt(20)}, (1 + LOAD.least) / 2),
        ("cpu", {"load": 400.0}, LOAD.least),
        ("cpu", {"load": 0.0}, 1.0),
        ("memory", {"memory": Room(1 * GIB + 700 * MIB, 16 * GIB)}, 1.0),
        ("memory", {"memory": Room(256 * MIB, 16 * GIB)}, 0.0),
        ("memory", {"memory": Room(2 * GIB, 512 * GIB)}, 1.0),
        ("memory", {"memory": Room(0, 16 * GIB)}, 0.0),
        ("disk", {"disk": Room(100 * MIB, 200 * GIB)}, 0.0),
        ("disk", {"disk": Room(30 * MIB, 64 * MIB)}, 1.0),
        ("disk", {"disk": Room(MIB // 2, 64 * MIB)}, 0.0),
        ("engine_disk", {"engine_disk": Room(1 * GIB, 200 * GIB)}, 0.5),
        ("engine", {"engine": 0.25}, 1.0),
        ("engine", {"engine": 5.0}, ENGINE.least),
        ("engine", {"engine": SILENT}, 0.0),
        ("server", {"server": 60.0}, SERVER.least),
        ("server", {"server": SILENT}, 0.2),
    ],
)
def test_each_part_has_its_knees(name: str, changed: dict[str, Any], value: float) -> None:
    assert part(name, **changed) == pytest.approx(value, abs=0.03)


def test_one_dead_part_shows_however_well_the_others_are() -> None:
    for changed in ({"engine": SILENT}, {"memory": Room(0, GIB)}, {"disk": Room(0, GIB)}):
        assert health(replace(WELL, **changed)).value == 0


def test_four_weak_parts_are_worse_than_one() -> None:
    one = health(replace(WELL, engine=1.0)).value
    four = health(replace(WELL, engine=1.0, load=6.0, server=2.0, disk=Room(GIB, 200 * GIB))).value
    assert four < 0.6 * one


def test_what_only_makes_steps_slow_does_not_cost_any_by_itself() -> None:
    """Below a half decisions begin to give up steps that are not of high priority."""
    assert health(replace(WELL, load=1000.0)).value > 0.5
    assert health(replace(WELL, server=30.0)).value >= 0.5
    assert health(WELL, ended=(OWN,) * 30).value >= 0.5


def test_what_cannot_be_measured_takes_nothing_away() -> None:
    assert health(Vitals()) == Health(1.0, {}, {})
    found = health(Vitals(engine=1.0))
    assert list(found.parts) == ["engine"]
    assert found.value == found.parts["engine"] < 1


@pytest.mark.parametrize(("state", "most"), [("closed", 1.0), ("half-open", 0.5), ("open", 0.0)])
def test_a_breaker_says_of_the_engine_what_a_look_does_not(state: Any, most: float) -> None:
    assert health(WELL, breaker=state).parts["engine"] == most
    # Before the first look, too.
    assert health(Vitals(), breaker=state).value == most


@pytest.mark.parametrize(
    ("ended", "value"),
    [
        ((), 1.0),
        ((OURS,), 1 - 1 / FEWEST),
        ((OWN,), 1 - 0.5 / FEWEST),
        ((OURS,) * FEWEST, 0.0),
        ((OWN,) * 100, 0.5),
        ((OURS,) * 100 + (0.0,) * RECENT, 1.0),
        ((0.0,) * 100 + (OURS,) * (RECENT // 2), 0.5),
    ],
)
def test_failures_are_a_share_of_the_last_attempts(ended: tuple[float, ...], value: float) -> None:
    assert failures(ended) == pytest.approx(value)


def test_it_says_what_is_low_worst_first() -> None:
    found = health(replace(WELL, engine=1.2, memory=Room(300 * MIB, 16 * GIB)), ended=(OURS, 0.0))
    assert found.low == ["memory", "engine", "failures"]
    assert str(found).startswith("health 0.0")
    assert "memory (300 MiB free), engine (answers in 1200 ms), failures (1 of the last 2 attempts)" in str(found)
    assert "engine (no answer)" in str(health(replace(WELL, engine=SILENT)))
    assert "engine (its breaker is open)" in str(health(WELL, breaker="open"))


@given(looks, histories, states)
def test_it_lies_between_nothing_and_one(look: Vitals, ended: tuple[float, ...], state: Any) -> None:
    found = health(look, ended=ended, breaker=state)
    assert 0 <= found.value <= 1
    assert all(0 <= value <= 1 for value in found.parts.values())
    assert found.value <= min(found.parts.values(), default=1.0)
    assert set(found.words) == set(found.parts)


def worse(name: str, value: Any) -> Any:
    if name in ("memory", "disk", "engine_disk"):
        return replace(value, free=value.free // 2)
    return value * 2 + 0.1


@given(looks, histories, st.sampled_from(["load", "memory", "disk", "engine_disk", "engine", "server"]))
def test_it_never_rises_because_something_got_worse(look: Vitals, ended: tuple[float, ...], name: str) -> None:
    value = getattr(look, name)
    if value is not None:
        after = health(replace(look, **{name: worse(name, value)}), ended=ended).value
        assert after <= health(look, ended=ended).value + 1e-12


@given(looks, histories)
def test_nor_because_an_attempt_failed_or_a_breaker_opened(look: Vitals, ended: tuple[float, ...]) -> None:
    ended = ended or (0.0,)
    well, own, ours = (health(look, ended=(*ended, weight)).value for weight in (0.0, OWN, OURS))
    assert ours <= own <= well
    by_state = [health(look, ended=ended, breaker=state).value for state in ("closed", "half-open", "open")]
    assert by_state == sorted(by_state, reverse=True)


# --- one look is not enough ---


def test_one_slow_answer_is_no_illness() -> None:
    slow = replace(WELL, engine=SILENT, server=SILENT)
    assert steadied([WELL, slow, WELL]) == WELL
    assert steadied([WELL, slow]).engine == WELL.engine
    assert steadied([slow, slow, WELL]).engine == SILENT
    assert steadied([slow]).engine == SILENT


@given(st.lists(looks, min_size=1, max_size=3))
def test_the_middle_is_one_of_what_was_seen(seen: list[Vitals]) -> None:
    found = steadied(seen)
    for name in ("load", "memory", "disk", "engine_disk", "engine", "server"):
        known = [getattr(look, name) for look in seen if getattr(look, name) is not None]
        assert getattr(found, name) in (known or [None])


# --- how many steps may run ---

shares = st.floats(0, 1)
limits = st.integers(1, 64)


@pytest.mark.parametrize(
    ("value", "limit", "found"),
    [(1.0, 8, 8), (FULL, 8, 8), (0.69, 8, 8), (0.55, 8, 7), (0.35, 8, 4), (0.1, 8, 2), (0.0, 8, 1), (0.0, 1, 1)],
)
def test_low_health_leaves_room_for_fewer(value: float, limit: int, found: int) -> None:
    assert wanted(value, limit) == found


@given(shares, shares, limits, limits)
def test_more_health_never_leaves_room_for_fewer(one: float, other: float, limit: int, before: int) -> None:
    low, high = sorted((one, other))
    before = min(before, limit)
    assert wanted(low, limit) <= wanted(high, limit)
    assert parallel(low, limit, before) <= parallel(high, limit, before)


@given(shares, limits, limits)
def test_there_is_always_room_for_one_and_never_for_more_than_may(value: float, limit: int, before: int) -> None:
    found = parallel(value, limit, min(before, limit))
    assert 1 <= found <= limit
    assert found <= max(wanted(value, limit), min(before, limit))


@given(shares, limits, limits)
def test_asked_again_nothing_changes(value: float, limit: int, before: int) -> None:
    once = parallel(value, limit, min(before, limit))
    assert parallel(value, limit, once) == once


@given(shares, limits, st.lists(st.floats(-MARGIN / 2, MARGIN / 2), min_size=2, max_size=20))
def test_what_trembles_by_less_than_the_margin_changes_it_in_one_direction(
    value: float, limit: int, trembling: list[float]
) -> None:
    room, seen = limit, []
    for change in trembling:
        room = parallel(min(max(value + change, 0.0), 1.0), limit, room)
        seen.append(room)
    assert seen == sorted(seen, reverse=True)


def test_a_machine_that_is_well_again_gives_all_of_it_back() -> None:
    assert parallel(1.0, 8, 1) == 8
    assert parallel(FULL, 8, 8) == 8
    assert parallel(FULL, 8, 4) == 7
    assert parallel(FULL + MARGIN + 0.01, 8, 4) == 8
