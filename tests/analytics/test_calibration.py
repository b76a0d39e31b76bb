"""Probabilities that mean what they say: equal to scikit-learn's where it has the same, and true on invented worlds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, f1_score

from workflowmaster.analytics import calibration

PAIRS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)
SCORED = st.lists(st.tuples(st.floats(-5, 5).map(lambda x: round(x, 3)), st.booleans()), min_size=2, max_size=60)


def world(count: int, slope: float, shift: float) -> tuple[list[float], list[bool]]:
    """Scores whose probabilities are those of another map than the identity."""
    rng = random.Random(7)
    scores = [rng.gauss(0, 2) for _ in range(count)]
    return scores, [rng.random() < calibration.sigmoid(slope * score + shift) for score in scores]


@given(PAIRS)
def test_brier_is_scikit_learn_s(pairs):
    said, outcomes = zip(*pairs, strict=True)
    assert calibration.brier(said, outcomes) == pytest.approx(
        brier_score_loss(outcomes, said, pos_label=True), abs=1e-12
    )


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40))
def test_macro_f1_is_scikit_learn_s(pairs):
    truth, said = zip(*pairs, strict=True)
    expected = f1_score(truth, said, average="macro", zero_division=0)
    assert calibration.macro_f1(truth, said) == pytest.approx(expected, abs=1e-12)


def test_ece_by_hand():
    # Bin 0.1 to 0.2: said 0.1 twice, none came true; bin 0.8 to 0.9: said 0.8 twice, one came true.
    assert calibration.ece([0.1, 0.1, 0.8, 0.8], [False, False, True, False]) == pytest.approx((0.2 + 0.6) / 4)


@pytest.mark.parametrize(
    ("said", "outcomes", "expected"), [([1.0], [True], 0.0), ([1.0], [False], 1.0), ([0.0, 1.0], [False, True], 0.0)]
)
def test_ece_at_the_ends(said, outcomes, expected):
    assert calibration.ece(said, outcomes) == expected


@given(PAIRS)
def test_ece_is_a_share(pairs):
    said, outcomes = zip(*pairs, strict=True)
    assert 0 <= calibration.ece(said, outcomes) <= 1


@pytest.mark.parametrize("measure", [calibration.brier, calibration.ece, calibration.macro_f1])
def test_nothing_is_measured_of_nothing(measure):
    with pytest.raises(ValueError, match="0 predictions"):
        measure([], [])


@given(st.floats(-700, 700))
def test_sigmoid_and_logit_undo_each_other(score):
    p = calibration.sigmoid(score)
    assert 0 <= p <= 1
    if abs(score) < 10:
        assert calibration.logit(p) == pytest.approx(score, abs=1e-6)


def test_platt_finds_the_map_of_an_invented_world():
    scores, outcomes = world(4000, 0.5, -1.0)
    found = calibration.platt(scores, outcomes)
    assert found.slope == pytest.approx(0.5, abs=0.06)
    assert found.shift == pytest.approx(-1.0, abs=0.12)
    raw = [calibration.sigmoid(score) for score in scores]
    assert calibration.ece([found(score) for score in scores], outcomes) < 0.25 * calibration.ece(raw, outcomes)


def test_platt_of_few_cases_is_no_certainty():
    few = calibration.platt([1.0, 2.0], [True, True])
    assert few(2.0) < 0.97


@given(SCORED)
def test_platt_never_falls(pairs):
    scores, outcomes = zip(*pairs, strict=True)
    found = calibration.platt(scores, outcomes)
    assert found.slope >= 0
    assert found(-1.0) <= found(1.0)


def test_logistic_is_scikit_learn_s():
    scores, outcomes = world(300, 1.3, 0.4)
    ours = calibration.logistic([(score, 1.0) for score in scores], outcomes, prior=(0.0, 0.0), strength=1.0)
    # Its own intercept is not held to 0, so the 1 is a feature here, as it is with us.
    theirs = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10).fit([(score, 1.0) for score in scores], outcomes)
    assert ours == pytest.approx(theirs.coef_[0], abs=1e-5)


@given(SCORED)
def test_isotonic_is_scikit_learn_s(pairs):
    scores, outcomes = zip(*pairs, strict=True)
    ours = calibration.isotonic(scores, outcomes)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, outcomes)
    for score in (*scores, -6.0, 6.0, 0.123):
        assert ours(score) == pytest.approx(theirs.predict([score])[0], abs=1e-9)


@given(SCORED)
def test_isotonic_never_falls(pairs):
    found = calibration.isotonic(*zip(*pairs, strict=True))
    told = [found(x / 10) for x in range(-60, 60)]
    assert told == sorted(told)
