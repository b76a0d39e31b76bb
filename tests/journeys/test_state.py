"""A run that was killed with -9, and whose files were then damaged one at a time: found, mended, and ended as ever."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
# Killed on its way

## Steps

### one
```bash
echo one > one.txt; echo "n=1" >> "$WM_OUTPUT"
```

### two
- needs: one
- checkpoint: true
```bash
echo two > two.txt
```

### three
- needs: two
```bash
sleep 2; cat one.txt two.txt > three.txt
```
"""
FILES = {"a.txt": "a", "one.txt": "one", "two.txt": "two", "three.txt": "one\ntwo"}
CASES = [
    ("state.json", "flipped"),
    ("plan.json", "flipped"),
    ("records.jsonl", "truncated"),
    ("records.jsonl", "deleted"),
    ("result", "flipped"),
    pytest.param("state.json", "deleted", marks=pytest.mark.long),
    pytest.param("run.json", "truncated", marks=pytest.mark.long),
    pytest.param("records.jsonl", "flipped", marks=pytest.mark.long),
    pytest.param("checkpoints/0001-two.json.gz", "flipped", marks=pytest.mark.long),
    pytest.param("result", "deleted", marks=pytest.mark.long),
]


@dataclass
class Killed:
    """A run whose process was killed in its third step, and how to have it back as it was then."""

    line: Any
    repo: Any
    id: str
    saved: Path

    @property
    def folder(self) -> Path:
        return Path(self.line.folder(self.id))

    def restore(self) -> None:
        for place in (self.line.home, self.repo.path):
            shutil.rmtree(place)
        # Not by `tarfile`: what it takes as a filter, and whether it wants one, differs from one 3.11 to the next.
        subprocess.run(["tar", "-xpf", self.saved, "-C", "/"], check=True)

    def path(self, what: str) -> Path:
        if what != "result":
            return self.folder / what
        for path in sorted((self.line.home / "results").glob(f"{self.id}-*")):
            return path
        raise AssertionError("no result was kept")


@pytest.fixture(scope="module")
def killed(
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
    containers: Callable[..., list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Killed:
    line, repo = command_line(PREFECT_API_URL=prefect_server.url), repository({"a.txt": "a"})
    running = line.start("run", prompt_file(PROMPT), "--workspace", repo.path, "-q")

    def kept() -> list[Path]:
        assert running.process.poll() is None, running.ended().text
        return list((line.home / "workflows").glob("*/checkpoints/*.json.gz"))

    path = wait_until(kept, 120.0)[0]
    running.interrupt(signal.SIGKILL)
    running.ended()
    # As after a restart of the machine: one that works on would do so in a directory that each test puts back.
    subprocess.run(["docker", "rm", "-f", *containers(path.parents[1].name)], check=True, capture_output=True)
    saved = tmp_path_factory.mktemp("saved") / "all.tar"
    with tarfile.open(saved, "w") as archive:
        archive.add(line.home)
        archive.add(repo.path)
    return Killed(line, repo, path.parents[1].name, saved)


def damage(path: Path, how: str) -> None:
    body = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
        return
    body[len(body) // 2] ^= 4
    path.write_bytes(body if how == "flipped" else body[: len(body) // 2])


def test_after_a_kill_the_state_says_how_far_it_came(killed: Killed) -> None:
    killed.restore()
    said = killed.line("state", "show", killed.id, "--json").json
    assert said["status"] == "running"
    assert {name: result["status"] for name, result in said["results"].items()} == dict.fromkeys(
        ("one", "two"), "completed"
    )
    assert [(row["name"], row["done"]) for row in said["checkpoints"]] == [("two", 2)]
    found = killed.line("state", "validate", killed.id, "--json")
    assert found.code == 0
    assert [flaw["code"] for flaw in found.json["findings"]] == ["status.orphaned"]


@pytest.mark.parametrize(("what", "how"), CASES)
def test_whatever_is_damaged_is_found_and_mended_and_the_run_ends_as_ever(killed: Killed, what: str, how: str) -> None:
    killed.restore()
    damage(killed.path(what), how)
    found = killed.line("state", "validate", killed.id, "--json")
    assert (found.code, found.json["holds"]) == (1, False), found.text
    mended = killed.line("state", "repair", killed.id, "--json")
    assert mended.code == 0, mended.text
    assert mended.json["done"]
    assert killed.line("state", "repair", killed.id, "--json").json["done"] == []
    ended = killed.line("resume", killed.id, "--json", "-q")
    assert ended.code == 0, ended.text
    assert killed.repo.files(ended.json["commit"]) == FILES
    assert killed.line("state", "validate", killed.id, "--json").json["findings"] == []
    assert json.loads((killed.folder / "state.json").read_text())["status"] == "completed"


def test_back_at_a_checkpoint_what_came_after_it_runs_again(killed: Killed) -> None:
    killed.restore()
    first = killed.line("resume", killed.id, "--json", "-q")
    assert first.code == 0, first.text
    assert killed.line("state", "restore", killed.id, "--checkpoint", "1", "--json").json["dropped"] == ["three"]
    again = killed.line("resume", killed.id, "--json", "-q")
    assert again.code == 0, again.text
    assert {task["id"]: task["reused"] for task in again.json["tasks"]} == {"one": True, "two": True, "three": False}
    assert killed.repo.files(again.json["commit"]) == FILES
