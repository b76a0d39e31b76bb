"""Watches what a running step's files grow by, and raises the alarm at the cap.

A bind-mounted workspace and a container's own layer have no size that a kernel would hold (`bounded` gives `/out` one).
So a thread looks while the step runs. It asks the file systems for their free space many times a second, which costs
microseconds, and walks the step's directories only when that says that the cap may be near, or when a walk is due: so
rarely that walking takes two parts in a hundred of a core. The accepted cost: a step that writes faster than we look
gets past the cap by what it writes in between, and is told so afterwards, at the latest when its files are taken in.

Sizes are blocks on disk, so a sparse file counts for what it holds; taking it in counts its full length.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from workflowmaster.blocks import handles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from workflowmaster.blocks.stamps import Node

TICK = (0.05, 0.5)
"""Seconds between two looks at the free space: the shorter when little room is left."""

FASTEST = 2e9
"""Bytes a second that a fast disk takes: how soon the room that is left could be gone."""

SHARE = 0.02
"""Part of a core that walking may take when nothing seems to happen."""

RUSH = 0.25
"""Part of a core that walking may take while the free space shrinks."""

RARELY = 2.0
"""Seconds between walks at least, when nothing seems to happen."""

DEEPEST = 500
"""Nesting that is walked: each level holds a descriptor. No tool's tree is half as deep; a deeper one is an alarm."""

PART = 1000
"""Entries of one directory that are read before anyone asks whether to go on."""

BLOCK = 4096
"""What a directory, or a part of a file, takes on disk at least; used where blocks are not told."""


@dataclass(frozen=True)
class Place:
    """Somewhere a step writes."""

    name: str
    """What the step calls it."""
    path: Path
    before: int = 0
    """Bytes it took at go; only what comes on top counts."""
    cap: int | None = None
    """Bytes that this place alone may grow by; none: only the cap on all of them counts."""


@dataclass
class Look:
    """What one look at the places found."""

    grown: int = 0
    over: str = ""
    """Which cap was passed, in words; empty while none is."""
    blind: bool = False
    """Whether something was closed to us, so that the file system's free space must speak for it."""


@dataclass
class Growth:
    """A watch over one running container. Use it as a context around the reading of its streams.

    `alarm` becomes readable once, when a cap is passed; `reason` then says which.
    """

    places: Sequence[Place]
    cap: int | None
    """Bytes that all places together may grow by."""
    late: Callable[[], Sequence[Place]] | None = None
    """Places that are only known while the container runs; asked at the first walk, because it is slow."""
    held: Callable[[], int] = int
    """Bytes of files that have no name any more and are still open."""
    told: Callable[[], int] = int
    """Bytes that somebody else (the engine) says are written where we cannot look; slow, so asked only on a walk."""
    peak: int = 0
    """The most that was seen, in bytes."""
    reason: str = ""
    walks: int = 0
    spent: float = 0.0
    """Seconds that looking has taken: ours of CPU, and those that others worked for us."""
    alarm: int = -1
    _bell: int = -1
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin to watch."""
        self.alarm, self._bell = os.pipe()  # an eventfd would do, and exists on Linux alone
        self._thread = threading.Thread(target=self._watch, name="growth", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Watch no longer. A walk under way is given up within milliseconds."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        os.close(self.alarm)
        os.close(self._bell)
        self.alarm = self._bell = -1

    def _watch(self) -> None:
        base = free = self._free()
        walked, cost, room = time.monotonic(), 0.0, self._room(0)
        while not self._stop.wait(min(max(room / FASTEST, TICK[0]), TICK[1])):
            left = self._free()
            # Others free space too, so what the file system says can hurry a walk and never replace one.
            near = (free - left) * 2 > room
            if time.monotonic() - walked < (cost / RUSH if near else max(RARELY, cost / SHARE)):
                continue
            before = self.spent
            look = self.look(since=base - left)
            self.peak, self.walks = max(self.peak, look.grown), self.walks + 1
            if look.over:
                self.reason = look.over
                os.write(self._bell, b"!")
                return
            walked, cost, free, room = time.monotonic(), self.spent - before, left, self._room(look.grown)

    def _room(self, grown: int) -> int:
        caps = [cap for cap in (self.cap, *(place.cap for place in self.places)) if cap is not None]
        return max(min(caps, default=0) - grown, 0)

    def look(self, since: int = 0) -> Look:
        """Walk everything once. `since` is what the file systems lost of their free space since go, in bytes."""
        began, look = time.thread_time(), Look()
        self._discover()
        for place in self.places:
            grown = self._grown(place, look)
            look.grown += grown
            if place.cap is not None and grown > place.cap and not look.over:
                look.over = f"let {place.name} grow by more than {place.cap:,} bytes"
        look.grown += self.held()
        self.spent += time.thread_time() - began
        look.grown += self._hear()
        if look.blind:
            # Somebody else may have written that too, but a closed door must not be a way past the cap.
            look.grown = max(look.grown, since)
        if self.cap is not None and look.grown > self.cap and not look.over:
            look.over = f"let its files grow by more than {self.cap:,} bytes"
        return look

    def _discover(self) -> None:
        with suppress(OSError):  # an engine that does not answer now is asked again at the next walk
            if self.late is not None:
                self.places, self.late = (*self.places, *self.late()), None

    def _hear(self) -> int:
        began = time.monotonic()
        try:
            return self.told()
        except OSError:
            return 0  # as above
        finally:
            self.spent += time.monotonic() - began if self.told is not int else 0

    def _grown(self, place: Place, look: Look) -> int:
        most = min((cap for cap in (self.cap, place.cap) if cap is not None), default=0)
        total = -place.before
        try:
            for size in sizes(place.path):
                # Enough is known, or nobody wants to know any more.
                if total > most or self._stop.is_set():
                    break
                look.blind = look.blind or size is None
                total += size or 0
        except RecursionError as error:
            look.over = look.over or str(error)
        except FileNotFoundError:
            pass  # it went with its container
        except OSError:
            look.blind = True
        return max(total, 0)

    def _free(self) -> int:
        """Return the free bytes of all file systems that the places lie on."""
        found: dict[int, int] = {}
        for place in self.places:
            with suppress(OSError):
                room = os.statvfs(place.path)
                found[place.path.stat().st_dev] = room.f_bfree * room.f_frsize
        return sum(found.values())


def size_of(folder: Path) -> int:
    """Return the bytes that everything below a folder takes on disk; what is closed to us counts nothing.

    OSError if the folder cannot be read, RecursionError if it is nested deeper than `DEEPEST`.
    """
    return sum(size or 0 for size in sizes(folder))


def sizes(folder: Path) -> Iterator[int | None]:
    """Yield the bytes on disk of everything below a folder, in parts; None for a directory that is closed to us.

    No link is followed, what is mounted below is another's, and what has gone meanwhile counts nothing. A file with
    several names counts once in sum: each name counts its share. RecursionError below `DEEPEST`.
    """
    top = os.open(folder, handles.DIRECTORY_FLAGS)
    device = os.fstat(top).st_dev
    path: list[tuple[int, list[str]]] = [(top, [])]
    try:
        yield from _read(top, device, path[0][1])
        while path:
            fd, waiting = path[-1]
            if not waiting:
                os.close(path.pop()[0])
                continue
            if len(path) >= DEEPEST:
                raise RecursionError(f"nested directories more than {DEEPEST} deep, where no size can be watched")
            try:
                below = os.open(waiting.pop(), handles.DIRECTORY_FLAGS, dir_fd=fd)
            except PermissionError:
                yield None
            except (FileNotFoundError, NotADirectoryError):
                continue
            else:
                path.append((below, []))
                yield from _read(below, device, path[-1][1])
    finally:
        for fd, _ in path:
            os.close(fd)


def _read(fd: int, device: int, folders: list[str]) -> Iterator[int]:
    """Yield what the files and folders right in a directory take, in parts, and note the folders."""
    total = 0
    with os.scandir(fd) as entries:
        for number, item in enumerate(entries, 1):
            if not number % PART:
                yield total
                total = 0
            try:
                st = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if st.st_dev != device:
                continue
            if stat.S_ISDIR(st.st_mode):
                folders.append(item.name)
                total += st.st_blocks * 512
            else:
                total += st.st_blocks * 512 // st.st_nlink
    yield total


def laid_size(root: Node) -> int:
    """Return what a directory takes that this process laid, from what it remembers: no file is looked at.

    Bytes on disk, each file rounded up to whole blocks. A millisecond for 5,000 files; walking them takes twenty.
    """
    total, todo = 0, [root]
    while todo:
        node = todo.pop()
        todo += node.dirs.values()
        total += BLOCK * len(node.dirs) + sum(-(-stamp.key[1] // BLOCK) * BLOCK for stamp in node.files.values())
    return total


def unnamed(pids: Iterable[str], devices: frozenset[int]) -> int:
    """Return the bytes of regular files on these devices that processes hold open and that have no name any more.

    A walk cannot see them, and they fill a disk as well. What we may not look into counts nothing.
    """
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        with suppress(OSError):
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    st = handle.stat()
                    if not st.st_nlink and stat.S_ISREG(st.st_mode) and st.st_dev in devices:
                        found[st.st_dev, st.st_ino] = st.st_blocks * 512
    return sum(found.values())
