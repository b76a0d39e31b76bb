"""Devices of the host. Each is opened and closed again; nothing is read, written or asked of it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from workflowmaster.blocks.probes.battery import ALWAYS, Absent, Outside, probe
from workflowmaster.blocks.probes.kernel import failed


def _opened(name: str, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(name, flags | os.O_NOCTTY | os.O_NONBLOCK))


@probe(ALWAYS)
def kernel_messages(_: Outside) -> None:
    """Open the kernel's messages (/dev/kmsg)."""
    _opened("/dev/kmsg")


@probe(ALWAYS)
def host_disk(_: Outside) -> None:
    """Open a disk of the host."""
    disks = [path for path in Path("/dev").iterdir() if stat.S_ISBLK(path.lstat().st_mode)]
    for path in sorted(disks):
        # Not the first of them alone: some open for nobody, such as a drive without a disk in it.
        with contextlib.suppress(OSError):
            return _opened(str(path))
    raise failed(errno.ENODEV, f"none of {len(disks)} block devices opens")


@probe(ALWAYS)
def physical_memory(_: Outside) -> None:
    """Open the machine's memory (/dev/mem)."""
    _opened("/dev/mem")


@probe(ALWAYS)
def loop_devices(_: Outside) -> None:
    """Turn a file into a disk (/dev/loop-control)."""
    _opened("/dev/loop-control", os.O_RDWR)


@probe(ALWAYS)
def tunnel(_: Outside) -> None:
    """Make a network interface (/dev/net/tun)."""
    _opened("/dev/net/tun", os.O_RDWR)


@probe(ALWAYS)
def own_file_system(_: Outside) -> None:
    """Be a file system (/dev/fuse)."""
    _opened("/dev/fuse", os.O_RDWR)


@probe(ALWAYS)
def virtual_machines(_: Outside) -> None:
    """Start virtual machines (/dev/kvm)."""
    _opened("/dev/kvm", os.O_RDWR)


@probe(ALWAYS)
def page_fault_device(_: Outside) -> None:
    """Handle page faults by the device that seccomp does not see (/dev/userfaultfd)."""
    _opened("/dev/userfaultfd", os.O_RDWR)


@probe(ALWAYS)
def hypervisor_device(_: Outside) -> None:
    """Ask the hypervisor for its address (/dev/vsock)."""
    _opened("/dev/vsock")


@probe(ALWAYS)
def console(_: Outside) -> None:
    """Open the machine's console (/dev/tty0)."""
    _opened("/dev/tty0", os.O_WRONLY)


@probe(ALWAYS)
def hardware_random(_: Outside) -> None:
    """Open the machine's source of random numbers (/dev/hwrng)."""
    _opened("/dev/hwrng")


@probe()
def own_terminal(_: Outside) -> None:
    """Have a pseudo terminal of its own (/dev/ptmx)."""
    if not Path("/dev/ptmx").exists():
        raise Absent("the image has no /dev/ptmx")
    _opened("/dev/ptmx", os.O_RDWR)
