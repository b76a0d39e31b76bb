from __future__ import annotations

import errno
import os
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest

from workflowmaster.blocks.objectstore import LARGE, ObjectStore, WorkspaceError, disk_errors
from workflowmaster.blocks.trees import EMPTY_TREE, EXECUTABLE, FILE, Entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workflowmaster.blocks.workspace import Store

# A child process streams a file in and out and prints by how many MiB its peak memory rose.
STREAM = """
import os, resource, sys
from pathlib import Path
from workflowmaster.blocks.objectstore import ObjectStore
store = ObjectStore.create(Path(sys.argv[1]) / "s.git", alternate=None)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
source = os.open(sys.argv[2], os.O_RDONLY)
oid = store.write_file(source, os.fstat(source).st_size)
target = os.open(sys.argv[2] + ".out", os.O_CREAT | os.O_WRONLY)
store.copy_to(oid, target)
print(oid.hex(), peak() - before)
"""


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore.create(tmp_path / "s.git", alternate=None)


def git_id(path: Path) -> str:
    return subprocess.run(["git", "hash-object", path], capture_output=True, check=True, text=True).stdout.strip()


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, LARGE + 12345])
@pytest.mark.parametrize("pattern", [b"\0", b"compressible text ", None])
def test_git_reads_what_we_write(objects: ObjectStore, tmp_path: Path, size: int, pattern: bytes | None) -> None:
    content = os.urandom(size) if pattern is None else (pattern * (size // len(pattern) + 1))[:size]
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(content)
    with source.open("rb") as file:
        oid = objects.write_file(file.fileno(), size)
    assert oid.hex() == git_id(source)
    with target.open("wb") as file:
        objects.copy_to(oid, file.fileno())
    assert target.read_bytes() == content
    assert objects.size(oid) == size
    read = subprocess.run(["git", "cat-file", "blob", oid.hex()], cwd=objects.git_dir, capture_output=True, check=True)
    assert read.stdout == content


@pytest.mark.parametrize("zeros", [True, False])
def test_a_hundred_megabytes_do_not_stand_in_memory(tmp_path: Path, zeros: bool) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        for _ in range(105):
            file.write(bytes(1 << 20) if zeros else os.urandom(1 << 20))
    done = subprocess.run([sys.executable, "-c", STREAM, tmp_path, big], capture_output=True, check=True, text=True)
    oid, rise = done.stdout.split()
    assert oid == git_id(big) == git_id(tmp_path / "big.out")
    assert int(rise) < 20


def test_a_file_that_shrinks_while_it_is_read_is_an_error(objects: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * LARGE)
    with (tmp_path / "in").open("rb") as file, pytest.raises(WorkspaceError, match="lost 10 bytes"):
        objects.write_file(file.fileno(), LARGE + 10)
    assert [p.name for p in objects.objects.iterdir() if p.name.startswith("incoming")] == []


def test_a_file_that_grows_while_it_is_read_is_taken_whole(objects: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * 100)
    with (tmp_path / "in").open("rb") as file:
        assert objects.read(objects.write_file(file.fileno(), 40)) == b"x" * 100


def test_what_the_user_holds_without_needing_it_is_written_all_the_same(
    repo: object, open_store: Callable[..., Store]
) -> None:
    # A dangling blob of his looks like ours and is gone after his next gc.
    store = open_store(repo.path)  # type: ignore[attr-defined]
    oid = repo.git("hash-object", "-w", "--stdin", stdin=b"dangling").strip()  # type: ignore[attr-defined]
    assert store._objects.holds(bytes.fromhex(oid))
    assert store._objects.write("blob", b"dangling").hex() == oid
    repo.git("prune", "--expire=now")  # type: ignore[attr-defined]
    assert store._objects.read(bytes.fromhex(oid)) == b"dangling"


def test_an_object_that_is_gone_says_what_to_do(objects: ObjectStore) -> None:
    with pytest.raises(WorkspaceError, match="start the workflow again") as caught:
        objects.read(b"\1" * 20)
    assert caught.value.code == "base"


def test_a_damaged_large_object_is_an_error_and_not_a_hang(objects: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(os.urandom(LARGE))
    with (tmp_path / "in").open("rb") as file:
        oid = objects.write_file(file.fileno(), LARGE)
    path = objects.loose_path(oid)
    assert path is not None
    os.truncate(path, LARGE // 2)
    with (tmp_path / "out").open("wb") as file, pytest.raises((WorkspaceError, zlib.error)):
        objects.copy_to(oid, file.fileno())


def test_a_half_written_object_of_a_killed_process_is_replaced(objects: ObjectStore) -> None:
    oid = objects.write("blob", b"content")
    path = objects.loose_path(oid)
    assert path is not None
    path.rename(f"{path}.{os.getpid()}")
    objects.write("blob", b"content")
    assert objects.read(oid) == b"content"


def test_edit_sets_removes_and_cleans_up(objects: ObjectStore) -> None:
    blob = Entry(FILE, objects.write("blob", b"x"))
    tree = objects.edit(EMPTY_TREE, {b"a/b/c": blob, b"a/d": blob, b"e": blob})
    assert objects.entry(tree, b"a/b/c") == blob
    assert objects.entry(tree, b"a/b/c/d") is None
    tree = objects.edit(tree, {b"a/b/c": None, b"e": Entry(EXECUTABLE, blob.oid), b"not/there": None})
    assert set(objects.tree(tree)) == {b"a", b"e"}
    assert objects.entry(tree, b"a/b") is None
    assert objects.edit(tree, {b"a/d": None, b"e": None}) == EMPTY_TREE


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_so(number: int) -> None:
    with pytest.raises(WorkspaceError, match="No space left while writing /state") as caught, disk_errors("/state"):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == "disk"


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors("/state"):
        (tmp_path / "none").read_bytes()


def test_a_real_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting needs root")
    try:
        objects = ObjectStore.create(small / "s.git", alternate=None)
        with pytest.raises(WorkspaceError, match="No space left"), disk_errors("the store"):
            objects.write("blob", os.urandom(1 << 20))
        objects.write("blob", b"after the failure")
    finally:
        subprocess.run(["umount", small], check=True)
