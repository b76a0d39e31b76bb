"""A container whose image has no shell: it cannot wait parked, so it is created and started at go.

Minimal images (`distroless`, one static binary) are what careful people build, and a sandbox that needs a shell in them
would be a reason to put one back. The price is a start on the step's critical path; that its environment stands in the
engine's configuration, where only the engine's own users can read it; and that what holds is read back while its first
instructions run instead of before them. So secrets are not handed to such a container: that is refused.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import OURS, SandboxUnavailable
from workflowmaster.blocks.handout import NOTHING
from workflowmaster.blocks.reader import Reader
from workflowmaster.blocks.request import EXCHANGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.growth import Growth
    from workflowmaster.blocks.handout import Handout
    from workflowmaster.blocks.reader import Ending
    from workflowmaster.blocks.request import ContainerRequest

SHELL = "/bin/sh"

_shells: dict[str, bool] = {}
"""Image id → whether it has a shell. An id names content, so what was seen once stays true."""


def container_for(engine: Engine, request: ContainerRequest) -> Container:
    """Return the container for a request: one that can be parked, or a plain one where the image has no shell."""
    if request.image_id not in _shells:
        _shells[request.image_id] = _has_shell(engine, request)
    return Container(engine, request) if _shells[request.image_id] else PlainContainer(engine, request)


def _has_shell(engine: Engine, request: ContainerRequest) -> bool:
    """Look into a container of the image that is never started; into our own images we need not look."""
    if f"{OURS}.recipe" in engine.declared_labels(request.image_id):
        return True
    labels = {f"{OURS}.{key}": value for key, value in request.labels.items()}
    config = {"image": request.image_id, "command": [SHELL], "labels": labels}
    made = engine.create(f"{request.name}-look-{secrets.token_hex(4)}", config, {"network_mode": "none"})
    try:
        return engine.has(made, SHELL)
    finally:
        engine.remove(made)


class PlainContainer(Container):
    """A container that nothing is started for until go."""

    refused = "was killed in its first instructions"

    def park(self) -> Container:
        """Prepare what can be prepared. Raises SandboxUnavailable where the step needs a shell of its own image."""
        if self.request.secrets:
            raise SandboxUnavailable(
                f"container {self.request.name}: its image has no {SHELL}, and secrets are handed over by it; use an "
                "image with a shell for this step",
                reason="image",
            )
        self.asked = self._prepared()
        self.parked_at = time.monotonic()
        return self

    def run(
        self,
        seconds: float,
        sink: Callable[[bytes], bool],
        growth: Growth | None = None,
        *,
        handout: Handout = NOTHING,
    ) -> Ending:
        """Create it, start it and read to the end. Raises as `Container.park` and `Container.run` do."""
        del handout  # `park` has refused a request with secrets
        inward = Path(next(mount.source for mount in self.request.mounts if mount.target == EXCHANGE))
        config, host = self._arguments(self.asked)
        config |= {"command": list(self.request.argv), "environment": environment_of((inward / "env").read_bytes())}
        self.id = self._created(config, host)
        self._carrier.send()
        self.stream = self._engine.attach(self.id)
        self.gone_at = time.monotonic()
        self.begun = True  # whatever fails from here on, doing it again would do it twice
        self._engine.start(self.id)
        try:
            self._attest(self.asked)
        except BaseException:
            self.kill()
            raise
        threading.Thread(target=_feed, args=(self.stream, inward / "stdin"), daemon=True).start()
        return self._read(PlainReader(self, self._engine, b"\0", sink), seconds, growth)


class PlainReader(Reader):
    """Reads a stream without marks: its end is the stream's, and the exit code is the engine's word."""

    @property
    def begun(self) -> bool:
        """Whether the command was reached: started is begun, because nothing of ours comes before it."""
        return True

    @property
    def marked(self) -> bool:
        """Whether both streams have come to their marked end: never, so the stream itself has to end."""
        return False

    def _take(self, stream: int, chunk: bytes) -> None:
        del stream
        self._pass_on(chunk)


def environment_of(spelt: bytes) -> dict[str, str]:
    """Read back the variables that `wrapper.environment_file` has spelt."""
    # As bytes: read as text, a file's carriage returns would become newlines.
    words = shlex.split(spelt.decode(errors="surrogateescape"))
    return dict(word.split("=", 1) for word in words if word != "export")


def _feed(stream: socket.socket, file: Path) -> None:
    """Give the command its stdin, and the end of it. In a thread, because a command may never read."""
    with contextlib.suppress(OSError):  # it has ended, or does not want it
        stream.sendall(file.read_bytes())
        stream.shutdown(socket.SHUT_WR)
