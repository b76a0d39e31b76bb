"""`scripts/engine`: a running engine is left alone, a dead one's remains are cleared, and a person is told what to do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "scripts" / "engine"


def engine(*arguments: str, user: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    dropped = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"] if user else []
    kept = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    return subprocess.run(
        [*dropped, "bash", ENGINE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**kept, **environment},
    )


def daemons() -> set[int]:
    return {process.pid for process in psutil.process_iter() if process.name() == "dockerd"}


@pytest.mark.docker
def test_a_running_engine_is_left_alone_at_once():
    before, start = daemons(), time.monotonic()
    done = engine()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - start < 5
    assert daemons() == before


def test_a_dead_docker_host_is_named_and_nothing_is_started(tmp_path):
    before = daemons()
    done = engine(DOCKER_HOST=f"unix://{tmp_path}/nothing.sock")
    assert done.returncode == 4
    assert done.stderr.startswith(f"DOCKER_HOST is unix://{tmp_path}/nothing.sock, and nothing answers there.")
    assert daemons() == before


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="becomes another user, which needs root")
def test_a_user_without_an_engine_is_told_how_to_get_one(tmp_path):
    tmp_path.chmod(0o777)
    done = engine("--run", f"/tmp/{tmp_path.name}-none", user="65534")
    shutil.rmtree(f"/tmp/{tmp_path.name}-none")
    assert done.returncode == 4
    assert "sudo systemctl start docker" in done.stderr
    assert "sudo apt-get install docker.io" in done.stderr


@pytest.fixture
def private(tmp_path_factory):
    """Start engines that share nothing with the machine's own: folders, socket, bridge, and no packet filter."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "ip"))):
        pytest.skip("an engine of its own needs root, dockerd and ip")
    place, bridge = tmp_path_factory.mktemp("e"), f"wmtest{os.getpid() % 10000}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    subprocess.run(["ip", "address", "add", "172.31.99.1/24", "dev", bridge], check=True)
    apart = ["--data-root", str(place / "data"), "--bridge", bridge, "--iptables=false", "--ip-forward=false"]

    def start(*more: str) -> subprocess.CompletedProcess[str]:
        return engine("--run", str(place / "run"), *apart, *more)

    start.run = place / "run"
    yield start
    for name in ("docker.pid", "docker/containerd/containerd.pid"):
        stop(start.run / name, signal.SIGTERM)
    subprocess.run(["ip", "link", "delete", bridge], check=True)
    subprocess.run(["umount", place / "data"], check=False, capture_output=True)


def pid_in(path: Path) -> int:
    return int(path.read_text())


def stop(pidfile: Path, sent: signal.Signals) -> None:
    """End the process a pid file names, where it is an engine's, and wait until it is gone."""
    if not pidfile.exists() or not psutil.pid_exists(pid_in(pidfile)):
        return
    process = psutil.Process(pid_in(pidfile))
    if process.name() in ("dockerd", "containerd"):
        process.send_signal(sent)
        psutil.wait_procs([process], timeout=20)


@pytest.mark.docker
@pytest.mark.long
def test_a_private_engine_starts_once(private):
    first = private()
    assert (first.returncode, first.stderr) == (0, f"starting dockerd (its log: {private.run}/dockerd.log)\n")
    pid = pid_in(private.run / "docker.pid")
    assert (private().stderr, pid_in(private.run / "docker.pid")) == ("", pid)


@pytest.mark.docker
@pytest.mark.long
@pytest.mark.parametrize("containerd_too", [False, True])
def test_after_a_kill_it_starts_again(private, containerd_too):
    private()
    pid = pid_in(private.run / "docker.pid")
    stop(private.run / "docker.pid", signal.SIGKILL)
    if containerd_too:
        containerd = private.run / "docker" / "containerd" / "containerd.pid"
        stop(containerd, signal.SIGKILL)
        # As after a reboot: the numbers now belong to a process that has nothing to do with it.
        containerd.write_text(str(os.getpid()))
        (private.run / "docker.pid").write_text(str(os.getpid()))
    assert private().returncode == 0
    assert pid_in(private.run / "docker.pid") not in (pid, os.getpid())


@pytest.mark.docker
@pytest.mark.long
def test_a_folder_in_the_sockets_place_is_cleared(private):
    (private.run / "docker.sock").mkdir(parents=True)
    assert private().returncode == 0


@pytest.mark.docker
@pytest.mark.long
def test_an_engine_that_does_not_start_is_quoted(private):
    done = private("--storage-driver", "nonsense")
    assert done.returncode == 4
    assert "dockerd did not start" in done.stderr
    assert "driver not supported" in done.stderr
