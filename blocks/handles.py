"""Single acts on a directory that hostile code has written: open, chmod, remove; by descriptor, never by path.

A path is resolved again at every use, and a step can swap any part of it for a symlink. Here every name is relative
to a descriptor that is already held, and no call follows a link. The cost is one open per directory.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.trees import show

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that a step left where a file was would otherwise wait for a writer for ever.
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# O_EXCL: what exists is never opened for writing, for it may be a hard link or a link.
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_MODE = 0o644
EXECUTABLE_MODE = 0o755
DIRECTORY_MODE = 0o755


@contextmanager
def root(directory: Path, *, lend: bool = True) -> Iterator[int]:
    """Open a worktree. WorkspaceError `unsafe` if it is not a directory of its own any more."""
    # The folder above is ours and no container sees it; only the last name may have been meddled with.
    try:
        above = os.open(directory.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_directory(above, directory.name, lend=lend)
        finally:
            os.close(above)
    except OSError as error:
        raise WorkspaceError("unsafe", f"{directory} is no directory we can open: {error.strerror}.") from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def child(parent: int, name: str, *, lend: bool = True) -> Iterator[int]:
    """Open a directory inside another; see `open_directory`."""
    fd = open_directory(parent, name, lend=lend)
    try:
        yield fd
    finally:
        os.close(fd)


def open_directory(parent: int, name: str, *, lend: bool = True) -> int:
    """Return a descriptor of the directory `name`; the caller closes it.

    With `lend` we give ourselves the permission that a step took away from a directory of ours.
    """
    try:
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    except PermissionError:
        if not lend:
            raise
        # Ours, but locked by the step that made it.
        chmod(parent, name, stat.S_IRWXU)
        return os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    # Readable but not searchable opens, and then fails at every name inside.
    if lend and os.geteuid() and not os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True):
        with suppress(PermissionError):
            os.fchmod(fd, stat.S_IRWXU)
    return fd


def open_file(parent: int, name: str, *, lend: bool = True) -> int:
    """Return a descriptor for reading the regular file `name`; the caller closes it."""
    try:
        return os.open(name, READ_FLAGS, dir_fd=parent)
    except PermissionError:
        if not lend:
            raise
        chmod(parent, name, stat.S_IRUSR | stat.S_IWUSR)
        return os.open(name, READ_FLAGS, dir_fd=parent)


def chmod(parent: int, name: str, mode: int) -> None:
    """Set the permissions of a name without following it. PermissionError if it belongs to somebody else."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        # fchmod refuses O_PATH descriptors; their /proc name reaches the very inode.
        Path(f"/proc/self/fd/{fd}").chmod(mode)
    finally:
        os.close(fd)


def remove(parent: int, name: str) -> None:
    """Remove whatever `name` is, with everything below it. A name that is not there is fine."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    # Linux says the one for a directory, POSIX the other.
    except (IsADirectoryError, PermissionError):
        _remove_directory(parent, name)


def _remove_directory(parent: int, name: str) -> None:
    """Flatten, then remove: subdirectories are moved up beside each other, so depth costs no stack and no descriptors.

    A step may nest a hundred thousand levels; recursion, or one descriptor a level, would end there.
    """
    try:
        with child(parent, name) as top:
            token = secrets.token_hex(8)
            spare = (f".{token}-{n}" for n in count())
            todo = _clear(top, top, spare)
            while todo:
                current = todo.pop()
                with child(top, current) as fd:
                    todo += _clear(fd, top, spare)
                # Empty by now: what was in it stands beside it.
                os.rmdir(current, dir_fd=top)
        os.rmdir(name, dir_fd=parent)
    except PermissionError as error:
        message = (
            f"{show(os.fsencode(name))} in the worktree belongs to another user and cannot be removed. "
            "Remove it as root; a step under this policy should return its files through /out."
        )
        raise WorkspaceError("owner", message, files=(show(os.fsencode(name)),)) from error


def _clear(fd: int, top: int, spare: Iterator[str]) -> list[str]:
    """Unlink the files of a directory and move its subdirectories into `top`; return their names there.

    The new names carry a random token, so nothing that a step left can be in the way.
    """
    moved: list[str] = []
    with os.scandir(fd) as entries:
        names = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
    for name, is_directory in names:
        # A link to a directory is a file here: it is unlinked, and where it leads is not looked at.
        if not is_directory:
            os.unlink(name, dir_fd=fd)
            continue
        target = name if fd == top else next(spare)
        if fd != top:
            _rename(fd, name, top, target)
        moved.append(target)
    return moved


def _rename(fd: int, name: str, top: int, target: str) -> None:
    try:
        os.rename(name, target, src_dir_fd=fd, dst_dir_fd=top)
    except PermissionError:
        # Moving a directory writes its `..`, which wants write permission on it.
        chmod(fd, name, stat.S_IRWXU)
        os.rename(name, target, src_dir_fd=fd, dst_dir_fd=top)
