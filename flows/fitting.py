"""Whether an answer fits its question. Pure; asked before anything is written, whoever answers.

What does not fit is refused and never bent into shape: who asks for 64 GiB where the policy grants two should know that
the next attempt will not have them, before it has failed once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.plan import Limits
from workflowmaster.flows.questions import NOTE, Answer
from workflowmaster.flows.wording import duration, listed, size

if TYPE_CHECKING:
    from workflowmaster.flows.questions import Question, Verb


@dataclass(frozen=True)
class Wish:
    """What somebody wants to answer."""

    by: str
    verb: Verb | None = None
    """None: the plain way on, which is to approve what waits for approval and to retry what has failed."""
    note: str = ""
    memory: int | None = None
    """Bytes."""
    seconds: float | None = None


def fitted(question: Question, wish: Wish, now: float) -> Answer:
    """Return the answer that a wish is to this question. BadOption if it is none."""
    verb = wish.verb or question.verbs[0]
    if verb == "approve" and question.sort == "escalation":
        verb = "retry"  # as it always was: to agree with a failed step is to let it try again
    where = f"step {question.step}"
    if verb not in question.verbs:
        raise BadOption(f"{where}: {_misfit(question, verb)}; it can be answered with {_listed(question.verbs)}")
    if len(wish.note) > NOTE:
        raise BadOption(f"{where}: a note of {len(wish.note)} characters is too long, {NOTE} are kept")
    limits = Limits(memory=wish.memory, seconds=wish.seconds)
    if limits == Limits():
        return _answer(question, wish, verb, None, now)
    if verb != "retry":
        raise BadOption(f"{where}: memory and minutes are for another attempt, and {verb!r} makes none")
    _grantable(question, limits)
    return _answer(question, wish, verb, limits, now)


def _answer(question: Question, wish: Wish, verb: Verb, limits: Limits | None, now: float) -> Answer:
    note = " ".join(wish.note.split())
    return Answer(question=question.number, step=question.step, verb=verb, by=wish.by, note=note, limits=limits, at=now)


def _misfit(question: Question, verb: Verb) -> str:
    if question.sort == "approval":
        return f"it waits for approval and has not failed, so there is nothing to {verb}"
    return f"it has failed, and {verb!r} is no answer to that"


def _grantable(question: Question, limits: Limits) -> None:
    """Refuse limits that the next attempt could not have. What it had before is where it failed, so less is refused."""
    had, most = question.had, question.most
    if most == Limits():
        raise BadOption(f"step {question.step}: it runs in no container, so memory and minutes mean nothing to it")
    for what, wanted, least, top, show in (
        ("memory", limits.memory, had.memory, most.memory, size),
        ("time", limits.seconds, had.seconds, most.seconds, duration),
    ):
        if wanted is not None and top is not None and wanted > top:
            caps = "its policy and the settings"
            raise BadOption(f"step {question.step}: {what} {show(wanted)} is more than {caps} grant: {show(top)}")
        if wanted is not None and least is not None and wanted < least:
            raise BadOption(f"step {question.step}: {what} {show(wanted)} is less than it had: {show(least)}")


def _listed(verbs: tuple[Verb, ...]) -> str:
    return listed([f"--{verb}" if verb != "approve" else "approve" for verb in verbs])
