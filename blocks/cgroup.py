"""Reads what a container really used, from the host's cgroup files.

The engine's statistics are empty once a container has ended, and sampling misses the peak of a short step. The kernel
keeps the peak itself, and the files answer as long as the cgroup exists: a little longer than pid 1 lives. So they are
read in the moment between the two. Where the engine does not share our kernel there is nothing to read, and the
receipt says so by leaving the fields empty rather than guessing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Usage:
    """What one cgroup used so far; None where the kernel does not tell."""

    peak_memory: int | None = None
    """Bytes, page cache included, as the limit counts them."""
    peak_pids: int | None = None
    cpu_seconds: float | None = None
    oom_kills: int | None = None


@dataclass(frozen=True)
class Cgroup:
    """Where one container's controllers live. `unified` tells version 2 from 1."""

    paths: Mapping[str, Path]
    unified: bool

    @classmethod
    def of(cls, pid: int, *, proc: Path = Path("/proc"), root: Path = ROOT) -> Cgroup | None:
        """Find the cgroup of a process by its pid on this host; None if it is gone or not ours to see."""
        try:
            text = (proc / str(pid) / "cgroup").read_text()
        except OSError:
            return None
        return cls.parse(text, root)

    @classmethod
    def parse(cls, text: str, root: Path = ROOT) -> Cgroup | None:
        """Read the text of `/proc/<pid>/cgroup`, which lists `id:controllers:path` lines."""
        rows = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
        named = {name: path for _, names, path in rows for name in names.split(",")}
        if set(named) == {""}:
            return cls({"": root / named[""].lstrip("/")}, unified=True)
        paths = {name: root / name / path.lstrip("/") for name, path in named.items() if name}
        return cls(paths, unified=False) if "memory" in paths else None

    def usage(self) -> Usage:
        """Read the counters now."""
        return self._unified() if self.unified else self._legacy()

    def _legacy(self) -> Usage:
        cpu = _number(self._file("cpuacct", "cpuacct.usage"))
        return Usage(
            peak_memory=_number(self._file("memory", "memory.max_usage_in_bytes")),
            peak_pids=_number(self._file("pids", "pids.max_usage")) or _number(self._file("pids", "pids.peak")),
            cpu_seconds=None if cpu is None else cpu / 1e9,
            oom_kills=_field(self._file("memory", "memory.oom_control"), "oom_kill"),
        )

    def _unified(self) -> Usage:
        cpu = _field(self._file("", "cpu.stat"), "usage_usec")
        return Usage(
            peak_memory=_number(self._file("", "memory.peak")),
            peak_pids=_number(self._file("", "pids.peak")),
            cpu_seconds=None if cpu is None else cpu / 1e6,
            oom_kills=_field(self._file("", "memory.events"), "oom_kill"),
        )

    def _file(self, controller: str, name: str) -> str:
        folder = self.paths.get(controller)
        try:
            return (folder / name).read_text() if folder else ""
        except OSError:
            return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _field(text: str, name: str) -> int | None:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _number(value)
    return None
