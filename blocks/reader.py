"""Reads one container's streams until it has ended, and says how.

The end is found without the engine where it shares our kernel: `pidfd` on pid 1 becomes readable only when the whole
pid namespace is dead, and the shell's end mark in both streams proves that all output has arrived. That takes 3 to 6 ms
instead of the 25 to 35 ms of the engine's own word, and the cgroup mostly still answers in one of these moments.
Without pidfd, or if a mark is missing (the shell was killed), the engine's word is waited for: slower, never wrong. The
price is two ways to one answer; a test runs every kind of end through both and compares.

At the wall time the step is asked to end, by SIGTERM, and may say its last words; after a grace it is killed. Who has
taken more than its cap of output or disk is killed at once: a grace would only give it more.

No wait here is without a limit: a container that should be dead and is not is an error, not a hanging run.
"""

from __future__ import annotations

import contextlib
import select
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.blocks.cgroup import Usage
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.failure import engine_reason, signal_of
from workflowmaster.blocks.streams import Frames, Marks
from workflowmaster.blocks.wrapper import CODE_DIGITS, FIGURE_DIGITS, FIGURES

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflowmaster.blocks.container import Container
    from workflowmaster.blocks.engine import Engine

STOP_GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL: enough to write a file and say why, and not enough to go on working."""

GRACE = 30.0
"""Seconds in which a killed container must be dead, and a dead one's output here."""

SETTLE = 5.0
"""Seconds the engine gets to notice the end of a container whose streams have ended."""

CHUNK = 1 << 18
"""Bytes taken from the engine at once: more than a TLS record, of which poll would not see what is left over."""

LAST_DIGITS = CODE_DIGITS + FIGURES * FIGURE_DIGITS

LAST_WORDS = 400
"""Bytes kept of what a container says that ends before its command begins."""

NO_GO = 125
"""Exit code of a shell whose stdin was closed. Any other that is no signal's says that the image's shell cannot run."""


@dataclass(frozen=True)
class Ending:
    """How a container ended, before anyone judges it."""

    exit_code: int
    usage: Usage
    seconds: float
    """From go to the end."""
    timed_out: bool
    capped: bool
    oom_killed: bool
    error: str = ""
    """The engine's own words when it could not run the command."""
    disk_capped: bool = False
    """Whether it was killed because its files grew past their cap."""
    begin_seconds: float | None = None
    """From go to the mark that says that the command begins."""


class Reader:
    """One reading of one container. Made before go, used once, by one thread."""

    def __init__(self, container: Container, engine: Engine, mark: bytes, sink: Callable[[bytes], bool]) -> None:
        if container.stream is None:
            raise RuntimeError("run() before park()")
        self.container, self.engine, self.sink = container, engine, sink
        self.alarm = -1
        """Descriptor that becomes readable when the step has taken more disk than it may; below 0: nobody watches."""
        self.name = f"container {container.request.name}"
        self.socket, self.pidfd = container.stream, container.pidfd
        self.frames = Frames()
        # stderr first says that the command begins; both end in a mark, and stdout's carries the exit code.
        self.marks = {1: Marks(mark, expected=1, digits=LAST_DIGITS), 2: Marks(mark + b"\n", expected=2, digits=0)}
        self.usage = Usage()
        self.last_words = b""
        self.begin_seconds: float | None = None
        self.until = 0.0
        """When the present wait is too long: first the wall time, then the grace after a signal or a death."""
        self.timed_out = self.capped = self.killed = self.dead = self.ended = False
        self.disk_capped = False

    @property
    def begun(self) -> bool:
        """Whether the command was reached."""
        return self.marks[2].seen > 0

    @property
    def marked(self) -> bool:
        """Whether both streams have come to their end."""
        return self.marks[1].complete and self.marks[2].complete

    def read(self, seconds: float) -> Ending:
        """Read until nothing more can come. Raises SandboxUnavailable and whatever the sink raises."""
        self.until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        for watched in (self.pidfd, self.alarm):
            if watched >= 0:
                poll.register(watched, select.POLLIN)
        while not (self.ended or (self.dead and self.marked)):
            for fd, _ in poll.poll(self._patience() * 1000):
                if fd == self.pidfd:
                    poll.unregister(fd)
                    self._died()
                elif fd == self.alarm:
                    poll.unregister(fd)
                    self.disk_capped = True
                    self._kill()
                else:
                    self._receive()
        return self._ending(time.monotonic() - self.container.gone_at)

    def _patience(self) -> float:
        """Return the seconds to the next limit; where one has passed, do what follows from it."""
        now = time.monotonic()
        if now < self.until:
            return self.until - now
        if self.dead:
            self.ended = True  # nobody is left who could write
            return 0
        if self.killed:
            raise SandboxUnavailable(
                f"{self.name} was killed {GRACE:g} s ago and is not dead; see the engine's log", reason="stuck"
            )
        if self.timed_out:
            self._kill()
            return GRACE
        self.timed_out = True
        self.until = now + STOP_GRACE
        self._in_background(self.container.terminate)
        return STOP_GRACE

    def _died(self) -> None:
        self.dead = True
        self.until = time.monotonic() + GRACE
        self._account()

    def _account(self) -> None:
        """Read what it used so far; the engine may have removed the cgroup before we notice the death."""
        usage = self.container.cgroup.usage() if self.container.cgroup else Usage()
        if usage.oom_kills is not None:
            self.usage = usage

    def _receive(self) -> None:
        if self.container.left:
            raise SandboxUnavailable(f"{self.name} was left to another owner", reason="gone")
        try:
            data = self.socket.recv(CHUNK)
        except OSError:
            data = b""  # the connection is torn; how the container ended, the engine will tell
        self.ended = not data
        for stream, chunk in self.frames.feed(data):
            self._take(stream, chunk)
        if self.marked and not self.dead:
            self._account()

    def _take(self, stream: int, chunk: bytes) -> None:
        output = self.marks[stream].feed(chunk)
        if self.begun and self.begin_seconds is None:
            self.begin_seconds = time.monotonic() - self.container.gone_at
        if not self.begun:
            self.last_words = (self.last_words + output)[-LAST_WORDS:]
        self._pass_on(output)

    def _pass_on(self, output: bytes) -> None:
        if output and not self.capped and not self.sink(output):
            self.capped = True
            self._kill()

    def _kill(self) -> None:
        """Kill the whole tree: pid 1 of a pid namespace takes all of it along."""
        self.killed = True
        self.until = time.monotonic() + GRACE
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return  # it was faster
            except PermissionError:
                pass  # another user's, and we are not root: the engine is
            else:
                return
        self._in_background(self.container.kill)

    def _in_background(self, send: Callable[[], None]) -> None:
        """Let the engine send a signal. It answers only when the streams are drained, and draining is our own job."""

        def ask() -> None:
            # Where the engine cannot, the reader sees that the container lives on, or that the streams are gone.
            with contextlib.suppress(SandboxUnavailable):
                send()

        threading.Thread(target=ask, daemon=True).start()

    def _ending(self, seconds: float) -> Ending:
        for marks in self.marks.values():
            self._pass_on(marks.rest())
        if self.usage.oom_kills is None:
            self.usage = self._told()
        oom, error, code = bool(self.usage.oom_kills), "", self._said()
        if code is None or not self.dead or self.usage.oom_kills is None:
            code = self._engines_word()
            state = self.engine.state(self.container.id)
            oom, error = bool(state.get("OOMKilled")) or oom, str(state.get("Error") or "")
        if not self.begun and not self.timed_out:
            words = self.last_words.decode(errors="replace").strip()
            raise SandboxUnavailable(
                f"{self.name} ended with exit code {code} before its command began" + (f": {words}" if words else ""),
                reason="parked" if code == NO_GO or signal_of(code) else _unable(words),
            )
        if signal_of(code) and not (self.timed_out or self.killed or oom):
            self._not_lost()
        flags = self.timed_out, self.capped, oom
        return Ending(code, self.usage, seconds, *flags, error, self.disk_capped, self.begin_seconds)

    def _not_lost(self) -> None:
        """Raise SandboxUnavailable where the signal is of who removes it, or of an engine that is being stopped."""
        state = self.engine.state(self.container.id)
        if state.get("Dead") or state.get("Status") == "removing":
            raise SandboxUnavailable(f"{self.name} was removed while its command ran", reason="gone")
        self.engine.must_accept()

    def _said(self) -> int | None:
        """Return the exit code that the shell said; None if it said none that can be one."""
        said = self.marks[1].said[:CODE_DIGITS]
        return int(said) if self.marked and said.isdigit() and int(said) < 256 else None

    def _told(self) -> Usage:
        """Return what the shell said that the container used; nothing where it said nothing.

        Second to what the host's kernel says: a step that gets hold of its own shell could have it say anything.
        """
        said = self.marks[1].said[CODE_DIGITS:]
        figures = [said[at : at + FIGURE_DIGITS] for at in range(0, len(said), FIGURE_DIGITS)]
        if not self.marked or not all(one.lstrip(b"-").isdigit() for one in figures):
            return Usage()
        memory, cpu, pids, kills = (None if int(one) < 0 else int(one) for one in figures)
        return Usage(memory, pids, None if cpu is None else cpu / 1e9, kills)

    def _engines_word(self) -> int:
        """Ask the engine how it ended; one whose streams are lost still has its wall time, and not more."""
        left = GRACE if self.killed else max(self.until - time.monotonic(), 0)
        code = self.engine.wait(self.container.id, left + SETTLE)
        if code is None and not (self.timed_out or self.killed):
            self.timed_out = True
            self.container.terminate()
            code = self.engine.wait(self.container.id, STOP_GRACE)
        if code is None and not self.killed:
            self.container.kill()
            code = self.engine.wait(self.container.id, GRACE)
        if code is None:
            raise SandboxUnavailable(f"{self.name} was killed and is not dead; see the engine's log", reason="stuck")
        return code


def _unable(words: str) -> str:
    """Return why an image's shell did not come to its first line."""
    # Any other word is about that shell: it is missing, or for another machine.
    return "unsupported" if engine_reason(words) == "unsupported" else "image"
