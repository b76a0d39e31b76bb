"""Many small objects as one pack: a file and its index instead of thousands of files.

`pip install` leaves ten thousand files, and as loose objects each costs a create, a write and a rename, and the same
again when the store is thrown away. libgit2 packs only what is stored already, so the two formats
(gitformat-pack(5)) are written here, without deltas: compressing against each other would cost more than it saves in
a store that lives for a day. The price is that equal content in two packs is stored twice.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from typing import TYPE_CHECKING

from workflowmaster.blocks import looseobjects

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 1 << 30
"""Bytes at which a pack should be finished; the index has room for twice that."""
_TYPES = {"commit": 1, "tree": 2, "blob": 3}
_HEADER = struct.Struct(">4sII")
FEW = 64
"""Objects up to which files of their own are cheaper than a pack to look through."""


class Batch:
    """Objects collected by one snapshot: the first `FEW` wait in memory, and with one more all go to a pack."""

    def __init__(self, objects: Path) -> None:
        self._objects = objects
        self._waiting: dict[bytes, tuple[str, bytes]] = {}
        self._pack: PackWriter | None = None

    def __contains__(self, oid: bytes) -> bool:
        return oid in self._waiting or (self._pack is not None and oid in self._pack)

    def add(self, oid: bytes, kind: str, data: bytes) -> None:
        """Collect an object that is not in the batch yet."""
        # The index holds offsets of 31 bits.
        if self._pack is not None and self._pack.size > LIMIT:
            self._pack.finish()
            self._pack = PackWriter(self._objects / "pack")
        if self._pack is not None:
            self._pack.add(oid, kind, data)
            return
        self._waiting[oid] = (kind, data)
        # The usual step writes a handful of objects, and a pack for each step would slow every later look-up.
        if len(self._waiting) > FEW:
            self._pack = PackWriter(self._objects / "pack")
            for waiting, (its_kind, its_data) in self._waiting.items():
                self._pack.add(waiting, its_kind, its_data)
            self._waiting.clear()

    def finish(self) -> None:
        """Store everything."""
        if self._pack is not None:
            self._pack.finish()
            self._pack = None
        for oid, (kind, data) in self._waiting.items():
            packed = zlib.compress(b"%s %d\0" % (kind.encode(), len(data)) + data, 1)
            looseobjects.install(looseobjects.path_in(str(self._objects), oid), packed)
        self._waiting.clear()

    def discard(self) -> None:
        """Forget what has not been stored."""
        if self._pack is not None:
            self._pack.discard()
            self._pack = None


class PackWriter:
    """One pack being written. Nothing has its name before `finish`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temporary = folder / f"incoming-{os.getpid()}"
        self._file = self._temporary.open("w+b")
        # The count is known at the end; a pack cut short here has zero objects and no name.
        self._file.write(_HEADER.pack(b"PACK", 2, 0))
        self._entries: dict[bytes, tuple[int, int]] = {}
        self.size = _HEADER.size

    def __contains__(self, oid: bytes) -> bool:
        return oid in self._entries

    def add(self, oid: bytes, kind: str, data: bytes) -> None:
        """Append an object that is not in it yet."""
        entry = _size_header(_TYPES[kind], len(data)) + zlib.compress(data, 1)
        self._entries[oid] = (self.size, zlib.crc32(entry))
        self._file.write(entry)
        self.size += len(entry)

    def finish(self) -> Path:
        """Close the pack, give it its name, and return its path. The index comes last: it makes the pack visible."""
        checksum = self._seal()
        order = sorted(self._entries)
        # Named after its content, so the same objects give the same file.
        name = hashlib.sha1(b"".join(order), usedforsecurity=False).hexdigest()
        pack = self._folder / f"pack-{name}.pack"
        index = self._temporary.with_suffix(".idx")
        index.write_bytes(_index(order, self._entries, checksum))
        self._temporary.replace(pack)
        index.replace(pack.with_suffix(".idx"))
        return pack

    def discard(self) -> None:
        """Throw away what was written."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _seal(self) -> bytes:
        """Put the count into the header and the checksum at the end."""
        self._file.seek(0)
        self._file.write(_HEADER.pack(b"PACK", 2, len(self._entries)))
        # The checksum covers the header, so the file is read once more; its pages are still in memory.
        self._file.seek(0)
        checksum = hashlib.file_digest(self._file, "sha1").digest()
        self._file.write(checksum)
        self._file.close()
        return checksum


def _size_header(kind: int, size: int) -> bytes:
    """Return type and size: four bits of the size beside the type, then seven to a byte, low ones first."""
    # The first byte has three bits for the type, which leaves it four for the size.
    first, size = (kind << 4) | (size & 15), size >> 4
    out = bytearray()
    while size:
        out.append(first | 0x80)
        first, size = size & 0x7F, size >> 7
    out.append(first)
    return bytes(out)


def _index(order: list[bytes], entries: dict[bytes, tuple[int, int]], checksum: bytes) -> bytes:
    """Return the version-2 index: fan-out by first byte, ids, checksums, offsets."""
    counts = [0] * 256
    for oid in order:
        counts[oid[0]] += 1
    fan, total = [], 0
    for count in counts:
        total += count
        fan.append(total)
    body = b"".join(
        (
            b"\xfftOc" + struct.pack(">I", 2),
            struct.pack(">256I", *fan),
            b"".join(order),
            struct.pack(f">{len(order)}I", *(entries[o][1] for o in order)),
            struct.pack(f">{len(order)}I", *(entries[o][0] for o in order)),
            checksum,
        )
    )
    return body + hashlib.sha1(body, usedforsecurity=False).digest()
