"""The mounts that a process sees, as the kernel lists them in `/proc/<pid>/mountinfo`. Pure.

A bind mount has no memory of the path it was made from: the kernel lists a device and a place within its file system.
So a host path is translated into the same two before it is compared, by way of our own list. That is what makes "this
folder and no other" a fact that is read back, and not an echo of the request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class MountPoint:
    """One line of the list."""

    id: int
    device: str
    """`major:minor` of the file system."""
    root: str
    """What of the file system is seen here: `/`, or the place a bind mount was made from."""
    target: str
    options: frozenset[str]
    """Of this mount alone, such as `ro`, `nosuid`."""
    kind: str
    """Type of the file system."""
    details: frozenset[str]
    """Options of the file system itself, such as `size=65536k`."""

    @property
    def writable(self) -> bool:
        """Whether neither the mount nor its file system is read-only."""
        return "ro" not in self.options and "ro" not in self.details

    @property
    def size(self) -> int | None:
        """Bytes that a file system in memory may hold; None where it does not say."""
        number = self.detail("size")
        scale = {"k": 1024, "m": 1024**2, "g": 1024**3}.get(number[-1:], 1)
        digits = number.rstrip("kmg")
        return int(digits) * scale if digits.isdigit() else None

    def detail(self, name: str) -> str:
        """Return the value of an option of the file system; empty where it has none."""
        return next((text.partition("=")[2] for text in self.details if text.startswith(f"{name}=")), "")


def parse(text: str) -> tuple[MountPoint, ...]:
    """Read the list. Lines of another form are left out."""
    # Only a newline ends a line: to `splitlines` other characters do as well, and a mount named with one would vanish.
    return tuple(mount for line in text.split("\n") if (mount := _line(line)))


def _line(line: str) -> MountPoint | None:
    # A variable number of optional fields stands before the lonely dash.
    head, dash, tail = line.partition(" - ")
    fields, rest = head.split(" "), tail.split(" ")
    if not dash or len(fields) < 6 or len(rest) < 3 or not fields[0].isdigit():
        return None
    return MountPoint(
        id=int(fields[0]),
        device=fields[2],
        root=_plain(fields[3]),
        target=_plain(fields[4]),
        options=frozenset(fields[5].split(",")),
        kind=rest[0],
        details=frozenset(rest[2].split(",")),
    )


def _plain(text: str) -> str:
    # Blanks, tabs, newlines and backslashes stand in octal, each byte by itself.
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text) if "\\" in text else text


def at(mounts: Iterable[MountPoint], target: str) -> MountPoint | None:
    """Return the mount on a path; the last one where several lie on each other, because that is the one seen."""
    found = None
    for mount in mounts:
        if mount.target == target:
            found = mount
    return found


def place(path: Path, own: Iterable[MountPoint]) -> tuple[str, str] | None:
    """Return (device, place in its file system) of a path of this host; None if no mount leads there."""
    # As text: `is_relative_to` on a hundred mounts takes longer than all else that is read of a container.
    real, best = str(path.resolve()), None
    for mount in own:
        # The later of equal ones: it lies on top.
        if _leads_to(mount, real) and (best is None or len(mount.target) >= len(best.target)):
            best = mount
    if best is None:
        return None
    return best.device, str(PurePosixPath(best.root) / real[len(best.target) :].lstrip("/"))


def _leads_to(mount: MountPoint, path: str) -> bool:
    return path == mount.target or path.startswith(mount.target.rstrip("/") + "/")
