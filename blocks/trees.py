"""Git tree objects as raw bytes: parse, write, and refuse names that no directory may hold.

Why not libgit2's TreeBuilder: it takes text, so a file name that is not UTF-8 cannot be stored, and it checks names
by rules of its own that let `../evil` pass when bytes are written directly. A tree object is a sorted list of `mode
SP name NUL id`, which is twenty lines to read and write; the price is that nobody validates for us. Hence one name
check, used in both directions: what a step leaves in its directory, and what a commit asks us to write there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DIRECTORY = 0o040000
FILE = 0o100644
EXECUTABLE = 0o100755
SYMLINK = 0o120000
GITLINK = 0o160000

MAX_DEPTH = 200
"""Nesting from which content is left out: each level holds a descriptor, and no tool's tree is that deep."""
EMPTY_TREE = bytes.fromhex("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
"""Id of the tree with no entries. Private trees point at it where a step left an empty directory."""

# Code points that HFS+ drops when it compares names: `.g<U+200C>it` is `.git` on a Mac.
_INVISIBLE = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])
# NTFS reads `.git `, `.git.`, `.git::$INDEX_ALLOCATION` and `.git\x` as `.git`, and `GIT~1` is its short name.
_DOT_GIT = re.compile(r"(?:\.git|git~1)[ .]*(?:[:\\].*)?", re.IGNORECASE | re.DOTALL)


class Entry(NamedTuple):
    """What a tree says about one name: git file mode and raw 20-byte object id."""

    mode: int
    oid: bytes


Listing = dict[bytes, Entry]
"""One directory of a tree: name (raw bytes, no slash) → entry."""


def parse(raw: bytes) -> Listing:
    """Return the entries of a raw tree object. ValueError if it is cut short."""
    entries: Listing = {}
    at = 0
    while at < len(raw):
        # The name may hold anything but a NUL, so the fields are found by position and not by splitting.
        space = raw.index(b" ", at)
        end = raw.index(b"\0", space)
        oid = raw[end + 1 : end + 21]
        if len(oid) < len(EMPTY_TREE):
            raise ValueError("tree object ends inside an entry")
        entries[raw[space + 1 : end]] = Entry(int(raw[at:space], 8), oid)
        at = end + 21
    return entries


def encode(entries: Mapping[bytes, Entry]) -> bytes:
    """Return the raw tree object of these entries, in git's order (a directory sorts as if it ended in a slash)."""
    # Without the slash `a-b` would sort before `a`, and git would not find the directory.
    names = sorted(entries, key=lambda n: n + b"/" if entries[n].mode == DIRECTORY else n)
    return b"".join(b"%o %s\0%s" % (entries[n].mode, n, entries[n].oid) for n in names)


def is_dot_git(name: bytes) -> bool:
    """Return whether some file system would take this name for `.git`."""
    # The quick way out for nearly every name there is.
    if b"git" not in name.lower() and name.isascii():
        return False
    text = name.decode("utf-8", "replace").translate(_INVISIBLE)
    return _DOT_GIT.fullmatch(text) is not None


def bad_name(name: bytes) -> str:
    """Return why a name may not stand in a tree, or an empty string for a good one."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        return "not a file name"
    if is_dot_git(name):
        return "a form of .git"
    return ""


def case_clashes(names: Iterable[bytes]) -> list[tuple[bytes, ...]]:
    """Return groups of names that a file system ignoring case would take for one, each group sorted."""
    groups: dict[str, list[bytes]] = {}
    for name in names:
        groups.setdefault(name.decode("utf-8", "surrogateescape").casefold(), []).append(name)
    return [tuple(sorted(g)) for g in groups.values() if len(g) > 1]


def show(path: bytes) -> str:
    """Return a path for people: control characters and undecodable bytes escaped, so that it stays on one line."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def is_tree(entry: Entry | None) -> bool:
    """Return whether the entry is a directory."""
    return entry is not None and entry.mode == DIRECTORY


def is_file(entry: Entry) -> bool:
    """Return whether the entry is a regular file, including the modes old gits wrote (100664)."""
    return entry.mode & 0o170000 == 0o100000
