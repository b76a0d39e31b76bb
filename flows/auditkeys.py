"""The keys of one workflow's log: the seed they all come from, and the one that holds now.

Keys ratchet as in journald's forward secure sealing: the key of an epoch is the SHA-256 of the one before, and the
old one is overwritten. Who breaks into a run has the present key and can write what he likes from there on, but
nothing that was written in a closed epoch can be rewritten, cut or put in again. Whoever verifies begins at the seed,
which lies elsewhere: in a folder beside the workflows, or where the setting `audit_seeds` says, another disk or
another user's.

The key file is overwritten in place, 256 bytes in one write, and never replaced: a rename would leave the old key on
the disk as a free block, and it is also what writers lock. The accepted cost: on file systems that copy on write, and
inside solid-state disks, the old bytes survive until they are reused.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from workflowmaster.flows.auditline import next_key

if TYPE_CHECKING:
    from pathlib import Path

SEED: Final = "seed"
"""Name of the seed's file in the workflow's folder of seeds."""

_SEED_WORD, _KEY_WORD = "workflowmaster/audit-seed/1", "workflowmaster/audit-key/1"
_SIZE = 256
"""Bytes of a key file: less than a disk writes at once, so a power cut leaves the old ones or the new ones."""


class AuditBroken(ValueError):
    """An audit log, or a key of it, is not what was left there: the message says which, where and what to do.

    `record` is the number of the first record that does not hold; -1 where it is not about one.
    """

    def __init__(self, message: str, *, record: int = -1, file: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.record, self.file, self.line = record, file, line


@dataclass(frozen=True)
class Held:
    """What the key file says: the present key, and how far the log had come when it last was on the disk."""

    epoch: int
    key: bytes
    seq: int = -1
    """Last record that is known to be on the disk."""
    head: str = "0" * 64
    """That record's hash."""
    signed: int = 0
    """Epochs below this one have their checkpoint."""
    first: int = 0
    """First record of the present epoch."""

    def ratcheted(self, first: int) -> Held:
        """Return the same with the next epoch's key; `first` is the record that epoch begins with."""
        return replace(self, epoch=self.epoch + 1, key=next_key(self.key), first=first)


def key_path(log: Path) -> Path:
    """Return where the key of a log lies: beside it."""
    return log.with_suffix(".key")


def opened(path: Path) -> int:
    """Open the key file for reading, writing and locking; made empty if it is missing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def look(path: Path) -> Held:
    """Read the key file without writing or locking. AuditBroken if it is missing, empty or damaged."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise AuditBroken(f"{path}: the key of the audit log cannot be read ({error}); {_BACK}") from error
    try:
        found = read(handle, path)
    finally:
        os.close(handle)
    if found is None:
        raise AuditBroken(f"{path}: the key of the audit log is empty; {_BACK}")
    return found


def read(handle: int, path: Path) -> Held | None:
    """Read the present key; None where there is none yet. AuditBroken if the file is damaged."""
    data = os.pread(handle, _SIZE + 1, 0)
    if not data:
        return None
    words = _checked(data, _KEY_WORD)
    if len(data) != _SIZE or words is None or len(words) != 6:
        raise AuditBroken(f"{path}: {_DAMAGED.format(what='key')}")
    epoch, key, seq, head, signed, first = words
    return Held(int(epoch), bytes.fromhex(key), int(seq), head, int(signed), int(first))


def write(handle: int, held: Held) -> None:
    """Overwrite the key file: the old key is gone once this has reached the disk."""
    words = f"{held.epoch} {held.key.hex()} {held.seq} {held.head} {held.signed} {held.first}"
    os.pwrite(handle, _summed(_KEY_WORD, words).ljust(_SIZE - 1).encode() + b"\n", 0)


def key_at(seed: bytes, epoch: int) -> bytes:
    """Return the key of an epoch. The seed itself is never a key, or the first key file would give it away."""
    key = seed
    for _ in range(epoch + 1):
        key = next_key(key)
    return key


def make_seed(folder: Path) -> bytes:
    """Make a workflow's seed and return it. AuditBroken if there is one: its log was wiped, or is somewhere else."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    seed, path = os.urandom(32), folder / SEED
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise AuditBroken(
            f"{path} is the seed of a log whose key is gone: put the workflow's `audit.*` back from a copy, or start a "
            "new run, which has a log of its own"
        ) from error
    try:
        os.write(handle, _summed(_SEED_WORD, seed.hex()).encode() + b"\n")
    finally:
        os.close(handle)
    return seed


def read_seed(folder: Path) -> bytes:
    """Read a workflow's seed. AuditBroken if it is missing or damaged."""
    path = folder / SEED
    try:
        data = path.read_bytes()
    except OSError as error:
        where = "is the setting `audit_seeds` the one the run had?"
        raise AuditBroken(f"{path}: the seed that the log is checked with cannot be read ({error}); {where}") from error
    words = _checked(data, _SEED_WORD)
    if words is None or len(words) != 1 or len(words[0]) != 64:
        raise AuditBroken(f"{path}: {_DAMAGED.format(what='seed')}")
    return bytes.fromhex(words[0])


_BACK = "put it back from a copy. Nothing was changed"
_DAMAGED = f"the audit log's {{what}} is damaged; {_BACK}"


def _summed(word: str, text: str) -> str:
    return f"{word} {text} {zlib.crc32(f'{word} {text}'.encode()):08x}"


def _checked(data: bytes, word: str) -> list[str] | None:
    """Return the words of a line whose name and sum are right."""
    # Byte for byte: damage that still means the same is damage all the same.
    text, _, total = data.decode("ascii", "replace").rstrip(" \n").rpartition(" ")
    if not data.endswith(b"\n") or f"{zlib.crc32(text.encode()):08x}" != total:
        return None
    name, *words = text.split(" ")
    return words if name == word else None


def sync(seeds: Path, folder: Path) -> None:
    """Bring a new log's seed, and the names of both folders, to the disk."""
    for path in (seeds / SEED, seeds, folder):
        # The seed may lie where this process can no longer read it, once it was made.
        with suppress(PermissionError, FileNotFoundError):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
