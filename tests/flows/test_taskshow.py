"""The command `tasks`: how the tasks of a run stand, whoever works on it or does not any more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import cli
from workflowmaster.flows.claim import take
from workflowmaster.flows.plan import Decision

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def halfway_there(run_of: Callable[..., Any], make: Any) -> Any:
    """`a` is done, `b` waits an hour for its second attempt, `c` needs it, `d` runs."""
    made = run_of(make.step("a"), make.step("b", "a"), make.step("c", "b"), make.step("d", "a"))
    made.begin()
    made.settle("a")
    for name in "bd":
        made.records.append("keys", step=name, key=name, parts={})
    decision = Decision(step="b", verb="retry", reason="rule: network", wait_seconds=3600, attempt=1)
    made.records.append("decision", key="b", **decision.model_dump(mode="json"))
    made.snapshot()
    return made


def test_of_a_run_under_way(halfway_there: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with take(halfway_there.folder):
        assert cli.main(["tasks"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert cli.main(["tasks", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
    assert lines[0] == "task-kept: running; 4 steps: 1 completed, 1 running, 1 retrying, 1 pending"
    assert [line.split()[1:2] for line in lines[1:]] == [["completed"], ["retrying"], ["pending"], ["running"]]
    assert "next attempt at " in lines[2]
    assert lines[2].endswith(": network")
    assert lines[3].endswith("c  after b")
    assert (found["worked_on"], found["counts"]) == (True, {"completed": 1, "in_progress": 2, "pending": 1})
    rows = {task["id"]: task for task in found["tasks"]}
    assert rows["b"]["next_attempt_at"] - rows["b"]["next_attempt_at"] % 1 > 1.7e9
    assert rows["b"]["decision"] == {"verb": "retry", "reason": "rule: network"}
    assert (rows["c"]["behind"], rows["d"]["state"], rows["a"]["decision"]) == (["b"], "in_progress", None)


def test_of_a_run_that_was_killed(halfway_there: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "task-kept"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "task-kept: running, but nobody works on it; 4 steps: 1 completed, 3 pending"


def test_of_a_run_that_nobody_knows(halfway_there: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "task-other"]) == 2
    assert "task-other: no such workflow" in capsys.readouterr().err
