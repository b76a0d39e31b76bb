"""A kept vulnerability scanner, where one is installed: it knows more than a distribution's archive does.

trivy and grype are asked by their command lines and read by their JSON, because neither has a library; of both only the
few fields are read that have stood in every version. Each keeps a database of its own and fetches it itself. One that
fails is no answer and no error: the archive is asked instead, and the answer says why.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import datetime
from shutil import which
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 600
"""Seconds a scanner may take: the first time it fetches a database of several hundred megabytes."""

GRAVE = frozenset({"high", "critical"})


class Advice(NamedTuple):
    """One package with a known hole."""

    package: str
    installed: str
    fixed: str
    """The version that closes it; empty where there is none yet."""
    severity: str
    """`high`, or `low` for everything below. Whatever a distribution gives an advisory for is high."""
    advisory: str
    """Where it is known from: a suite, or an identifier such as CVE-2026-1234."""


@dataclass(frozen=True)
class Answer:
    """What a scanner said."""

    scanner: str
    data_from: float | None
    """When its database was made, Unix time."""
    findings: tuple[Advice, ...]


def ask(image_id: str) -> tuple[Answer | None, str]:
    """Ask the first scanner that is installed. Return its answer, or None and why there is none, if one was asked."""
    for name, (command, read) in SCANNERS.items():
        if which(name) is None:
            continue
        try:
            done = subprocess.run([*command, image_id], capture_output=True, text=True, timeout=PATIENCE, check=True)
            return read(json.loads(done.stdout)), ""
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or "").strip().splitlines()
            return None, f"{name} failed: {lines[-1] if lines else error}"
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
            # Also an answer that has another form than those known here.
            return None, f"{name} gave no answer that can be read: {error!r}"
    return None, ""


def read_trivy(said: dict[str, Any]) -> Answer:
    """Read `trivy image --format json`. It does not say there from when its database is; `trivy version` does."""

    def found() -> Iterator[Advice]:
        for result in said.get("Results") or ():
            for one in result.get("Vulnerabilities") or ():
                fixed, grave = one.get("FixedVersion", ""), _grave(one["Severity"])
                yield Advice(one["PkgName"], one["InstalledVersion"], fixed, grave, one["VulnerabilityID"])

    return Answer("trivy", _trivys_date(), tuple(found()))


def _trivys_date() -> float | None:
    done = subprocess.run(
        ["trivy", "version", "--format", "json"], capture_output=True, text=True, timeout=60, check=True
    )
    return _unix((json.loads(done.stdout).get("VulnerabilityDB") or {}).get("UpdatedAt"))


def read_grype(said: dict[str, Any]) -> Answer:
    """Read `grype --output json`."""

    def found() -> Iterator[Advice]:
        for match in said["matches"]:
            hole, package = match["vulnerability"], match["artifact"]
            fixed = ", ".join((hole.get("fix") or {}).get("versions") or ())
            yield Advice(package["name"], package["version"], fixed, _grave(hole["severity"]), hole["id"])

    database = (said.get("descriptor") or {}).get("db") or {}
    # The date moved one level down when the database got its sixth form.
    built = database.get("built") or (database.get("status") or {}).get("built")
    return Answer("grype", _unix(built), tuple(found()))


def _grave(severity: str) -> str:
    return "high" if severity.lower() in GRAVE else "low"


def _unix(moment: str | None) -> float | None:
    # Both write nanoseconds, of which Python reads the first six digits and no more.
    head, point, rest = (moment or "").partition(".")
    zone = rest.lstrip("0123456789") if point else ""
    return datetime.fromisoformat(head + zone).timestamp() if head else None


SCANNERS: dict[str, tuple[list[str], Callable[[dict[str, Any]], Answer]]] = {
    "trivy": (["trivy", "image", "--quiet", "--scanners", "vuln", "--format", "json"], read_trivy),
    "grype": (["grype", "--quiet", "--output", "json"], read_grype),
}
"""Program → its command up to the image, and what reads its answer."""
