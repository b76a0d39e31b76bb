"""`doctor`: what this machine can do, what it cannot, and the mend for each.

Each check is one small function from nothing to a `Finding`; none of them changes anything. A warning is something a
run can do without, an error is something it cannot.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from workflowmaster.blocks import vitals
from workflowmaster.blocks.breaker import states
from workflowmaster.blocks.engine import Engine, EngineInfo, SandboxUnavailable
from workflowmaster.flows.enforcement import MEANING, Row, table
from workflowmaster.flows.health import FULL, health
from workflowmaster.flows.looking import out
from workflowmaster.flows.running import INFRASTRUCTURE
from workflowmaster.flows.serving import api_url
from workflowmaster.flows.settings import SettingsError, home, load
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    import argparse

ENOUGH_DISK = 2 * 1024**3
"""Bytes free in the state directory below which a run may not get far."""

CAPS = {"prefect": ((3, 8, 8), (4,)), "fastapi": ((0, 139), (0, 151)), "sqlalchemy": ((2, 0), (2, 1))}
"""Package → lowest good version and lowest bad one. Prefect's server breaks outside these bounds."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    status: Literal["ok", "warning", "error"]
    found: str
    mend: str = ""
    table: tuple[Row, ...] = ()
    """Line by line, where one line does not say it."""
    values: dict[str, Any] = field(default_factory=dict)
    """What was measured, for programs."""


def doctor(given: argparse.Namespace) -> int:
    """Run every check, print what was found; exit code 4 if a run could not work."""
    findings = [check() for check in CHECKS]
    if given.json:
        out(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            mark = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}[finding.status]
            out(f"{mark}  {finding.check:<12} {finding.found}")
            if finding.mend:
                out(f"{'':>9}{'':<12} → {finding.mend}")
            for row in finding.table:
                detail = f": {row.detail}" if row.detail else ""
                out(f"{'':>9}{'':<12} {row.control:<18} {MEANING[row.verdict]}{detail}")
    return INFRASTRUCTURE if any(finding.status == "error" for finding in findings) else 0


def check_python() -> Finding:
    """Say which Python this is; the package installs on none that is too old."""
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok", found)


def check_packages() -> Finding:
    """Check Prefect and the two dependencies that it does not cap."""
    seen, bad = [], []
    for name, (low, high) in CAPS.items():
        try:
            text = version(name)
        except PackageNotFoundError:
            return Finding("prefect", "error", f"{name} is not installed", "pip install workflowmaster")
        seen.append(f"{name} {text}")
        number = tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
        if not low <= number < high:
            bad.append(f"'{name}>={_dotted(low)},<{_dotted(high)}'")
    if bad:
        return Finding("prefect", "error", ", ".join(seen), f"its server would not work: pip install {' '.join(bad)}")
    return Finding("prefect", "ok", ", ".join(seen))


def _dotted(number: tuple[int, ...]) -> str:
    return ".".join(map(str, number))


def check_server() -> Finding:
    """Ask the configured Prefect server, if there is one, whether it answers."""
    url = api_url()
    if not url:
        return Finding("server", "ok", f"none configured: each run has a temporary one in {home()}")
    from urllib.error import URLError
    from urllib.request import urlopen

    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=5) as answer:  # noqa: S310 - the operator's own setting
            return Finding("server", "ok", f"{url} answers ({answer.status})")
    except (URLError, OSError, ValueError) as error:
        mend = "start it (prefect server start), or unset PREFECT_API_URL to use a temporary one"
        return Finding("server", "error", f"{url} does not answer: {error}", mend)


@cache
def _engine() -> EngineInfo | SandboxUnavailable:
    try:
        return Engine().info
    except SandboxUnavailable as error:
        return error


def check_docker() -> Finding:
    """Ask the engine what it is."""
    info = _engine()
    if isinstance(info, SandboxUnavailable):
        return Finding("docker", "error", str(info), "sudo systemctl start docker, or as root: scripts/engine")
    where = "local" if info.local else "remote: files travel by archive"
    found = f"{info.version} (API {info.api}), cgroup v{info.cgroup}, {info.storage}, {info.cpus} cores, {where}"
    if info.flavour == "podman":
        lacks = "steps get no SIGTERM at their wall time, and none of a policy's capabilities: docs/engines.md"
        return Finding("docker", "warning", f"Podman {found}", lacks)
    return Finding("docker", "ok", found)


def check_enforcement() -> Finding:
    """Say what this engine enforces of what a policy can promise, by trying it."""
    info = _engine()
    if isinstance(info, SandboxUnavailable):
        return Finding("sandbox", "error", "unknown without an engine")
    try:
        engine = Engine()
        rows = table(engine, engine.image_id(load().image))
    except (SandboxUnavailable, SettingsError, PolicyError) as error:
        return Finding("sandbox", "error", f"no container can be tried: {error}")
    weak = [row.control for row in rows if row.verdict == "weaker"]
    if weak:
        mend = "use another engine, or a policy that does not promise it"
        return Finding("sandbox", "error", f"promised and not enforced: {', '.join(weak)}", mend, rows)
    counts = Counter(row.verdict for row in rows)
    absent = ", ".join(row.control for row in rows if row.verdict == "absent") or "nothing"
    words = f"{counts['enforced']} controls read back, {counts['told']} by the engine's word; absent: {absent}"
    return Finding("sandbox", "warning" if counts["absent"] else "ok", words, table=rows)


def check_image() -> Finding:
    """Look for the default step image."""
    from workflowmaster.flows.admitting import trust

    try:
        settings = load()
        reference, found = settings.image, Engine().image_id(settings.image)
    except SandboxUnavailable:
        return Finding("image", "error", "unknown without an engine")
    except SettingsError:
        return Finding("image", "error", "unknown while the settings cannot be read")
    if found is None:
        return Finding("image", "error", f"{reference} is not on the engine", "workflowmaster image build")
    if trouble := trust(settings).verdict(found).trouble:
        said = f"{reference} is {found[7:19]} and not signed, so testing, hardened and paranoid refuse it: {trouble}"
        return Finding("image", "warning", said, "workflowmaster image build")
    return Finding("image", "ok", f"{reference} is {found[7:19]}")


def check_git() -> Finding:
    """Look for git, which people need; the product itself needs only its library."""
    path = shutil.which("git")
    if path is None:
        return Finding("git", "warning", "no git command", "install git to look at the branches a run leaves")
    return Finding("git", "ok", path)


def check_disk() -> Finding:
    """Check the room in the state directory."""
    place = next(folder for folder in (home(), *home().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free for {home()}"
    if not os.access(place, os.W_OK):
        return Finding("disk", "error", f"{place} cannot be written", "set WORKFLOWMASTER_HOME to a directory of yours")
    if free < ENOUGH_DISK:
        return Finding("disk", "warning", found, "free some space, or set WORKFLOWMASTER_HOME to a larger disk")
    return Finding("disk", "ok", found)


def check_health() -> Finding:
    """Measure how well this machine, its engine and its server are, as a run does all the time."""
    found = health(vitals.measure(Engine(), state=home(), server=api_url()))
    parts = ", ".join(f"{name} {part:.2f}" for name, part in found.parts.items())
    values = {"health": round(found.value, 3), **{name: round(part, 3) for name, part in found.parts.items()}}
    low = f"low: {str(found).partition(': ')[2]}" if found.low else ""
    if found.value < FULL:
        return Finding(
            "health", "warning", f"{found.value:.2f}: {parts}", f"{low}; fewer steps run at a time", (), values
        )
    return Finding("health", "ok", f"{found.value:.2f}: {parts}", low, (), values)


def check_breakers() -> Finding:
    """Say which services nobody asks at present, because they have failed too often."""
    known = states()
    away = {name: one for name, one in known.items() if one["state"] != "closed"}
    found = ", ".join(f"{name} {one['state']} ({one['failure_count']} failures)" for name, one in known.items())
    if not away:
        return Finding("breakers", "ok", found, values=known)
    told = [f"{name}: {one['why']}; one looks again in {one['wait_seconds']:.0f} s" for name, one in away.items()]
    return Finding("breakers", "warning", found, "; ".join(told), values=known)


def check_settings() -> Finding:
    """Read the settings."""
    try:
        chosen = load()
    except SettingsError as error:
        return Finding("settings", "error", str(error), "mend or remove that setting")
    changed = {name: value for name, value in chosen.model_dump().items() if name in chosen.model_fields_set}
    return Finding("settings", "ok", json.dumps(changed, default=str) if changed else "all defaults")


CHECKS = (
    check_python,
    check_packages,
    check_settings,
    check_server,
    check_docker,
    check_enforcement,
    check_image,
    check_git,
    check_disk,
    check_health,
    check_breakers,
)
