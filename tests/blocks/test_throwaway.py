from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from workflowmaster.blocks.workspace import Store

Worktree = Callable[..., Path]


def git(where: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=where, capture_output=True, check=True, text=True).stdout


def test_a_step_sees_one_commit_and_a_clean_status(store: Store, worktree: Worktree, step, repo) -> None:
    commit = step(store, store.base, "install", {".venv/lib": "x", "new": "x"})
    where = worktree(store, commit)
    store.throwaway_git(where)
    assert git(where, "status", "--porcelain") == ""
    assert git(where, "log", "--format=%s").splitlines() == ["The workspace as this step found it"]
    assert git(where, "ls-files").split() == [".gitignore", "a.txt", "new", "src/main.py"]
    git(where, "fsck", "--strict")


def test_it_works_like_any_other_and_is_gone_before_the_snapshot(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    store.throwaway_git(where)
    (where / "a.txt").write_text("changed\n")
    assert "-one" in git(where, "diff")
    git(where, "commit", "-qam", "An agent's own commit")
    git(where, "checkout", "-q", "-b", "side")
    shot = store.snapshot(where, parents=[store.base], step="s", message="m")
    assert shot.findings == ()
    assert not (where / ".git").exists()
    assert (worktree(store, shot.commit) / "a.txt").read_text() == "changed\n"


def test_it_leads_nowhere(store: Store, worktree: Worktree, repo) -> None:
    where = worktree(store)
    store.throwaway_git(where)
    names = {str(store.folder).encode(), str(repo.path).encode()}
    for path in (where / ".git").rglob("*"):
        assert not path.is_symlink()
        assert not (path.is_file() and any(n in path.read_bytes() for n in names))
    assert not (where / ".git/objects/info/alternates").exists()


@pytest.mark.parametrize("way", ["lay", "switch", "again"])
def test_it_never_outlives_its_step(store: Store, worktree: Worktree, way: str) -> None:
    where = worktree(store)
    store.throwaway_git(where)
    if way == "lay":
        store.lay(store.base, where)
    elif way == "switch":
        store.switch(where, store.base, store.base)
    else:
        store.throwaway_git(where)
    assert (where / ".git").exists() is (way == "again")


def test_a_hostile_replacement_is_removed_and_not_followed(store: Store, worktree: Worktree, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("mine")
    where = worktree(store)
    store.throwaway_git(where)
    subprocess.run(["rm", "-rf", where / ".git"], check=True)
    (where / ".git").symlink_to(victim)
    store.snapshot(where, parents=[store.base], step="s", message="m")
    assert (victim / "precious").read_text() == "mine"
    assert not (where / ".git").is_symlink()


def test_it_belongs_to_the_container_s_user(repo, open_store, worktree: Worktree) -> None:
    store = open_store(repo.path, owner=(1234, 4321))
    where = worktree(store)
    store.throwaway_git(where)
    assert {(p.lstat().st_uid, p.lstat().st_gid) for p in (where / ".git", *(where / ".git").rglob("*"))} == {
        (1234, 4321)
    }


def test_an_empty_workspace_has_one_too(tmp_path: Path, open_store, worktree: Worktree) -> None:
    (tmp_path / "plain").mkdir()
    store = open_store(tmp_path / "plain")
    where = worktree(store)
    store.throwaway_git(where)
    assert git(where, "status", "--porcelain") == ""


def test_a_directory_that_was_not_laid_has_none(store: Store, worktree: Worktree) -> None:
    with pytest.raises(ValueError, match="must be laid"):
        store.throwaway_git(worktree())


def test_odd_names_and_submodules(repo, tmp_path: Path, open_store, worktree: Worktree) -> None:
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "-q", repo.path, other], check=True)
    repo.git("submodule", "add", "-q", f"file://{other}", "inner")
    (repo.path / os.fsdecode(b"\xff")).write_bytes(b"x")
    repo.commit()
    store = open_store(repo.path)
    where = worktree(store)
    store.throwaway_git(where)
    assert git(where, "status", "--porcelain") == ""
