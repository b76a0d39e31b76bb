"""The commands that read back: over runs that were written down by hand, so that every shape can be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows.audit import AuditLog

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
