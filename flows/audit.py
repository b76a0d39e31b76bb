"""The audit log: one line of JSON for each thing that happened, each carrying the hash of the one before.

It is evidence, never read for state. Every field is covered by the hash, and a line goes out in one `write`, so lines
of several writers never mix and a crash tears at most the last one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workflowmaster.flows.plan import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GENESIS = "0" * 64
DURABLE = frozenset({"workflow.started", "workflow.finished", "policy.refused", "approval"})
"""Events that are on the disk before the call returns; the others follow with the next of these."""

SOON = frozenset({"container.started"})
"""Events that are on their way to the disk when the call returns. Waiting would hold up every step: a busy disk was
seen to take two seconds."""

LAST = frozenset({"workflow.finished", "approval"})
"""Events that the log of a run ends with while nobody works on it."""


class AuditLog:
    """Appends to one workflow's log. Safe between processes by a lock on the file, between threads by one in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = -1
        self._last: tuple[int, str] = (-1, GENESIS)
        self._lock = threading.Lock()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="audit")

    def append(self, event: str, **fields: Any) -> None:
        """Add one event. Fields are plain JSON values; secrets and values of the environment never are among them."""
        with self._lock, _locked(self._handle):
            seq, prev = self._tail()
            body = {"seq": seq + 1, "ts": round(time.time(), 6), "event": event, "prev": prev, **fields}
            digest = hashlib.sha256(canonical(body)).hexdigest()
            line = canonical({**body, "hash": digest}) + b"\n"
            os.write(self._handle, line)
            self._last, self._size = (seq + 1, digest), self._size + len(line)
        if event in DURABLE:
            os.fdatasync(self._handle)
        elif event in SOON:
            self._disk.submit(os.fdatasync, self._handle)

    def _tail(self) -> tuple[int, str]:
        """Return the last record's number and hash; read again only when another process has written since."""
        size = os.fstat(self._handle).st_size
        if size == self._size:
            return self._last
        self._last = (-1, GENESIS)
        for record in records(self.path):
            self._last = (record["seq"], record["hash"])
        self._size = _whole(self.path)
        if self._size < size:
            # Somebody was killed while writing; the next line must not become a part of that one.
            os.ftruncate(self._handle, self._size)
        return self._last

    def close(self) -> None:
        """Wait for the disk and close the file."""
        self._disk.shutdown(wait=True)
        os.close(self._handle)


@contextmanager
def _locked(handle: int) -> Iterator[None]:
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Read the log's records in order; a torn last line is left out. ValueError names the first line that is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not a record of an audit log: {error}") from error
            if not isinstance(record, dict) or not {"seq", "hash", "event"} <= record.keys():
                raise ValueError(f"{path}:{number}: not a record of an audit log")
            yield record


def _whole(path: Path) -> int:
    """Return how many bytes of the log are whole lines."""
    return path.read_bytes().rfind(b"\n") + 1


def verify(path: Path, *, ended: bool = False) -> int:
    """Check the chain and return the number of records. ValueError names the first record that does not follow.

    No chain can tell that its end was cut off; so of a run that has `ended` the last record must say so.
    """
    prev, count, event = GENESIS, 0, ""
    for count, record in enumerate(records(path), 1):
        body = {key: value for key, value in record.items() if key != "hash"}
        good = hashlib.sha256(canonical(body)).hexdigest()
        if record.get("hash") != good or record.get("prev") != prev or record.get("seq") != count - 1:
            raise ValueError(f"{path}:{count}: the chain is broken at record {count - 1}")
        prev, event = good, record["event"]
    if ended and event not in LAST:
        raise ValueError(f"{path}:{count}: the chain is broken after record {count - 1}: the end is missing")
    return count
