"""One container, used once: created, started parked, sent off with "go", read to its end, removed.

A container costs 150 to 300 ms to create and start, and none of that depends on what the step before it will leave
behind. So pid 1 is a shell of four lines that waits on stdin for one line. Until it comes nothing of the user's has
run; when it comes, the environment is read from a file bound read-only at `/wm`, so values with quotes and newlines
need no quoting in any argv, never stand in the engine's configuration, and are not known before they are needed.

What the shell says in secret marks is how we know the rest: one when the environment is in place and the command
begins, one at the end of each stream with the exit code. `reader` puts them together.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.blocks.arguments import create_arguments
from workflowmaster.blocks.cgroup import Cgroup
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.reader import Reader
from workflowmaster.blocks.streams import EDGE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.reader import Ending
    from workflowmaster.blocks.request import ContainerRequest


class Container:
    """A container from parking to removal. Its methods block: call them from a thread, one thread at a time.

    Only `kill` may be called from elsewhere, at any moment.
    """

    def __init__(self, engine: Engine, request: ContainerRequest) -> None:
        self.request = request
        self.id = ""
        self.parked_at = 0.0
        self.gone_at = 0.0
        self._engine = engine
        self.stream: socket.socket | None = None
        self.pidfd = -1
        self.cgroup: Cgroup | None = None

    def park(self) -> Container:
        """Create and start it; it waits for `go`. Raises SandboxUnavailable and leaves nothing behind."""
        config, host = create_arguments(self.request, self._engine.info)
        self.id = self._engine.create(self.request.name, config, host)
        try:
            self.stream = self._engine.attach(self.id)
            self._engine.start(self.id)
            self._watch()
        except BaseException:
            with contextlib.suppress(SandboxUnavailable):  # the first error is the one that explains
                self.remove()
            raise
        self.parked_at = time.monotonic()
        return self

    def _watch(self) -> None:
        """Take hold of pid 1 and its cgroup, where they are visible from here."""
        if not self._engine.info.local or not hasattr(os, "pidfd_open"):
            return
        pid = int(self._engine.state(self.id).get("Pid") or 0)
        if not pid:
            return
        with contextlib.suppress(OSError):  # another kernel (Docker Desktop), or gone already: the engine will tell
            held = os.pidfd_open(pid)
            # Looked at only when held: the number may have been given to another process before, but not since.
            if self.id in Path(f"/proc/{pid}/cgroup").read_text():
                self.pidfd, self.cgroup = held, Cgroup.of(pid)
            else:
                os.close(held)

    def run(self, seconds: float, sink: Callable[[bytes], bool]) -> Ending:
        """Say go and read to the end. The host's side of `/wm` must be complete by now.

        `seconds` is the wall time from here; at its end the whole tree is killed. `sink` takes output as it comes and
        answers False when it will take no more: the container is killed then too. Raises SandboxUnavailable if it
        cannot be told how it ended, or if it ended before the command began.
        """
        if self.stream is None:
            raise RuntimeError("run() before park()")
        mark = EDGE + secrets.token_hex(16).encode() + EDGE
        reader = Reader(self, self._engine, mark, sink)
        self.gone_at = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # died while parked: the reader will tell why
            self.stream.sendall(mark + b"\n")
        return reader.read(seconds)

    def kill(self) -> None:
        """Kill the whole tree, from any thread."""
        if self.id:
            self._engine.kill(self.id)

    def remove(self) -> None:
        """Close our ends and remove the container, whatever state it is in."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        if self.id:
            self._engine.remove(self.id)
