"""A disk that is full: what is written then is refused or whole, the run says which disk, and goes on once there is room.

A step is held until the disk is full but for a few bytes. How many, and how much the step then leaves and prints,
decides what the first thing is that does not fit: a record, a log, a git object, a result, an audit record, the state.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaoskit import disks, gated

from workflowmaster.blocks import bounded
from workflowmaster.flows import persisted

pytestmark = [
    pytest.mark.docker,
    pytest.mark.prefect,
    pytest.mark.skipif(not bounded.usable(local=True), reason="mounting needs root, and loop devices"),
]

LONG = pytest.mark.long
ROWS = [
    pytest.param(0, 10, 10, id="nothing"),
    pytest.param(1 << 14, 10, 10, id="a-result", marks=LONG),
    pytest.param(1 << 16, 10, 10, id="little", marks=LONG),
    pytest.param(1 << 18, 1 << 20, 10, id="an-object", marks=LONG),
    pytest.param(1 << 18, 10, 1 << 20, id="a-log", marks=LONG),
    *[pytest.param(left << 10, 10, 10, id=f"{left}K", marks=LONG) for left in (2, 4, 6, 8, 10, 12, 20, 24, 28, 32, 48)],
]
"""Bytes left on the disk, bytes that the step leaves, bytes that it prints."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[disks.SmallDisk]:
    with disks.small(tmp_path) as made:
        yield made


@pytest.fixture
def hold(
    repository: Callable[..., Any], prompt_file: Callable[..., Path], wait_until: Callable[..., Any]
) -> Callable[..., gated.Held]:
    def begin(line: Any, **sizes: int) -> gated.Held:
        return gated.hold(line, repository({"a.txt": "a"}), prompt_file(gated.prompt(**sizes)), wait_until)

    return begin


def moved(line: Any, disk: disks.SmallDisk) -> Any:
    """Put a user's state directory on the disk."""
    shutil.copytree(line.home, disk.path / "state")
    line.home = disk.path / "state"
    return line


def is_believed(run: gated.Held) -> dict[str, Path]:
    """Hold that each result there is can be read whole, and return them by step."""
    found = {}
    for path in persisted.files_of(run.id):
        result = persisted.read(path)
        found[result.step] = path
    return found


@pytest.mark.parametrize(("left", "made", "printed"), ROWS)
def test_a_full_state_directory(
    left: int,
    made: int,
    printed: int,
    disk: disks.SmallDisk,
    hold: Callable[..., gated.Held],
    command_line: Callable[..., Any],
    prefect_server: Any,
    containers: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = moved(command_line(PREFECT_API_URL=prefect_server.url), disk)
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(line.home / "results"))
    run = hold(line, made=made, printed=printed)
    disk.fill(left)
    run.go()
    said = run.running.ended(180)
    is_believed(run)
    if said.code:
        gated.says_clearly(said, str(disk.path), run.id)
        assert containers(run.id) == []
    else:
        gated.ends_well(run.repo, said, made=made)
        assert left, "nothing fitted, and yet it says that it is done"
    disk.empty()
    before = is_believed(run)
    run.resumed(made=made)
    again = {step for step, count in run.ran().items() if count > 1}
    assert not again & before.keys(), "a finished step ran twice"


def test_a_full_result_storage_is_no_success(
    disk: disks.SmallDisk,
    hold: Callable[..., gated.Held],
    command_line: Callable[..., Any],
    prefect_server: Any,
) -> None:
    line = command_line(PREFECT_API_URL=prefect_server.url, PREFECT_LOCAL_STORAGE_PATH=str(disk.path / "results"))
    run = hold(line)
    disk.fill()
    run.go()
    said = run.running.ended(180)
    assert said.code == 4, said.text
    tasks = {task["id"]: task for task in said.json["tasks"]}
    assert tasks["two"]["reason"].startswith("its work was done, but its result could not be kept: there is no space")
    assert str(disk.path) in said.json["reason"]
    disk.empty()
    run.resumed()
    assert run.ran() == {"one": 1, "two": 2, "three": 1}


@pytest.mark.long
@pytest.mark.parametrize("left", [0, 1 << 12, 1 << 16, 1 << 18])
def test_a_full_disk_under_the_embedded_servers_database(
    left: int, disk: disks.SmallDisk, hold: Callable[..., gated.Held], command_line: Callable[..., Any]
) -> None:
    run = hold(moved(command_line(), disk))
    disk.fill(left)
    run.go()
    said = run.running.ended(180)
    if said.code:
        gated.says_clearly(said, str(disk.path), run.id)
    disk.empty()
    run.resumed()
