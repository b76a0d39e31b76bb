"""What is learned from retries has a say only where it was right more often than the rules, and for a reason."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.analytics import calibration, retrychance
from workflowmaster.analytics.retrychance import DAY, Chance, Learned, Rates, Trial, Verdict

LINES = ["worker lost its heartbeat"]
NOW = 1_700_000_000.0


def history(count: int, rates: dict[str, float], *, cls: str = "unknown", text: float | None = None) -> list[Trial]:
    """Retries of some fingerprints, one an hour, each with a success rate of its own."""
    rng = random.Random(13)
    found = []
    for n in range(count):
        name = rng.choice(sorted(rates))
        at = NOW + n * 3600
        found.append(Trial(name, cls, rng.random() < rates[name], text=text, at=at, known_at=at + 60))
    return found


MIXED = {"flaky": 0.9, "broken": 0.05}
LEARNED = retrychance.learn(history(120, MIXED))


def ask(learned: Learned, fingerprint: str = "flaky", **fields: object) -> Chance | None:
    trial = Trial(fingerprint, "unknown", at=NOW + 120 * 3600)
    return retrychance.chance(learned, replace(trial, **fields), LINES)


def test_fingerprints_that_differ_are_told_apart():
    flaky, broken = ask(LEARNED), ask(LEARNED, "broken")
    assert flaky
    assert broken
    assert LEARNED.verdict.used
    assert flaky.probability == pytest.approx(0.9, abs=0.1)
    assert broken.probability == pytest.approx(0.05, abs=0.07)
    assert flaky.source == "fingerprint"
    # Five days of a half-life of sixty have passed since the first of them.
    assert flaky.cases == pytest.approx(sum(t.fingerprint == "flaky" for t in history(120, MIXED)), abs=3)


def test_of_a_new_fingerprint_the_class_is_what_is_known():
    found = ask(LEARNED, "never seen")
    assert found
    assert found.source == "class"
    assert 115 <= found.cases <= 120
    assert 0.2 < found.probability < 0.8


def test_where_fingerprints_say_nothing_it_has_no_say():
    learned = retrychance.learn(history(200, {"a": 0.5, "b": 0.5, "c": 0.5}))
    assert not learned.verdict.used
    assert learned.verdict.why.endswith("not better by more than chance")
    assert ask(learned, "a") is None


@pytest.mark.parametrize("lines", [[], [""], ["  "]])
def test_without_a_text_of_an_error_it_abstains(lines):
    assert retrychance.chance(LEARNED, Trial("flaky", "unknown", at=NOW), lines) is None


def test_below_a_minimum_it_is_silent_and_says_why():
    learned = retrychance.learn(history(retrychance.WARM_UP + retrychance.LEAST_CASES - 1, MIXED))
    assert ask(learned) is None
    assert "30 retries are needed" in learned.verdict.why
    assert ask(LEARNED, cls="disk") is None


def test_nothing_is_known_before_the_first_retry():
    empty = retrychance.learn([])
    assert empty.verdict == Verdict(why="no retry has come to an end yet")
    assert ask(empty) is None


def test_a_text_counts_where_it_has_been_right():
    rng = random.Random(3)
    trials = []
    for n in range(150):
        good = rng.random() < 0.5
        at = NOW + n * 3600
        trials.append(Trial("same", "unknown", good, text=0.9 if good else 0.1, at=at, known_at=at))
    learned = retrychance.learn(trials)
    high, low = ask(learned, "same", text=0.9), ask(learned, "same", text=0.1)
    assert high
    assert low
    assert high.source == "fingerprint and text"
    assert high.probability > 0.9
    assert low.probability < 0.1


def test_predictions_know_no_future():
    """A history that turns out otherwise later changes nothing that was said before."""
    trials = history(80, MIXED)
    turned = [*trials[:60], *(replace(trial, succeeded=not trial.succeeded) for trial in trials[60:])]
    before, after = ([p for p, _, _ in retrychance.foretold(one)] for one in (trials, turned))
    assert before[:61] == after[:61]
    assert before[61:] != after[61:]


def test_what_is_still_running_teaches_nothing_yet():
    slow = [replace(trial, known_at=NOW + 10**9) for trial in history(60, MIXED)]
    assert len({round(p, 9) for p, _, _ in retrychance.foretold(slow)}) == 1
    assert len({round(p, 9) for p, _, _ in retrychance.foretold(history(60, MIXED))}) > 10


def test_old_cases_fade():
    old = [Trial("x", "network", succeeded=False, at=NOW + n) for n in range(20)]
    new = [Trial("x", "network", succeeded=True, at=NOW + 300 * DAY + n) for n in range(5)]
    rates = Rates()
    for trial in (*old, *new):
        rates.add(trial)
    assert rates.of(Trial("x", "network", at=NOW + 300 * DAY)) > 0.7
    assert rates.of(Trial("x", "network", at=NOW + 300 * DAY)) > retrychance.learn([*old]).rates.of(old[-1])


def test_what_was_long_ago_stands_behind_nothing():
    assert ask(LEARNED, at=NOW + 120 * 3600)
    assert ask(LEARNED, at=NOW + 600 * DAY) is None


def test_what_others_have_seen_is_weaker_and_is_not_judged_by():
    foreign = [Trial("new", "unknown", succeeded=True, weight=2.0, own=False, at=NOW)]
    learned = retrychance.learn([*history(120, MIXED), *foreign])
    assert learned.verdict.cases == LEARNED.verdict.cases
    known, unknown = ask(learned, "new"), ask(LEARNED, "new")
    assert known
    assert unknown
    assert unknown.probability < known.probability < 0.95
    assert known.source == "class"


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["network", "unknown"]), st.booleans(), st.floats(0, 400)),
        max_size=60,
    )
)
def test_any_history_gives_probabilities(rows):
    trials = [Trial(name, cls, good, at=NOW + days * DAY) for name, cls, good, days in rows]
    learned = retrychance.learn(trials)
    for trial in trials:
        assert 0 < retrychance.probability(learned, trial) < 1
    assert Learned.from_json(json.loads(json.dumps(learned.to_json()))) == learned
    assert learned.verdict.cases == max(len(trials) - retrychance.WARM_UP, 0)


@given(st.integers(0, 40), st.integers(0, 40))
def test_more_successes_never_make_it_less_likely(hits, misses):
    def rate(good: int) -> float:
        rates = Rates()
        for n in range(good + misses):
            rates.add(Trial("x", "network", n < good, at=NOW))
        return rates.of(Trial("x", "network", at=NOW))

    assert rate(hits) <= rate(hits + 1)


def test_probabilities_come_true_as_often_as_they_say():
    said = retrychance.foretold(history(1500, {"a": 0.85, "b": 0.5, "c": 0.1}))[200:]
    assert calibration.ece([p for p, _, _ in said], [y for _, _, y in said]) < 0.05


@pytest.mark.parametrize(
    "raw", [{}, {"rates": 3}, {**LEARNED.to_json(), "weights": [1.0]}, {**LEARNED.to_json(), "verdict": {"x": 1}}]
)
def test_what_is_no_learned_value_is_refused(raw):
    with pytest.raises(ValueError, match="learn them again"):
        Learned.from_json(raw)
