"""What a state means: one row per step with its bars in time, the critical path, counts and the closing sentence.

Every picture and text of a run is made from these values, so the terminal, the report and the pull request cannot
disagree. Receipts say when a container got its go and how long it waited before; nothing else about time is stored,
so times here count from the workflow's start, and a reused step has no bar: it took no time in this run.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from workflowmaster.flows import budgets
from workflowmaster.flows.plaintext import one_line
from workflowmaster.flows.wording import WORKFLOW_WORDS, counted, duration, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workflowmaster.blocks.receipt import Receipt
    from workflowmaster.flows.plan import Decision, Step, StepResult, StepStatus
    from workflowmaster.flows.state import WorkflowState

Verdict = Literal["ok", "bad", "wait", "run"]


@dataclass(frozen=True)
class Bar:
    """One stretch of work: a container, or a step that runs on the host. Times are seconds from the start."""

    begin: float
    """Go."""
    end: float
    verdict: Verdict
    purpose: Literal["work", "check", "host"]
    attempt: int = 1
    queued: float = 0.0
    """Seconds before go that the step was ready and waited, for a slot or for its container."""
    parked: float = 0.0
    """Seconds before go that its container stood prepared."""

    @property
    def first(self) -> float:
        """When the bar's earliest part begins; never before the workflow."""
        return max(0.0, self.begin - max(self.queued, self.parked))


@dataclass(frozen=True)
class Row:
    """One step with all that is shown of it."""

    step: Step
    status: StepStatus
    result: StepResult | None
    reused: bool
    bars: tuple[Bar, ...]
    critical: bool = False

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """Receipts of the step's containers, in order."""
        return self.result.receipts if self.result else ()

    @property
    def attempts(self) -> int:
        """How often the step was tried; 0 if it never was."""
        return self.result.attempts if self.result and self.status not in ("skipped", "blocked", "pending") else 0

    @property
    def retried(self) -> bool:
        """Whether the step was tried more than once in this run."""
        return self.attempts > 1 and not self.reused

    @property
    def queued(self) -> float | None:
        """Seconds it was ready and waited, over all attempts; None without a container."""
        return sum(_waits(self.receipts)) if self.receipts else None

    @property
    def seconds(self) -> float | None:
        """Seconds of work; None for a step that did not run."""
        return self.result.seconds if self.result and self.attempts else None

    @property
    def peak_memory(self) -> int | None:
        """Highest memory use of its containers, in bytes; None where it was not measured."""
        return max((r.peak_memory for r in self.receipts if r.peak_memory is not None), default=None)

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time of all its containers; None where it was not measured."""
        measured = [r.cpu_seconds for r in self.receipts if r.cpu_seconds is not None]
        return sum(measured) if measured else None

    @property
    def reason(self) -> str:
        """Why the step ended this way, in one line; empty when it simply completed."""
        return one_line(self.result.reason, 300) if self.result else ""


@dataclass(frozen=True)
class Outcome:
    """A workflow's state, read: rows in plan order and what follows from them."""

    state: WorkflowState
    rows: tuple[Row, ...]
    seconds: float
    """Length of the time axis: the run, or what is known of it."""
    counts: Mapping[str, int]
    """Steps by `ran`, `reused`, `retried`, `completed`, `failed`, `skipped`, `blocked`, `waiting`, `pending`."""

    @property
    def culprit(self) -> Row | None:
        """The step to look at first: the first mandatory one that failed, else any failed, else one that waits."""
        for wanted in ("failed", "waiting"):
            found = [row for row in self.rows if row.status == wanted]
            if found:
                # What ended first is the cause; what failed later may only have followed from it.
                return min(found, key=lambda row: (not row.step.mandatory, _ended(row)))
        return None

    @property
    def sentence(self) -> str:
        """The outcome as one full sentence."""
        return f"{WORKFLOW_WORDS[self.state.status]}: {self.account}."

    @property
    def account(self) -> str:
        """What happened, without the status and the full stop: `all 12 steps done in 41.3 s`."""
        return _what_happened(self)

    @property
    def reason(self) -> str:
        """Why it ended this way; empty for a completed workflow that has nothing to add."""
        if self.state.reason or self.state.status in ("completed", "running"):
            return one_line(self.state.reason, 400)
        culprit = self.culprit
        return f"{culprit.step.id}: {culprit.reason}" if culprit and culprit.reason else ""

    @property
    def _asking(self) -> int:
        """How many steps ask a person; the others that wait need one of these."""
        waits = {step.id for step in self.state.plan.tasks if self.state.step_status(step.id) == "waiting"}
        return sum(step.id in waits and not waits & set(step.needs) for step in self.state.plan.tasks)

    @property
    def next_command(self) -> str:
        """What to type next, quoted for a shell; empty when nothing is left to do."""
        state, culprit = self.state, self.culprit
        if state.status == "completed":
            return f"git switch {shlex.quote(state.branch)}" if state.branch else ""
        # An answer unblocks a waiting run; its log says nothing that the question does not.
        if state.status == "waiting" and self._asking > 1:
            return "workflowmaster list --waiting"  # which has the command for each
        if state.status == "waiting":
            return f"workflowmaster approve {shlex.quote(state.workflow_id)}"
        if culprit and culprit.status == "failed" and state.status in ("failed", "partial"):
            return f"workflowmaster logs {shlex.quote(state.workflow_id)} --step {shlex.quote(culprit.step.id)}"
        if state.status == "paused" and state.budget and state.budget.over:
            return budgets.command(state.workflow_id, state.budget)
        return f"workflowmaster resume {shlex.quote(state.workflow_id)}"

    def decisions(self, step_id: str) -> list[Decision]:
        """Return the decisions taken about one step, in order."""
        return [d for d in self.state.decisions if d.step == step_id]


def read(state: WorkflowState) -> Outcome:
    """Derive everything that is shown from a state."""
    origin = _origin(state)
    rows = [_row(state, step, origin) for step in state.plan.tasks]
    path = critical_path(rows)
    marked = tuple(_mark(row, critical=row.step.id in path) for row in rows)
    last = max((bar.end for row in rows for bar in row.bars), default=0.0)
    return Outcome(state, marked, max(state.seconds, last), _counts(rows))


def label(step: Step) -> str:
    """Return what a step is called in a picture: its id, with the name where the id is only a number."""
    if step.name and step.name != step.id and step.id[:1].isdigit():
        return one_line(f"{step.id}  {step.name}", 60)
    return one_line(step.id, 60)


def critical_path(rows: list[Row]) -> frozenset[str]:
    """Return the ids of the chain of needs that decided how long the run took.

    From the step that ended last, back to whichever of its needs ended last, and so on. Waiting for a slot is not
    followed: what a person can change is the chain of needs. Empty with fewer than two steps that ran.
    """
    # Steps without bars (reused, skipped) took no time here, so the chain ends where it meets one.
    ran = {row.step.id: row for row in rows if row.bars}
    if len(ran) < 2:
        return frozenset()
    path: list[str] = []
    here: str | None = max(ran, key=lambda step_id: _ended(ran[step_id]))
    while here is not None and here not in path:
        path.append(here)
        needs = [need for need in ran[here].step.needs if need in ran]
        here = max(needs, key=lambda need: _ended(ran[need]), default=None)
    return frozenset(path)


def _what_happened(outcome: Outcome) -> str:
    state, counts, total = outcome.state, outcome.counts, len(outcome.rows)
    spent = f" in {duration(state.seconds)}" if state.seconds else ""
    done = counts["completed"]
    if state.status == "completed":
        rest = "".join(f", {count} {how}" for how, count in _left_out(outcome).items() if count)
        return (f"{counted(done, 'step')} done" if rest or total == 1 else f"all {total} steps done") + rest + spent
    culprits = [row.step.id for row in outcome.rows if row.status in ("failed", "waiting")]
    named = f"{listed([one_line(c, 40) for c in culprits], 3)} {_verb(outcome)}" if culprits else "it stopped"
    return f"{named}; {done} of {counted(total, 'step')} done{spent}"


def _left_out(outcome: Outcome) -> dict[str, int]:
    """Count the skipped steps by how they came to be: one that has run has failed, and was given up."""
    skipped = [row for row in outcome.rows if row.status == "skipped"]
    given_up = sum(bool(row.result and row.result.receipts) for row in skipped)
    answered = sum(row.reason.startswith("skipped by ") for row in skipped if not (row.result and row.result.receipts))
    rest = len(skipped) - given_up - answered
    words = ("skipped by their condition", "given up after they failed", "skipped by an answer")
    return dict(zip(words, (rest, given_up, answered), strict=True))


def _verb(outcome: Outcome) -> str:
    row = outcome.culprit
    if row is None or row.status == "waiting":
        return "needs a decision" if outcome.counts["waiting"] < 2 else "need a decision"
    single = outcome.counts["failed"] == 1
    return f"failed after {row.attempts} attempts" if single and row.attempts > 1 else "failed"


def _origin(state: WorkflowState) -> float:
    own = (result for step_id, result in state.results.items() if step_id not in state.reused)
    # A state restored from an old record may lack its start; the first step's is the next best.
    known = [result.started_at for result in own if result.started_at > 0]
    return state.started_at or min(known, default=0.0)


def _row(state: WorkflowState, step: Step, origin: float) -> Row:
    result = state.result(step.id)
    reused = step.id in state.reused
    bars = _bars(step, result, origin) if result and not reused else ()
    return Row(step, state.step_status(step.id), result, reused, bars)


def _bars(step: Step, result: StepResult, origin: float) -> tuple[Bar, ...]:
    if result.receipts:
        attempts = 0
        bars = []
        for receipt, queued in zip(result.receipts, _waits(result.receipts), strict=True):
            # A check belongs to the attempt whose tree it judges, so it does not count as one.
            attempts += receipt.purpose == "work"
            bars.append(_container_bar(receipt, queued, max(1, attempts), origin or result.started_at))
        return tuple(bars)
    if result.status in ("skipped", "blocked", "pending") or not result.started_at:
        return ()
    begin = max(0.0, result.started_at - origin)
    # A host step leaves no receipt, so its own result says when it worked.
    verdict: Verdict = "bad" if result.status == "failed" else "wait" if step.kind == "approval" else "ok"
    return (Bar(begin, begin + result.seconds, verdict, "host"),)


def _container_bar(receipt: Receipt, queued: float, attempt: int, origin: float) -> Bar:
    # Clocks are set back, and engines have their own: a bar before the start is drawn at the start.
    begin = max(0.0, receipt.started_at - origin)
    # Exit code 0 is not enough: a container that was stopped at its limit did not do its work.
    good = receipt.exit_code == 0 and not (receipt.timed_out or receipt.refused)
    return Bar(
        begin,
        begin + max(0.0, receipt.seconds),
        "ok" if good else "bad",
        "check" if receipt.purpose == "check" else "work",
        attempt,
        min(queued, begin),
        min(receipt.parked_seconds, begin),
    )


def _waits(receipts: Iterable[Receipt]) -> list[float]:
    """Return how long each container's go was waited for, not counting what an earlier container of the step did."""
    waits, reached = [], 0.0
    for receipt in receipts:
        waits.append(max(0.0, min(receipt.queued_seconds, receipt.started_at - reached)))
        reached = max(reached, receipt.started_at + receipt.seconds)
    return waits


def _mark(row: Row, *, critical: bool) -> Row:
    return Row(row.step, row.status, row.result, row.reused, row.bars, critical)


def _ended(row: Row) -> float:
    return max((bar.end for bar in row.bars), default=0.0)


def _counts(rows: list[Row]) -> Counter[str]:
    counts: Counter[str] = Counter(row.status for row in rows)
    counts["reused"] = sum(row.reused for row in rows)
    counts["ran"] = sum(bool(row.attempts) and not row.reused for row in rows)
    counts["retried"] = sum(row.retried for row in rows)
    return counts
