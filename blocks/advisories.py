"""Which packages of an image have a known security fix that is not in it.

The hard choice: a kept scanner (trivy, grype) where one is installed, and otherwise the distribution's own word, its
security archive: a package that is newer there than in the image is a fix that somebody thought worth an advisory. That
is less than a scanner knows, since it is silent about flaws that have no fix yet and about packages of other makers,
and every answer says so. But it comes from those who made the packages, is signed, and needs no service of a third.

Data is fetched by apt into a folder of ours, from the mirrors this host is set up with, and never into the host's own
lists. What cannot be fetched is taken as it is, with its date; without any data there is no answer, and not "none".
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from shutil import which
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.inventory import Inventory, Package, inventory, paragraphs
from workflowmaster.blocks.rootfs import own_sources
from workflowmaster.blocks.scanners import Advice, ask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from workflowmaster.blocks.engine import Engine

OLD = 7 * 86400.0
"""Seconds after which data counts as old: the security archive changes several times a week."""

FRESH = 6 * 3600.0
"""Seconds in which nothing new is fetched."""

_UPDATE_SECONDS = 120
_APT_HELPER = "/usr/lib/apt/apt-helper"
_ARCHITECTURES = {"all"}


@dataclass(frozen=True)
class Scan:
    """The outcome for one image."""

    image_id: str
    scanner: str = ""
    data_from: float | None = None
    """When the data was made, Unix time; None if there is none, and so no answer."""
    findings: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()
    """What was not looked at, and why."""
    trouble: str = ""
    """Why there is no answer."""

    @property
    def old(self) -> bool:
        """Whether the data is too old to be believed when it says nothing."""
        return self.data_from is not None and time.time() - self.data_from > OLD

    def public(self) -> dict[str, Any]:
        """Return it as `image scan --json` prints it."""
        return {**asdict(self), "findings": [one._asdict() for one in self.findings], "old": self.old}


def scan(engine: Engine, image_id: str, cache: Path) -> Scan:
    """Look the packages of an image up; `cache` is the folder where fetched data is kept."""
    answer, trouble = ask(image_id)
    if answer:
        return Scan(image_id, answer.scanner, answer.data_from, answer.findings)
    done = by_archive(inventory(engine, image_id), cache)
    return replace(done, notes=(trouble, *done.notes)) if trouble else done


def by_archive(found: Inventory, cache: Path) -> Scan:
    """Compare the packages of a Debian or Ubuntu image with its release's security archive."""
    notes = tuple(_unanswered(found))
    codename, name = found.system.get("VERSION_CODENAME", ""), found.system.get("PRETTY_NAME", "no known system")
    debs = [package for package in found.packages if package.kind == "deb"]
    if not debs or not codename:
        said = f"the image is {name}; only Debian's and Ubuntu's archives can be asked: install trivy or grype"
        return Scan(found.image_id, notes=notes, trouble=said)
    if which("apt-get") is None:
        return Scan(found.image_id, notes=notes, trouble="this host has no apt-get to fetch data with: install trivy")
    # The first package of a real architecture tells the image's; "all" is none.
    native = next((one.architecture for one in debs if one.architecture not in _ARCHITECTURES), "")
    archive = Archive(cache / f"{codename}-{native}", codename, native)
    trouble = archive.update()
    if trouble:
        notes = (*notes, trouble)
    data_from = archive.data_from()
    # An empty list of findings would read as "none found": without data there is no list.
    if data_from is None:
        said = f"nothing is known about {codename}-security: {trouble or 'no mirror of it is set up here'}"
        return Scan(found.image_id, notes=notes, trouble=said)
    scanner = f"the archive {codename}-security"
    findings = tuple(outdated(debs, newest(archive.index()), f"{codename}-security"))
    return Scan(found.image_id, scanner, data_from, findings, notes)


def _unanswered(found: Inventory) -> Iterable[str]:
    foreign = sum(package.kind != "deb" for package in found.packages)
    if foreign:
        yield f"{foreign} packages are not the distribution's, and were not looked up: install trivy or grype"
    for place in found.unread:
        yield f"the packages in {place} cannot be read here"
    yield "flaws without a fix are not in a security archive"


class Archive:
    """One release's security archive, as apt knows it, in a folder of its own."""

    def __init__(self, folder: Path, codename: str, architecture: str) -> None:
        self.folder, self.codename, self.architecture = folder, codename, architecture
        self.lists = folder / "lists"

    def update(self) -> str:
        """Fetch the newest data unless it is fresh. Return why that failed, or nothing."""
        stamp = self.folder / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < FRESH:
            return ""
        # The image may be of another release than this host; the mirror is the same.
        sources = list(security_sources(_own(), self.codename))
        if not sources:
            return f"apt of this host has no source for {self.codename}-security"
        for folder in (self.lists / "partial", self.folder / "cache", self.folder / "state"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "sources.list").write_text("\n".join(sources) + "\n", encoding="utf-8")
        said = _run(["apt-get", *self._options(), "-q", "update"], seconds=_UPDATE_SECONDS, warnings=True)
        # apt ends with 0 and old lists where a mirror is silent, and says so by a line that begins with W or E.
        failed = [line for line in said.splitlines() if line.startswith(("E: ", "W: Failed"))]
        if failed:
            return f"no new data: {failed[0][3:]}"
        # Only after success: a mirror that was silent is asked again the next time.
        stamp.touch()
        return ""

    def data_from(self) -> float | None:
        """Return when the archive made its index, Unix time; None if there is no index."""
        for path in sorted(self.lists.glob("*InRelease")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("Date: "):
                    return parsedate_to_datetime(line[6:]).timestamp()
        return None

    def index(self) -> str:
        """Return the text of the archive's lists of packages."""
        asked = ["apt-get", *self._options(), "indextargets", "--format", "$(FILENAME)", "Created-By: Packages"]
        # Through apt's own helper: lists are kept compressed, in a way that is apt's affair.
        return "\n".join(_run([_APT_HELPER, "cat-file", name]) for name in _run(asked).splitlines() if name)

    def _options(self) -> list[str]:
        settings = {
            "Dir::State": self.folder / "state",
            "Dir::State::Lists": self.lists,
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self.folder / "cache",
            "Dir::Etc::SourceList": self.folder / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "Acquire::Languages": "none",
            "Acquire::Retries": "0",
            "Acquire::http::Timeout": "20",
            # As root apt would fetch as another user, who may not write in a private folder.
            "APT::Sandbox::User": "root",
        }
        return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def security_sources(own: Iterable[str], codename: str) -> Iterable[str]:
    """Yield the host's sources of security updates, made to speak of another release of the same distribution."""
    for line in own:
        kind, uri, suite, component = line.split()
        if suite.endswith("-security"):
            yield f"{kind} {uri} {codename}-security {component}"


def newest(index: str) -> dict[str, str]:
    """Return the newest version of each package in a list of packages."""
    from debian.debian_support import Version

    found: dict[str, str] = {}
    for part in paragraphs(index):
        name, version = part["Package"], part.get("Version", "")
        if name not in found or Version(found[name]) < Version(version):
            found[name] = version
    return found


def outdated(packages: Iterable[Package], known: Mapping[str, str], suite: str) -> Iterable[Advice]:
    """Yield an advice for each package that is newer in the archive."""
    from debian.debian_support import Version

    for package in packages:
        # By Debian's own order of versions: 1.10 is newer than 1.9, 1.0~rc1 older than 1.0.
        fixed = known.get(package.name)
        if fixed and Version(package.version) < Version(fixed):
            yield Advice(package.name, package.version, fixed, "high", suite)


def _own() -> list[str]:
    asked = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    return own_sources(_run(["apt-get", "indextargets", "--format", asked, "Created-By: Packages"]))


def _run(argv: list[str], *, seconds: float = 60.0, warnings: bool = False) -> str:
    """Run one of apt's programs and return what it said; with its warnings if asked to, and where it failed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=seconds, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"E: {argv[0]}: {error}"
    if done.returncode:
        return f"{done.stderr}\nE: {argv[0]} ended with {done.returncode}"
    return done.stdout + (done.stderr if warnings else "")
