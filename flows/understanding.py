"""What went wrong in one attempt: its class, its fingerprint, the lines that say so, and who says so. Pure.

Three sources, and the order is the choice: what we measured ourselves, then rules, then a model. A receipt cannot lie
about a timeout, a step's output can say anything; a rule can be read and mended by whoever it wronged, a model cannot.
So a model never overrules a rule, however sure it is. What is left are the conventions of exit codes, and `unknown`
is an answer: it is decided by the step's priority, not by a guess.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from workflowmaster.blocks.failure import signal_of
from workflowmaster.flows import steady
from workflowmaster.flows.decisive import MOST, survey, told
from workflowmaster.flows.fingerprints import fingerprint
from workflowmaster.flows.plan import Failure, FailureClass
from workflowmaster.flows.retryafter import retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workflowmaster.flows.decisive import Survey
    from workflowmaster.flows.failurerules import Rules


@dataclass(frozen=True)
class Evidence:
    """What is known of a failed attempt."""

    cause: str
    """`blocks.failure.Cause`, or `policy`, `conflict`, `workspace`."""
    reason: str
    """Our sentence about it."""
    exit_code: int | None
    text: str
    """The end of the attempt's log, secrets masked. Only its last 64 KiB are looked at."""
    kind: str = "command"
    """The step's kind."""
    trouble: str = ""
    """`SandboxUnavailable.reason`, where the engine or sandbox failed."""


class TextModel(Protocol):
    """A model that classes decisive lines."""

    @property
    def version(self) -> str:
        """Which model it is."""

    def classify(self, lines: Sequence[str]) -> tuple[FailureClass, float] | None:
        """Return the class and its calibrated probability; None where it abstains."""


@dataclass(frozen=True)
class Verdict:
    """A class and who says so."""

    cls: FailureClass
    source: str
    confidence: float = 1.0
    line: str = ""
    """The line of the log that says so, where it is one."""


FACTS: Mapping[str, FailureClass] = {
    "timeout": "timeout",
    "oom": "out_of_memory",
    "disk": "disk",
    # What it may print is a limit of its policy: the same attempt would only meet it again.
    "output": "policy_refused",
    "policy": "policy_refused",
    "conflict": "merge_conflict",
}
"""Cause → class, where we measured or decided it ourselves."""

TROUBLES: Mapping[str, FailureClass] = {
    "permission": "permission",
    "command": "missing_resource",
    "image": "missing_resource",
    "mount": "missing_resource",
    "disk": "disk",
    "unsupported": "policy_refused",
}
"""Why a sandbox is unavailable → class, where waiting does not help; the others are `sandbox_unavailable`."""

CODES: Mapping[int, tuple[FailureClass, float]] = {
    124: ("timeout", 0.8),
    126: ("permission", 0.8),
    127: ("missing_resource", 0.9),
}
"""Exit codes by convention: of coreutils' `timeout`, and of every shell."""

SIGNALS: Mapping[int, tuple[FailureClass, float]] = {
    # Nobody of ours killed it, and its cgroup was not out of memory: the machine was, or a person did it.
    signal.SIGKILL: ("out_of_memory", 0.5),
    signal.SIGTERM: ("sandbox_unavailable", 0.5),
    signal.SIGSEGV: ("code_error", 0.7),
    signal.SIGABRT: ("code_error", 0.6),
    signal.SIGBUS: ("code_error", 0.6),
    signal.SIGFPE: ("code_error", 0.7),
    signal.SIGILL: ("code_error", 0.6),
}
"""Signals a process can die of, and what that mostly means."""

LISTENED = 40
"""Lines, from the end, in which such a wish is looked for."""

ASKED = frozenset({"rate_limit", "network", "unknown"})
"""Classes for which a wish to be left alone is read."""


def understand(
    evidence: Evidence, rules: Rules, model: TextModel | None = None, *, now: float | None = None
) -> Failure:
    """Return what went wrong. `now` is Unix time, against which dates and resets are read; by default this moment."""
    seen = survey(evidence.text, rules.gate)
    lines = told(seen)
    verdict = _measured(evidence) or _ruled(evidence, seen, rules)
    verdict = verdict or _modelled(lines, model, seen) or _conventional(evidence, seen)
    # What said so is shown, also where it was only a warning: pip warns of the network, and ends with no package.
    if verdict.line and verdict.line not in lines:
        lines = (verdict.line, *lines[1 - MOST :])
    wait = None
    if verdict.cls in ASKED:
        wait = retry_after(
            (seen.lines[number] for number in seen.worded[-LISTENED:]), steady.now() if now is None else now
        )
    return Failure(
        cls=verdict.cls,
        fingerprint=fingerprint(verdict.cls, lines or (evidence.reason,), evidence.exit_code),
        lines=lines,
        confidence=verdict.confidence,
        source=verdict.source,
        retry_after=wait,
        advice=rules.advice(verdict.source),
    )


def _measured(evidence: Evidence) -> Verdict | None:
    """Judge by what we measured or decided ourselves."""
    if evidence.cause == "sandbox":
        cls = TROUBLES.get(evidence.trouble, "sandbox_unavailable")
        return Verdict(cls, f"receipt:sandbox/{evidence.trouble}" if evidence.trouble else "receipt:sandbox")
    fact = FACTS.get(evidence.cause)
    return Verdict(fact, f"receipt:{evidence.cause}") if fact else None


def _ruled(evidence: Evidence, seen: Survey, rules: Rules) -> Verdict | None:
    if found := rules.judge(seen, evidence.kind):
        return Verdict(found.rule.cls, f"rule:{found.rule.name}", found.confidence, found.line)
    found = rules.read(evidence.reason, evidence.kind)
    return Verdict(found.rule.cls, f"rule:{found.rule.name}", found.confidence) if found else None


def _modelled(lines: Sequence[str], model: TextModel | None, seen: Survey) -> Verdict | None:
    """Ask the model, where there is an error text at all: from anything else it has nothing to learn."""
    answer = model.classify(lines) if model and seen.found else None
    return Verdict(answer[0], f"model:{model.version}", answer[1]) if model and answer else None


def _conventional(evidence: Evidence, seen: Survey) -> Verdict:
    """Judge by the exit code's conventions, or say that it is unknown."""
    code = evidence.exit_code or 0
    if evidence.cause in ("failure", "killed") and code in CODES:
        return Verdict(CODES[code][0], f"exit:{code}", CODES[code][1])
    number = signal_of(code)
    if evidence.cause in ("failure", "killed") and number is not None and number in SIGNALS:
        return Verdict(SIGNALS[number][0], f"exit:{code}", SIGNALS[number][1])
    if evidence.kind == "agent" and not seen.found:
        return Verdict("agent_gave_up", "receipt:silent", 0.6)
    return Verdict("unknown", f"receipt:{evidence.cause}" if evidence.cause == "workspace" else "", 0.0)
