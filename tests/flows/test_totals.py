"""`get_execution_statistics`: the guide's keys, the arithmetic they promise, and nothing that raises."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks import breaker
from workflowmaster.flows import get_execution_statistics
from workflowmaster.flows.claim import take
from workflowmaster.flows.folders import UnknownWorkflow
from workflowmaster.flows.plan import Decision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ORIGINAL = {
    "total_tasks",
    "completed_tasks",
    "failed_tasks",
    "autonomous_decisions",
    "container_executions",
    "test_solver_invocations",
    "test_writer_invocations",
    "runtime_seconds",
    "current_workflow",
    "autonomous_mode",
    "github_circuit_breaker_status",
    "execution_circuit_breaker_status",
}
"""Keys of the original; the guide reads four of them."""


def test_without_a_run_everything_is_zero(home: Path) -> None:
    found = get_execution_statistics()
    assert set(found) == ORIGINAL | {"workflows"}
    assert {name for name, value in found.items() if value} == {
        "autonomous_mode",
        "github_circuit_breaker_status",
        "execution_circuit_breaker_status",
    }
    assert found["github_circuit_breaker_status"] == {"failure_count": 0, "state": "closed"}
    assert found["current_workflow"] is None


@pytest.fixture
def nine(run_of: Callable[..., Any], make: Any) -> Any:
    """Nine tasks as the original had them; the fifth goes well at its third attempt, the ninth fails."""
    steps = [make.step(str(n)) for n in range(1, 9)] + [make.step("9", kind="agent", name="Test solver")]
    made = run_of(*steps, workflow="task-nine")
    made.begin()
    for n in range(1, 10):
        attempts = 3 if n == 5 else 1
        for attempt in range(1, attempts + 1):
            made.records.append("go", step=str(n), attempt=attempt, purpose="work", container=f"c{n}.{attempt}")
            if attempt < attempts:
                made.records.append(
                    "decision",
                    **Decision(step=str(n), verb="retry", reason="r: s", attempt=attempt).model_dump(mode="json"),
                )
        receipts = [make.receipt(k, 1.0, container_id=f"c{n}.{k}") for k in range(1, attempts + 1)]
        known = {"attempts": attempts, "status": "failed" if n == 9 else "completed", "workflow": "task-nine"}
        result = make.result(str(n), *receipts, **known)
        made.records.append("result", step=str(n), reused=False, result=result.model_dump(mode="json"))
    made.close("partial")
    made.snapshot()
    return made


def test_tasks_are_tasks_and_containers_are_containers(nine: Any) -> None:
    """The original counted 8 of these as completed, 11 executions as tasks, and 7 containers."""
    found = get_execution_statistics()
    wanted = {"total_tasks": 9, "completed_tasks": 8, "failed_tasks": 1, "autonomous_decisions": 2}
    wanted |= {"container_executions": 11, "runtime_seconds": 9.0, "current_workflow": None}
    assert {key: found[key] for key in wanted} == wanted
    assert (found["test_solver_invocations"], found["test_writer_invocations"]) == (1, 0)
    assert found["workflows"]["Fix the parser"]["completed_tasks"] == 8
    assert get_execution_statistics("task-nine") == found


def test_two_runs_are_two_runs(nine: Any, run_of: Callable[..., Any]) -> None:
    other = run_of(workflow="task-other")
    other.begin()
    other.snapshot()
    with take(other.folder):
        found = get_execution_statistics()
    assert (found["total_tasks"], found["completed_tasks"], found["current_workflow"]) == (12, 8, "task-other")
    assert get_execution_statistics("task-nine")["total_tasks"] == 9


def test_breakers_are_told_as_they_are(home: Path) -> None:
    for _ in range(3):
        breaker.Breaker("github", threshold=3, seconds=60).failed("403")
    found = get_execution_statistics()
    assert found["github_circuit_breaker_status"] == {"failure_count": 3, "state": "open"}
    assert found["execution_circuit_breaker_status"]["state"] == "closed"


def test_an_id_that_nobody_has_is_said(home: Path) -> None:
    with pytest.raises(UnknownWorkflow, match="task-nobody: no such workflow"):
        get_execution_statistics("task-nobody")


def test_prefect_and_pandas_are_not_needed_for_it(home: Path) -> None:
    code = (
        "import sys; from workflowmaster.flows import get_execution_statistics; get_execution_statistics();"
        "print([name for name in ('prefect', 'docker', 'pandas', 'sklearn') if name in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout == "[]\n"
