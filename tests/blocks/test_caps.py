from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workflowmaster.blocks.workspace import Caps, Snapshot, Store

Worktree = Callable[..., Path]

FILES = {
    ".venv/lib/a.so": "x" * 3000,
    ".venv/__pycache__/a.pyc": "x" * 500,
    "src/main.pyc": "x" * 200,
    "build.pyc": "x" * 100,
    "data.csv": "x" * 9000,
}


@pytest.fixture
def taken(store: Store, worktree: Worktree, put) -> Callable[[Caps], tuple[Snapshot, set[str]]]:
    def take(caps: Caps) -> tuple[Snapshot, set[str]]:
        where = worktree(store)
        for name, content in FILES.items():
            put(where, name, content)
        shot = store.snapshot(where, parents=[store.base], step="s", message="m", caps=caps)
        fresh = worktree(store, shot.commit)
        return shot, {n for n in FILES if (fresh / n).exists()}

    return take


def test_everything_travels_below_the_cap(taken) -> None:
    shot, names = taken(Caps())
    assert names == set(FILES)
    assert shot.findings == ()


@pytest.mark.parametrize(
    ("caps", "gone"),
    [
        (Caps(ignored_bytes=3800), set()),
        (Caps(ignored_bytes=3799), {".venv/lib/a.so", ".venv/__pycache__/a.pyc"}),
        (Caps(ignored_bytes=250), {".venv/lib/a.so", ".venv/__pycache__/a.pyc", "src/main.pyc"}),
        (Caps(ignored_bytes=0), {".venv/lib/a.so", ".venv/__pycache__/a.pyc", "src/main.pyc", "build.pyc"}),
        (Caps(ignored_bytes=3600, kept=(".venv/",)), {"src/main.pyc"}),
        (Caps(dropped=("__pycache__/",)), {".venv/__pycache__/a.pyc"}),
        (Caps(dropped=("*.pyc",)), {".venv/__pycache__/a.pyc", "src/main.pyc", "build.pyc"}),
        (Caps(dropped=(".venv",)), {".venv/lib/a.so", ".venv/__pycache__/a.pyc"}),
        (Caps(dropped=("data.csv", "*.csv")), set()),
        (Caps(ignored_bytes=3300, dropped=("__pycache__/",)), set(FILES) & {".venv/__pycache__/a.pyc"}),
    ],
)
def test_whole_ignored_folders_go_largest_first_and_the_project_never(taken, caps: Caps, gone: set[str]) -> None:
    shot, names = taken(caps)
    assert names == set(FILES) - gone
    assert bool(shot.findings) is bool(gone)


def test_each_dropped_path_is_a_finding(taken) -> None:
    shot, _ = taken(Caps(ignored_bytes=250, dropped=("build.pyc",)))
    assert shot.findings == (
        ".venv: left out, ignored, and above the cap of 250 bytes",
        "build.pyc: left out, matches `dropped`",
    )


def test_what_the_base_holds_is_never_dropped(repo, open_store, worktree: Worktree) -> None:
    repo.write({".venv/tracked": "x" * 1000})
    repo.git("add", "-f", ".venv/tracked")
    repo.commit()
    store = open_store(repo.path)
    where = worktree(store)
    (where / ".venv/tracked").write_text("y" * 2000)
    (where / ".venv/loose").write_text("y" * 10)
    shot = store.snapshot(
        where, parents=[store.base], step="s", message="m", caps=Caps(ignored_bytes=0, dropped=("*",))
    )
    assert {p.name for p in (worktree(store, shot.commit) / ".venv").iterdir()} == {"tracked"}


def test_a_reused_directory_loses_what_was_dropped(store: Store, worktree: Worktree, put) -> None:
    where = worktree(store)
    put(where, ".venv/lib", "x" * 100)
    shot = store.snapshot(where, parents=[store.base], step="s", message="m", caps=Caps(ignored_bytes=0))
    assert shot.commit == store.base
    store.switch(where, shot.commit, shot.commit)
    assert not (where / ".venv").exists()
