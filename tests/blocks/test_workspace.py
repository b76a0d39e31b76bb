"""The store as the flow uses it: open, merge, lay, snapshot, resume."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from workflowmaster.blocks import workspace
from workflowmaster.blocks.workspace import Store, WorkspaceError

Opener = Callable[..., Store]
Worktree = Callable[..., Path]
Step = Callable[..., str]

HOSTILE_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tfsmonitor = {trap}\n\thooksPath = {folder}\n[alias]\n\tstatus = !{trap}\n"
# Two of these run at once against one user repository.
RIVAL = """
import sys
from pathlib import Path
from workflowmaster.blocks.workspace import Store
state, user, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
store = Store.open(state / name, user)
commit = store.base
where = state / (name + "-tree")
where.mkdir()
for n in range(20):
    store.lay(commit, where)
    (where / f"{name}-{n}").write_text(name)
    commit = store.snapshot(where, parents=[commit], step=str(n), message=str(n)).commit
    store.export(commit, branch=f"{name}-{n}")
print(store.base)
"""


def test_a_chain_in_one_directory_and_a_fresh_start_are_the_same(
    store: Store, worktree: Worktree, step: Step, contents
) -> None:
    where, commit = worktree(store), store.base
    for n in range(5):
        store.release(where)
        (where / f"f{n}").write_text(str(n))
        (where / "a.txt").write_text(str(n))
        shot = store.snapshot(where, parents=[commit], step=f"s{n}", message=f"Do {n}")
        store.switch(where, commit, shot.commit)
        commit = shot.commit
    assert contents(worktree(store, commit)) == contents(where)


def test_ignored_files_travel_and_never_reach_the_user(repo, store: Store, step: Step, worktree: Worktree) -> None:
    a = step(store, store.base, "install", {".venv/lib/pkg.py": "x = 1\n", "src/m.pyc": b"\0"})
    b = step(store, a, "use", {"report.txt": "ok\n"})
    assert (worktree(store, b) / ".venv/lib/pkg.py").read_text() == "x = 1\n"
    tip = store.export(b, branch="made")
    assert repo.git("ls-tree", "-r", "--name-only", tip).split() == [".gitignore", "a.txt", "report.txt", "src/main.py"]
    assert [f.path for f in store.changed_files(b)] == ["report.txt"]
    assert b".venv" not in store.patch(b)


def test_an_unchanged_step_keeps_its_commit(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    shot = store.snapshot(where, parents=[store.base], step="idle", message="m")
    assert (shot.commit, shot.changed, shot.bytes_added, shot.findings) == (store.base, False, 0, ())


def test_a_snapshot_says_what_it_added(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    (where / "new").write_bytes(b"x" * 1000)
    (where / "copy").write_bytes(b"x" * 1000)
    shot = store.snapshot(where, parents=[store.base], step="s", message="Do it")
    assert (shot.changed, shot.bytes_added) == (True, 1000)
    assert store._history.message(bytes.fromhex(shot.commit)) == "Do it\n\nStep: s\n"


def test_equal_work_has_equal_ids(repo, open_store: Opener, step: Step) -> None:
    first = open_store(repo.path, "wf-1")
    a = step(first, first.base, "a", {"x": "1"})
    time.sleep(1.1)
    second = open_store(repo.path, "wf-2")
    assert step(second, second.base, "a", {"x": "1"}) == a
    assert first.export(a, branch="one") == second.export(a, branch="two")


def test_the_date_is_the_base_s(repo, store: Store, step: Step) -> None:
    tip = store.export(step(store, store.base, "a", {"x": "1"}), branch="made")
    assert (
        repo.git("log", "-1", "--format=%ad %cd %an", "--date=iso-strict", tip).strip()
        == "2024-05-06T07:08:09+02:00 2024-05-06T07:08:09+02:00 WorkflowMaster"
    )


def test_a_resume_finds_the_same_base_and_all_commits(repo, open_store: Opener, step: Step, worktree: Worktree) -> None:
    store = open_store(repo.path)
    base = store.base
    done = step(store, base, "a", {"x": "1"})
    store.close()
    repo.commit({"a.txt": "the user moved on\n"})
    repo.write({"dirty": "x"})
    again = open_store(repo.path)
    assert (again.base, again.origin) == (base, base)
    assert (worktree(again, done) / "x").read_text() == "1"


def test_a_resume_with_changes_taken_along(repo, open_store: Opener) -> None:
    repo.write({"dirty": "x"})
    store = open_store(repo.path, include_dirty=True)
    base, origin = store.base, store.origin
    assert base != origin == repo.head()
    again = open_store(repo.path)
    assert (again.base, again.origin) == (base, origin)


def test_the_base_survives_the_user_s_garbage_collection(
    repo, open_store: Opener, step: Step, worktree: Worktree, contents
) -> None:
    repo.commit({"only-here": "x" * 100})
    before = contents(repo.path)
    store = open_store(repo.path)
    a = step(store, store.base, "a", {"x": "1", "copy": "x" * 100})
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    again = open_store(repo.path)
    assert contents(worktree(again)) == before
    b = step(again, again.merge([("a", a)], message="m"), "b", {"y": "1"})
    repo.git("fsck", "--strict", again.export(b, branch="made"))
    again.unpin()
    assert repo.git("for-each-ref", "refs/workflowmaster") == ""


def test_an_open_store_survives_the_user_s_repacking(repo, open_store: Opener, worktree: Worktree, contents) -> None:
    repo.commit({f"f{n}": f"{n}" * 500 for n in range(50)})
    repo.git("gc", "-q")
    before = contents(repo.path)
    store = open_store(repo.path)
    store.lay(store.base, worktree())
    repo.commit({"more": "x"})
    repo.git("repack", "-a", "-d", "-q", "--depth=1", "-f")
    assert contents(worktree(store)) == before
    repo.git("gc", "-q", "--prune=now", "--aggressive")
    assert contents(worktree(store)) == before


def test_a_base_that_is_gone_says_so(repo, open_store: Opener) -> None:
    repo.commit({"only-here": "x"})
    store = open_store(repo.path)
    store.unpin()
    store.close()
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    with pytest.raises(WorkspaceError, match="workflow wf-1 started from is gone") as caught:
        open_store(repo.path)
    assert caught.value.code == "base"


def test_a_removed_pin_is_put_back(repo, open_store: Opener) -> None:
    open_store(repo.path).unpin()
    open_store(repo.path)
    assert (
        repo.git("for-each-ref", "--format=%(refname)", "refs/workflowmaster").strip()
        == "refs/workflowmaster/wf-1/base"
    )


def test_a_pin_that_is_not_ours_is_left_alone(repo, open_store: Opener) -> None:
    first = repo.head()
    repo.git("update-ref", "refs/workflowmaster/wf-1/base", first)
    repo.commit({"a.txt": "newer\n"})
    store = open_store(repo.path)
    assert repo.git("rev-parse", "refs/workflowmaster/wf-1/base").strip() == first
    assert repo.git("rev-parse", "refs/workflowmaster/wf-1.2/base").strip() == store.base
    open_store(repo.path).unpin()
    assert (
        repo.git("for-each-ref", "--format=%(refname)", "refs/workflowmaster").strip()
        == "refs/workflowmaster/wf-1/base"
    )


def test_pins_are_never_shared(repo, tmp_path: Path, own_home) -> None:
    first, second = (Store.open(tmp_path / name / "git", repo.path) for name in ("wf-1", "wf-2"))
    first.unpin()
    pins = repo.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/workflowmaster").splitlines()
    assert pins == [f"refs/workflowmaster/git.2/base {second.base}"]
    second.unpin()


def test_killed_between_pin_and_record_it_begins_again(repo, open_store: Opener) -> None:
    store = open_store(repo.path)
    subprocess.run(
        ["git", "update-ref", "-d", "refs/workflowmaster/origin"], cwd=store.folder / "store.git", check=True
    )
    repo.commit({"a.txt": "newer\n"})
    assert open_store(repo.path).base == repo.head()


def test_two_processes_work_on_one_repository(repo, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    argv = [sys.executable, "-c", RIVAL, tmp_path / "state", repo.path]
    rivals = [subprocess.Popen([*argv, name], stdout=subprocess.PIPE) for name in ("left", "right")]
    assert {r.communicate()[0].decode().strip() for r in rivals} == {repo.head()}
    assert [r.returncode for r in rivals] == [0, 0]
    assert len(repo.git("for-each-ref", "refs/heads").splitlines()) == 41
    repo.git("fsck", "--strict")


# A workspace that is no repository


def test_a_plain_directory_gets_a_private_repository(
    tmp_path: Path, open_store: Opener, worktree: Worktree, step: Step, put, contents
) -> None:
    plain = tmp_path / "plain"
    put(plain, "a.txt", "one\n")
    put(plain, ".gitignore", "cache/\n")
    put(plain, "cache/x", "x")
    (plain / "empty").mkdir()
    before = contents(plain)
    store = open_store(plain)
    where = worktree(store)
    assert set(contents(where)) == {b"a.txt", b".gitignore", b"empty"}
    tip = store.export(step(store, store.base, "s", {"a.txt": "two\n"}), branch="workflowmaster/wf-1")
    assert store.repository == store.folder / "store.git"
    read = ["git", "--git-dir", store.repository, "show", "workflowmaster/wf-1:a.txt"]
    assert subprocess.run(read, capture_output=True, check=True, text=True).stdout == "two\n"
    assert contents(plain) == before
    again = open_store(plain)
    assert again.base == store.base
    assert again.export(tip, branch="workflowmaster/wf-1", expected=tip) == tip


def test_the_user_s_plain_directory_is_never_changed_to_be_read(nobody) -> None:
    def work() -> None:
        plain = nobody.folder / "plain"
        plain.mkdir()
        (plain / "locked").write_text("x")
        (plain / "locked").chmod(0o200)
        try:
            Store.open(nobody.folder / "wf-1", plain)
        finally:
            assert (plain / "locked").stat().st_mode & 0o777 == 0o200

    assert nobody.run(work).startswith("unreadable WorkspaceError: The step left 1 paths")


# What steps leave behind


def test_a_nested_repository_keeps_its_files_and_runs_nothing(
    store: Store, worktree: Worktree, tmp_path: Path, repo, put
) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    where = worktree(store)
    subprocess.run(["git", "init", "-q", where / "sub"], check=True)
    put(where, "sub/inner.txt", "kept\n")
    put(where, "sub/.git/config", HOSTILE_CONFIG.format(trap=trap, folder=tmp_path))
    put(where, ".git", "gitdir: /etc\n")
    shot = store.snapshot(where, parents=[store.base], step="s", message="m")
    assert shot.findings == (".git: left out, a form of .git", "sub/.git: left out, a form of .git")
    tip = store.export(shot.commit, branch="made")
    assert repo.git("show", f"{tip}:sub/inner.txt") == "kept\n"
    assert repo.git("ls-tree", tip, "sub").split()[0] == "040000"
    fresh = worktree(store, shot.commit)
    assert not (fresh / "sub/.git").exists()
    store.switch(where, shot.commit, shot.commit)
    assert not (where / "sub/.git").exists()
    assert not (tmp_path / "sprung").exists()


def test_a_submodule_stays_what_it_is(repo, tmp_path: Path, open_store: Opener, worktree: Worktree, put) -> None:
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "-q", repo.path, other], check=True)
    repo.git("submodule", "add", "-q", f"file://{other}", "libs/inner")
    repo.commit()
    named = repo.git("ls-tree", "HEAD", "libs/inner").split()[2]
    store = open_store(repo.path)
    where = worktree(store)
    assert list((where / "libs/inner").iterdir()) == []
    put(where, "libs/beside", "x")
    shot = store.snapshot(where, parents=[store.base], step="s", message="m")
    put(where, "libs/inner/dropped", "x")
    again = store.snapshot(where, parents=[shot.commit], step="t", message="m")
    assert again.findings == ("libs/inner: left out, content of a submodule; the commit it names is kept",)
    assert again.commit == shot.commit
    tip = store.export(shot.commit, branch="made")
    assert repo.git("ls-tree", tip, "libs/inner").split()[:3] == ["160000", "commit", named]
    store.switch(where, shot.commit, shot.commit)
    assert list((where / "libs/inner").iterdir()) == []
    (where / "libs/inner").rmdir()
    removed = store.snapshot(where, parents=[shot.commit], step="u", message="m").commit
    assert repo.git("diff", "--name-status", tip, store.export(removed, branch="removed")).split() == [
        "D",
        "libs/inner",
    ]


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.long)])
def test_thousands_of_small_files(count: int, store: Store, worktree: Worktree, contents) -> None:
    where = worktree(store)
    for n in range(count):
        path = where / f".venv/lib/p{n // 200}"
        if n % 200 == 0:
            path.mkdir(parents=True)
        (path / f"m{n}.py").write_text(f"x = {n}\n")
    shot = store.snapshot(where, parents=[store.base], step="s", message="m")
    assert len(contents(worktree(store, shot.commit))) == count + count // 200 + 2 + 4
    assert len(list((store._objects.objects / "pack").glob("*.pack"))) == 1
    subprocess.run(["git", "fsck", "--strict"], cwd=store._objects.git_dir, check=True)
    assert store.export(shot.commit, branch="made") == store.base


def test_too_much_is_an_error_and_says_what_to_do(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    with (where / "hole").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(WorkspaceError, match=r"the last one read: hole\).*disk limit") as caught:
        store.snapshot(where, parents=[store.base], step="s", message="m")
    assert caught.value.code == "size"


def test_only_growth_counts(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    caps = workspace.Caps(total_bytes=100)
    (where / "new").write_bytes(b"x" * 100)
    shot = store.snapshot(where, parents=[store.base], step="s", message="m", caps=caps)
    (where / "new").write_bytes(b"y" * 180)
    again = store.snapshot(where, parents=[shot.commit], step="t", message="m", caps=caps)
    (where / "new").write_bytes(b"z" * 281)
    with pytest.raises(WorkspaceError, match="grew by more than 100 bytes"):
        store.snapshot(where, parents=[again.commit], step="u", message="m", caps=caps)


def test_a_directory_we_do_not_know_adds_only_what_is_new(repo, open_store: Opener, worktree: Worktree) -> None:
    # A resume adopts the directory of a process that was killed.
    where = worktree(open_store(repo.path))
    (where / "src/new").write_bytes(b"x" * 10)
    shot = open_store(repo.path).snapshot(where, parents=[repo.head()], step="s", message="m")
    assert (shot.changed, shot.bytes_added) == (True, 10)


def test_files_of_another_user_are_named_and_not_skipped(nobody) -> None:
    plain, where = nobody.folder / "plain", nobody.folder / "tree"
    foreign = [where / "secret", where / "closed"]

    def begin() -> None:
        plain.mkdir()
        (plain / "a").write_text("x")
        store = Store.open(nobody.folder / "wf-1", plain)
        where.mkdir()
        store.lay(store.base, where)

    def end() -> None:
        store = Store.open(nobody.folder / "wf-1", plain)
        store.snapshot(where, parents=[store.base], step="s", message="m")

    assert nobody.run(begin) == ""
    foreign[0].write_text("x")
    foreign[0].chmod(0o600)
    foreign[1].mkdir(mode=0o700)
    for path in foreign:
        os.chown(path, 12345, 12345)
    said = nobody.run(end)
    assert said.startswith(
        "unreadable WorkspaceError: The step left 2 paths that belong to another user and cannot be read: closed, secret."
    )
    for path in foreign:
        path.chmod(0o755)
    assert nobody.run(end) == ""


def test_a_user_gets_back_what_his_step_locked(nobody) -> None:
    def work() -> None:
        plain, where = nobody.folder / "plain", nobody.folder / "tree"
        plain.mkdir()
        store = Store.open(nobody.folder / "wf-1", plain)
        where.mkdir()
        (where / "deep/er").mkdir(parents=True)
        (where / "deep/er/file").write_text("locked away")
        for name in ("deep/er/file", "deep/er", "deep", "."):
            (where / name).chmod(0)
        shot = store.snapshot(where, parents=[store.base], step="s", message="m")
        fresh = nobody.folder / "fresh"
        fresh.mkdir()
        store.lay(shot.commit, fresh)
        assert (fresh / "deep/er/file").read_text() == "locked away"
        store.lay(store.base, where)
        assert list(where.iterdir()) == []
        workspace.remove_tree(where)

    assert nobody.run(work) == ""


def test_old_file_modes_do_not_look_like_a_change(repo, open_store: Opener, worktree: Worktree) -> None:
    blob = repo.git("rev-parse", "HEAD:a.txt").strip()
    raw = b"100664 a.txt\0" + bytes.fromhex(blob)
    tree = repo.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw).strip()
    commit = repo.git("commit-tree", tree, stdin=b"old\n").strip()
    repo.git("reset", "-q", "--hard", commit)
    store = open_store(repo.path)
    where = worktree(store)
    os.utime(where / "a.txt")
    assert not store.snapshot(where, parents=[store.base], step="s", message="m").changed


def test_switch_falls_back_to_lay_when_it_cannot_know(store: Store, worktree: Worktree, step: Step, contents) -> None:
    a = step(store, store.base, "a", {"x": "1"})
    where = worktree()
    (where / "stray").write_text("x")
    store.switch(where, store.base, a)
    assert contents(where) == contents(worktree(store, a))


def test_directories_that_are_gone_are_forgotten(store: Store, worktree: Worktree) -> None:
    for n in range(workspace.MOST_DIRECTORIES * 3):
        where = worktree(store, name=f"t{n}")
        workspace.remove_tree(where)
    assert len(store._known) <= workspace.MOST_DIRECTORIES + 1
    kept = [worktree(store) for _ in range(workspace.MOST_DIRECTORIES * 5)]
    assert len(store._known) <= workspace.MOST_DIRECTORIES * 4
    assert not store.snapshot(kept[0], parents=[store.base], step="s", message="m").changed


def test_the_store_is_nobody_else_s_business(store: Store) -> None:
    assert store.folder.stat().st_mode & 0o777 == 0o700
