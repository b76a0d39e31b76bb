"""A disk of a few megabytes that a test may fill: a file system in a file, mounted for the test alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workflowmaster.blocks import bounded


@dataclass
class SmallDisk:
    path: Path

    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, left: int = 0) -> None:
        """Leave about so many bytes free, and no more."""
        with (self.path / "ballast").open("ab", buffering=0) as file:
            try:
                while self.free() > left:
                    file.write(bytes(min(1 << 20, max(self.free() - left, 1024))))
            except OSError:
                assert not left

    def empty(self) -> None:
        (self.path / "ballast").unlink()


@contextmanager
def small(place: Path, size: int = 48 << 20) -> Iterator[SmallDisk]:
    """Make and mount one below a folder; it is unmounted whatever happens."""
    image, mounted = place / "disk.ext4", place / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    # Blocks of 1 KiB, and none kept for root: the last byte can be taken.
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-b", "1024", image], check=True)
    subprocess.run(["mount", "-o", "loop", "--make-private", image, mounted], check=True)
    try:
        yield SmallDisk(mounted)
    finally:
        bounded.release(mounted)
        assert not bounded.mounted(mounted)
