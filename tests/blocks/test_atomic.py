"""Files that are replaced by rename, and what a killed writer leaves of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workflowmaster.blocks.atomic import half_written, write_atomically

KILLED_BEFORE_THE_RENAME = """
import os, signal, sys
from pathlib import Path
from workflowmaster.blocks import atomic
atomic.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
atomic.write_atomically(Path(sys.argv[1]), "new")
"""


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "run.json", "old")
    write_atomically(tmp_path / "run.json", b"new", durable=False)
    assert (tmp_path / "run.json").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["run.json"]
    assert half_written(tmp_path) == {}


def test_a_writer_that_is_killed_leaves_the_old_file_and_one_that_is_known_as_half_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, "old")
    done = subprocess.run([sys.executable, "-c", KILLED_BEFORE_THE_RENAME, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    (left,) = half_written(tmp_path).items()
    assert left == (next(one for one in tmp_path.iterdir() if one != path), "run.json")


@pytest.mark.parametrize("name", [".gitignore", "run.json", ".swept-0123abcd", ".run.json.x", "run.json.ibymod2u"])
def test_no_other_name_is_taken_for_a_half_written_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    assert half_written(tmp_path) == {}


def test_a_folder_or_link_of_such_a_name_is_none_and_no_folder_has_none(tmp_path: Path) -> None:
    (tmp_path / ".run.json.ibymod2u").mkdir()
    (tmp_path / ".state.json.ibymod2u").symlink_to("elsewhere")
    assert half_written(tmp_path) == half_written(tmp_path / "nowhere") == {}
