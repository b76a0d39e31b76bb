"""How likely a retry is to succeed, from what became of earlier ones.

History alone is a poor judge: of 2,345 retries in a public test history no method beat the base rate. So nothing
learned is believed because it was learned. Every retry of the user's own history is predicted from what had been known
before it, and those predictions are compared with what the rules alone amount to: the success rate of the class they
named. Only where the learned ones are better, by more than chance, does `chance` say anything; below a minimum of cases
it is silent, and without a text of an error too. What was found is kept in the `Verdict`, so that it can be shown.

A rate is shrunk twice: a fingerprint's towards its class's, a class's towards the rate of all, each as strongly as a
few cases would. Cases grow old, because machines change: an outage of last week says much about today, one of last year
little. The hard choice is one half-life for everybody; fitting it to some dozens of cases would fit their noise.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from workflowmaster.analytics.calibration import brier, logistic, logit, sigmoid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HALF_LIFE = 60.0
"""Days after which a case counts half."""

CLASS_WEIGHT, FINGERPRINT_WEIGHT = 4.0, 2.0
"""Cases that the rate of all counts for in a class's, and the class's in a fingerprint's."""

EVERYTHING = (1.0, 1.0)
"""Successes and failures assumed before anything was seen: a uniform prior (Bayes, Laplace)."""

WARM_UP = 10
"""First retries, which are learned from and not predicted."""

LEAST_CASES = 30
"""Predicted retries below which nothing is said: a back-test of fewer proves nothing."""

LEAST_ALIKE = 3
"""Retries of the same class below which nothing is said about a failure."""

CERTAIN = 1.645
"""Standard errors by which it must be better than the rules: 95 % on one side."""

REFIT = 1.1
"""Growth of the history from one fit of the calibration to the next, so that a long one costs few more fits."""

MOST_FITTED = 500
"""Last retries that the calibration is fitted on; older ones tell about older machines."""

PRIOR: tuple[float, ...] = (1.0, 0.5, 0.0, 0.0)
"""Weights of rates, text, a later attempt, and everything, before any were fitted."""

PRIOR_STRENGTH = 2.0

DAY = 86_400.0


@dataclass(frozen=True)
class Chance:
    """How likely the next attempt is to succeed, and what says so."""

    probability: float
    """Calibrated, in [0, 1]."""
    cases: int
    """Retries of the user's own that stand behind it, old ones counted less: of this fingerprint, or else its class."""
    source: str
    """What it rests on: `fingerprint`, `class`, with ` and text` where a text model had a say."""


@dataclass(frozen=True)
class Trial:
    """One retry whose outcome is known, or one that is being thought of."""

    fingerprint: str
    cls: str
    succeeded: bool = False
    attempt: int = 1
    """The attempt that failed before it."""
    text: float | None = None
    """Probability of success by a text model that did not know this one; None where there was none."""
    weight: float = 1.0
    """How many cases it counts for."""
    own: bool = True
    """Whether it is the user's own; what others have handed on is learned from and never judged by."""
    at: float = 0.0
    """Unix time, seconds."""
    known_at: float = 0.0
    """When its outcome was known; nothing that was decided before may have learned from it."""


@dataclass
class Tally:
    """Successes and retries, both fading with age."""

    hits: float = 0.0
    count: float = 0.0
    at: float = 0.0
    """Unix time for which the two hold."""
    own: int = 0
    """The user's own retries, whatever their age."""

    def add(self, trial: Trial) -> None:
        """Count a retry."""
        fade = _fade(self.at, trial.at)
        self.hits = self.hits * fade + trial.weight * trial.succeeded
        self.count = self.count * fade + trial.weight
        self.at = max(self.at, trial.at)
        self.own += trial.own

    def alike(self, at: float) -> int:
        """Return how many of the user's own retries it is worth at a time: old ones count less."""
        return min(self.own, round(self.count * _fade(self.at, at)))

    def rate(self, at: float, prior: float, strength: float) -> float:
        """Return the rate at a time, shrunk towards `prior` as `strength` cases would."""
        fade = _fade(self.at, at)
        return (self.hits * fade + strength * prior) / (self.count * fade + strength)


def _fade(then: float, now: float) -> float:
    """Return what is left of a case's weight; nothing fades backwards when a clock was set back."""
    return math.exp2(-max(now - then, 0.0) / (HALF_LIFE * DAY)) if then else 1.0


@dataclass
class Rates:
    """Success rates of retries: of all, by class, by class and fingerprint."""

    everything: Tally = field(default_factory=Tally)
    classes: dict[str, Tally] = field(default_factory=dict)
    fingerprints: dict[str, Tally] = field(default_factory=dict)

    def add(self, trial: Trial) -> None:
        """Learn from a retry. They come in the order of time."""
        self.everything.add(trial)
        self.classes.setdefault(trial.cls, Tally()).add(trial)
        self.fingerprints.setdefault(trial.fingerprint, Tally()).add(trial)

    def of_all(self, at: float) -> float:
        """Return the rate of all retries."""
        return self.everything.rate(at, EVERYTHING[0] / sum(EVERYTHING), sum(EVERYTHING))

    def of_class(self, cls: str, at: float) -> float:
        """Return the rate of a class: what its rule alone amounts to."""
        return self.classes.get(cls, Tally()).rate(at, self.of_all(at), CLASS_WEIGHT)

    def of(self, trial: Trial) -> float:
        """Return the rate of a fingerprint."""
        tally = self.fingerprints.get(trial.fingerprint, Tally())
        return tally.rate(trial.at, self.of_class(trial.cls, trial.at), FINGERPRINT_WEIGHT)


@dataclass(frozen=True)
class Verdict:
    """What came of predicting the user's own retries from what was known before each."""

    cases: int = 0
    """Retries that were predicted."""
    brier: float | None = None
    """Mean squared error of the learned probabilities; None where there were no cases."""
    base: float | None = None
    """That of the rates by class alone."""
    gain: float | None = None
    """Least gain that is certain (95 %, one-sided): what is below 0 may be chance."""
    used: bool = False
    why: str = "no retry has come to an end yet"
    """A sentence for people."""


@dataclass(frozen=True)
class Learned:
    """Everything that `chance` needs."""

    rates: Rates = field(default_factory=Rates)
    weights: tuple[float, ...] = PRIOR
    verdict: Verdict = field(default_factory=Verdict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Learned:
        """Return what `to_json` gave. ValueError if it is something else."""
        try:
            rates = raw["rates"]
            tables = ({key: Tally(**one) for key, one in rates[name].items()} for name in ("classes", "fingerprints"))
            weights = tuple(float(one) for one in raw["weights"])
            found = cls(Rates(Tally(**rates["everything"]), *tables), weights, Verdict(**raw["verdict"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"lacks what the rates of retries need ({error}): learn them again") from error
        if len(weights) != len(PRIOR):
            raise ValueError(f"holds {len(weights)} weights where {len(PRIOR)} belong: learn them again")
        return found


@dataclass
class _Walk:
    """One pass through a history: what was known, and what was said of each of the user's own retries."""

    rates: Rates = field(default_factory=Rates)
    weights: tuple[float, ...] = PRIOR
    fitted: int = 0
    """Retries there were when the weights were fitted."""
    waiting: list[tuple[float, int, Trial, tuple[float, ...]]] = field(default_factory=list)
    """Retries under way, by the time at which their outcome is known."""
    rows: list[tuple[float, ...]] = field(default_factory=list)
    outcomes: list[bool] = field(default_factory=list)
    said: list[tuple[float, float, bool]] = field(default_factory=list)
    """For each retry: learned probability, that of its class, and what came of it."""

    def meet(self, number: int, trial: Trial) -> None:
        """Predict a retry from what is known at its time."""
        self.catch_up(trial.at)
        row = _row(trial, self.rates)
        if trial.own:
            base = self.rates.of_class(trial.cls, trial.at)
            self.said.append((_probability(row, self.weights), base, trial.succeeded))
        heappush(self.waiting, (max(trial.known_at, trial.at), number, trial, row))

    def catch_up(self, now: float) -> None:
        """Learn what has come to an end by now."""
        while self.waiting and self.waiting[0][0] <= now:
            _, _, trial, row = heappop(self.waiting)
            self.rates.add(trial)
            if trial.own:
                self.rows.append(row)
                self.outcomes.append(trial.succeeded)
                if len(self.rows) >= max(self.fitted * REFIT, self.fitted + 5):
                    self.weights, self.fitted = _weights(self.rows, self.outcomes), len(self.rows)


def learn(trials: Iterable[Trial]) -> Learned:
    """Learn from retries, and say whether what was learned is worth listening to.

    Each is predicted before it is learned from. Those of others are learned from and never predicted: the back-test is
    on the user's own.
    """
    walk = _walked(trials)
    said = walk.said[WARM_UP:]
    verdict = judged([one[0] for one in said], [one[1] for one in said], [one[2] for one in said])
    return Learned(walk.rates, _weights(walk.rows, walk.outcomes) if walk.rows else PRIOR, verdict)


def foretold(trials: Iterable[Trial]) -> list[tuple[float, float, bool]]:
    """Return what was known of each of the user's own retries before it, in the order of time.

    That is: the learned probability, the rate of its class alone, and what came of it.
    """
    return _walked(trials).said


def _walked(trials: Iterable[Trial]) -> _Walk:
    walk = _Walk()
    for number, trial in enumerate(sorted(trials, key=lambda one: one.at)):
        walk.meet(number, trial)
    walk.catch_up(math.inf)
    return walk


def judged(said: Sequence[float], base: Sequence[float], outcomes: Sequence[bool]) -> Verdict:
    """Compare predictions with those of the rules alone, case by case."""
    if not outcomes:
        return Verdict()
    ours, theirs = brier(said, outcomes), brier(base, outcomes)
    gains = [(b - y) ** 2 - (p - y) ** 2 for p, b, y in zip(said, base, outcomes, strict=True)]
    gain = _certain(gains)
    told = f"in {len(outcomes)} retries the squared error is {ours:.3f}, and {theirs:.3f} by the rules alone"
    if len(outcomes) < LEAST_CASES:
        return Verdict(len(outcomes), ours, theirs, gain, why=f"{told}; {LEAST_CASES} retries are needed to tell")
    if gain <= 0:
        return Verdict(len(outcomes), ours, theirs, gain, why=f"{told}: not better by more than chance")
    return Verdict(len(outcomes), ours, theirs, gain, used=True, why=told)


def _certain(gains: Sequence[float]) -> float:
    """Return the lower bound of a mean."""
    mean = sum(gains) / len(gains)
    if len(gains) < 2:
        return mean - 1
    spread = math.sqrt(sum((one - mean) ** 2 for one in gains) / (len(gains) - 1))
    return mean - CERTAIN * spread / math.sqrt(len(gains))


def chance(learned: Learned, trial: Trial, lines: Sequence[str]) -> Chance | None:
    """Return how likely a retry is to succeed; None where nothing learned may have a say.

    That is: no text of an error, a history that is too short or in which the rules alone were as good, or a class of
    which too little was seen.
    """
    if not learned.verdict.used or not any(line.strip() for line in lines):
        return None
    alike = learned.rates.classes.get(trial.cls, Tally()).alike(trial.at)
    if alike < LEAST_ALIKE:
        return None
    same = learned.rates.fingerprints.get(trial.fingerprint, Tally()).alike(trial.at)
    source = "fingerprint" if same else "class"
    return Chance(probability(learned, trial), same or alike, source if trial.text is None else f"{source} and text")


def probability(learned: Learned, trial: Trial) -> float:
    """Return the calibrated probability that a retry succeeds, whether or not anybody should listen to it."""
    return _probability(_row(trial, learned.rates), learned.weights)


def _row(trial: Trial, rates: Rates) -> tuple[float, ...]:
    """Return what a prediction is made of: rates, text, whether it failed twice, and 1."""
    text = 0.0 if trial.text is None else logit(trial.text)
    return logit(rates.of(trial)), text, float(trial.attempt > 1), 1.0


def _probability(row: Sequence[float], weights: Sequence[float]) -> float:
    return sigmoid(sum(w * x for w, x in zip(weights, row, strict=True)))


def _weights(rows: Sequence[Sequence[float]], outcomes: Sequence[bool]) -> tuple[float, ...]:
    """Fit how much each part counts; this is the calibration too, for rows were made before their outcomes."""
    return logistic(rows[-MOST_FITTED:], outcomes[-MOST_FITTED:], prior=PRIOR, strength=PRIOR_STRENGTH)
