"""What the next attempt gets after one that ran out of memory or time."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.enlarging import MIB, WORTH, larger
from workflowmaster.flows.plan import FailureClass, Limits

CAPS = Limits(memory=512 * MIB, seconds=1800.0)
SMALL = Limits(memory=64 * MIB, seconds=300.0)


def grow(
    cls: FailureClass = "out_of_memory",
    *,
    current: Limits = SMALL,
    peak: int | None = 64 * MIB,
    used: float = 10.0,
    caps: Limits = CAPS,
    grown: Limits | None = None,
) -> Limits | None:
    return larger(cls, current=current, peak_memory=peak, used=used, caps=caps, grown=grown)


@pytest.mark.parametrize(
    ("current", "peak", "cap", "wanted"),
    [
        # A peak at its limit says nothing about the need, so the limit is doubled.
        (64, 64, 512, 128),
        (64, None, 512, 128),
        (64, 3, 512, 128),
        # A child of a container with a larger limit was killed after the whole had taken more than the limit says.
        (64, 100, 512, 150),
        (300, 300, 512, 512),
        (512, 512, 512, None),
        # A twentieth more is not worth an attempt.
        (490, 490, 512, None),
        (64, 64, None, 128),
        (None, 64, 512, None),
    ],
)
def test_memory_grows(current: int | None, peak: int | None, cap: int | None, wanted: int | None) -> None:
    found = grow(
        current=Limits(memory=current and current * MIB),
        peak=peak and peak * MIB,
        caps=Limits(memory=cap and cap * MIB),
    )
    assert found == (Limits(memory=wanted * MIB) if wanted else None)


def test_memory_is_rounded_up_to_whole_mebibytes_but_not_over_the_cap() -> None:
    odd = 6_000_001
    assert grow(current=Limits(memory=odd), peak=None) == Limits(memory=12 * MIB)
    assert grow(current=Limits(memory=odd), peak=None, caps=Limits(memory=odd + 4_000_000)) == Limits(
        memory=odd + 4_000_000
    )


def test_memory_grows_until_the_cap_and_then_no_more() -> None:
    """From 64 MiB under a cap of 512 there are three growths."""
    limits, seen = SMALL, []
    while found := grow(current=limits, grown=limits):
        assert found.memory is not None
        seen.append(found.memory // MIB)
        limits = found
    assert seen == [128, 256, 512]


@pytest.mark.parametrize(
    ("current", "used", "cap", "wanted"),
    [
        (300.0, 300.0, 1800.0, 600.0),
        # It ran on while it was being stopped.
        (300.0, 310.0, 1800.0, 620.0),
        (1200.0, 1200.0, 1800.0, 1800.0),
        (1800.0, 1800.0, 1800.0, None),
        (300.0, 300.0, None, 600.0),
        (None, 300.0, 1800.0, None),
    ],
)
def test_time_grows(current: float | None, used: float, cap: float | None, wanted: float | None) -> None:
    found = grow("timeout", current=Limits(seconds=current), used=used, caps=Limits(seconds=cap))
    assert found == (Limits(seconds=wanted) if wanted else None)


def test_time_grows_once() -> None:
    once = grow("timeout")
    assert once == Limits(seconds=600.0)
    assert grow("timeout", current=Limits(memory=64 * MIB, seconds=600.0), grown=once) is None


def test_what_has_grown_before_stays() -> None:
    more_memory = Limits(memory=128 * MIB)
    assert grow("timeout", grown=more_memory) == Limits(memory=128 * MIB, seconds=600.0)
    more_time = Limits(seconds=600.0)
    assert grow(grown=more_time) == Limits(memory=128 * MIB, seconds=600.0)


@pytest.mark.parametrize("cls", sorted(set(get_args(FailureClass)) - {"out_of_memory", "timeout"}))
def test_nothing_else_makes_anything_grow(cls: FailureClass) -> None:
    assert grow(cls) is None


sizes = st.integers(1, 2**42)
spans = st.floats(0.1, 1e6)


@given(
    st.sampled_from(["out_of_memory", "timeout"]),
    st.builds(Limits, memory=sizes, seconds=spans),
    st.none() | sizes,
    st.floats(0, 1e6),
    st.builds(Limits, memory=sizes, seconds=spans),
)
def test_growth_is_real_and_within_the_caps(
    cls: FailureClass, current: Limits, peak: int | None, used: float, caps: Limits
) -> None:
    found = grow(cls, current=current, peak=peak, used=used, caps=caps)
    if found is None:
        return
    for had, gets, most in (
        (current.memory, found.memory, caps.memory),
        (current.seconds, found.seconds, caps.seconds),
    ):
        assert had is not None
        assert most is not None
        if gets is not None:
            assert had * WORTH <= gets <= most
    assert [found.memory, found.seconds].count(None) == 1
