"""What a run's end becomes: the answer in JSON, the exit code, and the flow run's state in the Prefect UI."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

import pytest

from workflowmaster.flows import report, running
from workflowmaster.flows.plan import Account, WorkflowStatus

if TYPE_CHECKING:
    from collections.abc import Callable


def test_every_status_has_an_exit_code() -> None:
    assert set(running.EXITS) == set(get_args(WorkflowStatus))


@pytest.mark.parametrize(
    ("status", "infrastructure", "code"),
    [
        ("completed", False, 0),
        ("completed", True, 0),
        ("partial", False, 1),
        ("failed", False, 1),
        ("aborted", False, 1),
        ("waiting", False, 3),
        ("failed", True, 4),
        ("partial", True, 4),
    ],
)
def test_exit_codes(shapes: dict[str, Callable[[], Any]], status: str, infrastructure: bool, code: int) -> None:
    state = shapes["single"]().model_copy(update={"status": status})
    assert running.exit_code(state, infrastructure=infrastructure) == code
    # What a policy refused goes before every other reason, but not before success.
    assert running.exit_code(state, infrastructure=infrastructure, refused=True) == (5 if status != "completed" else 0)


@pytest.mark.parametrize(
    ("status", "over", "code"),
    [("paused", (), 3), ("paused", ("minutes",), 6), ("paused", ("a:usd",), 6), ("failed", ("minutes",), 4)],
)
def test_a_run_that_its_budget_stopped_says_so_and_names_the_command(
    shapes: dict[str, Callable[[], Any]], status: str, over: tuple[str, ...], code: int
) -> None:
    budget = Account(limit={"minutes": 5, "a:usd": 1}, spent={"minutes": 5.01, "a:usd": 1.2}, over=over)
    state = shapes["single"]().model_copy(update={"status": status, "budget": budget})
    # A run that somebody else has paused is judged as ever.
    assert running.exit_code(state, infrastructure=False) == (code if status == "paused" else 1)
    assert running.exit_code(state, infrastructure=True) == (6 if code == 6 else 4)
    assert running.exit_code(state, infrastructure=True, refused=True) == 5
    assert running.answer(state)["budget"]["over"] == list(over)
    assert "5.01 of 5 minutes, a: 1.2 of 1 usd" in report.html(state, {})
    assert "5.01 of 5 minutes, a: 1.2 of 1 usd" in report.markdown(state, {})
    assert ("--budget" in report.markdown(state, {})) == (code == 6)


def test_the_answer_of_any_run_is_json_with_the_same_keys(shape: Any) -> None:
    answer = running.answer(shape)
    again = json.loads(json.dumps(answer))
    assert again == answer
    assert len(answer["tasks"]) == len(shape.plan.tasks)
    assert {frozenset(task) for task in answer["tasks"]} == {
        frozenset(
            [
                "id",
                "status",
                "attempts",
                "exit_code",
                "seconds",
                "reused",
                "policy",
                "container_id",
                "oom_killed",
                "timed_out",
                "outputs",
                "artifacts",
                "reason",
            ]
        )
    }


def test_the_answer_says_what_each_step_did(failed_state: Any) -> None:
    answer = running.answer(failed_state)
    tasks = {task["id"]: task for task in answer["tasks"]}
    assert tasks["reproduce"]["reused"] is True
    assert (tasks["tests"]["attempts"], tasks["tests"]["exit_code"], tasks["tests"]["status"]) == (3, 1, "failed")
    assert (tasks["release"]["attempts"], tasks["release"]["container_id"]) == (1, None)
    assert tasks["fix"]["outputs"] == {"version": "2.0.1", "files": "3"}
    assert answer["pull_request"] is None, "what is not there is null"
    assert [decision["verb"] for decision in answer["decisions"]] == ["retry", "retry", "abort"]


@pytest.mark.parametrize(
    ("status", "kind", "name"),
    [
        ("completed", "COMPLETED", "Completed"),
        ("partial", "FAILED", "StepsFailed"),
        ("failed", "FAILED", "Failed"),
        ("aborted", "CANCELLED", "Aborted"),
        ("waiting", "PAUSED", "WaitingForPerson"),
    ],
)
def test_every_end_has_its_state_in_the_ui(
    shapes: dict[str, Callable[[], Any]], status: str, kind: str, name: str
) -> None:
    from workflowmaster.flows.delivery import final_state

    state = final_state(shapes["single"]().model_copy(update={"status": status, "reason": "because"}))
    assert (state.type.value, state.name, state.message) == (kind, name, "because")
