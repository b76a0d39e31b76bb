"""Says which disk is full, for whoever has to make room on it.

The system only says that there is no space, often without a path, and the failure itself frees what was half-written,
so a look at the disk afterwards may show some room again. So the path is taken where there is one; otherwise, of the
places that a run writes to, the one with the least room is named. That is a guess, and the price of asking late: to ask
before each write would cost more, and could be wrong a moment later all the same.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from workflowmaster.flows.settings import home

CRAMPED = 4 << 20
"""Bytes below which a disk is taken to be the cause of a database's trouble: SQLite wants a few pages more than it
writes, and Prefect writes hundreds of kilobytes a run."""


def is_full(error: BaseException) -> bool:
    """Return whether an error says that a disk, or somebody's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def told(error: OSError) -> str:
    """Say which disk is full, how much room it has, and what to do."""
    written = _path(error)
    place = written or min(_places(), key=free)
    doing = f" (while writing {written})" if written else ""
    over = "your quota is used up" if error.errno == errno.EDQUOT else "no space left"
    return f"{over} on {_disk(place)}{doing}. Nothing half-written is kept; make room there, then do it again"


def cramped(place: Path) -> str:
    """Say that the disk of a place is full, or as good as; nothing if it has room."""
    return f"there is no space left on {_disk(place)}" if free(place) < CRAMPED else ""


def free(place: Path) -> int:
    """Return the bytes that may still be written where a path is, or would be."""
    found = os.statvfs(_there(place))
    return found.f_bavail * found.f_frsize


def _path(error: OSError) -> Path | None:
    return Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else None


def _places() -> list[Path]:
    """Return the folders that a run writes to."""
    results = os.environ.get("PREFECT_LOCAL_STORAGE_PATH")
    return [home(), *([Path(results)] if results else []), Path(tempfile.gettempdir())]


def _disk(place: Path) -> str:
    mount = _there(place)
    while not mount.is_mount():
        mount = mount.parent
    return f"the disk mounted at {mount} ({free(place) / 2**20:.1f} MiB free)"


def _there(place: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place
