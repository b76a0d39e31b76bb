"""What `list --waiting` shows: every open question of every run, the oldest first, and how to answer it.

Before anything is shown the time-out rule is carried out, so that nobody is sent to a question that is closed. A run
whose answers nobody has carried out yet is listed too: it waits for a `resume`, and would be forgotten.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.flows import folders, overdue
from workflowmaster.flows.answering import asked
from workflowmaster.flows.claim import claimed
from workflowmaster.flows.past import past
from workflowmaster.flows.plaintext import one_line
from workflowmaster.flows.questions import command
from workflowmaster.flows.wording import duration, moment

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.questions import Answer, Question
    from workflowmaster.flows.state import WorkflowState

OPEN: Final = frozenset({"running", "waiting", "paused"})
"""Statuses of a workflow that may have a question."""


def show(given: argparse.Namespace) -> int:
    """List what waits for a person."""
    rows = sorted((row for folder in folders.everything() for row in _rows(folder)), key=lambda row: row["since"])
    if given.json:
        print(json.dumps(rows))
        return 0
    now = time.time()
    for row in rows:
        print("\n".join(_lines(row, now)))
    if not rows:
        sys.stderr.write("nothing waits for a person\n")
    return 0


def _rows(folder: Folder) -> Iterator[dict[str, Any]]:
    state, _ = folder.condition()
    if state is None or state.status not in OPEN:
        return
    book = overdue.enforced(folder) if state.status == "waiting" else past(folder.journal).book
    busy = claimed(folder)
    for question in asked(state, book):
        yield {**_common(state, question.step, busy=busy), **_open(state, question)}
    # Under way they are being carried out.
    for answer in [] if busy or state.status == "running" else book.fresh:
        yield {**_common(state, answer.step, busy=busy), **_answered(state, answer)}


def _common(state: WorkflowState, step: str, *, busy: bool) -> dict[str, Any]:
    known = {"workflow_id": state.workflow_id, "name": state.plan.name, "workspace": state.workspace}
    return {**known, "step": step, "working": busy}


def _open(state: WorkflowState, question: Question) -> dict[str, Any]:
    fields = question.model_dump(mode="json", include={"sort", "why", "lines", "attempts", "due", "otherwise"})
    said = {"question": question.number, "since": question.asked_at, "verbs": list(question.verbs), "answer": None}
    return {**fields, **said, "command": command(state.workflow_id, question)}


def _answered(state: WorkflowState, answer: Answer) -> dict[str, Any]:
    none: dict[str, Any] = {"sort": "answered", "lines": [], "attempts": 0, "due": None, "otherwise": "wait"}
    said = {"question": answer.question, "why": answer.reason, "since": answer.at, "verbs": [], "answer": answer.verb}
    return {**none, **said, "command": f"workflowmaster resume {shlex.quote(state.workflow_id)}"}


def _lines(row: dict[str, Any], now: float) -> list[str]:
    asks = {"approval": "asks for approval", "escalation": "failed and asks", "answered": "is answered"}[row["sort"]]
    since = f" since {moment(row['since'])} ({duration(now - row['since'])})" if row["since"] else ""
    until = f", until {moment(row['due'])}, then {row['otherwise']}" if row["due"] else ""
    others = " ".join(f"--{verb}" for verb in row["verbs"][1:])
    busy = " --wait" if row["working"] else ""
    return [
        f"{row['workflow_id']}  {one_line(row['name'], 60)}: step {row['step']} {asks}{since}{until}",
        f"    {one_line(row['why'], 160)}",
        f"    {row['command']}{busy}" + (f"   (or {others})" if others else ""),
    ]
