"""What had been learned before each failure of a history."""

from __future__ import annotations

import itertools
import random

from workflowmaster.analytics.retrychance import LEAST_CASES, WARM_UP
from workflowmaster.flows.failurehistory import Case
from workflowmaster.flows.forecasts import forecasts

DAY = 86_400.0
ENOUGH = 2 * (WARM_UP + LEAST_CASES)


def history(count: int) -> list[Case]:
    """One failure every day: one fingerprint always passes the second time, another never does."""
    return [
        Case(
            workflow=f"task-{number}",
            step="fetch",
            fingerprint="aaaaaaaaaaaaaaaa" if number % 2 else "bbbbbbbbbbbbbbbb",
            cls="test_failure",
            lines=("FAILED test_flaky - port in use",) if number % 2 else ("FAILED test_total - 3 is not 4",),
            attempt=1,
            outcome="succeeded" if number % 2 else "failed",
            minutes=1.0,
            at=1_700_000_000.0 + number * DAY,
        )
        for number in range(count)
    ]


def test_it_tells_what_passes_from_what_does_not() -> None:
    cases = history(ENOUGH)
    chance_of = forecasts(cases)
    passes, stays = chance_of(cases[-1]), chance_of(cases[-2])
    assert passes
    assert stays
    assert passes.probability > 0.8
    assert stays.probability < 0.2


def test_it_knows_only_what_had_ended_by_then() -> None:
    """Of a late failure it speaks, of an early one it does not, whichever is asked about first."""
    cases = history(ENOUGH)
    chance_of = forecasts(cases)
    for _ in range(2):
        assert chance_of(cases[-1]) is not None
        assert chance_of(cases[WARM_UP]) is None


def test_it_is_not_moved_by_its_own_outcome_or_later_ones() -> None:
    cases = history(ENOUGH)
    turned = [*cases[:-3], *(one.model_copy(update={"outcome": "failed"}) for one in cases[-3:])]
    assert forecasts(cases)(cases[-3]) == forecasts(turned)(turned[-3])


def test_the_order_of_the_history_and_of_the_questions_does_not_matter() -> None:
    cases = history(ENOUGH)
    mixed = cases.copy()
    random.Random(7).shuffle(mixed)
    there, back = forecasts(cases), forecasts(mixed)
    asked = [cases[-1], cases[20], cases[-5]]
    assert list(map(there, asked)) == list(map(back, asked[::-1]))[::-1]


def test_what_was_given_more_and_what_has_no_text_teaches_nothing() -> None:
    cases = history(ENOUGH)
    for update in ({"grown": True}, {"lines": ()}, {"outcome": "unknown"}):
        silent = [one.model_copy(update=update) for one in cases]
        assert forecasts(silent)(cases[-1]) is None


def test_where_all_ended_alike_no_text_model_is_asked_for() -> None:
    """Of one label no text model can be trained; the rates alone may have a say."""
    cases = [one.model_copy(update={"outcome": "failed"}) for one in history(ENOUGH)]
    found = forecasts(cases)(cases[-1])
    assert found is None or (found.probability < 0.2 and "text" not in found.source)


def test_over_no_history_it_is_silent() -> None:
    cases = history(3)
    assert [forecasts([])(one) for one in cases] == [None, None, None]
    assert [forecasts(cases)(one) for one in cases] == [None, None, None]


def test_a_wait_of_days_hides_what_had_not_ended() -> None:
    """All outcomes came in long after the last failure: there was nothing to know."""
    cases = [one.model_copy(update={"minutes": 60.0 * 24 * 400}) for one in history(ENOUGH)]
    assert not any(itertools.islice(map(forecasts(cases), cases), 0, None, 20))
