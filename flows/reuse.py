"""Finished steps of an earlier part of the run come back here, at once and without Prefect's task engine.

Their task runs stand in the same flow run's graph already, so a second row for each would be a copy that says less; and
the engine takes 10 to 20 ms a step, which is all that a resume of a finished run would consist of. The journal's record
only says where to look. What counts is the result that Prefect has persisted under the key computed now: it must be
readable, be that step's, say the same as the record, and its commit must be in the store. If a record exists and any of
this does not hold, the result is lost: the step gets a new generation and so a new key, and runs again. A result that
is not recorded at all, because the run was killed between persisting and recording, goes the long way and is found by
Prefect itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.filesystems import LocalFileSystem
from prefect.results import get_result_store

from workflowmaster.blocks.borrowing import borrow
from workflowmaster.blocks.layering import tree_of
from workflowmaster.blocks.workspace import WorkspaceError
from workflowmaster.flows import folders
from workflowmaster.flows.execution import in_git
from workflowmaster.flows.plan import StepResult
from workflowmaster.flows.steps import result_key, run_step

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from prefect.results import ResultStore

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.past import Finished
    from workflowmaster.flows.plan import Step
    from workflowmaster.flows.watching import Watcher

READERS = 4
"""Threads that read persisted results; unpacking one holds the interpreter for most of its millisecond."""


class Reuse:
    """The results of an earlier part of the run, by the keys that were recorded for them. Make it with `begin`."""

    def __init__(self, journey: Journey, watcher: Watcher, *stores: ResultStore) -> None:
        self.journey, self.watcher = journey, watcher
        self._stores = stores
        """Where results may be, the usual place first."""
        self._read: dict[str, Future[list[StepResult | str]]] = {}
        self._place: dict[str, int] = {}
        self.settled: set[str] = set()
        """Steps that came back without Prefect's task engine."""

    @classmethod
    async def begin(cls, journey: Journey, watcher: Watcher) -> Reuse:
        """Start to read all that was recorded as finished; returns at once."""
        known = [one for step, one in journey.past.finished.items() if step in journey.steps and _usable(journey, one)]
        if not known:
            return cls(journey, watcher)
        usual = await get_result_store().aupdate_for_task(run_step)
        places = [LocalFileSystem(basepath=place) for place in reversed(journey.past.places)]
        found = cls(journey, watcher, usual, *(usual.model_copy(update={"result_storage": one}) for one in places))
        found._fetch(known)
        return found

    def __bool__(self) -> bool:
        return bool(self._read)

    def _fetch(self, known: list[Finished]) -> None:
        for first in range(READERS):
            share = [one.key for one in known[first::READERS]]
            reading = self.journey.threads.submit(self._all, share)
            self._read |= dict.fromkeys(share, reading)
            self._place |= {key: index for index, key in enumerate(share)}

    def _all(self, keys: Iterable[str]) -> list[StepResult | str]:
        return [self._one(key) for key in keys]

    def _one(self, key: str) -> StepResult | str:
        """Return the persisted result of a key, or why there is none."""
        answers = []
        for store in self._stores:
            answer = _read(store, key)
            if isinstance(answer, StepResult):
                return answer
            answers.append(answer)
        return answers[0]

    async def of(self, step: Step, tree: str) -> StepResult | None:
        """Give the step its key and return the recorded result of it; None if the step has to be asked of Prefect.

        A recorded result that does not hold is told, and the step has another key when this returns.
        """
        journey, known = self.journey, self.journey.past.finished.get(step.id)
        key = journey.keys[step.id] = result_key(journey, step, tree)
        if known is None or known.key != key or key not in self._read:
            return None
        answers = await asyncio.wrap_future(self._read[key])
        answer = answers[self._place[key]]
        wrong = answer if isinstance(answer, str) else differs(answer, step, known, own=journey.id)
        result = StepResult.model_validate(known.result)
        wrong = wrong or await self._lost(result)
        if not wrong:
            self.settled.add(step.id)
            journey.reused.append(step.id)
            return result
        # A shared one may have been made anew by another workflow, and serves as well: Prefect is asked for it.
        if key.startswith(journey.id):
            self._anew(step, tree, wrong)
        return None

    async def taken(self, step: Step, tree: str, result: StepResult) -> StepResult | None:
        """Return a result that Prefect found, with its tree in our store; None, and another key, if it cannot be used.

        One of another workflow's is of no use once that workflow is gone; one that is not this step's is damaged.
        """
        journey = self.journey
        if (result.step, result.key) != (step.id, journey.keys[step.id]):
            self._anew(step, tree, f"it is the result of step {result.step}")
            return None
        if result.workflow not in ("", journey.id):
            onto, lender = journey.inputs[step.id], folders.workflows() / result.workflow
            commit = await in_git(journey, lambda: borrow(journey.store, lender, result.commit, onto))
            if commit is None:
                journey.keys[step.id] = result_key(journey, step, tree, shared=False)
                return None
            result = result.model_copy(update={"commit": commit, "input_commit": onto})
        elif wrong := await self._lost(result):
            self._anew(step, tree, wrong)
            return None
        journey.reused.append(step.id)
        return result

    async def _lost(self, result: StepResult) -> str:
        """Return what is wrong with the commit of a result, or nothing."""
        try:
            await in_git(self.journey, lambda: tree_of(self.journey.store, result.commit))
        except WorkspaceError as error:
            return str(error)
        return ""

    def _anew(self, step: Step, tree: str, why: str) -> None:
        """Have a step run although its key has a result, because that one does not hold."""
        journey = self.journey
        generation = journey.past.generations.get(step.id, 0) + 1
        journey.past.generations[step.id] = generation
        journey.journal.append("rerun", steps=[step.id], generation=generation, why=f"its result is lost: {why}")
        journey.audit.append("result.damaged", step=step.id, key=journey.keys[step.id], reason=why)
        self.watcher.note(f"{step.id} runs again, because its result is lost: {why}")
        journey.keys[step.id] = result_key(journey, step, tree)

    def row(self, step_id: str) -> UUID | None:
        """Return the task run that stands for a step that came back here, in this flow run's graph."""
        return UUID(self.journey.past.finished[step_id].task_run) if step_id in self.settled else None


def _read(store: ResultStore, key: str) -> StepResult | str:
    try:
        found = store.read(key).result
    except Exception as error:  # noqa: BLE001 - every store and decoder has errors of its own for the same thing
        # Also where it is gone: most stores say so as a ValueError.
        return f"it cannot be read ({type(error).__name__}: {str(error)[:120]})"
    return found if isinstance(found, StepResult) else f"it is a {type(found).__name__}"


def _usable(journey: Journey, one: Finished) -> bool:
    """Only what this flow run's graph shows: in a new flow run every step wants a row of its own."""
    return bool(one.task_run) and one.flow_run == journey.record.flow_run_id and one.result["status"] == "completed"


def differs(found: StepResult, step: Step, known: Finished, *, own: str) -> str:
    """Return how a persisted result is not the one that was recorded, or nothing. `own` is this workflow's id.

    One that another workflow made is recorded with its tree taken over into our store, as a commit of our own.
    """
    if found.step != step.id or found.key != known.key:
        return f"it is the result of step {found.step}"
    recorded: dict[str, Any] = dict(known.result)
    persisted = found.model_dump(mode="json")
    if found.workflow not in ("", own):
        for name in ("commit", "input_commit"):
            recorded.pop(name), persisted.pop(name)
    changed = sorted(name for name in persisted if persisted[name] != recorded.get(name))
    return f"it is not what was recorded: {', '.join(changed)}" if changed else ""
