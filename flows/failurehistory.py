"""What became of failures: one case for each failed attempt in the journals of all workflows.

The journals are the only source, so there is nothing to keep in step with them: a decision's record says what failed,
and what came after it under the same key says whether the next attempt on the same inputs helped. The hard choice is
what counts as an outcome. Only an attempt under the same key does; one that was cut short, or came after the prompt or
the workspace had changed, says nothing about a retry and stays `unknown`.

Reading a thousand journals takes seconds, so the cases of each are kept beside them, with the size and time of the
journal they were read from. That file may be deleted, and a line of it that is damaged is read anew from its journal.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.flows import journal
from workflowmaster.flows.fingerprints import masked
from workflowmaster.flows.folders import Folder
from workflowmaster.flows.plan import Failure, FailureClass, Noun, canonical
from workflowmaster.flows.settings import home

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from workflowmaster.flows.journal import Entry

Outcome = Literal["succeeded", "failed", "unknown"]

FORM = "1"
"""Version of the kept file's lines. Another one's are read anew from the journals."""

MOST_LINES = 12
"""Decisive lines of a case that are kept."""


class Case(Noun):
    """One failed attempt, what was decided about it, and what the next attempt on the same inputs came to."""

    workflow: str
    """Id of the run."""
    step: str
    fingerprint: str
    cls: FailureClass
    source: str = ""
    """What named the class: `receipt:oom`, `rule:dns`, `model:3`."""
    confidence: float = 1.0
    lines: tuple[str, ...] = ()
    """Decisive lines, masked as fingerprints are."""
    policy: str = ""
    image: str = ""
    kind: str = ""
    priority: str = ""
    attempt: int = 0
    """The attempt that failed, counted over all parts of the run."""
    verb: str = ""
    rule: str = ""
    factors: dict[str, Any] = {}
    """Everything the decision was made by."""
    grown: bool = False
    """Whether the next attempt was given more memory or time."""
    chance: float | None = None
    """Probability that the decision was given; None where it had none."""
    outcome: Outcome = "unknown"
    """Of the next attempt on the same inputs; unknown where there was none, or it was cut short."""
    minutes: float | None = None
    """What that attempt took; None where it is not known."""
    spent: float | None = None
    """Minutes that the failed attempt took; None where it is not known."""
    at: float = 0.0
    """Unix time of the decision."""


@dataclass(frozen=True)
class History:
    """The cases of some workflows, the oldest first, and what could not be read of them."""

    cases: tuple[Case, ...] = ()
    without: int = 0
    """Decisions that name no failure: those of older versions, and those about no attempt."""
    damaged: int = 0
    """Lines of journals that are not what was written, or whole journals that cannot be read."""


@dataclass
class _Step:
    """What was last seen of a step."""

    place: int | None = None
    """Where its last failure stands among the cases, while it is not known what comes of it."""
    key: str = ""
    """That failure's."""
    began: float | None = None
    """When its present attempt was sent off, Unix time."""
    number: int = 0
    """That attempt."""


@dataclass
class _Reading:
    """One journal on its way to cases."""

    workflow: str
    plan: Mapping[str, Mapping[str, Any]]
    found: list[Case] = field(default_factory=list)
    steps: dict[str, _Step] = field(default_factory=dict)
    without: int = 0

    def take(self, entry: Entry) -> None:
        """Take in one record."""
        fields = entry.fields
        step = self.steps.setdefault(str(fields.get("step", "")), _Step())
        if entry.kind == "go" and fields["attempt"] != step.number:
            step.number, step.began = fields["attempt"], entry.at
        elif entry.kind == "decision" and fields.get("failure"):
            self._failed(step, fields, entry.at)
        elif entry.kind == "decision":
            self.without += 1
        elif entry.kind == "result" and not fields.get("reused"):
            self._ended(step, fields["result"])

    def _failed(self, step: _Step, fields: Mapping[str, Any], at: float) -> None:
        """Take in a decision: it is about a new failure, which is what came of the last one."""
        case = _case(self.workflow, fields, self.plan.get(fields["step"], {}), at)
        if step.began is not None and step.number == case.attempt:
            case = case.model_copy(update={"spent": _minutes(at - step.began)})
        before = self._pending(step, fields.get("key", ""))
        if before and case.attempt > before.attempt:
            self._settle(step, "failed", case.spent)
        elif before and step.place is not None:
            # The same attempt, decided on once more: what was decided last is what was done.
            self.found[step.place] = case
            return
        step.place, step.key = len(self.found), fields.get("key", "")
        self.found.append(case)

    def _ended(self, step: _Step, result: Mapping[str, Any]) -> None:
        before = self._pending(step, result.get("key", ""))
        if before and result["status"] == "completed" and result.get("attempts", 1) > before.attempt:
            self._settle(step, "succeeded", _minutes(result.get("seconds", 0.0)))
        # A failed result says what its decision has said; of a completed one under another key nothing follows.
        if result["status"] == "completed":
            step.place = None

    def _pending(self, step: _Step, key: str) -> Case | None:
        return self.found[step.place] if step.place is not None and step.key == key else None

    def _settle(self, step: _Step, outcome: Outcome, minutes: float | None) -> None:
        if step.place is not None:
            update = {"outcome": outcome, "minutes": minutes}
            self.found[step.place] = self.found[step.place].model_copy(update=update)


def _case(workflow: str, fields: Mapping[str, Any], step: Mapping[str, Any], at: float) -> Case:
    failure = Failure.model_validate(fields["failure"])
    factors = fields.get("factors") or {}
    return Case(
        workflow=workflow,
        step=fields["step"],
        fingerprint=failure.fingerprint,
        cls=failure.cls,
        source=failure.source,
        confidence=failure.confidence,
        lines=tuple(masked(line) for line in failure.lines[-MOST_LINES:]),
        policy=str(step.get("policy", "")),
        image=str(step.get("image", "")),
        kind=str(factors.get("kind") or step.get("kind", "")),
        priority=str(factors.get("priority") or step.get("priority", "")),
        attempt=fields.get("attempt", 0),
        verb=fields["verb"],
        rule=fields.get("rule", ""),
        factors=factors,
        grown=bool(fields.get("limits")),
        chance=_share(factors.get("chance")),
        at=fields.get("at") or at,
    )


def _share(chance: object) -> float | None:
    """Return the probability that a decision's factors name, however they spell it."""
    found = chance.get("probability") if isinstance(chance, dict) else chance
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def _minutes(seconds: float) -> float:
    return round(max(seconds, 0.0) / 60, 4)


def read(folder: Folder) -> History:
    """Return the cases in one workflow's journal. What is damaged in it is left out and counted."""
    try:
        records = journal.read(folder.journal)
    except OSError:
        return History(damaged=1)
    reading = _Reading(folder.id, _plan(folder))
    wrong = len(records.damaged)
    for entry in records.entries:
        try:
            reading.take(entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            # Its checksum holds, so another version wrote it; what it means cannot be known.
            wrong += 1
    return History(tuple(reading.found), reading.without, wrong)


def _plan(folder: Folder) -> dict[str, Mapping[str, Any]]:
    """Return the steps of a plan by id, unchecked: a case is worth having without its step's image."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        tasks = json.loads(folder.plan_file.read_bytes())["tasks"]
        return {str(task["id"]): task for task in tasks}
    return {}


def cases(folders: Iterable[Folder]) -> list[Case]:
    """Return the failures in the journals of some workflows, the oldest first."""
    return list(gathered(folders).cases)


def gathered(folders: Iterable[Folder]) -> History:
    """Read some workflows' journals, the cases in the order of time."""
    return _ordered([read(folder) for folder in folders])


def _ordered(histories: Iterable[History]) -> History:
    cases: list[Case] = []
    without = damaged = 0
    for one in histories:
        cases += one.cases
        without, damaged = without + one.without, damaged + one.damaged
    return History(tuple(sorted(cases, key=lambda case: (case.at, case.workflow, case.step))), without, damaged)


def learning(place: Path | None = None) -> Path:
    """Return the folder of all that is learned: in the state directory, readable by nobody else."""
    path = (place or home()) / "learning"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def folder_of(workflow: str, place: Path | None = None) -> Folder:
    """Return a workflow's folder below a state directory, whether or not it is there."""
    return Folder((place or home()) / "workflows" / workflow)


def everything(place: Path | None = None) -> History:
    """Return the cases of all workflows below a state directory, reading only the journals that have changed."""
    root = (place or home()) / "workflows"
    found = sorted(map(Folder, root.iterdir()), key=lambda one: one.id) if root.is_dir() else []
    kept = learning(place) / "cases.jsonl"
    known = _known(kept)
    fresh: dict[str, tuple[str, History]] = {}
    for folder in found:
        sign = _sign(folder)
        if sign:
            before = known.get(folder.id)
            fresh[folder.id] = before if before and before[0] == sign else (sign, read(folder))
    if fresh != known:
        write_atomically(kept, b"".join(_line(name, *one) for name, one in fresh.items()), durable=False)
    return _ordered(history for _, history in fresh.values())


def _sign(folder: Folder) -> str:
    """Return what tells a journal from what it was; empty where there is none."""
    try:
        seen = folder.journal.stat()
    except OSError:
        return ""
    return f"{FORM}-{seen.st_size}-{seen.st_mtime_ns}"


def _line(name: str, sign: str, history: History) -> bytes:
    cases = [case.model_dump(mode="json", exclude_defaults=True) for case in history.cases]
    body = canonical([name, sign, cases, history.without, history.damaged])
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _known(path: Path) -> dict[str, tuple[str, History]]:
    """Return what is kept of each workflow; a damaged line, or one of another version, is as if it were not there."""
    found = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        body = line[9:]
        with contextlib.suppress(ValueError, TypeError, ValidationError):
            if line[:9] == b"%08x " % zlib.crc32(body):
                name, sign, cases, without, damaged = json.loads(body)
                found[name] = (sign, History(tuple(map(Case.model_validate, cases)), without, damaged))
    return found
