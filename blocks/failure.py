"""Says in one line why a container did not succeed, and which class of failure that is. Pure.

Recognition goes by facts in the receipt, from the most to the least certain. What a step printed is not looked at here:
that is for whoever decides what to do about it.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from workflowmaster.blocks.receipt import Receipt

Cause = Literal["", "sandbox", "timeout", "output", "oom", "killed", "failure"]
"""Empty: it succeeded. Otherwise: the engine could not start it, wall time, output cap, memory, a signal, exit code."""

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What a shell answers for a command that is not there, or that it may not run."""


def explain(receipt: Receipt, wall_seconds: float) -> tuple[str, Cause]:
    """Return the reason in one line and the class of failure; both empty when the container succeeded."""
    if receipt.refused:
        return f"the engine could not run it: {receipt.refused}", "sandbox"
    return _stopped(receipt, wall_seconds) or _exited(receipt)


def _stopped(receipt: Receipt, wall_seconds: float) -> tuple[str, Cause] | None:
    """Recognise what we stopped it for, whatever code it ended with."""
    if receipt.timed_out:
        return (
            f"it ran longer than {wall_seconds:g} s and was stopped; raise timeout-minutes if it needs more",
            "timeout",
        )
    if receipt.output_capped:
        return f"it printed more than policy {receipt.policy} keeps and was stopped; write to a file instead", "output"
    return None


def _exited(receipt: Receipt) -> tuple[str, Cause]:
    """Judge how it ended by itself."""
    code = receipt.exit_code
    if code is None:
        return "nobody saw how it ended", "sandbox"
    if code and receipt.oom_killed:
        return f"it ran out of memory under policy {receipt.policy} (exit {code})", "oom"
    if receipt.signal:
        return f"it was killed by {_signal(receipt.signal)} (exit {code})", "killed"
    if code in (NOT_FOUND, NOT_EXECUTABLE):
        what = "was not found" if code == NOT_FOUND else "may not be executed"
        return f"a command {what} in the image (exit {code}); see its log", "failure"
    return (f"exit {code}", "failure") if code else ("", "")


def signal_of(exit_code: int) -> int | None:
    """Return the signal that an exit code stands for, by the shells' convention; None if it stands for none."""
    return exit_code - 128 if 128 < exit_code <= 128 + signal.SIGRTMAX else None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
