"""Names what a failure's lines are about: TF-IDF of words and their parts, and a logistic regression.

Trained with scikit-learn, used without it: a step that failed must not wait a second for an import, so a prediction is
one walk over the text's words and a table of numbers, in plain Python. The hard choice is that the words are taken by a
function of our own in both places; scikit-learn's analysers would have had to be rebuilt here from their regular
expressions, and a difference of one n-gram is a wrong probability. Tests hold both equal to 1e-9.

Words say what happened; pieces of four letters let `unreachable` know `unreachability`. Repeated lines count once: a
thousand times `could not compile` is one fact. How much a text is read is bounded, so that a prediction is too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from workflowmaster.analytics import fitting, modelfile
from workflowmaster.analytics.calibration import Platt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KIND = "text model"
"""What its file says it is."""

MOST_LINES = 24
"""Lines of a text that are read: the last ones, where tools say what they died of."""

LONGEST = 300
"""Characters of a line that are read."""

PIECE = 4
"""Letters of the pieces that words are cut into."""

LEAST_FAMILIAR = 0.5
"""Share of a text's words that must be known for the model to speak."""

PLAIN = Platt()
"""The calibration that changes nothing."""

_WORD = re.compile(r"<?\w\w+>?")


@dataclass(frozen=True)
class TextModel:
    """A trained model: for each label a probability, from lines masked as those it was trained on."""

    labels: tuple[str, ...]
    places: Mapping[str, int]
    """Feature → its place in `idf` and in each row of `weights`."""
    idf: Sequence[float]
    weights: Sequence[Sequence[float]]
    """One row for each label; with two labels one row, which speaks for the second."""
    bias: Sequence[float]
    platt: Platt = PLAIN
    """Makes the scores' probabilities come true as often as they say; its shift is used with two labels only."""
    version: str = ""
    least: float = 0.0
    """Probability below which it says nothing."""
    way: Training | None = field(default=None, compare=False)
    """How it was trained; None for one that was read from a file."""
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Manifest of the file it came from, or will go to."""

    def scores(self, lines: Iterable[str]) -> list[float]:
        """Return the linear scores: one for each label, or with two labels that of the second."""
        found = weighed(features(lines), self.places, self.idf)
        return [
            bias + sum(value * row[place] for place, value in found.items())
            for row, bias in zip(self.weights, self.bias, strict=True)
        ]

    def probabilities(self, lines: Iterable[str], *, raw: bool = False) -> dict[str, float]:
        """Return each label's probability; `raw` without the calibration."""
        scores, platt = self.scores(lines), PLAIN if raw else self.platt
        if len(scores) == 1:
            second = platt(scores[0])
            return dict(zip(self.labels, (1 - second, second), strict=True))
        top = max(scores)
        grown = [math.exp(platt.slope * (score - top)) for score in scores]
        return {label: one / sum(grown) for label, one in zip(self.labels, grown, strict=True)}

    def familiar(self, lines: Iterable[str]) -> float:
        """Return the share of the lines' words that it was trained on. Of a strange text no model knows anything."""
        words = {word for line in lines for word in _WORD.findall(line[:LONGEST].lower())}
        return sum(word in self.places for word in words) / len(words) if words else 0.0

    def classify(self, lines: Sequence[str]) -> tuple[str, float] | None:
        """Return the likeliest label and its probability; None for lines it knows too little of, or cannot tell."""
        if self.familiar(lines) < LEAST_FAMILIAR:
            return None
        found = self.probabilities(lines)
        label = max(found, key=found.__getitem__)
        return (label, found[label]) if found[label] >= self.least else None


def features(lines: Iterable[str]) -> list[str]:
    """Return what a text is made of, repeats included: words, pairs of words, and pieces of words, in no order."""
    kept = list(dict.fromkeys(line[:LONGEST].lower() for line in lines))[-MOST_LINES:]
    found, words = [], Counter[str]()
    for line in kept:
        row = _WORD.findall(line)
        words.update(row)
        found += [f"{one} {two}" for one, two in pairwise(row)]
    for word, count in words.items():
        pieces = [word, *_pieces(word)]
        found += pieces * count
    return found


def _pieces(word: str) -> list[str]:
    """Cut a word into overlapping pieces; its beginning and end are letters too, written `_`."""
    whole = f"_{word}_"
    return [f"-{whole[at : at + PIECE]}" for at in range(len(whole) - PIECE + 1)]


def weighed(found: Iterable[str], places: Mapping[str, int], idf: Sequence[float]) -> dict[int, float]:
    """Return the place and TF-IDF of every known feature: 1 + ln(count), times its idf, the whole of length 1."""
    counts = Counter(places[feature] for feature in found if feature in places)
    values = {place: (1 + math.log(count)) * idf[place] for place, count in counts.items()}
    length = math.sqrt(sum(value * value for value in values.values())) or 1.0
    return {place: value / length for place, value in values.items()}


@dataclass(frozen=True)
class Training:
    """How a model is trained."""

    strength: float = 10.0
    """Inverse of the ridge (`C` of scikit-learn)."""
    half_life: float = 60.0
    """Days after which a text counts half: what fails changes with machines and code (docs/learning.md has figures)."""
    balanced: bool = True
    """Whether rare labels count as much as frequent ones together."""


GRID = tuple(Training(strength=strength) for strength in (10.0, 30.0, 100.0))
"""What is tried where nobody says how to train; the training data alone decides."""


def train(
    texts: Sequence[Sequence[str]],
    labels: Sequence[str],
    times: Sequence[float] | None = None,
    *,
    ways: Sequence[Training] = GRID,
) -> TextModel:
    """Train a model on texts (masked lines) in the order of time. ValueError with fewer than two labels.

    `times` are Unix times in seconds. Of the `ways` that one is taken which has named later texts best from earlier
    ones, by log loss; the same predictions fit the calibration, so neither sees a text that its model was trained on.
    """
    moments = [0.0] * len(texts) if times is None else list(times)
    if not len(texts) == len(labels) == len(moments):
        raise ValueError(f"{len(texts)} texts, {len(labels)} labels, {len(moments)} times: as many of each are needed")
    if len(set(labels)) < 2:
        raise ValueError(f"all {len(labels)} texts have the same label: there is nothing to tell apart")
    tokens = [features(lines) for lines in texts]
    tried = {way: fitting.later(tokens, labels, moments, way) for way in ways}
    way = min(ways, key=lambda one: fitting.loss(tried[one]))
    found = fitting.fitted(tokens, labels, moments, way)
    about: dict[str, Any] = {
        "data_sha256": data_hash(texts, labels),
        "texts": len(texts),
        "labels": dict(sorted(Counter(labels).items())),
        "libraries": fitting.libraries(),
        "training": {"strength": way.strength, "half_life_days": way.half_life if way.half_life < math.inf else None},
        "metrics": fitting.metrics(tried[way]),
    }
    return TextModel(
        labels=tuple(map(str, found.regression.classes_)),
        places={str(name): int(place) for name, place in found.vectors.vocabulary_.items()},
        idf=found.vectors.idf_.tolist(),
        weights=found.regression.coef_.tolist(),
        bias=found.regression.intercept_.tolist(),
        platt=fitting.calibrated(tried[way], len(set(labels))),
        about=about,
        way=way,
    )


def foretold(
    texts: Sequence[Sequence[str]], labels: Sequence[str], times: Sequence[float], *, way: Training
) -> dict[int, dict[str, float]]:
    """Return the probabilities of each text's labels by a model of earlier texts; the first third has none."""
    tokens = [features(lines) for lines in texts]
    return {one.place: one.probabilities for one in fitting.later(tokens, labels, times, way)}


def data_hash(texts: Sequence[Sequence[str]], labels: Sequence[str]) -> str:
    """Return the SHA-256 (hex) of training data."""
    body = json.dumps([[list(lines) for lines in texts], list(labels)], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(body.encode(errors="surrogatepass")).hexdigest()


def save(model: TextModel) -> bytes:
    """Return the model as the bytes of a file."""
    numbers = {
        "labels": list(model.labels),
        "features": sorted(model.places, key=model.places.__getitem__),
        "idf": list(model.idf),
        "weights": [list(row) for row in model.weights],
        "bias": list(model.bias),
        "platt": [model.platt.slope, model.platt.shift],
        "least": model.least,
    }
    about = {key: value for key, value in model.about.items() if key not in ("kind", "schema_version", "sha256")}
    return modelfile.packed(KIND, numbers, {**about, "version": model.version})


def load(data: bytes) -> TextModel:
    """Return the model in a file's bytes. ValueError says in one clause why it cannot be believed."""
    head, numbers = modelfile.unpacked(data, KIND)
    try:
        names = numbers["features"]
        model = TextModel(
            labels=tuple(numbers["labels"]),
            places={name: place for place, name in enumerate(names)},
            idf=numbers["idf"],
            weights=numbers["weights"],
            bias=numbers["bias"],
            platt=Platt(*map(float, numbers["platt"])),
            version=str(head.get("version", "")),
            least=float(numbers["least"]),
            about=head,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"lacks what a text model needs ({error}): train it again") from error
    _whole(model, len(names))
    return model


def _whole(model: TextModel, features: int) -> None:
    """Refuse numbers that do not fit together: they would fail in the middle of a decision."""
    rows = 1 if len(model.labels) == 2 else len(model.labels)
    lengths = {len(model.places), len(model.idf), *map(len, model.weights)}
    fits = lengths == {features} and len(model.weights) == len(model.bias) == rows and len(model.labels) >= 2
    if not fits or not all(isinstance(one, float) for row in (model.idf, model.bias, *model.weights) for one in row):
        raise ValueError("holds numbers that do not fit together: train it again")
