"""One thing from git's index that libgit2 knows and does not say: which files a sparse checkout left out.

libgit2's status calls them deleted, which would make every sparse checkout dirty and, taken along, would delete them.
The format is gitformat-index(5), versions 2 to 4. Only names and one flag are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIXED = 62
"""Bytes of an entry before its name."""
_EXTENDED = 0x4000
_SKIP_WORKTREE = 0x4000


def left_out(index: bytes) -> frozenset[bytes]:
    """Return the paths marked skip-worktree. ValueError for what is no index of a version we know."""
    if not index:
        return frozenset()
    version = int.from_bytes(index[4:8])
    if index[:4] != b"DIRC" or version not in (2, 3, 4):
        raise ValueError(f"no git index of version 2 to 4 (version {version})")
    return frozenset(name for name, flags in _entries(index, version) if flags & _SKIP_WORKTREE)


def _entries(index: bytes, version: int) -> Iterator[tuple[bytes, int]]:
    """Yield (path, extended flags) of every entry."""
    at, name = 12, b""
    for _ in range(int.from_bytes(index[8:12])):
        start = at
        flags = int.from_bytes(index[at + _FIXED - 2 : at + _FIXED])
        at += _FIXED
        further = 0
        # Only such an entry has the second flag word, and only from version 3 on.
        if flags & _EXTENDED:
            further = int.from_bytes(index[at : at + 2])
            at += 2
        # Version 4 says how much of the name before to drop, and then what to add.
        if version == 4:
            cut, at = _varint(index, at)
            name = name[: len(name) - cut]
        else:
            name = b""
        end = index.index(b"\0", at)
        name += index[at:end]
        # Before version 4 an entry is filled up with one to eight NULs to a multiple of eight.
        at = end + 1 if version == 4 else start + (end - start + 8) // 8 * 8
        yield name, further


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read the number format of pack offsets; return the value and where the next byte is."""
    value = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        value = ((value + 1) << 7) | (data[at] & 0x7F)
    return value, at + 1
