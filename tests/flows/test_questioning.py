"""When a run asks, when it asks anew, and when it takes a question back: with real records and a real audit log."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import questioning
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.folders import Folder
from workflowmaster.flows.journal import Journal, read
from workflowmaster.flows.past import Past, past
from workflowmaster.flows.plan import Decision, Limits, StepResult
from workflowmaster.flows.questions import UNAPPROVED, Answer
from workflowmaster.flows.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 2**20
FAILED = "it failed and asks for a person: exit 1"
FAILURE = {"cls": "unknown", "fingerprint": "0" * 16, "lines": ("ValueError: no",)}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What automations would hear; that the server hears it, the journeys hold."""
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(questioning, "_emit", lambda _run, event, payload: heard.append({"event": event, **payload}))
    return heard


@pytest.fixture
def begun(home: Path, tmp_path: Path, make: Any) -> Iterator[Callable[..., Any]]:
    """A run in progress of `a`, and `b` after it, as far as asking looks at it."""
    del home
    opened: list[Any] = []

    def one(**settings: Any) -> Any:
        steps = [make.step("a"), make.step("b", "a")]
        folder = Folder(tmp_path / "task-1")
        folder.path.mkdir()
        run = SimpleNamespace(
            id="task-1",
            folder=folder,
            plan=make.plan(*steps),
            steps={step.id: step for step in steps},
            settings=Settings(**settings),
            past=Past(),
            journal=Journal(folder.journal),
            audit=AuditLog(folder.audit),
            policies={step.id: SimpleNamespace(memory=64 * MIB) for step in steps},
            record=SimpleNamespace(approvals={}, flow_run_id="f"),
            results={"a": make.result("a", commit="c1")},
            decisions=[],
            grown={},
            caps={"b": Limits(memory=512 * MIB, seconds=600.0)},
            inputs={},
            keys={},
            store=SimpleNamespace(base="base"),
            claim=SimpleNamespace(epoch=1),
        )
        opened.append(run)
        return run

    yield one
    for run in opened:
        run.journal.close()
        run.audit.close()


def end(run: Any, status: str, reason: str = "") -> None:
    result = StepResult.model_validate({"step": "b", "status": status, "key": "k", "reason": reason, "attempts": 2})
    questioning.settle(run, run.steps["b"], result)


def test_a_failure_is_asked_about_once_with_all_that_is_known(begun: Any, told: list[dict[str, Any]]) -> None:
    run = begun(approval_timeout_hours=2, approval_timeout_action="abort")
    run.grown = {"b": Limits(memory=128 * MIB)}
    factors = {"dependants_run": False}
    decided = {"step": "b", "verb": "escalate", "reason": "r", "failure": FAILURE, "factors": factors}
    run.decisions = [Decision.model_validate(decided)]
    end(run, "waiting", FAILED)
    end(run, "waiting", FAILED)
    (one,) = run.past.book.open
    assert (one.number, one.sort, one.why, one.lines, one.attempts) == (1, "escalation", FAILED, ("ValueError: no",), 2)
    assert (one.had, one.most) == (Limits(memory=128 * MIB, seconds=300.0), run.caps["b"])
    assert (one.dependants_run, one.inputs, one.otherwise) == (False, {"a": "c1"}, "abort")
    assert one.due == pytest.approx(one.asked_at + 7200)
    # Whoever reads the records has the same book.
    assert past(run.folder.journal).book.open == [one]
    assert [(event["event"], event["number"], event["verbs"][0]) for event in told] == [(questioning.EVENT, 1, "retry")]
    logged = [json.loads(line)["event"] for line in run.folder.audit.read_text().splitlines()]
    assert logged.count("question.asked") == 1


def test_an_approval_is_asked_for_without_a_word_of_failure(begun: Any, told: list[dict[str, Any]]) -> None:
    run = begun()
    run.steps["b"] = run.steps["b"].model_copy(update={"approval": True, "description": "It publishes\n\neverything."})
    end(run, "waiting", f"{UNAPPROVED}: workflowmaster approve task-1 --step b")
    (one,) = run.past.book.open
    assert (one.sort, one.why, one.due, one.most) == ("approval", "It publishes everything.", None, Limits())
    assert told[0]["sort"] == "approval"


def test_who_waits_for_others_asks_nothing(begun: Any, told: list[dict[str, Any]]) -> None:
    run = begun()
    end(run, "waiting", "it needs a, which is waiting")
    assert (run.past.book.asked, told) == ({}, [])


@pytest.mark.parametrize(("status", "left"), [("completed", []), ("failed", []), ("skipped", []), ("waiting", [1])])
def test_a_step_that_ended_after_all_has_no_question(
    begun: Any, told: list[dict[str, Any]], status: str, left: list[int]
) -> None:
    run = begun()
    end(run, "waiting", FAILED)
    end(run, status, FAILED)
    assert [one.number for one in run.past.book.open] == left
    assert [one.number for one in past(run.folder.journal).book.open] == left
    assert len(told) == 1


def test_with_other_inputs_it_is_another_question(begun: Any, told: list[dict[str, Any]], make: Any) -> None:
    run = begun()
    end(run, "waiting", FAILED)
    run.results["a"] = make.result("a", commit="c2")
    end(run, "waiting", FAILED)
    assert [(one.number, one.inputs) for one in run.past.book.open] == [(2, {"a": "c2"})]
    assert "question.withdrawn" in run.folder.audit.read_text()
    assert [one["number"] for one in told] == [1, 2]


def test_an_abort_makes_its_step_fail_and_names_who_wanted_it(begun: Any, told: list[dict[str, Any]]) -> None:
    run = begun()
    assert questioning.aborted(run) == ""
    end(run, "waiting", FAILED)
    answer = Answer(question=1, step="b", verb="abort", by="ada", note="wrong branch", at=1.0)
    questioning.write_down(answer, run.journal, run.audit)
    run.past.book.write(answer)
    assert questioning.aborted(run) == "step b: aborted by ada: wrong branch"
    assert run.results["b"].status == "failed"
    (kept,) = read(run.folder.journal).of("result")
    assert kept.fields["result"]["reason"] == "aborted by ada: wrong branch"
    assert len(told) == 1


@pytest.mark.parametrize(("status", "shown"), [("waiting", True), ("paused", True), ("failed", False)])
def test_what_is_asked_lies_beside_the_run_while_it_waits(
    begun: Any, told: list[dict[str, Any]], status: Any, *, shown: bool
) -> None:
    run = begun()
    end(run, "waiting", FAILED)
    questioning.publish(run, status)
    path = run.folder.path / "questions.md"
    assert path.exists() is shown
    assert not shown or "`b` failed. What now?" in path.read_text()
    assert len(told) == 1
