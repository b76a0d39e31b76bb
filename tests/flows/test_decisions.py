"""What is decided about a failed attempt, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.decisions import LONGEST_WAIT, delays, worth_retrying
from workflowmaster.flows.plan import Retries, Source, Step


def step(**retries: object) -> Step:
    given = Retries.model_validate(retries)
    return Step(id="build", name="build", kind="command", retries=given, source=Source(line=1, end_line=1))


@pytest.mark.parametrize(
    ("backoff", "wanted"),
    [
        ("exponential", [2, 4, 8, 16]),
        ("linear", [2, 4, 6, 8]),
        ("fixed", [2, 2, 2, 2]),
    ],
)
def test_delays_grow_as_asked(backoff: str, wanted: list[float]) -> None:
    assert delays(Retries.model_validate({"max": 4, "backoff": backoff, "wait_seconds": 2}), 4) == wanted


@given(st.sampled_from(["exponential", "linear", "fixed"]), st.floats(0, 1e6), st.integers(0, 20))
def test_no_delay_is_longer_than_the_cap(backoff: str, first: float, count: int) -> None:
    found = delays(Retries.model_validate({"max": count, "backoff": backoff, "wait_seconds": first}), count)
    assert len(found) == count
    assert all(0 <= wait <= LONGEST_WAIT for wait in found)
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("retries", "attempt", "cause", "verb", "reason"),
    [
        ({"max": 2}, 1, "failure", "retry", "attempts-left: 1 of 2 retries"),
        ({"max": 2}, 2, "oom", "retry", "attempts-left: 2 of 2 retries"),
        ({"max": 2}, 3, "failure", "continue", "retries-spent: no attempt is left"),
        ({"max": 0}, 1, "failure", "continue", "retries-spent: no attempt is left"),
        ({"max": 2}, 1, "output", "abort", "never-retried: output would only repeat"),
        ({"max": 2}, 1, "policy", "abort", "never-retried: policy would only repeat"),
        ({"max": 2, "on": ["timeout"]}, 1, "timeout", "retry", "attempts-left: 1 of 2 retries"),
        ({"max": 2, "on": ["timeout"]}, 1, "failure", "continue", "not-listed: failure is not among timeout"),
        ({"max": 2, "on": ["transient"]}, 1, "sandbox", "retry", "attempts-left: 1 of 2 retries"),
        ({"max": 2, "on": ["transient"]}, 1, "killed", "retry", "attempts-left: 1 of 2 retries"),
        (
            {"max": 2, "on": ["transient", "oom"]},
            1,
            "timeout",
            "continue",
            "not-listed: timeout is not among transient, oom",
        ),
    ],
)
def test_whether_to_try_again(retries: dict[str, object], attempt: int, cause: str, verb: str, reason: str) -> None:
    decision = worth_retrying(step(**retries), attempt=attempt, cause=cause, reason="exit 1")
    assert (decision.verb, decision.reason) == (verb, reason)
    assert decision.factors == {
        "attempt": attempt,
        "max": retries["max"],
        "cause": cause,
        "failure": "exit 1",
        "priority": "medium",
    }
