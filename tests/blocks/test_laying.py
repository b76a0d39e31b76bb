"""Directory ↔ tree, both ways: `scanning` and `laying` can only be judged together."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflowmaster.blocks.objectstore import ObjectStore, WorkspaceError
from workflowmaster.blocks.trees import DIRECTORY, FILE, GITLINK, SYMLINK, Entry, bad_name

if TYPE_CHECKING:
    from workflowmaster.blocks.workspace import Store

Reader = Callable[[Path], dict[bytes, tuple[object, ...]]]
Worktree = Callable[..., Path]

NAMES = st.one_of(
    st.sampled_from(
        [b"a", b"b", b"c", b"README", b"readme", b"-rf", b"a\\b", b"a:b", b"con", b"new\nline", b"\xff\xfe", b"x" * 255]
    ),
    st.binary(min_size=1, max_size=4),
).filter(lambda n: not bad_name(n))
LEAVES = st.one_of(
    st.tuples(st.just("file"), st.booleans(), st.binary(max_size=30)),
    st.tuples(st.just("link"), st.sampled_from([b"/etc/passwd", b"../..", b"a", b"nowhere", b"\xff"])),
)
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(LEAVES, inner), max_size=4),
    max_leaves=12,
)


def build(directory: Path, tree: dict[bytes, object]) -> None:
    for name, what in tree.items():
        path = directory / os.fsdecode(name)
        match what:
            case dict():
                path.mkdir()
                build(path, what)
            case "link", target:
                path.symlink_to(os.fsdecode(target))
            case "file", executable, content:
                path.write_bytes(content)
                path.chmod(0o755 if executable else 0o644)


def snap(store: Store, directory: Path, parent: str = "") -> str:
    return store.snapshot(directory, parents=[parent or store.base], step="s", message="m").commit


@pytest.fixture
def plain(tmp_path: Path, open_store: Callable[..., Store]) -> Store:
    """A store over an empty workspace that is no repository."""
    (tmp_path / "plain").mkdir()
    return open_store(tmp_path / "plain")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=TREES, second=TREES)
def test_trees_travel_exactly(
    plain: Store, contents: Reader, first: dict[bytes, object], second: dict[bytes, object]
) -> None:
    top = Path(tempfile.mkdtemp())
    one, two, three, four = (top / n for n in ("one", "two", "three", "four"))
    for path in (one, two, three, four):
        path.mkdir()
    build(one, first)
    build(two, second)
    a, b = snap(plain, one), snap(plain, two)

    plain.lay(a, three)
    assert contents(three) == contents(one)
    assert plain._tree(snap(plain, three, a)) == plain._tree(a)

    plain.switch(three, a, b)
    plain.lay(b, four)
    assert contents(three) == contents(four) == contents(two)

    plain.lay(a, four)
    assert contents(four) == contents(one)
    shutil.rmtree(top)


ZOO = [
    b"new\nline", b"-rf", b"a\\b", b"a:b", b"con", b"x" * 255, b"README", b"readme", b"\xff\xfe", b" lead", b"trail ", b"\x1b[31m",
    b"...", b"~", b"*", b"caf\xc3\xa9", b"cafe\xcc\x81", b"\xe2\x80\xae", b".gitignore.d", b"git", b"a\tb", b'q"uote',
]  # fmt: skip


def test_the_zoo_of_names_travels_exactly(store: Store, worktree: Worktree, contents: Reader, repo) -> None:
    where = worktree(store)
    for name in ZOO:
        build(where, {name: ("file", False, name)})
        build(where / "src", {name: {name: ("link", name)}})
    commit = snap(store, where)
    assert contents(worktree(store, commit)) == contents(where)
    names = repo.git("ls-tree", "-r", "-z", "--name-only", store.export(commit, branch="made")).split("\0")
    assert {os.fsencode(n) for n in names} >= {*ZOO, *(b"src/" + n + b"/" + n for n in ZOO)}


def test_a_file_system_that_folds_case_is_an_error(
    store: Store, worktree: Worktree, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = worktree(store)
    (where / "README").write_text("x")
    (where / "readme").write_text("y")
    commit = snap(store, where)
    real = os.open

    def folding(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if path == "readme" and flags & os.O_CREAT:
            raise FileExistsError
        return real(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", folding)
    with pytest.raises(WorkspaceError, match="readme exists already under a name that differs only in case") as caught:
        store.lay(commit, worktree())
    assert caught.value.code == "case"


def test_lay_mends_whatever_foreign_code_did(
    store: Store, worktree: Worktree, contents: Reader, tmp_path: Path
) -> None:
    where, clean = worktree(store), worktree(store)
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(where / "src")
    (where / "src").symlink_to(outside)
    (where / "a.txt").unlink()
    (where / "a.txt").mkdir()
    (where / "a.txt/deep").write_text("x")
    (where / ".gitignore").chmod(0o4777)
    (where / "extra").mkdir()
    os.mkfifo(where / "extra/fifo")
    store.lay(store.base, where)
    assert contents(where) == contents(clean)
    assert list(outside.iterdir()) == []
    assert stat.S_IMODE((where / ".gitignore").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("way", "where_it_is"), [("lay", "src"), ("switch", "src"), ("lay", "libs/inner"), ("switch", "libs/inner")]
)
def test_a_directory_swapped_for_a_link_is_never_written_through(
    repo, open_store, way: str, where_it_is: str, worktree: Worktree, tmp_path: Path
) -> None:
    repo.commit({"libs/inner/main.py": "print(1)\n"})
    store = open_store(repo.path)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "main.py").write_text("mine")
    where = worktree(store)
    (where / where_it_is / "main.py").write_text("print(2)\n")
    changed = snap(store, where)
    shutil.rmtree(where / where_it_is)
    (where / where_it_is).symlink_to(victim)
    if (way, where_it_is) == ("switch", "libs/inner"):
        # Told that nothing has run since, `switch` trusts the trees below the top, and still follows no link.
        with pytest.raises(NotADirectoryError):
            store.switch(where, changed, store.base)
    else:
        getattr(store, way)(*((store.base, where) if way == "lay" else (where, changed, store.base)))
        assert (where / where_it_is / "main.py").read_text() == "print(1)\n"
    assert (victim / "main.py").read_text() == "mine"


def test_a_directory_made_anew_is_not_the_one_we_knew(store: Store, worktree: Worktree, contents: Reader) -> None:
    where = worktree(store)
    wanted = contents(where)
    shutil.rmtree(where)
    where.mkdir()
    store.switch(where, store.base, store.base)
    assert contents(where) == wanted


def test_an_existing_file_is_never_opened_for_writing(store: Store, worktree: Worktree, tmp_path: Path) -> None:
    where = worktree(store)
    outside = tmp_path / "hard"
    (where / "a.txt").unlink()
    outside.write_text("mine")
    os.link(outside, where / "a.txt")
    store.lay(store.base, where)
    assert outside.read_text() == "mine"
    assert (where / "a.txt").stat().st_nlink == 1


@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_write_in_the_same_tick_is_seen(store: Store, worktree: Worktree, keeps_time: bool) -> None:
    # Same size, straight after laying, and once with the old modification time put back: only the change time tells.
    for n in range(30):
        where = worktree(store)
        file = where / "a.txt"
        store.release(where)
        st_ = file.stat()
        with file.open("r+b") as out:
            out.write(b"%03d" % n)
        if keeps_time:
            os.utime(file, ns=(st_.st_atime_ns, st_.st_mtime_ns))
        again = worktree(store, snap(store, where))
        assert (again / "a.txt").read_bytes()[:3] == b"%03d" % n


def test_writes_between_two_snapshots_in_the_same_tick_are_seen(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    seen = set()
    for n in range(50):
        (where / "a.txt").write_bytes(b"%03d" % n)
        seen.add(snap(store, where))
    assert len(seen) == 50


def test_an_unchanged_directory_is_not_read_again(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    os.utime(where / "a.txt")
    first = snap(store, where)
    before = {s.key: s for s in store._known[where].root.files.values()}
    assert snap(store, where) == first == store.base
    after = {s.key: s for s in store._known[where].root.files.values()}
    believed = [k for k, s in before.items() if s.believed]
    assert all(after[k] is before[k] for k in believed)


def test_what_a_tree_cannot_hold_is_reported(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    os.mkfifo(where / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(where / "socket"))
    os.mknod(where / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (where / ".GIT").mkdir()
    (where / "git~1").write_text("x")
    (where / ".git ").write_text("x")
    (where / "src/.g\u200cit").write_text("x")
    (where / "README").write_text("x")
    (where / "readme").write_text("x")
    shot = store.snapshot(where, parents=[store.base], step="s", message="m")
    server.close()
    assert shot.findings == (
        ".GIT: left out, a form of .git",
        ".git : left out, a form of .git",
        "README and readme: differ only in case, so some file systems cannot hold both",
        "device: left out, a device",
        "fifo: left out, a FIFO",
        "git~1: left out, a form of .git",
        "socket: left out, a socket",
        "src/.g\\u200cit: left out, a form of .git",
    )
    assert sorted(p.name for p in worktree(store, shot.commit).iterdir()) == [
        ".gitignore",
        "README",
        "a.txt",
        "readme",
        "src",
    ]


def test_what_was_left_out_is_gone_when_the_directory_is_used_again(
    store: Store, worktree: Worktree, contents: Reader
) -> None:
    where = worktree(store)
    os.mkfifo(where / "fifo")
    (where / "a.txt").chmod(0o6755)
    (where / "src").chmod(0o700)
    os.link(where / "src/main.py", where / "twin")
    commit = snap(store, where)
    store.switch(where, commit, commit)
    fresh = worktree(store, commit)
    assert contents(where) == contents(fresh)
    assert stat.S_IMODE((where / "a.txt").stat().st_mode) == 0o755
    assert stat.S_IMODE((where / "src").stat().st_mode) == 0o755
    assert (where / "twin").stat().st_nlink == 1


def test_a_link_to_a_secret_stays_a_link(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    (where / "secret").symlink_to("/etc/passwd")
    (where / "up").symlink_to("../../../etc")
    fresh = worktree(store, snap(store, where))
    assert (fresh / "secret").readlink() == Path("/etc/passwd")
    assert (fresh / "up").readlink() == Path("../../../etc")


def test_a_file_that_is_swapped_for_a_fifo_while_it_is_read_does_not_hang(
    store: Store, worktree: Worktree, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = worktree(store)
    (where / "late").write_text("x")
    real = os.open

    def swapping(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if path == "late" and not flags & os.O_CREAT and not stat.S_ISFIFO((where / "late").lstat().st_mode):
            (where / "late").unlink()
            os.mkfifo(where / "late")
        return real(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swapping)
    shot = store.snapshot(where, parents=[store.base], step="s", message="m")
    assert shot.findings == ("late: left out, it changed its kind while it was read",)


def test_empty_directories_travel_and_never_reach_the_branch(store: Store, worktree: Worktree, repo: object) -> None:
    where = worktree(store)
    (where / "empty/inner").mkdir(parents=True)
    commit = snap(store, where)
    assert (worktree(store, commit) / "empty/inner").is_dir()
    assert store.export(commit, branch="b") == store.base


def test_nesting_deeper_than_the_limit_is_left_out(store: Store, worktree: Worktree) -> None:
    where = worktree(store)
    fd = os.open(where, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    shot = store.snapshot(where, parents=[store.base], step="s", message="m")
    assert [f.rpartition(": ")[2] for f in shot.findings] == ["left out, nested deeper than 200 directories"]
    store.lay(shot.commit, where)


def unsafe(objects: ObjectStore) -> dict[str, bytes]:
    blob = objects.write("blob", b"evil")
    inner = objects.write_tree({b"x": Entry(FILE, blob)})
    deep = inner
    for _ in range(250):
        deep = objects.write_tree({b"d": Entry(DIRECTORY, deep)})
    return {
        "climbs": objects.write_tree({b"../evil": Entry(FILE, blob)}),
        "dots": objects.write_tree({b"..": Entry(DIRECTORY, inner)}),
        "git": objects.write_tree({b".git": Entry(DIRECTORY, inner)}),
        "link": objects.write_tree({b"GIT~1": Entry(SYMLINK, blob)}),
        "module": objects.write_tree({b".git": Entry(GITLINK, blob)}),
        "device": objects.write_tree({b"tty": Entry(0o020000, blob)}),
        "deep": deep,
    }


@pytest.mark.parametrize("which", ["climbs", "dots", "git", "link", "module", "device", "deep"])
def test_a_hostile_commit_is_refused_before_it_is_written(which: str, store: Store, worktree: Worktree) -> None:
    commit = store._history.commit(unsafe(store._objects)[which], [], "evil").hex()
    where = worktree(store)
    with pytest.raises(WorkspaceError) as caught:
        store.lay(commit, where)
    assert caught.value.code == "unsafe"
    assert not (where.parent / "evil").exists()


def test_files_get_their_owner_when_they_are_made(
    repo: object, open_store: Callable[..., Store], worktree: Worktree
) -> None:
    store = open_store(repo.path, owner=(1234, 4321))  # type: ignore[attr-defined]
    where = worktree(store)
    (where / "link").symlink_to("a.txt")
    store.lay(snap(store, where), where)
    seen = {(p.lstat().st_uid, p.lstat().st_gid) for p in (where, *where.rglob("*"))}
    assert seen == {(1234, 4321)}


def test_permissions_do_not_depend_on_our_umask(store: Store, worktree: Worktree) -> None:
    old = os.umask(0o077)
    try:
        where = worktree(store)
    finally:
        os.umask(old)
    assert {oct(stat.S_IMODE(p.stat().st_mode)) for p in where.rglob("*")} == {"0o644", "0o755"}
