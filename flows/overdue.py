"""The time-out rule: what a question is answered when nobody has, and its time is over.

There is no process that watches a run which waits, so the rule is carried out by whoever comes by: `list`, `approve`,
`resume`, a flow run that the server starts again, and the flow `recover-orphans` on its schedule. Each finds the same
answer, because the question itself says until when and what then, as the settings were when it was asked. The cost is
that it happens some time after, not at that second.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, cast

from workflowmaster.flows import folders, questioning
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.claim import NeedsPerson, take
from workflowmaster.flows.journal import Journal
from workflowmaster.flows.journey import Record
from workflowmaster.flows.past import past
from workflowmaster.flows.questions import RULE, Answer, Book
from workflowmaster.flows.wording import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.questions import Question, Verb


def due(questions: Iterable[Question], now: float) -> list[Answer]:
    """Return the rule's answers to those of the questions whose time is over."""
    return [_ruled(one, now) for one in questions if one.late(now)]


def _ruled(question: Question, now: float) -> Answer:
    note = f"nobody answered within {duration((question.due or now) - question.asked_at)}"
    verb = cast("Verb", question.otherwise)  # `wait` is never late
    return Answer(question=question.number, step=question.step, verb=verb, by=RULE, note=note, at=now)


def enforce(folder: Folder) -> list[Answer]:
    """Answer what is overdue in a workflow; return the answers. Its claim must be held."""
    answers = due(past(folder.journal).book.open, time.time())
    if answers:
        put(folder, answers)
    return answers


def enforced(folder: Folder) -> Book:
    """Return a workflow's book, after the rule; without it, while somebody works on the workflow."""
    book = past(folder.journal).book
    if not due(book.open, time.time()):
        return book
    try:
        with take(folder):
            enforce(folder)
    except NeedsPerson:
        return book  # who works on it will carry it out when the run has come to wait
    return past(folder.journal).book


def put(folder: Folder, answers: Iterable[Answer]) -> None:
    """Write answers into a workflow that nobody works on. Its claim must be held, and their questions be open."""
    found = list(answers)
    record = folders.kept(folder.record, Record)
    approvals = {**record.approvals, **{answer.step: answer.sentence for answer in found}}
    log = AuditLog(folder.audit)
    try:
        folders.keep(folder.record, record.model_copy(update={"approvals": approvals}))
        with closing(Journal(folder.journal)) as records:
            for answer in found:
                questioning.write_down(answer, records, log)
    finally:
        log.close()
