"""The command `approve`: a person answers what a run asks, and the run goes on.

The claim comes first and the question is looked up under it. So of two people who answer at once one is refused before
he has written anything, and he who waits for the other (`--wait`) finds the question answered and is told by whom. All
that can be wrong with an answer is said before the first is written, also where one command answers several.
"""

from __future__ import annotations

import getpass
import math
import sys
import time
from typing import TYPE_CHECKING, Final

from workflowmaster.flows import folders, granting, launching, overdue
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.fitting import Wish, fitted
from workflowmaster.flows.past import past
from workflowmaster.flows.questions import DERIVED, UNAPPROVED, VERBS, Question
from workflowmaster.flows.wording import moment
from workflowmaster.policies import parse_size

if TYPE_CHECKING:
    import argparse

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.questions import Answer, Book, Verb
    from workflowmaster.flows.state import WorkflowState

FLAGS: Final[tuple[Verb, ...]] = tuple(verb for verb in VERBS if verb != "approve")
"""Answers that have an option of their own."""


def approve(given: argparse.Namespace) -> int:
    """Keep a person's answer with the run, and go on with it."""
    folder, wish = folders.find(given.id), wished(given)
    granting.wanted(given.budget)  # what is wrong with it is said before the answer is kept
    held = launching.take_up(folder, given)
    try:
        overdue.enforce(folder)
        answers = chosen(folder, given.step, wish, everything=given.all)
        overdue.put(folder, answers)
    except BaseException:
        held.close()
        raise
    sys.stderr.writelines(f"{folder.id}: step {answer.step} is {answer.reason}\n" for answer in answers)
    return launching.go_on(folder, given, held, kept=True)


def wished(given: argparse.Namespace) -> Wish:
    """Read the command line's answer. BadOption for a size or a time that is none."""
    return Wish(
        by=getpass.getuser(),
        verb=next((verb for verb in FLAGS if getattr(given, verb)), None),
        note=given.note,
        memory=_memory(given.memory),
        seconds=_seconds(given.minutes),
    )


def _memory(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        size = parse_size(text)
    except ValueError as error:
        raise BadOption(f"--memory {text}: {error}") from error
    if isinstance(size, int) and size > 0:
        return size
    raise BadOption(f"--memory {text}: expected a size such as 512m or 2g")


def _seconds(minutes: float | None) -> float | None:
    if minutes is not None and not (minutes > 0 and math.isfinite(minutes)):
        raise BadOption(f"--minutes {minutes:g}: expected a number above 0")
    return None if minutes is None else minutes * 60


def chosen(folder: Folder, step: str | None, wish: Wish, *, everything: bool) -> list[Answer]:
    """Return the answers that are meant. The claim must be held.

    BadOption for a step that asks nothing and for an answer that does not fit; NeedsPerson where it is not clear what
    is answered.
    """
    book = past(folder.journal).book
    asks = asked(folder.state(), book)
    if step:
        asks = [one for one in asks if one.step == step] or _nothing(folder, step, asks, book)
    if not asks:
        told = "".join(f"; step {one.step} is {one.reason}" for one in book.fresh)
        raise NeedsPerson(f"{folder.id}: no step waits{told}{' (`resume` goes on)' if told else ''}")
    if len(asks) > 1 and not everything:
        listed = ", ".join(one.step for one in asks)
        raise NeedsPerson(f"{folder.id}: more than one step waits ({listed}): name it with --step, or answer --all")
    now = time.time()
    return [fitted(one, wish, now) for one in asks]


def _nothing(folder: Folder, step: str, asks: list[Question], book: Book) -> list[Question]:
    """Refuse an answer to a step that asks nothing; it may have been answered meanwhile."""
    listed = ", ".join(one.step for one in asks) or "none"
    told = book.answered(step)
    before = ""
    if told:
        last = told[-1][1]
        before = f". Its question was answered: {last.reason}" + (f", {moment(last.at)}" if last.at else "")
    raise BadOption(f"--step {step}: {folder.id} has no such step waiting; waiting: {listed}{before}")


def asked(state: WorkflowState, book: Book) -> list[Question]:
    """Return what is open in a workflow, the oldest first, also where the record of a question is lost."""
    if state.status not in ("running", "waiting", "paused"):
        return []  # it has ended, or somebody has cancelled it
    known = [one for one in book.open if one.step in state.plan.ids]
    named = {one.step for one in known}
    # A plan of an older version, or a repaired one: the step's own reason is what is left.
    lost = (
        result
        for result in state.results.values()
        if result.status == "waiting" and result.step not in named and not result.reason.startswith(DERIVED)
    )
    return [*known, *(_from_status(result.step, result.reason) for result in lost if not _fresh(book, result.step))]


def _from_status(step: str, reason: str) -> Question:
    sort = "approval" if reason.startswith(UNAPPROVED) else "escalation"
    return Question.model_validate({"number": 0, "step": step, "sort": sort, "why": reason})


def _fresh(book: Book, step: str) -> bool:
    return any(answer.step == step for answer in book.fresh)
