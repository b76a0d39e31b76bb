"""Runs that are stopped: by Ctrl-C, by SIGTERM, by `kill -9`, by somebody who kills a container; and what resumes them.

A step says in its log that it works; only then is it stopped, so nothing here depends on how fast a machine is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
# Sleep in the middle

## Steps

### before
```bash
echo before > before.txt
mkdir -p .venv && echo kept > .venv/kept
```

### middle
- needs: before
```bash
echo working
sleep 3
echo middle > middle.txt
```

### after
- needs: middle
```bash
cat before.txt middle.txt .venv/kept
```
"""

SOON = 5.0
"""Seconds within which an interrupted run must be gone, containers and all."""

Answer = dict[str, Any]


def by_id(answer: Answer) -> dict[str, Answer]:
    return {task["id"]: task for task in answer["tasks"]}


def state_of(folder: Path) -> Answer:
    state: Answer = json.loads((folder / "state.json").read_text())
    return state


@pytest.fixture
def working(
    repository: Callable[..., Any], prompt_file: Callable[..., Path], wait_until: Callable[..., Any]
) -> Callable[..., tuple[Any, Path]]:
    """Start a run and return it, with its folder, once its middle step works."""

    def begin(line: Any) -> tuple[Any, Path]:
        known = set((line.home / "workflows").glob("*"))
        running = line.start("run", prompt_file(PROMPT), "--workspace", repository().path, "--json")

        def works() -> Path | None:
            assert running.process.poll() is None, running.ended().text
            for folder in set((line.home / "workflows").glob("*")) - known:
                log = folder / "logs/middle.1.log"
                if log.exists() and log.read_text() == "working\n":
                    return folder
            return None

        return running, wait_until(works, 60.0)

    return begin


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_run_stops_at_once_and_can_be_resumed(
    number: signal.Signals,
    wm: Any,
    working: Callable[..., tuple[Any, Path]],
    containers: Callable[..., list[str]],
    prefect_server: Any,
) -> None:
    running, folder = working(wm)
    asked = time.monotonic()
    running.interrupt(number)
    said = running.ended(30.0)
    assert time.monotonic() - asked < SOON
    assert said.code == 130, said.text
    assert containers(folder.name) == []
    state = state_of(folder)
    assert (state["status"], state["reason"]) == ("aborted", "it was interrupted")
    assert state["running"] == []
    assert said.json["status"] == "aborted"
    assert said.err.splitlines()[-1] == f"Next:   workflowmaster resume {folder.name}"
    assert "Traceback" not in said.text
    flow_run = prefect_server.get(f"/flow_runs/{state['flow_run_id']}")
    assert (flow_run["state_type"], flow_run["state_name"]) == ("CANCELLED", "Aborted")

    resumed = wm("resume", folder.name, "--json", "-q")
    assert resumed.code == 0, resumed.text
    assert resumed.json["flow_run_id"] == state["flow_run_id"]
    assert [name for name, task in by_id(resumed.json).items() if task["reused"]] == ["before"]
    assert wm("logs", folder.name, "--step", "after").out == "before\nmiddle\nkept\n"
    assert wm("audit", "verify", folder.name).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_run_that_is_interrupted_before_it_begins_leaves_nothing(
    number: signal.Signals,
    command_line: Callable[..., Any],
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    containers: Callable[..., list[str]],
    wait_until: Callable[..., Any],
) -> None:
    """Its own server takes seconds to make its database, so there is time to stop it while it waits for that."""
    line, repo = command_line(), repository()
    running = line.start("run", prompt_file(PROMPT), "--workspace", repo.path, "-q")

    def parked() -> str | None:
        assert running.process.poll() is None, running.ended().text
        folders = list((line.home / "workflows").glob("*"))
        return folders[0].name if folders and containers(folders[0].name) else None

    workflow = wait_until(parked, 60.0)
    running.interrupt(number)
    said = running.ended(30.0)
    assert (said.code, said.out, said.err) == (130, "", "interrupted\n")
    assert containers(workflow) == []
    assert list((line.home / "workflows").iterdir()) == []
    assert repo.refs() == {"refs/heads/main"}


@pytest.mark.long
def test_a_second_interrupt_is_no_disaster(
    wm: Any, working: Callable[..., tuple[Any, Path]], containers: Callable[..., list[str]]
) -> None:
    running, folder = working(wm)
    running.interrupt()
    running.interrupt()
    said = running.ended(30.0)
    assert said.code in (130, -signal.SIGINT), said.text
    wm("clean")
    assert containers(folder.name) == []


def test_a_killed_container_fails_its_step_and_a_resume_does_only_the_rest(
    wm: Any, working: Callable[..., tuple[Any, Path]], wait_until: Callable[..., Any]
) -> None:
    running, folder = working(wm)
    subprocess.run(["docker", "kill", f"{folder.name}-middle-1"], check=True, capture_output=True)
    said = running.ended()
    assert said.code == 1, said.text
    tasks = by_id(said.json)
    assert tasks["middle"]["reason"] == "it was killed by SIGKILL (exit 137)"
    assert tasks["after"]["status"] == "blocked"

    first = wm.start("resume", folder.name, "--json", "-q")
    events = folder / "audit.jsonl"
    wait_until(lambda: events.read_text().count('"container.started"') > 2, 60.0)
    second = wm("resume", folder.name, "--json", "-q")
    assert second.code == 3, second.text
    assert second.json["error"].startswith(f"{folder.name} is held by process {first.process.pid} on ")
    resumed = first.ended()
    assert resumed.code == 0, resumed.text
    after = by_id(resumed.json)
    assert {name: task["reused"] for name, task in after.items()} == {"before": True, "middle": False, "after": False}
    assert after["before"]["container_id"] == tasks["before"]["container_id"]
    started = [r["step"] for r in map(json.loads, events.read_text().splitlines()) if r["event"] == "container.started"]
    assert started == ["before", "middle", "middle", "after"]


@pytest.mark.long
def test_a_log_is_followed_until_its_step_has_ended(wm: Any, working: Callable[..., tuple[Any, Path]]) -> None:
    running, folder = working(wm)
    followed = wm("logs", folder.name, "--step", "middle", "--follow")
    assert (followed.code, followed.out, followed.err) == (0, "working\n", "")
    waiting = wm("logs", folder.name, "--step", "after", "--follow")
    assert waiting.out == "before\nmiddle\nkept\n"
    assert running.ended().code == 0


def test_a_resume_of_a_completed_run_starts_nothing(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    repo = repository()
    said = wm.run(prompt_file("# One\n\n## Steps\n\n### only\n```bash\necho 1 > one.txt\n```\n"), repo.path)
    again = wm("resume", said.json["workflow_id"], "--json", "-q")
    assert again.code == 0, again.text
    assert by_id(again.json)["only"]["reused"] is True
    assert (again.json["branch"], again.json["commit"]) == (said.json["branch"], said.json["commit"])
    assert repo.refs() == {"refs/heads/main", f"refs/heads/{said.json['branch']}", "refs/notes/workflowmaster"}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def killed(
    bare: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], wait_until: Callable[..., Any]
) -> tuple[Path, list[int]]:
    """A run with a server of its own, killed with -9 while its middle step worked: its folder, its children's pids."""
    running = bare.start("run", prompt_file(PROMPT), "--workspace", repository().path, "--json")

    def works() -> Path | None:
        assert running.process.poll() is None, running.ended().text
        logs = list((bare.home / "workflows").glob("*/logs/middle.1.log"))
        return logs[0].parents[1] if logs and logs[0].read_text() == "working\n" else None

    folder: Path = wait_until(works, 120.0)
    servers = children(running.process.pid)
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.communicate()
    return folder, servers


def test_the_server_of_a_killed_run_ends_by_itself(killed: tuple[Path, list[int]], wait_until: Any) -> None:
    _, servers = killed
    assert len(servers) == 1
    wait_until(lambda: not any(alive(pid) for pid in servers), 20.0)


def test_parked_containers_of_a_killed_run_end_by_themselves(killed: tuple[Path, list[int]], wait_until: Any) -> None:
    folder, _ = killed

    def running() -> str:
        named = ["docker", "ps", "-q", "--filter", f"name={folder.name}-after"]
        return subprocess.run(named, capture_output=True, text=True, check=True).stdout

    wait_until(lambda: not running(), 20.0)


def test_a_killed_run_is_shown_as_what_it_is(bare: Any, killed: tuple[Path, list[int]]) -> None:
    folder, _ = killed
    (row,) = bare("list", "--json").json
    assert row["workflow_id"] == folder.name
    assert row["status"] in ("running", "aborted")


def test_a_killed_run_goes_on_with_the_same_flow_run(
    bare: Any, killed: tuple[Path, list[int]], containers: Callable[..., list[str]]
) -> None:
    folder, _ = killed
    before = json.loads((folder / "run.json").read_text())["flow_run_id"]
    said = bare("resume", folder.name, "--json")
    assert said.code == 0, said.text
    assert said.json["flow_run_id"] == before
    assert {name: task["reused"] for name, task in by_id(said.json).items()}["before"] is True
    assert bare("logs", folder.name, "--step", "after").out == "before\nmiddle\nkept\n"
    assert containers(folder.name) == []


def test_a_run_with_a_server_of_its_own_says_nothing_else(bare: Any, killed: tuple[Path, list[int]]) -> None:
    """No traceback, no warning of Prefect's, nothing in HOME; the database lies in the state directory."""
    folder, _ = killed
    said = bare("resume", folder.name, "--json", "-q")
    assert said.code == 0, said.text
    assert [line.split(":")[0] for line in said.err.splitlines()] == [
        "Completed",
        "3 steps",
        "Branch",
        "Report",
        "Next",
    ]
    assert (bare.home / "prefect/prefect.db").exists()
    assert list(bare.user_home.iterdir()) == []
    assert list(bare.cwd.iterdir()) == []


def test_the_server_reports_nothing_to_anyone() -> None:
    from workflowmaster.flows.embedded import environment

    settings = environment(Path("/somewhere"))
    assert (settings["PREFECT_SERVER_ANALYTICS_ENABLED"], settings["DO_NOT_TRACK"]) == ("false", "1")
    assert all(value.startswith(("/somewhere", "sqlite")) for name, value in settings.items() if "/" in value)
