"""Known holes: what a security archive has newer, how old the word is, and when there is none."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks import advisories
from workflowmaster.blocks.advisories import Archive, Scan, by_archive, newest, outdated, security_sources
from workflowmaster.blocks.inventory import Inventory, Package
from workflowmaster.blocks.scanners import Advice

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX = """\
Package: openssl
Version: 3.0.11-1~deb12u2
Architecture: amd64

Package: openssl
Version: 3.0.15-1~deb12u1
Architecture: amd64

Package: curl
Version: 7.88.1-10+deb12u5
"""
OLD = (
    Package("deb", "openssl", "3.0.11-1~deb12u1", "amd64"),
    Package("deb", "curl", "7.88.1-10+deb12u5", "amd64"),
    Package("deb", "bash", "5.2.15-2+b2", "amd64"),
)
BOOKWORM = {"ID": "debian", "VERSION_CODENAME": "bookworm", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"}

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")


def test_the_newest_version_of_each_package_counts() -> None:
    assert newest(INDEX) == {"openssl": "3.0.15-1~deb12u1", "curl": "7.88.1-10+deb12u5"}


def test_what_is_newer_in_the_archive_is_found_and_nothing_else() -> None:
    found = list(outdated(OLD, newest(INDEX), "bookworm-security"))
    assert found == [Advice("openssl", "3.0.11-1~deb12u1", "3.0.15-1~deb12u1", "high", "bookworm-security")]


@pytest.mark.parametrize(
    ("installed", "fixed", "found"),
    [
        ("1.0-1", "1.0-1+deb12u1", True),
        ("1.0~rc1-1", "1.0-1", True),
        ("1:1.0-1", "2.0-1", False),
        ("1.10-1", "1.9-1", False),
        ("2.36-9+deb12u10", "2.36-9+deb12u9", False),
        ("1.0-1", "1.0-1", False),
    ],
)
def test_versions_are_compared_as_debian_does(installed: str, fixed: str, found: bool) -> None:
    one = Package("deb", "x", installed)
    assert bool(list(outdated([one], {"x": fixed}, "s"))) is found


def test_sources_are_the_hosts_own_security_ones_for_the_images_release() -> None:
    own = [
        "deb http://mirror/debian bookworm main",
        "deb http://mirror/debian-security bookworm-security main",
        "deb http://mirror/ubuntu jammy-security universe",
    ]
    assert list(security_sources(own, "trixie")) == [
        "deb http://mirror/debian-security trixie-security main",
        "deb http://mirror/ubuntu trixie-security universe",
    ]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Inventory("i"), "the image is no known system; only Debian's and Ubuntu's archives can be asked"),
        (Inventory("i", system={"PRETTY_NAME": "Alpine 3.20"}, packages=(Package("apk", "a", "1"),)), "is Alpine 3.20"),
        (Inventory("i", packages=OLD), "no known system"),
    ],
)
def test_no_data_is_no_answer(found: Inventory, said: str, tmp_path: Path) -> None:
    done = by_archive(found, tmp_path)
    assert (done.data_from, done.findings) == (None, ())
    assert said in done.trouble
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_looked_at_is_said(tmp_path: Path) -> None:
    found = Inventory("i", packages=(Package("pypi", "a", "1"),), unread=("var/lib/rpm",))
    notes = " | ".join(by_archive(found, tmp_path).notes)
    assert "1 packages are not the distribution's" in notes
    assert "var/lib/rpm cannot be read here" in notes
    assert "flaws without a fix" in notes


@pytest.mark.parametrize(("days", "old"), [(1, False), (6.9, False), (7.1, True), (400, True)])
def test_data_of_more_than_a_week_is_old(days: float, old: bool) -> None:
    assert Scan("i", data_from=time.time() - days * 86400).old is old
    assert Scan("i").old is False


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive that was fetched before, by hand: a signed index as apt keeps it."""
    made = Archive(tmp_path / "bookworm-amd64", "bookworm", "amd64")
    for folder in (made.lists / "partial", made.folder / "cache", made.folder / "state"):
        folder.mkdir(parents=True)
    (made.folder / "sources.list").write_text(
        "deb [trusted=yes] http://mirror.invalid/debian-security bookworm-security main\n"
    )
    stem = made.lists / "mirror.invalid_debian-security_dists_bookworm-security"
    Path(f"{stem}_InRelease").write_text(
        "Origin: Debian\nSuite: stable-security\nCodename: bookworm-security\nDate: Sat, 21 Nov 2026 00:53:02 UTC\n"
        "Architectures: amd64\nComponents: main\n"
    )
    Path(f"{stem}_main_binary-amd64_Packages").write_text(INDEX)
    return made


@needs_apt
def test_the_date_of_the_data_is_the_archives_own(archive: Archive) -> None:
    assert archive.data_from() == 1795222382.0


@needs_apt
def test_the_index_is_what_apt_says_it_is(archive: Archive) -> None:
    assert newest(archive.index()) == newest(INDEX)


@needs_apt
def test_without_a_mirror_old_data_still_answers_and_says_so(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = ["deb [trusted=yes] http://mirror.invalid/debian-security bookworm-security main"]
    monkeypatch.setattr(
        advisories, "_own", lambda: ["deb http://mirror.invalid/debian-security bookworm-security main"]
    )
    monkeypatch.setattr(advisories, "security_sources", lambda _own, _codename: offline)
    done = by_archive(Inventory("i", system=BOOKWORM, packages=OLD), archive.folder.parent)
    assert [one.package for one in done.findings] == ["openssl"]
    assert done.data_from == 1795222382.0
    assert any(note.startswith("no new data: ") for note in done.notes)


@needs_apt
def test_fresh_data_is_not_fetched_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisories, "_own", lambda: pytest.fail("nothing may be asked for"))
    (archive.folder / "updated").touch()
    assert archive.update() == ""
    an_age_ago = time.time() - advisories.FRESH - 60
    os.utime(archive.folder / "updated", (an_age_ago, an_age_ago))
    monkeypatch.setattr(advisories, "_own", list)
    assert archive.update() == "apt of this host has no source for bookworm-security"


@pytest.fixture
def outdated_image() -> Iterator[str]:
    """An image that holds nothing but the databases of a Debian of years ago."""
    status = "".join(
        f"Package: {one.name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {one.version}\n\n"
        for one in OLD
    )
    release = "\n".join(f'{name}="{value}"' for name, value in BOOKWORM.items())
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, text in (("var/lib/dpkg/status", status), ("usr/lib/os-release", release)):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    name = f"debian:wm-test-{secrets.token_hex(4)}"
    subprocess.run(["docker", "import", "-", name], input=made.getvalue(), check=True, capture_output=True)
    yield name
    subprocess.run(["docker", "rmi", "-f", name], check=True, capture_output=True)


@needs_apt
@pytest.mark.docker
def test_the_distributions_archive_knows_what_an_old_image_lacks(bare: Any, outdated_image: str) -> None:
    """From the command line to the real archive and back: only where this host can reach its own mirror."""
    said = bare("image", "scan", outdated_image, "--json")
    answer = said.json
    if answer["data_from"] is None:
        assert (said.code, bool(answer["trouble"])) == (4, True)
        pytest.skip(f"no data here: {answer['trouble']}")
    assert said.code == 1
    assert {"openssl"} <= {one["package"] for one in answer["findings"]}
    assert {one["severity"] for one in answer["findings"]} == {"high"}
    assert answer["scanner"] == "the archive bookworm-security"
