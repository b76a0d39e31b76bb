"""Fits text models with scikit-learn, and finds out how good they are on texts that came later.

Whatever is chosen by looking at results (strength of the ridge, half-life, calibration) is chosen on predictions of
later texts by models of earlier ones, all of them training data. A random split would let a model see next week's
outage; the price of the honest one is that the first third of the texts is never predicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from workflowmaster.analytics import calibration
from workflowmaster.analytics.calibration import Platt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workflowmaster.analytics.texts import Training

LEAST_SEEN = 2
"""Training texts in which a feature must stand: what came once cannot say anything about the next one."""

FEW = 20
"""Texts below which features that came once are kept all the same: there is nothing else."""

MOST_FEATURES = 20_000
"""Features that a model knows, the most frequent first; 20,000 are 1 MB."""

FOLDS = 6
"""Later parts of the data, each predicted by a model of what came before."""

HELD = 20.0
"""Cases that hold the calibration to what the model says itself: with fewer of its own it would follow their noise."""

DAY = 86_400.0


@dataclass(frozen=True)
class Fitted:
    """Scikit-learn's two estimators, fitted."""

    vectors: Any
    regression: Any

    def probabilities(self, tokens: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """Return each text's probability of each label, uncalibrated."""
        rows = self.regression.predict_proba(self.vectors.transform(tokens))
        return [dict(zip(map(str, self.regression.classes_), row, strict=True)) for row in rows.tolist()]


@dataclass(frozen=True)
class Later:
    """A text that was predicted by a model of earlier ones."""

    place: int
    """Which one of the texts."""
    probabilities: dict[str, float]
    label: str


def fitted(tokens: Sequence[Sequence[str]], labels: Sequence[str], times: Sequence[float], way: Training) -> Fitted:
    """Fit TF-IDF and the regression. Times are Unix times, in order."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    least = LEAST_SEEN if len(tokens) >= FEW else 1
    vectors = TfidfVectorizer(analyzer=_as_they_are, sublinear_tf=True, min_df=least, max_features=MOST_FEATURES)
    weight = "balanced" if way.balanced else None
    regression = LogisticRegression(C=way.strength, class_weight=weight, max_iter=3_000)
    table = vectors.fit_transform(tokens)
    regression.fit(table, list(labels), sample_weight=_weights(times, way.half_life))
    return Fitted(vectors, regression)


def _as_they_are(tokens: Sequence[str]) -> Sequence[str]:
    return tokens


def _weights(times: Sequence[float], half_life: float) -> list[float]:
    """Return how much each text counts, the last one 1."""
    return [math.exp2(-(times[-1] - one) / (half_life * DAY)) for one in times]


def parts(count: int, folds: int = FOLDS) -> list[tuple[int, int]]:
    """Return (end of the training part, end of the part after it) of an expanding window over the last two thirds."""
    edges = [count // 3 + (count - count // 3) * fold // folds for fold in range(folds + 1)]
    return [(one, two) for one, two in pairwise(edges) if 0 < one < two]


def later(tokens: Sequence[Sequence[str]], labels: Sequence[str], times: Sequence[float], way: Training) -> list[Later]:
    """Predict each later part by a model of what came before; labels that such a model had not seen are left out."""
    found: list[Later] = []
    for train_to, test_to in parts(len(tokens)):
        known = set(labels[:train_to])
        if len(known) < 2:
            continue
        model = fitted(tokens[:train_to], labels[:train_to], times[:train_to], way)
        told = model.probabilities(tokens[train_to:test_to])
        for place, probabilities in enumerate(told, train_to):
            if labels[place] in known:
                found.append(Later(place, probabilities, labels[place]))
    return found


def loss(found: Sequence[Later]) -> float:
    """Return the mean log loss; infinite where nothing could be predicted."""
    if not found:
        return math.inf
    return -sum(math.log(max(one.probabilities[one.label], 1e-15)) for one in found) / len(found)


def metrics(found: Sequence[Later]) -> dict[str, Any]:
    """Return how good the predictions of later texts were, before calibration."""
    if not found:
        return {"later": 0}
    said = [max(one.probabilities, key=one.probabilities.__getitem__) for one in found]
    truth = [one.label for one in found]
    return {"later": len(found), "log_loss": loss(found), "macro_f1": calibration.macro_f1(truth, said)}


def calibrated(found: Sequence[Later], labels: int) -> Platt:
    """Fit the calibration to predictions of later texts; with more than two labels its slope is all that counts."""
    pairs = list(_votes(found))
    if not pairs:
        return Platt()
    platt = calibration.platt([score for score, _ in pairs], [right for _, right in pairs], strength=HELD)
    # With many labels a shift would cancel out, and a slope of 0 would make all of them equal.
    return platt if labels == 2 else Platt(max(platt.slope, 0.1))


def _votes(found: Iterable[Later]) -> Iterable[tuple[float, bool]]:
    """Yield the scores of labels, and whether each was right: with two labels those of the second alone."""
    for one in found:
        told = sorted(one.probabilities)
        for label in told[1:] if len(told) == 2 else told:
            yield calibration.logit(one.probabilities[label]), label == one.label


def libraries() -> dict[str, str]:
    """Return the versions of what a model is fitted with."""
    from importlib.metadata import version

    return {name: version(name) for name in ("scikit-learn", "numpy", "scipy")}
