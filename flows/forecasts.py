"""What had been learned before each failure of a history, as a back-test may use it.

A forecast that knew its own outcome would always be right, so each case is only told what earlier ones have shown, and
of those only what had ended by then. The hard choice is how often to learn anew. After every case would be exact and
take hours, because what learning costs grows faster than the history; so it is done when half as much again is known.
The accepted cost: a forecast lags behind what a run of that day would have had, and can only look worse than it was.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from workflowmaster.analytics import retrychance, texts
from workflowmaster.flows import learned
from workflowmaster.flows.learning import LEAST_A_LABEL, LEAST_TEXTS, trial_of, tried_again

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from workflowmaster.flows.failurehistory import Case

AGAIN = 1.5
"""Growth of what is known after which it is learned anew."""


class Place(NamedTuple):
    """What tells one failed attempt from all others."""

    workflow: str
    step: str
    attempt: int
    at: float


def forecasts(cases: Sequence[Case]) -> Callable[[Case], retrychance.Chance | None]:
    """Return what answers with the chance that a retry had, by all that was known when a case was decided.

    Cases may be asked about in any order; the same one always gets the same answer.
    """
    tried = sorted((case for case in cases if tried_again(case)), key=lambda case: case.at)
    said = _said(tried)
    ended = sorted((trial_of(case, said.get(_place(case))) for case in tried), key=lambda trial: trial.known_at)
    times = [trial.known_at for trial in ended]
    marks = _marks(len(ended))
    known: dict[int, retrychance.Learned] = {}

    def chance_of(case: Case) -> retrychance.Chance | None:
        found = bisect_right(times, case.at)
        mark = marks[bisect_right(marks, found) - 1]
        if mark not in known:
            known[mark] = retrychance.learn(ended[:mark])
        return retrychance.chance(known[mark], trial_of(case, said.get(_place(case))), case.lines)

    return chance_of


def _marks(count: int) -> list[int]:
    """Return the numbers of known retries at which it is learned anew. Before the first nothing can have a say."""
    marks, following = [0], retrychance.WARM_UP + retrychance.LEAST_CASES
    while following <= count:
        marks.append(following)
        following = int(following * AGAIN)
    return marks


def _said(tried: Sequence[Case]) -> Mapping[Place, float]:
    """Return what a text model of earlier cases says of each; nothing where they are too few for one."""
    labels = [case.outcome for case in tried]
    counts = Counter(labels)
    if len(tried) < LEAST_TEXTS or len(counts) < 2 or min(counts.values()) < LEAST_A_LABEL:
        return {}
    about = [learned.described(case.lines, case.cls) for case in tried]
    # One way of training, fixed beforehand: the best of several would have been chosen by later cases.
    found = texts.foretold(about, labels, [case.at for case in tried], way=texts.GRID[0])
    return {_place(tried[number]): shares[learned.WORKED] for number, shares in found.items()}


def _place(case: Case) -> Place:
    return Place(case.workflow, case.step, case.attempt, case.at)
