"""What is in an image: read from an archive, hostile ones included, and written down in a format others read."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks import inventory as inventories
from workflowmaster.blocks.inventory import Inventory, Package, os_release, read, sbom

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "sha256:" + "a1" * 32

# As Debian 12, Alpine 3.20 and pip write them.
DPKG = """\
Package: openssl
Status: install ok installed
Priority: optional
Installed-Size: 2300
Architecture: amd64
Version: 3.0.11-1~deb12u1
Description: Secure Sockets Layer toolkit
 A description of several lines: with a colon.

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+deb12u3
Conffiles:
 /etc/ld.so.conf.d/x86_64-linux-gnu.conf d4e7a7b88a71b5ffd9e2644e71a0cfab
"""
APK = "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\no:musl\nT:the musl c library\n\nC:Q1def=\nP:musl-utils\nV:1.2.5-r0\nA:x86_64\no:musl\n"
METADATA = "Metadata-Version: 2.1\nName: My_Package.Name\nVersion: 1.4\nSummary: x\n\nVersion: 9 is in the text\n"
OS_RELEASE = (
    '# a comment\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian\n'
)

WANTED = {
    "var/lib/dpkg/status": DPKG,
    "lib/apk/db/installed": APK,
    "usr/lib/python3/dist-packages/my_package-1.4.dist-info/METADATA": METADATA,
    "usr/lib/os-release": OS_RELEASE,
}
PACKAGES = (
    Package("apk", "musl", "1.2.5-r0", "x86_64", "musl"),
    Package("apk", "musl-utils", "1.2.5-r0", "x86_64", "musl"),
    Package("deb", "libc6", "2.36-9+deb12u3", "amd64", "glibc"),
    Package("deb", "openssl", "3.0.11-1~deb12u1", "amd64"),
    Package("pypi", "my-package-name", "1.4"),
)


def archive(files: dict[str, str | tarfile.TarInfo], *, chunk: int = 1000) -> Iterator[bytes]:
    """A file system as the engine hands it out: a tar archive in chunks."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            tar.addfile(member, io.BytesIO(content.encode()))
    data = made.getvalue()
    yield from (data[start : start + chunk] for start in range(0, len(data), chunk))


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize("chunk", [1, 7, 512, 1 << 20])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_the_databases_of_three_package_managers_are_read(chunk: int, prefix: str) -> None:
    found = read(ID, archive({prefix + name: text for name, text in WANTED.items()}, chunk=chunk))
    assert found.packages == PACKAGES
    assert (found.system["ID"], found.system["VERSION_CODENAME"]) == ("debian", "bookworm")
    assert found.unread == ()


def test_packages_without_a_database_of_all_are_read_one_by_one() -> None:
    """Distroless images have a file for each package."""
    files = {"var/lib/dpkg/status.d/base": "Package: base-files\nVersion: 12\nArchitecture: all\n"}
    assert read(ID, archive(files)).packages == (Package("deb", "base-files", "12", "all"),)


@pytest.mark.parametrize(
    "name", ["var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/Packages.db", "var/lib/pacman/local/a-1/desc"]
)
def test_what_cannot_be_read_is_said(name: str) -> None:
    assert read(ID, archive({name: "x"})).unread == (name.rsplit("/", 1 + name.count("a-1"))[0],)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"var/lib/dpkg/status": link("var/lib/dpkg/status", "/etc/shadow")},
        {"x": link("lib/apk/db/installed", "../../../../etc/passwd")},
        {"srv/copy/var/lib/dpkg/status": DPKG},
        {"var/lib/dpkg/status": "\x00\xff not a database \n\n\n: :\nPackage\n"},
        {"a.dist-info/METADATA": "no header at all"},
    ],
)
def test_links_copies_and_rubbish_are_no_packages(files: dict[str, Any]) -> None:
    assert read(ID, archive(files)).packages == ()


def test_a_huge_file_is_read_up_to_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventories, "MOST_FILE", len(DPKG) // 2)
    found = read(ID, archive({"var/lib/dpkg/status": DPKG}))
    assert [package.name for package in found.packages] == ["openssl"]


def test_the_hash_is_of_names_and_versions_alone() -> None:
    one = Inventory(ID, packages=PACKAGES)
    assert one.hash == Inventory("sha256:other", created="2026", packages=PACKAGES).hash
    newer = (*PACKAGES[:-1], PACKAGES[-1]._replace(version="1.5"))
    assert one.hash != Inventory(ID, packages=newer).hash


def test_an_os_release_file_is_read() -> None:
    assert os_release(OS_RELEASE)["PRETTY_NAME"] == "Debian GNU/Linux 12 (bookworm)"


def test_a_list_of_materials_names_each_package_as_others_do() -> None:
    found = read(ID, archive(dict(WANTED.items())), created="2026-11-22T14:43:56.236487344Z")
    made = json.loads(sbom(found, "workflowmaster/step:1"))
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    assert made["metadata"]["component"]["name"] == "workflowmaster/step:1"
    assert made["metadata"]["timestamp"] == "2026-11-22T14:43:56+00:00"
    assert {one["purl"] for one in made["components"]} == {
        "pkg:apk/debian/musl@1.2.5-r0?arch=x86_64&distro=debian-12",
        "pkg:apk/debian/musl-utils@1.2.5-r0?arch=x86_64&distro=debian-12",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u3?arch=amd64&distro=debian-12",
        "pkg:deb/debian/openssl@3.0.11-1~deb12u1?arch=amd64&distro=debian-12",
        "pkg:pypi/my-package-name@1.4",
    }
    assert sbom(found, "workflowmaster/step:1") == sbom(found, "workflowmaster/step:1")


def test_what_was_not_read_stands_in_the_list_too() -> None:
    made = json.loads(sbom(read(ID, archive({"var/lib/rpm/Packages": "x"})), "x"))
    assert made["properties"] == [{"name": "workflowmaster:unread", "value": "var/lib/rpm"}]


@pytest.mark.docker
def test_a_real_image_is_read_without_being_started(engine: Any, image_id: str) -> None:
    found = inventories.inventory(engine, image_id)
    inside = [
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        image_id,
        "dpkg-query",
        "-W",
        "-f",
        "${Package} ${Version}\n",
    ]
    said = subprocess.run(inside, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [f"{one.name} {one.version}" for one in found.packages if one.kind == "deb"] == sorted(said)
    assert {one.name for one in found.packages if one.kind == "pypi"} >= {"pip", "pytest"}
    assert found.created
    assert engine.containers(workflow="image") == []
