"""Why each step of a run is as it is, read from the records of the run while it goes on or after it.

Everything is said by the same few facts that decided: the keys a step was given, the results recorded for them, the
decisions about its failed attempts, and the statuses of what it needs. Nothing is guessed from logs, and the audit log
is not asked, so that the answer is the same while a run is under way, after it was killed, and after its audit log was
archived.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from workflowmaster.flows.plan import Noun, Step, StepResult, StepStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workflowmaster.flows.journal import Entry
    from workflowmaster.flows.keychanges import Change
    from workflowmaster.flows.plan import Plan

Verdict = Literal[
    "ran", "ran again", "reused", "failed", "refused", "escalated", "skipped", "blocked", "waiting", "running",
    "interrupted", "aborted", "pending", "adopted",
]  # fmt: skip


LINE = 160
"""Characters of a decisive line that are shown."""


class Try(Noun):
    """One failed attempt, and what was decided about it."""

    attempt: int
    verb: str
    reason: str
    failure: str


class Reason(Noun):
    """Why one step is as it is."""

    step: str
    status: StepStatus
    verdict: Verdict
    because: str
    attempts: int = 0
    decisions: tuple[Try, ...] = ()
    key: str = ""
    changes: tuple[Any, ...] = ()
    """`Change` of each component that differs from the key the step had before."""


@dataclass
class Trail:
    """All records about one step, in order."""

    keys: list[Mapping[str, Any]] = field(default_factory=list)
    """Keys and their components; a new one follows only where the key is another."""
    results: list[Mapping[str, Any]] = field(default_factory=list)
    decisions: list[Mapping[str, Any]] = field(default_factory=list)
    reruns: list[Mapping[str, Any]] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    """Why containers that a killed part of the run had left for it could not be taken over."""
    last: str = ""
    """Kind of the last record that says where the step stands: `keys`, `go` or `result`."""


def trails(entries: Iterable[Entry]) -> dict[str, Trail]:
    """Sort records by the step they are about."""
    found: dict[str, Trail] = defaultdict(Trail)
    owners: dict[str, str] = {}
    for entry in entries:
        if entry.kind == "go":
            owners[entry.fields["container"]] = entry.fields["step"]
        _add(found, entry, owners)
    return found


def _add(found: dict[str, Trail], entry: Entry, owners: Mapping[str, str]) -> None:
    """Take a record in. `owners` says which step a container was sent off for."""
    fields = entry.fields
    if entry.kind == "ended" and fields.get("reason") and fields["container"] in owners:
        found[owners[fields["container"]]].abandoned.append(fields["reason"])
    if entry.kind == "rerun":
        for step in fields["steps"]:
            found[step].reruns.append(fields)
        return
    if "step" not in fields:
        return
    trail = found[fields["step"]]
    if entry.kind == "keys":
        _keyed(trail, fields)
    elif entry.kind == "result":
        trail.results.append(fields)
    elif entry.kind == "decision":
        trail.decisions.append(fields)
    if entry.kind in ("go", "result"):
        trail.last = entry.kind


def _keyed(trail: Trail, fields: Mapping[str, Any]) -> None:
    """Take in a key. One that is named again without its parts is the last one, whose outcome comes back."""
    if fields.get("parts"):
        trail.keys.append(fields)
    done = trail.results[-1]["result"] if trail.results else {}
    if not (done.get("key") == fields["key"] and done.get("status") == "completed"):
        trail.last = "keys"


@dataclass(frozen=True)
class Run:
    """A run as far as its steps' reasons ask for it."""

    id: str
    plan: Plan
    trails: Mapping[str, Trail]
    living: bool
    """Whether somebody works on it now."""
    aborted: str
    """Why it was aborted, if it was."""
    running: frozenset[str] = frozenset()
    reused: frozenset[str] = frozenset()
    """Steps whose result came back in the last part of the run."""


def reason(run: Run, step: Step, changed: Iterable[Change]) -> Reason:
    """Say why a step is as it is. `changed` is what its last key has other than the one before."""
    trail = run.trails.get(step.id, Trail())
    # One that is tried again has an outcome on record, and it no longer holds.
    result = None if step.id in run.running else _result(trail)
    differing = tuple(changed)
    verdict, because = _ended(run, step, result, differing) if result else _open(run, step, trail)
    return Reason(
        step=step.id,
        status=result.status if result else "in_progress" if verdict == "running" else "pending",
        verdict=verdict,
        because=because,
        attempts=result.attempts if result else 0,
        decisions=tuple(_tries(trail)),
        key=trail.keys[-1]["key"] if trail.keys else "",
        changes=tuple(one.model_dump(mode="json") for one in differing),
    )


def _result(trail: Trail) -> StepResult | None:
    """Return the step's outcome, if the last thing recorded about it is one."""
    known = trail.results[-1] if trail.results and trail.last == "result" else None
    return StepResult.model_validate(known["result"]) if known else None


def _tries(trail: Trail) -> Iterable[Try]:
    for one in trail.decisions:
        factors, known = one.get("factors", {}), one.get("failure")
        # An older version had its failure, in words, and the attempt among the factors.
        said = _spoken(known) if isinstance(known, dict) else str(factors.get("failure", ""))
        number = int(one.get("attempt") or factors.get("attempt", 0))
        yield Try(attempt=number, verb=one["verb"], reason=one["reason"], failure=said)


def _spoken(failure: Mapping[str, Any]) -> str:
    """Say what a failure was: its class, and the first line that decided."""
    first = next(iter(failure.get("lines", ())), "")
    return f"{failure['cls'].replace('_', ' ')}: {first[:LINE]}" if first else failure["cls"].replace("_", " ")


def _open(run: Run, step: Step, trail: Trail) -> tuple[Verdict, str]:
    """Say where a step stands that has not come to an end."""
    if trail.last in ("keys", "go") or step.id in run.running:
        if run.living:
            return "running", "everything it needs is there, and it has not ended"
        how = f"workflowmaster resume {run.id}"
        return "interrupted", f"the run ended in the middle of it; it starts from its input again, or is adopted: {how}"
    if run.aborted:
        return "aborted", f"the run was aborted before its turn: {run.aborted}"
    missing = [name for name in step.needs if _result(run.trails.get(name, Trail())) is None]
    if missing:
        return "pending", f"it needs {_listed(missing)}, which {'has' if len(missing) == 1 else 'have'} not ended"
    return "pending", "its turn has not come" if run.living else "the run ended before its turn"


def _ended(run: Run, step: Step, result: StepResult, changed: tuple[Change, ...]) -> tuple[Verdict, str]:
    if result.status == "completed":
        return _completed(run, run.trails[step.id], result, changed)
    if result.status == "failed":
        if run.trails[step.id].results[-1].get("refused"):
            return "refused", f"its policy was not kept, and nothing of it ran: {result.reason}"
        return "failed", result.reason
    if result.status == "skipped":
        return "skipped", _of_others(run, step, result, ("skipped",))
    if result.status == "waiting":
        asks = result.reason.startswith("it failed")
        return ("escalated" if asks else "waiting"), _of_others(run, step, result, ("waiting",))
    return "blocked", _of_others(run, step, result, ("failed", "blocked", "skipped"))


def _completed(run: Run, trail: Trail, result: StepResult, changed: tuple[Change, ...]) -> tuple[Verdict, str]:
    if result.workflow not in ("", run.id):
        return "reused", f"workflow {result.workflow} had done the same, and the step allows it (cache: true)"
    if trail.results[-1].get("reused") or result.step in run.reused:
        return "reused", "its result was there: nothing that can change its outcome is other than it was"
    if any(receipt.adopted for receipt in result.receipts):
        return "adopted", "its container outlived the process that had started it, and was taken over as it was"
    if len(trail.keys) < 2 and len(trail.results) < 2:
        left = [f"; a container that was left for it could not be taken over: {why}" for why in trail.abandoned[-1:]]
        return "ran", "".join(["it had no result yet", *left])
    return "ran again", _once_more(trail, changed)


def _once_more(trail: Trail, changed: tuple[Change, ...]) -> str:
    """Say what made a step run that had a key or an outcome before."""
    before = [one["result"] for one in trail.results[:-1]]
    if trail.reruns and any(one.component == "generation" for one in changed):
        return f"{trail.reruns[-1].get('why') or 'it was asked for'}"
    if changed:
        return "what it depends on changed: " + "; ".join(map(str, changed))
    if before and before[-1]["status"] != "completed":
        return f"it had not completed before: {before[-1]['reason']}"
    return "its result was not there any more"


def _of_others(run: Run, step: Step, result: StepResult, like: tuple[str, ...]) -> str:
    """Follow a step that did not run to the one that is the cause, and give that one's reason too."""
    here, seen = step, {step.id}
    while found := _cause(run, here, like, seen):
        here = found
        seen.add(here.id)
    if here is step:
        return result.reason
    first = _result(run.trails[here.id])
    return f"{result.reason}; the cause is {here.id}: {first.reason if first else 'it has not ended'}"


def _cause(run: Run, step: Step, like: tuple[str, ...], seen: set[str]) -> Step | None:
    result = _result(run.trails.get(step.id, Trail()))
    if result is None or not result.reason.startswith("it needs"):
        return None
    for name in step.needs:
        known = _result(run.trails.get(name, Trail()))
        if known and known.status in like and name not in seen:
            return run.plan.step(name)
    return None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
