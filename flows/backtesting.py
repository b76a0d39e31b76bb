"""What each way of deciding would have made of the failures that really happened. Pure.

A decision can only be judged where it is known what the next attempt came to, and that is known only where one was
made. So nothing is imagined: a retry that was never made counts for nobody and against nobody, and the report says how
many of those there are. The accepted cost is a bias that cannot be taken out afterwards: attempts were made where the
rules, the prompt or a person thought them worth it, so the cases with a known outcome look better for retrying than all
would.

Attempts of a step follow one another, so they are replayed as one *story*: a way of deciding that gives up after the
first attempt never meets the second failure, and the minutes of what came later count as spared.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from workflowmaster.flows.decisions import decide
from workflowmaster.flows.facts import LATE, UNWELL, Chance, Facts, recalled
from workflowmaster.flows.plan import Failure, Noun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from workflowmaster.flows.failurehistory import Case


class Choice(NamedTuple):
    """What a way of deciding does about one failure, as far as it can be replayed."""

    again: bool
    """Whether it makes another attempt."""
    grows: bool = False
    """Whether that attempt gets more memory or time."""


class Way(Protocol):
    """A way of deciding."""

    def __call__(self, facts: Facts, chance: Chance | None) -> Choice:
        """Choose. `chance` is what had been learned before that failure, where it may have a say."""


def by_rules(facts: Facts, chance: Chance | None = None) -> Choice:
    """Choose by the table, with or without what was learned."""
    found = decide(replace(facts, chance=chance))
    return Choice(found.verb == "retry", grows=found.limits is not None)


def _rules(facts: Facts, chance: Chance | None) -> Choice:
    del chance
    return by_rules(facts)


def _always(facts: Facts, chance: Chance | None) -> Choice:
    del chance
    return Choice(facts.attempt < facts.most, grows=facts.room is not None)


def _never(facts: Facts, chance: Chance | None) -> Choice:
    del facts, chance
    return Choice(again=False)


def original(facts: Facts) -> str:
    """Return the verb of the original's decision function, by its rules in its order.

    Its `timeout` was never found by its own classifier, which took a timeout for a network failure: the same verb.
    """
    if facts.mode == "off":
        return "escalate"
    if facts.priority == "high" and facts.attempt < facts.most:
        return "retry"
    if facts.priority == "low" and facts.progress > LATE:
        return "skip"
    if facts.cls in ("network", "timeout", "rate_limit"):
        return "retry"
    if facts.health < UNWELL and facts.priority != "high":
        return "skip"
    return "continue" if facts.priority == "medium" else "escalate"


def _original(facts: Facts, chance: Chance | None) -> Choice:
    """Choose as the original did: its loop made exactly one more attempt, at once and under the same limits."""
    del chance
    return Choice(original(facts) == "retry" and facts.attempt == 1 and facts.most > 1)


WAYS: dict[str, Way] = {
    "rules": _rules,
    "rules + learned": by_rules,
    "always retry": _always,
    "never retry": _never,
    "original": _original,
}
"""The ways that are compared, by name."""


class Score(Noun):
    """What one way of deciding would have come to, over the stories whose outcomes are known."""

    way: str
    retries: int = 0
    """Attempts it would have made that really were made."""
    saved: int = 0
    """Steps that its own retries complete."""
    broken: int = 0
    """Steps that it gives up on, though a later attempt completed them."""
    wasted_minutes: float = 0.0
    """Of its attempts that failed."""
    useful_minutes: float = 0.0
    """Of its attempts that completed a step."""
    spared_minutes: float = 0.0
    """Of failed attempts that were made, and that it does not make."""
    beyond: int = 0
    """Attempts it would have made of which nobody knows what they would have come to; they count nowhere else."""


class Backtest(Noun):
    """The comparison, and how far it can be trusted."""

    failures: int
    """Failed attempts in the history."""
    steps: int
    """Stories they make: the attempts of one step on the same inputs."""
    known: int
    """Failures after which it is known what the next attempt came to."""
    unreadable: int
    """Failures whose record does not hold what the decision was made by."""
    forced: int
    """Failures that left no choice: a budget was spent, or a service was down."""
    untimed: int
    """Known attempts whose minutes are not known; they count as none."""
    predicted: int
    """Failures about which something learned had a say."""
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Event:
    """One failure that can be replayed."""

    facts: Facts
    case: Case
    chance: Chance | None

    @property
    def known(self) -> bool:
        """Whether it is known what the next attempt came to."""
        return self.case.outcome != "unknown"

    def comes_to(self, choice: Choice) -> str:
        """Return what another attempt of that choice comes to: succeeded, failed or unknown."""
        outcome = self.case.outcome
        if not self.facts.limited or choice.grows == self.case.grown:
            return outcome
        # More room never hurts: what failed with it fails without, and what succeeded without succeeds with it.
        sure = "succeeded" if choice.grows else "failed"
        return outcome if outcome == sure else "unknown"


@dataclass
class _Tally:
    way: str
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, amount: float = 1) -> None:
        self.sums[name] = self.sums.get(name, 0) + amount

    def score(self) -> Score:
        minutes = {name: round(value, 4) for name, value in self.sums.items() if name.endswith("_minutes")}
        return Score.model_validate({"way": self.way, **self.sums, **minutes})


def backtest(cases: Sequence[Case], chance_of: Callable[[Case], Chance | None] | None = None) -> Backtest:
    """Replay failures under each way of deciding.

    Args:
        cases: The history, in any order.
        chance_of: What had been learned before a case, from earlier ones only; None takes what its record says.
    """
    events = [event for case in cases if (event := _event(case, chance_of))]
    free = [event for event in events if not _forced(event.facts)]
    stories = list(_stories(free))
    return Backtest(
        failures=len(cases),
        steps=len(stories),
        known=sum(event.known for event in free),
        unreadable=len(cases) - len(events),
        forced=len(events) - len(free),
        untimed=sum(event.known and event.case.minutes is None for event in free),
        predicted=sum(event.chance is not None for event in free),
        scores=tuple(_score(name, way, stories) for name, way in WAYS.items()),
    )


def _event(case: Case, chance_of: Callable[[Case], Chance | None] | None) -> Event | None:
    """Return a case with the facts it was decided by; None where its record does not hold them."""
    asked = case.factors.get("retry_after")
    failure = Failure(
        cls=case.cls,
        fingerprint=case.fingerprint,
        lines=case.lines,
        confidence=case.confidence,
        source=case.source,
        retry_after=asked if isinstance(asked, int | float) else None,
    )
    try:
        facts = recalled(case.step, failure, case.factors)
    except (KeyError, TypeError):
        # An older version decided it by less.
        return None
    return Event(facts, case, chance_of(case) if chance_of else facts.chance)


def _forced(facts: Facts) -> bool:
    return bool(facts.budget_spent) or facts.held_up


def _stories(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Join the failures of which one came right after the other, of the same step on the same inputs."""
    ordered = sorted(events, key=lambda event: (event.case.workflow, event.case.step, event.case.at))
    story: list[Event] = []
    for event in ordered:
        if story and not _follows(story[-1].case, event.case):
            yield story
            story = []
        story.append(event)
    if story:
        yield story


def _follows(before: Case, case: Case) -> bool:
    same = (before.workflow, before.step) == (case.workflow, case.step)
    return same and before.outcome == "failed" and case.attempt > before.attempt


def _score(name: str, way: Way, stories: Iterable[list[Event]]) -> Score:
    tally = _Tally(name)
    for story in stories:
        _replay(story, way, tally)
    return tally.score()


def _replay(story: list[Event], way: Way, tally: _Tally) -> None:
    """Follow one step's attempts until the way gives up, succeeds, or goes where nobody has been."""
    for number, event in enumerate(story):
        choice = way(event.facts, event.chance)
        if not choice.again:
            _given_up(story[number:], tally)
            return
        outcome = event.comes_to(choice)
        if outcome == "unknown":
            tally.add("beyond")
            return
        tally.add("retries")
        if outcome == "succeeded":
            tally.add("saved")
            tally.add("useful_minutes", event.case.minutes or 0.0)
            return
        tally.add("wasted_minutes", event.case.minutes or 0.0)


def _given_up(rest: Sequence[Event], tally: _Tally) -> None:
    if rest[-1].case.outcome == "succeeded":
        tally.add("broken")
    for event in rest:
        if event.case.outcome == "failed":
            tally.add("spared_minutes", event.case.minutes or 0.0)
