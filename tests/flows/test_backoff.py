"""How long is waited before the next attempt."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows import backoff
from workflowmaster.flows.backoff import JITTER, LONGEST_WAIT
from workflowmaster.flows.facts import LONGEST_PAUSE
from workflowmaster.flows.plan import Retries

SEED = "task-20261122-101500-ab12/build"
FIRST = 2.3486
"""What the first wait of two seconds is for that seed: a resume, and next year's version, must plan the same."""

strategies = st.sampled_from(["exponential", "linear", "fixed"])


def planned(strategy: str, first: float, count: int, seed: str = SEED) -> list[float]:
    return backoff.delays(Retries.model_validate({"backoff": strategy, "wait_seconds": first}), count, seed=seed)


@pytest.mark.parametrize(
    ("strategy", "multiples"),
    [("exponential", [1, 2, 4, 8, 16]), ("linear", [1, 2, 3, 4, 5]), ("fixed", [1, 1, 1, 1, 1])],
)
def test_delays_keep_the_shape_that_was_asked_for(strategy: str, multiples: list[int]) -> None:
    found = planned(strategy, 2.0, 5)
    assert found == pytest.approx([multiple * found[0] for multiple in multiples])


def test_a_seed_always_gives_the_same_delays() -> None:
    assert planned("fixed", 2.0, 3) == pytest.approx([FIRST] * 3, abs=1e-4)


def test_other_steps_and_other_runs_wait_otherwise() -> None:
    """A hundred runs that meet the same outage spread over the whole of the jitter."""
    firsts = [planned("exponential", 8.0, 1, seed=f"run-{number}/build")[0] for number in range(100)]
    assert len(set(firsts)) == 100
    assert max(firsts) - min(firsts) > 0.9 * 8.0 * JITTER


@given(strategies, st.floats(0, 1e6), st.integers(0, 20), st.text(max_size=40))
def test_delays_are_bounded_and_never_shorter_than_asked(strategy: str, first: float, count: int, seed: str) -> None:
    found = planned(strategy, first, count, seed)
    assert len(found) == count
    assert all(min(first, LONGEST_WAIT) <= wait <= LONGEST_WAIT for wait in found)
    assert found == sorted(found)
    if found:
        assert found[0] <= first * (1 + JITTER)


def test_a_thousand_doublings_are_still_the_cap() -> None:
    assert planned("exponential", 1.0, 1100)[-1] == LONGEST_WAIT


@pytest.mark.parametrize(
    ("wait", "retry_after", "wanted"),
    [
        (2.0, None, 2.0),
        (2.0, 60.0, 60.0),
        (90.0, 60.0, 90.0),
        (2.0, 0.0, 2.0),
        (2.0, -5.0, 2.0),
        (-1.0, None, 0.0),
        (2.0, 1e9, LONGEST_PAUSE),
        (2.0, math.inf, 2.0),
        (2.0, math.nan, 2.0),
        # Longer than any planned wait may be: whoever refused knows better than our cap.
        (300.0, 3600.0, 3600.0),
    ],
)
def test_whoever_refused_is_left_alone_as_long_as_asked(wait: float, retry_after: float | None, wanted: float) -> None:
    assert backoff.wait(wait, retry_after) == wanted
