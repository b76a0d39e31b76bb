"""Folders that cannot hold more than they may: a file with a file system in it, mounted where the folder was.

A bind mount has no size of its own, so what a step leaves in `/out` could fill the host's disk. A loop-mounted file of
exactly the cap makes the limit the kernel's: the write that goes past it fails with ENOSPC, at that byte, whatever the
step tries. It costs about 10 ms, spent while the container is being parked anyway. An engine volume of type tmpfs would
need no root, but counts as the container's memory and is empty once the container has ended. The accepted cost is root
on the engine's own host; elsewhere `growth` watches instead, which is later and less exact. And a mount outlives a
killed process, so whoever sweeps must know of it: see `release`, and docs/decisions/009-bounded-disk.md.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.blocks import mountinfo
from workflowmaster.blocks.engine import SandboxUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from workflowmaster.policies import SecurityPolicy

LEAST = 1 << 20
"""Bytes below which a file system would be mostly its own tables; a smaller cap is watched instead."""

SECONDS = 60.0
"""How long making, mounting or unmounting may take on a disk that is busy."""

# No journal: nobody recovers a step's folder after a crash. No reserve for root, no room to grow, and no discard of a
# file that is new. The inode tables are sparse until they are used, so a file of 2 GB takes 2 MB of disk.
MKFS = ("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-O", "^has_journal,^resize_inode")

BYTES_PER_INODE = 16384
LEAST_INODES = 256
"""How many files a bounded folder may hold: one for each so many bytes, which costs one and a half in a hundred."""

NEXT_TO_NONE = 16
"""Blocks that may be left in a folder that counts as full."""

PROGRAMS = ("mkfs.ext4", "mount", "umount")
CONTROL = Path("/dev/loop-control")
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Bound:
    """What a bounded folder may hold."""

    size: int
    """Bytes of the file, the file system's own tables and reserve included: about four in a hundred."""
    exec: bool = False
    """Whether programs may be run from it."""


def usable(*, local: bool) -> bool:
    """Return whether this process can bound a folder that the engine then sees; `local` is the engine's own word."""
    return local and os.geteuid() == 0 and CONTROL.exists() and all(map(_found, PROGRAMS))


def bound_of(policy: SecurityPolicy, *, local: bool) -> Bound | None:
    """Return how `/out` is bounded under a policy; None where nothing bounds it, or the growth watcher must."""
    size = smallest(policy.result_cap, policy.disk)
    if policy.result_cap is None or size is None or size < LEAST or not usable(local=local):
        return None
    # Where the scratch directory holds no programs, a second directory that does would make that promise worthless.
    return Bound(size, exec=policy.tmp is None or policy.tmp.exec)


def smallest(*caps: int | None) -> int | None:
    """Return the smallest of the caps that are there; None if none is."""
    return min((cap for cap in caps if cap is not None), default=None)


def create(folder: Path, bound: Bound, user: tuple[int, int]) -> None:
    """Mount a new, empty file system of that size at an existing folder; it belongs to `user`.

    What an earlier attempt mounted there goes. Its file lies beside the folder, `NAME.ext4`. SandboxUnavailable `disk`
    if it cannot be made.
    """
    image = image_of(folder)
    try:
        # A new file each time: an earlier one may be mounted still, and two file systems on one file destroy it.
        release(folder)
        image.unlink(missing_ok=True)
        with image.open("xb") as file:
            file.truncate(bound.size)
        inodes = max(bound.size // BYTES_PER_INODE, LEAST_INODES)
        _run(*MKFS, "-N", f"{inodes}", "-E", f"lazy_itable_init=1,nodiscard,root_owner={user[0]}:{user[1]}", str(image))
        options = ["loop", "nosuid", "nodev", "noatime", *([] if bound.exec else ["noexec"])]
        _run("mount", "-t", "ext4", "-o", ",".join(options), str(image), str(folder))
        (folder / "lost+found").rmdir()
    except (OSError, subprocess.SubprocessError) as error:
        release(folder)
        image.unlink(missing_ok=True)
        raise SandboxUnavailable(
            f"no file system of {bound.size:,} bytes could be made for {folder}: {_words(error)}", reason="disk"
        ) from error


def image_of(folder: Path) -> Path:
    """Return where the file of a bounded folder lies."""
    return folder.with_name(f"{folder.name}.ext4")


def is_mounted(folder: Path) -> bool:
    """Return whether a file system is mounted at this very folder."""
    return folder.resolve() in mounted(folder)


def is_full(folder: Path) -> bool:
    """Return whether a bounded folder has no room left: no inode, or next to no block."""
    room = os.statvfs(folder)
    # Not zero: the kernel refuses a write already when what the tables may need is all there is.
    return not room.f_favail or room.f_bavail <= NEXT_TO_NONE + room.f_blocks // 256


def confirm(pidfd: int, folder: Path, target: str, beside: Iterable[str] = ()) -> None:
    """Make sure that a container sees the bounded folder and not the empty one below it.

    An engine in a mount namespace of its own would bind what it sees there: a folder without a limit. `beside` are the
    pids of other processes that reach the container's files for it, as gVisor's do; before go none is the step's.
    SandboxUnavailable `mount` then, and where there is no `pidfd` (below 0) to look through.
    """
    for one in (_pid(pidfd), *beside):
        with suppress(OSError):
            if one and Path(f"/proc/{one}/root{target}").stat().st_dev == folder.stat().st_dev:
                return
    if _dead(pidfd):
        return  # whoever reads it will tell why; asked last, because it may die while it is looked at
    raise SandboxUnavailable(
        f"the engine does not see what this process mounts, so {target} would have no limit: run both in one mount "
        "namespace, or run as a user who is not root (the size is watched then)",
        reason="mount",
    )


def mounted(below: Path) -> list[Path]:
    """Return what is mounted at or below a folder, the deepest and latest first."""
    top = str(below.resolve())
    return [Path(at) for at in reversed(list(_mount_points())) if at == top or at.startswith(f"{top}/")]


def release(folder: Path) -> list[Path]:
    """Unmount everything at or below a folder and return what it was; files and folders stay.

    Lazily: a descriptor somebody still holds keeps the file system alive and not the mount, and the loop device goes
    with the last of them. What cannot be unmounted stays, and is told by `mounted`.
    """
    if os.geteuid():
        return []
    found = mounted(folder)
    for place in found:
        with suppress(OSError, subprocess.SubprocessError):
            _run("umount", "-l", str(place))
    return found


def _mount_points() -> Iterator[str]:
    """Yield where things are mounted, as this process sees it, in the order in which they were."""
    try:
        text = MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return  # no Linux, so nothing of ours is mounted
    yield from (mount.target for mount in mountinfo.parse(text))


def _pid(pidfd: int) -> str:
    """Return the pid behind a descriptor: `-1` if it is dead, empty if there is no descriptor."""
    if pidfd < 0:
        return ""
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return next((line.split()[1] for line in lines if line.startswith("Pid:")), "")


def _dead(pidfd: int) -> bool:
    """Whether the process behind a descriptor has ended. Its pid says so only once somebody has taken note of it."""
    if pidfd < 0:
        return False
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _found(program: str) -> bool:
    # Debian keeps them where a user's PATH does not look.
    return shutil.which(program, path=_path()) is not None


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _run(*argv: str) -> None:
    """Run a program of the system; OSError or SubprocessError if it does not do its work."""
    environment = {**os.environ, "PATH": _path(), "LC_ALL": "C"}
    subprocess.run(argv, check=True, capture_output=True, timeout=SECONDS, env=environment, stdin=subprocess.DEVNULL)


def _words(error: OSError | subprocess.SubprocessError) -> str:
    said = getattr(error, "stderr", None)
    return said.decode(errors="replace").strip() if said else str(error)
