"""Takes one container's output stream apart: the engine's frames, and the marks that our own shell writes into them.

A mark is 128 secret bits that no output can hold by chance and no step can know before its shell has told it nothing.
So it is looked for in everything that arrives, wherever the engine cut the stream, and only what could still become one
is held back. The end mark ends a stream for good: a background process may go on printing until the container is dead,
and whether its last words arrive would depend on who is faster.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

EDGE = b"\x1e"
"""First and last byte of every mark."""

_HEADER = struct.Struct(">BxxxL")


class Frames:
    """Takes the engine's multiplexed stream apart: an eight-byte header (stream, length), then that many bytes."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0
        """Bytes of the present frame that have not come yet."""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (1 stdout | 2 stderr, bytes). A frame is passed on as it comes, not when it is complete."""
        at = 0
        while at < len(data):
            if not self._left:
                missing = _HEADER.size - len(self._header)
                self._header += data[at : at + missing]
                at += missing
                if len(self._header) < _HEADER.size:
                    return
                stream, self._left = _HEADER.unpack(self._header)
                # 3 is the engine's own word about a stream that failed; a person looks for that among the errors.
                self._stream, self._header = 1 if stream < 2 else 2, b""
            chunk = data[at : at + self._left]
            at += len(chunk)
            self._left -= len(chunk)
            if chunk:
                yield self._stream, chunk


class Marks:
    """Finds a stream's marks, takes them out, and passes on the output up to the last one.

    `expected` is how many there will be; `digits` follow the last one and are kept in `said`.
    """

    def __init__(self, mark: bytes, *, expected: int, digits: int) -> None:
        self.seen = 0
        self.said = b""
        self._mark, self._expected, self._digits = mark, expected, digits
        self._held = b""

    @property
    def complete(self) -> bool:
        """Whether the last mark has come, with its digits: nothing after it is output."""
        return self.seen == self._expected and len(self.said) == self._digits

    def feed(self, chunk: bytes) -> bytes:
        """Take a piece of the stream and return the output in it that is certainly no part of a mark."""
        data, output = self._held + chunk, []
        self._held = b""
        while self.seen < self._expected:
            at = data.find(self._mark)
            if at < 0:
                keep = self._possible(data)
                output.append(data[:keep])
                self._held = data[keep:]
                return b"".join(output)
            output.append(data[:at])
            data = data[at + len(self._mark) :]
            self.seen += 1
        self.said += data[: self._digits - len(self.said)]
        return b"".join(output)

    def rest(self) -> bytes:
        """Return what was held as the possible beginning of a mark, once nothing more will come."""
        held, self._held = self._held, b""
        return held

    def _possible(self, data: bytes) -> int:
        """Return where the longest ending of `data` begins that a mark may begin with."""
        at = data.find(EDGE, max(0, len(data) - len(self._mark) + 1))
        while at >= 0 and not self._mark.startswith(data[at:]):
            at = data.find(EDGE, at + 1)
        return at if at >= 0 else len(data)
