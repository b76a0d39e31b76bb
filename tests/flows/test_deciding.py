"""What a decision is made from: who is to blame for an error, the end of a log, and what earlier attempts have left."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.workspace import WorkspaceError
from workflowmaster.flows import deciding, factors, steady
from workflowmaster.flows.execution import StepFailed
from workflowmaster.flows.past import Past, Trial
from workflowmaster.flows.plan import Decision, Failure, Limits, StepResult
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from pathlib import Path

FULL = OSError(errno.ENOSPC, "no space left on device")


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (StepFailed(StepResult(step="a", status="failed", key="k", reason="exit 1"), "failure"), ("failure", "")),
        (StepFailed(StepResult(step="a", status="failed", key="k", reason="too big"), "oom"), ("oom", "")),
        (SandboxUnavailable("it does not answer", reason="engine"), ("sandbox", "engine")),
        (PolicyError("memory is weaker than declared"), ("policy", "")),
        (FULL, ("sandbox", "disk")),
        (WorkspaceError("disk", "no space left"), ("sandbox", "disk")),
        (WorkspaceError("conflict", "a.txt"), ("conflict", "")),
        (WorkspaceError("size", "too large"), ("workspace", "")),
        (KeyError("a fault of our own"), ("workspace", "")),
    ],
)
def test_who_is_to_blame(error: Exception, blamed: tuple[str, str]) -> None:
    assert deciding.blame(error) == blamed


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"", ""),
        (b"one\ntwo\n", "one\ntwo\n"),
        (b"x" * 50 + b"\nthe end\n", "the end\n"),
        (b"cut " + "ü".encode() * 20 + b"\n\xff last\n", "\N{REPLACEMENT CHARACTER} last\n"),
    ],
)
def test_the_end_of_a_log_is_read_from_a_whole_line_on(tmp_path: Path, written: bytes, read: str) -> None:
    (tmp_path / "log").write_bytes(written)
    assert deciding.tail(tmp_path / "log", 16) == read


def test_an_attempt_without_a_log_has_said_nothing(tmp_path: Path) -> None:
    assert deciding.tail(tmp_path / "log") == ""


@given(st.floats(0, 100), st.floats(-200, 200))
def test_never_more_is_waited_than_was_decided_and_never_less_than_is_left(wait: float, ago: float) -> None:
    decision = Decision(step="a", verb="retry", reason="r: why", wait_seconds=wait, at=steady.now() - ago)
    left = deciding.Deciding.rest(decision)
    assert 0 <= left <= wait
    assert left <= max(wait - ago, 0.0) or ago < 0
    assert deciding.Deciding.rest(decision.model_copy(update={"verb": "escalate"})) == 0


# --- what a resume finds ---


def trial(fingerprint: str = "f", **fields: Any) -> Trial:
    failure = Failure(cls="unknown", fingerprint=fingerprint)
    decision = Decision(step="a", verb="retry", reason="r: why", failure=failure, limits=fields.pop("limits", None))
    return Trial(**{"key": "k", "decision": decision, "start": "c0", **fields})


@pytest.mark.parametrize(
    "other",
    [{"fingerprint": "g"}, {"key": "k2"}, {"start": "c1"}, {"had": Limits(memory=2)}],
    ids=["another-failure", "other-inputs", "another-tree", "more-memory"],
)
def test_only_the_same_failure_on_the_same_inputs_is_a_repetition(other: dict[str, Any]) -> None:
    assert trial().same == trial(limits=Limits(memory=5)).same
    assert trial().same != trial(**other).same


@pytest.mark.parametrize(
    ("had", "limits", "gets"),
    [
        (None, None, None),
        (None, Limits(memory=2), Limits(memory=2)),
        (Limits(memory=2), Limits(memory=4), Limits(memory=4)),
        (Limits(memory=2), Limits(seconds=9), Limits(memory=2, seconds=9)),
        (Limits(memory=2), None, Limits(memory=2)),
    ],
)
def test_what_has_grown_stays_grown(had: Limits | None, limits: Limits | None, gets: Limits | None) -> None:
    assert trial(had=had, limits=limits).next == gets


def test_an_attempt_that_failed_before_it_had_a_log_keeps_its_number() -> None:
    failed = trial()
    numbered = Trial("k", failed.decision.model_copy(update={"attempt": 3}))
    assert Past(trials={"a": [numbered]}).tried({"a": 1, "b": 2}) == {"a": 3, "b": 2}


def test_a_report_shows_the_factors_that_say_something() -> None:
    told = {
        "attempt": 1,
        "class": "timeout",
        "growth": {"memory": None, "seconds": 2.123456},
        "health": 1.0,
        "progress": 0.123456,
        "repeated": False,
        "chance": None,
        "delays": [1.0],
        "mode": "autonomous",
        "on_failure": "skip",
    }
    assert factors.shown(told) == {
        "attempt": 1,
        "class": "timeout",
        "growth": "seconds 2.123",
        "progress": 0.1235,
        "on_failure": "skip",
    }
