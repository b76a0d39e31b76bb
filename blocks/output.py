"""Keeps what a container printed: raw in a file, bounded, and line by line for whoever watches.

Both streams go into one file in the order in which they arrived, because that is how a person reads a failure. The cap
is exact and never silent: the file ends in a line that says what was cut and by which policy.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, BinaryIO, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from workflowmaster.blocks.masking import Masking

LONGEST_LINE = 16_384
"""Bytes after which a line without an end is passed on in pieces, so that a watcher sees a progress bar too."""

CUT = "[workflowmaster: output cut at {cap:,} bytes, the cap of policy {policy}; the container was stopped]"


class Capture:
    """One attempt's log. Call it with bytes; it answers False once the cap is reached.

    `lines` is called with each complete line, decoded with replacement, without its end. What `mask` takes out reaches
    neither; the cap and `size` count what was produced. `over` is where a file is written over from that an earlier
    owner has begun: equal output gives equal bytes, so it loses nothing, whenever that is cut short.
    """

    def __init__(  # noqa: PLR0913 - where, how much, for whom, and what of it
        self,
        path: Path,
        *,
        cap: int,
        policy: str,
        lines: Callable[[str], None] | None = None,
        mask: Masking | None = None,
        over: int | None = None,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.size = 0
        self.capped = False
        self._cap, self._policy, self._lines, self._mask = cap, policy, lines, mask
        # "ab" makes the file too; "w" would empty it first.
        self._file: BinaryIO = path.open("ab")
        self.start = self._file.seek(0, os.SEEK_END)
        """Bytes that the file had before what is written now."""
        self._over = over is not None
        if over is not None:
            self._file.close()
            self._file = path.open("r+b")
            self.start = self._file.seek(min(over, self.start))
        self._rest = b""
        self._unfinished = False
        """Whether the file ends in the middle of a line."""

    def __call__(self, data: bytes) -> bool:
        """Take bytes; False when the cap has been reached and the rest is cut."""
        room = self._cap - self.size
        kept = data[: max(room, 0)]
        self.size += len(kept)
        self._keep(self._mask.feed(kept) if self._mask else kept)
        if len(data) > room and not self.capped:
            self.capped = True
            self.note(CUT.format(cap=self._cap, policy=self._policy))
        return not self.capped

    def _keep(self, data: bytes) -> None:
        self._file.write(data)
        # A follower reads this file while it grows, and after a crash it is all there is.
        self._file.flush()
        if data:
            self._unfinished = not data.endswith(b"\n")
            self._split(data)

    def note(self, text: str) -> None:
        """Write a line of our own, which the cap does not count."""
        self._flush_rest()
        self._file.write(b"\n" * self._unfinished + text.encode() + b"\n")
        self._file.flush()
        self._unfinished = False
        if self._lines:
            self._lines(text)

    def _split(self, data: bytes) -> None:
        if not self._lines:
            return
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            last = self._pieces(line)
            self._lines(last.decode(errors="replace").removesuffix("\r"))
        self._rest = self._pieces(rest)

    def _pieces(self, line: bytes) -> bytes:
        """Pass on what is too long for one line and return the rest; where it is cut depends on its bytes alone."""
        while len(line) > LONGEST_LINE:
            end = LONGEST_LINE
            # Not within a character: its later bytes look like 10xxxxxx, and there are three at most.
            while end > LONGEST_LINE - 4 and line[end] & 0xC0 == 0x80:
                end -= 1
            if self._lines:
                self._lines(line[:end].decode(errors="replace"))
            line = line[end:]
        return line

    def _flush_rest(self) -> None:
        if self._mask:
            self._keep(self._mask.rest())
        if self._rest and self._lines:
            self._lines(self._rest.decode(errors="replace"))
        self._rest = b""

    def close(self) -> None:
        """Pass on the last unfinished line and close the file."""
        self._flush_rest()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._flush_rest()
        if self._over and error is None:
            # Only of a reading that came to its end is it known that there is no more.
            self._file.truncate(self._file.tell())
        self.close()


def tail(path: Path, lines: int = 20, *, most: int = 64_000) -> str:
    """Return the last lines of a log, reading no more than `most` bytes of it; empty if there is no log."""
    # Not splitlines: a page feed or a record separator ends no line on a terminal.
    return "\n".join(end(path, most)[0].removesuffix("\n").split("\n")[-lines:])


def end(path: Path, most: int) -> tuple[str, bool]:
    """Return the last `most` bytes of a log as text, and whether more came before; empty if there is no log."""
    try:
        with path.open("rb") as file:
            start = max(file.seek(0, os.SEEK_END) - most, 0)
            file.seek(start)
            return file.read(most).decode(errors="replace"), start > 0
    except FileNotFoundError:
        return "", False


def follow(path: Path, ended: Callable[[], bool], write: Callable[[bytes], object], *, every: float = 0.1) -> None:
    """Pass a growing log on until `ended` says that nothing more will come. It may not exist yet."""
    position = 0
    while True:
        over = ended()  # asked before reading, so that the last bytes are not missed
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                while chunk := file.read(1 << 16):
                    position += len(chunk)
                    write(chunk)
        if over:
            return
        time.sleep(every)
