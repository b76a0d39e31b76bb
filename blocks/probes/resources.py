"""Resources, in amounts just above each policy's limit: a bound that nothing runs into is a number in a file.

Amounts that the host could not bear are not taken anywhere: the probe is void there. What counts as the judge is the
kernel's refusal, or that the probe is killed; so each is the first to be killed when memory runs out.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from workflowmaster.blocks.probes.battery import ALWAYS, Absent, Outside, probe, sizes
from workflowmaster.blocks.probes.kernel import LIBC, failed

MEGA = 1 << 20
TMP = Path("/tmp")  # noqa: S108 - the container's own
POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, which Python has no name for."""
LOOKED = 6.0
"""Seconds in which whoever watches what files grow by has looked; he does so several times a second."""

OUTLIVED = 6.0
"""Seconds that `outlive` wants: longer than the wall time, and the grace after it, together."""


def _affordable(size: int, free: int) -> None:
    # Twice, because an unrestricted container on a busy machine must leave room for everybody else.
    if 2 * size > free:
        raise Absent("the host has not twice as much to spare")


def _grow(folder: Path, megabytes: int, seconds: float = 0.0) -> None:
    """Take space in a folder without writing it, and give it back."""
    path = folder / f"grown-{os.getpid()}"
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, megabytes * MEGA)
            time.sleep(seconds)
    finally:
        path.unlink(missing_ok=True)


def _patience(outside: Outside, name: str) -> float:
    return LOOKED if name in outside.watched else 0.0


@sizes({300: ["memory <= 256m"], 1200: ["memory <= 1g"], 2200: ["memory <= 2g"]}, unit="m", lane="memory")
def memory(outside: Outside, megabytes: int) -> None:
    """Use {amount} MiB of memory."""
    _affordable(megabytes * MEGA, outside.memory)
    with mmap.mmap(-1, megabytes * MEGA, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        with contextlib.suppress(OSError):
            # A tenth of the time, where the kernel has large pages.
            taken.madvise(mmap.MADV_HUGEPAGE)
        try:
            taken.madvise(POPULATE_WRITE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Linux before 5.14: memory is not taken before it is written to.
            for at in range(0, len(taken), mmap.PAGESIZE):
                taken[at] = 1


@sizes({80: ["pids <= 64"], 300: ["pids <= 256"], 600: ["pids <= 512"], 2200: ["pids <= 2048"]})
def threads(_: Outside, count: int) -> None:
    """Have {amount} threads at one time."""
    threading.stack_size(1 << 16)
    over = threading.Event()
    try:
        for _number in range(count):
            threading.Thread(target=over.wait, daemon=True).start()
    except RuntimeError as error:
        raise failed(errno.EAGAIN) from error
    finally:
        over.set()


@sizes({80: ["pids <= 64"], 300: ["pids <= 256"]})
def processes(_: Outside, count: int) -> None:
    """Have {amount} processes at one time."""
    for _number in range(count):
        if os.fork() == 0:
            signal.pause()


@sizes({300: ["nofile <= 256"], 1100: ["nofile <= 1024"], 5000: ["nofile <= 4096"], 17000: ["nofile <= 16384"]})
def open_files(_: Outside, count: int) -> None:
    """Have {amount} files open at one time."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for _number in range(count):
        os.dup(0)


@sizes(
    {70: ["tmp.size <= 64m"], 140: ["tmp.size <= 128m"], 520: ["tmp.size <= 512m"], 1100: ["tmp.size <= 1g"]}, unit="m"
)
def fill_tmp(outside: Outside, megabytes: int) -> None:
    """Leave {amount} MiB in /tmp."""
    _affordable(megabytes * MEGA, min(outside.memory, outside.disk))
    _grow(TMP, megabytes)


@sizes({4500: ["tmp.inodes <= 4096"], 8500: ["tmp.inodes <= 8192"]})
def crowd_tmp(_: Outside, count: int) -> None:
    """Leave {amount} files in /tmp."""
    folder = TMP / f"crowd-{os.getpid()}"
    folder.mkdir()
    at = os.open(folder, os.O_RDONLY)
    made = 0
    try:
        for made in range(count):  # how far it came is what has to be removed
            os.close(os.open(str(made), os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=at))
    finally:
        for number in range(made + 1):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(str(number), dir_fd=at)
        folder.rmdir()


@sizes(
    {20: ["shm <= 16m", "ipc >= none"], 70: ["shm <= 64m", "ipc >= none"], 300: ["shm <= 256m", "ipc >= none"]},
    unit="m",
)
def fill_shared_memory(outside: Outside, megabytes: int) -> None:
    """Leave {amount} MiB in /dev/shm."""
    _affordable(megabytes * MEGA, outside.memory)
    _grow(Path("/dev/shm"), megabytes)  # noqa: S108 - the container's own


@sizes({100: ["root_filesystem >= ro"], 8300: ["root_filesystem >= ro", "disk <= 8g"]}, unit="m", lane="layer")
def fill_layer(outside: Outside, megabytes: int) -> None:
    """Leave {amount} MiB in the container's own layer."""
    _affordable(megabytes * MEGA, outside.disk)
    _grow(Path("/var/tmp"), megabytes, _patience(outside, f"fill-layer-{megabytes}m"))  # noqa: S108 - that anybody may write there is what is probed


def _disk(smaller: int) -> list[str]:
    return [f"disk <= {smaller}m", f"result_cap <= {smaller}m"]


@sizes({70: _disk(64), 520: _disk(512), 2100: _disk(2048), 4200: _disk(4096), 8300: _disk(8192)}, unit="m", lane="out")
def fill_out(outside: Outside, megabytes: int) -> None:
    """Leave {amount} MiB in /out."""
    _affordable(megabytes * MEGA, outside.disk)
    _grow(Path("/out"), megabytes, _patience(outside, f"fill-out-{megabytes}m"))


@sizes(
    {
        70: ["workspace >= overlay"],
        2100: ["workspace >= overlay", "disk <= 2g"],
        4200: ["workspace >= overlay", "disk <= 4g"],
        8300: ["workspace >= overlay", "disk <= 8g"],
    },
    unit="m",
    lane="workspace",
)
def fill_workspace(outside: Outside, megabytes: int) -> None:
    """Leave {amount} MiB in the workspace."""
    _affordable(megabytes * MEGA, outside.disk)
    _grow(Path("/workspace"), megabytes, _patience(outside, f"fill-workspace-{megabytes}m"))


@probe("memlock <= 64k")
def lock_memory(_: Outside) -> None:
    """Keep a mebibyte of memory from ever being swapped."""
    page = ctypes.create_string_buffer(MEGA)
    if LIBC.mlock(page, ctypes.c_size_t(MEGA)):
        raise failed(ctypes.get_errno())


@probe("core <= 0")
def core_dump(_: Outside) -> None:
    """Leave its memory behind as a file when it crashes."""
    if Path("/proc/sys/kernel/core_pattern").read_bytes().startswith(b"|"):
        raise Absent("the host hands dumps to a program of its own, and would be told of a crash")
    folder = TMP / f"core-{os.getpid()}"
    folder.mkdir()
    os.chdir(folder)
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (most, most))
        os.kill(os.getpid(), signal.SIGQUIT)
        signal.pause()
    status = os.waitpid(child, 0)[1]
    for left in folder.iterdir():
        left.unlink()
    if not os.WCOREDUMP(status):
        raise failed(errno.EPERM, "no core was dumped")


@sizes(
    {2: ["output_cap <= 1m"], 9: ["output_cap <= 8m"], 17: ["output_cap <= 16m"], 66: ["output_cap <= 64m"]},
    unit="m",
    lane="output",
)
def print_much(_: Outside, megabytes: int) -> None:
    """Print {amount} MiB."""
    line = b"x" * 65535 + b"\n"
    for _number in range(megabytes * 16):
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


@probe(ALWAYS, lane="time")
def outlive(_: Outside) -> None:
    """Go on running after its wall time, in a session of its own, deaf to signals."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(OUTLIVED)
    os._exit(0)
