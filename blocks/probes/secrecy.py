"""Secrets: what the host, the engine, the product and other steps know, and this step should not."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from workflowmaster.blocks.probes.battery import ALWAYS, Outside, probe
from workflowmaster.blocks.probes.kernel import call, failed, foreign

NO_TOKEN = "the token is not there"  # noqa: S105 - the words of an error
ENGINES = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock")


def _holds(data: bytes, outside: Outside) -> None:
    if outside.token.encode() not in data:
        raise failed(errno.ENODATA, NO_TOKEN)


@probe(ALWAYS)
def host_file(outside: Outside) -> None:
    """Read a file of the host by its path there, as another step's folder would be."""
    _holds(Path(outside.secret).read_bytes(), outside)


@probe(ALWAYS)
def host_file_by_process(outside: Outside) -> None:
    """Read a file of the host through the root of another process."""
    _holds(Path(f"/proc/{foreign(outside)}/root{outside.secret}").read_bytes(), outside)


@probe(ALWAYS)
def host_socket(outside: Outside) -> None:
    """Connect to a UNIX socket of the host by its path there."""
    # By a relative name: a socket's path may have 108 bytes, and a temporary folder's alone can have more.
    os.chdir(Path(outside.secret).parent)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect("socket")


@probe(ALWAYS)
def host_environment(outside: Outside) -> None:
    """Read the environment of a process of the host."""
    _holds(Path(f"/proc/{outside.pid}/environ").read_bytes(), outside)


@probe(ALWAYS)
def product_environment(outside: Outside) -> None:
    """Find in its own environment what is in that of the product."""
    _holds(Path("/proc/self/environ").read_bytes(), outside)


@probe(ALWAYS)
def engine_configuration(outside: Outside) -> None:
    """Find in the environment of the shell that started it what only the step is to know."""
    pid, found = os.getppid(), b""
    # Upwards as far as it is ours to see; an unrestricted container could go on to the host's own pid 1.
    for _generation in range(3):
        found += _environ(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1]) or 1
    _holds(found, outside)


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""  # another user's


@probe(ALWAYS)
def engine_socket(_: Outside) -> None:
    """Find the engine's socket, by which one is root on the host."""
    found = [path for path in ENGINES if Path(path).is_socket()]
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(found[0])


@probe(ALWAYS)
def product_files(outside: Outside) -> None:
    """Find the host's token anywhere in what the product handed in."""
    folders = (Path("/wm"), Path("/out"), Path("/workspace"))
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "outside.json"]
    _holds(b"".join(path.read_bytes() for path in found), outside)


@probe(ALWAYS)
def kernel_keyring(_: Outside) -> None:
    """Reach the session keyring that it was started with."""
    call("keyctl", 0, -3, 0)  # KEY_SPEC_SESSION_KEYRING


@probe()
def host_paths(_: Outside) -> None:
    """Learn from its mounts where on the host its folders lie."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    if not any(line.split()[4] == "/wm" and len(line.split()[3]) > 1 for line in lines):
        raise failed(errno.ENODATA)
