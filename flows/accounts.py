"""What one run did, from its state and its records: each attempt, container, wait and decision exactly once.

A state holds how each step stands now, and forgets: the result of a step that failed and went well after a resume is
the second one, and its receipts are of the last part alone. The records have all of it, but may be damaged, and a run
of an older version has none. So both are read: the records say what happened, the state says how it stands, and what
both tell is told apart by the container's id. The accepted cost is that stats read every run's journal as well.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError

from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows.budgets import SIGNS
from workflowmaster.flows.questions import DONE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from workflowmaster.flows.journal import Entry
    from workflowmaster.flows.plan import Step, StepResult, StepStatus, WorkflowStatus
    from workflowmaster.flows.state import WorkflowState

Standing = Literal["going", "interrupted", "waiting", "paused", "completed", "partial", "failed", "aborted"]
"""How a run stands: a workflow's status, but that `running` is `going` with a living owner, else `interrupted`."""

ENDED: Final[frozenset[str]] = frozenset({"completed", "partial", "failed", "aborted"})
"""Standings of runs that can be judged; the others may still come to any end."""
HOST: Final = "host"
"""Stands for a policy where a step ran in no container."""
RAN: Final = frozenset({"completed", "failed"})
"""Statuses of a step that was really tried; a step skipped by its rule after a failure has attempts on record."""
KINDS: Final = frozenset({"go", "decision", "result", "question", "approval"})
"""Records that are about what a run did; see `journal.Kind`."""
ANSWERS: Final = {word: verb for verb, word in DONE.items()}
"""First word of an answer of before answers had verbs → the verb."""


@dataclass(frozen=True)
class Decided:
    """One decision, and what came of it."""

    step: str
    verb: str
    rule: str
    failure: str
    """Class of the failure it is about; empty where that was not recorded."""
    outcome: str
    """`succeeded`, `failed` or `unfinished` of a retry; the answer's verb or `open` of an escalation; of the others how
    the run stands."""
    wait_seconds: float = 0.0


@dataclass(frozen=True)
class StepAccount:
    """One step of one run."""

    id: str
    policy: str
    """`host` where it runs in no container."""
    kind: str
    name: str
    status: StepStatus
    reused: bool
    """Its result came back without anything running in the last part of the run."""
    attempts: int = 0
    """Times it was tried, over all parts of the run; 0 where it never was."""
    seconds: float | None = None
    """Of its last attempt; None where it has not ended one."""
    receipts: tuple[Receipt, ...] = ()
    """Of all its containers of this run, whichever part they were in."""
    unaccounted: int = 0
    """Containers that were sent off and left no receipt: killed with their owner, or still at work."""
    decisions: tuple[Decided, ...] = ()

    @property
    def retries(self) -> int:
        """Attempts beyond the first."""
        return max(0, self.attempts - 1)


@dataclass(frozen=True)
class RunAccount:
    """One run over all its parts. Times are seconds."""

    id: str
    name: str
    """Of its prompt."""
    standing: Standing
    steps: tuple[StepAccount, ...]
    started_at: float = 0.0
    """Unix time at which its first part began."""
    worked: float = 0.0
    """Seconds in which somebody worked on it, all parts together."""
    elapsed: float = 0.0
    """From the begin of the first part to the end of the last one, pauses and waits included."""
    parts: int = 1
    """Times it was begun or gone on with."""
    person_waits: tuple[float, ...] = ()
    """For each answered question how long it waited."""
    open_questions: int = 0
    spent: Mapping[str, float] = field(default_factory=dict)
    """Limit of a budget → what it had used of it when it ended, where it did; see `budgets.LIMITS`."""
    over: tuple[str, ...] = ()
    """Limits that were reached then, of the run itself or of a step."""


def account(state: WorkflowState, entries: Iterable[Entry] = (), *, alive: bool = False) -> RunAccount:
    """Return what a run did. `alive` says whether a process works on it; it is asked only of a running one."""
    found = _Found(state.workflow_id)
    known = list(entries)
    for result in state.results.values():
        if result.workflow in ("", state.workflow_id):
            found.keep(result)  # they are read already, and most of the records say the same
    for kind, step, at, fields in _happened(state, known):
        found.take(kind, step, at, fields)
    standing = _standing(state.status, alive=alive)
    began, worked, elapsed, parts = _times(state, known)
    return RunAccount(
        id=state.workflow_id,
        name=state.plan.name,
        standing=standing,
        steps=tuple(_step(step, state, found, standing) for step in state.plan.tasks),
        started_at=began,
        worked=worked,
        elapsed=elapsed,
        parts=parts,
        person_waits=tuple(found.waited),
        open_questions=sum(_asks(step, state) for step in state.plan.tasks if step.id in found.asked),
        spent=state.budget.spent if state.budget else {},
        over=tuple(sorted({name.rpartition(":")[2] for name in state.budget.over})) if state.budget else (),
    )


def _standing(status: WorkflowStatus, *, alive: bool) -> Standing:
    if status == "running":
        return "going" if alive else "interrupted"
    return status


def _asks(step: Step, state: WorkflowState) -> bool:
    """Whether a step waits for a person itself, and not only for one that does."""
    return state.step_status(step.id) == "waiting" and not any(state.step_status(n) == "waiting" for n in step.needs)


# --- what happened ---

_Key = tuple[str, float, str]


def _key(container: str, started: float, purpose: str) -> _Key:
    return container, round(started, 3), purpose


@dataclass
class _Pending:
    """A decision whose outcome is not known yet."""

    fields: Mapping[str, Any]
    outcome: str = ""


@dataclass
class _Found:
    """What was found about the steps of one run, in the order in which it happened."""

    workflow: str
    receipts: defaultdict[str, dict[_Key, Receipt]] = field(default_factory=lambda: defaultdict(dict))
    sent: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Step → ids of the containers that were sent off for it."""
    attempts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    decisions: defaultdict[str, list[_Pending]] = field(default_factory=lambda: defaultdict(list))
    asked: dict[str, float] = field(default_factory=dict)
    """Step → since when it has waited for an answer, Unix time."""
    waited: list[float] = field(default_factory=list)

    def take(self, kind: str, step: str, at: float, fields: Mapping[str, Any]) -> None:
        """Take in one thing that happened."""
        if kind == "go":
            self._go(step, fields)
        elif kind == "decision":
            self._resolve(step, "failed")
            self.decisions[step].append(_Pending(fields))
            self._tried(step, int(fields.get("attempt") or fields.get("factors", {}).get("attempt_of_all", 0)))
        elif kind == "result":
            self._result(step, at, fields)
        elif kind == "question" and fields.get("withdrawn"):
            self.asked.pop(step, None)
        elif kind == "question":
            self.asked.setdefault(step, at)
        elif kind == "approval":
            self._answered(step, at, fields)

    def keep(self, result: StepResult) -> None:
        """Take in the receipts of a result of this run."""
        found = self.receipts[result.step]
        found |= {_key(one.container_id, one.started_at, one.purpose): one for one in result.receipts}

    def _go(self, step: str, fields: Mapping[str, Any]) -> None:
        self.sent[step].add(str(fields["container"]))
        self._tried(step, int(fields.get("attempt", 0)))
        before = fields.get("before") or {}
        self._receipts(step, [*fields.get("receipts", ()), *before.get("receipts", ())])

    def _result(self, step: str, at: float, fields: Mapping[str, Any]) -> None:
        result = fields["result"]
        status = result["status"]
        if status == "waiting":
            self.asked.setdefault(step, at)
        # What came back, from an earlier part or from another run, was counted where it was made.
        if fields.get("reused") or result.get("workflow", "") not in ("", self.workflow):
            return
        receipts = result.get("receipts", ())
        self._receipts(step, receipts)
        if status in RAN or receipts:
            self._tried(step, int(result.get("attempts", 1)))
        if status != "blocked":
            self._resolve(step, "succeeded" if status == "completed" else "failed")

    def _receipts(self, step: str, raw: Iterable[Mapping[str, Any]]) -> None:
        known = self.receipts[step]
        for one in raw:
            key = _key(one.get("container_id", ""), one.get("started_at", 0.0), one.get("purpose", "work"))
            if key not in known:
                with contextlib.suppress(ValidationError):  # of another version; its container was counted at its go
                    known[key] = Receipt.model_validate(one)

    def _tried(self, step: str, number: int) -> None:
        self.attempts[step] = max(self.attempts[step], number)

    def _resolve(self, step: str, outcome: str) -> None:
        """Say how the attempt ended that the last decision about a step asked for, if it asked for one."""
        last = self.decisions[step][-1] if self.decisions[step] else None
        if last and last.fields["verb"] == "retry" and not last.outcome:
            last.outcome = outcome

    def _answered(self, step: str, at: float, fields: Mapping[str, Any]) -> None:
        word = str(fields.get("answer", "")).partition(" ")[0]
        verb = str(fields.get("verb") or ANSWERS.get(word, word))
        if not verb:
            return  # an answer was withdrawn
        if step in self.asked:
            self.waited.append(max(0.0, at - self.asked.pop(step)))
        last = self.decisions[step][-1] if self.decisions[step] else None
        if last and last.fields["verb"] == "escalate" and not last.outcome:
            last.outcome = verb


def _happened(state: WorkflowState, entries: Iterable[Entry]) -> Iterator[tuple[str, str, float, Mapping[str, Any]]]:
    """Yield (kind, step, Unix time, fields): what only the state knows of decisions, the records, then its results."""
    told = [entry for entry in entries if entry.kind in KINDS]
    decided = [entry for entry in told if entry.kind == "decision"]
    # A snapshot of an older version has no time of a decision that its record has.
    recorded = {_decision_key(entry.fields, at) for entry in decided for at in (entry.at, 0.0)}
    for decision in state.decisions:
        fields = decision.model_dump(mode="json")
        if _decision_key(fields, decision.at) not in recorded:
            yield "decision", decision.step, decision.at, fields
    ended = set()
    for entry in told:
        step = str(entry.fields.get("step", ""))
        if entry.kind == "result":
            ended.add((step, entry.fields["result"].get("attempts", 1)))
        yield entry.kind, step, entry.at, entry.fields
    for step, result in state.results.items():
        if (step, result.attempts) not in ended:
            # Without its record, as in a run of an older version, or where the journal is damaged.
            yield "result", step, state.started_at, {"result": result.model_dump(mode="json")}


def _decision_key(fields: Mapping[str, Any], at: float) -> tuple[Any, ...]:
    """Tell decisions apart; the time of one is that of its record."""
    return fields["step"], fields["verb"], fields["reason"], fields.get("attempt", 0), round(at, 6)


def _times(state: WorkflowState, entries: Iterable[Entry]) -> tuple[float, float, float, int]:
    """Return when the first part began, the seconds of work, those from begin to end, and the number of parts."""
    parts: list[list[float]] = []
    closed = True
    for entry in entries:
        if entry.kind == "begun":
            parts.append([float(entry.fields.get("started_at") or entry.at), 0.0])
            closed = False
        elif parts and not closed and entry.kind == "closed":
            parts[-1][1], closed = float(entry.fields.get("seconds", 0.0)), True
        elif parts and not closed and entry.kind in SIGNS:
            # Of a part that was killed, its last sign of life is all that is known of its end.
            parts[-1][1] = max(parts[-1][1], entry.at - parts[-1][0])
    if not parts:
        return state.started_at, state.seconds, state.seconds, 1
    worked = math.fsum(seconds for _, seconds in parts)
    last, first = parts[-1], parts[0][0]
    # A clock that was put back must not make it shorter than the work in it.
    return first, worked, max(worked, last[0] + last[1] - first), len(parts)


# --- one step ---


def _step(step: Step, state: WorkflowState, found: _Found, standing: Standing) -> StepAccount:
    result = state.result(step.id)
    receipts = tuple(found.receipts[step.id].values())
    ours = result is not None and result.workflow in ("", state.workflow_id)
    return StepAccount(
        id=step.id,
        policy=step.policy if step.in_container else HOST,
        kind=step.kind,
        name=step.name,
        status=state.step_status(step.id),
        reused=step.id in state.reused,
        attempts=found.attempts[step.id],
        seconds=result.seconds if result and ours and result.receipts else None,
        receipts=receipts,
        unaccounted=len(found.sent[step.id] - {receipt.container_id for receipt in receipts}),
        decisions=tuple(_decided(one, standing) for one in found.decisions[step.id]),
    )


def _decided(one: _Pending, standing: Standing) -> Decided:
    fields = one.fields
    verb, reason = fields["verb"], str(fields["reason"])
    return Decided(
        step=fields["step"],
        verb=verb,
        rule=fields.get("rule") or reason.partition(":")[0],
        failure=(fields.get("failure") or {}).get("cls", ""),
        outcome=one.outcome or _left(verb, standing),
        wait_seconds=float(fields.get("wait_seconds") or 0.0),
    )


def _left(verb: str, standing: Standing) -> str:
    """Return the outcome of a decision that nothing in the records answers."""
    if verb == "retry":
        return "unfinished"
    if verb == "escalate":
        return "unanswered" if standing in ENDED else "open"
    return standing
