"""One record of the audit log as a line of JSON: how it is spelled, and how it is taken apart again.

The hard choice: what is hashed are the bytes of the line, not what they parse to. A verifier need not agree with us on
how JSON is spelled, two spellings of one record are two records, and 100 MB are checked without parsing a line of it.
The price is a fixed frame: `seq` and `epoch` come first, then time, process and event, then the event's own fields in
the order of their names, and `prev`, `hash` and `mac` end the line at a fixed distance.

- `hash` is SHA-256 over everything before it, `prev` included: the chain, which anybody can follow.
- `mac` is HMAC-SHA256 over that hash with the key of the record's epoch: only a holder of the key can have written it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

RESERVED: Final = frozenset({"seq", "epoch", "ts", "pid", "event", "seal", "prev", "hash", "mac"})
"""Keys of the frame; no event has a field of such a name."""

_HEAD = re.compile(rb'\{"seq":(0|[1-9][0-9]{0,14}),"epoch":(0|[1-9][0-9]{0,14}),"ts":')
_TAIL = re.compile(rb',"prev":"([0-9a-f]{64})","hash":"([0-9a-f]{64})","mac":"([0-9a-f]{64})"\}\n')
_SEAL = re.compile(rb',"seal":"([A-Za-z0-9+/=]*)"\Z')
_PREV, _HASH, _MAC = len(',"prev":"') + 65, len(',"hash":"') + 65, len(',"mac":"') + 65
_END = len("}\n")
FRAME: Final = _PREV + _HASH + _MAC + _END
"""Bytes at the end of a line that are not the event's."""


class Line(NamedTuple):
    """A record's frame. Hashes are hexadecimal."""

    seq: int
    epoch: int
    seal: str | None
    """Where the record ends its epoch: the public key its checkpoint is signed with, or nothing; None elsewhere."""
    prev: str
    hash: str
    mac: str


class Frame(NamedTuple):
    """What a new record is put into."""

    seq: int
    epoch: int
    key: bytes
    prev: str
    seal: str | None = None


def genesis(workflow: str) -> str:
    """Return the `prev` of a workflow's first record; another for each, so that no log can stand in for another's."""
    return hashlib.sha256(f"workflowmaster/audit/2:{workflow}".encode()).hexdigest()


def composed(frame: Frame, ts: float, event: str, fields: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return a record's line and its hash. ValueError for a field that has the name of one of the frame's."""
    if taken := RESERVED & fields.keys():
        raise ValueError(f"{event}: an event has no field {', '.join(sorted(taken))}: that is a part of every record")
    own = _spelled(fields)[1:-1]
    seal = "" if frame.seal is None else f',"seal":"{frame.seal}"'
    body = (
        f'{{"seq":{frame.seq},"epoch":{frame.epoch},"ts":{ts:.6f},"pid":{os.getpid()},"event":"{event}"'
        f'{"," if own else ""}{own}{seal},"prev":"{frame.prev}"'
    ).encode()
    digest = hashlib.sha256(body).hexdigest()
    return body + f',"hash":"{digest}","mac":"{mac(frame.key, digest)}"}}\n'.encode(), digest


def _spelled(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A file name of a step's that is no UTF-8: half a character has no bytes of its own, only an escape.
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return text


def parsed(line: bytes) -> Line | None:
    """Take a line apart, its newline included; None if it is no record of this format."""
    head, tail = _HEAD.match(line), _TAIL.fullmatch(line, max(0, len(line) - FRAME))
    if head is None or tail is None:
        return None
    seal = None
    if b'"seal":' in line:
        # Right before the frame's end, where no field of an event can be.
        found = _SEAL.search(line, max(0, len(line) - FRAME - 128), len(line) - FRAME)
        seal = found[1].decode() if found else None
    return Line(int(head[1]), int(head[2]), seal, tail[1].decode(), tail[2].decode(), tail[3].decode())


def hash_of(line: bytes) -> str:
    """Return what a line's hash must be."""
    return hashlib.sha256(line[: -(_HASH + _MAC + _END)]).hexdigest()


def mac(key: bytes, digest: str) -> str:
    """Return what the `mac` of a record with this hash must be: HMAC-SHA256 (RFC 2104), in hexadecimal."""
    within, around = (half.copy() for half in _halves(key))
    within.update(digest.encode())
    around.update(within.digest())
    return around.hexdigest()


# Two and no more: a key that was overwritten on the disk should not live on here.
@lru_cache(maxsize=2)
def _halves(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """Return an HMAC's inner and outer hash with the key in them: it serves a thousand records, at half the time."""
    padded = key.ljust(hashlib.sha256().block_size, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in padded) for pad in (0x36, 0x5C))
    return hashlib.sha256(inner), hashlib.sha256(outer)


def next_key(key: bytes) -> bytes:
    """Return the key of the epoch after: one way only, so that who takes a key can forge nothing older."""
    return hashlib.sha256(key).digest()
