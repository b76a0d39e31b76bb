"""A folder as a tar stream and back, for engines that cannot see our disk.

What comes back was written by code that may mean harm, and it comes as names in a stream instead of as a directory that
the kernel guards. So the standard library only parses here and never extracts: each name is checked, each directory is
opened relative to the one above it without following a link, each file is made anew and never opened for writing, and
sizes are counted from the headers, before a byte is read. Kept are files, directories, symbolic links as links and hard
links to what the same archive brought; FIFOs and devices are left out with a finding, as the workspace's own reader
does. Of modes the permission bits stay, and ours to read and write are added. The price is that owners, extended
attributes and the times of directories do not travel.

Both ways work in a constant amount of memory, whatever the size of a file.
"""

from __future__ import annotations

import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from workflowmaster.blocks import handles
from workflowmaster.blocks.refusal import WorkspaceError, disk_errors
from workflowmaster.blocks.trees import MAX_DEPTH, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CHUNK = 1 << 18
"""Bytes sent or written at once."""

END = bytes(2 * tarfile.BLOCKSIZE)
"""What closes an archive. It is sent once, after the last folder."""

MOST_ENTRIES = 1_000_000
"""Names one archive may hold: more than the largest module folder, and what a disk's inodes can bear."""

_KINDS = {tarfile.FIFOTYPE: "FIFO", tarfile.CHRTYPE: "device", tarfile.BLKTYPE: "device"}


@dataclass(frozen=True)
class Bounds:
    """What one archive may hold."""

    size: int
    """Bytes of all files; a sparse one counts with its full length."""
    entries: int = MOST_ENTRIES


def pack(source: Path, name: str, owner: tuple[int, int]) -> Iterator[bytes]:
    """Yield a folder as tar blocks under `name`, without the archive's end: several folders may follow each other.

    `owner` is the uid and gid that everything gets. Sockets, FIFOs and devices are passed over.
    """
    with handles.root(source) as fd:
        yield _header(name, os.fstat(fd), owner)
        yield from _below(fd, name, owner)


def _below(fd: int, prefix: str, owner: tuple[int, int]) -> Iterator[bytes]:
    with os.scandir(fd) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name, st = f"{prefix}/{entry.name}", entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            yield _header(name, st, owner)
            with handles.child(fd, entry.name) as below:
                yield from _below(below, name, owner)
        elif stat.S_ISLNK(st.st_mode):
            yield _header(name, st, owner, target=os.readlink(entry.name, dir_fd=fd))
        elif stat.S_ISREG(st.st_mode):
            yield from _file(fd, entry.name, name, owner)


def _file(parent: int, own: str, name: str, owner: tuple[int, int]) -> Iterator[bytes]:
    with os.fdopen(handles.open_file(parent, own), "rb") as file:
        st = os.fstat(file.fileno())
        yield _header(name, st, owner)
        left = st.st_size
        while left:
            data = file.read(min(CHUNK, left))
            if not data:
                # The header has promised its length, and what follows would be read as headers.
                raise WorkspaceError("unsafe", f"{show(os.fsencode(name))} became shorter while it was sent.")
            left -= len(data)
            yield data
        yield bytes(-st.st_size % tarfile.BLOCKSIZE)


def _header(name: str, st: os.stat_result, owner: tuple[int, int], *, target: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(st.st_mode), int(st.st_mtime)
    info.uid, info.gid = owner
    if target:
        info.type, info.linkname = tarfile.SYMTYPE, target
    elif stat.S_ISDIR(st.st_mode):
        info.type = tarfile.DIRTYPE
    else:
        info.size = st.st_size
    # GNU's format has names as bytes; the POSIX one wants UTF-8 and spends a block a name on anything else.
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def gathered(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Join small blocks into large ones: each becomes a chunk of the request, and a small file has three."""
    buffer = bytearray()
    for block in blocks:
        buffer += block
        if len(buffer) >= CHUNK:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def unpack(stream: Iterator[bytes], folder: Path, name: str, bounds: Bounds) -> tuple[str, ...]:
    """Make a folder hold what an archive has under `name`; return what was left out, one line each.

    Everything that was in the folder before is removed. No container may see the folder meanwhile.
    WorkspaceError `size` where it holds more than the bounds allow, `unsafe` for an archive that no engine makes,
    `disk`; what is in the folder is incomplete then.
    """
    with handles.root(folder) as fd, disk_errors(str(folder)):
        _empty(fd)
        with _Unpacking(fd, name, bounds) as unpacking:
            try:
                unpacking.read(stream)
            except tarfile.TarError as error:
                raise WorkspaceError("unsafe", f"The engine's archive of /{name} cannot be read: {error}.") from error
        return tuple(unpacking.findings)


def _empty(fd: int) -> None:
    for name in os.listdir(fd):
        handles.remove(fd, name)


class _Chunks:
    """A stream of chunks with the one method that tarfile reads by."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def read(self, count: int) -> bytes:
        parts = []
        while count:
            self._rest = self._rest or next(self._chunks, b"")
            if not self._rest:
                break
            parts.append(self._rest[:count])
            self._rest = self._rest[count:]
            count -= len(parts[-1])
        return b"".join(parts)


class _Unpacking:
    """One archive on its way into one folder. Holds a descriptor for each directory on the present path."""

    def __init__(self, root: int, name: str, bounds: Bounds) -> None:
        self._root, self._name, self._bounds = root, name, bounds
        self._path: list[tuple[str, int]] = []
        self._size = self._entries = 0
        self.findings: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave(0)

    def read(self, stream: Iterator[bytes]) -> None:
        """Take every member in, in the order of the archive: directories come before what is in them."""
        source: Any = _Chunks(stream)  # a stream is only read, and this is all that reading wants
        with tarfile.open(fileobj=source, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                # tarfile remembers every member of a stream that cannot go back.
                tar.members.clear()  # type: ignore[attr-defined]
                parts = self._inside(member.name)
                self._count(member)
                if parts and self._fits(parts):
                    self._take(tar, member, parts)

    def _inside(self, name: str) -> tuple[str, ...]:
        """Return a name's parts below the folder's own; WorkspaceError for one that leads anywhere else."""
        top, *parts = name.split("/")
        if top != self._name or "\0" in name or any(part in ("", ".", "..") for part in parts):
            message = f"The engine's archive of /{self._name} holds {show(os.fsencode(name))}, which is not inside."
            raise WorkspaceError("unsafe", message)
        return tuple(parts)

    def _count(self, member: tarfile.TarInfo) -> None:
        self._entries += 1
        # A hard link shares its bytes here, but not in the tree that becomes of it, which counts them itself.
        self._size += member.size
        if self._size > self._bounds.size:
            what = f"more than {self._bounds.size:,} bytes"
        elif self._entries > self._bounds.entries:
            what = f"more than {self._bounds.entries:,} names"
        else:
            return
        shown = show(os.fsencode(member.name))
        message = f"The step left {what} in /{self._name} (the last one: {shown}). Let it clean up."
        raise WorkspaceError("size", message, files=(shown,))

    def _fits(self, parts: tuple[str, ...]) -> bool:
        if len(parts) <= MAX_DEPTH:
            return True
        # Told once: the directory at the border stands for all that is below it.
        if len(parts) == MAX_DEPTH + 1:
            self._leave_out(parts, f"nested deeper than {MAX_DEPTH} directories")
        return False

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        parent, name = self._enter(parts[:-1]), parts[-1]
        try:
            if member.isdir():
                os.mkdir(name, dir_fd=parent)
                handles.chmod(parent, name, member.mode & 0o777 | stat.S_IRWXU)
            elif member.issym():
                os.symlink(member.linkname, name, dir_fd=parent)
            elif member.islnk():
                self._link(member.linkname, parts, parent)
            elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                self._write(tar, member, parent, name)
            else:
                self._leave_out(parts, f"a {_KINDS.get(member.type, 'special file')}")
        except FileExistsError as error:
            shown = show(os.fsencode(member.name))
            message = f"{shown} stands twice in what the step left; here names that differ only in case are one."
            raise WorkspaceError("case", message, files=(shown,)) from error

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
        source = tar.extractfile(member)
        with os.fdopen(os.open(name, handles.CREATE_FLAGS, 0o600, dir_fd=parent), "wb") as file:
            while source is not None and (data := source.read(CHUNK)):
                file.write(data)
            file.flush()
            os.fchmod(file.fileno(), member.mode & 0o777 | stat.S_IRUSR | stat.S_IWUSR)
            # What builds by times must not build everything anew in the next step.
            os.utime(file.fileno(), (member.mtime, member.mtime))

    def _link(self, target: str, parts: tuple[str, ...], parent: int) -> None:
        """Make a hard link to a file that came before; what it is linked to may have been left out."""
        *above, name = self._inside(target)
        source = self._root
        held: list[int] = []
        try:
            for part in above:
                source = os.open(part, handles.DIRECTORY_FLAGS, dir_fd=source)
                held.append(source)
            os.link(name, parts[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            self._leave_out(parts, "a hard link to something that was left out")
        except NotADirectoryError as error:
            message = f"The engine's archive links to {show(os.fsencode(target))}, which is not inside."
            raise WorkspaceError("unsafe", message) from error
        finally:
            for fd in held:
                os.close(fd)

    def _enter(self, folders: tuple[str, ...]) -> int:
        """Return the descriptor of a directory of ours. WorkspaceError if anything on the way is none."""
        same = 0
        while same < min(len(folders), len(self._path)) and self._path[same][0] == folders[same]:
            same += 1
        self._leave(same)
        for name in folders[same:]:
            above = self._path[-1][1] if self._path else self._root
            try:
                self._path.append((name, os.open(name, handles.DIRECTORY_FLAGS, dir_fd=above)))
            except OSError as error:
                where = show(os.fsencode(str(PurePosixPath(self._name, *folders))))
                message = f"The engine's archive has names below {where}, which is no directory in it."
                raise WorkspaceError("unsafe", message) from error
        return self._path[-1][1] if self._path else self._root

    def _leave(self, depth: int) -> None:
        while len(self._path) > depth:
            os.close(self._path.pop()[1])

    def _leave_out(self, parts: tuple[str, ...], reason: str) -> None:
        self.findings.append(f"{show(os.fsencode('/'.join(parts)))}: left out, {reason}")
