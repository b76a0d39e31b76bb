"""One line and one class for every way a container can end."""

from __future__ import annotations

from typing import Any

import pytest

from workflowmaster.blocks.failure import explain, signal_of
from workflowmaster.blocks.receipt import Receipt

TABLE: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"exit_code": 0}, "", ""),
    # A child was killed for memory, and the step did without it.
    ({"exit_code": 0, "oom_killed": True}, "", ""),
    ({"exit_code": 1}, "exit 1", "failure"),
    ({"exit_code": 255}, "exit 255", "failure"),
    ({"exit_code": 127}, "a command was not found in the image (exit 127); see its log", "failure"),
    ({"exit_code": 126}, "a command may not be executed in the image (exit 126); see its log", "failure"),
    ({"exit_code": 137, "signal": 9}, "it was killed by SIGKILL (exit 137)", "killed"),
    ({"exit_code": 139, "signal": 11}, "it was killed by SIGSEGV (exit 139)", "killed"),
    ({"exit_code": 160, "signal": 32}, "it was killed by signal 32 (exit 160)", "killed"),
    (
        {"exit_code": 137, "signal": 9, "oom_killed": True},
        "it ran out of memory under policy standard (exit 137)",
        "oom",
    ),
    ({"exit_code": 1, "oom_killed": True}, "it ran out of memory under policy standard (exit 1)", "oom"),
    (
        {"exit_code": 137, "signal": 9, "timed_out": True},
        "it ran longer than 90 s and was stopped; raise timeout-minutes if it needs more",
        "timeout",
    ),
    # Its own answer to being stopped does not make it a success.
    (
        {"exit_code": 0, "timed_out": True},
        "it ran longer than 90 s and was stopped; raise timeout-minutes if it needs more",
        "timeout",
    ),
    (
        {"exit_code": 137, "signal": 9, "output_capped": True},
        "it printed more than policy standard keeps and was stopped; write to a file instead",
        "output",
    ),
    ({"exit_code": 0, "refused": "no such runtime"}, "the engine could not run it: no such runtime", "sandbox"),
    (
        {"exit_code": 127, "refused": "no such runtime", "timed_out": True},
        "the engine could not run it: no such runtime",
        "sandbox",
    ),
    ({}, "nobody saw how it ended", "sandbox"),
)


@pytest.mark.parametrize(("facts", "reason", "cause"), TABLE)
def test_facts_become_a_reason_and_a_cause(facts: dict[str, Any], reason: str, cause: str) -> None:
    assert explain(Receipt(policy="standard", **facts), 90) == (reason, cause)


def test_half_a_second_is_said_as_such() -> None:
    assert "longer than 0.5 s" in explain(Receipt(exit_code=137, timed_out=True), 0.5)[0]


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (0, None),
        (1, None),
        (127, None),
        (128, None),
        (129, 1),
        (137, 9),
        (143, 15),
        (192, 64),
        (193, None),
        (255, None),
    ],
)
def test_an_exit_code_that_stands_for_a_signal(code: int, number: int | None) -> None:
    assert signal_of(code) == number
