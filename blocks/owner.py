"""Who owns a thing that may outlive its maker: a host, a process and the moment that process started.

A pid alone proves nothing, because the kernel gives it out again. With the start time it does: the pair names one
process for as long as the host is up. An owner on another host is never judged from here.
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
    pid: int
    started: str
    """Start time as the kernel counts it (clock ticks since boot) with the boot's id, so that a reboot tells too."""

    @classmethod
    def me(cls) -> Owner:
        """Return this process."""
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()))

    def labels(self) -> dict[str, str]:
        """Spell it as container labels."""
        return {"owner-host": self.host, "owner-pid": str(self.pid), "owner-started": self.started}

    @classmethod
    def from_labels(cls, labels: Mapping[str, str], prefix: str) -> Owner | None:
        """Read it back; None if a label is missing or is not what we write."""
        values = [labels.get(f"{prefix}.owner-{part}", "") for part in ("host", "pid", "started")]
        return cls(values[0], int(values[1]), values[2]) if all(values) and values[1].isdigit() else None

    def proven_dead(self) -> bool:
        """Whether it certainly no longer runs. False for another host, which cannot be judged from here."""
        return self.host == socket.gethostname() and _started(self.pid) != self.started


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        return "0"


def _started(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name in parentheses may hold spaces and parentheses; the start time is field 22 of all.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else f"{_boot()}-{fields[19]}"
