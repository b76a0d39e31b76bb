"""The orchestrator is killed at every boundary between it and the world, and the run comes to the same end.

The short form dies at a call of each kind. The long one deals all boundaries at least three times; see docs/chaos.md
for how to play one round of it again.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import pytest
from chaoskit import lots, rounds
from chaoskit.arena import Kill

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chaoskit.aftermath import Outcome
    from chaoskit.arena import Arena

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

SEED = int(os.environ.get("CHAOS_SEED", "4"))
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "200"))
LANES = int(os.environ.get("CHAOS_LANES", "2"))
ONLY = os.environ.get("CHAOS_ONLY", "")
"""Number of a round, or a round in words, to be played alone."""
EMBEDDED = 8
"""Every so many rounds one has no Prefect server but its own."""
TRIES = 4
"""Times that the boundaries with too few hits are dealt again."""

SHORT = (
    "engine.go after #2, then git.snapshot after #1, then audit.container.finished before #1",
    "record.journal result before #3, then prefect.result torn #1",
)
"""Two rounds that die at a call of each kind: about three seconds each on two free cores."""


@pytest.fixture(scope="module")
def catalogue(arena: Arena, undisturbed: Outcome) -> lots.Catalogue:
    """The boundaries of an undisturbed run, and of the resume of one that was killed halfway."""
    run, known = arena.run(), arena.workflows
    assert arena.run(Kill(lots.OPENING, 3)).killed
    (workflow,) = arena.workflows - known
    resume = arena.resume(workflow)
    assert resume.code == 0, resume.err
    return lots.Catalogue(Counter(run.passed), Counter(resume.passed))


@pytest.mark.parametrize("words", SHORT, ids=["engine-git-audit", "record-prefect"])
def test_a_killed_run_comes_to_the_end_of_an_undisturbed_one(words: str, arena: Arena, undisturbed: Outcome) -> None:
    told = rounds.play(arena, lots.of_words(words), undisturbed)
    assert told.faults == [], told
    assert told.hits == [kill.boundary for kill in told.round.kills], "a boundary has another name now, or none"


@pytest.mark.parametrize("step", [1, 3], ids=["without-a-check", "with-a-check"])
def test_work_that_was_done_is_not_done_again(step: int, arena: Arena, undisturbed: Outcome) -> None:
    told = rounds.play(arena, lots.of_words(f"record.journal worked after #{step}"), undisturbed)
    assert told.faults == [], told
    assert (len(told.hits), told.repeated) == (1, {}), told


class Lanes:
    """Plays rounds, some side by side, each lane with a state directory, a repository and an arena of its own."""

    def __init__(self, make: Callable[[int], Arena], good: Outcome) -> None:
        self._arenas = [make(lane) for lane in range(LANES + 1)]
        self._locks = [Lock() for _ in self._arenas]
        self._good = good

    def play(self, drawn: Sequence[lots.Round]) -> list[rounds.Told]:
        with ThreadPoolExecutor(LANES) as threads:
            return list(threads.map(self._one, drawn))

    def _one(self, drawn: lots.Round) -> rounds.Told:
        # By number and not by who is free: a round that is played again must meet the same kind of server.
        lane = LANES if drawn.number % EMBEDDED == EMBEDDED - 1 else drawn.number % LANES
        with self._locks[lane]:
            told = rounds.play(self._arenas[lane], drawn, self._good)
        print(told, flush=True)
        return told


@pytest.fixture(scope="module")
def lanes(make_arena: Callable[..., Arena], prefect_server: Any, undisturbed: Outcome) -> Lanes:
    def make(lane: int) -> Arena:
        return make_arena() if lane == LANES else make_arena(PREFECT_API_URL=prefect_server.url)

    return Lanes(make, undisturbed)


def chosen(catalogue: lots.Catalogue) -> list[lots.Round]:
    """Return the rounds that were asked for by the environment: all, one by its number, or one in words."""
    if ONLY and not ONLY.isdigit():
        return [lots.of_words(ONLY)]
    dealt = lots.deal(catalogue, SEED, max(ROUNDS, int(ONLY or 0) + 1))
    return [dealt[int(ONLY)]] if ONLY else dealt


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
def test_every_boundary_has_been_died_at(lanes: Lanes, catalogue: lots.Catalogue) -> None:
    told = lanes.play(chosen(catalogue))
    catalogue.hits.update(hit for one in told for hit in one.hits)
    for _ in range(TRIES * (not ONLY)):
        lacking = [name for name in catalogue.lacking() for _ in range(lots.WANTED - catalogue.hits[name])]
        again = lanes.play([lots.more(catalogue, SEED, len(told) + n, name) for n, name in enumerate(lacking)])
        catalogue.hits.update(hit for one in again for hit in one.hits)
        told += again
    print(f"\nseed {SEED}: {len(told)} rounds, {catalogue.hits.total()} kills\n{lots.table(catalogue)}")
    print(f"adopted {sum(one.adopted for one in told)}, ran again {sum((one.repeated for one in told), Counter())}")
    assert [str(one) for one in told if one.faults] == []
    assert ONLY or catalogue.lacking() == []
