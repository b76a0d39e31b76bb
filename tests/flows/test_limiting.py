"""Which limits hold: lowered by wishes and settings at first, larger where a decision or a person says so, within caps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster import policies
from workflowmaster.flows import limiting
from workflowmaster.flows.plan import Limits, Resources, Source, Step
from workflowmaster.flows.settings import Settings

MIB = 2**20
STANDARD = policies.load("standard")


def step(**fields: object) -> Step:
    return Step.model_validate(
        {"id": "a", "name": "a", "kind": "command", "source": Source(line=1, end_line=1), **fields}
    )


def test_what_a_step_may_grow_to_is_its_policys_grant_and_not_its_own_wish(home: object) -> None:
    small = step(resources=Resources(memory=64 * MIB), timeout_seconds=10)
    assert limiting.effective(small, Settings()).memory == 64 * MIB
    assert limiting.caps(small, Settings()) == Limits(memory=STANDARD.memory, seconds=STANDARD.wall_seconds_max)


def test_the_operators_ceiling_holds_for_what_grows_too(home: object) -> None:
    assert limiting.caps(step(), Settings(max_memory_mb=100)).memory == 100 * MIB


@pytest.mark.parametrize(
    ("more", "memory", "seconds"),
    [
        (Limits(memory=4096 * MIB), 4096 * MIB, STANDARD.wall_seconds_max),
        (Limits(seconds=7), STANDARD.memory, 7),
        (Limits(memory=64 * MIB, seconds=9.5), 64 * MIB, 9.5),
    ],
)
def test_a_larger_policy_differs_in_nothing_else(more: Limits, memory: int, seconds: float) -> None:
    found = limiting.larger(STANDARD, more)
    assert (found.memory, found.wall_seconds_max) == (memory, seconds)
    changed = {name for name in type(found).model_fields if getattr(found, name) != getattr(STANDARD, name)}
    assert changed <= {"memory", "wall_seconds_default", "wall_seconds_max"}
    assert found.hash != STANDARD.hash


def test_without_growth_everything_is_as_it_was() -> None:
    one = step(timeout_seconds=5)
    assert limiting.larger(STANDARD, None) is STANDARD
    assert limiting.longer(one, None) is one
    assert limiting.longer(one, Limits(memory=MIB)) is one
    assert limiting.longer(one, Limits(seconds=5)) is one
    assert limiting.longer(one, Limits(seconds=8)).timeout_seconds == 8


sizes = st.none() | st.integers(1, 10**10)
times = st.none() | st.floats(0.1, 1e5)


@given(st.builds(Limits, memory=sizes, seconds=times), st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_wish_is_granted_between_what_the_step_had_and_what_it_may_have(wish: Limits, had: int, more: int) -> None:
    start, most = Limits(memory=had, seconds=float(had)), Limits(memory=had + more, seconds=float(had + more))
    found = limiting.within(wish, start, most)
    for name in ("memory", "seconds"):
        value = getattr(found, name)
        assert (value is None) == (getattr(wish, name) is None)
        assert value is None or getattr(start, name) <= value <= getattr(most, name)
