"""Capabilities: what only root may do, each in the form that does least where it is allowed.

An unrestricted container really could set the clock or load a module, so nothing here does. Where no harmless form
succeeds, the call is given words that the kernel refuses only after it has looked at the right: `reached`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import struct
from pathlib import Path

from workflowmaster.blocks.probes.battery import ALWAYS, Absent, Outside, probe
from workflowmaster.blocks.probes.kernel import LIBC, alone_in, call, call32, failed, reached

NEWUTS, NEWNET = 0x04000000, 0x40000000


@probe("user >= workspace")
def become_root(_: Outside) -> None:
    """Become uid 0."""
    if os.getuid() == 0:
        return  # that is what it is to be unrestricted
    os.setuid(0)


@probe("seccomp >= S4")
def same_identity(_: Outside) -> None:
    """Call setuid, if only to what it is already."""
    os.setresuid(os.getuid(), os.getuid(), os.getuid())


@probe("user >= workspace")
def other_groups(_: Outside) -> None:
    """Join another group."""
    os.setgroups([0, 4])


@probe("no_new_privileges == true")
def setuid_program(_: Outside) -> None:
    """Gain root's rights by a setuid program."""
    tool = Path("/gift/id")
    if os.getuid() == 0:
        # The unrestricted container leaves it for the others. It can do nothing but say whose rights it has.
        shutil.copyfile(shutil.which("id") or "/usr/bin/id", tool)
        tool.chmod(0o4755)
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
    if not tool.exists():
        raise Absent("nobody has left one")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        os.execv(tool, [str(tool), "-u"])  # noqa: S606 - a shell would give the rights up
    os.close(write)
    with os.fdopen(read, "rb") as said:
        answer = said.read().strip()
    os.waitpid(child, 0)
    if answer != b"0":
        raise failed(errno.EPERM, f"it ran as uid {answer.decode() or 'nobody'}")


@probe(ALWAYS)
def all_capabilities(_: Outside) -> None:
    """Give itself every capability (capset)."""
    # Version 3 of the structure: effective, permitted, inheritable, in two halves of 32 bits.
    call("capset", struct.pack("2I", 0x20080522, 0), struct.pack("6I", 1 << 21, 1 << 21, 0, 0, 0, 0))


@probe("capabilities without SYS_ADMIN")
def host_name(_: Outside) -> None:
    """Change the host's name."""
    # To what it is already: should there be no name of its own, the host's stays what it was.
    alone_in(NEWUTS)
    name = socket.gethostname().encode()
    call("sethostname", name, len(name))


@probe("capabilities without SYS_TIME")
def clock(_: Outside) -> None:
    """Set the clock."""
    # ADJ_TICK with the tick it has: the right to set is asked, and nothing is changed.
    state = ctypes.create_string_buffer(512)
    call("adjtimex", state)
    ctypes.memmove(state, struct.pack("I", 0x4000), 4)
    call("adjtimex", state)


@probe("capabilities without SYS_MODULE")
def kernel_module(_: Outside) -> None:
    """Load a kernel module."""
    with reached(errno.ENOEXEC):  # nothing is no module, which is seen only by who may load one
        call("init_module", b"", 0, b"")


@probe("capabilities without SYS_BOOT")
def restart(_: Outside) -> None:
    """Restart the machine."""
    with reached(errno.EINVAL):  # without the magic numbers nothing happens
        call("reboot", 0, 0, 0, 0)


@probe("capabilities without SYS_PACCT")
def accounting(_: Outside) -> None:
    """Have the kernel write down every process that ends."""
    with reached(errno.ENOENT):
        call("acct", b"/nothing/here")


@probe("capabilities without SYS_RAWIO")
def hardware_ports(_: Outside) -> None:
    """Speak to hardware by its ports."""
    # Permission for one port in this child, which ends without using it.
    call("ioperm", 0x80, 1, 1)


@probe("capabilities without SYS_RAWIO")
def hardware_level(_: Outside) -> None:
    """Raise the privilege level of its input and output."""
    call("iopl", 3)


@probe("capabilities without SYS_NICE")
def priority(_: Outside) -> None:
    """Take precedence over everybody else on the machine."""
    os.nice(-1)


@probe("capabilities without SYS_NICE")
def real_time(_: Outside) -> None:
    """Be scheduled in real time, before everything else."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@probe("capabilities without SYS_ADMIN")
def disk_priority(_: Outside) -> None:
    """Be served by the disk before everybody else."""
    call("ioprio_set", 1, 0, 1 << 13)


@probe("capabilities without SYS_RESOURCE")
def survive_others(_: Outside) -> None:
    """Keep itself from being killed when memory runs out."""
    # One below what it has, in a child that was made the first to go.
    Path("/proc/self/oom_score_adj").write_text("-1", encoding="ascii")


@probe("capabilities without DAC_READ_SEARCH")
def open_by_handle(_: Outside) -> None:
    """Open a file by its number, past every folder (the way out of the first containers)."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    mount = ctypes.create_string_buffer(8)
    call("name_to_handle_at", -100, b"/out", handle, mount, 0)
    os.close(call("open_by_handle_at", os.open("/out", os.O_RDONLY), handle, os.O_RDONLY))


@probe("capabilities without MKNOD")
def device_node(_: Outside) -> None:
    """Make a device node in /out."""
    path = Path("/out/null")
    path.unlink(missing_ok=True)
    os.mknod(path, 0o020666, os.makedev(1, 3))  # of /dev/null, which can do nothing
    path.unlink()


@probe("capabilities without MKNOD")
def disk_node(_: Outside) -> None:
    """Make a node of the host's disk and open it."""
    path = Path("/out/disk")
    lines = Path("/proc/partitions").read_text(encoding="ascii").splitlines()[2:]
    for major, minor, *_rest in map(str.split, lines):
        path.unlink(missing_ok=True)
        os.mknod(path, 0o060600, os.makedev(int(major), int(minor)))
        with contextlib.suppress(OSError):
            # Opened for reading, and not read. Some open for nobody.
            os.close(os.open(path, os.O_RDONLY))
            return path.unlink()
    raise failed(errno.ENODEV, f"none of {len(lines)} disks opens")


@probe("capabilities without NET_ADMIN")
def network_interface(_: Outside) -> None:
    """Change a network interface."""
    alone_in(NEWNET)
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        # SIOCGIFMTU, then SIOCSIFMTU with the same answer, on loopback.
        now = fcntl.ioctl(any_socket, 0x8921, struct.pack("16s24x", b"lo"))
        fcntl.ioctl(any_socket, 0x8922, now)


@probe("capabilities without SYS_PTRACE")
def compare_kernel_objects(_: Outside) -> None:
    """Compare objects of the kernel by their addresses (kcmp)."""
    call("kcmp", os.getpid(), os.getppid(), 0, 0, 0)


@probe("capabilities without SYS_PTRACE")
def steal_descriptor(_: Outside) -> None:
    """Take an open file out of another process (pidfd_getfd)."""
    os.close(call("pidfd_getfd", call("pidfd_open", os.getppid(), 0), 0, 0))


@probe("capabilities without SYS_NICE")
def memory_policy(_: Outside) -> None:
    """Say on which node of the machine memory is to lie."""
    call("set_mempolicy", 0, 0, 0)


@probe("seccomp >= S0")
def namespace_32_bit(_: Outside) -> None:
    """Make a user namespace by the kernel's 32-bit door."""
    call32(310, 0x10000000)


@probe(ALWAYS)
def keep_capabilities(_: Outside) -> None:
    """Raise a capability that survives the start of a program (ambient)."""
    # Of a process that has it: permitted and inheritable first, in this child alone.
    call("capset", struct.pack("2I", 0x20080522, 0), struct.pack("6I", 1, 1, 1, 0, 0, 0))
    if LIBC.prctl(47, 2, 0, 0, 0):  # PR_CAP_AMBIENT, RAISE, CAP_CHOWN
        raise failed(ctypes.get_errno())
