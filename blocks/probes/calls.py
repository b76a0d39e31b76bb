"""System calls that a tier of the seccomp profile takes away: kernel surface that steps do not need."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from pathlib import Path

from workflowmaster.blocks.probes.battery import Outside, probe
from workflowmaster.blocks.probes.kernel import alone_in, call, call32, failed, low_memory, words

TRACEME, ATTACH, DETACH = 0, 16, 17


def _other() -> int:
    """Start a child that only waits; it goes with this probe's session."""
    child = os.fork()
    if child == 0:
        signal.pause()
    return child


@probe("seccomp >= S0")
def kernel_program(_: Outside) -> None:
    """Keep data in the kernel for programs of its own (bpf)."""
    # An array of one value of four bytes; it goes with its descriptor.
    os.close(call("bpf", 0, struct.pack("4I", 2, 4, 4, 1) + bytes(112), 128))


@probe("seccomp >= S0")
def performance_events(_: Outside) -> None:
    """Measure by the kernel's performance counters."""
    # A software counter of this process: type 1, size 112, event 1 (task clock).
    attributes = struct.pack("2IQ", 1, 112, 1) + bytes(96)
    os.close(call("perf_event_open", attributes, 0, -1, -1, 0))


@probe("seccomp >= S0")
def keep_keys(_: Outside) -> None:
    """Put a key into the kernel's keyring, which knows no container."""
    call("add_key", b"user", b"wm-probe", b"x", 1, -2)  # -2: of this process, and gone with it


@probe("seccomp >= S0")
def list_keyrings(_: Outside) -> None:
    """Ask for the kernel's keyrings (keyctl)."""
    call("keyctl", 0, -2, 1)


@probe("seccomp >= S0")
def request_key(_: Outside) -> None:
    """Have the kernel look for a key."""
    try:
        call("request_key", b"user", b"wm-probe-none", 0, 0)
    except OSError as error:
        if error.errno != errno.ENOKEY:
            raise


@probe("seccomp >= S0")
def keys_32_bit(_: Outside) -> None:
    """Ask for the keyrings by the kernel's 32-bit door."""
    call32(288, 0, -2 & 0xFFFFFFFF, 1)


@probe("seccomp >= S0")
def page_faults(_: Outside) -> None:
    """Handle its own page faults, and so stop the kernel where it likes (userfaultfd)."""
    os.close(call("userfaultfd", 1))  # UFFD_USER_MODE_ONLY


@probe("seccomp >= S0")
def io_uring(_: Outside) -> None:
    """Set up an io_uring, which does what seccomp forbids."""
    os.close(call("io_uring_setup", 1, ctypes.create_string_buffer(120)))


@probe("seccomp >= S0")
def watch_file_system(_: Outside) -> None:
    """Watch a whole file system (fanotify)."""
    os.close(call("fanotify_init", 0, 0))


@probe("seccomp >= S0")
def same_addresses(_: Outside) -> None:
    """Switch the randomisation of addresses off (personality)."""
    call("personality", 0x0040000)


@probe("seccomp >= S0")
def list_file_systems(_: Outside) -> None:
    """Ask by a call that nobody has used for twenty years (sysfs)."""
    call("sysfs", 3)


@probe("seccomp >= S1")
def local_segments(_: Outside) -> None:
    """Have 16-bit segments (modify_ldt)."""
    call("modify_ldt", 0, ctypes.create_string_buffer(8), 8)


@probe("seccomp >= S1")
def read_neighbour(_: Outside) -> None:
    """Read the memory of another process (process_vm_readv)."""
    target, found = ctypes.create_string_buffer(b"wm-probe"), ctypes.create_string_buffer(8)
    ours, theirs = words(ctypes.addressof(found), 8), words(ctypes.addressof(target), 8)
    # A child has the same addresses.
    if call("process_vm_readv", _other(), ours, 1, theirs, 1, 0) != 8:
        raise failed(errno.EFAULT)


@probe("seccomp >= S1")
def sockets_32_bit(_: Outside) -> None:
    """Make a socket by the 32-bit door, where its family is behind a pointer (socketcall)."""
    os.close(call32(102, 1, low_memory(struct.pack("3I", 16, 3, 0))))


@probe("seccomp >= S1")
def setuid_32_bit(_: Outside) -> None:
    """Set a setuid bit by the 32-bit door."""
    path = Path("/out/suid-32")
    path.touch()
    call32(15, low_memory(bytes(path) + b"\0"), 0o4755)
    if not path.stat().st_mode & 0o4000:
        raise failed(errno.EPERM, "the bit was dropped")


@probe("seccomp >= S2")
def be_traced(_: Outside) -> None:
    """Let itself be steered (ptrace)."""
    call("ptrace", TRACEME, 0, 0, 0)


@probe("seccomp >= S2")
def steer_neighbour(_: Outside) -> None:
    """Steer another process (ptrace)."""
    # A child of this probe, never pid 1: in an unrestricted container that may be the host's.
    child = _other()
    call("ptrace", ATTACH, child, 0, 0)
    os.waitpid(child, 0)
    call("ptrace", DETACH, child, 0, 0)


@probe("seccomp >= S2")
def ask_personality(_: Outside) -> None:
    """Ask which system it is taken for (personality)."""
    call("personality", 0xFFFFFFFF)


@probe("seccomp >= S2")
def personality_32_bit(_: Outside) -> None:
    """Ask the same by the kernel's 32-bit door."""
    call32(136, 0xFFFFFFFF)


@probe("seccomp >= S3")
def shared_memory(_: Outside) -> None:
    """Have System V shared memory."""
    call("shmget", 0, 4096, 0o1600)  # IPC_PRIVATE


@probe("seccomp >= S3")
def semaphores(_: Outside) -> None:
    """Have System V semaphores."""
    call("semget", 0, 1, 0o1600)


@probe("seccomp >= S3")
def message_queue(_: Outside) -> None:
    """Have a System V message queue."""
    call("msgget", 0, 0o1600)


@probe("seccomp >= S3")
def posix_queue(_: Outside) -> None:
    """Have a POSIX message queue."""
    os.close(call("mq_open", f"wm-probe-{os.getpid()}".encode(), os.O_CREAT | os.O_RDWR, 0o600, 0))


@probe("seccomp >= S3")
def posix_queue_by_file(_: Outside) -> None:
    """Have a POSIX message queue without the call for it, by a file in /dev/mqueue."""
    folder = Path("/dev/mqueue")
    if not folder.is_dir():
        # The unrestricted container has the host's /dev, and mounts the queues itself.
        folder = Path("/mnt")
        alone_in(0x00020000)
        call("mount", b"none", b"/mnt", b"mqueue", 0, 0)
    path = folder / f"wm-probe-{os.getpid()}"
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    path.unlink()


@probe("seccomp >= S3")
def shared_memory_32_bit(_: Outside) -> None:
    """Have System V shared memory by the 32-bit door, where one call stands for all of them (ipc)."""
    call32(117, 23, 0, 4096, 0o1600)


@probe("seccomp >= S4")
def old_asynchronous_io(_: Outside) -> None:
    """Set up the kernel's old asynchronous input and output."""
    call("io_setup", 1, words(0))


@probe("seccomp >= S1")
def hidden_flags(_: Outside) -> None:
    """Open a file with flags that no filter can see (openat2)."""
    how = words(os.O_RDONLY, 0, 0)
    os.close(call("openat2", -100, b"/", how, len(how) - 1))


@probe("seccomp >= S0")
def kernel_log(_: Outside) -> None:
    """Read the kernel's log."""
    call("syslog", 3, ctypes.create_string_buffer(4096), 4096)


@probe()
def file_handle(_: Outside) -> None:
    """Learn a file's number below every folder (name_to_handle_at)."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    call("name_to_handle_at", -100, b"/out", handle, ctypes.create_string_buffer(8), 0)


@probe()
def neighbours_memory(_: Outside) -> None:
    """Read its parent's memory by /proc, as any process of the same user may."""
    # Also what the product's shell keeps: a step can lie about its own exit code, and about nothing else.
    maps = Path(f"/proc/{os.getppid()}/maps").read_text(encoding="ascii").splitlines()
    start = int(next(line for line in maps if " rw" in line).partition("-")[0], 16)
    with Path(f"/proc/{os.getppid()}/mem").open("rb", buffering=0) as memory:
        memory.seek(start)
        if not memory.read(1):
            raise failed(errno.EIO)
