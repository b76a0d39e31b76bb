"""System calls by their numbers, for what Python and even libc have no word for."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.blocks.probes.battery import Absent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflowmaster.blocks.probes.battery import Outside

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

# Generic numbers are those that all younger architectures share; calls since 424 have one number everywhere.
_SHARED = {
    "io_uring_setup": 425, "open_tree": 428, "fsopen": 430, "fspick": 433, "pidfd_open": 434, "clone3": 435,
    "openat2": 437, "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
_X86_64 = {
    "shmget": 29, "socket": 41, "clone": 56, "semget": 64, "msgget": 68, "ptrace": 101, "syslog": 103,
    "capset": 126, "personality": 135, "sysfs": 139, "modify_ldt": 154, "pivot_root": 155, "adjtimex": 159,
    "chroot": 161, "acct": 163, "mount": 165, "umount2": 166, "swapon": 167, "reboot": 169, "sethostname": 170,
    "iopl": 172, "ioperm": 173, "init_module": 175, "io_setup": 206, "set_mempolicy": 238, "mq_open": 240,
    "add_key": 248, "request_key": 249, "keyctl": 250, "ioprio_set": 251, "unshare": 272, "inotify_init1": 294,
    "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "kcmp": 312, "memfd_create": 319, "bpf": 321, "execveat": 322, "userfaultfd": 323,
    "pkey_alloc": 330,
}  # fmt: skip
_GENERIC = {
    "io_setup": 0, "inotify_init1": 26, "ioprio_set": 30, "umount2": 39, "mount": 40, "pivot_root": 41,
    "chroot": 51, "acct": 89, "capset": 91, "personality": 92, "unshare": 97, "init_module": 105, "syslog": 116,
    "ptrace": 117, "reboot": 142, "sethostname": 161, "adjtimex": 171, "mq_open": 180, "msgget": 186, "semget": 190,
    "shmget": 194, "socket": 198, "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220, "swapon": 224,
    "set_mempolicy": 237, "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "kcmp": 272, "memfd_create": 279, "bpf": 280,
    "execveat": 281, "userfaultfd": 282, "pkey_alloc": 289,
}  # fmt: skip
NUMBERS = {"x86_64": _X86_64 | _SHARED, "aarch64": _GENERIC | _SHARED, "riscv64": _GENERIC | _SHARED}
"""Machine → call → number."""


def call(name: str, *args: int | bytes | ctypes.Array[ctypes.c_char]) -> int:
    """Make a system call and return what the kernel said; OSError, or Absent where this machine has no such call."""
    number = NUMBERS.get(platform.machine(), {}).get(name)
    if number is None:
        raise Absent(f"{name} has no number known here for {platform.machine()}")
    ctypes.set_errno(0)
    # As full words: what is passed as a C int leaves the upper half to chance.
    answer = int(LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args)))
    if answer == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


@contextlib.contextmanager
def reached(*numbers: int) -> Iterator[None]:
    """Take these errors as success: the kernel was past every check of rights, and stumbled over our empty words.

    For calls whose success would do harm: the right is asked first, and only then what is wanted.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def alone_in(flag: int) -> None:
    """Enter a namespace of our own where that is possible, so that an unrestricted container harms nobody.

    Where it is not possible, the container has one of its own already, and what follows is refused or stays inside.
    """
    with contextlib.suppress(OSError):
        call("unshare", flag)


# Five registers by the kernel's 32-bit door: eax, ebx, ecx, edx, esi from rdi, rsi, rdx, rcx, r8; rbx is ours to keep.
_INT80 = bytes.fromhex("53 89f8 89f3 4489c6 4189c9 89d1 4489ca cd80 5b c3")


def call32(number: int, *args: int) -> int:
    """Make a call of the 32-bit table, which has numbers of its own that a careless filter does not look at."""
    if platform.machine() != "x86_64":
        raise Absent("only x86-64 has a second, 32-bit table of calls")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_INT80)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    door = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * 5)(start)
    answer = int(door(number, *(*args, 0, 0, 0, 0)[:4]))
    if -4096 < answer < 0:
        raise OSError(-answer, os.strerror(-answer))
    return answer


def low_memory(data: bytes) -> int:
    """Put bytes where a 32-bit pointer reaches and return their address."""
    low = 0x40  # MAP_32BIT
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    where = int(LIBC.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, 0x22 | low, -1, 0))
    if where >= 1 << 32:
        raise OSError(errno.ENOMEM, "no memory below 4 GiB")
    ctypes.memmove(where, data, len(data))
    return where


def words(*numbers: int) -> ctypes.Array[ctypes.c_char]:
    """Return a buffer of 64-bit words, as most of the kernel's structures are made of."""
    return ctypes.create_string_buffer(struct.pack(f"{len(numbers)}Q", *(n & (1 << 64) - 1 for n in numbers)))


def failed(number: int, words: str = "") -> OSError:
    """Return the error to raise where the kernel said yes and did no."""
    return OSError(number, words or os.strerror(number))


def foreign(outside: Outside) -> int:
    """Return the number of a process outside, or 1 where none is to be seen: pid 1 is the nearest to it."""
    try:
        ours = outside.mark.encode() in Path(f"/proc/{outside.pid}/cmdline").read_bytes()
    except OSError:
        return 1
    # The same number may be another's in here.
    return outside.pid if ours else 1
