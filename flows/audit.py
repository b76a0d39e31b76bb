"""The audit log: one line of JSON for each thing that happened, each carrying the hash of the one before.

It is evidence, never read for state. How a line is spelled is in `auditline`, the keys are in `auditkeys`, the signed
checkpoints in `sealing`; here lines get in. A line goes out in one `write` under a lock that all writers share, so
lines of several processes never mix, and a crash tears at most the last one, which the next writer cuts off and says
so.

The hard choice is what waits for the disk. A record that was written survives the death of its process; only a power
cut loses what the kernel still holds. So events that grant, refuse or end something wait for the disk, those about
containers are only sent on their way by a thread, and the rest goes along. Accepted: after a power cut the last
milliseconds of a run may be missing from its log, and nothing that anybody was told.

When a log or its key is not as it was left, nothing is written over it: a damaged key is refused, and behind damaged or
missing records the chain goes on with a gap that no later record can hide.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.blocks import keypair
from workflowmaster.flows import anchoring, auditkeys
from workflowmaster.flows.auditevents import SEALS, reaches
from workflowmaster.flows.auditfiles import End, Tail, ends, files, is_plain, next_name, records, rotated, tail_of
from workflowmaster.flows.auditkeys import AuditBroken, Held
from workflowmaster.flows.auditline import Frame, composed
from workflowmaster.flows.sealing import Checkpoint, Sealing, checkpoint_path, digest, write_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

__all__ = ["GROUP", "AuditBroken", "AuditLog", "records"]

GROUP: Final = 64
"""Records that may wait for one sync."""

log = logging.getLogger(__name__)


class AuditLog:
    """Appends to one workflow's log. Safe between processes by a lock on the key file, between threads by another.

    AuditBroken if the log's key, or the key that signs, is damaged; nothing is written then.
    """

    def __init__(self, path: Path, sealing: Sealing | None = None) -> None:
        self.path, self.workflow = path, path.parent.name
        self.sealing = sealing or Sealing.of(path)
        insist(path, self.sealing)
        self._lock = threading.RLock()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._handle = self._key = -1
        self._held: Held | None = None
        self._tail = Tail(-1, "")
        self._ends: dict[int, End] = {}
        self._unsynced, self._asked, self._closed, self._new = 0, False, False, False
        self._trouble: OSError | None = None
        self._untold = ""
        if path.exists() or auditkeys.key_path(path).exists():
            # Of a run that goes on: what is damaged is said before anything has begun.
            with self._locked():
                self._reload()

    def append(self, event: str, **fields: Any) -> None:
        """Add one event. Fields are plain JSON values; secrets and values of the environment never are among them.

        OSError if it cannot be written, and then nothing of it is in the log; also if an earlier one that was on its
        way to the disk has not arrived there.
        """
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, f"the audit log is closed, and {event} came later", str(self.path))
            if self._trouble:
                trouble, self._trouble = self._trouble, None
                raise trouble
            with self._locked():
                if self._stale():
                    self._reload()
                self._ready()
                self._add(event, fields)
            self._unsynced += 1
        self._to_disk(event, fields)

    def close(self) -> None:
        """Wait for the disk and close the files."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._disk.shutdown(wait=True)
        try:
            if self._handle >= 0:
                self._sync()
        except OSError as error:
            # What had to be on the disk has said so itself; this is the rest, and more than this is still to be closed.
            log.warning("the end of the audit log of %s did not reach the disk: %s", self.workflow, error)
        finally:
            for handle in (self._handle, self._key):
                if handle >= 0:
                    os.close(handle)
            self._handle = self._key = -1

    def discard(self) -> None:
        """Take back what lies outside the folder of a workflow that never began: its seed."""
        with suppress(OSError):
            (self.sealing.seeds / auditkeys.SEED).unlink()
            self.sealing.seeds.rmdir()

    # What follows, down to `_to_disk`, is done with the lock held.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._key < 0:
            self._key = auditkeys.opened(auditkeys.key_path(self.path))
        fcntl.flock(self._key, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._key, fcntl.LOCK_UN)

    def _stale(self) -> bool:
        """Whether the file is not as we left it. By its name, because it may have been rotated away."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - twice as fast, and done for each record
        except FileNotFoundError:
            return True
        return (found.st_ino, found.st_size) != (self._tail.inode, self._tail.size) or self._held is None

    def _reload(self) -> None:
        """Take in what others have written, or how the last one left it."""
        held = auditkeys.read(self._key, auditkeys.key_path(self.path))
        plain = is_plain(self.path)
        tail = Tail(-1, tail_of(self.path).head) if plain else tail_of(self.path)
        if held is None and not plain and (tail.size or tail.seq >= 0 or tail.torn):
            raise AuditBroken(
                f"{auditkeys.key_path(self.path)}: the key of the audit log is missing or empty; put it back from a "
                "copy. Nothing was changed"
            )
        self._held, self._tail = held, tail
        if held is None:
            return
        while tail.epoch > self._at.epoch:
            # A power cut: the record had reached the disk and the key after it had not.
            self._rekey(lambda old: old.ratcheted(old.first))
        if tail.sealed and tail.epoch == self._at.epoch:
            self._rekey(lambda old: old.ratcheted(tail.seq + 1))
        if tail.seq < held.seq:
            # Cut off or wiped. The chain goes on where it was, so that the gap stays to be seen.
            self._tail = replace(self._tail, seq=held.seq, head=held.head)

    @property
    def _at(self) -> Held:
        assert self._held is not None, "the log has begun"  # noqa: S101 - `_ready` sees to it
        return self._held

    def _rekey(self, change: Callable[[Held], Held]) -> None:
        """Overwrite the key file. What others have noted in it since is kept."""
        held = change(auditkeys.read(self._key, auditkeys.key_path(self.path)) or self._at)
        auditkeys.write(self._key, held)
        self._held = held
        self._new = True

    def _ready(self) -> None:
        """Make sure that a record can be added: keys, the file, and what is to be said of the last writer first."""
        if self._held is None:
            old = next_name(self.path, plain=True) if is_plain(self.path) else None
            seed = auditkeys.make_seed(self.sealing.seeds)
            self._held, self._new = Held(0, auditkeys.key_at(seed, 0)), True
            auditkeys.write(self._key, self._held)
            if old:
                self.path.rename(old)
            self._tail = tail_of(self.path)
        tail = self._tail
        if tail.size >= self.sealing.most_bytes and tail.sealed:
            os.fdatasync(self._handle)
            self.path.rename(next_name(self.path))
            self._tail = tail = replace(tail, size=0, inode=0, empty=True)
        if self._handle < 0 or not tail.inode or os.fstat(self._handle).st_ino != tail.inode:
            self._open()
        if self._tail.torn or self._tail.damaged or self._tail.empty:
            self._tell_of(self._tail)

    def _open(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._tail = replace(self._tail, inode=os.fstat(self._handle).st_ino)

    def _tell_of(self, tail: Tail) -> None:
        """Write down how the last writer left the log, and cut off what is no record. Once."""
        self._tail = replace(tail, torn=b"", damaged=b"", empty=False)
        if tail.torn:
            os.ftruncate(self._handle, tail.size)
            sha256 = hashlib.sha256(tail.torn).hexdigest()
            self._add("audit.torn_tail", {"bytes": len(tail.torn), "sha256": sha256})
        if tail.damaged:
            self._add("audit.damaged", {"sha256": hashlib.sha256(tail.damaged).hexdigest()})
        if tail.empty:
            self._add("audit.rotated", _predecessor(self.path))

    def _add(self, event: str, fields: Mapping[str, Any]) -> None:
        tail, held = self._tail, self._at
        seq = tail.seq + 1
        full = seq - held.first + 1 >= self.sealing.every or tail.size >= self.sealing.most_bytes
        seal = self._signer() if full or event in SEALS else None
        line, head = composed(Frame(seq, held.epoch, held.key, tail.head, seal), time.time(), event, fields)
        self._write(line)
        size = tail.size + len(line)
        self._tail = Tail(seq, head, held.epoch, seal is not None, size, tail.inode)
        if seal is not None:
            self._ends[held.epoch] = End(held.first, seq, head, seal)
            self._rekey(lambda old: old.ratcheted(seq + 1))
            if event not in SEALS and not self._closed:
                self._disk.submit(self._sign)

    def _signer(self) -> str:
        """Return the public key that the checkpoint will be signed with; nothing where none is signed."""
        if not self.sealing.enabled:
            return ""
        try:
            return keypair.public(self.sealing.signing_key)
        except (OSError, ValueError) as error:
            self._untold = str(error)
            return ""

    def _write(self, line: bytes) -> None:
        """Write a line, or nothing: half a one would stand in the way of the next."""
        try:
            rest = line[os.write(self._handle, line) :]
            while rest:
                # The disk was full in the middle of it: asked once more, the system says what is wrong.
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            # Should even this fail, the next writer finds half a line and cuts it off.
            with suppress(OSError):
                os.ftruncate(self._handle, self._tail.size)
            raise OSError(error.errno, f"the audit log cannot be written: {error.strerror}", str(self.path)) from error

    # From here on the lock is taken only for moments.

    def _to_disk(self, event: str, fields: Mapping[str, Any]) -> None:
        how = reaches(event, fields)
        if self._untold:
            reason, self._untold = self._untold, ""
            self._tell("audit.unsigned", reason=reason)
        if event in SEALS:
            self._disk.submit(self._sign).result()
        elif how == "now":
            self._sync()
        elif how == "soon" or self._unsynced >= GROUP:
            with self._lock:
                # One sync takes all along that was written until it begins.
                if not self._asked and not self._closed:
                    self._asked = True
                    self._disk.submit(self._sync_aside)

    def _sync_aside(self) -> None:
        """Sync in the background; that it failed, the next record says."""
        try:
            self._sync()
        except OSError as error:
            log.warning("the audit log of %s does not reach the disk: %s", self.workflow, error)
            self._trouble = error

    def _sync(self) -> None:
        """Bring everything written so far to the disk, and note in the key file how far that is."""
        with self._lock:
            self._asked, self._unsynced, new, self._new = False, 0, self._new, False
            handle, tail = os.dup(self._handle), self._tail
        try:
            os.fdatasync(handle)
        finally:
            os.close(handle)
        with self._lock, self._locked():
            held = auditkeys.read(self._key, auditkeys.key_path(self.path))
            if held and held.seq < tail.seq:
                auditkeys.write(self._key, replace(held, seq=tail.seq, head=tail.head))
        if new:
            # The key that was overwritten is gone only now; and of a new log, names must not be lost either.
            os.fsync(self._key)
            auditkeys.sync(self.sealing.seeds, self.path.parent)

    def _sign(self) -> None:
        """Sign the checkpoints that are due, and copy them to the anchors. What goes wrong is told; it fails no run."""
        try:
            self._sync()
            with self._lock, self._locked():
                held = auditkeys.read(self._key, auditkeys.key_path(self.path)) or self._at
            due = range(held.signed, held.epoch)
            if any(epoch not in self._ends for epoch in due):
                self._ends |= ends(self.path)
            for epoch in due:
                self._checkpoint(epoch, self._ends.pop(epoch, None))
        except (OSError, ValueError) as error:
            self._tell("audit.unsigned", reason=str(error))

    def _checkpoint(self, epoch: int, end: End | None) -> None:
        if end and end.key and self.sealing.enabled:
            statement = Checkpoint(
                workflow=self.workflow,
                epoch=epoch,
                first=end.first,
                last=end.last,
                head=end.head,
                count=end.last + 1,
                previous=digest(checkpoint_path(self.path, epoch - 1)),
            )
            data = write_signed(checkpoint_path(self.path, epoch), statement, self.sealing)
            for anchor, trouble in anchoring.keep(self.sealing, self.workflow, epoch, data):
                self._tell("anchor.failed", anchor=anchor, checkpoint=epoch, reason=trouble)
        with self._lock, self._locked():
            self._rekey(lambda old: replace(old, signed=max(old.signed, epoch + 1)))

    def _tell(self, event: str, **fields: Any) -> None:
        log.warning("%s of %s: %s", event, self.workflow, fields["reason"])
        # Where the disk is full, the warning is all there can be.
        with suppress(OSError):
            self.append(event, **fields)


def insist(path: Path, sealing: Sealing) -> None:
    """Refuse to go on with a log whose key is missing or damaged, before anything is written. AuditBroken."""
    sealing.insist()
    if (files(path) and not is_plain(path)) or (sealing.seeds / auditkeys.SEED).exists():
        auditkeys.look(auditkeys.key_path(path))


def _predecessor(path: Path) -> dict[str, Any]:
    """Return what the first record of a file says about the one before."""
    old = rotated(path)[-1]
    fields: dict[str, Any] = {"file": old.name, "size": old.stat().st_size}
    if is_plain(old):
        with old.open("rb") as file:
            fields["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        fields["head"] = tail_of(old).head
    return fields
