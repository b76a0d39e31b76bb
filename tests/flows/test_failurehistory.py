"""Cases from journals: what came of a retry is told by what followed it on the same inputs, and by nothing else."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows import failurehistory
from workflowmaster.flows.failurehistory import Case
from workflowmaster.flows.folders import Folder
from workflowmaster.flows.plan import canonical

START = 1_700_000_000.0
PLAN = {"tasks": [{"id": "build", "policy": "standard", "image": "img:1", "kind": "command", "priority": "low"}]}


def record(kind: str, at: float, **fields: Any) -> bytes:
    body = canonical({"kind": kind, "at": START + at, **fields})
    return b"%08x %s\n" % (zlib.crc32(body), body)


def go(at: float, attempt: int, key: str = "k", step: str = "build") -> bytes:
    return record("go", at, step=step, attempt=attempt, key=key)


def failed(at: float, attempt: int, key: str = "k", step: str = "build", **fields: Any) -> bytes:
    failure = {"cls": "network", "fingerprint": "ab" * 8, "lines": ["curl: (6) Could not resolve host: a.example"]}
    about = {"verb": "retry", "reason": "transient: it passes", "rule": "transient", "factors": {"attempt": attempt}}
    told = {**about, "attempt": attempt, "failure": failure, **fields}
    return record("decision", at, step=step, key=key, **told)


def ended(at: float, attempts: int, status: str = "completed", key: str = "k", **fields: Any) -> bytes:
    result = {"step": "build", "key": key, "status": status, "attempts": attempts, "seconds": 90.0}
    return record("result", at, step="build", result=result, **{"reused": False, **fields})


def workflow(home: Path, *records: bytes, name: str = "task-a") -> Folder:
    path = home / "workflows" / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "plan.json").write_text(json.dumps(PLAN))
    (path / "records.jsonl").write_bytes(b"".join(records))
    return Folder(path)


def outcomes(home: Path, *records: bytes) -> list[tuple[str, float | None]]:
    return [(case.outcome, case.minutes) for case in failurehistory.cases([workflow(home, *records)])]


def test_a_case_holds_all_that_was_known(tmp_path):
    history = failurehistory.gathered([workflow(tmp_path, go(0, 1), failed(30, 1), go(60, 2), ended(150, 2))])
    (case,) = history.cases
    assert case == Case(
        workflow="task-a",
        step="build",
        fingerprint="ab" * 8,
        cls="network",
        lines=("curl: (<n>) Could not resolve host: a.example",),
        policy="standard",
        image="img:1",
        kind="command",
        priority="low",
        attempt=1,
        verb="retry",
        rule="transient",
        factors={"attempt": 1},
        outcome="succeeded",
        minutes=1.5,
        spent=0.5,
        at=START + 30,
    )


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param([go(0, 1), failed(6, 1)], ["unknown"], id="nothing came after it"),
        pytest.param([failed(6, 1), go(9, 2)], ["unknown"], id="cut short"),
        pytest.param([failed(6, 1), go(9, 2), failed(15, 2)], ["failed", "unknown"], id="failed again"),
        pytest.param([failed(6, 1), go(9, 2, "q"), failed(15, 2, "q")], ["unknown", "unknown"], id="other inputs"),
        pytest.param([failed(6, 1), ended(9, 2, key="q")], ["unknown"], id="completed on other inputs"),
        pytest.param([failed(6, 1), ended(9, 1, "failed")], ["unknown"], id="given up"),
        pytest.param([failed(6, 1), ended(9, 1, "failed"), go(20, 2), ended(30, 2)], ["succeeded"], id="resumed"),
        pytest.param([failed(6, 1), ended(9, 2, reused=True)], ["unknown"], id="came back from another run"),
        pytest.param([failed(6, 1), failed(7, 1, verb="skip")], ["unknown"], id="decided on twice"),
        pytest.param([failed(6, 1), failed(7, 1, step="test"), ended(9, 2)], ["succeeded", "unknown"], id="two steps"),
        pytest.param([failed(6, 1), ended(9, 2), failed(20, 3)], ["succeeded", "unknown"], id="failed after success"),
    ],
)
def test_only_an_attempt_on_the_same_inputs_is_an_outcome(tmp_path, records, expected):
    assert [outcome for outcome, _ in outcomes(tmp_path, *records)] == expected


def test_what_was_decided_last_about_an_attempt_is_its_decision(tmp_path):
    (case,) = failurehistory.cases([workflow(tmp_path, failed(6, 1), failed(7, 1, verb="skip", rule="late"))])
    assert (case.verb, case.rule) == ("skip", "late")


def test_the_next_attempt_s_minutes_are_counted_from_its_go(tmp_path):
    found = outcomes(tmp_path, go(0, 1), failed(60, 1), go(90, 2), failed(240, 2))
    assert found == [("failed", 2.5), ("unknown", None)]


def test_more_memory_or_time_is_another_question(tmp_path):
    folder = workflow(tmp_path, failed(6, 1, limits={"memory": 2**30, "seconds": None}), go(9, 2), ended(30, 2))
    (case,) = failurehistory.cases([folder])
    assert case.grown
    assert case.outcome == "succeeded"


@pytest.mark.parametrize(
    ("said", "chance"), [({"probability": 0.25, "cases": 9}, 0.25), (0.5, 0.5), (None, None), ("x", None)]
)
def test_the_chance_a_decision_was_given_is_kept(tmp_path, said, chance):
    (case,) = failurehistory.cases([workflow(tmp_path, failed(6, 1, factors={"chance": said}))])
    assert case.chance == chance


def test_old_decisions_are_skipped_and_counted(tmp_path):
    history = failurehistory.gathered([workflow(tmp_path, failed(6, 1, failure=None), failed(9, 2))])
    assert (len(history.cases), history.without, history.damaged) == (1, 1, 0)


@pytest.mark.parametrize(
    "bad",
    [
        b"deadbeef {}\n",
        b"\xff\xfe\n",
        record("decision", 1, step="build", failure={"cls": "moon"}),
        record("result", 1, result=7),
    ],
)
def test_damage_is_left_out_and_counted(tmp_path, bad):
    history = failurehistory.gathered([workflow(tmp_path, failed(6, 1), bad, go(9, 2), ended(30, 2))])
    assert [case.outcome for case in history.cases] == ["succeeded"]
    assert history.damaged == 1


@given(st.binary(max_size=200))
def test_no_plan_and_no_journal_breaks_reading(tmp_path_factory, data):
    folder = workflow(tmp_path_factory.mktemp("h"), failed(6, 1), data)
    folder.plan_file.write_bytes(data)
    assert len(failurehistory.cases([folder])) == 1


def test_cases_come_in_the_order_of_time(tmp_path):
    late = workflow(tmp_path, failed(90, 1), name="task-a")
    early = workflow(tmp_path, failed(10, 1), name="task-b")
    assert [case.workflow for case in failurehistory.cases([late, early])] == ["task-b", "task-a"]


# --- what is kept of them ---


def counted(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[Case]]:
    """The workflows whose journals were read, and the cases."""
    read: list[str] = []
    original = failurehistory.read
    monkeypatch.setattr(failurehistory, "read", lambda folder: read.append(folder.id) or original(folder))
    found = list(failurehistory.everything(home).cases)
    monkeypatch.setattr(failurehistory, "read", original)
    return read, found


def test_only_what_has_changed_is_read_again(tmp_path, monkeypatch):
    workflow(tmp_path, failed(6, 1), name="task-a")
    workflow(tmp_path, failed(7, 1), name="task-b")
    read, found = counted(tmp_path, monkeypatch)
    assert (read, len(found)) == (["task-a", "task-b"], 2)
    assert counted(tmp_path, monkeypatch) == ([], found)
    workflow(tmp_path, failed(7, 1), go(9, 2), ended(30, 2), name="task-b")
    read, again = counted(tmp_path, monkeypatch)
    assert read == ["task-b"]
    assert [case.outcome for case in again] == ["unknown", "succeeded"]


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-20], lambda b: b.replace(b"network", b"timeout"), lambda _: b"\x00\xffjunk\n"]
)
def test_what_is_kept_is_never_believed_when_it_is_damaged(tmp_path, monkeypatch, damage):
    workflow(tmp_path, failed(6, 1))
    _, found = counted(tmp_path, monkeypatch)
    kept = tmp_path / "learning" / "cases.jsonl"
    kept.write_bytes(damage(kept.read_bytes()))
    assert counted(tmp_path, monkeypatch) == (["task-a"], found)


def test_a_workflow_that_is_gone_is_gone(tmp_path):
    folder = workflow(tmp_path, failed(6, 1))
    assert failurehistory.everything(tmp_path).cases
    folder.journal.unlink()
    assert failurehistory.everything(tmp_path).cases == ()


def test_a_state_directory_without_runs_has_no_history(tmp_path):
    assert failurehistory.everything(tmp_path) == failurehistory.History()
    assert (tmp_path / "learning").stat().st_mode & 0o777 == 0o700
