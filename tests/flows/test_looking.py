"""The commands that read back: over runs that were written down by hand, so that every shape can be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.looking import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def kept(command_line: Callable[..., Any], shapes: dict[str, Callable[[], Any]]) -> Any:
    """A command line in whose state directory two runs lie, the failing one with a log of each attempt."""
    line = command_line()
    for name, status in (("single", "completed"), ("failing", "partial")):
        folder = line.home / "workflows" / f"task-{name}"
        (folder / "logs").mkdir(parents=True)
        state = shapes[name]().model_copy(update={"workflow_id": folder.name, "status": status})
        (folder / "state.json").write_text(state.model_dump_json())
        log = AuditLog(folder / "audit.jsonl")
        log.append("workflow.started", workflow=folder.name)
        log.append("workflow.finished", status=status)
        log.close()
    logs = line.folder("task-failing") / "logs"
    for number in (1, 2, 3):
        (logs / f"tests.{number}.log").write_bytes(b"attempt %d\n\xff\x00 raw\r\n" % number)
    return line


def test_list_is_newest_first_and_for_people_too(kept: Any) -> None:
    rows = kept("list", "--json").json
    assert [row["workflow_id"] for row in rows] == ["task-failing", "task-single"]
    assert set(rows[0]) == {
        "workflow_id",
        "name",
        "status",
        "reason",
        "started_at",
        "seconds",
        "completed",
        "tasks",
        "branch",
        "workspace",
    }
    assert [line.split()[0] for line in kept("list").out.splitlines()] == ["task-failing", "task-single"]


def test_an_empty_list_says_what_to_type(bare: Any) -> None:
    said = bare("list")
    assert (said.out, said.err) == ("", "no runs yet: workflowmaster run FILE\n")
    assert bare("list", "--json").json == []


def raw(line: Any, *words: str) -> bytes:
    import subprocess
    import sys
    from pathlib import Path

    env = {"WORKFLOWMASTER_HOME": str(line.home), "HOME": str(line.user_home), "PATH": "/usr/bin:/bin"}
    command = [str(Path(sys.executable).with_name("wm")), *words]
    done = subprocess.run(command, capture_output=True, check=True, env=env)
    assert done.stderr == b""
    return done.stdout


def test_a_steps_log_is_its_bytes_and_nothing_else(kept: Any) -> None:
    assert raw(kept, "logs", "failing", "--step", "tests") == b"attempt 3\n\xff\x00 raw\r\n"
    assert raw(kept, "logs", "failing", "--step", "tests", "--attempt", "1") == b"attempt 1\n\xff\x00 raw\r\n"
    assert raw(kept, "logs", "failing", "--step", "docs") == b""
    assert raw(kept, "logs", "failing").startswith(b"==> tests, attempt 1 <==\nattempt 1\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--step", "nope"],
            "task-failing has no step 'nope'; its steps are reproduce, fix, lint, tests, docs, release",
        ),
        (["--step", "tests", "--attempt", "7"], "step tests of task-failing has no attempt 7; it has 3"),
    ],
)
def test_what_has_no_log_is_named(kept: Any, words: list[str], message: str) -> None:
    said = kept("logs", "task-failing", *words)
    assert (said.code, said.out, said.err) == (2, "", f"error: {message}\n")


def test_stats_of_one_and_of_all(kept: Any) -> None:
    all_of_them, one = kept("stats", "--json").json, kept("stats", "task-failing", "--json").json
    assert (all_of_them["workflows"], one["workflows"]) == (2, 1)
    assert all_of_them["workflow_status"] == {"partial": 1, "completed": 1}
    wanted = {"total_tasks": 6, "failed_tasks": 1, "blocked_tasks": 1, "reused_tasks": 1, "autonomous_decisions": 3}
    assert {key: one[key] for key in wanted} == wanted
    assert one["retries"] == 3
    assert "container_executions" in kept("stats", "task-failing").out


def test_stats_of_nothing_are_zeros(bare: Any) -> None:
    assert counted([])["workflows"] == 0
    assert counted([])["step_seconds"] == {"p50": None, "p90": None, "p99": None}
    assert bare("stats", "--json").json["total_tasks"] == 0


def test_the_report_goes_where_it_is_wanted(kept: Any, tmp_path: Path) -> None:
    assert kept("report", "task-single", "-o", "-").out.startswith("<!doctype html>")
    assert kept("report", "task-single", "-o", tmp_path / "r.html").out == ""
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert kept("report", "task-single", "--format", "md").out.startswith("**Completed")


def test_a_report_of_a_run_without_one_is_written_on_the_spot(kept: Any) -> None:
    said = kept("report", "task-single")
    assert said.code == 0
    from pathlib import Path

    assert Path(said.out.strip()).exists()


def test_starts_are_counted_by_image_and_policy(shapes: dict[str, Callable[[], Any]]) -> None:
    def ran(image: str, policy: str, start: float | None, begin: float | None) -> Receipt:
        return Receipt(image=image, policy=policy, start_seconds=start, parked_seconds=1.0, begin_seconds=begin)

    receipts = [ran("a:1", "standard", second / 100, 0.01) for second in range(1, 101)]
    # One whose command was never reached, and one of before starts were measured.
    receipts += [
        ran("a:1", "hardened", 0.5, None),
        ran("a:1", "standard", None, None),
        ran("b:1", "standard", 0.25, 0.5),
    ]
    state = shapes["single"]()
    (name, result), *_ = state.results.items()
    state = state.model_copy(update={"results": {name: result.model_copy(update={"receipts": tuple(receipts)})}})
    starts = counted([state])["container_starts"]
    assert {name: one["count"] for name, one in starts.items()} == {
        "a:1 hardened": 1,
        "a:1 standard": 100,
        "b:1 standard": 1,
    }
    assert starts["a:1 standard"]["start_seconds"] == {"median": 0.505, "p95": 0.9505}
    assert starts["a:1 standard"]["begin_seconds"] == {"median": 0.01, "p95": 0.01}
    assert starts["a:1 hardened"]["begin_seconds"] == {"median": None, "p95": None}
    assert starts["b:1 standard"] == {
        "count": 1,
        "start_seconds": {"median": 0.25, "p95": 0.25},
        "parked_seconds": {"median": 1.0, "p95": 1.0},
        "begin_seconds": {"median": 0.5, "p95": 0.5},
    }


@pytest.mark.docker
@pytest.mark.prefect
def test_a_run_says_how_long_its_containers_took_to_be_there(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    text = "# Two\n\n## Steps\n\n### a\n```sh\ntrue\n```\n\n### b\n- needs: a\n- policy: testing\n```sh\ntrue\n```\n"
    done = wm.run(prompt_file(text), repository().path)
    assert done.code == 0, done.text
    starts = wm("stats", done.json["workflow_id"], "--json").json["container_starts"]
    assert {name: one["count"] for name, one in starts.items()} == {
        "workflowmaster/step:1 standard": 1,
        "workflowmaster/step:1 testing": 1,
    }
    for one in starts.values():
        assert 0 < one["begin_seconds"]["median"] < one["start_seconds"]["median"] < 60
    shown = wm("stats", done.json["workflow_id"]).out
    assert "workflowmaster/step:1 testing: 1 containers; median / p95 in seconds: start " in shown
