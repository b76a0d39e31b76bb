"""The last lines a run prints on a terminal: what came out, and what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workflowmaster.flows.plaintext import decisive, one_line
from workflowmaster.flows.reading import Outcome, read
from workflowmaster.flows.wording import counted, short

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.flows.state import WorkflowState

EXCERPT_LINES: Final = 12


def closing(state: WorkflowState) -> list[str]:
    """Return at most six lines: result, counts, reason, branch, report and the next command."""
    outcome = read(state)
    # Everything is one line and plain: this goes to a terminal, and parts of it were chosen by a prompt.
    branch = one_line(state.branch, 200) + (f" at {short(state.commit)}" if state.commit else "")
    lines = [
        one_line(outcome.sentence, 200),
        _counts(outcome),
        f"Reason: {one_line(outcome.reason, 300)}" if outcome.reason else "",
        f"Branch: {branch}" if state.branch else "",
        f"Report: {one_line(state.report, 400)}" if state.report else "",
        f"Next:   {one_line(outcome.next_command, 300)}" if outcome.next_command else "",
    ]
    return [line for line in lines if line]


def failure_excerpt(state: WorkflowState, logs: Mapping[str, str]) -> list[str]:
    """Return the failed step and the lines of its log that decided it; empty if nothing failed.

    The next command is not here: `closing`, which follows on the terminal, ends with it.
    """
    outcome = read(state)
    culprit = outcome.culprit
    if culprit is None or culprit.status != "failed":
        return []
    lines = decisive(logs.get(culprit.step.id, ""), EXCERPT_LINES)
    head = f"Step {one_line(culprit.step.id)} failed" + (f": {culprit.reason}" if culprit.reason else "")
    return [head, *(f"  | {line}" for line in lines)]


def _counts(outcome: Outcome) -> str:
    counts = outcome.counts
    # Zeros are left out; a line of them hides the one number that matters.
    words = ("reused", "retried", "skipped", "failed", "blocked", "waiting")
    found = [f"{counts['ran']} ran", *(f"{counts[word]} {word}" for word in words if counts[word])]
    decided = len(outcome.state.decisions)
    return f"{counted(len(outcome.rows), 'step')}: {', '.join(found)}" + (
        f"; {counted(decided, 'decision')}" if decided else ""
    )
