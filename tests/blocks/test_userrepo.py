"""Every kind of repository a user may have, opened for real."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from workflowmaster.blocks.workspace import Store, WorkspaceError

Opener = Callable[..., Store]
Worktree = Callable[..., Path]
NOBODY = 65534


def refused(open_store: Opener, workspace: Path, code: str, **options: object) -> WorkspaceError:
    with pytest.raises(WorkspaceError) as caught:
        open_store(workspace, **options)
    assert caught.value.code == code
    return caught.value


def clone(source: Path, target: Path, *options: str) -> Path:
    subprocess.run(["git", "clone", "-q", *options, f"file://{source}", target], check=True)
    return target


# Kinds that work


def test_a_linked_worktree_borrows_from_the_common_folder(
    repo, open_store: Opener, worktree: Worktree, tmp_path: Path
) -> None:
    repo.git("worktree", "add", "-q", "-b", "other", tmp_path / "linked")
    (tmp_path / "linked/only-here").write_text("x")
    subprocess.run(["git", "add", "-A"], cwd=tmp_path / "linked", check=True)
    subprocess.run(["git", "commit", "-qm", "linked"], cwd=tmp_path / "linked", check=True)
    store = open_store(tmp_path / "linked")
    assert (worktree(store) / "only-here").exists()
    store.export(store.base, branch="made")
    assert repo.git("rev-parse", "made").strip() == store.base


def test_a_shallow_clone(
    repo, open_store: Opener, worktree: Worktree, tmp_path: Path, step: Callable[..., str]
) -> None:
    repo.commit({"a.txt": "newer\n"})
    shallow = clone(repo.path, tmp_path / "shallow", "--depth=1")
    store = open_store(shallow)
    sides = [(n, step(store, store.base, n, {n: "x"})) for n in ("a", "b")]
    tip = store.export(store.merge(sides, message="m"), branch="made")
    log = subprocess.run(["git", "log", "--format=%h", tip], cwd=shallow, capture_output=True, check=True, text=True)
    assert len(log.stdout.split()) == 4
    subprocess.run(["git", "fsck"], cwd=shallow, check=True)


@pytest.mark.parametrize("kind", [["--no-cone"], ["--cone"]])
def test_a_sparse_checkout_is_not_dirty_and_the_workspace_is_whole(
    repo, kind: list[str], open_store: Opener, worktree: Worktree
) -> None:
    repo.commit({"big/one": "1", "other/two": "2"})
    repo.git("sparse-checkout", "set", *kind, "src")
    assert not (repo.path / "big").exists()
    where = worktree(open_store(repo.path))
    assert (where / "big/one").read_text() == "1"


@pytest.mark.parametrize("version", ["2", "4"])
def test_a_file_deleted_in_a_sparse_checkout_is_still_a_change(repo, version: str, open_store: Opener) -> None:
    repo.commit({"big/one": "1", "src/two": "2"})
    repo.git("sparse-checkout", "set", "--cone", "src")
    repo.git("update-index", "--index-version", version)
    (repo.path / "src/two").unlink()
    assert refused(open_store, repo.path, "dirty").files == ("src/two",)


@pytest.mark.parametrize("kind", ["sparse", "split"])
def test_an_index_that_libgit2_cannot_read(repo, kind: str, open_store: Opener) -> None:
    repo.commit({"big/one": "1", "src/two": "2"})
    repo.git(
        *(
            ["sparse-checkout", "set", "--cone", "--sparse-index", "src"]
            if kind == "sparse"
            else ["update-index", "--split-index"]
        )
    )
    error = refused(open_store, repo.path, "index")
    mend = str(error).split("`")[1 if kind == "sparse" else 3]
    repo.git(*mend.split()[1:])
    assert open_store(repo.path).base == repo.head()


def test_a_detached_head(repo, open_store: Opener) -> None:
    first = repo.head()
    repo.commit({"a.txt": "newer\n"})
    repo.git("checkout", "-q", first)
    store = open_store(repo.path)
    store.export(store.base, branch="made")
    assert store.base == first
    assert repo.git("rev-parse", "--abbrev-ref", "HEAD").strip() == "HEAD"


def test_a_subdirectory_means_the_whole_repository(repo, open_store: Opener, worktree: Worktree) -> None:
    store = open_store(repo.path / "src")
    assert store.subdir == "src"
    assert (worktree(store) / "a.txt").exists()
    assert open_store(repo.path, "wf-2").subdir == ""


def test_a_submodule_is_a_repository_too(repo, open_store: Opener, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    subprocess.run(["git", "init", "-q", outer], check=True)
    subprocess.run(["git", "submodule", "add", "-q", repo.path, "inner"], cwd=outer, check=True, capture_output=True)
    assert open_store(outer / "inner").base == repo.head()


def test_worktree_config_and_odd_extensions(repo, open_store: Opener) -> None:
    repo.git("config", "extensions.worktreeConfig", "true")
    assert open_store(repo.path).base == repo.head()


def test_a_home_that_cannot_be_read(repo, open_store: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").mkdir()
    monkeypatch.setenv("HOME", str(home))
    assert open_store(repo.path).base
    monkeypatch.delenv("HOME")
    assert open_store(repo.path, "wf-2").base


def test_a_broken_user_configuration_does_not_matter(repo, open_store: Opener) -> None:
    head = repo.head()
    Path(os.environ["HOME"], ".gitconfig").write_text("[core\n")
    assert open_store(repo.path).base == head


def test_nothing_of_the_user_s_runs(
    repo, open_store: Opener, worktree: Worktree, tmp_path: Path, step: Callable[..., str]
) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    repo.commit({".gitattributes": "* filter=evil diff=evil merge=evil text eol=crlf ident\n"})
    for hook in (
        "pre-commit",
        "post-commit",
        "reference-transaction",
        "post-checkout",
        "update",
        "pre-auto-gc",
        "post-index-change",
    ):
        (repo.path / ".git/hooks" / hook).symlink_to(trap)
    for key in (
        "core.fsmonitor",
        "filter.evil.clean",
        "filter.evil.smudge",
        "diff.evil.textconv",
        "diff.external",
        "merge.evil.driver",
        "core.sshCommand",
        "core.editor",
    ):
        repo.git("config", key, str(trap))
    (tmp_path / "sprung").unlink(missing_ok=True)
    store = open_store(repo.path)
    sides = [
        (n, step(store, store.base, n, {n: "x", "a.txt": "one\ntwo\nthree\nfour\nfive\n" + n * (n == "b")}))
        for n in ("a", "b")
    ]
    tip = store.merge(sides, message="m")
    store.export(tip, branch="made")
    assert store.patch(tip)
    store.unpin()
    assert not (tmp_path / "sprung").exists()


def test_bytes_are_exact_whatever_the_attributes_say(repo, open_store: Opener, worktree: Worktree) -> None:
    repo.commit({".gitattributes": "* text eol=crlf ident\n*.utf16 working-tree-encoding=UTF-16\n"})
    store = open_store(repo.path, include_dirty=True)
    where = worktree(store)
    assert (where / "a.txt").read_bytes().startswith(b"one\ntwo")
    (where / "new").write_bytes(b"$Id$\r\nx\n\xff")
    shot = store.snapshot(where, parents=[store.base], step="s", message="m")
    assert (worktree(store, shot.commit) / "new").read_bytes() == b"$Id$\r\nx\n\xff"


# Kinds that are refused


def test_no_commit_yet(tmp_path: Path, open_store: Opener) -> None:
    subprocess.run(["git", "init", "-q", tmp_path / "new"], check=True)
    assert "has no commit yet. Make one first" in str(refused(open_store, tmp_path / "new", "unborn"))


def test_sha256(tmp_path: Path, open_store: Opener) -> None:
    subprocess.run(["git", "init", "-q", "--object-format=sha256", tmp_path / "new"], check=True)
    error = refused(open_store, tmp_path / "new", "sha256")
    assert (
        str(error)
        == f"{tmp_path}/new stores its objects as sha256, which is not supported. Work in a SHA-1 clone of it."
    )


def test_reftable(repo, open_store: Opener) -> None:
    # This git cannot make one; the mark in the configuration is what counts.
    repo.git("config", "core.repositoryformatversion", "1")
    (repo.path / ".git/config").open("a").write("[extensions]\n\trefStorage = reftable\n")
    assert "--ref-format=files" in str(refused(open_store, repo.path, "reftable"))


def test_a_bare_repository(tmp_path: Path, open_store: Opener) -> None:
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "bare"], check=True)
    assert "git worktree add" in str(refused(open_store, tmp_path / "bare", "bare"))


def test_a_partial_clone_is_refused_only_when_files_are_missing(
    repo, open_store: Opener, tmp_path: Path, worktree: Worktree
) -> None:
    repo.git("config", "uploadpack.allowFilter", "true")
    empty = clone(repo.path, tmp_path / "empty", "--filter=blob:none", "--no-checkout")
    subprocess.run(["git", "sparse-checkout", "set", "src"], cwd=empty, check=True)
    subprocess.run(["git", "checkout", "-q", "main"], cwd=empty, check=True)
    repo.commit({"deep/file": "x"})
    subprocess.run(["git", "pull", "-q"], cwd=empty, check=True)
    error = refused(open_store, empty, "partial")
    assert error.files == ("deep/file",)
    assert "`git fetch --refetch --no-filter`" in str(error)
    subprocess.run(["git", "fetch", "-q", "--refetch", "--no-filter"], cwd=empty, check=True)
    assert (worktree(open_store(empty)) / "deep/file").read_text() == "x"


def test_a_repository_of_another_user(repo, open_store: Opener) -> None:
    os.chown(repo.path / ".git", NOBODY, NOBODY)
    config = Path(os.environ["HOME"], ".gitconfig")
    trusting = config.read_text()
    config.write_text("[user]\n\tname = A\n")
    assert f"git config --global --add safe.directory {repo.path}" in str(refused(open_store, repo.path, "owner"))
    config.write_text(trusting)
    store = open_store(repo.path)
    store.export(store.base, branch="team/made")
    made = [
        repo.path / ".git" / p for p in ("refs/heads/team", "refs/heads/team/made", "refs/workflowmaster/wf-1/base")
    ]
    assert {p.stat().st_uid for p in made} == {NOBODY}


def test_an_own_repository_through_sudo(repo, open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(repo.path / ".git", NOBODY, NOBODY)
    Path(os.environ["HOME"], ".gitconfig").unlink()
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    assert open_store(repo.path).base


def test_a_damaged_repository(repo, open_store: Opener) -> None:
    (repo.path / ".git/config").write_text("[core\n")
    assert "Mend it by hand" in str(refused(open_store, repo.path, "broken"))


def test_a_path_that_alternates_cannot_name(repo, tmp_path: Path, open_store: Opener) -> None:
    odd = clone(repo.path, tmp_path / "line\nbreak")
    assert "Rename that directory" in str(refused(open_store, odd, "unsafe"))


@pytest.mark.parametrize("name", [b"caf\xc3\xa9", b"\xff", b" # ", b'"q"', b"-x"])
def test_odd_paths_of_the_repository_itself(
    repo, tmp_path: Path, open_store: Opener, worktree: Worktree, name: bytes
) -> None:
    odd = clone(repo.path, tmp_path / os.fsdecode(name))
    assert (worktree(open_store(odd)) / "a.txt").exists()


def test_a_state_directory_inside_a_plain_workspace(tmp_path: Path, own_home) -> None:
    with pytest.raises(WorkspaceError, match="Set WORKFLOWMASTER_HOME"):
        Store.open(tmp_path / ".state/wf-1", tmp_path)


def test_a_home_of_somebody_else(nobody, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        plain = nobody.folder / "plain"
        plain.mkdir()
        subprocess.run(["git", "init", "-q", plain], check=True)
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "x"],
            cwd=plain,
            check=True,
        )
        os.environ["HOME"] = "/root"
        Store.open(nobody.folder / "wf-1", plain)

    assert nobody.run(work) == ""


def test_a_workspace_that_is_not_there(tmp_path: Path, open_store: Opener) -> None:
    with pytest.raises(FileNotFoundError):
        open_store(tmp_path / "nowhere")


# Uncommitted changes

CHANGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("modified", lambda p: (p / "a.txt").write_text("x"), "a.txt"),
    ("deleted", lambda p: (p / "a.txt").unlink(), "a.txt"),
    ("made executable", lambda p: (p / "a.txt").chmod(0o755), "a.txt"),
    ("untracked", lambda p: (p / "new\nfile").write_text("x"), "new\\nfile"),
    ("not UTF-8", lambda p: (p / os.fsdecode(b"\xff")).write_text("x"), "\\xff"),
    ("staged", lambda p: ((p / "s").write_text("x"), subprocess.run(["git", "add", "s"], cwd=p, check=True)), "s"),
    (
        "staged, then removed",
        lambda p: subprocess.run(["git", "rm", "-q", "--cached", "a.txt"], cwd=p, check=True),
        "a.txt",
    ),
    ("file became a link", lambda p: ((p / "a.txt").unlink(), (p / "a.txt").symlink_to("src")), "a.txt"),
    (
        "nested repository",
        lambda p: (subprocess.run(["git", "init", "-q", p / "nested"], check=True), (p / "nested/x").write_text("x")),
        "nested",
    ),
]


@pytest.mark.parametrize(("change", "file"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_every_uncommitted_change_is_seen_and_can_be_taken_along(
    repo,
    change: Callable[[Path], object],
    file: str,
    open_store: Opener,
    worktree: Worktree,
    contents: Callable[[Path], dict[bytes, object]],
) -> None:
    change(repo.path)
    error = refused(open_store, repo.path, "dirty")
    assert error.files == (file,)
    assert "--include-dirty" in str(error)
    assert repo.git("for-each-ref", "refs/workflowmaster") == ""
    store = open_store(repo.path, include_dirty=True)
    seen = contents(repo.path)
    assert contents(worktree(store)) == seen
    assert store.origin == repo.head()
    tip = store.export(store.base, branch="made")
    assert repo.git("log", "-1", "--format=%s", tip).strip() in (
        "Uncommitted changes the workflow started with",
        "Change",
    )


def test_ignored_files_are_not_uncommitted_changes(repo, open_store: Opener) -> None:
    repo.write({"x.pyc": "x", ".venv/lib": "x"})
    assert open_store(repo.path).base == repo.head()


@pytest.mark.parametrize("where", ["info", "repository", "global", "default"])
def test_the_user_s_own_excludes_count(
    repo, where: str, open_store: Opener, tmp_path: Path, step: Callable[..., str]
) -> None:
    home = Path(os.environ["HOME"])
    if where == "info":
        (repo.path / ".git/info/exclude").write_text("*.mine\n")
    elif where == "default":
        (home / ".config/git").mkdir(parents=True)
        (home / ".config/git/ignore").write_text("*.mine\n")
    else:
        (home / "excludes").write_text("*.mine\n")
        flags = ["--global"] if where == "global" else []
        repo.git("config", *flags, "core.excludesFile", "~/excludes")
    repo.write({"deep/notes.mine": "x"})
    assert repo.git("status", "--porcelain") == ""
    store = open_store(repo.path)
    tip = step(store, store.base, "s", {"todo.mine": "x", "real": "x"})
    assert [f.path for f in store.changed_files(tip)] == ["real"]


def test_many_changes_are_counted(repo, open_store: Opener) -> None:
    repo.write({f"f{n:02}": "x" for n in range(15)})
    error = refused(open_store, repo.path, "dirty")
    assert len(error.files) == 10
    assert "f09 and 5 more" in str(error)


def test_line_endings_are_cleaned_as_git_add_would(repo, open_store: Opener, worktree: Worktree) -> None:
    repo.commit({".gitattributes": "*.txt text\n"})
    repo.write({"a.txt": b"crlf\r\n"})
    where = worktree(open_store(repo.path, include_dirty=True))
    assert (where / "a.txt").read_bytes() == b"crlf\n"


def test_a_change_that_needs_a_filter_program_is_refused(repo, open_store: Opener) -> None:
    repo.commit({".gitattributes": "*.bin filter=lfs\n"})
    repo.write({"big.bin": "x"})
    error = refused(open_store, repo.path, "filter", include_dirty=True)
    assert error.files == ("big.bin",)
    assert "the filter `lfs`" in str(error)
