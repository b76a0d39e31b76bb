"""Notes on commits of a real repository: git reads them, nothing runs, and two writers do not lose each other's."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks import notes
from workflowmaster.blocks.refusal import WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOTE = '{"checkpoint": 1}\n'


@pytest.fixture
def repo(repository: Callable[..., Any]) -> Any:
    return repository()


def test_git_shows_what_was_written(repo: Any) -> None:
    commit = repo.git("rev-parse", "HEAD")
    before = repo.state()
    notes.write(repo.path, commit, NOTE)
    assert repo.git("notes", "--ref", "workflowmaster", "show", commit) == NOTE.strip()
    assert notes.read(repo.path, commit) == NOTE
    assert repo.state() == before
    assert repo.refs() == {"refs/heads/main", notes.REF}
    repo.git("fsck", "--strict")


def test_a_later_note_replaces_it_and_the_earlier_stays_in_its_history(repo: Any) -> None:
    commit = repo.git("rev-parse", "HEAD")
    notes.write(repo.path, commit, NOTE)
    notes.write(repo.path, commit, "another\n")
    assert notes.read(repo.path, commit) == "another\n"
    assert repo.git("rev-list", "--count", notes.REF) == "2"


def test_there_may_be_none(repo: Any, tmp_path: Path) -> None:
    assert notes.read(repo.path, repo.git("rev-parse", "HEAD")) is None
    assert notes.read(tmp_path, "0" * 40) is None
    notes.write(tmp_path, "0" * 40, NOTE)  # no repository: nowhere to write it


def test_a_commit_that_is_not_there_is_told(repo: Any) -> None:
    with pytest.raises(WorkspaceError, match="cannot be written"):
        notes.write(repo.path, "1" * 40, NOTE)


def test_no_hook_runs(repo: Any, tmp_path: Path) -> None:
    for name in ("reference-transaction", "post-commit", "update", "pre-commit"):
        hook = repo.path / ".git/hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        hook.chmod(0o755)
    notes.write(repo.path, repo.git("rev-parse", "HEAD"), NOTE)
    assert not (tmp_path / "ran").exists()


WRITER = """
import sys
from pathlib import Path
from workflowmaster.blocks import notes
for commit in sys.argv[2:]:
    notes.write(Path(sys.argv[1]), commit, f"of {commit}")
"""


def test_two_runs_that_end_together_both_leave_theirs(repo: Any) -> None:
    commits = [repo.commit({"a.txt": str(number)}) for number in range(12)]
    shares = commits[::2], commits[1::2]
    command = [sys.executable, "-c", WRITER, str(repo.path)]
    writers = [subprocess.Popen([*command, *share]) for share in shares]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert [notes.read(repo.path, commit) for commit in commits] == [f"of {commit}" for commit in commits]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for others")
def test_what_root_writes_belongs_to_the_owner(repo: Any) -> None:
    for path in [repo.path, *repo.path.rglob("*")]:
        os.chown(path, 1000, 1000, follow_symlinks=False)
    config = repo.path.parent / ".gitconfig"
    config.write_text(f"[safe]\n\tdirectory = {repo.path}\n")
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(repo.path.parent)
    try:
        commit = (repo.path / ".git/refs/heads/main").read_text().strip()
        notes.write(repo.path, commit, NOTE)
    finally:
        os.environ["HOME"] = before or "/"
    assert [path for path in repo.path.rglob("*") if path.lstat().st_uid != 1000] == []
