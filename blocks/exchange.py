"""What goes into one container and comes out of it: a read-only folder in, a writable folder out.

The inward side is written by us and read by nobody's code before go. The outward side is written by code that may mean
harm: names are opened relative to the folder with `O_NOFOLLOW` and without blocking, so neither a symlink to a file of
this host nor a FIFO that never answers is a way in, and everything has a cap.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.blocks import bounded
from workflowmaster.blocks.request import EXCHANGE, OUT, Mount
from workflowmaster.blocks.wrapper import environment_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from workflowmaster.blocks.bounded import Bound

OUTPUTS_CAP = 256 * 1024
"""Bytes that the file of named outputs may have."""

LARGEST_OUTPUT = 96 * 1024
"""Bytes of one named output: as an environment variable of a later step it must not keep that one from starting."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class BadOutputs(ValueError):
    """The step's file of named outputs cannot be read; the message says which line and what was expected."""


@dataclass(frozen=True)
class Exchange:
    """The two host folders of one container."""

    folder: Path

    @property
    def inward(self) -> Path:
        """The host's side of `/wm`."""
        return self.folder / "in"

    @property
    def outward(self) -> Path:
        """The host's side of `/out`."""
        return self.folder / "out"

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Both, as the container sees them."""
        return Mount(self.inward, EXCHANGE), Mount(self.outward, OUT, writable=True)

    def make(self, user: tuple[int, int], bound: Bound | None = None) -> Exchange:
        """Create both folders; the outward one belongs to the container's user, and holds no more than `bound` says.

        SandboxUnavailable `disk` if it cannot be bounded.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for directory in (self.inward, self.outward):
            _open_to_all(directory)
        if bound:
            bounded.create(self.outward, bound, user)
        elif os.geteuid() == 0:
            os.chown(self.outward, *user)
        elif os.geteuid() != user[0]:
            # Only those who can enter the state directory reach it, and that is nobody else.
            self.outward.chmod(0o777)
        return self

    def write(self, environment: Mapping[str, str], files: Mapping[str, str]) -> None:
        """Complete the inward side: the environment, an empty stdin unless given, and the files (name → text)."""
        for name, text in {"stdin": "", **files, "env": environment_file(environment)}.items():
            path = self.inward / name
            path.write_bytes(text.encode(errors="surrogateescape"))
            path.chmod(0o644)

    def place(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Put a declared input file at `inputs/NAME` on the inward side. `name` is a checked relative path."""
        path = self.inward / "inputs" / name
        for parent in reversed(path.relative_to(self.inward).parents[:-1]):
            _open_to_all(self.inward / parent)
        path.write_bytes(data)
        path.chmod(0o755 if executable else 0o644)

    def outputs(self) -> dict[str, str]:
        """Read what the step wrote to `$WM_OUTPUT`. BadOutputs if it is no plain, small file of `name=value` lines."""
        data = read_plain(self.outward, "outputs", OUTPUTS_CAP)
        try:
            found = parse_outputs(data.decode())
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise BadOutputs(f"line {line} of $WM_OUTPUT is not UTF-8; put binary results into files") from error
        for name, value in found.items():
            if len(value.encode()) > LARGEST_OUTPUT:
                most = f"{LARGEST_OUTPUT:,} bytes"
                raise BadOutputs(f"output {name} of $WM_OUTPUT is larger than {most}; put large results into files")
        return found


def _open_to_all(directory: Path) -> None:
    """Make a directory that the container's user can enter, whatever our own umask says."""
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)


def read_plain(folder: Path, name: str, cap: int) -> bytes:
    """Read a regular file that untrusted code may have made; empty if it is not there. BadOutputs for anything else."""
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        finally:
            os.close(directory)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadOutputs(f"/out/{name} cannot be read as a plain file ({error.strerror})") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BadOutputs(f"/out/{name} is not a plain file")
        data = _read(handle, cap + 1)
    finally:
        os.close(handle)
    if len(data) > cap:
        raise BadOutputs(f"/out/{name} is larger than {cap:,} bytes; put large results into files of the workspace")
    return data


def _read(handle: int, most: int) -> bytes:
    data = b""
    while len(data) < most and (more := os.read(handle, most - len(data))):
        data += more
    return data


def parse_outputs(text: str) -> dict[str, str]:
    """Read `name=value` lines, and `name<<END` … `END` for values of several lines, as GitHub's runner does."""
    found: dict[str, str] = {}
    if "\0" in text:
        raise BadOutputs(f"line {text.count(chr(10), 0, text.index(chr(0))) + 1} of $WM_OUTPUT has a NUL byte")
    # Only a newline ends a line: values may hold page feeds and the line separators of Unicode.
    lines = enumerate(text.split("\n"), 1)
    for number, line in lines:
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        if "<<" in name:
            name, equals, end = line.partition("<<")
            value = _heredoc(lines, end.strip(), number)
        if not equals or not NAME.fullmatch(name.strip()):
            raise BadOutputs(f"line {number} of $WM_OUTPUT is {line[:80]!r}; expected name=value")
        found[name.strip()] = value
    return found


def _heredoc(lines: enumerate[str], end: str, start: int) -> str:
    if not end:
        raise BadOutputs(f"line {start} of $WM_OUTPUT names no word that ends its value; expected name<<END")
    body: list[str] = []
    for _, line in lines:
        if line == end:
            return "\n".join(body)
        body.append(line)
    raise BadOutputs(f"line {start} of $WM_OUTPUT opens a value that {end!r} never ends")
