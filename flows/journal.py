"""A workflow's small records: one line for each fact that a resume needs and no persisted result holds.

Prefect's results say what finished; these say what was tried, decided, approved and under way. They lie in one file
that only grows, because a thousand steps must not write a thousand files or one file a thousand times, and whoever
holds the workflow's claim is its only writer. Each line carries a CRC-32 of itself, so that a torn or flipped one is
seen and left out, never believed. What is lost then is told by `state validate`; what a record was about is found
again from the results, or done again. Few records wait for the disk: after a power loss no container runs either.
"""

from __future__ import annotations

import json
import os
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from workflowmaster.flows.plan import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Kind = Literal[
    "plan", "claim", "rerun", "keys", "go", "worked", "ended", "decision", "question", "approval", "result", "begun",
    "closed", "budget", "spent",
]  # fmt: skip
"""What a record is about. Its fields, by kind:

`keys`: `step`, `key`, `parts` (component of the key → its text or hash). `go`: a container is about to be sent off.
`worked`: what its work came to, before the check (`worked.py`). `ended`: its attempt is over. `decision`, `question`,
`approval`: as decided, asked and answered. `result`: `step`, `result` (StepResult), `reused`.
`rerun`: `steps` that must run anew, and their `generation`. `claim`: who took the workflow. `plan`: `hash`.
`begun`: a flow run has taken it over, with what holds for that part. `closed`: how that ended (`statekeeping.py`).
`budget`: `limits` that a person gave to the run or a `step`, and what was `written` in the prompt then. `spent`: what
no result tells, of an attempt that failed or was stopped (`step`, `attempt`, `containers`, `usd`) or of time.
"""
SIGNS = 8
"""Hexadecimal digits of a record's checksum, which stands before it with one space between."""


@dataclass(frozen=True)
class Entry:
    """One record as it was read back."""

    kind: str
    at: float
    """Unix time, seconds."""
    fields: dict[str, Any]
    end: int
    """Bytes of the file up to and with this record."""


@dataclass(frozen=True)
class Records:
    """What a file of records holds."""

    entries: list[Entry] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    """Numbers of the lines, from 1, that are not what was written."""

    def of(self, *kinds: Kind) -> Iterator[Entry]:
        """Yield the records of some kinds, in order."""
        return (entry for entry in self.entries if entry.kind in kinds)


class Journal:
    """Appends records. Safe between threads; between processes the workflow's claim has to keep others away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = _ready(self._handle)
        """Bytes of the file: where the next record begins."""
        self.heard: Callable[[str, dict[str, Any]], None] | None = None
        """Told the kind and the fields of each record once it is written, by the thread that wrote it."""

    def append(self, kind: Kind, *, durable: bool = False, **fields: Any) -> None:
        """Add a record of plain JSON values; `durable` waits for the disk. OSError where the disk takes no more."""
        # A decision brings its own time along, which is as good; one of 0 is none.
        body = canonical({**fields, "kind": kind, "at": fields.get("at") or round(time.time(), 6)})
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        with self._lock:
            written = os.write(self._handle, line)
            if written < len(line):
                # A full disk takes a part. What is left of it would swallow the next record.
                os.ftruncate(self._handle, self.size)
                raise OSError(28, "no space left for a record", str(self.path))
            self.size += written
        if durable:
            os.fdatasync(self._handle)
        if self.heard:
            self.heard(kind, fields)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def _ready(handle: int) -> int:
    """Return the size of a file that ends with a line; a torn last one is ended here, and read as damaged."""
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        size += os.write(handle, b"\n")
    return size


def read(path: Path, start: int = 0) -> Records:
    """Read the records from a byte on, which must be where one begins; none where there is no file."""
    found = Records()
    if not path.exists():
        return found
    with path.open("rb") as file:
        file.seek(start)
        for number, line in enumerate(file, 1):
            start += len(line)
            entry = _entry(line, start)
            if entry:
                found.entries.append(entry)
            elif line.strip():
                found.damaged.append(number)
    return found


def _entry(line: bytes, end: int) -> Entry | None:
    head, body = line[: SIGNS + 1], line[SIGNS + 1 : -1]
    if not line.endswith(b"\n") or head != b"%08x " % zlib.crc32(body):
        return None
    fields = json.loads(body)
    return Entry(fields.pop("kind"), fields.pop("at"), fields, end)
