"""Which round dies where: drawn from a seed, and so that every boundary has its turn.

A plain draw over a hundred boundaries leaves a dozen out even in three hundred rounds. So the boundaries are shuffled
like cards and dealt, a whole deck before the next; what is random is the order, the passage, and what happens after.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from chaoskit.arena import Kill

WANTED = 3
"""Hits that every boundary must have in the long form."""
AGAIN, MOST_AGAIN = 0.75, 3
"""Chance that a resume is torn apart too, and how often at most. A further kill costs one process, a further round two."""
OPENING = "engine.go after"
"""Where a run dies so that its resume can be torn apart at a boundary that only a resume has."""


@dataclass(frozen=True)
class Round:
    """One run torn apart, and its resumes."""

    number: int
    seed: str
    kills: tuple[Kill, ...]
    """The first is the run's; the others are its resumes' one after the other."""

    def __str__(self) -> str:
        return f"round {self.number} (seed {self.seed}): " + ", then ".join(map(str, self.kills))


@dataclass
class Catalogue:
    """The boundaries that were recorded, with how often each was passed."""

    run: Counter[str]
    resume: Counter[str]
    hits: Counter[str] = field(default_factory=Counter)

    @property
    def names(self) -> list[str]:
        """All boundaries, in the order of their names."""
        return sorted({*self.run, *self.resume})

    def lacking(self, wanted: int = WANTED) -> list[str]:
        """Return the boundaries that too few have died at."""
        return [name for name in self.names if self.hits[name] < wanted]


def deal(catalogue: Catalogue, seed: int, count: int) -> list[Round]:
    """Draw so many rounds, deck after deck; the same seed and boundaries make the same rounds."""
    shuffling, rounds = random.Random(seed), []
    while len(rounds) < count:
        deck = catalogue.names
        shuffling.shuffle(deck)
        rounds += [one(catalogue, f"{seed}/{len(rounds) + n}", len(rounds) + n, name) for n, name in enumerate(deck)]
    return rounds[:count]


def more(catalogue: Catalogue, seed: int, number: int, boundary: str) -> Round:
    """Draw a round for a boundary that has too few hits: at its first passage, which no run is without."""
    drawn = one(catalogue, f"{seed}/{number}", number, boundary)
    kills = tuple(Kill(kill.boundary) if kill.boundary == boundary else kill for kill in drawn.kills[:2])
    return Round(number, drawn.seed, kills)


def one(catalogue: Catalogue, seed: str, number: int, boundary: str) -> Round:
    """Draw one round that dies at a given boundary, at a passage and with a sequel of chance."""
    chance = random.Random(seed)
    if boundary in catalogue.run:
        kills = [_kill(chance, catalogue.run, boundary)]
    else:
        kills = [_kill(chance, catalogue.run, OPENING), _kill(chance, catalogue.resume, boundary)]
    while len(kills) <= MOST_AGAIN and chance.random() < AGAIN:
        kills.append(_kill(chance, catalogue.resume, chance.choice(sorted(catalogue.resume))))
    return Round(number, seed, tuple(kills))


def of_words(text: str) -> Round:
    """Read a round that is given in words: `engine.create before #2, then audit.decision after #1`."""
    parts = [part.rpartition(" #") for part in text.split(", then ")]
    return Round(0, "given", tuple(Kill(name, int(at)) for name, _, at in parts))


def _kill(chance: random.Random, counts: Counter[str], boundary: str) -> Kill:
    return Kill(boundary, chance.randint(1, max(counts[boundary], 1)))


def table(catalogue: Catalogue) -> str:
    """Return the hits of each boundary: before, after and, where it has one, in the middle of the call."""
    calls: dict[str, dict[str, int]] = {}
    for name in catalogue.names:
        call, _, moment = name.rpartition(" ")
        calls.setdefault(call, {})[moment] = catalogue.hits[name]
    width = max(map(len, calls), default=0)
    lines = [f"{'call':{width}}  before  after   torn"]
    for call, hits in calls.items():
        cells = (str(hits.get(moment, "")) for moment in ("before", "after", "torn"))
        lines.append(f"{call:{width}}  " + "".join(f"{cell:>6}  " for cell in cells).rstrip())
    return "\n".join(lines)
