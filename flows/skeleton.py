"""The nine tasks every prose prompt compiles to: the guide's default workflow, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflowmaster.flows.plan import Kind, Phase, Priority
    from workflowmaster.flows.vocabulary import Meaning


@dataclass(frozen=True, slots=True)
class SkeletonTask:
    """One of the nine; values of the original's template."""

    id: str
    name: str
    phase: Phase
    priority: Priority
    minutes: float
    needs: tuple[str, ...]
    policy: str
    kind: Kind
    """Of the task when it has no steps of its own."""
    asks: str = ""
    """What its agent is asked when the prompt lists no steps for it."""


SKELETON: tuple[SkeletonTask, ...] = (
    SkeletonTask("1", "setup", "initialization", "high", 3, (), "minimal", "setup"),
    SkeletonTask("2", "issue_creation", "issue_creation", "high", 2, ("1",), "minimal", "forge"),
    SkeletonTask("3", "branch_management", "branch_management", "high", 2, ("2",), "standard", "forge"),
    SkeletonTask(
        "4",
        "research_planning",
        "research_planning",
        "high",
        15,
        ("3",),
        "development",
        "agent",
        "Read what the task below touches and write down how it should be done, before anything is changed.",
    ),
    SkeletonTask(
        "5",
        "implementation",
        "implementation",
        "high",
        45,
        ("4",),
        "development",
        "agent",
        "Do the task below completely. Create and change the files it needs; do not only describe them.",
    ),
    SkeletonTask(
        "6",
        "testing",
        "testing",
        "high",
        30,
        ("5",),
        "testing",
        "agent",
        "Test what was done for the task below: run the project's own tests and whatever the task asks for. Report what"
        " was run and what it said; report nothing that was not run.",
    ),
    SkeletonTask(
        "7",
        "documentation",
        "documentation",
        "medium",
        20,
        ("5",),
        "minimal",
        "agent",
        "Bring the documentation in line with what was done for the task below.",
    ),
    SkeletonTask("8", "pull_request", "pull_request_creation", "high", 10, ("6", "7"), "minimal", "forge"),
    SkeletonTask(
        "9",
        "code_review",
        "review",
        "high",
        15,
        ("8",),
        "minimal",
        "agent",
        "Review the change made for the task below as a careful colleague would: correctness, security, tests,"
        " simplicity. Name the file and line of each finding. Do not approve anything.",
    ),
)

BY_ID = {task.id: task for task in SKELETON}

PHASE_OF_NUMBER = {int(task.id): task.phase for task in SKELETON}
"""Phase of each of the nine numbers people use for them ("complete phase 9")."""

TASK_OF: dict[Meaning, str] = {
    "setup": "1",
    "issue": "2",
    "branch": "3",
    "baseline": "4",
    "research": "4",
    "implementation": "5",
    "unknown": "5",
    "tests": "6",
    "docs": "7",
    "pull_request": "8",
    "review": "9",
    "followup": "9",
}
"""Task an item of each meaning belongs to."""

RETOLD: frozenset[Meaning] = frozenset(("setup", "issue", "branch", "pull_request"))
"""Meanings of items that describe a task of the skeleton: they are mapped onto it and not done twice."""
