"""The kernel's files in /proc and /sys: what they tell of the host, and what is steered by writing to them.

Nothing is written: to have opened a file for writing is the success.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from workflowmaster.blocks.probes.battery import ALWAYS, Absent, Outside, probe
from workflowmaster.blocks.probes.kernel import failed


def _writable(name: str) -> None:
    if not Path(name).exists():
        raise Absent(f"the kernel has no {name}")
    os.close(os.open(name, os.O_WRONLY))


def _first(folder: str, pattern: str) -> str:
    found = next(iter(sorted(Path(folder).glob(pattern))), None)
    if found is None:
        raise Absent(f"the kernel has no {folder}/{pattern}")
    return str(found)


def _told(name: str) -> bytes:
    """Read the beginning of a file; a masked one is empty."""
    if not (data := _beginning(name)):
        raise failed(errno.ENODATA, "it is empty here")
    return data


def _beginning(name: str) -> bytes:
    with Path(name).open("rb", buffering=0) as file:
        return file.read(4096)


@probe(ALWAYS)
def core_pattern(_: Outside) -> None:
    """Say which program the host runs, as root, when something crashes."""
    _writable("/proc/sys/kernel/core_pattern")


@probe(ALWAYS)
def module_loader(_: Outside) -> None:
    """Say which program the host runs to load a module."""
    _writable("/proc/sys/kernel/modprobe")


@probe(ALWAYS)
def foreign_programs(_: Outside) -> None:
    """Say what the host runs foreign programs with (binfmt_misc)."""
    _writable("/proc/sys/fs/binfmt_misc/register")


@probe(ALWAYS)
def hot_plug(_: Outside) -> None:
    """Say what the host runs when a device comes (uevent_helper)."""
    _writable("/sys/kernel/uevent_helper")


@probe(ALWAYS)
def kernel_settings(_: Outside) -> None:
    """Change how the kernel gives memory out."""
    _writable("/proc/sys/vm/overcommit_memory")


@probe(ALWAYS)
def drop_caches(_: Outside) -> None:
    """Slow the whole machine down by emptying its caches."""
    _writable("/proc/sys/vm/drop_caches")


@probe(ALWAYS)
def forward_packets(_: Outside) -> None:
    """Become a router."""
    _writable("/proc/sys/net/ipv4/ip_forward")


@probe(ALWAYS)
def system_request(_: Outside) -> None:
    """Send the kernel a system request (sysrq-trigger)."""
    _writable("/proc/sysrq-trigger")


@probe(ALWAYS)
def interrupts(_: Outside) -> None:
    """Say which core answers interrupts."""
    _writable("/proc/irq/default_smp_affinity")


@probe(ALWAYS)
def large_pages(_: Outside) -> None:
    """Change the machine's use of large pages (/sys)."""
    _writable("/sys/kernel/mm/transparent_hugepage/enabled")


@probe(ALWAYS)
def device_events(_: Outside) -> None:
    """Make the kernel tell the host of a device that is none (uevent)."""
    _writable(_first("/sys/devices", "virtual/mem/null/uevent"))


@probe(ALWAYS)
def disk_settings(_: Outside) -> None:
    """Change how the host reads its disk."""
    _writable(_first("/sys/block", "*/queue/read_ahead_kb"))


@probe(ALWAYS)
def own_limits(_: Outside) -> None:
    """Raise its own limits in its control group."""
    root = Path("/sys/fs/cgroup")
    found = next((path for path in (root / "memory/memory.limit_in_bytes", root / "memory.max") if path.exists()), None)
    if found is None:
        # Version 2 shows no limit at the root, so any file that moves processes stands for it.
        found = root / "cgroup.procs"
    _writable(str(found))


@probe(ALWAYS)
def release_agent(_: Outside) -> None:
    """Say which program the host runs, as root, when a control group is empty (release_agent)."""
    _writable(_first("/sys/fs/cgroup", "*/release_agent"))


@probe(ALWAYS)
def own_control_group(_: Outside) -> None:
    """Make a control group of its own."""
    root = Path("/sys/fs/cgroup")
    # Version 1 has a folder for each controller and nothing may be made beside them.
    folder = root / "pids" if (root / "pids").is_dir() else root
    made = folder / f"wm-probe-{os.getpid()}"
    made.mkdir()
    made.rmdir()


@probe(ALWAYS)
def kernel_memory(_: Outside) -> None:
    """Read the kernel's memory (/proc/kcore)."""
    _told("/proc/kcore")


@probe(ALWAYS)
def kernel_addresses(_: Outside) -> None:
    """Learn where in memory the kernel's functions are (kallsyms)."""
    if not any(int(line.split()[0], 16) for line in _told("/proc/kallsyms").splitlines()[:8]):
        raise failed(errno.EPERM, "all addresses are zero here")


@probe(ALWAYS)
def list_keys(_: Outside) -> None:
    """List the keys in the kernel's keyrings, the host's among them."""
    _told("/proc/keys")


@probe(ALWAYS)
def timers(_: Outside) -> None:
    """See the host's timers, and so what it is doing."""
    _told("/proc/timer_list")


@probe(ALWAYS)
def page_states(_: Outside) -> None:
    """See who uses which page of the machine's memory (kpagecount)."""
    _told("/proc/kpagecount")


@probe(ALWAYS)
def firmware(_: Outside) -> None:
    """Read the machine's firmware tables."""
    if not list(Path("/sys/firmware").iterdir()):
        raise failed(errno.ENODATA, "it is empty here")


@probe(ALWAYS)
def kernel_tracing(_: Outside) -> None:
    """See what the kernel does, by its tracing files."""
    if not list(Path("/sys/kernel/debug").iterdir()):
        raise failed(errno.ENODATA, "it is empty here")


@probe(ALWAYS)
def slab_statistics(_: Outside) -> None:
    """See which kernel objects the host has, for grooming its memory."""
    _told("/proc/slabinfo")


@probe()
def command_line(_: Outside) -> None:
    """Read what the host's kernel was started with."""
    _told("/proc/cmdline")


@probe()
def machine_load(_: Outside) -> None:
    """See how busy the machine is, and how much memory it has."""
    _told("/proc/loadavg")
    _told("/proc/meminfo")
