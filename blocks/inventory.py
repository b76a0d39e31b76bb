"""What is in an image: the packages that its package managers wrote down, read without running any of its code.

The engine hands out a container's whole file system as one archive, also of a container that was never started. That
stream is read once, from beginning to end, and a handful of files are kept out of it. Asking for single files would be
quicker, but Python packages lie in places that are only found by looking; and running `dpkg` or `pip` inside would let
the image answer for itself. The accepted cost: 218 MB take two seconds.
"""

from __future__ import annotations

import email.parser
import hashlib
import io
import re
import secrets
import tarfile
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from workflowmaster.blocks.engine import OURS, Engine, engine_trouble
from workflowmaster.blocks.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MOST_FILE = 64 * 1024 * 1024
"""Bytes of a package database that are read; Debian's of 10,000 packages has 20 MB."""

MOST_HEADER = 64 * 1024
"""Bytes of a Python package's metadata that are read: name and version stand at its top."""

MOST_PACKAGES = 100_000

_DPKG = re.compile(r"var/lib/dpkg/(status|status\.d/[^/]+)")
_APK = re.compile(r"(usr/)?lib/apk/db/installed")
_PYTHON = re.compile(r".*\.(dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
_SYSTEM = re.compile(r"(etc|usr/lib)/os-release")
_UNREAD = re.compile(r"(var/lib/rpm|usr/lib/sysimage/rpm|var/lib/pacman/local)/.+")


class Package(NamedTuple):
    """One installed package."""

    kind: str
    """`deb`, `apk` or `pypi`."""
    name: str
    version: str
    architecture: str = ""
    source: str = ""
    """Source package, where its name is another."""


@dataclass(frozen=True)
class Inventory:
    """What is known to be in one image."""

    image_id: str
    created: str = ""
    """When the image was made, ISO 8601, as the engine says."""
    system: dict[str, str] = field(default_factory=dict)
    """`/etc/os-release`: ID, VERSION_CODENAME and so on."""
    packages: tuple[Package, ...] = ()
    unread: tuple[str, ...] = ()
    """Databases of packages that were found and cannot be read here."""

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the packages: equal hashes have the same names and versions."""
        lines = "\n".join("\t".join(package) for package in self.packages)
        return hashlib.sha256(lines.encode()).hexdigest()


def inventory(engine: Engine, image_id: str) -> Inventory:
    """Read the packages of an image. SandboxUnavailable if the engine does not hand it out."""
    with engine_trouble(f"inspect image {image_id}"):
        created = str(engine.client.inspect_image(image_id).get("Created") or "")  # type: ignore[no-untyped-call]
    labels = {f"{OURS}.{key}": value for key, value in {"workflow": "image", **Owner.me().labels()}.items()}
    # Labelled as ours with this process as its owner: if we are killed in between, the next sweep removes it.
    config = {"image": image_id, "command": ["-"], "entrypoint": "", "labels": labels}
    container = engine.create(f"workflowmaster-look-{secrets.token_hex(6)}", config, {"network_mode": "none"})
    try:
        with engine_trouble("export"):
            return read(image_id, engine.client.export(container), created=created)
    finally:
        engine.remove(container)


def read(image_id: str, chunks: Iterable[bytes], *, created: str = "") -> Inventory:
    """Read the packages out of a file system that comes as the chunks of a tar archive."""
    found: set[Package] = set()
    system: dict[str, str] = {}
    unread: set[str] = set()
    # Mode `r|`: one pass, nothing is unpacked, and a file that is not wanted is skipped.
    with tarfile.open(fileobj=io.BufferedReader(_Stream(chunks), 1 << 20), mode="r|") as archive:
        for member in archive:
            # Only regular files at their known places count: a link could name a file of any other owner.
            name = member.name.removeprefix("./")
            if match := _UNREAD.fullmatch(name):
                unread.add(match[1])
            elif member.isreg() and len(found) < MOST_PACKAGES:
                reader = next((reader for pattern, reader in _READERS if pattern.fullmatch(name)), None)
                if reader:
                    found.update(reader(_text(archive, member)))
                elif _SYSTEM.fullmatch(name):
                    system = os_release(_text(archive, member))
    return Inventory(image_id, created, system, tuple(sorted(found)), tuple(sorted(unread)))


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    most = MOST_HEADER if _PYTHON.fullmatch(member.name) else MOST_FILE
    return file.read(most).decode(errors="replace") if file else ""


class _Stream(io.RawIOBase):
    """The engine's chunks as a file that is read once."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._rest or next(self._chunks, b"")
        taken = min(len(buffer), len(data))
        buffer[:taken], self._rest = data[:taken], data[taken:]
        return taken


def deb_packages(text: str) -> Iterator[Package]:
    """Yield the packages of a dpkg status file; those that were removed and left their configuration are none."""
    for part in paragraphs(text):
        if part.get("Status", "install ok installed").endswith(" installed") and "Version" in part:
            source = part.get("Source", "").split(" ")[0]
            yield Package("deb", part["Package"], part["Version"], part.get("Architecture", ""), source)


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Yield the paragraphs of a Debian control file, first lines of their fields only: no list of files is wanted."""
    for part in re.split(r"\n\s*\n", text):
        fields = dict(line.split(": ", 1) for line in part.split("\n") if ": " in line and line[:1].strip())
        if "Package" in fields:
            yield fields


def apk_packages(text: str) -> Iterator[Package]:
    """Yield the packages of Alpine's database."""
    # One letter, a colon, the value; a blank line between packages.
    for part in text.split("\n\n"):
        fields = dict(line.split(":", 1) for line in part.split("\n") if line[1:2] == ":")
        if "P" in fields and "V" in fields:
            yield Package("apk", fields["P"], fields["V"], fields.get("A", ""), fields.get("o", ""))


def python_packages(text: str) -> Iterator[Package]:
    """Yield the one package of a Python distribution's metadata."""
    headers = email.parser.HeaderParser().parsestr(text)
    if headers["Name"] and headers["Version"]:
        # PEP 503: one spelling, or the same package is two in any database.
        name = re.sub(r"[-_.]+", "-", headers["Name"]).lower()
        yield Package("pypi", name, headers["Version"])


def os_release(text: str) -> dict[str, str]:
    """Return the variables of an os-release file."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, value in pairs}


_READERS: tuple[tuple[re.Pattern[str], Callable[[str], Iterator[Package]]], ...] = (
    (_DPKG, deb_packages),
    (_APK, apk_packages),
    (_PYTHON, python_packages),
)


def sbom(found: Inventory, reference: str) -> str:
    """Return the inventory as CycloneDX 1.6 JSON. The same image always gives the same text."""
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    image = Component(name=reference, version=found.image_id, type=ComponentType.CONTAINER, bom_ref=found.image_id)
    bom = Bom(
        components=[_component(package, found.system) for package in found.packages],
        # A random number and the present moment would make two texts of one image.
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, found.image_id),
        properties=[Property(name="workflowmaster:unread", value=place) for place in found.unread],
    )
    bom.metadata.component = image
    bom.metadata.timestamp = _moment(found.created)
    bom.register_dependency(image, bom.components)
    return str(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2))


def _component(package: Package, system: dict[str, str]) -> Any:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    # A scanner finds a distribution's package by these two; without them 12.4 of Debian and of Ubuntu are the same.
    qualifiers = {"arch": package.architecture} if package.architecture else {}
    if package.kind != "pypi" and "VERSION_ID" in system:
        qualifiers["distro"] = f"{system.get('ID', '')}-{system['VERSION_ID']}"
    maker = system.get("ID", "debian" if package.kind == "deb" else "alpine") if package.kind != "pypi" else None
    purl = PackageURL(package.kind, maker, package.name, package.version, qualifiers)
    return Component(
        name=package.name, version=package.version, type=ComponentType.LIBRARY, purl=purl, bom_ref=purl.to_string()
    )


def _moment(created: str) -> datetime:
    try:
        # The engine writes nanoseconds, which Python does not read.
        return datetime.fromisoformat(re.sub(r"\.\d+", "", created)).astimezone(UTC)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
