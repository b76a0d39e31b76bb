"""What there is on the host for probes to reach for: a file, a process, and sockets, all made for the occasion.

A probe that looks for a secret of the host and finds none proves nothing where the host has none. So there is one, a
random text that is worth nothing, in every place where a leak would be one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Self

from workflowmaster.blocks.probes.battery import Outside

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

VARIABLE = "WORKFLOWMASTER_PROBE_TOKEN"
"""The variable that holds the token in our own environment, and in the process's."""

NAME = "wm-probe-bystander"

AWAY = "198.51.100.1"
"""An address of nobody (RFC 5737): asked only for which of our own addresses would speak to it."""


class Bystander:
    """A context in which the host has something to hide. `facts` tells the probes where."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = secrets.token_hex(16)
        self.facts: Outside
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Put everything there."""
        self.folder.mkdir()
        (self.folder / "secret").write_text(self.token, encoding="ascii")
        os.environ[VARIABLE] = self.token
        self._open.callback(os.environ.pop, VARIABLE, None)
        try:
            self.facts = self._facts()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Take everything away; the folder goes with the one it is in."""
        self._open.close()

    def _facts(self) -> Outside:
        abstract = f"{NAME}-{secrets.token_hex(8)}"
        self._listen_unix(f"\0{abstract}")
        # By way of the folder's own descriptor: a socket's path may have 108 bytes, a temporary folder's can have more.
        handle = os.open(self.folder, os.O_RDONLY)
        self._open.callback(os.close, handle)
        self._listen_unix(f"/proc/self/fd/{handle}/socket")
        memory, disk = self._free()
        return Outside(
            token=self.token,
            secret=str(self.folder / "secret"),
            pid=self._process(),
            mark=NAME,
            hostname=socket.gethostname(),
            address=_own_address(),
            port=self._listen("0.0.0.0"),  # noqa: S104 - for as long as the probes take, and nobody is answered
            loopback_port=self._listen("127.0.0.1"),
            abstract=abstract,
            memory=memory,
            disk=disk,
            watched=(),
        )

    def _free(self) -> tuple[int, int]:
        import psutil

        return int(psutil.virtual_memory().available), shutil.disk_usage(self.folder).free

    def _listen(self, address: str) -> int:
        """Listen without ever accepting: the kernel completes a connection by itself."""
        server = self._open.enter_context(closing(socket.create_server((address, 0), backlog=64)))
        return int(server.getsockname()[1])

    def _listen_unix(self, address: str) -> None:
        server = self._open.enter_context(closing(socket.socket(socket.AF_UNIX)))
        server.bind(address)
        server.listen(64)

    def _process(self) -> int:
        """Start a process that ends when we do, whatever ends us: its stdin is then closed."""
        argv = [sys.executable, "-I", "-c", "import sys; sys.stdin.read()", NAME]
        made = subprocess.Popen(argv, stdin=subprocess.PIPE, env={**os.environ, VARIABLE: self.token})
        self._open.enter_context(made)
        self._open.callback(made.kill)
        return made.pid


def _own_address() -> str:
    """Return the address by which the host's neighbours know it; empty if it has none. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect((AWAY, 9))
        except OSError:
            return ""
        return str(any_socket.getsockname()[0])
