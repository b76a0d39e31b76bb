"""How this machine, its engine and its Prefect server are: plain measurements, none of them judged here.

Each is one question with a bound on its time, and None is the answer of a question that cannot be asked here: the disk
of an engine on another machine, a server that is not configured. What was asked and did not answer is infinitely slow,
which is something else. All of it together takes 2 ms on a quiet machine, half of it for the engine.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.blocks.engine import SandboxUnavailable

if TYPE_CHECKING:
    from workflowmaster.blocks.engine import Engine

SERVER_SECONDS = 5.0
"""How long a Prefect server may take to say that it is there."""

SILENT = math.inf
"""The time of an answer that did not come."""


@dataclass(frozen=True)
class Room:
    """What is left of something, in bytes."""

    free: int
    total: int


@dataclass(frozen=True)
class Vitals:
    """One look at everything a run depends on. None: it cannot be had here."""

    load: float | None = None
    """Programs that want a processor, for each that there is, averaged over a minute. Not the share that is busy: a
    machine whose processors all work is one that is used well."""
    memory: Room | None = None
    """What programs could still get without anything being swapped out."""
    disk: Room | None = None
    """Of the state directory, for this user."""
    engine_disk: Room | None = None
    """Where the engine keeps images and containers, if that is on this machine."""
    engine: float | None = None
    """Seconds until the engine said that it is there."""
    server: float | None = None
    """Seconds until the Prefect server did."""


def measure(engine: Engine | None, *, state: Path, server: str = "") -> Vitals:
    """Look at everything. `state` is the state directory, `server` the API's address, if there is one.

    Takes as long as engine and server take to answer, at most 5 s each. Raises nothing.
    """
    return Vitals(
        load=load(),
        memory=memory(),
        disk=room(state),
        engine_disk=engine_disk(engine) if engine else None,
        engine=engine_answer(engine) if engine else None,
        server=server_answer(server) if server else None,
    )


def load() -> float | None:
    """Return how many programs want each processor, averaged over a minute."""
    import psutil

    try:
        return psutil.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return None


def memory() -> Room | None:
    """Return the memory of this machine."""
    import psutil

    try:
        found = psutil.virtual_memory()
    except (OSError, RuntimeError):  # where /proc is not what it should be
        return None
    return Room(int(found.available), int(found.total))


def room(place: Path) -> Room | None:
    """Return the room on the disk of a path, or of what will be its parent once it is made."""
    with contextlib.suppress(OSError):
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        found = shutil.disk_usage(there)
        return Room(found.free, found.total)
    return None


def engine_disk(engine: Engine) -> Room | None:
    """Return the room where the engine keeps its data; None where that is not on this machine, or not to be seen."""
    try:
        info = engine.info
    except SandboxUnavailable:
        return None
    place = Path(info.root)
    return room(place) if info.local and info.root and place.exists() else None


def engine_answer(engine: Engine) -> float:
    """Return the seconds until the engine answered; infinity if it did not."""
    found = engine.ping()
    return SILENT if found is None else found


def server_answer(url: str) -> float:
    """Return the seconds until a Prefect server said that it is well; infinity if it did not."""
    from urllib.error import URLError
    from urllib.request import urlopen

    begun = time.perf_counter()
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=SERVER_SECONDS) as answer:  # noqa: S310 - the operator's own setting
            answer.read()
    except (URLError, OSError, ValueError):
        return SILENT
    return time.perf_counter() - begun
