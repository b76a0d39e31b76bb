"""The commands of `coach`, over the journals of runs that failed."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import cli
from workflowmaster.flows.decisions import Facts, decide
from workflowmaster.flows.journal import Journal
from workflowmaster.flows.plan import Failure, FailureClass, StepResult

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKFLOWMASTER_HOME", str(tmp_path))
    return tmp_path


def facts(cls: FailureClass = "network", fingerprint: str = "0123456789abcdef", **more: Any) -> Facts:
    known: dict[str, Any] = {
        "step": "fetch",
        "kind": "command",
        "priority": "medium",
        "mandatory": True,
        "on_failure": "auto",
        "mode": "autonomous",
        "attempt": 1,
        "most": 4,
        "stated": False,
        "failure": Failure(cls=cls, fingerprint=fingerprint, lines=("error: it broke",)),
    }
    return Facts(**{**known, **more})


def run(home: Path, name: str, *failures: Facts, seconds: float | None = None) -> None:
    """Leave the journal of a run one step of which failed so often, and then completed if it took any seconds."""
    folder = home / "workflows" / name
    folder.mkdir(parents=True)
    journal = Journal(folder / "records.jsonl")
    for one in failures:
        journal.append("decision", key="k", **decide(one).model_dump(mode="json"))
    if seconds is not None:
        result = StepResult(step="fetch", status="completed", key="k", attempts=len(failures) + 1, seconds=seconds)
        journal.append("result", step="fetch", reused=False, result=result.model_dump(mode="json"))
    journal.close()


def command(*words: str) -> int:
    return cli.main(["coach", *words])


def test_a_backtest_is_a_table_of_the_ways(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(home, "task-1", facts(), seconds=90.0)
    run(home, "task-2", facts(), facts(attempt=2), seconds=60.0)
    run(home, "task-3", facts("test_failure"))
    assert command("backtest") == 0
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [
        ["retries", "saved", "broken", "useful", "wasted", "spared", "beyond"],
        ["rules", "3", "2", "0", "2.5", "0.0", "0.0", "0"],
        ["rules", "+", "learned", "3", "2", "0", "2.5", "0.0", "0.0", "0"],
        ["always", "retry", "3", "2", "0", "2.5", "0.0", "0.0", "1"],
        ["never", "retry", "0", "0", "2", "0.0", "0.0", "0.0", "0"],
        ["original", "2", "1", "1", "1.5", "0.0", "0.0", "0"],
    ]
    assert len({len(line) for line in out.splitlines()}) == 1
    assert "4 failed attempts; of 3 it is known what the next attempt came to\n" in err
    assert "nothing learned has a say yet" in err
    assert "beyond: attempts it would make that nobody made" in err


def test_a_backtest_in_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(home, "task-1", facts(), seconds=90.0)
    assert command("backtest", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["failures"], found["known"], found["steps"]) == (1, 1, 1)
    assert found["scores"][0] == {
        "way": "rules",
        "retries": 1,
        "saved": 1,
        "broken": 0,
        "wasted_minutes": 0.0,
        "useful_minutes": 1.5,
        "spared_minutes": 0.0,
        "beyond": 0,
    }


def test_without_failures_it_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("backtest") == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "no step has failed yet, so there is nothing to replay\n")


def test_what_is_left_out_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(home, "task-1", facts(budget_spent="62 of 60 minutes are used"))
    old = decide(facts()).model_dump(mode="json") | {"factors": {"attempt": 1, "max": 3}}
    folder = home / "workflows" / "task-2"
    folder.mkdir()
    journal = Journal(folder / "records.jsonl")
    journal.append("decision", key="k", **old)
    journal.close()
    command("backtest")
    err = capsys.readouterr().err
    assert "1 were decided by an older version, which did not record by what" in err
    assert "1 left no choice: a budget was spent, or a service was down" in err


def test_the_family_says_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("--help")
    assert "backtest" in capsys.readouterr().out
    assert isinstance(cli.parser().parse_args(["coach", "--json", "backtest"]), argparse.Namespace)
