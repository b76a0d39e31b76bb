"""Keeps a run's state on the disk while it works: when a snapshot is written, and when a checkpoint.

Each change is one line in the journal, and that is enough for whoever reads. A snapshot only spares readers the lines
before it, so one is written when the lines since the last have become as long as a snapshot: their sizes then grow
like powers, and all of them together are as long as the journal a few times over, however many steps there are.
Checkpoints are asked for by the plan, so their number is not ours; what bounds them is a budget of bytes in proportion
to the journal. Within it every milestone has its checkpoint, as in any plan of common size; a plan that marks each of
a thousand steps gets one for every few. All writing is done by one thread, for no step may wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from workflowmaster.flows import checkpoints, journal, snapshots, statekeeping
from workflowmaster.flows.checkpoints import Checkpoint
from workflowmaster.flows.folding import Fold
from workflowmaster.flows.state import WorkflowState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Phase, Step, StepResult

MILESTONES: Mapping[Phase, str] = {
    "initialization": "setup",
    "issue_creation": "issue",
    "branch_management": "branch",
    "implementation": "implementation",
    "testing": "tests",
    "pull_request_creation": "pull-request",
}
"""Phase → name of the checkpoint that is written when its last step has come to a good end."""

END = "end"
"""Name of the checkpoint of a run's end, unless that is where its pull request was made."""

LEAST = 64 * 1024
"""Bytes of new records below which no snapshot is written."""

FREE, SHARE = 4 * 1024 * 1024, 4
"""Bytes of state that checkpoints may hold in any case, and how many times the journal's size beyond that."""

log = logging.getLogger(__name__)


def _results_place() -> str:
    """Return where Prefect keeps results in this process."""
    from prefect.settings import get_current_settings

    return str(get_current_settings().results.local_storage_path)


class Milestones:
    """Which steps a phase still waits for."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._open: dict[Phase, set[str]] = {}
        for step in steps:
            self._open.setdefault(step.phase, set()).add(step.id)

    def reached(self, step: Step, result: StepResult) -> str:
        """Return the milestone that a step's end is, or nothing. A phase with a failed step is not over."""
        if result.status not in ("completed", "skipped"):
            return ""
        waits = self._open.get(step.phase, set())
        waits.discard(step.id)
        if step.checkpoint:
            return step.id
        return MILESTONES.get(step.phase, "") if not waits else ""


class Keeping:
    """The state of one run under way. Asked by the event loop's thread; written by one of its own."""

    def __init__(self, journey: Journey) -> None:
        self.journey = journey
        self.folder = journey.folder
        self.milestones = Milestones(journey.plan.tasks)
        self.written = 0
        """Bytes of snapshots and, uncompressed, of checkpoints, in this process."""
        self._fold: Fold | None = None
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._due: Future[None] | None = None
        self._at, self._size = 0, 0
        self._spent = 0
        self._changed = False
        """Whether a step has run since the last checkpoint; what only came back makes no new one."""

    def state(self, *, until: int | None = None) -> WorkflowState:
        """Return the state as it stands, or as it stood when the journal had that many bytes."""
        with self._lock:
            fold = self._fold = self._fold or self._opened()
            return fold.take(journal.read(self.folder.journal, fold.at).entries, until=until).state()

    def begin(self) -> None:
        """Record that a part of the run begins, and write the first snapshot of it."""
        journey = self.journey
        journey.journal.append(
            "begun",
            plan_hash=journey.record.workflow_hash,
            flow_run_id=journey.record.flow_run_id,
            started_at=journey.started_at,
            base_commit=journey.store.base,
            workspace=journey.record.options.workspace,
            images=journey.record.images,
            audit_log=str(self.folder.audit),
            results_place=_results_place(),
            record=journey.record.model_dump(mode="json"),
        )
        self._snapshot(journey.journal.size)

    def settled(self, step: Step, result: StepResult, *, reused: bool) -> None:
        """Note a step's end, which is in the journal; nothing is written before this returns."""
        size = self.journey.journal.size
        self._changed = self._changed or not reused
        milestone = self.milestones.reached(step, result)
        if milestone and self._changed:
            self._changed = False
            self._submit(lambda: self._checkpoint(size, milestone, step.id))
        elif size - self._at >= max(LEAST, self._size) and (self._due is None or self._due.done()):
            self._submit(lambda: self._snapshot(size))

    def last_checkpoint(self, state: WorkflowState) -> None:
        """Ask for the checkpoint of the run's end, with what it has made; `drain` waits for it."""
        made = state.pull_request and not any(step.phase == "pull_request_creation" for step in state.plan.tasks)
        if self._changed or not checkpoints.files(self.folder):
            self._submit(lambda: self._write(state, "pull-request" if made else END, ""))

    def drain(self) -> None:
        """Wait until everything that was asked for is on the disk."""
        if self._due:
            self._due.result()

    def end(self, state: WorkflowState, *, durable: bool) -> None:
        """Record how this part of the run ended, and write its last snapshot. OSError if the disk takes no more."""
        self.drain()
        self.journey.journal.append("closed", durable=durable, **snapshots.closing(state))
        self._size = snapshots.write(self.folder, self.state(), durable=durable)
        self.written += self._size

    def close(self) -> None:
        """Wait for what is being written, and stop."""
        self._writer.shutdown(wait=True)

    def _opened(self) -> Fold:
        """Start from what earlier parts of the run have left, or from nothing."""
        if self.folder.state_file.exists():
            return statekeeping.fold(self.folder)
        journey = self.journey
        state = WorkflowState(workflow_id=journey.id, plan=journey.plan, plan_hash=journey.record.workflow_hash)
        return Fold(state, lambda: journey.plan)

    def _submit(self, work: Callable[[], None]) -> None:
        self._due = self._writer.submit(self._tried, work)

    def _tried(self, work: Callable[[], None]) -> None:
        """Do the work, or say why not: what is derived can be derived again, so that it fails no run."""
        try:
            work()
        except OSError as error:
            log.warning("%s: its state could not be kept: %s", self.journey.id, error)

    def _snapshot(self, size: int) -> None:
        if self.journey.claim.lost:
            return  # it is another's to write
        state = self.state(until=size)
        self._at = size
        self._size = snapshots.write(self.folder, state)
        self.written += self._size

    def _checkpoint(self, size: int, name: str, step: str) -> None:
        """Write a checkpoint and the snapshot that goes with it, if there is budget left for them."""
        if self._spent + self._size > FREE + SHARE * size:
            return
        self._snapshot(size)
        self._spent += self._size
        self._write(self.state(until=size), name, step)

    def _write(self, state: WorkflowState, name: str, step: str) -> None:
        if self.journey.claim.lost:
            return
        number = max(checkpoints.files(self.folder), default=0) + 1
        record = self.journey.record.model_dump(mode="json")
        made = Checkpoint(number=number, name=name, step=step, made_at=time.time(), record=record, state=state)
        path = checkpoints.write(self.folder, made)
        self.written += self._size
        at = state.journal_at
        self.journey.audit.append("checkpoint.written", file=path.name, step=step, done=made.done, journal_at=at)
