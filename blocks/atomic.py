"""Files that must not be half-written are replaced by rename after fsync.

A reader therefore sees the old or the new one, never a mixture, whatever kills the writer.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

HALF_WRITTEN = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}")
"""Name that a file has until it is complete: that of the file it will replace, and `tempfile`'s eight letters."""


def write_atomically(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Replace a file so that a reader or a crash sees the old or the new content, never half of it."""
    body = data.encode() if isinstance(data, str) else data
    # In the same folder, because a rename is atomic only within one file system.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(name).replace(path)
    # Also on Ctrl-C: a half-written file must not be left for the next run to wonder about.
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def half_written(folder: Path) -> dict[Path, str]:
    """Return the files that writers of a folder have not finished, with the names they were to get.

    Only who keeps other writers away can know that nobody will.
    """
    named = ((path, HALF_WRITTEN.fullmatch(path.name)) for path in folder.iterdir()) if folder.is_dir() else ()
    return {path: match["name"] for path, match in named if match and path.is_file() and not path.is_symlink()}


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
