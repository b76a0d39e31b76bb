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
import select
import threading
import time
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks import effective
from workflowmaster.blocks.arguments import create_arguments
from workflowmaster.blocks.attestation import Attested, Observed, attest, refusal, refuse
from workflowmaster.blocks.carrying import Shared, carrier_for
from workflowmaster.blocks.cgroup import Cgroup, belongs
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.handout import NOTHING, Handout
from workflowmaster.blocks.inspected import told
from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.reader import STOP_GRACE, Reader
from workflowmaster.blocks.runtime import lacking
from workflowmaster.blocks.streams import EDGE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from workflowmaster.blocks.carrying import Carrier
    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.growth import Growth
    from workflowmaster.blocks.reader import Ending
    from workflowmaster.blocks.request import ContainerRequest


HEARING = 30.0
"""Seconds in which a parked shell must have read its go and its secrets; the largest take a fifth of one."""

DYING = 0.5
"""Seconds that a dying process may take, whose files in /proc are emptied one by one."""


REMOVAL = 10.0
"""Seconds that an engine may take to remove a container."""


class Container:
    """A container from parking to removal. Its methods block: call them from a thread, one thread at a time.

    Only `terminate`, `kill` and `stop` may be called from elsewhere, at any moment.
    """

    refused = "was removed before any of the step's code ran"
    """What is done about one that is weaker than its policy, in a refusal's words."""

    def __init__(self, engine: Engine, request: ContainerRequest) -> None:
        self.request = request
        self.id = ""
        self.parked_at = 0.0
        self.start_seconds: float | None = None
        """From asking for it to its being parked."""
        self.gone_at = 0.0
        self._engine = engine
        self.stream: socket.socket | None = None
        self.pidfd = -1
        self.cgroup: Cgroup | None = None
        self.attested = Attested()
        self.mark = EDGE + secrets.token_hex(16).encode() + EDGE
        """What its shell is told at go and says at the end of each stream; secret until then."""
        self.begun = False
        """Whether its command was reached: from here on, doing it again is the step's own affair."""
        self.left = False
        """Whether it belongs to another owner by now: it works on, and is neither read, stopped nor removed."""
        self._over = threading.Event()
        self._carrier: Carrier = Shared(request)

    @property
    def shares_files(self) -> bool:
        """Whether it works on this host's own directories; if not, they are sent at go and must be fetched."""
        return self._carrier.shared

    def park(self) -> Container:
        """Create and start it; it waits for `go`, and what its policy declares has been read back.

        Raises SandboxUnavailable, and PolicyError where a control is weaker than declared; leaves nothing behind then.
        """
        began = time.monotonic()
        try:
            asked = self._prepared()
            config, host = self._arguments(asked)
            self.id = self._created(config, host)
            self.stream = self._engine.attach(self.id)
            self._engine.start(self.id)
            self._attest(asked)
        except BaseException:
            with contextlib.suppress(SandboxUnavailable):  # the first error is the one that explains
                self.remove()
            raise
        self.parked_at = time.monotonic()
        self.start_seconds = self.parked_at - began
        return self

    def _prepared(self) -> ContainerRequest:
        """Make what must be there before it is created; return the request as the engine is to see it."""
        self._carrier = carrier_for(self._engine, self.request)
        asked = self._carrier.prepare()
        self._insist(asked)
        return asked

    def _created(self, config: dict[str, Any], host: dict[str, Any]) -> str:
        """Create it; one of this very process's that has its name goes first: an engine that was away kept it."""
        name, until = self.request.name, time.monotonic() + REMOVAL
        while True:
            try:
                return self._engine.create(name, config, host)
            except SandboxUnavailable as error:
                if error.reason != "conflict" or time.monotonic() > until or not self._made_by_us(name):
                    raise
            with contextlib.suppress(SandboxUnavailable):  # gone meanwhile
                self._engine.remove(name)
            # A removal that is under way already is answered at once.
            time.sleep(0.1)

    def _made_by_us(self, name: str) -> bool:
        known = Owner.from_labels(self.request.labels, "")
        try:
            return known is not None and known == self._engine.owner(name)
        except SandboxUnavailable as error:
            return error.reason == "gone"

    def _arguments(self, request: ContainerRequest) -> tuple[dict[str, Any], dict[str, Any]]:
        # A method of its own, because probes are compared with a container that is like this one and has no policy.
        volumes = self._engine.declared_volumes(request.image_id)
        variables = self._engine.declared_variables(request.image_id)
        return create_arguments(request, self._engine.info, volumes, variables=variables)

    def _insist(self, asked: ContainerRequest) -> None:
        """Refuse a policy that insists on what the engine says it does not have."""
        if missing := lacking(asked.policy, self._engine.info):
            raise refusal(asked.policy, f"{asked.name} was not created", missing)

    def _attest(self, asked: ContainerRequest) -> None:
        """Read back what really holds, and refuse what is weaker than declared. Nothing of the user's has run."""
        inspected = self._engine.inspect(self.id)
        pid = int(inspected["State"].get("Pid") or 0)
        kernel = self._kernels_account(pid, asked) if self._watch(pid) else None
        word = told(inspected, asked.mounts)
        self.attested = attest(asked, Observed(kernel, word), self._engine.info)
        if self.attested.weaker and kernel and self._ended():
            # What a corpse shows is no finding, and no acquittal either: the engine's word is all that is left.
            self.attested = attest(asked, Observed(None, word), self._engine.info)
        refuse(asked, self.attested, what=self.refused)

    def _ended(self) -> bool:
        """Whether it is dead. A parked one will get a go that nobody hears, and be told so."""
        if self.pidfd < 0:
            return not self._engine.state(self.id).get("Running")
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(DYING * 1000))

    def _watch(self, pid: int) -> bool:
        """Take hold of pid 1 and its cgroup; False where they are not visible from here."""
        if not pid or not self._engine.info.local or not hasattr(os, "pidfd_open"):
            return False
        try:
            held = os.pidfd_open(pid)
        except OSError:
            return False  # another kernel (Docker Desktop), or gone already: the engine will tell
        # Looked at only when held: the number may have been given to another process before, but not since.
        if belongs(pid, self.id):
            self.pidfd, self.cgroup = held, Cgroup.of(pid)
            return True
        os.close(held)
        return False

    def _kernels_account(self, pid: int, asked: ContainerRequest) -> effective.Effective | None:
        try:
            return effective.read(pid, self.cgroup, asked.mounts)
        except TimeoutError as error:
            raise SandboxUnavailable(f"container {asked.name}: {error}", reason="runtime") from error
        except OSError:
            return None  # ended while parked, or closed to us: the engine's word is recorded as such

    def run(
        self,
        seconds: float,
        sink: Callable[[bytes], bool],
        growth: Growth | None = None,
        *,
        handout: Handout = NOTHING,
    ) -> Ending:
        """Say go and read to the end. The host's side of `/wm` must be complete by now.

        `handout` holds the values of exactly the secrets that the request names.

        `seconds` is the wall time from here; at its end the step gets SIGTERM, and after a grace the whole tree is
        killed. `sink` takes output as it comes and answers False when it will take no more: the container is killed
        then, at once; so it is when `growth` says that its files have passed their cap. Raises SandboxUnavailable if
        it cannot be told how it ended, or if it ended before the command began.
        """
        if self.stream is None:
            raise RuntimeError("run() before park()")
        if set(handout.files) != set(self.request.secrets):
            raise RuntimeError(f"run() with the secrets of {handout} for a request of {self.request.secrets}")
        self._carrier.send()
        reader = Reader(self, self._engine, self.mark, sink)
        self.gone_at = time.monotonic()
        self._say(self.stream, self.mark + b"\n" + handout.lines())
        return self._read(reader, seconds, growth)

    def _say(self, stream: socket.socket, words: bytes) -> None:
        """Write to the shell's stdin. Secrets can be more than the pipe holds, so it has a limit of its own."""
        stream.settimeout(HEARING)
        try:
            stream.sendall(words)
        except (BrokenPipeError, ConnectionResetError):
            return  # died while parked: the reader will tell why
        except TimeoutError:
            raise SandboxUnavailable(
                f"container {self.request.name} has not read its secrets for {HEARING:g} s; see the engine's log",
                reason="stuck",
            ) from None
        finally:
            stream.settimeout(None)

    def _read(self, reader: Reader, seconds: float, growth: Growth | None) -> Ending:
        try:
            with growth or contextlib.nullcontext():
                reader.alarm = growth.alarm if growth else -1
                return reader.read(seconds)
        finally:
            self.begun = reader.begun
            self._over.set()

    def pids(self) -> list[str]:
        """Return the processes of its cgroup, with those that gVisor runs beside it; empty where none can be seen."""
        place = self.cgroup.paths.get("" if self.cgroup.unified else "pids") if self.cgroup else None
        with contextlib.suppress(OSError):
            return (place / "cgroup.procs").read_text().split() if place else []
        return []

    def stop(self) -> None:
        """Ask the step to end, and kill it after a grace, while `run` reads on in another thread."""
        self.terminate()
        if not self._over.wait(STOP_GRACE):
            self.kill()

    def terminate(self) -> None:
        """Send SIGTERM to the step's process group. Without the engine's init only pid 1 gets it, our own shell."""
        if self.id:
            self._engine.kill(self.id, "SIGTERM")

    def kill(self) -> None:
        """Kill the whole tree, from any thread."""
        if self.id:
            self._engine.kill(self.id)

    def leave(self) -> None:
        """Let it work on for another owner, from any thread. `run` raises SandboxUnavailable."""
        self.left = True
        if self.stream is not None:
            with contextlib.suppress(OSError):  # its other end has gone
                self.stream.shutdown(SHUT_RDWR)

    def remove(self) -> None:
        """Close our ends and remove the container, whatever state it is in; one that was left stays."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        if self.left:
            return
        if self.id:
            self._engine.remove(self.id)
        self._carrier.remove()

    def fetch(self, target: str, size: int) -> tuple[str, ...]:
        """Have this host's side of a mounted folder be what the ended container left; return what was left out.

        Costs nothing where the container shares it. `size` is the bytes it may have grown by. SandboxUnavailable, or
        WorkspaceError where what is there cannot be had.
        """
        return self._carrier.fetch(target, size)
