"""What this process knows about a directory: which file had which content when, and when that may be believed.

A file is taken as unchanged when inode, size, both times and mode are what they were. The change time cannot be set
by a program, so the only gap is a write within the clock's own step. Two rules close it: a stamp taken after foreign
code ran counts only if the file was then `SETTLED_NS` old; a stamp of a file we wrote ourselves counts once the
kernel's clock has passed it, looked at before foreign code may start. The accepted cost: files written in the last
moment of a step are read once more by the next snapshot.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflowmaster.blocks.trees import Entry

SETTLED_NS = 50_000_000
"""Age in nanoseconds from which a file's times are believed after foreign code ran."""
_COARSE_NS = 2_000_000_000
"""The same for file systems that keep whole seconds only."""

_CLOCK_REALTIME_COARSE = 5  # Linux's number; the time module has no name for it

Key = tuple[int, int, int, int, int]
"""Inode, size, modification and change time in nanoseconds, mode."""


def key_of(st: os.stat_result) -> Key:
    """Return what identifies an unchanged file."""
    return (st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_mode)


def kernel_now() -> int:
    """Return the clock that the kernel stamps files with, in nanoseconds."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def settled(ctime_ns: int, now: int, margin: int = SETTLED_NS) -> bool:
    """Return whether a later write must show in the file's times."""
    # Nothing but zeros below the second is chance once in a thousand million, and then costs one read.
    whole_seconds = ctime_ns % 1_000_000_000 == 0
    return now - ctime_ns > (_COARSE_NS if whole_seconds else margin)


@dataclass(slots=True)
class Stamp:
    """One file as last seen. An unbelieved stamp still says which object it was, which saves a write."""

    key: Key
    entry: Entry
    believed: bool


@dataclass(slots=True)
class Node:
    """One directory as last seen."""

    files: dict[str, Stamp] = field(default_factory=dict)
    dirs: dict[str, Node] = field(default_factory=dict)
    tree: bytes | None = None
    """Id of the tree that `files` and `dirs` make, if it was computed."""


@dataclass(slots=True)
class Known:
    """One worktree as this process last left or found it."""

    root: Node = field(default_factory=Node)
    tree: bytes | None = None
    """The tree it equals, or None when something may differ."""
    mark: tuple[int, int] = (0, 0)
    """Inode and change time of the directory itself then; a directory made anew under the same path has others."""
    fresh: list[Stamp] = field(default_factory=list)
    """Stamps of files we wrote, waiting for the clock to pass them."""
    throwaway: bool = False
    """A repository of ours stands in it, to be removed before the next snapshot."""

    def equals(self, fd: int, tree: bytes) -> None:
        """Note that the open directory equals a tree."""
        self.tree, self.mark = tree, _mark(fd)

    def still(self, fd: int, tree: bytes) -> bool:
        """Return whether the open directory may be taken to equal a tree."""
        return self.tree == tree and not self.throwaway and self.mark == _mark(fd)

    def settle(self) -> None:
        """Believe the stamps whose moment has passed. Call it before foreign code may run, never after."""
        # A later write gets a time of at least this clock, hence one that differs from any time before it.
        now = kernel_now()
        for stamp in self.fresh:
            stamp.believed = settled(stamp.key[3], now, margin=0)
        self.fresh = [s for s in self.fresh if not s.believed]

    def seal(self) -> None:
        """Settle for the last time: from here on foreign code may run."""
        self.settle()
        self.fresh = []


def _mark(fd: int) -> tuple[int, int]:
    st = os.fstat(fd)
    return st.st_ino, st.st_ctime_ns
