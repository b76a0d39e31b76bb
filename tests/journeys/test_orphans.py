"""Runs that are killed for real: seen at once, resumed once however many try, and marked on the server by itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from workflowmaster.flows.embedded import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

# Its second step does not end in its first attempt; each attempt leaves a mark that no tree takes back.
PROMPT = """\
---
name: Die on me
---
# Die on me

## Steps

### before
```bash
echo before > before.txt
```

### hangs
- needs: before
- timeout: 120s
```bash
echo working
[ "$WM_ATTEMPT" != 1 ] || sleep 600
echo done > done.txt
```
"""

RECOVER = """
import asyncio, json
from workflowmaster.flows.maintenance import recover_orphans
print(json.dumps(asyncio.run(recover_orphans())))
"""


@pytest.fixture
def line(command_line: Callable[..., Any], prefect_server: Any) -> Any:
    """A user of the session's server, with one run only."""
    return command_line(PREFECT_API_URL=prefect_server.url)


def hanging(line: Any, running: Any, wait_until: Callable[..., Any]) -> Path:
    """The log of the step that hangs, once it does."""

    def works() -> list[Path]:
        assert running.process.poll() is None, running.ended().text
        return [log for log in (line.home / "workflows").glob("*/logs/hangs.1.log") if log.read_text() == "working\n"]

    log: Path = wait_until(works, 120.0)[0]
    return log


@pytest.fixture
def killed(
    line: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
    own_orphans: Callable[[Any], list[dict[str, Any]]],
) -> str:
    """A run whose process was killed while its second step worked: the workflow's id."""
    running = line.start("run", prompt_file(PROMPT), "--workspace", repository().path, "-q")

    log = hanging(line, running, wait_until)
    assert own_orphans(line) == [], "it lives"
    running.interrupt(signal.SIGSTOP)
    assert own_orphans(line) == [], "it is only stopped"
    running.interrupt(signal.SIGKILL)
    running.ended()
    return str(log.parents[1].name)


def stop_its_container(workflow: str) -> None:
    """End the step that hangs: whoever resumes would take it over, and wait."""
    subprocess.run(["docker", "kill", f"{workflow}-hangs-1"], check=True, capture_output=True)


def recover(line: Any) -> list[dict[str, Any]]:
    """Run the flow in a process of its own, as a worker does."""
    env = {**os.environ, **line.env, "WORKFLOWMASTER_HOME": str(line.home), "HOME": str(line.user_home)}
    done = subprocess.run([sys.executable, "-c", RECOVER], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def flow_run(line: Any) -> str:
    return str(json.loads((line.folder() / "run.json").read_text())["flow_run_id"])


def test_a_killed_run_is_an_orphan_at_once_and_two_recoveries_resume_it_once(
    line: Any,
    killed: str,
    prefect_server: Any,
    wait_until: Callable[..., Any],
    containers: Callable[..., list[str]],
    own_orphans: Callable[[Any], list[dict[str, Any]]],
) -> None:
    (orphan,) = own_orphans(line)
    assert (orphan["workflow_id"], orphan["name"], orphan["resumable"]) == (killed, "Die on me", True)
    assert (orphan["progress"], orphan["reason"].endswith("is dead; 1 of 2 steps done")) == (0.5, True), orphan
    assert f"workflowmaster resume {killed}" in line("orphans").out
    stop_its_container(killed)
    said: list[list[dict[str, Any]]] = []
    both = [threading.Thread(target=lambda: said.append(recover(line))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    actions = sorted(x["action"] for done in said for x in done if x["workflow_id"] == killed)
    assert actions in (["held", "resumed"], ["resumed"]), said
    wait_until(lambda: line("list", "--json").json[0]["status"] == "completed", 90.0)
    records = [json.loads(text) for text in (line.folder() / "audit.jsonl").read_text().splitlines()]
    assert sum(record["event"] == "workflow.started" for record in records) == 2, "the first part, and one resume"
    run = flow_run(line)
    wait_until(lambda: prefect_server.get(f"/flow_runs/{run}")["state_type"] == "COMPLETED", 60.0)
    rows = prefect_server.tasks(run, count=2)
    assert {row["state_type"] for row in rows} <= {"COMPLETED", "CRASHED"}, "no row stays open"
    assert own_orphans(line) == []
    assert containers(killed) == []
    keys = [one["key"] for one in prefect_server.post("/artifacts/filter", {"artifacts": {}})]
    assert "recover-orphans" in keys


@pytest.mark.long
def test_the_folder_elsewhere_is_told_and_not_resumable(
    line: Any, killed: str, command_line: Callable[..., Any], prefect_server: Any
) -> None:
    """Another state directory sees the dead run on the server only once it has been silent for long enough."""
    other = command_line(PREFECT_API_URL=prefect_server.url)
    assert killed not in [one["workflow_id"] for one in other("orphans", "--json").json]
    assert line("cancel", killed).code == 0


@pytest.fixture
def real_server(tmp_path: Path, wait_until: Callable[..., Any]) -> Iterator[str]:
    """A server as `prefect server start` starts it: only such a one looks at proactive automations."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    env = {**os.environ, **environment(tmp_path)}
    env |= {"HOME": str(tmp_path), "PREFECT_UI_ENABLED": "0"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    (tmp_path / "prefect").mkdir()
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "server.log").read_text()
        with suppress(OSError), urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    try:
        wait_until(answers, 120.0)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.long
def test_the_automation_marks_a_killed_run_and_another_machine_lists_one(
    real_server: str,
    command_line: Callable[..., Any],
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> None:
    """Two runs are killed: one before the automation was installed, which only `orphans` can find. Takes minutes."""
    other = command_line(PREFECT_API_URL=real_server)

    def dead() -> tuple[Any, str]:
        line = command_line(PREFECT_API_URL=real_server)
        running = line.start("run", prompt_file(PROMPT), "--workspace", repository().path, "-q")
        log = hanging(line, running, wait_until)
        running.interrupt(signal.SIGKILL)
        running.ended()
        return line, log.parents[1].name

    def state(line: Any) -> dict[str, Any]:
        with urlopen(f"{real_server}/flow_runs/{flow_run(line)}", timeout=30) as answer:
            found: dict[str, Any] = json.loads(answer.read())["state"]
        return found

    first, unseen = dead()
    said = other("init").out
    assert "automation     installed  workflowmaster: runs whose heartbeat stopped" in said
    second, seen = dead()
    wait_until(lambda: state(second)["type"] == "CRASHED", 240.0)
    assert "no heartbeat for 90 s" in state(second)["message"]
    listed = {one["workflow_id"]: one for one in other("orphans", "--json").json}
    assert set(listed) == {unseen}, "the other one has ended on the server"
    assert "its folder is not in this state directory" in listed[unseen]["reason"]
    assert listed[unseen]["age_seconds"] > 90
    for line, workflow in ((first, unseen), (second, seen)):
        assert [one["workflow_id"] for one in line("orphans", "--json").json] == [workflow]
        assert line("cancel", workflow).code == 0
