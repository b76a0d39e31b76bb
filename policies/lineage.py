"""Where a policy's values come from: the files it extends, one after the other, and what each of them changed.

Kept apart from loading, because a run needs only the values; a person who reads a policy, and the audit log that must
say who granted more than the built-in policies do, and why, need the way they came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.policies.checks import looser

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workflowmaster.policies.checks import Finding
    from workflowmaster.policies.model import SecurityPolicy
    from workflowmaster.policies.reading import Written

DEFAULT = "default"
"""Where a value comes from that no file of the lineage writes."""


@dataclass(frozen=True)
class Link:
    """One policy of a lineage, as loaded and as its file has it."""

    policy: SecurityPolicy
    written: Written


@dataclass(frozen=True)
class Loosening:
    """Where one policy of a lineage grants more than the one it is held against, and why it says it does."""

    policy: str
    against: str
    findings: tuple[Finding, ...]
    reason: str
    path: Path


def origins(lineage: Sequence[Link]) -> dict[str, str]:
    """Return, for every control, `file:line` where its value was written, or `default`.

    `lineage` goes from the policy itself to the one that stands alone: the first file that writes a field wins.
    """
    found: dict[str, str] = {}
    for link in lineage:
        # The child's file comes first, so what it writes is never overwritten by its parent's.
        for field in link.written.values:
            found.setdefault(field, link.written.at(field))
    return {field: found.get(field, DEFAULT) for field in lineage[0].policy.controls}


def loosenings(lineage: Sequence[Link], loosest: SecurityPolicy) -> tuple[Loosening, ...]:
    """Return every step of a lineage at which more is granted than before, the oldest first.

    A policy that stands alone is held against `loosest`.
    """
    found = []
    for link, parent in zip(lineage, [*(one.policy for one in lineage[1:]), loosest], strict=True):
        findings = looser(link.policy, parent)
        # Only the step at which it happened: a child inherits what its parent loosened, and is not to blame.
        if findings:
            name = link.policy.name
            found.append(Loosening(name, parent.name, findings, link.policy.reason, link.written.path))
    return tuple(reversed(found))
