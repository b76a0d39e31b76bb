"""Files that must not be half-written are replaced by rename after fsync.

A reader therefore sees the old or the new one, never a mixture, whatever kills the writer.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
