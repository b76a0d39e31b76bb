"""What comes out of `/out/artifacts`: plain files with plain names, and a line for everything else."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflowmaster.blocks import artifacts
from workflowmaster.blocks.artifacts import DEEPEST, LONGEST, MOST_FILES, MOST_FINDINGS, Artifact, Taken, take, unfit
from workflowmaster.blocks.globs import MalformedGlobError
from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.workspace import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """The host's side of `/out`, with an empty folder for artifacts."""
    made = tmp_path / "out"
    (made / "artifacts").mkdir(parents=True)
    yield made
    remove_tree(made)


@pytest.fixture
def top(out: Path) -> Path:
    return out / "artifacts"


@pytest.fixture
def taken(out: Path, tmp_path: Path) -> Callable[..., Taken]:
    """Take what is there; nothing may stay open, and only regular files may arrive."""

    def run(**given: Any) -> Taken:
        before = len(os.listdir("/proc/self/fd"))
        done = take(out, tmp_path / "run/step", **given)
        assert len(os.listdir("/proc/self/fd")) == before
        arrived = [path for path in (tmp_path / "run").rglob("*") if not path.is_dir() or path.is_symlink()]
        assert all(stat.S_ISREG(path.lstat().st_mode) and path.lstat().st_nlink == 1 for path in arrived)
        assert sorted(one.name for one in done.artifacts) == sorted(
            str(path.relative_to(tmp_path / "run/step")) for path in arrived
        )
        return done

    return run


def names(done: Taken) -> list[str]:
    return [one.name for one in done.artifacts]


# --- plain files ---


def test_files_are_copied_with_their_folders_sizes_and_sums(
    top: Path, tmp_path: Path, taken: Callable[..., Taken]
) -> None:
    (top / "dist/deep").mkdir(parents=True)
    (top / "dist/deep/x.bin").write_bytes(bytes(range(256)) * 9000)
    (top / "dist/run").write_text("#!/bin/sh\n")
    (top / "dist/run").chmod(0o755)
    (top / "übersicht – 1.txt").write_text("ok")
    done = taken()
    assert (names(done), done.findings) == (["dist/deep/x.bin", "dist/run", "übersicht – 1.txt"], ())
    copied = tmp_path / "run/step/dist/deep/x.bin"
    assert done.artifacts[0] == Artifact(
        name="dist/deep/x.bin", bytes=2_304_000, sha256=hashlib.sha256(copied.read_bytes()).hexdigest()
    )
    assert copied.read_bytes() == bytes(range(256)) * 9000
    modes = [stat.S_IMODE((tmp_path / "run/step" / name).stat().st_mode) for name in names(done)]
    assert modes == [0o644, 0o755, 0o644]
    assert copied.stat().st_uid == os.geteuid()


def test_nothing_there_makes_no_folder(out: Path, tmp_path: Path, taken: Callable[..., Taken]) -> None:
    assert taken() == Taken()
    (out / "artifacts").rmdir()
    assert taken() == Taken()
    assert not (tmp_path / "run/step").exists()


def test_a_later_attempt_takes_the_place_of_an_earlier_one(
    top: Path, tmp_path: Path, taken: Callable[..., Taken]
) -> None:
    (top / "old").write_text("1")
    taken()
    (top / "old").rename(top / "new")
    assert names(taken()) == ["new"]
    (top / "new").unlink()
    assert names(taken()) == []
    assert not (tmp_path / "run/step").exists()


# --- what a step declares ---


@pytest.mark.parametrize(
    ("wanted", "found", "missing"),
    [
        (["*.txt"], ["a.txt"], ()),
        (["**/*.txt"], ["a.txt", "sub/b.txt"], ()),
        (["sub"], ["sub/b.txt", "sub/c.bin"], ()),
        (["./sub/", "a.txt"], ["a.txt", "sub/b.txt", "sub/c.bin"], ()),
        (["a.txt", "*.whl"], ["a.txt"], ("*.whl",)),
        (["nothing"], [], ("nothing",)),
    ],
)
def test_only_what_is_declared_comes_and_what_is_missing_is_named(
    top: Path, taken: Callable[..., Taken], wanted: list[str], found: list[str], missing: tuple[str, ...]
) -> None:
    for name in ("a.txt", "sub/b.txt", "sub/c.bin"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_text(name)
    done = taken(wanted=wanted)
    assert (names(done), done.missing) == (found, missing)
    assert len(done.findings) == 3 - len(found)
    assert all("do not name it" in line for line in done.findings)


def test_a_declared_file_that_was_refused_is_missing(top: Path, taken: Callable[..., Taken]) -> None:
    (top / "report.html").symlink_to("/etc/passwd")
    done = taken(wanted=["report.html"])
    assert done.missing == ("report.html",)
    assert done.findings == ("/out/artifacts/report.html: left out, a symbolic link",)


def test_a_glob_that_is_none_is_an_error(taken: Callable[..., Taken]) -> None:
    with pytest.raises(MalformedGlobError):
        taken(wanted=["[open"])


# --- hostile kinds ---


def make_socket(path: Path) -> None:
    os.chdir(path.parent)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


KINDS = {
    "symlink to a file of the host": (lambda path: path.symlink_to("/etc/passwd"), "a symbolic link"),
    "symlink upwards": (lambda path: path.symlink_to("../../../../etc/passwd"), "a symbolic link"),
    "symlink to a folder": (lambda path: path.symlink_to("/etc"), "a symbolic link"),
    "dangling symlink": (lambda path: path.symlink_to("nowhere"), "a symbolic link"),
    "FIFO": (os.mkfifo, "a FIFO"),
    "socket": (make_socket, "a socket"),
    **(
        {"device": (lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5)), "a device")}
        if os.geteuid() == 0
        else {}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_stays_and_is_named(
    top: Path, taken: Callable[..., Taken], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(top)
    make, words = KINDS[kind]
    make(top / "odd")
    (top / "plain").write_text("fine")
    done = taken()
    assert names(done) == ["plain"]
    assert done.findings == (f"/out/artifacts/odd: left out, {words}",)


def test_a_folder_of_artifacts_that_is_a_link_is_not_followed(
    out: Path, tmp_path: Path, taken: Callable[..., Taken]
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("private")
    (out / "artifacts").rmdir()
    (out / "artifacts").symlink_to(tmp_path / "secret")
    done = taken(wanted=["key"])
    assert (done.artifacts, done.missing) == ((), ("key",))
    assert "it is no directory" in done.findings[0]


def test_setuid_and_its_kin_end_here(top: Path, tmp_path: Path, taken: Callable[..., Taken]) -> None:
    (top / "su").write_text("#!/bin/sh\n")
    (top / "su").chmod(0o6755)
    done = taken()
    assert stat.S_IMODE((tmp_path / "run/step/su").stat().st_mode) == 0o755
    assert done.findings == ("/out/artifacts/su: copied without its setuid, setgid or sticky bit",)


def test_hard_links_become_files_of_their_own(top: Path, tmp_path: Path, taken: Callable[..., Taken]) -> None:
    (top / "one").write_text("same")
    os.link(top / "one", top / "two")
    done = taken()
    assert names(done) == ["one", "two"]
    assert [line.split(": ")[1] for line in done.findings] == [
        "copied as a file of its own; it was one of 2 names of one file"
    ] * 2
    (tmp_path / "run/step/one").write_text("changed")
    assert (tmp_path / "run/step/two").read_text() == "same"


# --- hostile names ---


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b".git", "a form of .git"),
        (b".GIT", "a form of .git"),
        (b"git~1", "a form of .git"),
        (b".git ", "a form of .git"),
        (".g\u200cit".encode(), "characters that do not show"),
        (b"two\nlines", "characters that do not show"),
        (b"\x1b[2Jclear", "characters that do not show"),
        (b"tab\there", "characters that do not show"),
        ("\u202egpj.exe".encode(), "characters that do not show"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_names_that_deceive_stay_and_are_shown_escaped(
    top: Path, taken: Callable[..., Taken], name: bytes, words: str, folder: bool
) -> None:
    path = os.path.join(os.fsencode(top), name)
    if folder:
        os.mkdir(path)
        path = os.path.join(path, b"inside")
    with open(path, "wb") as file:
        file.write(b"x")
    done = taken()
    assert done.artifacts == ()
    assert len(done.findings) == 1
    assert words in done.findings[0]
    assert done.findings[0].isprintable()


@pytest.mark.parametrize("name", ["-rf", "a b", "con", "a:b", "a\\b", "'; rm -rf ~", "$(id)", "日本", "..."])
def test_names_that_are_only_odd_come_as_they_are(top: Path, taken: Callable[..., Taken], name: str) -> None:
    (top / name).write_text("x")
    assert names(taken()) == [name]


def test_a_path_too_long_to_open_stays(top: Path, taken: Callable[..., Taken]) -> None:
    folder = top
    for _ in range(6):
        folder = folder / ("x" * 200)
        folder.mkdir()
        (folder / "f").write_text("x")
    done = taken()
    assert max(len(name) for name in names(done)) <= LONGEST
    assert len(done.artifacts) == 5
    assert "path longer than 1,024 bytes" in done.findings[0]


@given(st.binary(min_size=1, max_size=30))
def test_no_fit_name_leads_anywhere_else(name: bytes) -> None:
    if not unfit(name, name):
        assert name.decode().isprintable()
        assert b"/" not in name
        assert name not in (b".", b"..")
        assert b"\0" not in name


# --- too much ---


@pytest.mark.parametrize("levels", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_thousands_of_folders_deep(top: Path, taken: Callable[..., Taken], levels: int) -> None:
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    (top / "plain").write_text("fine")
    done = taken()
    assert names(done) == ["plain"]
    assert done.findings == (
        "/out/artifacts/" + "/".join("d" * DEEPEST) + ": left out, nested deeper than 32 directories",
    )


@pytest.mark.parametrize("folders", [1, pytest.param(4, marks=pytest.mark.long)])
def test_a_hundred_thousand_files(top: Path, taken: Callable[..., Taken], folders: int) -> None:
    for folder in range(folders):
        (top / str(folder)).mkdir()
        fd = os.open(top / str(folder), os.O_RDONLY)
        for number in range(25_000):
            os.mknod(f"{number}", dir_fd=fd)
        os.close(fd)
    done = taken()
    assert len(done.artifacts) == MOST_FILES
    assert len(done.findings) == MOST_FINDINGS + 1
    assert done.findings[-1].startswith("… and ")
    assert "more than the 20,000 names" in done.findings[0]
    assert "beyond the 1,000 files" in done.findings[1]


def test_a_folder_with_more_names_than_anyone_reads(
    top: Path, taken: Callable[..., Taken], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "MOST_NAMES", 10)
    for number in range(30):
        (top / f"{number:02}").write_text("x")
    done = taken()
    assert len(done.artifacts) == 10
    assert "more than the 10 names that are looked at" in done.findings[0]


def test_a_sparse_terabyte_is_refused_without_reading_it(top: Path, taken: Callable[..., Taken]) -> None:
    with (top / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (top / "zz").write_text("fine")
    done = taken()
    assert names(done) == ["zz"]
    assert done.findings == (
        "/out/artifacts/sparse: left out, its 1,099,511,627,776 bytes do not fit into the cap of 1,073,741,824",
    )


def test_the_cap_is_exact_and_what_still_fits_comes(top: Path, taken: Callable[..., Taken]) -> None:
    for name, size in (("a", 600), ("b", 500), ("c", 400)):
        (top / name).write_bytes(b"x" * size)
    done = taken(cap=1000)
    assert names(done) == ["a", "c"]
    assert "its 500 bytes do not fit into the cap of 1,000" in done.findings[0]


def test_memory_does_not_grow_with_what_is_copied(out: Path, top: Path, tmp_path: Path) -> None:
    with (top / "big").open("wb") as file:
        file.truncate(150 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = take(out, tmp_path / "run/step")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert done.artifacts[0].bytes == 150 << 20
    assert grown < 50_000, "kilobytes"


# --- what changes under our hands ---


def test_a_file_that_changes_while_it_is_read_stays(top: Path, taken: Callable[..., Taken]) -> None:
    (top / "busy").write_bytes(bytes(32 << 20))
    begun, stop = threading.Event(), threading.Event()

    def append() -> None:
        with (top / "busy").open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"x")
                begun.set()

    writer = threading.Thread(target=append)
    writer.start()
    begun.wait(30)  # its descriptor is open now, and the same number are open afterwards
    try:
        done = taken()
    finally:
        stop.set()
        writer.join()
    assert done.artifacts == ()
    assert done.findings == ("/out/artifacts/busy: left out, it changed while it was read",)


def test_what_a_step_has_closed_is_opened(top: Path, tmp_path: Path, nobody: Any) -> None:
    def check() -> None:
        mine = nobody.folder / "out"
        (mine / "artifacts/shut").mkdir(parents=True)
        (mine / "artifacts/shut/f").write_text("x")
        (mine / "artifacts/shut/f").chmod(0)
        (mine / "artifacts/shut").chmod(0)
        assert names(take(mine, nobody.folder / "run/step")) == ["shut/f"]

    assert nobody.run(check) == ""


def test_what_belongs_to_somebody_else_is_named(tmp_path: Path, nobody: Any) -> None:
    out = tmp_path / "theirs"
    (out / "artifacts/dir").mkdir(parents=True)
    (out / "artifacts/file").write_text("x")
    (out / "artifacts/file").chmod(0o600)
    (out / "artifacts/dir").chmod(0o700)

    def check() -> None:
        done = take(out, nobody.folder / "run/step")
        assert done.artifacts == ()
        assert [line.split(" (")[0] for line in done.findings] == [
            "/out/artifacts/dir: left out, it cannot be opened",
            "/out/artifacts/file: left out, it cannot be opened",
        ]

    assert nobody.run(check) == ""


def test_a_full_disk_is_named(top: Path, out: Path, tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("only root can mount")
    (top / "big").write_bytes(b"x" * 500_000)
    try:
        with pytest.raises(WorkspaceError) as caught:
            take(out, small / "run/step")
        assert caught.value.code == "disk"
    finally:
        subprocess.run(["umount", "-l", small], check=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tree=st.dictionaries(
        st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=8), st.binary(max_size=50), max_size=6
    )
)
def test_whatever_is_there_comes_exact_or_is_named(tree: dict[str, bytes], tmp_path_factory: Any) -> None:
    place = tmp_path_factory.mktemp("any")
    top = place / "out/artifacts"
    top.mkdir(parents=True)
    made = {}
    for name, data in tree.items():
        try:
            (top / name).write_bytes(data)
        except (OSError, UnicodeEncodeError):
            continue
        made[name] = data
    done = take(place / "out", place / "run/step")
    assert len(done.artifacts) + len(done.findings) == len(made)
    assert all((place / "run/step" / one.name).read_bytes() == made[one.name] for one in done.artifacts)
