"""The commands of `coach`: what the history of runs says about how to run. `coach backtest` is the first.

Nothing here changes how anything is decided. A comparison that could would have to be right; one that is read by a
person only has to say what it does not know.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from workflowmaster.flows import failurehistory
from workflowmaster.flows.backtesting import backtest as replayed
from workflowmaster.flows.forecasts import forecasts

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from workflowmaster.flows.backtesting import Backtest, Score

HEADINGS = ("", "retries", "saved", "broken", "useful", "wasted", "spared", "beyond")

LEGEND = """\
saved: steps that its own retries complete        broken: steps it gives up on that a later attempt completed
useful, wasted: minutes of its attempts that succeed and fail        spared: minutes of failed attempts it does not make
beyond: attempts it would make that nobody made, so nobody knows what they would have come to; they count nowhere else
"""


def backtest(given: argparse.Namespace) -> int:
    """Replay the failures of all runs under each way of deciding, and print what each would have come to."""
    history = failurehistory.everything()
    found = replayed(history.cases, forecasts(history.cases))
    if given.json:
        print(found.model_dump_json())
        return 0
    if not found.failures:
        sys.stderr.write("no step has failed yet, so there is nothing to replay\n")
        return 0
    print("\n".join(_table(found)))
    sys.stderr.write("".join(f"{line}\n" for line in _notes(found, history.without)) + LEGEND)
    return 0


def _table(found: Backtest) -> Iterator[str]:
    rows = [HEADINGS, *map(_row, found.scores)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for row in rows:
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join([row[0].ljust(len(first)), *rest])


def _row(score: Score) -> tuple[str, ...]:
    counts = (score.retries, score.saved, score.broken)
    minutes = (score.useful_minutes, score.wasted_minutes, score.spared_minutes)
    return (score.way, *map(str, counts), *(f"{one:.1f}" for one in minutes), str(score.beyond))


def _notes(found: Backtest, without: int) -> Iterator[str]:
    """Yield what the table rests on, and what it leaves out."""
    yield f"{found.failures} failed attempts; of {found.known} it is known what the next attempt came to"
    if found.unreadable + without:
        yield f"{found.unreadable + without} were decided by an older version, which did not record by what"
    if found.forced:
        yield f"{found.forced} left no choice: a budget was spent, or a service was down"
    if found.untimed:
        yield f"{found.untimed} attempts count as no minutes, because nobody knows how long they took"
    if not found.predicted:
        yield "nothing learned has a say yet: rules + learned decides as the rules do"
