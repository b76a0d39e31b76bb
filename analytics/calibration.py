"""Whether a probability means what it says, and how to make it so.

A classifier's 0.9 is worth acting on only if nine of ten such cases come true. Two maps are fitted on predictions for
cases that the model had not seen: Platt's two numbers where cases are few, isotonic steps where they are many. The hard
choice is that everything here is plain Python: predictions are judged in the process that decides, which must not wait
a second for scikit-learn to be imported; with hundreds of cases the loops take microseconds each, and tests hold them
equal to scikit-learn's.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

EDGE = 1e-6
"""Nearest that a probability may come to 0 and 1 before its logarithm is taken."""

_ROUNDS = 50
"""Newton's steps at most; ten suffice unless the cases contradict each other."""

_STILL = 1e-9
"""Step below which nothing changes any more."""

ENOUGH_FOR_STEPS = 200
"""Cases from which isotonic steps are better than Platt's two numbers; with fewer they learn the noise by heart."""


def logit(probability: float) -> float:
    """Return the logarithm of the odds; probabilities of 0 and 1 count as `EDGE` away from it."""
    inside = min(max(probability, EDGE), 1 - EDGE)
    return math.log(inside / (1 - inside))


def sigmoid(score: float) -> float:
    """Return the probability of which a score is the logit."""
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    grown = math.exp(score)
    return grown / (1 + grown)


def brier(probabilities: Sequence[float], outcomes: Sequence[bool]) -> float:
    """Return the mean squared distance of predictions from outcomes; 0 is perfect. ValueError where there are none."""
    _same(probabilities, outcomes)
    return sum((p - y) ** 2 for p, y in zip(probabilities, outcomes, strict=True)) / len(outcomes)


def ece(probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = 10) -> float:
    """Return the expected calibration error (Naeini et al. 2015) over bins of equal width.

    It is the mean distance of predicted from observed rates, bin by bin. Few cases a bin flatter or blame by chance.
    """
    _same(probabilities, outcomes)
    found: dict[int, list[tuple[float, bool]]] = {}
    for p, y in zip(probabilities, outcomes, strict=True):
        found.setdefault(min(int(p * bins), bins - 1), []).append((p, y))
    return sum(abs(sum(p - y for p, y in pairs)) for pairs in found.values()) / len(outcomes)


def macro_f1(truth: Sequence[Hashable], said: Sequence[Hashable]) -> float:
    """Return the mean over all labels of the harmonic mean of precision and recall."""
    _same(truth, said)
    labels = {*truth, *said}
    return sum(_f1(truth, said, label) for label in labels) / len(labels)


def _f1(truth: Sequence[Hashable], said: Sequence[Hashable], label: Hashable) -> float:
    right = sum(a == b == label for a, b in zip(truth, said, strict=True))
    asked = sum(a == label for a in truth) + sum(b == label for b in said)
    return 2 * right / asked if asked else 0.0


def _same(first: Sequence[object], second: Sequence[object]) -> None:
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} predictions and {len(second)} outcomes: as many of each are needed, at least 1")


@dataclass(frozen=True)
class Platt:
    """A map of scores (logits) to probabilities: sigmoid of `slope` times the score, plus `shift`."""

    slope: float = 1.0
    shift: float = 0.0

    def __call__(self, score: float) -> float:
        """Return the calibrated probability of a score."""
        return sigmoid(self.slope * score + self.shift)


@dataclass(frozen=True)
class Isotonic:
    """A map of scores to probabilities that only ever rises: steps, drawn straight from one to the next."""

    scores: tuple[float, ...]
    rates: tuple[float, ...]

    def __call__(self, score: float) -> float:
        """Return the calibrated probability of a score; outside what was seen, that of the nearest one."""
        after = bisect_right(self.scores, score)
        if after == 0:
            return self.rates[0]
        if after == len(self.scores):
            return self.rates[-1]
        low, high = self.scores[after - 1], self.scores[after]
        part = (score - low) / (high - low)
        return self.rates[after - 1] + part * (self.rates[after] - self.rates[after - 1])


def platt(scores: Sequence[float], outcomes: Sequence[bool], strength: float = 1.0) -> Platt:
    """Fit Platt's map to scores of cases that the model had not seen.

    `strength` holds it to the identity, as if that many cases had been calibrated already; without it, few cases that
    all came true would become a certainty.
    """
    slope, shift = logistic([(score, 1.0) for score in scores], outcomes, prior=(1.0, 0.0), strength=strength)
    # A map that falls would say that the model knows it the wrong way round: then its scores are worth nothing.
    return Platt(max(slope, 0.0), shift)


def isotonic(scores: Sequence[float], outcomes: Sequence[bool]) -> Isotonic:
    """Fit rising steps by pooling neighbours that violate the order (Ayer et al. 1955)."""
    _same(scores, outcomes)
    tied: dict[float, list[float]] = {}
    for score, outcome in sorted(zip(scores, outcomes, strict=True)):
        sums = tied.setdefault(score, [0.0, 0.0])
        sums[0] += outcome
        sums[1] += 1
    pools: list[tuple[float, float, list[float]]] = []
    for score, (hits, count) in tied.items():
        pool = (hits, count, [score])
        while pools and pools[-1][0] / pools[-1][1] >= pool[0] / pool[1]:
            before = pools.pop()
            pool = (before[0] + pool[0], before[1] + pool[1], before[2] + pool[2])
        pools.append(pool)
    steps = {score: hits / count for hits, count, members in pools for score in (members[0], members[-1])}
    return Isotonic(tuple(steps), tuple(steps.values()))


def logistic(
    rows: Sequence[Sequence[float]], outcomes: Sequence[bool], *, prior: Sequence[float], strength: float
) -> tuple[float, ...]:
    """Fit a logistic regression of a few features by Newton's method, held to `prior` as by `strength` cases.

    Each row is one case's features; the result is one weight for each.
    """
    _same(rows, outcomes)
    weights = list(prior)
    for _ in range(_ROUNDS):
        gradient = [strength * (w - p) for w, p in zip(weights, prior, strict=True)]
        curve = [[strength if i == j else 0.0 for j in range(len(prior))] for i in range(len(prior))]
        for row, outcome in zip(rows, outcomes, strict=True):
            p = sigmoid(sum(w * x for w, x in zip(weights, row, strict=True)))
            for i, x in enumerate(row):
                gradient[i] += (p - outcome) * x
                for j, z in enumerate(row):
                    curve[i][j] += p * (1 - p) * x * z
        step = _solved(curve, gradient)
        # A full step from far away may overshoot; no weight of a calibration moves by more than this at once.
        far = max(1.0, *map(abs, step))
        weights = [w - s / far for w, s in zip(weights, step, strict=True)]
        if max(map(abs, step)) < _STILL:
            break
    return tuple(weights)


def _solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a small system of equations that is symmetric and positive, by elimination."""
    size = len(right)
    table = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(size):
        for j in range(i + 1, size):
            factor = table[j][i] / table[i][i]
            table[j] = [b - factor * a for a, b in zip(table[i], table[j], strict=True)]
    found = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (table[i][size] - sum(table[i][j] * found[j] for j in range(i + 1, size))) / table[i][i]
    return found
