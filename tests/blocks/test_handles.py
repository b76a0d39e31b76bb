from __future__ import annotations

import os
import resource
import stat
from typing import TYPE_CHECKING

import pytest

from workflowmaster.blocks import handles
from workflowmaster.blocks.workspace import WorkspaceError, prepare, remove_tree

if TYPE_CHECKING:
    from pathlib import Path

OTHER = 54321


def nest(top: Path, depth: int) -> None:
    """Make directories deeper than any path may be long, as a step can with `cd` and `mkdir`."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside that nothing may touch."""
    path = tmp_path / "victim"
    path.mkdir()
    (path / "precious").write_text("mine")
    return path


def test_a_hundred_thousand_levels_are_no_problem(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    nest(top, 5_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The limit is on the number of a descriptor, and this process has some open already.
    taken = max(int(number) for number in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 48, hard))
    try:
        remove_tree(top)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not top.exists()


def test_links_are_removed_and_not_followed(tmp_path: Path, victim: Path) -> None:
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "link").symlink_to(victim)
    (top / "sub/up").symlink_to("../../victim")
    os.mkfifo(top / "fifo")
    remove_tree(top)
    assert (victim / "precious").read_text() == "mine"
    assert not top.exists()


def test_the_tree_itself_may_be_a_link_or_a_file_or_nothing(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(victim)
    remove_tree(link)
    remove_tree(tmp_path / "nothing")
    remove_tree(tmp_path / "no/parent")
    remove_tree(victim / "precious")
    assert victim.is_dir()
    assert not link.is_symlink()


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111, 0o200])
def test_a_user_can_remove_what_his_step_locked(nobody, mode: int) -> None:
    def work() -> None:
        top = nobody.folder / "top"
        (top / "a/b/c").mkdir(parents=True)
        (top / "a/b/file").write_text("x")
        for name in ("a/b/file", "a/b/c", "a/b", "a", "."):
            (top / name).chmod(mode)
        remove_tree(top)
        assert not top.exists()

    assert nobody.run(work) == ""


def test_what_belongs_to_somebody_else_is_named(nobody) -> None:
    foreign = nobody.folder / "top/foreign"
    foreign.mkdir(parents=True)
    (foreign / "secret").write_text("x")
    for path in (foreign, foreign / "secret"):
        os.chown(path, OTHER, OTHER)
    foreign.chmod(0o700)
    os.chown(nobody.folder / "top", nobody.uid, nobody.uid)
    assert nobody.run(lambda: remove_tree(nobody.folder / "top")).startswith(
        "owner WorkspaceError: top in the worktree belongs to"
    )
    assert (foreign / "secret").exists()


def test_a_prepared_directory_belongs_to_the_container_s_user(tmp_path: Path) -> None:
    prepare(tmp_path / "a/b", OTHER, OTHER)
    st = (tmp_path / "a/b").stat()
    assert (st.st_uid, stat.S_IMODE(st.st_mode)) == (OTHER, 0o755)


def test_a_worktree_that_became_a_link_is_refused(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "tree"
    link.symlink_to(victim)
    with pytest.raises(WorkspaceError, match="no directory we can open") as caught, handles.root(link):
        pass
    assert caught.value.code == "unsafe"


def test_chmod_does_not_follow(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "link").symlink_to(victim)
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="not supported"):
        handles.chmod(fd, "link", 0o777)
    os.close(fd)
    assert stat.S_IMODE(victim.stat().st_mode) != 0o777
