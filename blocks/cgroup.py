"""Reads what a container may use and what it really used, from the host's cgroup files.

The engine's statistics are empty once a container has ended, and sampling misses the peak of a short step. The kernel
keeps the peak itself, and the files answer as long as the cgroup exists: a little longer than pid 1 lives. So they are
read in the moment between the two. Where the engine does not share our kernel there is nothing to read, and the
receipt says so by leaving the fields empty rather than guessing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PROC, ROOT = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Usage:
    """What one cgroup used so far; None where the kernel does not tell."""

    peak_memory: int | None = None
    """Bytes, page cache included, as the limit counts them."""
    peak_pids: int | None = None
    cpu_seconds: float | None = None
    oom_kills: int | None = None


@dataclass(frozen=True)
class Limits:
    """What one cgroup may use; `math.inf` is no limit, None is what the kernel does not tell."""

    memory: float | None = None
    """Bytes."""
    memory_and_swap: float | None = None
    """Bytes of both together, as version 1 counts; in version 2 the sum of its two limits."""
    cpus: float | None = None
    """Cores' worth of time: quota by period."""
    pids: float | None = None
    devices: frozenset[str] | None = None
    """Rules of the device list; version 2 keeps them in a program that cannot be read."""


@dataclass(frozen=True)
class Cgroup:
    """Where one container's controllers live. `unified` tells version 2 from 1."""

    paths: Mapping[str, Path]
    unified: bool

    @classmethod
    def of(cls, pid: int, *, proc: Path = PROC, root: Path = ROOT) -> Cgroup | None:
        """Find the cgroup of a process by its pid on this host; None if it is gone or not ours to see."""
        return cls.parse(_membership(pid, proc), root)

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

    def limits(self) -> Limits:
        """Read the limits now. Those of the groups above it can only be lower, so its own are what is promised."""
        return self._unified_limits() if self.unified else self._legacy_limits()

    def _legacy_limits(self) -> Limits:
        devices = self._file("devices", "devices.list")
        return Limits(
            memory=_bytes(self._file("memory", "memory.limit_in_bytes")),
            memory_and_swap=_bytes(self._file("memory", "memory.memsw.limit_in_bytes")),
            cpus=_share(self._file("cpu", "cpu.cfs_quota_us") + self._file("cpu", "cpu.cfs_period_us")),
            pids=_bound(self._file("pids", "pids.max")),
            # An empty list would forbid even /dev/null; a file that is not there tells nothing.
            devices=frozenset(devices.splitlines()) if devices else None,
        )

    def _unified_limits(self) -> Limits:
        # Here swap is counted beside memory, so "memory and swap together" is a sum.
        memory, swap = _bound(self._file("", "memory.max")), _bound(self._file("", "memory.swap.max"))
        return Limits(
            memory=memory,
            memory_and_swap=None if memory is None or swap is None else memory + swap,
            cpus=_share(self._file("", "cpu.max")),
            pids=_bound(self._file("", "pids.max")),
        )

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


def belongs(pid: int, container: str, *, proc: Path = PROC) -> bool:
    """Whether a process of this host is in the cgroup of a container, by its id, which engines put into the path."""
    return container in _membership(pid, proc)


def _membership(pid: int, proc: Path) -> str:
    try:
        return (proc / str(pid) / "cgroup").read_text()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _bound(text: str) -> float | None:
    return math.inf if text.strip() == "max" else _number(text)


def _bytes(text: str) -> float | None:
    # Version 1 has no word for "unlimited": it is the largest number of whole pages, which differs by page size.
    value = _number(text)
    return math.inf if value is not None and value >= 2**62 else value


def _share(text: str) -> float | None:
    """Read `quota period`, in microseconds; the quota -1 or `max` is no limit."""
    words = text.split()
    if len(words) != 2 or not words[1].isdigit():
        return None
    return int(words[0]) / int(words[1]) if words[0].isdigit() else math.inf


def _field(text: str, name: str) -> int | None:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _number(value)
    return None
