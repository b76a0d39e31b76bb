"""Who owns a thing that may outlive its maker: a host, a process and the moment that process started.

A pid alone proves nothing, because the kernel gives it out again. With the start time it does: the pair names one
process for as long as the host is up. An owner on another host is never judged from here, nor one in another pid
namespace, whose numbers mean other processes; so a host is its name, its machine id and the namespace. The cost: what
an orchestrator in a container left behind stays, once that container is gone, until a person removes it.
"""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Owner:
    """One process on one host."""

    host: str
    """Name, machine and pid namespace: `box/4f1c9a20/4026531836`."""
    pid: int
    started: str
    """Start time as the kernel counts it (clock ticks since boot) with the boot's id, so that a reboot tells too."""

    @classmethod
    def me(cls) -> Owner:
        """Return this process."""
        return cls(here(), os.getpid(), _started(os.getpid()))

    def labels(self) -> dict[str, str]:
        """Spell it as container labels."""
        return {"owner-host": self.host, "owner-pid": str(self.pid), "owner-started": self.started}

    @classmethod
    def from_labels(cls, labels: Mapping[str, str], prefix: str) -> Owner | None:
        """Read it back; None if a label is missing or is not what we write."""
        before = f"{prefix}.owner" if prefix else "owner"
        values = [labels.get(f"{before}-{part}", "") for part in ("host", "pid", "started")]
        return cls(values[0], int(values[1]), values[2]) if all(values) and values[1].isdecimal() else None

    def elsewhere(self) -> bool:
        """Whether it runs, or ran, where we cannot see it: on another machine, or in another pid namespace."""
        return self.host != here()

    def proven_dead(self) -> bool:
        """Whether it certainly no longer runs. False for another host, which cannot be judged from here."""
        if self.elsewhere():
            return False
        started = _started(self.pid)
        # Where /proc is mounted with hidepid, somebody else's process has no file there and yet it lives.
        return started != self.started and (bool(started) or not _alive(self.pid))


@functools.cache
def here() -> str:
    """Return the name under which an owner can be judged: by nobody on another machine or in another container."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        namespace = "0"
    return f"{socket.gethostname()}/{_text('/etc/machine-id')[:8] or '0'}/{namespace}"


@functools.cache
def _boot() -> str:
    return _text("/proc/sys/kernel/random/boot_id")[:8] or "0"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process started; empty if there is none that we can see, or only its corpse."""
    # The name in parentheses may hold spaces and parentheses; the start time is field 22 of all.
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return f"{_boot()}-{fields[19]}" if fields and fields[0] not in "ZX" else ""


def _alive(pid: int) -> bool:
    """Whether a process of another user that /proc hides is there. Our own are never hidden."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False  # ours, and its file said that it is a corpse
