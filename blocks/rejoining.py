"""A container whose owner has died, taken over where it is: its whole output from the engine's log, then its end.

Nothing of a container can be asked a second time but its log, and the engine gives it back entry by entry: a line, or a
piece of 16 KiB of a longer one, of which the driver `local` forgets whether a line break stood behind the last. Asked
for with a time before each entry, even empty ones can be told apart, and the stream is put together again byte for byte
(`Entries`). `json-file` would spare us that and replaces what is no UTF-8. What proves that nothing is missing are the
shell's own marks: the first one stands before all output, so a log that has lost its beginning has lost it too.

The reading itself is `Reader`'s, for which the log is made to look like the attached stream. The accepted cost is that
the log is read a second time where no end mark proves that the first reading saw the end.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.handout import NOTHING
from workflowmaster.blocks.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workflowmaster.blocks.attestation import Attested
    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.growth import Growth
    from workflowmaster.blocks.handout import Handout
    from workflowmaster.blocks.reader import Ending
    from workflowmaster.blocks.request import ContainerRequest

HEADER = struct.Struct(">BxxxL")
"""Before each entry and each piece: the stream (1 or 2), and how many bytes follow."""

PIECE = 16_384
"""Bytes that the engine keeps of a line in one entry. Only the last piece of a line is shorter."""

ENTRY, PART = 40, 130
"""Bytes that the driver writes besides an entry's own, at most: of a whole line, and of a piece of one."""

AGAIN = 0.2
"""Seconds before a log is asked for anew whose connection broke while the container runs on."""

READING = 600.0
"""Seconds in which the log of a container that has ended must be here."""

LATE = 1.0
"""Seconds that the engine may take to note an end: up to them a step that nobody watched counts as in time."""


class Entries:
    """Puts a log together again. Feed it what the engine sends; `weight` is what the driver's file has taken so far."""

    def __init__(self) -> None:
        self.weight = 0
        self._held = b""
        self._open: set[int] = set()
        """Streams whose last entry was the short end of a long line, and stands without its line break."""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (stream, bytes) of each entry that is complete."""
        data = self._held + data
        at = 0
        while len(data) - at >= HEADER.size:
            stream, size = HEADER.unpack_from(data, at)
            if len(data) - at - HEADER.size < size:
                break
            at += HEADER.size + size
            # The time is of no interest: it is there so that an empty entry is there too.
            yield stream, self._restored(stream, data[at - size : at].partition(b" ")[2])
        self._held = data[at:]

    def _restored(self, stream: int, text: bytes) -> bytes:
        before = b"\n" if stream in self._open else b""
        self._open.discard(stream)
        whole = text.endswith(b"\n")
        self.weight += len(text) + (ENTRY if whole else PART)
        # The last entry of all may be short because nothing followed it, so its line break waits for the next one.
        if not whole and len(text) < PIECE:
            self._open.add(stream)
        return before + text


class Replay:
    """A container's output from its first byte on, as a socket that ends when there is nothing more to come."""

    def __init__(self, engine: Engine, container: str, *, running: bool) -> None:
        self.socket, self._into = socket.socketpair()
        self.trouble: SandboxUnavailable | None = None
        """Why it may be incomplete; None once all of it has been passed on."""
        self.weight = 0
        self._engine, self._container = engine, container
        self._passed = {1: 0, 2: 0}
        threading.Thread(target=self._pump, args=(running,), name="replay", daemon=True).start()

    def _pump(self, running: bool) -> None:
        try:
            while running:
                self._pass_on(follow=True)
                running = bool(self._engine.state(self._container).get("Running"))
                time.sleep(AGAIN * running)
            # Of a container that has ended the log is complete, whatever a follower has seen of it.
            self._pass_on(follow=False)
        except SandboxUnavailable as error:
            self.trouble = error
        except OSError:
            pass  # the reader knows all that it wanted to
        finally:
            self._into.close()

    def _pass_on(self, *, follow: bool) -> None:
        entries, seen = Entries(), {1: 0, 2: 0}
        with contextlib.closing(self._engine.logs(self._container, follow=follow)) as log:
            for data in log:
                for stream, text in entries.feed(data):
                    known = self._passed[stream] - seen[stream]
                    seen[stream] += len(text)
                    self.weight = max(self.weight, entries.weight)
                    if len(text) > known:
                        new = text[max(known, 0) :]
                        self._passed[stream] += len(new)
                        self._into.sendall(HEADER.pack(stream, len(new)) + new)

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()


@dataclass(frozen=True)
class Gone:
    """What is known of a container that somebody else has sent off."""

    id: str
    mark: bytes
    elapsed: float
    """Seconds since its go."""
    attested: Attested
    """What was read back before its go."""
    over: float | None = None
    """Seconds from its go to its end, where it has ended; None while it runs."""
    room: int | None = None
    """Bytes that the engine's log may have before it loses its beginning."""


class Rejoined(Container):
    """A container that was sent off by an owner who has died. It cannot be parked; `run` says no go and only reads."""

    def __init__(self, engine: Engine, request: ContainerRequest, gone: Gone) -> None:
        super().__init__(engine, request)
        self.id, self.mark, self.attested, self._gone = gone.id, gone.mark, gone.attested, gone
        self.gone_at = time.monotonic() - gone.elapsed
        self.begun = True

    @property
    def running(self) -> bool:
        """Whether it ran when it was taken over."""
        return self._gone.over is None

    def park(self) -> Container:
        """Take hold of its process, so that its end is seen when it comes. SandboxUnavailable if it is gone."""
        if self.running:
            self._watch(int(self._engine.state(self.id).get("Pid") or 0))
        return self

    def run(
        self,
        seconds: float,
        sink: Callable[[bytes], bool],
        growth: Growth | None = None,
        *,
        handout: Handout = NOTHING,
    ) -> Ending:
        """Read it from its first byte to its end; `seconds` is its whole wall time, from its go.

        SandboxUnavailable, with what is missing, where its output or its end cannot be told for certain.
        """
        del handout  # one with secrets is never taken over
        replay = Replay(self._engine, self.id, running=self.running)
        self.stream = replay.socket
        reader = Reader(self, self._engine, self.mark, sink)
        try:
            left = seconds - (time.monotonic() - self.gone_at) if self.running else READING
            ending = self._read(reader, max(left, 0.0), growth if self.running else None)
        finally:
            replay.close()
        self._must_be_complete(reader, replay, ending)
        ending = replace(ending, begin_seconds=None)
        return ending if self._gone.over is None else self._judged(ending, self._gone.over, seconds, growth)

    def _must_be_complete(self, reader: Reader, replay: Replay, ending: Ending) -> None:
        """Refuse an output of which something may be missing, and an end of which nobody knows who made it."""
        if replay.trouble and not reader.marked:
            raise replay.trouble
        beginning = reader.marks[2].complete or not reader.marks[1].complete
        if not beginning or (self._gone.room and replay.weight > self._gone.room):
            raise SandboxUnavailable(f"the engine's log of {reader.name} has lost its beginning", reason="gone")
        if not (self.running or reader.marked or ending.oom_killed or ending.capped):
            raise SandboxUnavailable(
                f"{reader.name} was killed while nobody watched (exit {ending.exit_code}), and by whom cannot be told",
                reason="gone",
            )

    def _judged(self, ending: Ending, over: float, seconds: float, growth: Growth | None) -> Ending:
        """Hold one that ended while nobody watched to its wall time and its cap on disk."""
        look = growth.look() if growth else None
        if growth and look:
            growth.peak, growth.walks, growth.reason = look.grown, 1, look.over
        late, filled = over > seconds + LATE, bool(look and look.over)
        return replace(ending, seconds=over, timed_out=late, disk_capped=filled)
