"""What is known about a failure, what rules another attempt out, and how sure history has to be."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.facts import (
    HOPEFUL,
    HOPELESS,
    NAMED,
    Facts,
    Recalled,
    barred,
    bounds,
    hopeful,
    hopeless,
    recalled,
)
from workflowmaster.flows.plan import Failure, FailureClass, Limits


def facts(cls: FailureClass = "unknown", *, failure: dict[str, Any] | None = None, **more: Any) -> Facts:
    known: dict[str, Any] = {
        "step": "build",
        "kind": "command",
        "priority": "medium",
        "mandatory": True,
        "on_failure": "auto",
        "mode": "autonomous",
        "attempt": 1,
        "most": 4,
        "stated": False,
        "failure": Failure(cls=cls, fingerprint="0123456789abcdef", **(failure or {})),
    }
    return Facts(**{**known, **more})


@pytest.mark.parametrize(
    ("case", "name", "why"),
    [
        (facts(), "", ""),
        (facts(budget_spent="9 of 9 attempts are used"), "budget", "9 of 9 attempts are used"),
        (facts("disk"), "never", "such failures are never tried again"),
        (facts(attempt=4), "spent", "attempt 4 of 4 was the last"),
        (facts(most=1), "spent", "no retry is allowed here"),
        (facts(most=1, stated=True), "spent", "its prompt allows no retry"),
        (
            facts(retries_on=("oom", "timeout")),
            "not-listed",
            "failure is not among oom, timeout, which its prompt lists",
        ),
        (facts("network", retries_on=("oom",)), "not-listed", "transient is not among oom, which its prompt lists"),
        (facts("out_of_memory", retries_on=("oom",)), "", ""),
        (facts("timeout", retries_on=("timeout",)), "", ""),
        # Killed by nobody knows whom: memory, or whatever passes.
        (facts("out_of_memory", failure={"confidence": 0.5}, retries_on=("transient",)), "", ""),
        (
            facts("out_of_memory", failure={"confidence": 0.5}, retries_on=("timeout",)),
            "not-listed",
            "oom or transient is not among timeout, which its prompt lists",
        ),
        (facts("sandbox_unavailable", retries_on=("transient",)), "", ""),
        (facts(repeated=True), "repeated", "the same failure came twice on the same inputs"),
        (facts("rate_limit", repeated=True), "", ""),
        (facts("out_of_memory", repeated=True), "repeated", "the same failure came twice on the same inputs"),
        (facts("out_of_memory", repeated=True, growth=Limits(memory=1)), "", ""),
        (facts("rate_limit", failure={"retry_after": 3900.0}), "", ""),
        (
            facts("rate_limit", failure={"retry_after": 7200.0}),
            "too-long",
            "it was told to wait 7200 s, and 3900 is the most",
        ),
        # The first of several is the one that is told.
        (facts("disk", attempt=4, repeated=True), "never", "such failures are never tried again"),
    ],
)
def test_what_rules_another_attempt_out(case: Facts, name: str, why: str) -> None:
    found = barred(case)
    assert (found.name, found.why) == (name, why) if found else name == ""


@pytest.mark.parametrize(
    ("cls", "kind", "confidence", "permanent", "unclear"),
    [
        ("code_error", "command", 1.0, True, False),
        ("code_error", "command", 0.6, False, True),
        ("code_error", "agent", 1.0, False, True),
        ("permission", "command", 1.0, True, False),
        ("permission", "command", 0.6, False, False),
        ("merge_conflict", "agent", 1.0, True, False),
        ("test_failure", "command", 1.0, False, True),
        ("network", "command", 0.1, False, False),
        ("timeout", "agent", 1.0, False, False),
        ("out_of_memory", "command", 0.5, False, True),
    ],
)
def test_what_is_permanent_and_what_nobody_can_tell(
    cls: FailureClass, kind: str, confidence: float, permanent: bool, unclear: bool
) -> None:
    case = facts(cls, failure={"confidence": confidence}, kind=kind)
    assert (case.permanent, case.unclear) == (permanent, unclear)


def test_every_class_has_a_name() -> None:
    assert set(NAMED) == set(get_args(FailureClass))


@pytest.mark.parametrize(
    ("share", "cases", "low", "high"),
    [
        # Worked out with scipy 1.17: binomtest(k, n).proportion_ci(0.8, method="wilson").
        (0.0, 10, 0.0, 0.1411),
        (0.5, 10, 0.3122, 0.6878),
        (1.0, 10, 0.8589, 1.0),
        (0.9, 40, 0.8226, 0.9459),
    ],
)
def test_the_interval_of_a_chance(share: float, cases: int, low: float, high: float) -> None:
    assert bounds(Recalled(share, cases)) == pytest.approx((low, high), abs=1e-4)


@given(st.floats(0, 1), st.integers(0, 10_000))
def test_an_interval_holds_its_chance_and_stays_a_probability(share: float, cases: int) -> None:
    low, high = bounds(Recalled(share, cases))
    assert -1e-9 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1 + 1e-9


@pytest.mark.parametrize(
    ("share", "cases", "says"),
    [
        (1.0, 1, ""),
        (1.0, 2, "hopeful"),
        (0.75, 5, ""),
        (0.75, 20, "hopeful"),
        (0.55, 100, ""),
        (0.0, 10, ""),
        (0.0, 15, "hopeless"),
        (0.05, 40, ""),
        (0.05, 100, "hopeless"),
    ],
)
def test_few_cases_move_nothing(share: float, cases: int, says: str) -> None:
    case = facts(chance=Recalled(share, cases))
    assert (hopeful(case), hopeless(case)) == (says == "hopeful", says == "hopeless")


def test_nothing_learned_says_nothing() -> None:
    assert not hopeful(facts())
    assert not hopeless(facts())
    assert HOPELESS < HOPEFUL


def test_facts_come_back_from_their_record() -> None:
    case = facts(
        "timeout",
        failure={"retry_after": 5.0},
        retries_on=("timeout",),
        growth=Limits(seconds=600.0),
        chance=Recalled(0.25, 12),
        delays=(2.0, 4.0),
        health=1 / 3,
    )
    kept = json.loads(json.dumps(case.factors()))
    assert recalled("build", case.failure, kept) == case


def test_what_is_recorded_besides_is_no_fact() -> None:
    case = facts()
    kept = case.factors() | {"counts": True, "dependants_run": False, "barred": ""}
    assert recalled("build", case.failure, kept) == case


@pytest.mark.parametrize("record", [{"attempt": 1, "max": 2, "cause": "oom", "failure": "exit 1"}, {}])
def test_a_record_of_another_kind_is_told_apart(record: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        recalled("build", facts().failure, record)
