"""The private object store: reads through libgit2, writes loose objects itself.

Why writes are our own: libgit2 does not write an object that any alternate already has. The alternate here is the
user's object directory, where an object may be unreachable, and his next `gc --prune=now` would take a finished
step's file with it. So "is it there already" asks our own folder only; what the base commit reaches is pinned by a
ref and never written again, because unchanged files keep the ids they were laid with.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pygit2
from pygit2.enums import ConfigLevel

from workflowmaster.blocks import looseobjects
from workflowmaster.blocks.looseobjects import LARGE
from workflowmaster.blocks.packfile import Batch
from workflowmaster.blocks.refusal import WorkspaceError, disk_errors
from workflowmaster.blocks.trees import DIRECTORY, EMPTY_TREE, Entry, Listing, encode, is_tree, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["LARGE", "ObjectStore", "WorkspaceError", "disk_errors", "quiet_libgit2"]

Kind = Literal["blob", "tree", "commit"]

_KINDS: dict[int, Kind] = {1: "commit", 2: "tree", 3: "blob"}
_CACHED_ENTRIES = 100_000


def quiet_libgit2() -> None:
    """Make libgit2 ignore every configuration outside a repository, in this process.

    The user's `~/.gitconfig` must not change what a step's tree becomes, and an unreadable home must not stop us.
    Owners are checked by `userrepo`, which can honour `safe.directory`; libgit2 could not, once it reads no such file.
    """
    for level in (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
        pygit2.settings.search_path[level] = os.devnull
    pygit2.settings.owner_validation = False
    # Hashing every object again doubles the price of reading it; zlib's own checksum finds a damaged disk, and git
    # does not do it either.
    pygit2.settings.enable_strict_hash_verification(False)


def object_id(kind: Kind, data: bytes) -> bytes:
    """Return the id of an object with this content."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).digest()


class ObjectStore:
    """Objects of one bare repository, by raw 20-byte id."""

    def __init__(self, git_dir: Path) -> None:
        self.git_dir = git_dir
        self.objects = git_dir / "objects"
        self.repo = pygit2.Repository(str(git_dir))
        self._trees: dict[bytes, Listing] = {}
        self._cached = 0
        self._batch: Batch | None = None
        self.bytes_written = 0
        """Uncompressed bytes of blobs this process has added."""

    @classmethod
    def create(cls, git_dir: Path, *, alternate: Path | None) -> ObjectStore:
        """Make (or reopen) a bare repository whose missing objects are looked up in `alternate`."""
        if not (git_dir / "HEAD").exists():
            pygit2.init_repository(str(git_dir), bare=True)
        if alternate is not None and b"\n" in os.fsencode(alternate):
            raise WorkspaceError("unsafe", f"{str(alternate)!r} has a line break in its path. Rename that directory.")
        if alternate is not None:
            # Written at every opening: the repository may have been moved since.
            _write_whole(git_dir / "objects/info/alternates", os.fsencode(alternate) + b"\n")
        return cls(git_dir)

    def read(self, oid: bytes) -> bytes:
        """Return an object's content. WorkspaceError `base` if it is gone."""
        # Our own files first: half of what is read here was written by an earlier step.
        ours = looseobjects.read(self._path(oid))
        return self._read_packed(oid) if ours is None else ours

    def _read_packed(self, oid: bytes) -> bytes:
        """Ask libgit2, which knows our packs and all that the user has."""
        try:
            return bytes(self.repo.read(pygit2.Oid(raw=oid))[1])
        except KeyError as error:
            message = (
                f"Object {oid.hex()} is gone from {self.git_dir} and the repository it borrows from. "
                "Somebody removed the workflow's base ref and collected garbage; start the workflow again."
            )
            raise WorkspaceError("base", message) from error

    def tree(self, oid: bytes) -> Listing:
        """Return a tree's entries. The listing is shared: do not change it."""
        found = self._trees.get(oid)
        if found is None:
            found = {} if oid == EMPTY_TREE else parse(self.read(oid))
            self._keep(oid, found)
        return found

    def write(self, kind: Kind, data: bytes, *, held: bytes | None = None) -> bytes:
        """Store an object and return its id. `held` is an id that is kept alive already and need not be written."""
        header = b"%s %d\0" % (kind.encode(), len(data))
        oid = hashlib.sha1(header + data, usedforsecurity=False).digest()
        path = self._path(oid)
        # Only our own folder is asked: what the user holds may be unreachable there, and gone tomorrow.
        if oid == held or (self._batch is not None and oid in self._batch):
            return oid
        if os.path.exists(path):  # noqa: PTH110 -- pathlib costs more than the write
            return oid
        if kind == "blob":
            self.bytes_written += len(data)
        if self._batch is not None:
            self._batch.add(oid, kind, data)
        else:
            looseobjects.install(path, zlib.compress(header + data, 1))
        return oid

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Collect what is written inside: many objects become one pack, few become files.

        Nothing of it can be read before the end, and after an exception nothing of it exists.
        """
        batch = self._batch = Batch(self.objects)
        try:
            yield
            batch.finish()
        finally:
            # After a full `finish` there is nothing left to discard.
            self._batch = None
            batch.discard()

    def write_tree(self, entries: Listing) -> bytes:
        """Store a tree and return its id."""
        if not entries:
            return self.write("tree", b"")
        oid = self.write("tree", encode(entries))
        self._keep(oid, dict(entries))
        return oid

    def _keep(self, oid: bytes, listing: Listing) -> None:
        # Emptied whole: which listing is needed next follows the walk, not the age.
        if self._cached > _CACHED_ENTRIES:
            self._trees.clear()
            self._cached = 0
        self._trees[oid] = listing
        self._cached += len(listing)

    def write_file(self, fd: int, size: int, *, held: bytes | None = None) -> bytes:
        """Store the content of an open file from its current offset and return the blob's id; `held` as in `write`."""
        if size < LARGE:
            return self.write("blob", looseobjects.read_all(fd, size), held=held)
        # Reading twice is cheaper than writing once.
        if held is not None and looseobjects.hash_rest(fd, size) == held:
            return held
        oid = looseobjects.stream_in(fd, size, str(self.objects))
        self.bytes_written += size
        return oid

    def copy_to(self, oid: bytes, fd: int) -> None:
        """Write a blob's content to an open file."""
        if not looseobjects.copy_out(self._path(oid), fd):
            looseobjects.write_all(fd, self._read_packed(oid))

    def holds(self, oid: bytes) -> bool:
        """Return whether the object can be read here, alternates included."""
        return pygit2.Oid(raw=oid) in self.repo.odb

    def size(self, oid: bytes) -> int:
        """Return an object's size in bytes, uncompressed."""
        return int(self.repo.odb.read_header(pygit2.Oid(raw=oid))[1])

    def kind(self, oid: bytes) -> Kind:
        """Return what an object is."""
        return _KINDS[int(self.repo.odb.read_header(pygit2.Oid(raw=oid))[0])]

    def loose_path(self, oid: bytes) -> Path | None:
        """Return the file of an object that is stored here and not packed."""
        path = Path(self._path(oid))
        return path if path.exists() else None

    def tree_object(self, oid: bytes) -> pygit2.Tree:
        """Return libgit2's own view of a tree, for its diff and its line merge."""
        found = self.repo[pygit2.Oid(raw=oid)]
        if not isinstance(found, pygit2.Tree):
            raise TypeError(f"{oid.hex()} is no tree")
        return found

    def edit(self, tree: bytes, changes: Mapping[bytes, Entry | None]) -> bytes:
        """Return the tree with these paths set, or removed where None. A directory that loses all it had goes too."""
        listing = dict(self.tree(tree))
        below: dict[bytes, dict[bytes, Entry | None]] = {}
        for path, entry in changes.items():
            name, slash, rest = path.partition(b"/")
            if slash:
                below.setdefault(name, {})[rest] = entry
            elif entry is None:
                listing.pop(name, None)
            else:
                listing[name] = entry
        for name, inside in below.items():
            old = listing.get(name)
            new = self.edit(old.oid if old is not None and is_tree(old) else EMPTY_TREE, inside)
            if new != EMPTY_TREE:
                listing[name] = Entry(DIRECTORY, new)
            elif old is not None and is_tree(old):
                del listing[name]
        return self.write_tree(listing)

    def entry(self, tree: bytes, path: bytes) -> Entry | None:
        """Return what a tree holds at a path such as `b"src/main.py"`."""
        found: Entry | None = Entry(DIRECTORY, tree)
        for part in path.split(b"/"):
            if found is None or not is_tree(found):
                return None
            found = self.tree(found.oid).get(part)
        return found

    def _path(self, oid: bytes) -> str:
        return looseobjects.path_in(str(self.objects), oid)


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


quiet_libgit2()
