"""The files of one log: the one that is written, those that were full, and how they end.

`audit.jsonl` is written; a full one becomes `audit.000001.jsonl`, the next `audit.000002.jsonl`. `audit.000000.jsonl`
is a log of the time before there were keys, where a run goes on that has one.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.flows.auditline import Line, genesis, hash_of, parsed
from workflowmaster.flows.sealing import dropped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROTATED: Final = re.compile(r"audit\.(\d{6})\.jsonl")
_CHUNK: Final = 1 << 16
PLAIN_GENESIS: Final = "0" * 64
"""`prev` of the first record in the format without keys."""


@dataclass(frozen=True)
class Tail:
    """How a log ends."""

    seq: int
    """Number of the last record; -1 where there is none."""
    head: str
    """Its hash: what the next record's `prev` must be."""
    epoch: int = -1
    sealed: bool = False
    """Whether the last record ends its epoch."""
    size: int = 0
    """Bytes of the file that is written, up to its last whole line."""
    inode: int = 0
    torn: bytes = b""
    """What follows the last whole line: half a record of a killed writer."""
    damaged: bytes = b""
    """The last whole line, if it is no record."""
    empty: bool = False
    """Whether the file that is written has no record yet, and full ones lie before it."""


@dataclass(frozen=True)
class End:
    """The record that ends an epoch."""

    first: int
    """First record of the epoch."""
    last: int
    head: str
    key: str
    """Public key that signs its checkpoint; empty if none does."""


def rotated(log: Path) -> list[Path]:
    """Return the full files of a log, the oldest first."""
    found = [path for path in log.parent.glob("audit.*.jsonl") if _ROTATED.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name)


def files(log: Path) -> list[Path]:
    """Return all files of a log, in order; the last one is being written."""
    return [*rotated(log), *([log] if log.exists() else [])]


def next_name(log: Path, *, plain: bool = False) -> Path:
    """Return the name that the present file gets when it is put away: never one that a dropped file had."""
    gone = dropped(log)
    names = [*(gone.files if gone else ()), *(path.name for path in rotated(log))]
    taken = [int(found[1]) for name in names if (found := _ROTATED.fullmatch(name))]
    return log.with_name(f"audit.{0 if plain else max(taken, default=0) + 1:06}.jsonl")


def is_plain(path: Path) -> bool:
    """Whether a file is a log of the format without keys: its records have a `hash` and no `mac`."""
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 20)
    except FileNotFoundError:
        return False
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "hash" in record and "mac" not in record and "epoch" not in record


def tail_of(log: Path) -> Tail:
    """Look how a log ends; only the last lines are read."""
    start = Tail(-1, genesis(log.parent.name))
    before = rotated(log)
    if not log.exists():
        return _put_behind(before, start)
    with log.open("rb") as file:
        inode, size = os.fstat(file.fileno()).st_ino, file.seek(0, os.SEEK_END)
        lines, torn = _last_lines(file.fileno(), size)
    whole = size - len(torn)
    if not lines:
        found = _put_behind(before, start)
        return Tail(found.seq, found.head, found.epoch, found.sealed, whole, inode, torn, empty=found.empty)
    last = parsed(lines[-1])
    if last:
        return Tail(last.seq, last.hash, last.epoch, last.seal is not None, whole, inode, torn)
    # The chain goes on behind what cannot be read; where, the last record that can be read and the key file say.
    known = next((one for line in reversed(lines) if (one := parsed(line))), None)
    seq, epoch = (known.seq, known.epoch) if known else (-1, -1)
    return Tail(seq, hash_of(lines[-1]), epoch, sealed=False, size=whole, inode=inode, torn=torn, damaged=lines[-1])


def _put_behind(before: list[Path], start: Tail) -> Tail:
    """Return where a log goes on whose present file is empty: behind the last full one."""
    if not before:
        return start
    with before[-1].open("rb") as file:
        lines, _ = _last_lines(file.fileno(), file.seek(0, os.SEEK_END))
    last = parsed(lines[-1]) if lines else None
    if last is None:
        return Tail(start.seq, start.head, empty=True)
    return Tail(last.seq, last.hash, last.epoch, last.seal is not None, empty=True)


def _last_lines(handle: int, size: int) -> tuple[list[bytes], bytes]:
    """Return the last whole lines of a file, at least one if there is any, and what follows them."""
    take = _CHUNK
    while True:
        begin = max(0, size - take)
        data = os.pread(handle, size - begin, begin)
        *lines, torn = data.split(b"\n")
        whole = [line + b"\n" for line in (lines if begin == 0 else lines[1:])]
        if whole or begin == 0:
            return whole, torn
        take *= 4


def frames(path: Path) -> Iterator[tuple[bytes, Line | None]]:
    """Read a file's whole lines in order, each with its frame; None where it is no record."""
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line, parsed(line)


def ends(log: Path) -> dict[int, End]:
    """Read a log through and return, by epoch, the records that end one."""
    found: dict[int, End] = {}
    first = 0
    for path in files(log):
        for _, one in frames(path):
            if one and one.seal is not None:
                found[one.epoch] = End(first, one.seq, one.hash, one.seal)
                first = one.seq + 1
    return found


def records(log: Path) -> Iterator[dict[str, Any]]:
    """Read a log's records in order, from all its files; half a last line is left out.

    ValueError names the first line that is none.
    """
    for path in files(log):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                yield _record(line, f"{path}:{number}")


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not a record of an audit log: {error}") from error
    if not isinstance(record, dict) or not {"seq", "hash", "event"} <= record.keys():
        raise ValueError(f"{where}: not a record of an audit log")
    return record
