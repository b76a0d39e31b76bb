"""Results laid over a tree, and declared files read from one, as the strict policies do it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from workflowmaster.blocks import layering
from workflowmaster.blocks.layering import LARGEST_INPUT, overlay, read, tree_of
from workflowmaster.blocks.workspace import WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workflowmaster.blocks.workspace import Snapshot, Store

BASE = {
    "a.txt": "one\n",
    "src/main.py": "print(1)\n",
    "src/lib/util.py": "x = 1\n",
    "data/one.csv": "1\n",
    "data/deep/two.csv": "2\n",
    ".gitignore": "*.log\n",
}


@pytest.fixture
def start(store: Store, step: Callable[..., str]) -> str:
    """The commit of a workspace with some folders."""
    return step(store, store.base, "start", {**BASE, "a.txt": "one\n"})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The host's side of `/out`."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def over(
    store: Store, start: str, out: Path, worktree: Callable[..., Path], contents: Callable[..., object]
) -> Callable:
    """Lay `out` over the start; return the snapshot and what the new tree holds."""

    def lay(**options: object) -> tuple[Snapshot, dict[bytes, tuple[object, ...]]]:
        taken = overlay(store, start, out, step="s", message="Do s", **options)
        assert tree_of(store, taken.commit) == taken.tree
        return taken, contents(worktree(store, taken.commit))

    return lay


def test_files_are_added_and_replaced_and_the_rest_stays(over: Callable, out: Path, put: Callable[..., Path]) -> None:
    put(out, "workspace/a.txt", "two\n")
    put(out, "workspace/src/lib/new.py", "y = 2\n").chmod(0o755)
    put(out, "outputs", "not part of the layer")
    taken, held = over()
    assert taken.changed
    assert held[b"a.txt"] == ("file", False, b"two\n")
    assert held[b"src/lib/new.py"] == ("file", True, b"y = 2\n")
    assert held[b"src/lib/util.py"] == ("file", False, b"x = 1\n")
    assert b"outputs" not in held
    assert taken.bytes_added == len("two\ny = 2\n")


def test_a_file_takes_the_place_of_a_folder_and_a_folder_that_of_a_file(
    over: Callable, out: Path, put: Callable[..., Path]
) -> None:
    put(out, "workspace/src", "now a file\n")
    put(out, "workspace/a.txt/inside", "now a folder\n")
    _, held = over()
    assert held[b"src"] == ("file", False, b"now a file\n")
    assert held[b"a.txt/inside"] == ("file", False, b"now a folder\n")
    assert b"src/main.py" not in held


def test_a_symlink_is_laid_as_one_and_never_followed(
    over: Callable, out: Path, put: Callable[..., Path], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    put(victim, "main.py", "precious\n")
    (out / "workspace").mkdir()
    (out / "workspace/src").symlink_to(victim)
    (out / "workspace/a.txt").symlink_to("/etc/passwd")
    _, held = over()
    links = {name: os.fsencode(held[name][1]) for name in (b"src", b"a.txt") if held[name][0] == "link"}
    assert links == {b"src": os.fsencode(victim), b"a.txt": b"/etc/passwd"}
    assert (victim / "main.py").read_text() == "precious\n"


def test_a_folder_takes_the_place_of_a_symlink_below(
    store: Store,
    step: Callable[..., str],
    start: str,
    out: Path,
    put: Callable[..., Path],
    worktree: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The tree below has a link to a folder outside; the layer puts files where the link stands."""
    victim = tmp_path / "victim"
    victim.mkdir()
    where = worktree(store, start)
    (where / "evil").symlink_to(victim)
    below = store.snapshot(where, parents=[start], step="link", message="link").commit
    put(out, "workspace/evil/file", "x")
    taken = overlay(store, below, out, step="s", message="Do s")
    assert (worktree(store, taken.commit) / "evil/file").read_text() == "x"
    assert list(victim.iterdir()) == []


def test_a_nested_git_folder_is_dropped_and_said(over: Callable, out: Path, put: Callable[..., Path]) -> None:
    put(out, "workspace/sub/.git/config", "[core]\n\tfsmonitor = evil\n")
    put(out, "workspace/.GIT/hooks/pre-commit", "evil")
    put(out, "workspace/sub/file", "kept\n")
    taken, held = over()
    assert held[b"sub/file"] == ("file", False, b"kept\n")
    assert not [name for name in held if b"git/" in name.lower()]
    assert [finding.split(":")[0] for finding in taken.findings] == [".GIT", "sub/.git"]


def test_what_no_tree_can_hold_is_left_out_and_said(over: Callable, out: Path, put: Callable[..., Path]) -> None:
    put(out, "workspace/ok", "x")
    os.mkfifo(out / "workspace/pipe")
    taken, held = over()
    assert set(held) >= {b"ok"}
    assert b"pipe" not in held
    assert taken.findings == ("pipe: left out, a FIFO",)


def test_what_is_replanted_has_the_tree_of_one_and_follows_another(
    over: Callable, store: Store, start: str, out: Path, put: Callable[..., Path]
) -> None:
    put(out, "workspace/a.txt", "first\n")
    first, _ = over()
    put(out, "workspace/a.txt", "second\n")
    second = overlay(store, first.commit, out, step="s", message="Do s")
    found = layering.replanted(store, second.commit, start)
    made, original = store._objects.repo[found], store._objects.repo[second.commit]
    assert (tree_of(store, found), made.message) == (second.tree, original.message)
    assert [str(parent.id) for parent in made.parents] == [start]
    assert layering.replanted(store, second.commit, second.commit) == second.commit


def test_without_a_layer_nothing_changes(over: Callable, store: Store, start: str, out: Path) -> None:
    taken, _ = over()
    assert (taken.commit, taken.changed, taken.findings) == (start, False, ())
    (out / "workspace").mkdir()
    assert over()[0].commit == start, "an empty layer changes nothing either"


@pytest.mark.parametrize("kind", ["symlink", "file", "FIFO"])
def test_a_layer_that_is_no_folder_is_left_out_and_said(
    over: Callable, start: str, out: Path, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/passwd").write_text("stolen")
    layer = out / "workspace"
    {
        "symlink": lambda: layer.symlink_to(tmp_path / "elsewhere"),
        "file": layer.touch,
        "FIFO": lambda: os.mkfifo(layer),
    }[kind]()
    taken, held = over()
    assert taken.commit == start
    assert b"passwd" not in held
    assert len(taken.findings) == 1
    assert taken.findings[0].startswith("/out/workspace: left out, it is no directory")


def test_the_same_layer_changes_nothing(over: Callable, start: str, out: Path, put: Callable[..., Path]) -> None:
    put(out, "workspace/src/main.py", "print(1)\n")
    assert over()[0].commit == start


def test_names_of_any_bytes_come_through(over: Callable, out: Path) -> None:
    (out / "workspace").mkdir()
    name = b"\xff\xfe\n -rf \\"
    (out / "workspace" / os.fsdecode(name)).write_bytes(b"x")
    assert over()[1][name] == ("file", False, b"x")


def test_a_layer_above_the_policys_cap_is_refused(over: Callable, out: Path, put: Callable[..., Path]) -> None:
    put(out, "workspace/a", "x" * 600)
    put(out, "workspace/b", "y" * 600)
    assert over(cap=1200)[0].changed
    with pytest.raises(WorkspaceError) as caught:
        over(cap=1199)
    assert caught.value.code == "size"


def test_a_full_disk_is_not_taken_for_a_missing_layer(
    over: Callable, out: Path, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(out, "workspace/a", "x")

    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layering.Scan, "run", full)
    with pytest.raises(WorkspaceError) as caught:
        over()
    assert caught.value.code == "disk"


# --- declared inputs ---


@pytest.mark.parametrize(
    ("globs", "found"),
    [
        (["a.txt"], ["a.txt"]),
        (["./a.txt"], ["a.txt"]),
        (["*.txt"], ["a.txt"]),
        (["data/*.csv"], ["data/one.csv"]),
        (["data/**/*.csv", "data/*.csv"], ["data/deep/two.csv", "data/one.csv"]),
        (["**/*.csv"], ["data/deep/two.csv", "data/one.csv"]),
        (["data"], ["data/deep/two.csv", "data/one.csv"]),
        (["data/"], ["data/deep/two.csv", "data/one.csv"]),
        (["data/*"], ["data/deep/two.csv", "data/one.csv"]),
        (["src/ma?n.py", "src/[l]ib"], ["src/lib/util.py", "src/main.py"]),
        ([], []),
    ],
)
def test_globs_name_files_from_the_top(store: Store, start: str, globs: list[str], found: list[str]) -> None:
    assert [path for path, _, _ in read(store, start, globs)] == found


def test_what_is_read_is_the_content_and_whether_it_runs(
    store: Store, start: str, worktree: Callable[..., Path]
) -> None:
    where = worktree(store, start)
    (where / "tool").write_bytes(b"#!/bin/sh\n\xff")
    (where / "tool").chmod(0o755)
    (where / "link").symlink_to("a.txt")
    commit = store.snapshot(where, parents=[start], step="s", message="m").commit
    assert list(read(store, commit, ["tool", "a.txt"])) == [
        ("a.txt", b"one\n", False),
        ("tool", b"#!/bin/sh\n\xff", True),
    ]
    with pytest.raises(WorkspaceError) as caught:
        list(read(store, commit, ["link"]))
    assert caught.value.code == "inputs"


@pytest.mark.parametrize(
    ("globs", "named"),
    [(["none.csv"], "none.csv"), (["a.txt", "nope/*"], "nope/*"), (["*.csv"], "*.csv"), (["[a"], "[a")],
)
def test_a_glob_that_gives_nothing_is_an_error_that_names_it(
    store: Store, start: str, globs: list[str], named: str
) -> None:
    with pytest.raises(WorkspaceError) as caught:
        list(read(store, start, globs))
    assert caught.value.code == "inputs"
    assert named in str(caught.value)


def test_a_large_file_is_refused_by_name(
    store: Store, start: str, step: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layering, "LARGEST_INPUT", 10)
    commit = step(store, start, "big", {"data/big.bin": "x" * 11, "data/fits.bin": "x" * 10})
    assert [path for path, _, _ in read(store, commit, ["data/fits.bin"])] == ["data/fits.bin"]
    with pytest.raises(WorkspaceError, match=r"data/big\.bin is larger than 10 bytes") as caught:
        list(read(store, commit, ["data/*.bin"]))
    assert caught.value.code == "size"
    assert LARGEST_INPUT == 64 * 1024**2


@pytest.mark.parametrize("most", [(2, 1000), (1000, 25)], ids=["files", "bytes"])
def test_inputs_have_a_cap_on_number_and_sum(
    store: Store, start: str, step: Callable[..., str], most: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layering, "MOST_INPUTS", most)
    commit = step(store, start, "many", {f"data/{n}": "x" * 10 for n in range(3)})
    assert len(list(read(store, commit, ["data/0", "data/1"]))) == 2
    with pytest.raises(WorkspaceError, match=r"the step's inputs are more than .* \(the last one: data/2\)") as caught:
        list(read(store, commit, ["data"]))
    assert caught.value.code == "size"
