"""Namespaces: making new ones, in which one is root, and entering or looking into those of the host."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

from workflowmaster.blocks.probes.battery import ALWAYS, Outside, probe
from workflowmaster.blocks.probes.kernel import call, failed, foreign

NEW = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "network": 0x40000000,
    "pid": 0x20000000,
    "host-name": 0x04000000,
    "message": 0x08000000,
    "group": 0x02000000,
    "time": 0x00000080,
}
NO_ADMIN = "capabilities without SYS_ADMIN"


def _unshared(flag: int) -> None:
    # In this child alone, which ends right after.
    call("unshare", flag)


@probe(NO_ADMIN)
def new_user_namespace(_: Outside) -> None:
    """Become root of a user namespace of its own."""
    _unshared(NEW["user"])


@probe(NO_ADMIN)
def new_mount_namespace(_: Outside) -> None:
    """Get a tree of mounts of its own."""
    _unshared(NEW["mount"])


@probe(NO_ADMIN)
def new_network_namespace(_: Outside) -> None:
    """Get a network of its own, with its own firewall to attack the kernel by."""
    _unshared(NEW["network"])


@probe(NO_ADMIN)
def new_pid_namespace(_: Outside) -> None:
    """Get process numbers of its own."""
    _unshared(NEW["pid"])


@probe(NO_ADMIN)
def new_host_name_namespace(_: Outside) -> None:
    """Get a host name of its own."""
    _unshared(NEW["host-name"])


@probe(NO_ADMIN)
def new_message_namespace(_: Outside) -> None:
    """Get System V objects of its own."""
    _unshared(NEW["message"])


@probe(NO_ADMIN)
def new_group_namespace(_: Outside) -> None:
    """Get a view of the control groups of its own."""
    _unshared(NEW["group"])


@probe(NO_ADMIN)
def new_time_namespace(_: Outside) -> None:
    """Get clocks of its own."""
    _unshared(NEW["time"])


@probe(NO_ADMIN)
def clone_user_namespace(_: Outside) -> None:
    """Make a child in a new user namespace (clone)."""
    child = call("clone", NEW["user"] | 17, 0, 0, 0, 0)  # 17 is SIGCHLD
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@probe(NO_ADMIN)
def clone3_user_namespace(_: Outside) -> None:
    """Make a child in a new user namespace with clone3, whose flags no filter can see."""
    child = call("clone3", struct.pack("8Q", NEW["user"], 0, 0, 0, 17, 0, 0, 0), 64)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@probe(NO_ADMIN)
def enter_mounts(outside: Outside) -> None:
    """Enter another process's tree of mounts."""
    _entered(outside, "mnt", NEW["mount"])


@probe(NO_ADMIN)
def enter_network(outside: Outside) -> None:
    """Enter another process's network."""
    _entered(outside, "net", NEW["network"])


def _entered(outside: Outside, kind: str, flag: int) -> None:
    # In the unrestricted container they are the host's own; this child looks at nothing in them and ends.
    call("setns", os.open(f"/proc/{foreign(outside)}/ns/{kind}", os.O_RDONLY), flag)


@probe(ALWAYS)
def see_host_process(outside: Outside) -> None:
    """See a process of the host."""
    if foreign(outside) != outside.pid:
        raise failed(errno.ESRCH)


@probe(ALWAYS)
def signal_host_process(outside: Outside) -> None:
    """Reach a process of the host with a signal."""
    see_host_process(outside)
    # Signal 0 asks only whether one could.
    os.kill(outside.pid, 0)


@probe(ALWAYS)
def hosts_name(outside: Outside) -> None:
    """Learn the host's name from the kernel."""
    if socket.gethostname() != outside.hostname:
        raise failed(errno.ENOENT, "it has a name of its own")


@probe()
def count_neighbours(_: Outside) -> None:
    """See the processes of the same container, the product's own shell among them."""
    if not Path(f"/proc/{os.getppid()}/cmdline").read_bytes():
        raise failed(errno.ESRCH)
