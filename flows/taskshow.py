"""The command `tasks`: how each task of a run stands at this moment, also while another process works on it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from workflowmaster.flows import folders, tasktable
from workflowmaster.flows.claim import claimed
from workflowmaster.flows.looking import out
from workflowmaster.flows.tracker import Tracker, place_of
from workflowmaster.flows.wording import duration

if TYPE_CHECKING:
    import argparse

    from workflowmaster.flows.state import WorkflowState
    from workflowmaster.flows.tracker import Task


def show(given: argparse.Namespace) -> int:
    """Show the tasks of a run: their place, their attempts, what holds them up."""
    folder = folders.find(given.id)
    alive, state, now = claimed(folder), folder.state(), time.time()
    if not alive:
        # What a killed run had under way is nobody's work now: a resume takes it over or begins it anew.
        state = state.model_copy(update={"running": ()})
    tracker = Tracker.of(state, now)
    if given.json:
        out(json.dumps(answer(state, tracker, alive=alive)))
        return 0
    dead = ", but nobody works on it" if state.status == "running" and not alive else ""
    out(f"{state.workflow_id}: {state.status}{dead}; {tasktable.headline(tracker)}")
    for task in tracker.tasks():
        sign, word = place_of(task)
        tries = f"try {task.attempt}" if task.attempt else ""
        spent = duration(task.seconds) if task.seconds else ""
        told = f"  {sign} {word:<9}  {tries:<6} {spent:>11}  {task.id}  {tasktable.note(tracker, task, now)}"
        out(told.rstrip())
    return 0


def answer(state: WorkflowState, tracker: Tracker, *, alive: bool) -> dict[str, Any]:
    """Return what `tasks --json` prints. `alive` says whether a process of this machine works on the run."""
    return {
        "workflow_id": state.workflow_id,
        "status": state.status,
        "worked_on": alive,
        "counts": dict(tracker.counts()),
        "phases": {name: dict(places) for name, places in tracker.phases().items()},
        "tasks": [_public(tracker, task) for task in tracker.tasks()],
    }


def _public(tracker: Tracker, task: Task) -> dict[str, Any]:
    last = task.decision
    return {
        "id": task.id,
        "state": task.place,
        "attempts": task.attempt,
        "seconds": round(task.seconds, 3),
        "reason": task.reason,
        "behind": tracker.behind(task.id),
        "next_attempt_at": task.due,
        "decision": {"verb": last.verb, "reason": last.reason} if last else None,
    }
