"""Which waiting runs can go on, because their questions were answered while nobody worked on them.

Three ways lead there: the time-out rule has answered, the process of an `approve` was killed after its answer was kept,
or somebody has filled in the form of a run that belongs to no deployment, for which the UI's Resume starts nothing. A
deployment's run that is resumed in the UI is not looked for: the server starts it, and two would start it twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
from prefect import get_client
from prefect.exceptions import ObjectNotFound

from workflowmaster.flows import folders, overdue, suspending
from workflowmaster.flows.claim import claimed
from workflowmaster.flows.past import past
from workflowmaster.flows.questions import INTERFACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.state import WorkflowState


async def answered(*, enforce: bool) -> list[tuple[Folder, str]]:
    """Return the waiting runs that can go on, each with who has answered; `enforce` carries out the time-out rule."""
    waiting = await asyncio.to_thread(lambda: list(_waiting()))
    found = []
    for folder, state in waiting:
        who = await asyncio.to_thread(_answered, folder, enforce=enforce) or await _filled_in(state)
        if who:
            found.append((folder, who))
    return found


def _waiting() -> Iterator[tuple[Folder, WorkflowState]]:
    for folder in folders.everything():
        state, _ = folder.condition()
        if state and state.status == "waiting" and not claimed(folder):
            yield folder, state


def _answered(folder: Folder, *, enforce: bool) -> str:
    book = overdue.enforced(folder) if enforce else past(folder.journal).book
    answers = [*book.fresh, *([] if enforce else overdue.due(book.open, time.time()))]
    return "; ".join(f"step {answer.step} is {answer.reason}" for answer in answers)


async def _filled_in(state: WorkflowState) -> str:
    """Say that a form was filled in which no server acts upon."""
    if not state.flow_run_id:
        return ""
    with contextlib.suppress(ObjectNotFound, httpx.HTTPError):
        async with get_client() as client:
            run = await client.read_flow_run(UUID(state.flow_run_id))
        if run.deployment_id is None and await suspending.responses(state.flow_run_id):
            return f"its questions were answered in {INTERFACE}"
    return ""
