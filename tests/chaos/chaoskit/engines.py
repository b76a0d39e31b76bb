"""A second engine, which may be killed: it shares neither data nor socket, bridge or packet filter with the machine's.

Its bridge is made here and named to it. An engine that is told to have none deletes the machine's.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from workflowmaster.blocks import bounded


@dataclass
class OwnEngine:
    """Started, ended by a signal and started again, always on the same data."""

    place: Path
    bridge: str
    wait_until: Callable[..., Any]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.place}/d.sock"

    def docker(self, *words: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["docker", "-H", self.url, *words], capture_output=True, check=check, **more)

    def start(self) -> None:
        if self.process is None:
            subprocess.run(["ip", "link", "add", self.bridge, "type", "bridge"], check=True)
            subprocess.run(["ip", "address", "add", "172.31.97.1/24", "dev", self.bridge], check=True)
        folders = [f"--{name}={self.place / name}" for name in ("data-root", "exec-root", "pidfile")]
        apart = [f"--bridge={self.bridge}", "--iptables=false", "--ip-masq=false", "--ip-forward=false"]
        with (self.place / "log").open("ab") as log:
            command = ["dockerd", *folders, *apart, "-H", self.url]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.wait_until(lambda: self.docker("info", check=False).returncode == 0, 60.0)

    def load(self, image: str) -> None:
        saved = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
        self.docker("load", stdin=saved.stdout)

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

    def containers(self) -> list[str]:
        return self.docker("ps", "-aq", "--filter", "label=workflowmaster.workflow").stdout.decode().split()

    def clear(self) -> None:
        """Leave nothing: containers, process, bridge, mounts and data."""
        if self.process is None:
            return
        if self.process.poll() is not None:
            self.start()
        left = self.docker("ps", "-aq").stdout.decode().split()
        self.docker("rm", "-f", *left, check=False)
        self.end(signal.SIGTERM)
        subprocess.run(["ip", "link", "delete", self.bridge], check=True)
        # An engine that was killed leaves its own mounts.
        bounded.release(self.place)
        shutil.rmtree(self.place)
