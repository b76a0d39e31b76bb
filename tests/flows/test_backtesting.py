"""What each way of deciding would have made of failures that really happened."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.backtesting import WAYS, Backtest, Score, backtest, original
from workflowmaster.flows.decisions import decide
from workflowmaster.flows.facts import Facts, Recalled
from workflowmaster.flows.failurehistory import Case
from workflowmaster.flows.plan import Failure, FailureClass, Limits

ROOM = Limits(memory=128 * 2**20)


def facts(cls: FailureClass = "unknown", **more: Any) -> Facts:
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
        "failure": Failure(cls=cls, fingerprint="0123456789abcdef"),
    }
    return Facts(**{**known, **more})


def case(
    known: Facts,
    outcome: str = "unknown",
    minutes: float | None = 2.0,
    *,
    grown: bool = False,
    workflow: str = "task-1",
) -> Case:
    """A failed attempt as the history has it, decided by the table, and what its next attempt came to."""
    decision = decide(known)
    return Case(
        workflow=workflow,
        step=known.step,
        fingerprint=known.failure.fingerprint,
        cls=known.cls,
        confidence=known.failure.confidence,
        attempt=known.attempt,
        verb=decision.verb,
        rule=decision.rule,
        factors=decision.factors,
        grown=grown,
        outcome=outcome,
        minutes=minutes,
        at=1_000.0 * known.attempt,
    )


def scores(found: Backtest) -> dict[str, Score]:
    return {score.way: score for score in found.scores}


def told(score: Score) -> tuple[int, int, int, float, float, float, int]:
    minutes = (score.useful_minutes, score.wasted_minutes, score.spared_minutes)
    return (score.retries, score.saved, score.broken, *minutes, score.beyond)


def test_a_flake_that_passed_is_saved_by_whoever_tries_again() -> None:
    found = scores(backtest([case(facts("network"), "succeeded")]))
    again, never = (1, 1, 0, 2.0, 0.0, 0.0, 0), (0, 0, 1, 0.0, 0.0, 0.0, 0)
    assert {way: told(score) for way, score in found.items()} == {
        "rules": again,
        "rules + learned": again,
        "always retry": again,
        "never retry": never,
        "original": again,
    }


def test_a_retry_that_nobody_made_counts_for_nobody() -> None:
    found = backtest([case(facts("test_failure"))])
    assert (found.failures, found.known) == (1, 0)
    assert {way: told(score)[:6] for way, score in scores(found).items()} == dict.fromkeys(
        WAYS, (0, 0, 0, 0.0, 0.0, 0.0)
    )
    assert [way for way, score in scores(found).items() if score.beyond] == ["always retry"]


def test_the_attempts_of_a_step_are_one_story() -> None:
    """It took two retries. The original gave up after one, so it lost the step and spared nothing that failed."""
    story = [case(facts("network"), "failed", 1.0), case(facts("network", attempt=2), "succeeded", 3.0)]
    found = backtest(story[::-1])  # in any order
    assert (found.steps, found.known) == (1, 2)
    by_way = scores(found)
    assert told(by_way["rules"]) == (2, 1, 0, 3.0, 1.0, 0.0, 0)
    assert told(by_way["original"]) == (1, 0, 1, 0.0, 1.0, 0.0, 0)
    assert told(by_way["never retry"]) == (0, 0, 1, 0.0, 0.0, 1.0, 0)


def test_attempts_in_vain_are_wasted_or_spared() -> None:
    """A prompt asked for three retries of a deterministic test failure; the rules stop at the second."""
    asked = {"stated": True, "cls": "test_failure"}
    story = [
        case(facts(**asked), "failed", 5.0),
        case(facts(**asked, attempt=2, repeated=True), "failed", 5.0),
        case(facts(**asked, attempt=3, repeated=True), "failed", 5.0),
        case(facts(**asked, attempt=4, repeated=True)),
    ]
    by_way = scores(backtest(story))
    assert told(by_way["rules"]) == (1, 0, 0, 0.0, 5.0, 10.0, 0)
    assert told(by_way["always retry"]) == (3, 0, 0, 0.0, 15.0, 0.0, 0)
    assert told(by_way["never retry"]) == (0, 0, 0, 0.0, 0.0, 15.0, 0)


def test_what_came_long_after_is_another_story() -> None:
    """Resumed by hand after an unknown outcome, the step failed anew: nothing follows from one for the other."""
    found = backtest([case(facts()), case(facts(attempt=2), "succeeded")])
    assert found.steps == 2


@pytest.mark.parametrize(
    ("made_with_room", "outcome", "rules", "original_way"),
    [
        # With the memory it got it passed; without, nobody knows.
        (True, "succeeded", "saved", "beyond"),
        # What fails with more fails without.
        (True, "failed", "retries", "retries"),
        # It passed with the memory it had: another attempt with more would have, too.
        (False, "succeeded", "saved", "saved"),
        # It failed without more, and what it would have done with more nobody knows.
        (False, "failed", "beyond", "retries"),
    ],
)
def test_an_attempt_with_more_room_is_another_attempt(
    made_with_room: bool, outcome: str, rules: str, original_way: str
) -> None:
    known = facts("out_of_memory", growth=ROOM, priority="high")
    by_way = scores(backtest([case(known, outcome, grown=made_with_room)]))
    assert getattr(by_way["rules"], rules) == 1
    assert getattr(by_way["original"], original_way) == 1
    assert (by_way["rules"].beyond, by_way["original"].beyond) == (rules == "beyond", original_way == "beyond")


def test_what_was_learned_decides_only_its_own_way() -> None:
    flaky = [case(facts("test_failure"), "succeeded", workflow=f"task-{number}") for number in range(5)]
    found = backtest(flaky, lambda _: Recalled(0.9, 40))
    assert found.predicted == 5
    by_way = scores(found)
    assert (by_way["rules"].saved, by_way["rules"].broken) == (0, 5)
    assert (by_way["rules + learned"].saved, by_way["rules + learned"].broken) == (5, 0)
    assert by_way["rules + learned"].useful_minutes == 10.0


def test_without_a_forecast_the_record_s_own_is_taken() -> None:
    known = facts("test_failure", chance=Recalled(0.9, 40))
    assert scores(backtest([case(known, "succeeded")]))["rules + learned"].saved == 1
    assert scores(backtest([case(known, "succeeded")], lambda _: None))["rules + learned"].saved == 0


def test_what_left_no_choice_and_what_is_too_old_are_counted_apart() -> None:
    spent = facts("network", budget_spent="62 of 60 minutes are used")
    down = facts("sandbox_unavailable", breaker="open", patience=60.0)
    old = case(facts()).model_copy(update={"factors": {"attempt": 1, "max": 3, "cause": "failure"}})
    found = backtest([case(spent), case(down, "succeeded"), old])
    assert (found.failures, found.forced, found.unreadable, found.steps, found.known) == (3, 2, 1, 0, 0)
    assert all(told(score) == (0, 0, 0, 0.0, 0.0, 0.0, 0) for score in found.scores)


def test_attempts_of_unknown_length_are_counted() -> None:
    found = backtest([case(facts("network"), "succeeded", None)])
    assert found.untimed == 1
    assert scores(found)["rules"].saved == 1


def test_no_failures_are_no_error() -> None:
    found = backtest([])
    assert found.failures == 0
    assert [score.way for score in found.scores] == list(WAYS)


# --- the original ---

MESSAGES: tuple[FailureClass, ...] = ("network", "rate_limit", "permission", "missing_resource", "unknown", "unknown")
"""What the original's classifier makes of the six messages that its table was counted over, as classes of ours."""


def test_the_original_decides_as_it_was_seen_to() -> None:
    """Counted when the original was run over these 144 cases."""
    counted = Counter(
        original(facts(cls, priority=priority, attempt=attempt, progress=progress, health=health))
        for priority, attempt, cls, progress, health in itertools.product(
            ("high", "medium", "low"), (1, 4), MESSAGES, (0.0, 0.9), (0.9, 0.2)
        )
    )
    assert counted == {"retry": 56, "skip": 48, "escalate": 24, "continue": 16}
    assert original(facts("network", mode="off")) == "escalate"


# --- properties ---

outcomes = st.lists(st.sampled_from(["succeeded", "failed", "unknown"]), max_size=4)
classes = st.sampled_from(["network", "test_failure", "out_of_memory", "permission", "code_error", "unknown"])


@st.composite
def histories(draw: st.DrawFn) -> list[Case]:
    """Some steps, each with attempts up to the first that does not fail."""
    found = []
    for number in range(draw(st.integers(0, 6))):
        cls, priority = draw(classes), draw(st.sampled_from(["high", "medium", "low"]))
        for attempt, outcome in enumerate(draw(outcomes), start=1):
            known = facts(cls, attempt=attempt, priority=priority, stated=draw(st.booleans()))
            found.append(case(known, outcome, draw(st.floats(0, 60)), workflow=f"task-{number}"))
            if outcome != "failed":
                break
    return found


@given(histories())
def test_no_way_saves_what_it_breaks_and_none_makes_minutes_up(history: list[Case]) -> None:
    found = backtest(history)
    succeeded = sum(one.outcome == "succeeded" for one in history)
    minutes = sum(one.minutes or 0.0 for one in history if one.outcome != "unknown")
    for score in found.scores:
        assert score.saved + score.broken <= succeeded
        assert score.saved <= score.retries <= found.known
        assert score.useful_minutes + score.wasted_minutes + score.spared_minutes <= minutes + 0.01
        assert score.beyond <= found.steps


@given(histories())
def test_never_retrying_saves_nothing_and_breaks_all_that_a_retry_saved(history: list[Case]) -> None:
    never = scores(backtest(history))["never retry"]
    assert (never.retries, never.saved, never.beyond) == (0, 0, 0)
    assert never.broken == sum(one.outcome == "succeeded" for one in history)


@given(histories())
def test_always_retrying_saves_at_least_as_much_as_any_way(history: list[Case]) -> None:
    by_way = scores(backtest(history))
    most = by_way["always retry"].saved
    assert all(score.saved <= most for score in by_way.values())
