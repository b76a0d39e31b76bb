"""What reaches the user: branch, patch, list of files. And what of his stays as it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from workflowmaster.blocks import export
from workflowmaster.blocks.looseobjects import LARGE
from workflowmaster.blocks.workspace import ChangedFile, Store, WorkspaceError

Opener = Callable[..., Store]
Worktree = Callable[..., Path]
Step = Callable[..., str]


class KilledError(RuntimeError):
    pass


def subjects(repo, tip: str) -> list[str]:
    return repo.git("log", "--topo-order", "--format=%s", tip).splitlines()


def parents(repo, tip: str) -> list[str]:
    return repo.git("log", "-1", "--format=%P", tip).split()


def applied(repo, patch: bytes, target: Path, base: str) -> str:
    """Apply a patch to a fresh checkout of a commit and return the tree it makes."""
    repo.git("worktree", "add", "-q", "--detach", target, base)
    repo.git("apply", "--index", stdin=patch, cwd=target)
    return repo.git("write-tree", cwd=target).strip()


def test_one_commit_a_step_and_joins_stay(repo, store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"a": "1"})
    b = step(store, store.base, "b", {"b": "1"})
    c = step(store, store.merge([("a", a), ("b", b)], message="Join a and b"), "c", {"c": "1"})
    tip = store.export(c, branch="made")
    assert subjects(repo, tip) == ["Do c", "Join a and b", "Do b", "Do a", "Change"]
    assert len(parents(repo, parents(repo, tip)[0])) == 2
    assert (
        repo.git("log", "--format=%an <%ae>", f"{store.base}..{tip}").splitlines()
        == ["WorkflowMaster <workflowmaster@localhost>"] * 4
    )
    repo.git("fsck", "--strict", "--connectivity-only")


def test_commits_without_anything_to_review_disappear(repo, store: Store, step: Step) -> None:
    # `install` changes ignored files only, so its join with `b` is no join any more.
    install = step(store, store.base, "install", {".venv/lib": "x"})
    b = step(store, store.base, "b", {"b": "1"})
    joined = store.merge([("install", install), ("b", b)], message="Join")
    last = step(store, joined, "last", {"src/m.pyc": "x"})
    tip = store.export(last, branch="made")
    assert subjects(repo, tip) == ["Do b", "Change"]


def test_nothing_to_show_is_the_user_s_own_commit(repo, store: Store) -> None:
    assert store.export(store.base, branch="made") == repo.head()


def test_a_tracked_file_stays_though_it_is_ignored_now(repo, store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {".gitignore": "a.txt\nsrc/\n", "src/new.py": "x", "other": "x"})
    b = step(store, a, "b", {"a.txt": "changed\n", "src/main.py": "print(2)\n"})
    tip = store.export(b, branch="made")
    assert repo.git("show", f"{tip}:a.txt") == "changed\n"
    assert repo.git("ls-tree", "-r", "--name-only", tip).split() == [".gitignore", "a.txt", "other", "src/main.py"]


def test_a_rule_that_goes_lets_the_file_in(repo, store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"x.log": "1", ".gitignore": "*.log\n"})
    b = step(store, a, "b", {".gitignore": "*.tmp\n"})
    tip = store.export(b, branch="made")
    assert repo.git("show", "--name-status", "--format=", tip).split() == ["M", ".gitignore", "A", "x.log"]


def test_the_message_gets_its_trailers_and_the_author_is_whom_we_say(repo, store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"a": "1"})
    tip = store.export(a, branch="made", message="Workflow: wf-1", author=("Ada <x>", "ada@example.org\n"))
    assert repo.git("log", "-1", "--format=%B", tip) == "Do a\n\nStep: a\nWorkflow: wf-1\n\n"
    assert (
        repo.git("interpret-trailers", "--parse", stdin=b"Do a\n\nStep: a\nWorkflow: wf-1\n")
        == "Step: a\nWorkflow: wf-1\n"
    )
    assert repo.git("log", "-1", "--format=%an|%ae", tip).strip() == "Ada x|ada@example.org"
    prose = store.export(a, branch="prose", message="Made by a workflow.")
    assert repo.git("log", "-1", "--format=%b", prose) == "Step: a\n\nMade by a workflow.\n\n"


def test_nothing_else_of_the_user_s_changes(repo, store: Store, step: Step) -> None:
    before = repo.state()
    tip = step(store, store.base, "a", {"a.txt": "2\n", "new": "x"})
    store.export(tip, branch="made")
    store.patch(tip)
    store.unpin()
    assert repo.state() == before
    assert repo.git("for-each-ref", "--format=%(refname)").split() == ["refs/heads/made", "refs/heads/main"]


def test_the_user_s_branch_may_have_moved_meanwhile(repo, store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"a": "1"})
    moved = repo.commit({"a.txt": "moved on\n"})
    tip = store.export(a, branch="made")
    assert repo.git("merge-base", tip, moved).strip() == store.base
    assert repo.git("rev-parse", "main").strip() == moved


# The branch


def test_repeating_an_export_changes_nothing(repo, store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"a": "1"})
    tip = store.export(a, branch="made")
    packs = sorted((repo.path / ".git/objects/pack").iterdir())
    assert store.export(a, branch="made") == tip
    assert sorted((repo.path / ".git/objects/pack").iterdir()) == packs


def test_killed_between_pack_and_ref_it_is_simply_repeated(
    repo, store: Store, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = step(store, store.base, "a", {"a": "1"})

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(export, "swap_ref", killed)
        with pytest.raises(KilledError):
            store.export(a, branch="made")
    packs = len(list((repo.path / ".git/objects/pack").glob("*.pack")))
    assert packs == 1
    assert repo.git("branch", "--list", "made") == ""
    tip = store.export(a, branch="made")
    assert repo.git("rev-parse", "made").strip() == tip
    assert len(list((repo.path / ".git/objects/pack").glob("*.pack"))) == packs


def test_an_orphaned_pack_that_the_user_collected_comes_back(repo, store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"a": "1"})
    tip = store.export(a, branch="made")
    repo.git("branch", "-q", "-D", "made")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    assert store.export(a, branch="made") == tip
    repo.git("fsck", "--strict")


def test_a_branch_moves_only_from_where_we_left_it(repo, store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"a": "1"})
    b = step(store, a, "b", {"b": "1"})
    first = store.export(a, branch="made")
    with pytest.raises(WorkspaceError, match="made exists already") as caught:
        store.export(b, branch="made")
    assert caught.value.code == "branch"
    assert repo.git("rev-parse", "made").strip() == first
    with pytest.raises(WorkspaceError, match="made exists already"):
        store.export(b, branch="made", expected=store.base)
    second = store.export(b, branch="made", expected=first)
    assert repo.git("rev-parse", "made").strip() == second


def test_a_branch_that_moves_at_the_last_moment_is_not_overwritten(
    repo, store: Store, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = step(store, store.base, "a", {"a": "1"})
    b = step(store, a, "b", {"b": "1"})
    first = store.export(a, branch="made")

    def meddle(*_: object) -> bool:
        repo.git("update-ref", "refs/heads/made", store.base)
        return False

    monkeypatch.setattr(export, "_checked_out", meddle)
    with pytest.raises(WorkspaceError, match=r"moved by somebody else just now.*Look at it"):
        store.export(b, branch="made", expected=first)
    assert repo.git("rev-parse", "made").strip() == store.base


@pytest.mark.parametrize("linked", [False, True])
def test_a_branch_that_is_checked_out_is_not_moved(
    repo, store: Store, step: Step, linked: bool, tmp_path: Path
) -> None:
    a = step(store, store.base, "a", {"a": "1"})
    first = store.export(a, branch="made")
    if linked:
        repo.git("worktree", "add", "-q", tmp_path / "linked", "made")
    else:
        repo.git("checkout", "-q", "made")
    with pytest.raises(WorkspaceError, match="made is checked out"):
        store.export(step(store, a, "b", {"b": "1"}), branch="made", expected=first)


@pytest.mark.parametrize(
    ("there", "name"),
    [("made", "made/below"), ("made/below", "made"), ("", "bad..name"), ("", "-"), ("", "a b"), ("", "x.lock")],
)
def test_a_name_that_cannot_be_says_so(repo, store: Store, step: Step, there: str, name: str) -> None:
    if there:
        repo.git("branch", there)
    with pytest.raises(WorkspaceError, match="Choose another branch name") as caught:
        store.export(step(store, store.base, "a", {"a": "1"}), branch=name)
    assert caught.value.code == "branch"


def test_packed_refs_are_seen(repo, store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"a": "1"})
    first = store.export(a, branch="made")
    repo.git("pack-refs", "--all")
    second = store.export(step(store, a, "b", {"b": "1"}), branch="made", expected=first)
    assert repo.git("rev-parse", "made").strip() == second


# The patch


def test_the_patch_applies_whatever_it_holds(repo, store: Store, worktree: Worktree, tmp_path: Path) -> None:
    where = worktree(store)
    (where / "a.txt").write_text("one\ntwo\nTHREE\nfour\nfive")
    (where / "src/main.py").unlink()
    (where / ".gitignore").chmod(0o755)
    (where / "binary").write_bytes(bytes(range(256)) * 20)
    (where / "latin").write_bytes(b"caf\xe9\n")
    (where / "link").symlink_to("../../etc/passwd")
    (where / "empty").write_text("")
    for name in (b"new\nline", b'quo"te', b"tab\there", b"\xff\xfe", b"-rf", b"a\\b", b" lead", b"caf\xc3\xa9"):
        (where / os.fsdecode(name)).write_bytes(b"odd\n")
    commit = store.snapshot(where, parents=[store.base], step="s", message="m").commit
    tip = store.export(commit, branch="made")
    assert (
        applied(repo, store.patch(commit), tmp_path / "applied", store.base)
        == repo.git("rev-parse", f"{tip}^{{tree}}").strip()
    )


def test_the_patch_starts_from_what_lies_in_the_user_s_directory(repo, open_store: Opener, step: Step) -> None:
    repo.write({"a.txt": "changed\nbut not committed\n"})
    store = open_store(repo.path, include_dirty=True)
    commit = step(store, store.base, "s", {"a.txt": "changed\nand finished\n"})
    repo.git("apply", stdin=store.patch(commit))
    assert (repo.path / "a.txt").read_text() == "changed\nand finished\n"


def test_no_change_is_no_patch(store: Store) -> None:
    assert (store.patch(store.base), store.changed_files(store.base)) == (b"", [])


def test_the_list_of_files_counts_lines(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    (where / "a.txt").write_text("one\nTWO\nthree\nfour\nfive\nsix\n")
    (where / "src/main.py").unlink()
    (where / "new\nname").write_text("1\n2\n")
    (where / "bin").write_bytes(b"\0\1")
    (where / ".gitignore").unlink()
    (where / ".gitignore").symlink_to("a.txt")
    commit = store.snapshot(where, parents=[store.base], step="s", message="m").commit
    assert [f for f in store.changed_files(commit) if f.path != ".gitignore"] == [
        ChangedFile("a.txt", "M", 2, 1),
        ChangedFile("bin", "A", 0, 0),
        ChangedFile("new\\nname", "A", 2, 0),
        ChangedFile("src/main.py", "D", 0, 1),
    ]


def test_a_large_file_reaches_the_branch_without_being_packed_in_memory(repo, store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    (where / "large").write_bytes(os.urandom(LARGE + 1))
    commit = store.snapshot(where, parents=[store.base], step="s", message="m").commit
    tip = store.export(commit, branch="made")
    repo.git("fsck", "--strict")
    read = subprocess.run(["git", "show", f"{tip}:large"], cwd=repo.path, capture_output=True, check=True)
    assert read.stdout == (where / "large").read_bytes()
    assert max(p.stat().st_size for p in (repo.path / ".git/objects/pack").glob("*.pack")) < LARGE
