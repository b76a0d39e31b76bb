"""Folders as tar streams: what comes back is what went, and nothing that a hostile archive says leads outside."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.archive import CHUNK, END, Bounds, gathered, pack, unpack
from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.trees import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOM = Bounds(1 << 20)
TERABYTE = 1 << 40

names = st.binary(min_size=1, max_size=40).filter(lambda n: n not in (b".", b"..") and not set(n) & set(b"/\0"))
trees = st.recursive(
    st.one_of(
        st.binary(max_size=2000),
        st.binary(min_size=1, max_size=300).filter(lambda t: 0 not in t).map(lambda t: ("to", t)),
    ),
    lambda below: st.dictionaries(names, below, max_size=4),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))


def plant(place: bytes, tree: Any) -> None:
    if isinstance(tree, dict):
        os.makedirs(place, exist_ok=True)
        for name, below in tree.items():
            plant(os.path.join(place, name), below)
    elif isinstance(tree, tuple):
        os.symlink(tree[1], place)
    else:
        Path(os.fsdecode(place)).write_bytes(tree)


def harvest(place: bytes) -> Any:
    if os.path.islink(place):
        return "to", os.readlink(place)
    if os.path.isdir(place):
        return {name: harvest(os.path.join(place, name)) for name in os.listdir(place)}
    return Path(os.fsdecode(place)).read_bytes()


def in_pieces(data: bytes, size: int = 700) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@given(trees, st.integers(1, 3000))
def test_what_is_packed_is_unpacked(tree: Any, piece: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder, "here"), Path(folder, "there")
        plant(os.fsencode(here), tree)
        there.mkdir()
        data = b"".join([*pack(here, "workspace", (7, 8)), END])
        assert unpack(in_pieces(data, piece), there, "workspace", ROOM) == ()
        assert harvest(os.fsencode(there)) == tree


def test_the_real_tar_reads_it_and_is_read(tmp_path: Path, contents: Callable[..., Any]) -> None:
    here, there, back = (tmp_path / name for name in ("wm", "there", "back"))
    for place in (here, there, back):
        place.mkdir()
    plant(os.fsencode(here), {b"a": b"one", b"d": {b"\xff\n" + b"x" * 200: b"two", b"l": ("to", b"y" * 300)}})
    (here / "a").chmod(0o751)
    data = b"".join([*pack(here, "wm", (1000, 1001)), END])
    listed = subprocess.run(["tar", "tvf", "-"], input=data, capture_output=True, check=True).stdout
    assert listed.count(b"1000/1001") == len(listed.splitlines()) == 5
    subprocess.run(["tar", "xf", "-", "--no-same-owner", "-C", there], input=data, check=True)
    assert contents(there / "wm") == contents(here)
    again = subprocess.run(["tar", "cf", "-", "-C", there, "wm"], capture_output=True, check=True).stdout
    assert unpack(in_pieces(again), back, "wm", ROOM) == ()
    assert contents(back) == contents(here)
    assert stat.S_IMODE((back / "a").stat().st_mode) == 0o751
    assert int((back / "a").stat().st_mtime) == int((here / "a").stat().st_mtime)


def test_special_files_do_not_travel(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("x")
    with tarfile.open(fileobj=io.BytesIO(b"".join([*pack(tmp_path, "out", (1, 1)), END]))) as found:
        assert found.getnames() == ["out", "out/file"]


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (2 * CHUNK))
    sending = pack(tmp_path, "out", (1, 1))
    for _ in range(3):  # the folder's header, the file's, its first chunk
        next(sending)
    os.truncate(tmp_path / "file", 10)
    with pytest.raises(WorkspaceError, match="out/file became shorter"):
        list(sending)


def test_small_blocks_are_sent_together() -> None:
    assert [len(block) for block in gathered([b"x" * 512] * 1000)] == [CHUNK, 1000 * 512 - CHUNK]
    assert list(gathered([])) == []


# --- what comes back ---


def entry(name: str, kind: bytes = tarfile.REGTYPE, body: bytes = b"", **more: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(body), 0o644
    for field, value in more.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + body + bytes(-len(body) % 512)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    return entry(name, kind, linkname=target)


TOP = entry("out", tarfile.DIRTYPE, mode=0o755)


def taken(folder: Path, *entries: bytes, bounds: Bounds = ROOM) -> tuple[str, ...]:
    return unpack(in_pieces(b"".join([TOP, *entries, END])), folder, "out", bounds)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize(
    "entries",
    [
        [entry("/etc/passwd", body=b"x")],
        [entry("out/../evil", body=b"x")],
        [entry("out//evil", body=b"x")],
        [entry("out/./evil", body=b"x")],
        [entry("evil", body=b"x")],
        [entry("outer/evil", body=b"x")],
        [entry("../out/evil", body=b"x")],
        [entry("out/nowhere/evil", body=b"x")],
        [entry("out/file", body=b"x"), entry("out/file/evil", body=b"x")],
        [link("out/l", ".."), entry("out/l/evil", body=b"x")],
        [link("out/l", "/"), entry("out/l/tmp/evil", body=b"x")],
        [entry("out/d", tarfile.DIRTYPE), link("out/d/l", "../.."), entry("out/d/l/evil", body=b"x")],
        [link("out/h", "../secret", tarfile.LNKTYPE)],
        [link("out/h", "/etc/passwd", tarfile.LNKTYPE)],
        [link("out/h", "secret", tarfile.LNKTYPE)],
    ],
)
def test_no_name_leads_outside(out: Path, entries: list[bytes]) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises(WorkspaceError) as caught:
        taken(out, *entries)
    assert caught.value.code == "unsafe"
    assert sorted(out.parent.iterdir()) == before
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize(
    ("entries", "findings"),
    [
        ([entry("out/f", tarfile.FIFOTYPE)], ["f: left out, a FIFO"]),
        ([entry("out/c", tarfile.CHRTYPE), entry("out/b", tarfile.BLKTYPE)], ["c: left out, a device", "b: left out, a device"]),
        ([entry("out/s", b"S")], ["s: left out, a special file"]),
        ([entry("out/x\n\x1b", tarfile.FIFOTYPE)], [r"x\n\x1b: left out, a FIFO"]),
        ([link("out/h", "out/gone", tarfile.LNKTYPE)], ["h: left out, a hard link to something that was left out"]),
    ],
)  # fmt: skip
def test_what_is_no_file_is_left_out_and_told(out: Path, entries: list[bytes], findings: list[str]) -> None:
    assert list(taken(out, *entries, entry("out/good", body=b"good"))) == findings
    assert harvest(os.fsencode(out)) == {b"good": b"good"}


def test_links_stay_links_and_lead_nowhere(out: Path) -> None:
    assert taken(out, link("out/l", "../secret"), link("out/a", "/etc/passwd"), link("out/loop", "loop")) == ()
    assert harvest(os.fsencode(out)) == {
        b"l": ("to", b"../secret"),
        b"a": ("to", b"/etc/passwd"),
        b"loop": ("to", b"loop"),
    }


def test_hard_links_hold_inside_and_do_not_go_through_links(out: Path) -> None:
    assert taken(out, entry("out/a", body=b"one"), link("out/h", "out/a", tarfile.LNKTYPE)) == ()
    assert (out / "h").samefile(out / "a")
    folder = entry("out/d", tarfile.DIRTYPE), entry("out/d/f", body=b"x"), link("out/l", "d")
    with pytest.raises(WorkspaceError, match="links to out/l/f, which is not inside"):
        taken(out, *folder, link("out/h", "out/l/f", tarfile.LNKTYPE))
    assert taken(out, link("out/l", "../secret"), link("out/h", "out/l", tarfile.LNKTYPE)) == ()
    assert (out / "h").is_symlink(), "a link to a link is that link and not the file behind it"


def test_setuid_bits_stay_behind_and_everything_is_ours_to_read(out: Path) -> None:
    taken(
        out, entry("out/s", body=b"x", mode=0o6755), entry("out/d", tarfile.DIRTYPE, mode=0), entry("out/d/f", mode=0)
    )
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in out.rglob("*")}
    assert modes == {"s": 0o755, "d": 0o700, "f": 0o600}
    assert (out / "s").stat().st_uid == os.geteuid()


def test_what_was_there_is_gone_and_was_not_followed(out: Path) -> None:
    (out / "old").mkdir()
    (out / "old/f").write_text("x")
    (out / "l").symlink_to(out.parent)
    taken(out, entry("out/old", body=b"new"), entry("out/l", body=b"a file now"))
    assert harvest(os.fsencode(out)) == {b"old": b"new", b"l": b"a file now"}
    assert (out.parent / "secret").read_text() == "s3cret"


@pytest.mark.parametrize(
    ("entries", "bounds", "words"),
    [
        ([entry("out/a", body=b"x" * 600), entry("out/b", body=b"x" * 500)], Bounds(1000), "more than 1,000 bytes in /out .*out/b"),
        ([entry(f"out/{n}") for n in range(10)], Bounds(1000, entries=10), "more than 10 names in /out .*out/9"),
        ([entry("out/sparse", size=TERABYTE)], ROOM, "more than 1,048,576 bytes"),
    ],
)  # fmt: skip
def test_bounds_hold(out: Path, entries: list[bytes], bounds: Bounds, words: str) -> None:
    with pytest.raises(WorkspaceError, match=words) as caught:
        taken(out, *entries, bounds=bounds)
    assert caught.value.code == "size"


def test_a_size_is_refused_before_a_byte_of_it_is_read(out: Path) -> None:
    def endless() -> Iterator[bytes]:
        yield TOP + entry("out/sparse", size=TERABYTE)
        while True:
            given.append(1)
            yield bytes(CHUNK)

    given: list[int] = []
    with pytest.raises(WorkspaceError, match="more than"):
        unpack(endless(), out, "out", ROOM)
    assert len(given) < 3


def test_the_same_name_twice_is_an_error(out: Path) -> None:
    with pytest.raises(WorkspaceError, match="out/a stands twice") as caught:
        taken(out, entry("out/a", body=b"1"), entry("out/a", body=b"2"))
    assert caught.value.code == "case"


def test_nesting_has_an_end(out: Path) -> None:
    deep = [entry("out/" + "/".join("d" * n), tarfile.DIRTYPE, mode=0o755) for n in range(1, MAX_DEPTH + 20)]
    (told,) = taken(out, *deep, entry("out/good", body=b"good"))
    assert told.endswith(f"left out, nested deeper than {MAX_DEPTH} directories")
    assert (out / "good").read_text() == "good"


@pytest.mark.parametrize(
    "data",
    [b"no tar at all" * 100, TOP[:300], TOP + entry("out/a", body=b"x" * 5000)[:2000]],
    ids=["no archive", "torn in a header", "torn in a file"],
)
def test_a_torn_archive_is_never_taken_for_a_whole_one(out: Path, data: bytes) -> None:
    with pytest.raises(WorkspaceError, match="cannot be read") as caught:
        unpack(in_pieces(data), out, "out", ROOM)
    assert caught.value.code == "unsafe"


def test_a_folder_that_is_a_link_is_refused(out: Path) -> None:
    (out.parent / "l").symlink_to(out)
    with pytest.raises(WorkspaceError, match="is no directory we can open"):
        taken(out.parent / "l", entry("out/a"))
