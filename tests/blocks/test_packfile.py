from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest

from workflowmaster.blocks import packfile
from workflowmaster.blocks.objectstore import ObjectStore
from workflowmaster.blocks.packfile import FEW, PackWriter

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def objects(own_home, tmp_path: Path) -> ObjectStore:
    return ObjectStore.create(tmp_path / "s.git", alternate=None)


def packs(objects: ObjectStore) -> list[Path]:
    return sorted((objects.objects / "pack").iterdir())


@pytest.mark.parametrize("size", [0, 1, 15, 16, 2047, 2048, 300_000])
def test_git_verifies_and_reads_it(objects: ObjectStore, size: int) -> None:
    with objects.bulk():
        oids = [objects.write("blob", bytes([n]) * size + b"%d" % n) for n in range(FEW + 1)]
    pack, index = (next(p for p in packs(objects) if p.suffix == s) for s in (".pack", ".idx"))
    subprocess.run(["git", "verify-pack", index], check=True)
    remade = subprocess.run(
        ["git", "index-pack", "-o", objects.git_dir / "remade.idx", pack], capture_output=True, check=True
    )
    assert remade.stdout.strip().decode() == pack.read_bytes()[-20:].hex()
    assert (objects.git_dir / "remade.idx").read_bytes() == index.read_bytes()
    assert [objects.read(o) for o in oids] == [bytes([n]) * size + b"%d" % n for n in range(FEW + 1)]


def test_few_objects_become_files(objects: ObjectStore) -> None:
    with objects.bulk():
        oids = [objects.write("blob", b"%d" % n) for n in range(FEW)]
        assert objects.loose_path(oids[0]) is None
    assert packs(objects) == []
    assert all(objects.loose_path(o) for o in oids)


def test_equal_objects_are_taken_once(objects: ObjectStore) -> None:
    with objects.bulk():
        for _ in range(2):
            for n in range(FEW * 2):
                objects.write("blob", b"%d" % n)
    listed = subprocess.run(
        ["git", "count-objects", "-v"], cwd=objects.git_dir, capture_output=True, check=True, text=True
    ).stdout
    assert f"in-pack: {FEW * 2}" in listed.splitlines()


@pytest.mark.parametrize("count", [3, FEW * 2])
def test_after_an_error_nothing_is_there(objects: ObjectStore, count: int) -> None:
    def fail() -> None:
        with objects.bulk():
            for n in range(count):
                objects.write("blob", b"%d" % n)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert packs(objects) == []
    assert not objects.holds(hashlib.sha1(b"blob 1\x000").digest())
    assert objects.read(objects.write("blob", b"0")) == b"0"


def test_a_pack_that_grows_too_large_is_followed_by_another(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packfile, "LIMIT", 2_000)
    with objects.bulk():
        oids = [objects.write("blob", b"%d" % n * 10) for n in range(FEW * 10)]
    assert len([p for p in packs(objects) if p.suffix == ".pack"]) > 1
    assert all(objects.read(o) for o in oids)


def test_a_discarded_pack_leaves_nothing(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path)
    writer.add(b"\0" * 20, "blob", b"x")
    writer.discard()
    assert list(tmp_path.iterdir()) == []
