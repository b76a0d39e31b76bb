"""Who works on a run: real processes on one machine and on two, killed, stopped, and with the server going away.

The other machine is this one under another name (`unshare --uts`), with a state directory of its own and a copy of the
workflow's folder, on the same Prefect server and the same engine. That is all two machines share.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from workflowmaster.flows.embedded import environment

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

LEASE = 4.0
SHORT = {"WORKFLOWMASTER_CLAIM_LEASE_SECONDS": f"{LEASE:g}"}
FAR = ("unshare", "--uts", "sh", "-c", 'hostname farbox && exec "$0" "$@"')
PROMPT = """\
# Who works

## Steps

### first
```bash
echo first > first.txt
```

### slow
- needs: first
```bash
echo at it
sleep {seconds}
echo slow > slow.txt
```

### last
- needs: slow
```bash
echo last > last.txt
```
"""


def can_be_elsewhere() -> bool:
    return subprocess.run([*FAR, "true"], capture_output=True, check=False).returncode == 0


elsewhere = pytest.mark.skipif(not can_be_elsewhere(), reason="only root may give a process another host's name")


def events(folder: Path) -> list[str]:
    log = folder / "audit.jsonl"
    return [json.loads(line)["event"] for line in log.read_text().splitlines()] if log.exists() else []


def claims(server: Any, workflow: str) -> list[dict[str, Any]]:
    """The workflow's rows on the server, the newest first."""
    asked = {"variables": {"name": {"like_": f"wm_claim_{workflow}_"}}, "sort": "NAME_DESC"}
    found: list[dict[str, Any]] = server.post("/variables/filter", asked)
    return found


@pytest.fixture
def working(
    repository: Callable[..., Any], prompt_file: Callable[..., Path], wait_until: Callable[..., Any]
) -> Callable[..., tuple[Any, Path, Any]]:
    """Start a run and return it when its slow step works, with its folder and its repository."""

    def start(line: Any, seconds: float) -> tuple[Any, Path, Any]:
        repo = repository()
        words = ["run", prompt_file(PROMPT.format(seconds=seconds)), "--workspace", repo.path, "--json", "-q"]
        running = line.start(*words)

        def at_it() -> list[Path]:
            assert running.process.poll() is None, running.ended().text
            return [log for log in line.home.glob("workflows/*/logs/slow.1.log") if log.read_text() == "at it\n"]

        (log,) = wait_until(at_it, 90.0)
        return running, log.parents[1], repo

    return start


@pytest.fixture
def swept() -> Iterator[list[Any]]:
    """Command lines whose containers nobody else removes: those of killed runs."""
    lines: list[Any] = []
    yield lines
    for line in lines:
        said = line("clean")
        assert said.code == 0, said.text


def copied(near: Any, folder: Path, command_line: Callable[..., Any], **env: str) -> Any:
    """Another machine's user, who has a copy of the workflow's folder."""
    far = command_line(**env)
    far.prefix = FAR
    shutil.copytree(folder, far.home / "workflows" / folder.name, ignore=shutil.ignore_patterns("trees", "exchange"))
    return far


# --- one machine ---


def test_a_second_process_is_refused_or_waits_and_follows_a_killed_one_at_once(
    command_line: Callable[..., Any], prefect_server: Any, working: Any, swept: list[Any], wait_until: Any
) -> None:
    line = command_line(PREFECT_API_URL=prefect_server.url)
    swept.append(line)
    running, folder, repo = working(line, 25)
    began = time.monotonic()
    refused = line("resume", folder.name, "--json", "-q")
    assert refused.code == 3, refused.text
    assert refused.json["error"].startswith(
        f"{folder.name} is held by process {running.process.pid} on {os.uname()[1]}"
    )
    assert "(workflowmaster run)" in refused.json["error"]
    assert time.monotonic() - began < 15  # and not after a lease, or with a server started

    running.process.send_signal(signal.SIGSTOP)
    stopped = line("resume", folder.name, "--wait", "1")
    assert stopped.code == 3, stopped.text
    assert "; waiting 1 s for it" in stopped.err

    waiting = line.start("resume", folder.name, "--json", "--wait")
    wait_until(lambda: b"resume" in waiting_for(folder, waiting.process.pid), 30.0)
    running.process.kill()
    killed = time.monotonic()
    wait_until(lambda: json.loads(lock(folder).read_text())["pid"] == waiting.process.pid, 30.0)
    assert time.monotonic() - killed < 1.0
    said = waiting.ended()
    assert said.code == 0, said.text
    assert "waiting until it ends" in said.err
    assert events(folder).count("claim.taken") == 2
    assert events(folder)[-2:] == ["claim.released", "workflow.finished"]
    assert claims(prefect_server, folder.name) == []
    results = json.loads((folder / "state.json").read_text())["results"]
    assert [results[name]["epoch"] for name in ("first", "slow", "last")] == [1, 2, 2]
    assert repo.files(said.json["branch"])["slow.txt"] == "slow"


def lock(folder: Path) -> Path:
    return folder.parents[1] / "claims" / f"{folder.name}.lock"


def waiting_for(folder: Path, pid: int) -> bytes:
    """The command line of a process once it has the lock file open, or had: it looks every 50 ms."""
    with suppress(OSError):
        if any(os.readlink(fd.path).endswith(".lock") for fd in os.scandir(f"/proc/{pid}/fd")):
            return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.mark.long
def test_of_two_who_go_on_without_a_server_one_works(
    bare: Any, working: Any, swept: list[Any], wait_until: Any
) -> None:
    """Each has a server of its own over the same database."""
    swept.append(bare)
    running, folder, _ = working(bare, 3)
    running.process.kill()
    running.process.communicate()
    racers = [bare.start("resume", folder.name, "--json", "-q") for _ in range(2)]
    said = sorted((racer.ended() for racer in racers), key=lambda answer: answer.code)
    assert [answer.code for answer in said] == [0, 3], [answer.text for answer in said]
    assert said[0].json["status"] == "completed"
    assert f"{folder.name} is held by process " in said[1].json["error"]
    results = json.loads((folder / "state.json").read_text())["results"]
    assert [results[name]["epoch"] for name in ("first", "slow", "last")] == [1, 2, 2]


SCHEDULED = """
import asyncio, sys
from workflowmaster.flows.delivery import deliver
workflow, prompt, workspace = sys.argv[2:]
state = asyncio.run(deliver(prompt=prompt, workspace=workspace, workflow_id=workflow, return_state=True))
print(f"{state.type.value}: {state.message}")
"""


def test_of_two_flow_runs_of_one_workflow_one_works_and_the_other_says_who(
    command_line: Callable[..., Any], prefect_server: Any, working: Any, swept: list[Any]
) -> None:
    """As two schedules, or a schedule and the UI, would start them: flow runs of their own."""
    line = command_line(PREFECT_API_URL=prefect_server.url)
    line.env["PREFECT_HOME"] = str(line.home / "prefect")
    swept.append(line)
    running, folder, repo = working(line, 6)
    running.process.kill()
    running.process.communicate()
    line.prefix = (sys.executable, "-c", SCHEDULED)
    racers = [line.start(folder.name, folder / "prompt.md", repo.path) for _ in range(2)]
    said = sorted(racer.ended().out.splitlines()[-1] for racer in racers)
    line.prefix = ()
    assert said[0] == "COMPLETED: every step completed", said
    assert said[1].startswith("FAILED: "), said
    assert f"{folder.name} is held by process " in said[1]


# --- two machines ---


@elsewhere
def test_another_machine_is_refused_while_the_first_lives_and_follows_it_soon_after_its_death(
    command_line: Callable[..., Any], prefect_server: Any, working: Any, swept: list[Any]
) -> None:
    env = {"PREFECT_API_URL": prefect_server.url, **SHORT}
    near = command_line(**env)
    swept.append(near)
    running, folder, _ = working(near, 40)
    far = copied(near, folder, command_line, **env)
    state = prefect_server.get(f"/flow_runs/{flow_run(folder)}")["state"]
    refused = far("resume", folder.name, "--json", "-q")
    assert refused.code == 3, refused.text
    assert f"{folder.name} is held by process {running.process.pid} on {os.uname()[1]}" in refused.json["error"]
    assert "gives signs of life" in refused.json["error"]
    # Whoever is refused has changed nothing: neither the flow run nor who holds it.
    assert prefect_server.get(f"/flow_runs/{flow_run(folder)}")["state"] == state
    assert [row["value"]["pid"] for row in claims(prefect_server, folder.name)] == [running.process.pid]

    running.process.kill()
    killed = time.monotonic()
    running.process.communicate()
    gone_on = far.start("resume", folder.name, "--json", "-q")
    there = far.home / "workflows" / folder.name
    while events(there).count("claim.taken") < 2:
        assert gone_on.process.poll() is None, gone_on.ended().text
        assert time.monotonic() - killed < 30
        time.sleep(0.05)
    assert time.monotonic() - killed > LEASE * 0.7  # and not before it could be known
    gone_on.interrupt()
    assert gone_on.ended().code == 130
    (row,) = claims(prefect_server, folder.name)
    assert row["name"].endswith("_000002")
    assert row["value"]["released"] is True
    assert row["value"]["host"].startswith("farbox/")


def flow_run(folder: Path) -> str:
    found: str = json.loads((folder / "run.json").read_text())["flow_run_id"]
    return found


@elsewhere
def test_a_machine_that_was_asleep_finds_out_and_publishes_nothing(
    command_line: Callable[..., Any],
    prefect_server: Any,
    working: Any,
    swept: list[Any],
    snapshot_of: Callable[..., Any],
    containers: Callable[..., list[str]],
) -> None:
    env = {"PREFECT_API_URL": prefect_server.url, **SHORT}
    near = command_line(**env)
    swept.append(near)
    running, folder, repo = working(near, 10)
    running.process.send_signal(signal.SIGSTOP)
    far = copied(near, folder, command_line, **env)
    swept.append(far)
    said = far("resume", folder.name, "--json")
    assert said.code == 0, said.text
    assert "dead" in said.err  # what it waits for is told
    refs, kept = repo.git("show-ref"), snapshot_of(folder)
    results = sorted((near.home / "results").glob(f"{folder.name}-*"))
    run = prefect_server.get(f"/flow_runs/{flow_run(folder)}")

    running.process.send_signal(signal.SIGCONT)
    ended = running.ended(60.0)
    assert ended.code == 3, ended.text
    assert ended.json["error"].startswith(f"{folder.name} was taken over by ")
    assert repo.git("show-ref") == refs
    assert sorted((near.home / "results").glob(f"{folder.name}-*")) == results
    after = snapshot_of(folder)
    for name in ("state.json", "run.json", "report.html", "pull-request.md"):
        assert after.get(name) == kept.get(name)
    assert "claim.lost" in events(folder)
    assert "workflow.finished" not in events(folder)
    assert prefect_server.get(f"/flow_runs/{flow_run(folder)}")["state"]["id"] == run["state"]["id"]
    assert events(far.home / "workflows" / folder.name)[-1] == "workflow.finished"


# --- the server goes away ---


@dataclass
class Restarted:
    """A Prefect server on one port, which can be killed and started again."""

    home: Path
    env: dict[str, str]
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        words = ["server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *words], env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(URLError, OSError), urlopen(f"{self.url}/health", timeout=5):
                return
            time.sleep(0.1)
        raise AssertionError((self.home / "server.log").read_text())

    def kill(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def restarted(tmp_path: Path, ready_database: Callable[[Path], None]) -> Iterator[Callable[..., Restarted]]:
    """Start a server of this test's own, over SQLite or another database."""
    made: list[Restarted] = []

    def start(**more: str) -> Restarted:
        ready_database(tmp_path)
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment(tmp_path), **more}
        server = Restarted(tmp_path, {**env, "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"})
        made.append(server)
        server.start()
        return server

    yield start
    for server in made:
        server.kill()


@pytest.mark.long
def test_a_holder_keeps_its_run_over_a_restart_of_the_server(
    command_line: Callable[..., Any], restarted: Callable[..., Restarted], working: Any
) -> None:
    """Away for longer than a lease: nothing new is sent off meanwhile, and what runs goes on."""
    server = restarted()
    line = command_line(PREFECT_API_URL=server.url, **SHORT)
    running, folder, _ = working(line, LEASE + 1)
    server.kill()
    time.sleep(LEASE + 5)
    results = [
        json.loads(text[9:])["step"]
        for text in (folder / "records.jsonl").read_text().splitlines()
        if '"result"' in text
    ]
    assert "slow" not in results  # its work is done, and nobody knows whether it may be kept
    server.start()
    said = running.ended()
    assert said.code == 0, said.text
    assert events(folder).count("claim.taken") == 1
    assert "claim.lost" not in events(folder)


@pytest.mark.long
@elsewhere
@pytest.mark.skipif(not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="PostgreSQL is not installed")
def test_with_postgresql_it_is_the_same(
    command_line: Callable[..., Any],
    restarted: Callable[..., Restarted],
    postgresql: str,
    working: Any,
    swept: list[Any],
) -> None:
    server = restarted(PREFECT_API_DATABASE_CONNECTION_URL=postgresql)
    env = {"PREFECT_API_URL": server.url, **SHORT}
    near = command_line(**env)
    swept.append(near)
    running, folder, _ = working(near, 30)
    far = copied(near, folder, command_line, **env)
    swept.append(far)
    refused = far("resume", folder.name, "--json", "-q")
    assert refused.code == 3, refused.text
    assert "gives signs of life" in refused.json["error"]
    server.kill()
    server.start()
    time.sleep(LEASE)
    assert running.process.poll() is None
    racers = [far.start("resume", folder.name, "--json", "-q", "--wait") for _ in range(2)]
    running.process.kill()
    running.process.communicate()
    said = [racer.ended() for racer in racers]
    assert [answer.code for answer in said] == [0, 0], [answer.text for answer in said]
    taken = events(far.home / "workflows" / folder.name).count("claim.taken")
    assert taken == 3  # the run's own, which was copied, and one for each racer, one after the other


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """A cluster of this test's own, as the user that Debian made for it."""
    (bin_,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    place = Path("/tmp") / f"wm-pg-{os.getpid()}"
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    def run(*words: str) -> None:
        subprocess.run([*as_user, *words], check=True, cwd="/", stdout=subprocess.DEVNULL)

    run(str(bin_ / "initdb"), "-D", str(place), "-A", "trust", "-U", "wm")
    run(str(bin_ / "pg_ctl"), "-D", str(place), "-w", "-o", f"-p {port} -k {place}", "-l", f"{place}/log", "start")
    try:
        yield f"postgresql+asyncpg://wm@127.0.0.1:{port}/postgres"
    finally:
        run(str(bin_ / "pg_ctl"), "-D", str(place), "-m", "immediate", "stop")
        shutil.rmtree(place)
