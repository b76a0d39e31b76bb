"""The network: whom a step can reach, and which kinds of socket the kernel makes for it.

No probe needs the internet: the host listens for them, and routes are asked for by connecting a datagram socket, which
sends nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

from workflowmaster.blocks.probes.battery import ALWAYS, Absent, Outside, probe
from workflowmaster.blocks.probes.kernel import call, call32, failed, low_memory

NO_NETWORK = "network >= proxy-any"
SECONDS = 2.0


def _reach(address: str, port: int) -> None:
    with socket.create_connection((address, port), timeout=SECONDS):
        pass


def _route(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.connect((address, 9))


def _made(family: int, kind: int, protocol: int = 0, *, named: str = "") -> None:
    """Make such a socket. With the name of a family that is not loaded it is absent: asking would load its module."""
    if named and named not in Path("/proc/net/protocols").read_text(encoding="ascii").split():
        raise Absent("the kernel has not loaded such sockets")
    socket.socket(family, kind, protocol).close()


@probe(NO_NETWORK)
def reach_host(outside: Outside) -> None:
    """Reach what the host listens to on all its addresses."""
    if not outside.address:
        raise Absent("the host has no address")
    _reach(outside.address, outside.port)


@probe(ALWAYS)
def reach_host_loopback(outside: Outside) -> None:
    """Reach what the host listens to for itself alone."""
    _reach("127.0.0.1", outside.loopback_port)


@probe(ALWAYS)
def reach_abstract(outside: Outside) -> None:
    """Reach a UNIX socket of the host that lies in no folder."""
    with socket.socket(socket.AF_UNIX) as unix:
        unix.settimeout(SECONDS)
        unix.connect(f"\0{outside.abstract}")


@probe(NO_NETWORK)
def route_to_metadata(_: Outside) -> None:
    """Have a way to a cloud's metadata service, which gives out credentials."""
    _route("169.254.169.254")


@probe(NO_NETWORK)
def route_to_internet(_: Outside) -> None:
    """Have a way to public addresses that no proxy sees."""
    _route("198.51.100.1")


@probe(NO_NETWORK)
def route_to_neighbours(_: Outside) -> None:
    """Have a way to private addresses."""
    _route("10.11.12.13")


@probe(NO_NETWORK)
def broadcast(_: Outside) -> None:
    """Speak to everybody on its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        any_socket.connect(("255.255.255.255", 9))


@probe(NO_NETWORK)
def other_interface(_: Outside) -> None:
    """See a network interface other than its own loopback."""
    # What comes with the kernel's tunnel modules is down in every namespace, and leads nowhere.
    if not [name for _, name in socket.if_nameindex() if name != "lo" and _is_up(name)]:
        raise failed(errno.ENODEV)


def _is_up(name: str) -> bool:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = fcntl.ioctl(any_socket, 0x8913, struct.pack("16s24x", name.encode()))  # SIOCGIFFLAGS
    return bool(struct.unpack_from("H", flags, 16)[0] & 1)


@probe("capabilities without NET_RAW")
def raw_socket(_: Outside) -> None:
    """Send packets of its own making (raw socket)."""
    _made(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


@probe("capabilities without NET_RAW")
def packet_socket(_: Outside) -> None:
    """Read every packet on the wire (packet socket)."""
    _made(17, socket.SOCK_RAW)


@probe("seccomp >= S0")
def hypervisor_socket(_: Outside) -> None:
    """Speak to the hypervisor past every network namespace (AF_VSOCK)."""
    _made(40, socket.SOCK_STREAM, named="AF_VSOCK")


@probe("seccomp >= S0")
def hypervisor_socket_disguised(_: Outside) -> None:
    """Speak to the hypervisor with a family whose upper half, which only a filter looks at, is not zero."""
    os.close(call("socket", 40 | 1 << 32, socket.SOCK_STREAM, 0))


@probe("seccomp >= S1")
def hypervisor_socket_32_bit(_: Outside) -> None:
    """Speak to the hypervisor by the 32-bit door, where the family is behind a pointer."""
    os.close(call32(102, 1, low_memory(struct.pack("3I", 40, 1, 0))))


@probe("seccomp >= S0")
def disguised_family(_: Outside) -> None:
    """Make any socket with a family whose upper half is not zero."""
    os.close(call("socket", 16 | 1 << 32, socket.SOCK_RAW, 9))


@probe("seccomp >= S1")
def crypto_socket(_: Outside) -> None:
    """Use the kernel's ciphers (AF_ALG)."""
    _made(38, socket.SOCK_SEQPACKET, named="ALG")


@probe("seccomp >= S1")
def key_socket(_: Outside) -> None:
    """Speak to the kernel's IPsec (AF_KEY)."""
    _made(15, socket.SOCK_RAW, 2, named="KEY")


@probe("capabilities without NET_RAW")
def fast_socket(_: Outside) -> None:
    """Take packets past the kernel's network (AF_XDP)."""
    _made(44, socket.SOCK_RAW, named="XDP")


@probe("seccomp >= S1")
def message_socket(_: Outside) -> None:
    """Use the kernel's cluster messages (AF_TIPC)."""
    _made(30, socket.SOCK_SEQPACKET, named="TIPC")


@probe("seccomp >= S3")
def network_settings(_: Outside) -> None:
    """Ask for the network's settings (AF_NETLINK)."""
    _made(16, socket.SOCK_RAW)


@probe("seccomp >= S4")
def version_six(_: Outside) -> None:
    """Make a socket of IP version 6."""
    _made(socket.AF_INET6, socket.SOCK_STREAM)


@probe()
def own_loopback(_: Outside) -> None:
    """Talk to itself over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        _reach("127.0.0.1", server.getsockname()[1])


@probe("capabilities without NET_ADMIN")
def mark_packets(_: Outside) -> None:
    """Mark its packets so that they are routed otherwise."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.setsockopt(socket.SOL_SOCKET, 36, 1)  # SO_MARK


@probe("capabilities without NET_ADMIN")
def foreign_address(_: Outside) -> None:
    """Answer for addresses that are not its own (IP_TRANSPARENT)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.setsockopt(socket.IPPROTO_IP, 19, 1)


@probe(NO_NETWORK)
def engine_on_network(outside: Outside) -> None:
    """Reach the engine over the network, on its two usual ports."""
    if not outside.address:
        raise Absent("the host has no address")
    for port in (2375, 2376):
        try:
            return _reach(outside.address, port)
        except ConnectionRefusedError:
            continue
    raise Absent("the engine does not listen there")
