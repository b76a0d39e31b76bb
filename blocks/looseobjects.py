"""Loose objects: one zlib file each, written whole or not at all, and streamed when large.

libgit2 has no way to read a blob piece by piece, and its way to write one takes four seconds for 200 MB. The format
is a header, the content, and zlib around both, so it is read and written here: a file above `LARGE` bytes never
stands in memory, neither on its way in nor out. The accepted cost is disk: such a file is stored uncompressed when
its first bytes do not shrink.
"""

# Thousands of files: pathlib costs more than the system calls.
# ruff: noqa: PTH103, PTH104, PTH105, PTH108, PTH120
from __future__ import annotations

import hashlib
import os
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from workflowmaster.blocks.refusal import WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = 4 << 20
"""Bytes from which a file is streamed instead of read whole."""
_CHUNK = 1 << 18
# zlib shrinks a thousandfold at most, so a smaller object never inflates to much.
_LARGE_PACKED = LARGE // 64
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def path_in(objects: str, oid: bytes) -> str:
    """Return where an object folder keeps an object."""
    name = oid.hex()
    return f"{objects}/{name[:2]}/{name[2:]}"


def read(path: str) -> bytes | None:
    """Return the content of a loose object, or None if there is none; half the price of asking libgit2."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        packed = read_all(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    return _content(packed)


def install(path: str, packed: bytes) -> None:
    """Write a loose object."""
    with _whole(path) as fd:
        write_all(fd, packed)


def stream_in(fd: int, size: int, objects: str) -> bytes:
    """Store the rest of an open file as a blob and return its id, which is known only at the end."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    head = os.pread(fd, 1 << 16, os.lseek(fd, 0, os.SEEK_CUR))
    # Archives, media and weights do not shrink, and trying costs more than writing them.
    shrinks = len(zlib.compress(head, 1)) < 0.9 * len(head)
    packer = zlib.compressobj(1 if shrinks else 0)
    left = size
    incoming = f"{objects}/incoming"
    with _whole(incoming) as out:
        write_all(out, packer.compress(b"blob %d\0" % size))
        while left and (chunk := os.read(fd, min(_CHUNK, left))):
            digest.update(chunk)
            write_all(out, packer.compress(chunk))
            left -= len(chunk)
        write_all(out, packer.flush())
        # The header has promised more, and no reader would accept the object.
        if left:
            message = f"A file lost {left} bytes while it was read; something still writes to it. Run the step again."
            raise WorkspaceError("unreadable", message)
    path = path_in(objects, digest.digest())
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.replace(incoming, path)
    return digest.digest()


def hash_rest(fd: int, size: int) -> bytes:
    """Return the id that the rest of an open file has as a blob, and leave the offset where it was."""
    start = os.lseek(fd, 0, os.SEEK_CUR)
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while chunk := os.read(fd, _CHUNK):
        digest.update(chunk)
    os.lseek(fd, start, os.SEEK_SET)
    return digest.digest()


def copy_out(path: str, target: int) -> bool:
    """Write the content of a loose object to an open file, a large one piece by piece. False if there is none."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        size = os.fstat(source).st_size
        if size < _LARGE_PACKED:
            write_all(target, _content(read_all(source, size)))
        else:
            _stream_out(source, target, path)
    finally:
        os.close(source)
    return True


def _stream_out(source: int, target: int, path: str) -> None:
    unpacker = zlib.decompressobj()
    body = unpacker.decompress(os.read(source, _CHUNK), _CHUNK).partition(b"\0")[2]
    while body or not unpacker.eof:
        write_all(target, body)
        # What did not fit into the last piece comes first: a piece of zeros inflates a thousandfold.
        piece = unpacker.unconsumed_tail or os.read(source, _CHUNK)
        body = unpacker.decompress(piece, _CHUNK)
        if not (piece or body or unpacker.eof):
            raise WorkspaceError("broken", f"{path} ends too early; the disk or somebody damaged it. Start again.")


def _content(packed: bytes) -> bytes:
    return zlib.decompress(packed).partition(b"\0")[2]


def read_all(fd: int, size: int) -> bytes:
    """Return the rest of an open file that should have `size` bytes, however many it has."""
    data = os.read(fd, size + 1)
    if len(data) == size:
        return data
    parts = [data]
    # It grew since its size was looked at: take what is there now.
    while chunk := os.read(fd, _CHUNK):
        parts.append(chunk)
    return b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextmanager
def _whole(path: str) -> Iterator[int]:
    """Yield a descriptor whose content gets the name `path` in the end, or never."""
    temporary = f"{path}.{os.getpid()}"
    fd = _create(temporary)
    try:
        yield fd
    except BaseException:
        os.close(fd)
        os.unlink(temporary)
        raise
    os.close(fd)
    os.rename(temporary, path)


def _create(path: str) -> int:
    try:
        return os.open(path, _FLAGS, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except FileExistsError:
        # A killed process of the same id left it half written.
        with suppress(FileNotFoundError):
            os.unlink(path)
    return os.open(path, _FLAGS, 0o600)
