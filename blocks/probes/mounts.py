"""Mounts: each in a mount namespace of its own where one can be had, so that nothing stays."""

from __future__ import annotations

import os
from pathlib import Path

from workflowmaster.blocks.probes.battery import Outside, probe
from workflowmaster.blocks.probes.kernel import alone_in, call, reached

NEWNS, NEWUSER = 0x00020000, 0x10000000
BIND, REMOUNT, PRIVATE, REC, RDONLY = 0x1000, 0x20, 1 << 18, 0x4000, 1
NO_ADMIN = "capabilities without SYS_ADMIN"


def _apart() -> None:
    """Leave the container's mounts, and keep what is mounted here from spreading to them."""
    alone_in(NEWNS)
    # Also what asks for the right to mount in every probe below; where it is refused, so is the probe.
    call("mount", b"none", b"/", 0, REC | PRIVATE, 0)


def _mount(kind: bytes, target: str = "/mnt", options: bytes = b"", flags: int = 0, source: bytes = b"none") -> None:
    _apart()
    call("mount", source, target.encode(), kind, flags, options or 0)


@probe(NO_ADMIN)
def mount_memory(_: Outside) -> None:
    """Mount a file system in memory."""
    _mount(b"tmpfs")


@probe(NO_ADMIN)
def mount_processes(_: Outside) -> None:
    """Mount a second /proc, without the masks of the first."""
    _mount(b"proc")


@probe(NO_ADMIN)
def mount_devices(_: Outside) -> None:
    """Mount all device nodes (devtmpfs)."""
    _mount(b"devtmpfs")


@probe(NO_ADMIN)
def mount_debugging(_: Outside) -> None:
    """Mount the kernel's debugging files (debugfs)."""
    _mount(b"debugfs")


@probe(NO_ADMIN)
def mount_control_groups(_: Outside) -> None:
    """Mount the control groups, the way out by release_agent."""
    _mount(b"cgroup2")


@probe(NO_ADMIN)
def mount_overlay(_: Outside) -> None:
    """Mount a writable layer over the image's /usr."""
    _apart()
    call("mount", b"none", b"/mnt", b"tmpfs", 0, 0)
    for name in ("up", "work", "all"):
        Path(f"/mnt/{name}").mkdir()
    call("mount", b"none", b"/mnt/all", b"overlay", 0, b"lowerdir=/usr,upperdir=/mnt/up,workdir=/mnt/work")


@probe(NO_ADMIN)
def bind_over_passwd(_: Outside) -> None:
    """Put another file in the place of /etc/passwd."""
    _apart()
    call("mount", b"/etc/hostname", b"/etc/passwd", 0, BIND, 0)


@probe(NO_ADMIN)
def remount_root(_: Outside) -> None:
    """Mount the root file system anew with other rights."""
    _apart()
    # To read-only in a namespace of its own: the right needed is the same, and nothing becomes writable by it.
    call("mount", b"none", b"/", 0, REMOUNT | BIND | RDONLY, 0)


@probe(NO_ADMIN)
def unmount_exchange(_: Outside) -> None:
    """Take /wm away to see what lies below."""
    alone_in(NEWNS)
    call("mount", b"none", b"/", 0, REC | PRIVATE, 0)
    call("umount2", b"/wm", 2)  # MNT_DETACH


@probe(NO_ADMIN)
def change_root(_: Outside) -> None:
    """Swap the root file system for another (pivot_root)."""
    _mount(b"tmpfs")
    os.chdir("/mnt")
    call("pivot_root", b".", b".")


@probe(NO_ADMIN)
def new_file_system(_: Outside) -> None:
    """Make a file system by the newer calls (fsopen)."""
    os.close(call("fsopen", b"tmpfs", 0))


@probe(NO_ADMIN)
def pick_file_system(_: Outside) -> None:
    """Take hold of a mounted file system to change it (fspick)."""
    os.close(call("fspick", -100, b"/", 0))


@probe(NO_ADMIN)
def clone_tree(_: Outside) -> None:
    """Copy the tree of mounts (open_tree)."""
    alone_in(NEWNS)
    os.close(call("open_tree", -100, b"/", 1))  # OPEN_TREE_CLONE


@probe(NO_ADMIN)
def mount_attributes(_: Outside) -> None:
    """Change a mount by the newest call (mount_setattr)."""
    alone_in(NEWNS)
    # No attribute at all: the right is looked at first.
    call("mount_setattr", -100, b"/", 0, bytes(32), 32)


@probe(NO_ADMIN)
def mount_as_own_root(_: Outside) -> None:
    """Become root of a user namespace and mount there."""
    call("unshare", NEWUSER | NEWNS)
    call("mount", b"none", b"/mnt", b"tmpfs", 0, 0)


@probe("capabilities without SYS_CHROOT")
def other_root(_: Outside) -> None:
    """Take a folder for the root (chroot)."""
    call("chroot", b"/usr")


@probe(NO_ADMIN)
def swap_space(_: Outside) -> None:
    """Have the kernel swap to a file."""
    with reached(2):  # ENOENT: there is no such file, which is asked after the right
        call("swapon", b"/nothing/here", 0)
