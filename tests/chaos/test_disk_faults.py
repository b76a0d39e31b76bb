"""A disk that is full: what is written then is refused or complete, the run says so, and goes on once there is room.

The disk is a small file system of this test's own, mounted from a file. A step is held until the disk is full but for
a few bytes; how many decides what the first thing is that does not fit any more: a log, a git object, a result, a
record, an audit record, the state.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from workflowmaster.blocks import bounded

pytestmark = [
    pytest.mark.docker,
    pytest.mark.prefect,
    pytest.mark.skipif(not bounded.usable(local=True), reason="mounting needs root, and loop devices"),
]

PROMPT = """\
# The disk fills

## Steps

### one
```bash
echo ran; echo one > one.txt
```

### two
- needs: one
```bash
echo ran
until [ -e /tmp/go ] || [ "$WM_ATTEMPT" != 1 ]; do sleep 0.02; done
head -c {made} /dev/zero | tr '\\0' x > two.txt
head -c {printed} /dev/zero | tr '\\0' y
```

### three
- needs: two
```bash
echo ran; wc -c < two.txt > three.txt
```
"""


@dataclass
class SmallDisk:
    """A file system of a few megabytes."""

    path: Path

    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, left: int) -> None:
        """Leave about so many bytes free, and no more."""
        ballast = self.path / "ballast"
        with ballast.open("ab", buffering=0) as file:
            try:
                while self.free() > left:
                    file.write(bytes(min(1 << 20, max(self.free() - left, 1024))))
            except OSError:
                assert not left

    def empty(self) -> None:
        (self.path / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    image, place = tmp_path / "disk.ext4", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(48 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-b", "1024", image], check=True)
    subprocess.run(["mount", "-o", "loop", "--make-private", image, place], check=True)
    try:
        yield SmallDisk(place)
    finally:
        bounded.release(place)
        assert not bounded.mounted(place)


@pytest.mark.parametrize("left", [0, 1 << 14, 1 << 16])
@pytest.mark.parametrize(("made", "printed"), [(10, 10), (1 << 20, 10), (10, 1 << 20)], ids=["little", "made", "printed"])
def test_a_full_disk(
    left: int, made: int, printed: int,
    disk: SmallDisk,
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
    containers: Callable[..., list[str]],
) -> None:
    line = command_line(PREFECT_API_URL=prefect_server.url, WORKFLOWMASTER_HOME=str(disk.path / "state"))
    line.home = disk.path / "state"
    repo = repository({"a.txt": "a"})
    running = line.start("run", prompt_file(PROMPT.format(made=made, printed=printed)), "--workspace", repo.path, "--json", "-q")

    def works() -> Any:
        assert running.process.poll() is None, running.ended().text
        logs = list((line.home / "workflows").glob("*/logs/two.1.log"))
        return logs and logs[0].read_text() == "ran\n" and logs[0].parents[1].name

    identity = wait_until(works, 60.0)
    disk.fill(left)
    subprocess.run(["docker", "exec", f"{identity}-two-1", "touch", "/tmp/go"], check=True)
    said = running.ended(120)
    print("RUN", left, made, printed, said.code, said.err[-1500:], said.out[-300:])
    disk.empty()
    again = line("resume", identity, "--json", "-q")
    print("RESUME", again.code, again.text[-1500:])
    verify = line("audit", "verify", identity)
    print("VERIFY", verify.code, verify.text)
