"""Where things lie: private, found by what people type, and never half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.flows import folders
from workflowmaster.flows.folders import Folder, UnknownWorkflow

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 22, 14, 2, 33, tzinfo=UTC)


def make(name: str) -> Folder:
    folder = folders.create(name)
    folder.state_file.write_text("{}")
    return folder


def test_ids_are_the_guides() -> None:
    first, second = folders.new_id(NOW), folders.new_id(NOW)
    assert first.startswith("task-20261122-140233-")
    assert len(first) == len("task-20261122-140233-") + 8
    assert first != second
    assert folders.ID.fullmatch(first)


@pytest.mark.parametrize("name", ["", "ab", "-abc", "Task-1", "../evil", "a/b", "a" * 81, "a b c", "abc\n"])
def test_what_is_no_id_makes_no_folder(home: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no workflow id"):
        folders.create(name)
    assert not home.exists()


def test_folders_are_private_whatever_the_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        folder = folders.create("task-1")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (home, home / "workflows", folder.path)} == {0o700}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("task-20261122-140233-aaaa0000", "task-20261122-140233-aaaa0000"),
        ("task-20261123", "task-20261123-090000-bbbb0000"),
        ("bbbb0000", "task-20261123-090000-bbbb0000"),
    ],
)
def test_an_id_is_found_by_its_beginning_or_its_end(home: Path, asked: str, found: str) -> None:
    for name in ("task-20261122-140233-aaaa0000", "task-20261123-090000-bbbb0000"):
        make(name)
    assert folders.find(asked).id == found


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("task-2026", "task-2026: matches more than one workflow in"),
        ("nope", "nope: no such workflow in"),
        ("latest", None),
    ],
)
def test_an_unknown_id_lists_what_there_is(home: Path, asked: str, words: str | None) -> None:
    make("task-20261122-1-a")
    make("task-20261122-2-b")
    if words is None:
        assert folders.find(asked).id == "task-20261122-2-b"
        return
    with pytest.raises(UnknownWorkflow, match=words) as caught:
        folders.find(asked)
    assert "Known: task-20261122-2-b, task-20261122-1-a (`workflowmaster list`)" in str(caught.value)


def test_without_runs_there_is_nothing_to_find(home: Path) -> None:
    assert folders.everything() == []
    with pytest.raises(UnknownWorkflow, match="Known: none yet"):
        folders.find("latest")


def test_a_folder_without_a_state_is_no_run_yet(home: Path) -> None:
    folders.create("task-1")
    assert folders.everything() == []


def test_logs_of_a_step_do_not_mix_with_those_of_another(home: Path) -> None:
    folder = folders.create("task-1")
    (folder.path / "logs").mkdir()
    for name in ("a.1", "a.2", "a.10", "a.1.1", "a.b.1", "a.x"):
        (folder.path / "logs" / f"{name}.log").write_text(name)
    assert [path.name for path in folder.logs("a")] == ["a.1.log", "a.2.log", "a.10.log"]
    assert [path.name for path in folder.logs("a.b")] == ["a.b.1.log"]
    assert folder.logs("b") == []


@given(st.text(max_size=40))
def test_any_step_has_a_safe_name(step: str) -> None:
    name = folders.safe(step)
    assert len(name) <= folders.LONGEST_NAME + 7
    assert all(letter.isascii() and (letter.isalnum() or letter in "_.-") for letter in name)


def test_different_steps_have_different_logs(home: Path) -> None:
    folder = folders.create("task-1")
    steps = ["test/3.11", "test_3.11", "test 3.11", "test:3.11", "test/3.12", "x" * 300, "x" * 301]
    assert len({folder.log(step) for step in steps}) == len(steps)


@given(old=st.binary(max_size=200), new=st.binary(max_size=200), durable=st.booleans())
def test_a_file_is_replaced_whole(
    tmp_path_factory: pytest.TempPathFactory, old: bytes, new: bytes, durable: bool
) -> None:
    path = tmp_path_factory.mktemp("w") / "state.json"
    path.write_bytes(old)
    write_atomically(path, new, durable=durable)
    assert path.read_bytes() == new
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_atomically(path, 7)  # type: ignore[arg-type]
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", "new")
    assert path.read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "state.json"]


WRITER = """
import itertools, sys
from pathlib import Path
from workflowmaster.blocks.atomic import write_atomically
for n in itertools.count():
    write_atomically(Path(sys.argv[1]), str(n % 10) * 100_000, durable=False)
    print(n, flush=True)
"""


def test_a_killed_writer_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for lines in (1, 3, 7):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout
        for _ in range(lines):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        text = path.read_text()
        assert len(text) == 100_000
        assert len(set(text)) == 1


def test_what_is_kept_is_readable_by_nobody_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "run.json", "{}")
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600


def test_the_pin_of_a_run_is_named_after_it(home: Path) -> None:
    """The store names the base's ref after its folder: two runs in one repository must not share it."""
    assert folders.create("task-1").store.name == "task-1"
