"""Chooses the lines of a log that say why a step failed. Pure.

The last line seldom does: it is a summary, a hint where the full log lies, or what a shell printed while it gave up. So
lines are weighed by how the tools that print them report a fault (`weighing`), and the heaviest are kept.

The hard choice is speed. Patterns on every line of 64 KiB take 30 ms; so one pass of an automaton finds the lines that
have a word of trouble in them at all, and only the last of those are weighed. The accepted cost: a fault told in words
that nobody listed is found only by its being the last thing that was printed.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from workflowmaster.flows.fingerprints import ANSI
from workflowmaster.flows.weighing import TRACE, WHY, WITH_NEXT, Weight, boilerplate, weigh

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_TEXT = 64 * 1024
"""Characters of a log, from its end, that are looked at."""

FIRST, LAST = 12, 48
"""Lines with a word of trouble that are weighed, where there are more. What fails more often fails the same way."""

MOST = 12
"""Decisive lines that are kept: the first third and the last two, for a compiler's first error is the one that counts,
and a script's last."""

HEAD, TAIL = 400, 190
"""Characters of a long line that are kept of its beginning and of its end, where clients put the cause."""

LONGEST = HEAD + len(" … ") + TAIL
"""Most characters of a decisive line. Rules are tried on no longer ones."""

CUES = (
    *("error", "fail", "fatal", "panic", "exception", "denied", "refused", "not found", "no such", "cannot", "can't"),
    *("could not", "couldn't", "unable", "killed", "timeout", "timed out", "assert", "conflict", "rejected", "abort"),
    *(
        "segmentation",
        "no space",
        "read-only",
        "quota",
        "rate limit",
        "too many",
        "not ok",
        "✕",
        "✗",
        "✖",
        "\u00d7",
        "●",
    ),
    *("invalid", "unexpected", "undefined", "missing", "forbidden", "unauthorized", "err:", "***", "\ne: ", "\ne   "),
    *(".go:", "http/1", "http/2", "unbound", "syntax", "traceback", "unresolved", "interrupted", "unreachable"),
    *("reset", "broken pipe", "temporar", "workflowmaster", "memory", "exceed", "gave up", "giving up", "went wrong"),
    *("not permitted", "not installed", "no module", "no matching", "does not exist", "dumped", "unknown", "illegal"),
    *("refusal", "limit reached", "bad address", "max turns", "unavailable"),
)
"""Beginnings of words of trouble, in lower case. A line without any is never decisive."""

TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Line:
    """A line that speaks of trouble."""

    number: int
    """Its place among the cleaned lines, from 0."""
    text: str
    weight: Weight
    verdict: bool
    """Whether it is a test's verdict."""


@dataclass(frozen=True)
class Survey:
    """What was seen in a log."""

    lines: Sequence[str]
    """All lines, cleaned."""
    found: Sequence[Line]
    """Those with a word of trouble, in order, without what only looks like it."""
    worded: Sequence[int] = ()
    """Numbers of the lines, from 0 and in order, in which the gate's further words may be, or a word of trouble is."""

    @property
    def chosen(self) -> tuple[Line, ...]:
        """The decisive lines; where nothing says why, those that say that something failed, or a word of it."""
        heaviest = max((line.weight for line in self.found), default=0)
        if heaviest > 1:
            return _few([line for line in self.found if line.weight == heaviest])
        return _few(list(self.found)[-MOST // 2 :])

    def others(self, most: int) -> list[Line]:
        """Return those of the last `most` lines with further words that are not among those found, nor calm."""
        known = {line.number for line in self.found}
        rest = [number for number in self.worded[-most:] if number not in known]
        weighed = ((number, self.lines[number], weigh(self.lines[number])) for number in rest)
        return [Line(number, cut(text), weight, verdict) for number, text, (weight, verdict) in weighed if weight]


class Gate:
    """Lets those lines of a text through that hold one of many words anywhere, in one pass."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        """`words` are looked for besides the cues, in any case."""
        from ahocorasick_rs import AhoCorasick, Implementation

        further = [word.lower() for word in words]
        self._all = AhoCorasick([*CUES, *further], implementation=Implementation.DFA)

    def lines(self, lines: Sequence[str]) -> list[int]:
        """Return the numbers of the lines that hold a cue or a word, in order."""
        # A line break before the first line lets a cue say that it must begin a line.
        low = "\n" + "\n".join(lines).lower()
        starts = list(accumulate(map(len, low.split("\n")), lambda place, length: place + length + 1))
        found, beyond = [], 0
        for _, _, end in self._all.find_matches_as_indexes(low):
            if end > beyond:
                number = bisect_right(starts, end - 1)
                beyond = starts[number]
                found.append(number - 1)
        return found


def decisive(text: str) -> tuple[str, ...]:
    """Return the lines of a log's tail that say why it failed, in order, at most `MOST`; none for an empty log."""
    return told(survey(text))


def survey(text: str, gate: Gate | None = None) -> Survey:
    """Look through the end of a log. `gate` may have further words to look for."""
    lines = cleaned(text)
    worded = (gate or _gate()).lines(lines)
    weighed: dict[int, Line] = {}
    few = worded if len(worded) <= FIRST + LAST else (*worded[:FIRST], *worded[-LAST:])
    for number in few:
        if gate is None or _cued(lines[number]):
            weighed |= _weighed(lines, number)
    return Survey(lines, [weighed[number] for number in sorted(weighed)], worded)


def told(seen: Survey) -> tuple[str, ...]:
    """Return what to show of a failure: the decisive lines, and the command that was traced last if it said nothing.

    Where there is neither, the last line that is no boilerplate.
    """
    rest = [line for line in seen.lines[-LAST:] if line.strip() and not boilerplate(line)]
    silent = [cut(line) for line in rest[-1:] if TRACE.match(line) or not seen.found]
    return (*(line.text for line in seen.chosen), *silent)


def cleaned(text: str) -> list[str]:
    """Return the lines of the end of a log as a terminal would have left them: no colours, the last word of a bar."""
    text = text[-MOST_TEXT:]
    if "\x1b" in text:
        text = ANSI.sub("", text)
    lines = text.replace("\r\n", "\n").split("\n")
    # Not by a pattern: a possessive one is wrong in Python 3.11.2, any other slow where a line has no `\r` at all.
    return [line.rstrip("\r").rpartition("\r")[2] if "\r" in line else line for line in lines]


def cut(line: str) -> str:
    """Return a line, its middle left out where it is longer than `LONGEST`."""
    line = line.strip()
    return line if len(line) <= LONGEST else f"{line[:HEAD]} … {line[-TAIL:]}"


def _cued(line: str) -> bool:
    """Whether a line has a cue: the gate does not tell its cues from its further words."""
    low = f"\n{line.lower()}"
    return any(cue in low for cue in CUES)


def _weighed(lines: Sequence[str], number: int) -> dict[int, Line]:
    """Weigh a line, and take what a traceback or a panic announced by it says."""
    line = lines[number]
    if TRACEBACK in line:
        return _raised(lines, number)
    weight, verdict = weigh(line)
    found = {number: Line(number, cut(line), weight, verdict)} if weight else {}
    if found and WITH_NEXT.search(line) and number + 1 < len(lines):
        found[number + 1] = Line(number + 1, cut(lines[number + 1]), WHY, verdict)
    return found


def _raised(lines: Sequence[str], start: int) -> dict[int, Line]:
    """Find what a traceback ends with: its first line that is indented no deeper than its head."""
    depth = lines[start].index(TRACEBACK)
    for number in range(start + 1, min(start + 400, len(lines))):
        line = lines[number][depth:]
        if line.strip(" |") and not line.startswith((" ", "\t")):
            weight, verdict = weigh(line)
            return {number: Line(number, cut(line), WHY, verdict and weight == WHY)}
    return {}


def _few(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Keep the first and the last of many, and of equal ones the last."""
    once = sorted({line.text: line for line in lines}.values(), key=lambda line: line.number)
    third = MOST // 3
    return tuple(once) if len(once) <= MOST else (*once[:third], *once[third - MOST :])


@cache
def _gate() -> Gate:
    return Gate()
