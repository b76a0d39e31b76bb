"""Artifacts: what a step leaves in `/out/artifacts` for people, copied out as plain files and nothing else.

The folder was filled by code that may mean harm and is read by people and their tools, who will believe what they find.
So nothing is moved or unpacked: each file is read through a descriptor that followed no link and written anew, under a
name that shows as what it is. Whatever is not a plain file with a plain name stays behind, and one line says so. The
accepted cost is a copy of each byte; the alternative, a rename, would carry modes, owners, holes and hard links along.

Memory does not grow with what is there: names, findings and depth have their limits, and content passes in pieces.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from pydantic import BaseModel, ConfigDict

from workflowmaster.blocks import handles
from workflowmaster.blocks.globs import compile_glob
from workflowmaster.blocks.refusal import disk_errors
from workflowmaster.blocks.trees import bad_name, show

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PLACE = "artifacts"
"""Folder of `/out` that artifacts are taken from."""

MOST_FILES = 1_000
"""Files that one step may hand out; who has more packs them."""

MOST_BYTES = 1 << 30
"""Bytes that one step's artifacts may have, whatever its policy says."""

MOST_NAMES = 20_000
"""Names that are looked at; a folder with more holds no artifacts for people."""

MOST_FINDINGS = 50
"""Lines that say what was left out; the rest is counted."""

DEEPEST = 32
"""Nesting that is followed."""

LONGEST = 1024
"""Bytes of a path below the folder."""

CHUNK = 1 << 20

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_EXTRA_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


class Artifact(BaseModel):
    """One file that was copied out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Its path below `/out/artifacts`; a plain relative path with slashes."""
    bytes: int
    sha256: str
    """Hex digest of what was copied."""


@dataclass(frozen=True)
class Taken:
    """What came of one step's artifacts."""

    artifacts: tuple[Artifact, ...] = ()
    """In the order of their names, directory by directory."""
    findings: tuple[str, ...] = ()
    """What was left out or changed, one line each."""
    missing: tuple[str, ...] = ()
    """Declared globs that no copied file matches."""


@dataclass(frozen=True)
class Folder:
    """One directory on the way down."""

    fd: int
    prefix: bytes
    """Its path with a slash at the end; empty for the top."""
    names: list[bytes]
    """What is still to be looked at, the last one first."""


@dataclass
class Copying:
    """One step's artifacts on their way out."""

    target: int
    """Descriptor of the folder they are copied to."""
    wanted: dict[str, re.Pattern[bytes]]
    room: int
    """Bytes that may still come."""
    cap: int
    names: int = 0
    found: list[Artifact] = field(default_factory=list)
    met: set[str] = field(default_factory=set)
    findings: list[str] = field(default_factory=list)
    more: int = 0
    """Findings that are only counted."""

    def note(self, path: bytes, words: str) -> None:
        """Say what happened to a name."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(f"/out/{PLACE}/{show(path)}: {words}")
        else:
            self.more += 1

    def run(self, top: int) -> None:
        """Copy what lies in an open directory, which is closed at the end."""
        path = [Folder(top, b"", self._listed(top, b""))]
        try:
            while path:
                here = path[-1]
                if not here.names:
                    os.close(path.pop().fd)
                elif below := self._take(here, here.names.pop(), len(path)):
                    path.append(below)
        finally:
            for folder in path:
                os.close(folder.fd)

    def _listed(self, fd: int, prefix: bytes) -> list[bytes]:
        """List a directory backwards, as far as names may still be looked at."""
        with os.scandir(fd) as entries:
            found = [os.fsencode(entry.name) for entry in islice(entries, MOST_NAMES - self.names)]
            if next(entries, None) is not None:
                self.note(prefix, f"has more than the {MOST_NAMES:,} names that are looked at; the rest is left out")
        self.names += len(found)
        return sorted(found, reverse=True)

    def _take(self, here: Folder, raw: bytes, depth: int) -> Folder | None:
        """Copy one name, or return the directory that it is."""
        path = here.prefix + raw
        if reason := unfit(raw, path):
            self.note(path, f"left out, {reason}")
            return None
        name = os.fsdecode(raw)
        kind = stat.S_IFMT(os.stat(name, dir_fd=here.fd, follow_symlinks=False).st_mode)
        if kind == stat.S_IFDIR:
            return self._enter(here, name, path, depth)
        if kind != stat.S_IFREG:
            self.note(path, f"left out, {_KINDS.get(kind, 'a special file')}")
        elif self._is_wanted(path):
            self._file(here.fd, name, path)
        return None

    def _enter(self, here: Folder, name: str, path: bytes, depth: int) -> Folder | None:
        if depth >= DEEPEST:
            self.note(path, f"left out, nested deeper than {DEEPEST} directories")
            return None
        try:
            fd = handles.open_directory(here.fd, name)
        except OSError as error:
            self.note(path, f"left out, it cannot be opened ({error.strerror})")
            return None
        return Folder(fd, path + b"/", self._listed(fd, path))

    def _is_wanted(self, path: bytes) -> bool:
        """Return whether a file is one that the step declares; where it declares none, all are."""
        wanted = not self.wanted or bool(self._globs_of(path))
        if not wanted:
            self.note(path, "left out, the step's artifacts do not name it")
        return wanted

    def _globs_of(self, path: bytes) -> set[str]:
        """Return the declared globs that a file, or a folder above it, matches."""
        parts = path.split(b"/")
        above = [b"/".join(parts[: n + 1]) for n in range(len(parts))]
        return {glob for glob, pattern in self.wanted.items() if any(map(pattern.fullmatch, above))}

    def _file(self, parent: int, name: str, path: bytes) -> None:
        try:
            source = handles.open_file(parent, name)
        except OSError as error:
            self.note(path, f"left out, it cannot be opened ({error.strerror})")
            return
        try:
            st = os.fstat(source)
            # The size is looked at before anything is read: a sparse file can be longer than the disk.
            if not stat.S_ISREG(st.st_mode):
                self.note(path, "left out, it changed its kind while it was looked at")
            elif len(self.found) >= MOST_FILES:
                self.note(path, f"left out, it is beyond the {MOST_FILES:,} files a step may hand out")
            elif st.st_size > self.room:
                self.note(path, f"left out, its {st.st_size:,} bytes do not fit into the cap of {self.cap:,}")
            else:
                self._copy(source, st, path)
        finally:
            os.close(source)

    def _copy(self, source: int, before: os.stat_result, path: bytes) -> None:
        *folders, name = os.fsdecode(path).split("/")
        with _inside(self.target, folders) as parent:
            mode = handles.EXECUTABLE_MODE if before.st_mode & stat.S_IXUSR else handles.FILE_MODE
            with os.fdopen(os.open(name, handles.CREATE_FLAGS, mode, dir_fd=parent), "wb") as target:
                digest = _stream(source, target, before.st_size)
            if _mark(os.fstat(source)) != _mark(before):
                os.unlink(name, dir_fd=parent)
                self.note(path, "left out, it changed while it was read")
                return
        self.room -= before.st_size
        self.found.append(Artifact(name=os.fsdecode(path), bytes=before.st_size, sha256=digest))
        self.met |= self._globs_of(path)
        if before.st_mode & _EXTRA_BITS:
            self.note(path, "copied without its setuid, setgid or sticky bit")
        if before.st_nlink > 1:
            self.note(path, f"copied as a file of its own; it was one of {before.st_nlink} names of one file")


def take(outward: Path, into: Path, *, cap: int | None = None, wanted: Sequence[str] = ()) -> Taken:
    """Copy the files below `outward/artifacts` to a new folder `into`, which is not made when there are none.

    `cap` is the most bytes they may have in sum, `wanted` the globs that the step declares: paths below the folder,
    where a directory stands for all that is in it. What an earlier attempt left in `into` goes. No container may see
    `outward` any more. WorkspaceError `disk`, `unsafe`; MalformedGlobError for a glob that is none.
    """
    patterns = {glob: compile_glob(os.fsencode(glob.removeprefix("./").rstrip("/"))) for glob in wanted}
    into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    most = min(cap or MOST_BYTES, MOST_BYTES)
    with disk_errors(str(into)), handles.root(outward) as out, handles.root(into.parent) as above:
        handles.remove(above, into.name)
        try:
            top = handles.open_directory(out, PLACE)
        except FileNotFoundError:
            return Taken(missing=tuple(wanted))
        except OSError as error:
            finding = f"/out/{PLACE}: left out, it is no directory ({error.strerror})"
            return Taken(findings=(finding,), missing=tuple(wanted))
        with _inside(above, [into.name]) as target:
            copying = Copying(target, patterns, most, most)
            copying.run(top)
        with suppress(OSError):
            os.rmdir(into.name, dir_fd=above)  # only an empty one goes
    more = [f"… and {copying.more:,} more names of /out/{PLACE}"] if copying.more else []
    missing = tuple(glob for glob in wanted if glob not in copying.met)
    return Taken(tuple(copying.found), (*copying.findings, *more), missing)


def unfit(name: bytes, path: bytes) -> str:
    """Return why a name is not shown to people, or an empty string for a plain one."""
    if len(path) > LONGEST:
        return f"path longer than {LONGEST:,} bytes"
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return "its name is not UTF-8"
    # Line breaks, terminal codes, and signs that turn or hide the letters beside them.
    if not text.isprintable():
        return "its name has characters that do not show"
    return bad_name(name)


@contextmanager
def _inside(parent: int, folders: Sequence[str]) -> Iterator[int]:
    """Open a folder of ours by the names that lead to it, making those that are not there yet."""
    held = [os.dup(parent)]
    try:
        for name in folders:
            with suppress(FileExistsError):
                os.mkdir(name, handles.DIRECTORY_MODE, dir_fd=held[-1])
            held.append(os.open(name, handles.DIRECTORY_FLAGS, dir_fd=held[-1]))
        yield held[-1]
    finally:
        for fd in held:
            os.close(fd)


def _stream(source: int, target: BinaryIO, size: int) -> str:
    """Copy that many bytes; return their SHA-256 in hex."""
    digest = hashlib.sha256()
    while size and (data := os.read(source, min(CHUNK, size))):
        digest.update(data)
        target.write(data)
        size -= len(data)
    return digest.hexdigest()


def _mark(st: os.stat_result) -> tuple[int, int, int]:
    """Return what changes when somebody writes to a file."""
    return st.st_size, st.st_mtime_ns, st.st_ctime_ns
