"""Checkpoints: whole or not there, believed only as they were written, and ten of them."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflowmaster.flows import checkpoints, folders, schemas

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_checkpoint_is_compressed_json_with_version_and_checksum(halfway: Any) -> None:
    path = checkpoints.files(halfway.folder)[1]
    assert path.name == "0001-a.json.gz"
    raw = json.loads(gzip.decompress(path.read_bytes()))
    assert raw["schema_version"] == 1
    assert len(raw["checksum"]) == 64
    found = checkpoints.read(path, halfway.folder)
    assert (found.number, found.name, found.done) == (1, "a", 1)
    assert found.state.results["a"] == halfway.settled["a"]
    assert found.record["workflow_id"] == halfway.folder.id
    assert path.stat().st_mode & 0o777 == 0o600


def test_equal_states_make_equal_files(halfway: Any) -> None:
    path = halfway.checkpoint(3)
    first = path.read_bytes()
    assert halfway.checkpoint(3).read_bytes() == first


def test_the_newest_ten_stay(halfway: Any) -> None:
    for number in range(3, 25):
        halfway.checkpoint(number, f"m{number}")
    assert list(checkpoints.files(halfway.folder)) == list(range(15, 25))
    assert [one.number for one in checkpoints.good(halfway.folder)] == list(range(24, 14, -1))


@pytest.mark.parametrize("name", ["../../evil", "a/b", "x" * 300, "ü\n", "."])
def test_any_name_makes_a_file_in_its_folder(halfway: Any, name: str) -> None:
    path = halfway.checkpoint(7, name)
    assert path.parent == checkpoints.place(halfway.folder)
    assert checkpoints.files(halfway.folder)[7] == path
    assert checkpoints.read(path, halfway.folder).name == name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_is_seen_or_changes_nothing(run_of: Callable[..., Any], where: float, bit: int) -> None:
    run = run_of(workflow=folders.new_id())
    run.begin()
    run.settle("a")
    path = run.checkpoint(1)
    good = checkpoints.read(path, run.folder)
    body = bytearray(path.read_bytes())
    body[int(where * len(body))] ^= 1 << bit
    path.write_bytes(body)
    try:
        found = checkpoints.read(path, run.folder)
    except ValueError:
        assert list(checkpoints.good(run.folder)) == []
    else:
        assert found == good


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "written by a newer version"),
        ({"state": None}, "holds no state"),
        ({"number": 9}, "is checkpoint 9, under another name"),
        ({"made_at": "x"}, "is damaged"),
    ],
)
def test_what_is_no_checkpoint_is_told(halfway: Any, change: dict[str, Any], said: str) -> None:
    path = checkpoints.files(halfway.folder)[1]
    raw = json.loads(gzip.decompress(path.read_bytes()))
    raw.pop("checksum")
    path.write_bytes(gzip.compress(schemas.sealed(raw | change).encode()))
    with pytest.raises(ValueError, match=said):
        checkpoints.read(path, halfway.folder)
    assert [one.number for one in checkpoints.good(halfway.folder)] == [2]


def test_one_of_another_workflow_is_none_of_ours(halfway: Any, run_of: Callable[..., Any]) -> None:
    other = run_of(workflow="task-other")
    with pytest.raises(ValueError, match="belongs to task-kept"):
        checkpoints.read(checkpoints.files(halfway.folder)[1], other.folder)


def test_other_files_in_the_folder_are_left_alone(halfway: Any) -> None:
    stranger = checkpoints.place(halfway.folder) / "notes.txt"
    stranger.write_text("mine")
    for number in range(3, 20):
        halfway.checkpoint(number)
    assert stranger.read_text() == "mine"
    assert len(checkpoints.files(halfway.folder)) == checkpoints.KEPT
