"""Who watches a run while it happens: the terminal's progress, or nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from workflowmaster.flows.plan import Decision, StepResult


class Watcher(Protocol):
    """Told about every step. `step_log` is called from threads, the others from the event loop's."""

    def step_started(self, step_id: str, attempt: int) -> None:
        """Hear that an attempt begins."""

    def step_log(self, step_id: str, line: str) -> None:
        """Hear a line of output."""

    def step_decided(self, decision: Decision) -> None:
        """Hear what was decided about a failed attempt. From any thread."""

    def step_finished(self, result: StepResult) -> None:
        """Hear that a step has ended, however it did."""

    def note(self, text: str) -> None:
        """Hear a message about the run as a whole."""


class Silent:
    """Nobody watches."""

    def step_started(self, step_id: str, attempt: int) -> None:
        """Do nothing."""

    def step_log(self, step_id: str, line: str) -> None:
        """Do nothing."""

    def step_decided(self, decision: Decision) -> None:
        """Do nothing."""

    def step_finished(self, result: StepResult) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


silent = Silent()
