"""Which disk is full, and what the user is told of it."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from workflowmaster.flows import diskspace
from workflowmaster.flows.refusals import explained

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (FULL, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (OSError("no number"), False),
        (ValueError(errno.ENOSPC), False),
    ],
)
def test_what_counts_as_a_full_disk(error: Exception, full: bool) -> None:
    assert diskspace.is_full(error) is full


@pytest.mark.parametrize("name", [str, lambda path: str(path).encode()], ids=["text", "bytes"])
def test_the_disk_of_the_file_that_did_not_fit_is_named(tmp_path: Path, name) -> None:
    file = tmp_path / "gone/state.json"  # what was half-written is removed, sometimes with its folder
    said = diskspace.told(OSError(errno.ENOSPC, "No space left on device", name(file)))
    mount = tmp_path
    while not mount.is_mount():
        mount = mount.parent
    assert said.startswith(f"no space left on the disk mounted at {mount} (")
    assert f"while writing {file}" in said
    assert "make room there" in said


def test_without_a_path_the_place_with_the_least_room_is_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", "/proc")  # no file system has less room
    assert "the disk mounted at /proc (0.0 MiB free)" in diskspace.told(FULL)
    assert "quota is used up" in diskspace.told(OSError(errno.EDQUOT, "Disk quota exceeded", str(tmp_path)))


def test_only_a_disk_without_room_is_blamed(tmp_path: Path) -> None:
    assert diskspace.cramped(Path("/proc/nothing"))
    assert diskspace.free(tmp_path) < diskspace.CRAMPED or not diskspace.cramped(tmp_path / "not/there")


def test_it_ends_a_command_with_the_way_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", str(home))
    error.add_note("`workflowmaster resume x` goes on")
    assert explained(error, json=True) == 4
    said = capsys.readouterr()
    assert json.loads(said.out)["error"].endswith("then do it again. `workflowmaster resume x` goes on")
    assert said.err.startswith("error: no space left on the disk mounted at ")
