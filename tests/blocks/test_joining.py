"""Merging of steps: `joining` (trees) and `history` (commits)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflowmaster.blocks.ignore import rules_from
from workflowmaster.blocks.joining import Join
from workflowmaster.blocks.trees import EMPTY_TREE, FILE, Entry
from workflowmaster.blocks.workspace import MergeConflict, Store

Step = Callable[..., str]
Worktree = Callable[..., Path]
Reader = Callable[[Path], dict[bytes, tuple[object, ...]]]

TEXT = "one\ntwo\nthree\nfour\nfive\n"


def text(**changed: str) -> str:
    return "".join(changed.get(line, line) + "\n" for line in TEXT.split())


def test_nothing_gives_the_base_and_one_gives_itself(store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"new": "x"})
    assert store.merge([], message="m") == store.base
    assert store.merge([("a", a)], message="m") == a
    assert store.merge([("a", a), ("b", a)], message="m") == a


def test_a_step_that_did_nothing_is_no_side(store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"new": "x"})
    assert store.merge([("idle", store.base), ("a", a)], message="m") == a


def test_what_descends_from_all_others_is_the_join(store: Store, step: Step) -> None:
    a = step(store, store.base, "a", {"new": "x"})
    b = step(store, a, "b", {"newer": "x"})
    assert store.merge([("a", a), ("b", b)], message="m") == b


def test_lines_files_modes_links_and_deletions_come_together(store: Store, step: Step, worktree: Worktree) -> None:
    left = worktree(store)
    (left / "a.txt").write_text(text(one="ONE"))
    (left / "src/main.py").chmod(0o755)
    (left / "added/left").parent.mkdir()
    (left / "added/left").write_text("l")
    a = store.snapshot(left, parents=[store.base], step="a", message="a").commit
    right = worktree(store)
    (right / "a.txt").write_text(text(five="FIVE"))
    (right / "src/main.py").write_text("print(2)\n")
    (right / "added").mkdir()
    (right / "added/right").symlink_to("nowhere")
    (right / ".gitignore").unlink()
    b = store.snapshot(right, parents=[store.base], step="b", message="b").commit
    joined = worktree(store, store.merge([("a", a), ("b", b)], message="m"))
    assert (joined / "a.txt").read_text() == text(one="ONE", five="FIVE")
    assert (joined / "src/main.py").read_text() == "print(2)\n"
    assert (joined / "src/main.py").stat().st_mode & 0o100
    assert (joined / "added/left").read_text() == "l"
    assert (joined / "added/right").is_symlink()
    assert not (joined / ".gitignore").exists()


PATHS = ["a", "d/x", "d/y", "d/e/z", ".venv/p", ".venv/q"]
VERSIONS = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(["1\n", "2\n", "3\n"]))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=VERSIONS, ours=VERSIONS, theirs=VERSIONS)
def test_every_path_follows_the_three_way_rule(
    store: Store, before: dict[str, str], ours: dict[str, str], theirs: dict[str, str]
) -> None:
    objects = store._objects

    def tree(files: dict[str, str]) -> bytes:
        return objects.edit(
            EMPTY_TREE, {p.encode(): Entry(FILE, objects.write("blob", t.encode())) for p, t in files.items()}
        )

    join = Join(objects, store._history.project, lambda: rules_from([b".venv/\n"]))
    merged = join.trees(tree(before), tree(ours), tree(theirs))
    wanted, conflicts = {}, set()
    for path in PATHS:
        b, o, t = (side.get(path) for side in (before, ours, theirs))
        result = o if t in (o, b) else t
        if o not in (b, t) and t != b and not path.startswith(".venv"):
            conflicts.add(path.encode())
            result = o
        if result is not None:
            wanted[path] = result
    assert set(join.conflicts) == conflicts
    assert {p: objects.read(e.oid).decode() for p in PATHS if (e := objects.entry(merged, p.encode()))} == wanted


CONFLICTS: list[tuple[str, dict[str, str | bytes | None], dict[str, str | bytes | None], str]] = [
    ("same line", {"a.txt": text(two="a")}, {"a.txt": text(two="b")}, "a.txt"),
    ("both add", {"new": "a"}, {"new": "b"}, "new"),
    ("binary", {"a.txt": b"\0a"}, {"a.txt": b"\0b"}, "a.txt"),
    ("edit and delete", {"a.txt": "edited"}, {"a.txt": None}, "a.txt"),
    ("delete and edit", {"src/main.py": None}, {"src/main.py": "edited"}, "src/main.py"),
    ("file and folder", {"thing": "x"}, {"thing/inside": "y"}, "thing"),
    ("folder removed", {"src/main.py": None}, {"src/main.py": "edited", "src/more": "x"}, "src/main.py"),
    ("odd name", {"new\nline": "a"}, {"new\nline": "b"}, "new\\nline"),
]


@pytest.mark.parametrize(("ours", "theirs", "file"), [c[1:] for c in CONFLICTS], ids=[c[0] for c in CONFLICTS])
def test_a_conflict_names_the_file_and_both_steps(
    ours: dict[str, str | bytes | None], theirs: dict[str, str | bytes | None], file: str, store: Store, step: Step
) -> None:
    a = step(store, store.base, "build/3.11", ours)
    b = step(store, store.base, "docs", theirs)
    with pytest.raises(MergeConflict) as caught:
        store.merge([("build/3.11", a), ("docs", b)], message="m")
    assert (caught.value.files, caught.value.ours, caught.value.theirs) == ((file,), "build/3.11", "docs")
    assert str(caught.value).startswith(f"Steps build/3.11 and docs both changed {file}. Let docs need build/3.11")


def test_of_many_steps_the_right_two_are_named(store: Store, step: Step) -> None:
    done = [(f"s{n}", step(store, store.base, f"s{n}", {f"f{n}": "x"})) for n in range(3)]
    done.insert(1, ("guilty", step(store, store.base, "guilty", {"a.txt": text(two="guilty")})))
    done.append(("later", step(store, store.base, "later", {"a.txt": text(two="later")})))
    with pytest.raises(MergeConflict) as caught:
        store.merge(done, message="m")
    assert (caught.value.ours, caught.value.theirs) == ("guilty", "later")


def test_a_folder_that_one_side_removed_goes_if_the_other_left_it_alone(
    store: Store, worktree: Worktree, step: Step
) -> None:
    where = worktree(store)
    (where / "src/main.py").unlink()
    (where / "src").rmdir()
    a = store.snapshot(where, parents=[store.base], step="a", message="a").commit
    b = step(store, store.base, "b", {"other": "x"})
    assert not (worktree(store, store.merge([("a", a), ("b", b)], message="m")) / "src").exists()


def test_a_conflict_over_merged_lines_names_the_last_who_touched_the_file(store: Store, step: Step) -> None:
    sides = [
        (n, step(store, store.base, n, {"a.txt": text(**change), "more": "x" if n == "more" else "same"}))
        for n, change in (("one", {"one": "1"}), ("five", {"five": "5"}), ("clash", {"one": "uno", "five": "cinque"}))
    ]
    with pytest.raises(MergeConflict) as caught:
        store.merge(sides, message="m")
    assert (caught.value.ours, caught.value.theirs, caught.value.files) == ("five", "clash", ("a.txt",))


def test_many_files_in_conflict_are_counted(store: Store, step: Step) -> None:
    sides = [
        ("a", step(store, store.base, "a", {f"f{n:02}": "a" for n in range(12)})),
        ("b", step(store, store.base, "b", {f"f{n:02}": "b" for n in range(12)})),
    ]
    with pytest.raises(MergeConflict, match="f09 and 2 more") as caught:
        store.merge(sides, message="m")
    assert len(caught.value.files) == 12


def test_order_and_time_do_not_change_the_id(repo: object, open_store: Callable[..., Store], step: Step) -> None:
    ids = []
    for name in ("wf-1", "wf-2"):
        store = open_store(repo.path, name)  # type: ignore[attr-defined]
        a = step(store, store.base, "a", {"a": "1"})
        b = step(store, store.base, "b", {"b": "1"})
        ids.append((a, b, store.merge([("a", a), ("b", b)], message="join")))
    assert ids[0] == ids[1]


def test_one_join_is_one_commit_with_a_parent_for_each_step(store: Store, step: Step) -> None:
    sides = [(f"s{n}", step(store, store.base, f"s{n}", {f"f{n}": "x"})) for n in range(8)]
    joined = bytes.fromhex(store.merge(sides, message="Join of eight"))
    assert [p.hex() for p in store._history.parents(joined)] == [c for _, c in sides]
    assert store._history.message(joined) == "Join of eight\n"


def test_steps_joined_twice_in_different_company_meet_again(store: Store, step: Step, worktree: Worktree) -> None:
    # Two best common ancestors: with either one alone as the base, a's or b's line would look like a conflict.
    a = step(store, store.base, "a", {"a.txt": text(one="A")})
    b = step(store, store.base, "b", {"a.txt": text(five="B")})
    e = step(store, store.base, "e", {"e": "x"})
    left = store.merge([("a", a), ("b", b)], message="left")
    right = store.merge([("a", a), ("e", e), ("b", b)], message="right")
    c = step(store, left, "c", {"a.txt": text(one="A2", five="B")})
    d = step(store, right, "d", {"a.txt": text(one="A", five="B2")})
    joined = worktree(store, store.merge([("c", c), ("d", d)], message="m"))
    assert (joined / "a.txt").read_text() == text(one="A2", five="B2")


def test_ignored_files_of_the_later_step_win_with_a_finding(store: Store, step: Step, worktree: Worktree) -> None:
    files = {".venv/same": "x", ".venv/both": "a", ".venv/lines": TEXT, ".venv/left": "l", "src/m.pyc": "a"}
    a = step(store, store.base, "a", files)
    b = step(store, store.base, "b", {**files, ".venv/both": "b", "src/m.pyc": "b", ".venv/right": "r"})
    joined = worktree(store, store.merge([("a", a), ("b", b)], message="m"))
    assert (joined / ".venv/both").read_text() == (joined / "src/m.pyc").read_text() == "b"
    assert {p.name for p in (joined / ".venv").iterdir()} == {"same", "both", "lines", "left", "right"}
    assert store.findings == (".venv/both, src/m.pyc: ignored files that several steps changed, taken from b",)
    store.merge([("a", a)], message="m")
    assert store.findings == ()


def test_ignored_files_are_not_merged_by_lines(store: Store, step: Step, worktree: Worktree) -> None:
    a = step(store, store.base, "prepare", {".venv/x": TEXT})
    b = step(store, a, "b", {".venv/x": text(one="B")})
    c = step(store, a, "c", {".venv/x": text(five="C")})
    joined = worktree(store, store.merge([("b", b), ("c", c)], message="m"))
    assert (joined / ".venv/x").read_text() == text(five="C")


def test_a_tracked_file_that_is_ignored_is_still_the_project_s(
    repo: object, open_store: Callable[..., Store], step: Step
) -> None:
    repo.git("add", "-f", repo.path / "a.txt")  # type: ignore[attr-defined]
    repo.commit({".gitignore": "*.txt\n"})  # type: ignore[attr-defined]
    store = open_store(repo.path)  # type: ignore[attr-defined]
    a = step(store, store.base, "a", {"a.txt": "a"})
    b = step(store, store.base, "b", {"a.txt": "b"})
    with pytest.raises(MergeConflict):
        store.merge([("a", a), ("b", b)], message="m")


def test_empty_directories_and_odd_names_survive_a_join(
    store: Store, step: Step, worktree: Worktree, contents: Reader
) -> None:
    left = worktree(store)
    (left / "empty").mkdir()
    (left / "src/main.py").write_text("1")
    (left / "src" / os.fsdecode(b"\xff")).write_bytes(b"x")
    a = store.snapshot(left, parents=[store.base], step="a", message="a").commit
    b = step(store, store.base, "b", {"src/other": "x"})
    joined = contents(worktree(store, store.merge([("a", a), ("b", b)], message="m")))
    assert joined[b"empty"] == ("dir",)
    assert joined[b"src/\xff"] == ("file", False, b"x")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (text(one="A"), text(five="B")),
        (text(one="A") + "end\n", text(three="B")),
        (text(two="same"), text(two="same", five="B")),
        ("start\n" + TEXT, TEXT + "end\n"),
        (text(one="A"), text(two="B")),
    ],
)
def test_lines_merge_as_git_merges_them(
    ours: str, theirs: str, store: Store, step: Step, worktree: Worktree, tmp_path: Path
) -> None:
    for name, content in (("ours", ours), ("base", TEXT), ("theirs", theirs)):
        (tmp_path / name).write_text(content)
    said = subprocess.run(
        ["git", "merge-file", "-p", "ours", "base", "theirs"], cwd=tmp_path, capture_output=True, check=False
    )
    a = step(store, store.base, "a", {"a.txt": ours})
    b = step(store, store.base, "b", {"a.txt": theirs})
    if said.returncode:
        with pytest.raises(MergeConflict):
            store.merge([("a", a), ("b", b)], message="m")
    else:
        joined = worktree(store, store.merge([("a", a), ("b", b)], message="m"))
        assert (joined / "a.txt").read_bytes() == said.stdout
