"""Cancel and pause, from everywhere: the containers are gone within five seconds, and the run can go on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

# In its first attempt it does not end by itself, whatever it is asked; later it does.
PROMPT = """\
---
name: Stop me
---
# Stop me

## Steps

### before
```bash
echo before > before.txt
```

### deaf
- needs: before
```bash
trap '' TERM
echo working
[ "$WM_ATTEMPT" != 1 ] || sleep 60
echo deaf > deaf.txt
```

### after
- needs: deaf
```bash
echo after > after.txt
```
"""

WITHIN = 5.0
"""Seconds in which the containers must be gone, by the issue."""
PREFECT = Path(sys.executable).with_name("prefect")


def working(line: Any, wait_until: Callable[..., Any], running: Any = None) -> str:
    """The id of this user's only run, once its deaf step works."""

    def found() -> list[Path]:
        assert running is None or running.process.poll() is None, running.ended().text
        logs = (line.home / "workflows").glob("*/logs/deaf.1.log")
        return [log for log in logs if log.read_text() == "working\n"]

    return str(wait_until(found, 90.0)[0].parents[1].name)


def running_ones(workflow: str) -> list[str]:
    """Containers of the workflow in which something runs."""
    command = ["docker", "ps", "--format", "{{.Names}}", "--filter", f"label=workflowmaster.workflow={workflow}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def gone_after(workflow: str, asked: float, wait_until: Callable[..., Any]) -> float:
    """Seconds from the asking until no container of the workflow ran."""
    wait_until(lambda: not running_ones(workflow), 60.0)
    return time.monotonic() - asked


def events(folder: Path) -> dict[str, dict[str, Any]]:
    """Event → the last audit record of it."""
    return {record["event"]: record for record in map(json.loads, (folder / "audit.jsonl").read_text().splitlines())}


def goes_on(line: Any, repo: Any, workflow: str) -> None:
    """Hold that `resume` ends the run, with what was done before and nothing left out."""
    again = line("resume", workflow, "--json", "-q")
    assert (again.code, again.json["status"]) == (0, "completed"), again.text
    reused = {task["id"]: task["reused"] for task in again.json["tasks"]}
    assert reused == {"before": True, "deaf": False, "after": False}
    assert repo.files(f"workflowmaster/{workflow}").keys() >= {"before.txt", "deaf.txt", "after.txt"}


@pytest.fixture(scope="module")
def prompt(prompt_file: Callable[..., Path]) -> Path:
    return prompt_file(PROMPT)


@pytest.fixture
def line(command_line: Callable[..., Any], prefect_server: Any) -> Any:
    """A user of the session's server with one run only."""
    return command_line(PREFECT_API_URL=prefect_server.url)


# --- by the command line ---


@pytest.mark.parametrize(
    ("verb", "status", "code"), [("cancel", "aborted", 1), pytest.param("pause", "paused", 3, marks=pytest.mark.long)]
)
def test_the_command_stops_a_run_without_a_server_and_resume_goes_on(
    verb: str,
    status: str,
    code: int,
    command_line: Callable[..., Any],
    prompt: Path,
    repository: Callable[..., Any],
    wait_until: Callable[..., Any],
    containers: Callable[..., list[str]],
) -> None:
    line, repo = command_line(), repository()
    running = line.start("run", prompt, "--workspace", repo.path, "--json", "-q")
    workflow = working(line, wait_until, running)
    asked = time.monotonic()
    asking = line.start(verb, workflow, "--json")
    seconds = gone_after(workflow, asked, wait_until)
    said, answer = running.ended(60.0), asking.ended(60.0)
    assert seconds < WITHIN
    assert (said.code, said.json["status"]) == (code, status)
    who = answer.json["reason"]
    assert answer.code == 0
    assert answer.json == {"workflow_id": workflow, "status": status, "reason": who, "completed": 1, "tasks": 3}
    assert said.json["reason"] == who
    assert who.endswith(" on the command line")
    told = events(line.folder())["workflow.cancelled" if verb == "cancel" else "workflow.paused"]
    assert who.endswith(told["by"])
    assert containers(workflow) == []
    assert not (line.folder() / "asked.json").exists()
    assert line("orphans", "--json").json == []
    goes_on(line, repo, workflow)


@pytest.mark.long
def test_what_has_ended_cannot_be_stopped_and_a_paused_run_can_be_closed(
    command_line: Callable[..., Any], prompt: Path, repository: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    line = command_line()
    running = line.start("run", prompt, "--workspace", repository().path, "-q")
    workflow = working(line, wait_until, running)
    assert line("pause", "latest").code == 0
    assert running.ended(60.0).code == 3
    again = line("pause", workflow)
    assert (again.code, "nobody works on it, so there is nothing to pause" in again.err) == (2, True), again.text
    closed = line("cancel", workflow, "--json")
    assert (closed.code, closed.json["status"]) == (0, "aborted"), closed.text
    late = line("cancel", workflow)
    assert (late.code, "has ended before (aborted)" in late.err) == (2, True), late.text
    assert line("cancel", "task-nobody").code == 2


def test_an_orphan_is_closed_with_its_containers(
    line: Any,
    prompt: Path,
    prefect_server: Any,
    repository: Callable[..., Any],
    wait_until: Callable[..., Any],
    containers: Callable[..., list[str]],
    own_orphans: Callable[[Any], list[dict[str, Any]]],
) -> None:
    running = line.start("run", prompt, "--workspace", repository().path, "-q")
    workflow = working(line, wait_until, running)
    running.interrupt(signal.SIGKILL)
    running.ended()
    state = json.loads((line.folder() / "state.json").read_text())
    flow_run = json.loads((line.folder() / "run.json").read_text())["flow_run_id"]
    assert state["status"] == "running"
    assert f"{workflow}-deaf-1" in running_ones(workflow)
    closed = line("cancel", workflow, "--json")
    assert (closed.code, closed.json["status"]) == (0, "aborted"), closed.text
    assert containers(workflow) == []
    row = prefect_server.get(f"/flow_runs/{flow_run}")
    assert (row["state_type"], row["state_name"]) == ("CANCELLED", "Aborted")
    assert prefect_server.tasks(flow_run, count=2)
    assert own_orphans(line) == []


# --- through the server, as its UI does ---


def suspended() -> dict[str, Any]:
    """What the UI sends for its button Pause."""
    until = (datetime.now(UTC) + timedelta(seconds=300)).isoformat()
    details = {"pause_timeout": until, "pause_reschedule": True, "deferred": False, "untrackable_result": False}
    return {"state": {"type": "PAUSED", "name": "Suspended", "state_details": details}, "force": True}


ASKED = {
    "cancel": lambda: {"state": {"type": "CANCELLING", "message": "enough"}},
    "cancelled": lambda: {"state": {"type": "CANCELLED"}, "force": True},
    "pause": suspended,
}


@pytest.mark.parametrize(
    ("asked", "status", "code", "row"),
    [
        ("cancel", "aborted", 1, "CANCELLED"),
        pytest.param("cancelled", "aborted", 1, "CANCELLED", marks=pytest.mark.long),
        ("pause", "paused", 3, "PAUSED"),
    ],
)
def test_the_server_stops_a_plain_run(
    asked: str,
    status: str,
    code: int,
    row: str,
    line: Any,
    prompt: Path,
    prefect_server: Any,
    repository: Callable[..., Any],
    wait_until: Callable[..., Any],
    containers: Callable[..., list[str]],
) -> None:
    repo = repository()
    running = line.start("run", prompt, "--workspace", repo.path, "--json", "-q")
    workflow = working(line, wait_until, running)
    flow_run = json.loads((line.folder() / "run.json").read_text())["flow_run_id"]
    began = time.monotonic()
    prefect_server.post(f"/flow_runs/{flow_run}/set_state", ASKED[asked]())
    seconds = gone_after(workflow, began, wait_until)
    said = running.ended(60.0)
    assert seconds < WITHIN
    assert (said.code, said.json["status"]) == (code, status), said.text
    assert "by the Prefect server" in said.json["reason"]
    assert ("(enough)" in said.json["reason"]) == (asked == "cancel")
    assert prefect_server.get(f"/flow_runs/{flow_run}")["state_type"] == row
    assert containers(workflow) == []
    goes_on(line, repo, workflow)
    assert prefect_server.get(f"/flow_runs/{flow_run}")["state_type"] == "COMPLETED"


@pytest.mark.parametrize("verb", [pytest.param("cancel", marks=pytest.mark.long), "pause"])
def test_the_command_stops_a_run_of_another_machine_through_the_server(
    verb: str,
    line: Any,
    command_line: Callable[..., Any],
    prompt: Path,
    prefect_server: Any,
    repository: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    other = command_line(PREFECT_API_URL=prefect_server.url)
    running = line.start("run", prompt, "--workspace", repository().path, "--json", "-q")
    workflow = working(line, wait_until, running)
    answer = other(verb, workflow, "--json")
    assert (answer.code, answer.json["workflow_id"]) == (0, workflow), answer.text
    assert running_ones(workflow) == []
    assert running.ended(60.0).json["status"] == answer.json["status"]
    assert other("cancel", "task-20250101-000000-00000000").code == 2


# --- under a worker ---


def prefect(line: Any, folder: Path, *words: str, process: bool = False) -> Any:
    """Run Prefect's own command line, or start it."""
    env = {
        "PATH": f"{PREFECT.parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(line.user_home),
        "PREFECT_HOME": str(line.home / "prefect"),
        "PREFECT_API_URL": line.env["PREFECT_API_URL"],
        "WORKFLOWMASTER_HOME": str(line.home),
    }
    if process:
        log = (folder / "worker.log").open("w")
        return subprocess.Popen([PREFECT, *words], cwd=folder, env=env, stdout=log, stderr=log)
    done = subprocess.run(
        [PREFECT, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextmanager
def worker(line: Any, folder: Path, pool: str) -> Iterator[Any]:
    """A process worker that lives for a while."""
    one = prefect(line, folder, "worker", "start", "--pool", pool, "--type", "process", process=True)
    try:
        yield one
    finally:
        one.terminate()
        try:
            one.wait(20)
        except subprocess.TimeoutExpired:
            one.kill()
            one.wait()


@pytest.fixture
def deployment(line: Any, prompt: Path, prefect_server: Any, tmp_path: Path) -> tuple[str, str]:
    """The prompt, compiled and deployed: the deployment's id and its pool."""
    pool = f"stops-{tmp_path.name}".lower().replace("_", "-")
    (tmp_path / "stop_me.md").write_text(PROMPT)
    assert line("compile", tmp_path / "stop_me.md", "-o", tmp_path).code == 0
    prefect(line, tmp_path, "work-pool", "create", pool, "--type", "process")
    prefect(line, tmp_path, "--no-prompt", "deploy", "stop_me.py:stop_me", "--name", pool, "--pool", pool)
    return prefect_server.get(f"/deployments/name/Stop%20me/{pool}")["id"], pool


@pytest.mark.parametrize(
    ("asked", "status", "row"),
    [("cancel", "aborted", "CANCELLED"), pytest.param("pause", "paused", "PAUSED", marks=pytest.mark.long)],
)
def test_the_server_stops_a_run_under_a_worker_and_a_resume_goes_on(
    asked: str,
    status: str,
    row: str,
    line: Any,
    deployment: tuple[str, str],
    prefect_server: Any,
    tmp_path: Path,
    repository: Callable[..., Any],
    wait_until: Callable[..., Any],
    containers: Callable[..., list[str]],
) -> None:
    repo = repository()
    with worker(line, tmp_path, deployment[1]):
        given = {"parameters": {"workspace": str(repo.path)}}
        flow_run = prefect_server.post(f"/deployments/{deployment[0]}/create_flow_run", given)["id"]
        workflow = working(line, wait_until)
        began = time.monotonic()
        prefect_server.post(f"/flow_runs/{flow_run}/set_state", ASKED[asked]())
        seconds = gone_after(workflow, began, wait_until)
        assert seconds < WITHIN
        wait_until(lambda: prefect_server.get(f"/flow_runs/{flow_run}")["state_type"] == row, 60.0)
        wait_until((line.folder() / "report.html").exists, 60.0)
        states = {one["workflow_id"]: one for one in line("list", "--json").json}
        assert states[workflow]["status"] == status
        assert "by the Prefect server" in states[workflow]["reason"]
        assert containers(workflow) == []
        if asked == "pause":
            # The UI's button Resume: the worker starts the same flow run again.
            prefect_server.post(f"/flow_runs/{flow_run}/resume", {})
            over = ("COMPLETED", "FAILED", "CRASHED")
            wait_until(lambda: prefect_server.get(f"/flow_runs/{flow_run}")["state_type"] in over, 90.0)
            assert prefect_server.get(f"/flow_runs/{flow_run}")["state_type"] == "COMPLETED"
            assert [path.name for path in (line.home / "workflows").iterdir()] == [workflow]
            assert "deaf.txt" in repo.files(f"workflowmaster/{workflow}")
        else:
            goes_on(line, repo, workflow)
