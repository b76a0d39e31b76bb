"""What really holds for a container: read from the kernel about its first process, never from what was asked for.

The engine's `inspect` repeats the request, also where an old kernel, a cgroup without a controller or a wrapper around
the engine made less of it. `/proc/<pid>` and the cgroup's files are the kernel's own account, so each fact comes from
there. The price: it needs the engine's processes on this kernel, and a user who is not root may not read a foreign
uid's namespace links. Every fact may therefore be None, "not told", and whoever compares asks the engine then and says
that it did (`inspected.py` fills the same fields with the engine's word).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks import mountinfo
from workflowmaster.blocks.cgroup import Limits
from workflowmaster.blocks.request import Volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workflowmaster.blocks.cgroup import Cgroup
    from workflowmaster.blocks.mountinfo import MountPoint
    from workflowmaster.blocks.request import Mount

PROC = Path("/proc")

SETTLE = 5.0
"""Seconds the runtime gets to become the container's first process once the engine has said that it runs."""

STARTERS = ("runc", "crun")
"""Beginnings of the name under which a runtime prepares what it will become; seen for at most a millisecond here."""

SENTRY = "runsc-sandbox"
"""How gVisor's own process calls itself: it stands between the container and our kernel."""

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")

MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"),
)
"""What every engine since 2018 hides: kernel memory, keys, hardware. Newer ones add a few; less than this is weak."""

READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""What steers the kernel and may only be read."""


@dataclass(frozen=True)
class Effective:
    """What holds for a container, by one source. None: this source does not tell."""

    uids: frozenset[int] | None = None
    """Real, effective, saved and file system uid, as they are called inside."""
    gids: frozenset[int] | None = None
    """The same of the group, with the supplementary groups."""
    bounding: int | None = None
    """Capabilities that could ever be gained, as the kernel's bit mask."""
    granted: int | None = None
    """Those in any of the other four sets."""
    no_new_privileges: bool | None = None
    seccomp: bool | None = None
    """Whether a filter is in force."""
    profile: str | None = None
    """Text of the filter's profile; only the engine knows it."""
    init: str | None = None
    """Name of pid 1's program."""
    mounts: tuple[MountPoint, ...] | None = None
    foreign: frozenset[str] | None = None
    """Targets of mounts whose file system is not the container's own."""
    misplaced: frozenset[str] | None = None
    """Targets of the request's mounts that are not there, or lead to another place than asked for."""
    exposed: frozenset[str] | None = None
    """Paths of `/proc` and `/sys` that should be hidden or read-only and are not."""
    rlimits: Mapping[str, float] | None = None
    """Hard limits by name: `nofile`, `core`, `memlock`."""
    memory: float | None = None
    memory_and_swap: float | None = None
    cpus: float | None = None
    pids: float | None = None
    devices: frozenset[str] | None = None
    """Rules of the device list, or what the engine was asked to add to it."""
    own: Mapping[str, bool] | None = None
    """Namespace → whether it is another one than ours; what is not told is left out."""
    interfaces: frozenset[str] | None = None
    apparmor: str | None = None
    """Name of the profile that confines it; empty for none."""
    runtime: str | None = None


def read(pid: int, cgroup: Cgroup | None, mounts: Iterable[Mount | Volume], *, proc: Path = PROC) -> Effective:
    """Read what the kernel says of a container's first process, given the mounts it was asked to have.

    Raises OSError when the process is gone; what may not be read is left None.
    """
    command = _settled(proc / str(pid))
    limits = cgroup.limits() if cgroup else Limits()
    limited: dict[str, Any] = {
        "memory": limits.memory,
        "memory_and_swap": limits.memory_and_swap,
        "cpus": limits.cpus,
        "pids": limits.pids,
    }
    if command.endswith(SENTRY):
        # Its process is not the container's: what the container may do, only the runtime could tell.
        return Effective(**limited, runtime="runsc")
    here, own = proc / str(pid), proc / "self"
    # Nothing changes while it is parked, so the files need not be of one moment.
    status = parse_status(_text(here / "status"))
    seen, ours = _mounts(here), _mounts(own)
    return Effective(
        **limited,
        **_identity(status, _said(here / "uid_map"), _said(here / "gid_map")),
        **_privileges(status),
        init=Path(command).name,
        mounts=seen,
        foreign=foreign(seen, ours),
        misplaced=misplaced(seen, ours, mounts),
        exposed=exposed(seen, _present(proc.parent)),
        rlimits=parse_limits(_text(here / "limits")),
        devices=limits.devices,
        own=_namespaces(here, own, status, seen, ours),
        interfaces=parse_interfaces(_text(here / "net/dev")),
        apparmor=_apparmor(here),
    )


def _settled(here: Path) -> str:
    """Return pid 1's program once it is no longer the runtime that prepares it: filters are set at the last moment."""
    until = time.monotonic() + SETTLE
    while _text(here / "comm").startswith(STARTERS):
        if time.monotonic() > until:
            raise TimeoutError(f"{here}: the runtime has not started the container's program within {SETTLE:g} s")
        time.sleep(0.001)
    return _text(here / "cmdline").partition("\0")[0] or _text(here / "comm").strip()


def parse_status(text: str) -> dict[str, str]:
    """Read `/proc/<pid>/status`: field → value."""
    rows = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in rows}


def parse_limits(text: str) -> dict[str, float]:
    """Read the hard limits out of `/proc/<pid>/limits`; those without a limit are infinite."""
    names = {"Max open files": "nofile", "Max core file size": "core", "Max locked memory": "memlock"}
    found = {}
    for line in text.splitlines():
        # Columns of fixed width: the names hold blanks.
        name, values = names.get(line[:26].strip()), line[26:].split()
        if name and len(values) >= 2:
            found[name] = math.inf if values[1] == "unlimited" else float(values[1])
    return found


def parse_interfaces(text: str) -> frozenset[str]:
    """Read the names of the network interfaces out of `/proc/<pid>/net/dev`."""
    return frozenset(line.partition(":")[0].strip() for line in text.splitlines() if ":" in line)


def inside(number: int, table: str) -> int:
    """Translate a uid or gid of ours into what it is called inside, by the text of its `uid_map` or `gid_map`."""
    for line in table.splitlines():
        first, ours, count = map(int, line.split())
        if ours <= number < ours + count:
            return first + number - ours
    return number


def foreign(seen: Iterable[MountPoint], ours: Iterable[MountPoint]) -> frozenset[str]:
    """Return the targets of mounts that are of this host: of a disk, or of a file system that we see as well.

    A file system in memory is the container's own unless it is one of ours: the engine makes each anew.
    """
    devices = {mount.device for mount in ours}
    virtual = {"proc", "sysfs", "tmpfs", "devpts", "mqueue", "overlay", "cgroup", "cgroup2"}
    shared = (mount for mount in seen if mount.device in devices or mount.kind not in virtual)
    return frozenset(mount.target for mount in shared)


def misplaced(
    seen: Iterable[MountPoint], ours: Iterable[MountPoint], asked: Iterable[Mount | Volume]
) -> frozenset[str]:
    """Return the targets of mounts that are missing, or do not lead to the folder that was asked for."""
    found = frozenset[str]()
    for mount in asked:
        there = mountinfo.at(seen, mount.target)
        if there is None or not _leads_to(mount, there, ours):
            found |= {mount.target}
    return found


def _leads_to(asked: Mount | Volume, there: MountPoint, ours: Iterable[MountPoint]) -> bool:
    if isinstance(asked, Volume):
        return there.root.endswith(f"/{asked.source}/_data")
    return (there.device, there.root) == mountinfo.place(asked.source, ours)


def exposed(seen: Iterable[MountPoint], present: Iterable[str]) -> frozenset[str]:
    """Return which of the kernel's own paths that this host has are not hidden, or may be written."""
    # What this kernel does not have cannot be hidden either; engines leave such paths out.
    mounts = {mount.target: mount for mount in seen}
    names = set(present)
    bare = {path for path in MASKED if path in names and path not in mounts}
    loose = {path for path in READ_ONLY if path in names and (path not in mounts or mounts[path].writable)}
    return frozenset(bare | loose)


@functools.cache
def _present(top: Path) -> frozenset[str]:
    """Return which of those paths this kernel has; asked once, because they do not come and go."""
    return frozenset(path for path in (*MASKED, *READ_ONLY) if (top / path.lstrip("/")).exists())


def _identity(status: Mapping[str, str], uid_map: str, gid_map: str) -> dict[str, Any]:
    groups = [*status["Gid"].split(), *status.get("Groups", "").split()]
    return {
        "uids": frozenset(inside(int(number), uid_map) for number in status["Uid"].split()),
        "gids": frozenset(inside(int(number), gid_map) for number in groups),
    }


def _privileges(status: Mapping[str, str]) -> dict[str, Any]:
    sets = [int(status.get(name, "0"), 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]
    told = {
        # 2 is a filter; 1, the strict mode, no container could start in.
        field: status[name] == wanted
        for field, name, wanted in (("no_new_privileges", "NoNewPrivs", "1"), ("seccomp", "Seccomp", "2"))
        if name in status  # not before Linux 4.10, and without support for filters
    }
    return {"bounding": int(status["CapBnd"], 16), "granted": functools.reduce(int.__or__, sets), **told}


def _namespaces(
    here: Path, own: Path, status: Mapping[str, str], seen: Iterable[MountPoint], ours: Iterable[MountPoint]
) -> dict[str, bool]:
    """Tell which namespaces are not ours: by their links, and where those are closed to us by what they show."""
    known = {"mnt": not {mount.id for mount in seen} & {mount.id for mount in ours}}
    # One number for each nested pid namespace, the last being what it is called inside.
    if len(status.get("NSpid", "").split()) > 1:
        known["pid"] = True
    with contextlib.suppress(OSError):
        # Each network namespace has a tree of its own behind `net`, so the same file has another inode.
        known["net"] = (here / "net/dev").stat().st_ino != (own / "net/dev").stat().st_ino
    # The links are proof, and overrule the signs where they can be read.
    for name in NAMESPACES:
        with contextlib.suppress(OSError):
            known[name] = os.readlink(here / "ns" / name) != os.readlink(own / "ns" / name)  # noqa: PTH115 - no path
    return known


def _apparmor(here: Path) -> str:
    # "docker-default (enforce)"; another security module's label has no such end, and without one it is an error.
    name, mode, _ = _said(here / "attr/current").strip().partition(" (enforce)")
    return name if mode else ""


def _mounts(here: Path) -> tuple[MountPoint, ...]:
    return mountinfo.parse(_text(here / "mountinfo"))


def _said(path: Path) -> str:
    try:
        return _text(path)
    except OSError:
        return ""


def _text(path: Path) -> str:
    # File names are bytes to the kernel.
    return path.read_text(encoding="utf-8", errors="surrogateescape")
