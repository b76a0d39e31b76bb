"""The tasks of a run as a table on its page in Prefect: the artifact `tasks`, kept up to date while the run works.

Prefect's page of a flow run draws the task runs that have begun. What is still to come, what is blocked by what, when a
step is tried again and which came back from an earlier part it does not know, and so it stands here. The hard choice is
to write seldom: one row of the server's database is overwritten every five seconds at most, and only where something
has changed, by a task of the loop that nobody waits for. A server that is away or slow costs the table and nothing
else. The accepted cost is that the page is five seconds behind, and that a run shorter than that has its table at the
end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.flows.plaintext import one_line
from workflowmaster.flows.plan import Decision
from workflowmaster.flows.tracker import Tracker, place_of
from workflowmaster.flows.wording import counted, duration, listed, moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from uuid import UUID

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Plan, StepResult
    from workflowmaster.flows.tracker import Task
    from workflowmaster.flows.watching import Watcher

KEY: Final = "tasks"
"""Of the artifact."""
SECONDS: Final = 5.0
"""Between two writes."""
PATIENCE: Final = 3.0
"""Seconds that the last write may take: the run has ended, and somebody waits for its process."""
MOST_ROWS: Final = 400
"""Rows of the table; beyond that, tasks that are done or still far away are counted only."""

log = logging.getLogger(__name__)

_tables: dict[str, Table] = {}
"""Workflow id → the table of the run under way in this process."""


class Table:
    """Hears what happens to a run's steps, passes it on to who watches, and writes the table."""

    def __init__(self, plan: Plan, watcher: Watcher) -> None:
        self.tracker = Tracker(plan)
        self._plan, self._watcher = plan, watcher
        self._written = 0
        self._id: UUID | None = None
        self.writes = 0
        """How often the table was written."""

    def step_started(self, step_id: str, attempt: int) -> None:
        """Hear that an attempt begins."""
        self.tracker.started(step_id, attempt, time.time())
        self._watcher.step_started(step_id, attempt)

    def step_log(self, step_id: str, line: str) -> None:
        """Hear a line of output."""
        self._watcher.step_log(step_id, line)

    def step_decided(self, decision: Decision) -> None:
        """Hear what was decided about a failed attempt."""
        self.tracker.decided(decision, time.time())
        self._watcher.step_decided(decision)

    def step_finished(self, result: StepResult) -> None:
        """Hear that a step has ended."""
        self.tracker.finished(result, time.time())
        self._watcher.step_finished(result)

    def note(self, text: str) -> None:
        """Hear a message about the run as a whole."""
        self._watcher.note(text)

    def recorded(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Hear of a record of the run: whoever decides writes that down, and need not tell anybody besides."""
        if kind == "decision":
            known = {name: fields[name] for name in Decision.model_fields if name in fields}
            self.step_decided(Decision.model_validate(known))

    @property
    def stale(self) -> bool:
        """Whether something has changed since the last write."""
        return self._written != self.tracker.changes

    async def write(self) -> None:
        """Write the table as it stands. Raises whatever Prefect raises."""
        from prefect import get_client
        from prefect.artifacts import acreate_table_artifact
        from prefect.client.schemas.actions import ArtifactUpdate

        self._written = self.tracker.changes
        table, about = rows(self.tracker, self._plan, time.time()), headline(self.tracker)
        self.writes += 1
        if self._id is None:
            self._id = await acreate_table_artifact(key=KEY, table=table, description=about)
            return
        async with get_client() as client:
            await client.update_artifact(self._id, ArtifactUpdate(data=json.dumps(table), description=about))

    async def follow(self) -> None:
        """Write the table whenever it is stale, so often as it may be, until cancelled."""
        while True:
            await asyncio.sleep(SECONDS)
            if self.stale:
                await self.attempt()

    async def attempt(self) -> None:
        """Write the table, or say in the log why not: no run fails or waits because its picture cannot be drawn."""
        try:
            await self.write()
        except Exception as error:  # noqa: BLE001 - whatever a server or its client raises, it is only about the picture
            self._written = -1
            log.info("the artifact %s was not written: %s", KEY, error)


@contextlib.asynccontextmanager
async def kept(journey: Journey, watcher: Watcher) -> AsyncIterator[Table]:
    """Keep the table of a run while it works; `last` writes it for the last time."""
    table = _tables[journey.id] = Table(journey.plan, watcher)
    journey.journal.heard = table.recorded
    following = asyncio.create_task(table.follow())
    try:
        yield table
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        journey.journal.heard = None
        _tables.pop(journey.id, None)


async def last(journey: Journey) -> None:
    """Write a run's table for the last time, if it has one; within `PATIENCE`, or not at all."""
    table = _tables.get(journey.id)
    if table is None:
        return
    try:
        async with asyncio.timeout(PATIENCE):
            await table.attempt()
    except TimeoutError:
        log.info("the artifact %s was not written within %g s", KEY, PATIENCE)


# --- what it shows ---


def headline(tracker: Tracker) -> str:
    """Return the sentence above the table: the counts, and of several phases how far each is."""
    phases = tracker.progress()
    return f"{counted(tracker.total, 'step')}: {tracker.summary()}" + (f"; {phases}" if phases else "")


def rows(tracker: Tracker, plan: Plan, now: float) -> list[dict[str, str]]:
    """Return the table, a row for each task in the plan's order. `now` is by the clock that the tracker was told."""
    names = {step.id: step for step in plan.tasks}
    shown = tracker.tasks()
    if len(shown) > MOST_ROWS:
        # What works, waits or went wrong first: of a thousand tasks the others look all the same.
        rank = {task.id: n for n, task in enumerate(shown)}
        urgent = sorted(shown, key=lambda task: (task.place in ("completed", "reused", "pending"), rank[task.id]))
        shown = tuple(sorted(urgent[:MOST_ROWS], key=lambda task: rank[task.id]))
    several = bool(tracker.phases())
    return [_cells(tracker, task, names[task.id].name, names[task.id].phase if several else "", now) for task in shown]


def _cells(tracker: Tracker, task: Task, name: str, phase: str, now: float) -> dict[str, str]:
    sign, word = place_of(task)
    cells = {"task": one_line(task.id, 60), "state": f"{sign} {word}"}
    cells |= {"name": one_line(name, 60) if name != task.id else ""}
    cells |= {"phase": phase.replace("_", " ")} if phase else {}
    spent = duration(task.seconds) if task.seconds else ""
    return {**cells, "try": str(task.attempt or ""), "time": spent, "note": note(tracker, task, now)}


def note(tracker: Tracker, task: Task, now: float) -> str:
    """Return what is to be known of a task besides its place: what it waits for, until when, and why."""
    behind = listed([one_line(name, 40) for name in tracker.behind(task.id)])
    if task.due is not None:
        # A moment and not what is left of it: a table is read later than it was written.
        left = f" (in {duration(task.due - now)})" if task.due > now else ""
        return f"next attempt at {moment(task.due)}{left}: {one_line(task.why, 200)}"
    if task.place == "pending":
        return f"after {behind}" if behind else "ready"
    if task.place == "blocked" and behind:
        return f"by {behind}"
    return one_line(task.reason, 200)
