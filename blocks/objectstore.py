"""The private object store: reads through libgit2, writes loose objects itself.

Why writes are our own: libgit2 does not write an object that any alternate already has. The alternate here is the
user's object directory, where an object may be unreachable, and his next `gc --prune=now` would take a finished
step's file with it. So "is it there already" asks our own folder only; what the base commit reaches is pinned by a
ref and never written again, because unchanged files keep the ids they were laid with. Own writing also streams: a
file above `LARGE` bytes never stands in memory, neither on its way in nor out. The accepted cost is disk: such a
file is stored uncompressed when its first bytes do not shrink.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pygit2
from pygit2.enums import ConfigLevel

from workflowmaster.blocks.trees import DIRECTORY, EMPTY_TREE, Entry, Listing, encode, is_tree, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Kind = Literal["blob", "tree", "commit"]

LARGE = 4 << 20
"""Bytes from which a file is streamed instead of read whole."""
_CHUNK = 1 << 18
_LARGE_PACKED = LARGE // 64  # zlib shrinks a thousandfold at most, so less than this never inflates to much
_KINDS: dict[int, Kind] = {1: "commit", 2: "tree", 3: "blob"}
_CACHED_TREES = 20_000


class WorkspaceError(RuntimeError):
    """The workspace cannot be used as asked. `code` names the case, `files` the paths it is about.

    Codes: dirty, unborn, sha256, reftable, partial, bare, owner, broken, base, branch, conflict, unreadable, unsafe,
    case, size, disk, filter.
    """

    def __init__(self, code: str, message: str, *, files: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.files = files


def quiet_libgit2() -> None:
    """Make libgit2 ignore every configuration outside a repository, in this process.

    The user's `~/.gitconfig` must not change what a step's tree becomes, and an unreadable home must not stop us.
    Owners are checked by `userrepo`, which can honour `safe.directory`; libgit2 could not, once it reads no such file.
    """
    for level in (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
        pygit2.settings.search_path[level] = os.devnull
    pygit2.settings.owner_validation = False


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn a full disk or quota into a WorkspaceError that says where."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"No space left while writing {where}. Free some, then `workflowmaster resume` goes on from here."
        raise WorkspaceError("disk", message) from error


class ObjectStore:
    """Objects of one bare repository, by raw 20-byte id."""

    def __init__(self, git_dir: Path) -> None:
        self.git_dir = git_dir
        self.objects = git_dir / "objects"
        self.repo = pygit2.Repository(str(git_dir))
        self._trees: dict[bytes, Listing] = {}
        self.bytes_written = 0
        """Uncompressed bytes of blobs this process has added."""

    @classmethod
    def create(cls, git_dir: Path, *, alternate: Path | None) -> ObjectStore:
        """Make (or reopen) a bare repository whose missing objects are looked up in `alternate`."""
        if not (git_dir / "HEAD").exists():
            pygit2.init_repository(str(git_dir), bare=True)
        if alternate is not None:
            _write_whole(git_dir / "objects/info/alternates", os.fsencode(alternate) + b"\n")
        return cls(git_dir)

    def read(self, oid: bytes) -> bytes:
        """Return an object's content. WorkspaceError `base` if it is gone."""
        ours = _read_loose(self._path(oid))
        if ours is not None:
            return ours
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
            if len(self._trees) >= _CACHED_TREES:
                self._trees.clear()
            found = self._trees[oid] = {} if oid == EMPTY_TREE else parse(self.read(oid))
        return found

    def write(self, kind: Kind, data: bytes) -> bytes:
        """Store an object and return its id."""
        header = b"%s %d\0" % (kind.encode(), len(data))
        oid = hashlib.sha1(header + data, usedforsecurity=False).digest()
        path = self._path(oid)
        if not os.path.exists(path):  # noqa: PTH110 -- pathlib costs more than the write
            _install(path, zlib.compress(header + data, 1))
            if kind == "blob":
                self.bytes_written += len(data)
        return oid

    def write_tree(self, entries: Listing) -> bytes:
        """Store a tree and return its id."""
        if not entries:
            return self.write("tree", b"")
        oid = self.write("tree", encode(entries))
        self._trees[oid] = dict(entries)
        return oid

    def write_file(self, fd: int, size: int) -> bytes:
        """Store the content of an open file from its current offset and return the blob's id."""
        if size < LARGE:
            return self.write("blob", _read_all(fd, size))
        return self._stream_in(fd, size)

    def copy_to(self, oid: bytes, fd: int) -> None:
        """Write a blob's content to an open file."""
        path = self._path(oid)
        if self._is_large(path):
            _stream_out(path, fd)
        else:
            _write_all(fd, self.read(oid))

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
        name = oid.hex()
        return f"{self.objects}/{name[:2]}/{name[2:]}"

    @staticmethod
    def _is_large(path: str) -> bool:
        try:
            return os.stat(path).st_size >= _LARGE_PACKED  # noqa: PTH116
        except FileNotFoundError:
            return False

    def _stream_in(self, fd: int, size: int) -> bytes:
        """Hash and store in one pass; the name is known only at the end, so the temporary file is renamed then."""
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        head = os.pread(fd, 1 << 16, os.lseek(fd, 0, os.SEEK_CUR))
        shrinks = len(zlib.compress(head, 1)) < 0.9 * len(head)
        packer = zlib.compressobj(1 if shrinks else 0)
        temporary = f"{self.objects}/incoming-{os.getpid()}"
        left = size
        with open(temporary, "wb") as out:  # noqa: PTH123
            out.write(packer.compress(b"blob %d\0" % size))
            while left and (chunk := os.read(fd, min(_CHUNK, left))):
                digest.update(chunk)
                out.write(packer.compress(chunk))
                left -= len(chunk)
            out.write(packer.flush())
        if left:
            _unlink(temporary)
            raise WorkspaceError(
                "unreadable", f"A file lost {left} bytes while it was read; something still writes to it."
            )
        oid = digest.digest()
        os.makedirs(os.path.dirname(self._path(oid)), exist_ok=True)  # noqa: PTH103, PTH120
        os.replace(temporary, self._path(oid))  # noqa: PTH105
        self.bytes_written += size
        return oid


def _read_all(fd: int, size: int) -> bytes:
    data = os.read(fd, size + 1)
    if len(data) == size:
        return data
    parts = [data]
    while chunk := os.read(fd, _CHUNK):
        parts.append(chunk)
    return b"".join(parts)


def _read_loose(path: str) -> bytes | None:
    """Return the content of a loose object, or None if there is none; half the price of asking libgit2."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        packed = _read_all(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    return zlib.decompress(packed).partition(b"\0")[2]


def _stream_out(path: str, fd: int) -> None:
    """Inflate a loose object into a file, leaving out its header."""
    unpacker = zlib.decompressobj()
    with open(path, "rb") as source:  # noqa: PTH123
        body = unpacker.decompress(source.read(_CHUNK), _CHUNK).partition(b"\0")[2]
        while body or not unpacker.eof:
            _write_all(fd, body)
            # What did not fit into the last piece comes first: a piece of zeros inflates a thousandfold.
            piece = unpacker.unconsumed_tail or source.read(_CHUNK)
            body = unpacker.decompress(piece, _CHUNK)
            if not (piece or body or unpacker.eof):
                raise WorkspaceError("broken", f"{path} ends too early; the disk or somebody damaged it. Start again.")


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _install(path: str, packed: bytes) -> None:
    """Write a loose object so that a crash leaves either nothing of that name or all of it."""
    temporary = f"{path}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, stat.S_IRUSR | stat.S_IWUSR)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        fd = os.open(temporary, flags, stat.S_IRUSR | stat.S_IWUSR)
    except FileExistsError:
        # A killed process of the same id left it half written.
        _unlink(temporary)
        fd = os.open(temporary, flags, stat.S_IRUSR | stat.S_IWUSR)
    try:
        _write_all(fd, packed)
    finally:
        os.close(fd)
    os.rename(temporary, path)  # noqa: PTH104


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


quiet_libgit2()
