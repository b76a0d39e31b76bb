"""Looks for secrets in what a step leaves behind, before any of it is stored.

A blob in the store stays there, a named output is handed to every later step, and an artifact is read by people: none
of them can be masked afterwards. So a step that writes a secret into one of them fails, and the message names the file
and the secret, without its value. What was there before and has not changed is not held against it. The accepted cost
is one more reading of every new or changed file of a step that has secrets; what is compressed or encrypted cannot be
seen.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.blocks import handles
from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.trees import MAX_DEPTH, show

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from workflowmaster.blocks.masking import Masker

CODE = "secret"
"""The WorkspaceError's code."""

_CHUNK = 1 << 18


@dataclass(frozen=True)
class Screen:
    """One step's secrets, looked for in its files."""

    masker: Masker

    def content(self, fd: int) -> set[str]:
        """Return the names of the secrets in an open file, whose offset stays where it is."""
        stream, at = self.masker.stream(), 0
        while not stream.names and (chunk := os.pread(fd, _CHUNK, at)):
            stream.feed(chunk)
            at += len(chunk)
        stream.rest()
        return stream.names

    def path(self, path: bytes, prefix: str = "") -> None:
        """Look at the path of something new. WorkspaceError `secret`."""
        if names := self.masker.found(path):
            raise self.refusal(names, path, "the name of", prefix)

    def refusal(self, names: Iterable[str], path: bytes, where: str = "", prefix: str = "") -> WorkspaceError:
        """Return the error about a file, without a value even in its name."""
        shown = prefix + show(self.masker.mask(path))
        message = (
            f"The step wrote secret {', '.join(sorted(names))}, or a form of it, into {where + ' ' if where else ''}"
            f"{shown}, so nothing it left is kept. Let it write the secret nowhere but into /tmp, or not at all."
        )
        return WorkspaceError(CODE, message, files=(shown,))

    def target(self, target: str, path: bytes, prefix: str = "") -> None:
        """Look at where a new symbolic link leads. WorkspaceError `secret`."""
        if names := self.masker.found(os.fsencode(target)):
            raise self.refusal(names, path, "the target of", prefix)

    def folder(self, folder: Path, shown: str, most: int) -> None:
        """Look through all that a container left in a folder, which inside is `shown`. WorkspaceError `secret`.

        Nothing is followed. What cannot be opened, or has more than `most` bytes, is left to those who take it out:
        they cannot open it either, and refuse it.
        """
        with handles.root(folder) as fd:
            self._directory(fd, b"", f"{shown}/", most)

    def _directory(self, fd: int, prefix: bytes, shown: str, most: int) -> None:
        with os.scandir(fd) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        for name, st in found:
            path = prefix + os.fsencode(name)
            self.path(path, shown)
            if stat.S_ISLNK(st.st_mode):
                self.target(os.readlink(name, dir_fd=fd), path, shown)
            elif stat.S_ISREG(st.st_mode) and st.st_size <= most:
                self._file(fd, name, path, shown)
            elif stat.S_ISDIR(st.st_mode) and path.count(b"/") < MAX_DEPTH:
                with suppress(PermissionError), handles.child(fd, name) as below:
                    self._directory(below, path + b"/", shown, most)

    def _file(self, parent: int, name: str, path: bytes, shown: str) -> None:
        with suppress(PermissionError):
            source = handles.open_file(parent, name)
            try:
                if names := self.content(source):
                    raise self.refusal(names, path, prefix=shown)
            finally:
                os.close(source)
