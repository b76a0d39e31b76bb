"""An engine that goes away under a run: whose fault that is, what is tried again, and what is not.

With an engine of its own, which shares nothing with the machine's: data, socket, bridge, and no packet filter.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from workflowmaster.blocks import bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker, pytest.mark.prefect, pytest.mark.long]

IMAGE = "workflowmaster/step:1"

PROMPT = """\
# The engine goes

## Steps

### before
```bash
echo before
```

### middle
- needs: before
- retries: {retries}
```bash
echo working
[ "$WM_ATTEMPT" != 1 ] || sleep 60
echo done
```

### after
- needs: middle
```bash
echo after
```
"""


@dataclass
class OwnEngine:
    """A second engine, which may be stopped, killed and started again."""

    place: Path
    bridge: str
    wait_until: Callable[..., Any]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.place}/d.sock"

    def docker(self, *words: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["docker", "-H", self.url, *words], capture_output=True, check=check, **more)

    def start(self) -> OwnEngine:
        folders = [f"--{name}={self.place / name}" for name in ("data-root", "exec-root", "pidfile")]
        apart = [f"--bridge={self.bridge}", "--iptables=false", "--ip-masq=false", "--ip-forward=false"]
        with (self.place / "log").open("ab") as log:
            command = ["dockerd", *folders, *apart, "-H", self.url]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.wait_until(lambda: self.docker("info", check=False).returncode == 0, 60.0)
        return self

    def end(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)
        self.process.wait(60)
        containerd = self.place / "exec-root/containerd/containerd.pid"
        if containerd.exists() and psutil.pid_exists(int(containerd.read_text())):
            # It outlives an engine that was killed, and the next one may wait for it in vain.
            child = psutil.Process(int(containerd.read_text()))
            child.kill()
            psutil.wait_procs([child], timeout=20)

    def clear(self) -> None:
        if self.process is None or self.process.poll() is not None:
            self.start()
        left = self.docker("ps", "-aq").stdout.decode().split()
        self.docker("rm", "-f", *left, check=False)
        self.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., Any]) -> Iterator[OwnEngine]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "ip"))):
        pytest.skip("an engine of its own needs root, dockerd and ip")
    bridge = f"wmlost{os.getpid() % 10000}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    subprocess.run(["ip", "address", "add", "172.31.98.1/24", "dev", bridge], check=True)
    made = OwnEngine(tmp_path_factory.mktemp("e"), bridge, wait_until).start()
    try:
        saved = subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE)
        made.docker("load", stdin=saved.stdout)
        yield made
    finally:
        made.clear()
        subprocess.run(["ip", "link", "delete", bridge], check=True)
        # An engine that was killed leaves its own mounts.
        for mount in bounded.release(made.place):
            assert not mount.is_mount()
        shutil.rmtree(made.place)


@pytest.fixture
def working(
    own: OwnEngine,
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> Callable[..., Any]:
    """Start a run on that engine and return it once its middle step works."""
    if own.process is None or own.process.poll() is not None:
        own.start()
    line = command_line(PREFECT_API_URL=prefect_server.url, DOCKER_HOST=own.url)

    def begin(retries: int) -> Any:
        prompt = prompt_file(PROMPT.format(retries=retries))
        running = line.start("run", prompt, "--workspace", repository().path, "--json", "-q")

        def works() -> bool:
            assert running.process.poll() is None, running.ended().text
            logs = list((line.home / "workflows").glob("*/logs/middle.1.log"))
            return bool(logs) and logs[0].read_text() == "working\n"

        wait_until(works, 60.0)
        return running

    return begin


def test_a_restart_costs_a_step_one_attempt_and_waits_for_the_engine(
    own: OwnEngine, working: Callable[..., Any]
) -> None:
    running = working(1)
    own.end(signal.SIGTERM)
    own.start()
    said = running.ended()
    assert said.code == 0, said.text
    tasks = {task["id"]: task for task in said.json["tasks"]}
    assert {name: task["attempts"] for name, task in tasks.items()} == {"before": 1, "middle": 2, "after": 1}
    events = [json.loads(text) for text in Path(said.json["audit_log"]).read_text().splitlines()]
    assert {event["reason"] for event in events if event["event"] == "sandbox.retried"} <= {"engine", "parked", "gone"}
    (decision,) = [event for event in events if event["event"] == "decision" and event["rule"] != "engine-waited"]
    assert (decision["verb"], decision["factors"]["class"]) == ("retry", "sandbox_unavailable")
    assert own.docker("ps", "-aq").stdout == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_an_engine_that_does_not_come_back_is_infrastructure_and_no_failed_step(
    number: signal.Signals, own: OwnEngine, working: Callable[..., Any]
) -> None:
    running = working(0)
    own.end(number)
    said = running.ended()
    assert said.code == 4, said.text
    tasks = {task["id"]: task for task in said.json["tasks"]}
    assert "does not answer" in tasks["middle"]["reason"]
    assert "killed by" not in said.text
    assert tasks["after"]["status"] == "blocked"


def test_a_container_that_somebody_removes_is_infrastructure(own: OwnEngine, working: Callable[..., Any]) -> None:
    running = working(0)
    (name,) = own.docker("ps", "--filter", "name=-middle-1", "--format", "{{.Names}}").stdout.decode().split()
    own.docker("rm", "-f", name)
    said = running.ended()
    assert said.code == 4, said.text
    assert "was removed" in said.json["reason"] or "No such container" in said.json["reason"]
