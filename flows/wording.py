"""How numbers and outcomes are put into words, one way everywhere: terminal, report, artifact and pull request."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workflowmaster.flows.plan import Decision, StepStatus, WorkflowStatus

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DAY: Final = 86400.0

STEP_WORDS: Final[dict[StepStatus, str]] = {
    "pending": "pending",
    "in_progress": "running",
    "completed": "completed",
    "failed": "failed",
    "skipped": "skipped",
    "blocked": "blocked",
    "waiting": "waiting",
}
GLYPHS: Final[dict[StepStatus, str]] = {
    "pending": "○",
    "in_progress": "●",
    "completed": "✓",
    "failed": "✗",
    "skipped": "\N{EN DASH}",
    "blocked": "⊘",
    "waiting": "‖",
}
"""Always shown beside the word: neither colour nor a sign alone may carry the meaning."""

WORKFLOW_WORDS: Final[dict[WorkflowStatus, str]] = {
    "running": "Running",
    "completed": "Completed",
    "partial": "Partly completed",
    "failed": "Failed",
    "aborted": "Aborted",
    "waiting": "Waiting for a person",
    "paused": "Paused",
}


def duration(seconds: float) -> str:
    """Return a duration for people: `0.04 s`, `3.2 s`, `1 min 05 s`, `2 h 03 min`, `3 d 04 h`."""
    if seconds <= 0:
        return "0 s"
    # Each bound is where rounding would print the next unit's first value, so `60.0 s` never appears.
    if seconds < 0.095:
        return f"{seconds:.2f} s"
    if seconds < MINUTE - 0.05:
        return f"{seconds:.1f} s"
    if seconds < HOUR - 0.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    if seconds < DAY - MINUTE / 2:
        hours, minutes = divmod(round(seconds / MINUTE), 60)
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(round(seconds / HOUR), 24)
    return f"{days} d {hours:02d} h"


def size(count: float) -> str:
    """Return a number of bytes in binary units: `512 B`, `18.4 MiB`."""
    units = iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while count >= 1023.5 and unit != "TiB":
        count, unit = count / 1024, next(units)
    # Three significant digits at most: more would claim a precision that sampling memory does not have.
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"


def next_attempt(decision: Decision) -> str:
    """Return when and with what a retry begins: `in 4.0 s with 256 MiB`; `at once` where it does not wait."""
    limits = decision.limits
    given = [size(limits.memory)] if limits and limits.memory else []
    given += [f"{duration(limits.seconds)} of time"] if limits and limits.seconds else []
    when = f"in {duration(decision.wait_seconds)}" if decision.wait_seconds else "at once"
    return f"{when} with {listed(given)}" if given else when


def moment(unix: float) -> str:
    """Return a Unix time as UTC, to the second: reports are read elsewhere than where they were made."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def counted(number: int, noun: str) -> str:
    """Return `1 step` or `3 steps`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(words: list[str], limit: int = 4) -> str:
    """Join words as in a sentence: `a, b and c`; beyond `limit` the rest is counted."""
    if len(words) > limit:
        words = [*words[: limit - 1], f"{len(words) - limit + 1} more"]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def short(commit: str) -> str:
    """Return the first characters of an object id or digest, enough to find it again."""
    # Digests are longer than commits, and Docker shows twelve characters of an id, git about ten.
    bare = commit.removeprefix("sha256:")
    return bare[:12] if len(bare) > 40 or commit != bare else bare[:10]
