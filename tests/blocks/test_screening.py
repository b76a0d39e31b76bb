"""A secret in what a step left is found before any of it is stored, and what was there before is not held against it."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from workflowmaster.blocks.masking import Masker
from workflowmaster.blocks.screening import Screen
from workflowmaster.blocks.workspace import Store, WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE = b"s3cr3t/t0ken-9f1c"
SCREEN = Screen(Masker({"TOKEN": VALUE, "OTHER": b"another-one"}))
MOST = 1 << 30


def snapshot(store: Store, where: Path, screen: Screen | None = SCREEN) -> str:
    return store.snapshot(where, parents=[store.base], step="s", message="m", screen=screen).commit


def objects(store: Store) -> bytes:
    """Everything in a store's own object files, unpacked."""
    found = [path.read_bytes() for path in (store.folder / "store.git/objects").rglob("*") if path.is_file()]
    listed = ["git", "-C", store.folder / "store.git", "cat-file", "--batch-all-objects", "--batch"]
    done = subprocess.run(listed, capture_output=True, check=True)
    return b"".join([*found, done.stdout])


WRITES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a new file": ("config.txt", lambda top: (top / "config.txt").write_bytes(b"token = " + VALUE)),
    "base64": ("deep/er/a.txt", lambda top: put(top, "deep/er/a.txt", base64.b64encode(b"x" + VALUE))),
    "a file that was there": ("a.txt", lambda top: (top / "a.txt").write_bytes(b"one\n" + VALUE)),
    "an ignored file": (".venv/x", lambda top: put(top, ".venv/x", VALUE)),
    "a large file": ("large", lambda top: put(top, "large", bytes(5 << 20) + VALUE + bytes(100))),
    "over a read's border": ("border", lambda top: put(top, "border", bytes((1 << 18) - 5) + VALUE)),
    "at the very end": ("end", lambda top: put(top, "end", b"x" * 99 + VALUE)),
    "a nested repository": ("sub/x", lambda top: (put(top, "sub/.git/HEAD", b"x"), put(top, "sub/x", VALUE))),
    "a link's target": ("the target of link", lambda top: (top / "link").symlink_to(os.fsdecode(b"/" + VALUE))),
    "a file's name": ("the name of ***", lambda top: put(top, VALUE.decode(), b"")),
    "a folder's name": ("the name of another ***/x", lambda top: put(top, "another another-one/x", b"")),
}


def put(top: Path, name: str, data: bytes) -> None:
    (top / name).parent.mkdir(parents=True, exist_ok=True)
    (top / name).write_bytes(data)


@pytest.mark.parametrize(("named", "write"), WRITES.values(), ids=WRITES)
def test_it_is_refused_and_nothing_is_stored(
    store: Store, worktree: Callable[..., Path], named: str, write: Callable[[Path], object]
) -> None:
    where = worktree(store)
    put(where, "innocent.txt", b"innocent")
    write(where)
    with pytest.raises(WorkspaceError) as refused:
        snapshot(store, where)
    assert refused.value.code == "secret"
    assert f"or a form of it, into {named}, so nothing" in str(refused.value)
    assert SCREEN.masker.found(str(refused.value).encode() + repr(refused.value.files).encode()) == frozenset()
    assert SCREEN.masker.found(objects(store)) == frozenset()
    assert b"innocent" not in objects(store)
    assert snapshot(store, where, None) != store.base, "without a screen it is a snapshot like any other"


@pytest.mark.parametrize(("named", "write"), WRITES.values(), ids=WRITES)
def test_the_same_in_a_folder_of_results(tmp_path: Path, named: str, write: Callable[[Path], object]) -> None:
    write(tmp_path)
    with pytest.raises(WorkspaceError) as refused:
        SCREEN.folder(tmp_path, "/out", MOST)
    path = named.removeprefix("the name of ").removeprefix("the target of ").split("/")[0]
    assert f"/out/{path}" in str(refused.value)
    assert SCREEN.masker.found(str(refused.value).encode()) == frozenset()


def test_what_was_there_before_and_has_not_changed_is_no_ones_fault(repo, open_store, worktree) -> None:
    repo.commit({"config.txt": VALUE.decode(), VALUE.decode(): "name", "notes": "x"})
    (repo.path / "link").symlink_to(os.fsdecode(VALUE))
    repo.commit({})
    store = open_store(repo.path)
    where = worktree(store)
    os.utime(where / "config.txt")
    assert snapshot(store, where) == store.base
    (where / "notes").write_text("changed")
    # A directory that this process has not laid is read from its beginning.
    again = open_store(repo.path)
    assert snapshot(again, where) != again.base
    (where / "config.txt").write_bytes(VALUE + b" more")
    with pytest.raises(WorkspaceError, match=r"config\.txt"):
        snapshot(again, where)


def test_after_a_refusal_the_directory_is_laid_anew(store: Store, worktree: Callable[..., Path]) -> None:
    where = worktree(store)
    put(where, "config.txt", VALUE)
    with pytest.raises(WorkspaceError):
        snapshot(store, where)
    store.lay(store.base, where)
    assert not (where / "config.txt").exists()
    assert snapshot(store, where) == store.base


def test_innocent_folders_pass_whatever_is_in_them(tmp_path: Path) -> None:
    put(tmp_path, "a/b/c", random.Random(1).randbytes(1 << 20))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "locked").mkdir(mode=0)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    SCREEN.folder(tmp_path, "/out", 1 << 25)


def test_what_is_compressed_is_not_seen(tmp_path: Path) -> None:
    """Said in docs/secrets.md; if this ever fails, say something else there."""
    put(tmp_path, "packed", zlib.compress(VALUE * 3))
    put(tmp_path, "wide", VALUE.decode().encode("utf-16-le"))
    SCREEN.folder(tmp_path, "/out", MOST)


def test_a_reading_leaves_the_offset_alone(tmp_path: Path) -> None:
    put(tmp_path, "a", b"0123456789" + VALUE)
    with (tmp_path / "a").open("rb") as file:
        file.seek(4)
        assert SCREEN.content(file.fileno()) == {"TOKEN"}
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 4
