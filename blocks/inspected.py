"""The engine's word on a container, in the same fields as the kernel's account. Pure.

`inspect` says what was asked for, so it never proves anything: it is used where the kernel's account is out of reach
(an engine on another machine, Docker Desktop, a foreign uid's namespaces, the text of the seccomp profile), and what
rests on it is recorded apart. Podman spells several things its own way (`bets.md` 4 in the evidence of this project's
design: expanded capability lists, `Init` and `CgroupnsMode` null); a key it leaves out is "not told", never a default.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.capabilities import EVERY, mask
from workflowmaster.blocks.effective import MASKED, READ_ONLY, Effective
from workflowmaster.blocks.mountinfo import MountPoint
from workflowmaster.policies.values import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from workflowmaster.blocks.request import Mount, Volume

DEFAULT_CAPABILITIES = (
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)
"""What an engine grants that is not told to drop them all."""

ALWAYS = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/sys")
"""Paths that every engine hides or makes read-only; whether this host has them cannot be seen from here."""


def told(inspected: Mapping[str, Any], mounts: Iterable[Mount | Volume]) -> Effective:
    """Translate the engine's answer about a container, given the mounts it was asked to have."""
    host: dict[str, Any] = inspected.get("HostConfig") or {}
    config: dict[str, Any] = inspected.get("Config") or {}
    options = [str(option) for option in host.get("SecurityOpt") or ()]
    uid, _, gid = str(config.get("User") or "0").partition(":")
    privileged = bool(host.get("Privileged"))
    return Effective(
        uids=frozenset({int(uid)}) if uid.isdigit() else None,
        gids=frozenset({int(gid)}) if gid.isdigit() else None,
        bounding=mask(EVERY) if privileged else _bounding(host),
        no_new_privileges=any(option in ("no-new-privileges", "no-new-privileges:true") for option in options),
        seccomp=not privileged and "seccomp=unconfined" not in options,
        profile=_profile(options),
        init=None if host.get("Init") is None else "init" if host["Init"] else "none",
        mounts=tuple(_mounts(inspected, host)),
        foreign=frozenset(str(one.get("Destination")) for one in inspected.get("Mounts") or () if _of_host(one)),
        misplaced=_misplaced(inspected, mounts),
        exposed=_exposed(host, privileged=privileged),
        rlimits=_rlimits(host),
        memory=_bound(host.get("Memory")),
        memory_and_swap=_bound(host.get("MemorySwap")),
        cpus=_cpus(host),
        pids=_bound(host.get("PidsLimit")),
        devices=frozenset(_devices(host, privileged=privileged)),
        own=_namespaces(host),
        interfaces=_interfaces(inspected, host),
        apparmor="" if inspected.get("AppArmorProfile") == "unconfined" else inspected.get("AppArmorProfile"),
        runtime=host.get("Runtime"),
    )


def _bounding(host: Mapping[str, Any]) -> int:
    # Docker hands ALL back as it was asked, Podman spells out each of the fourteen.
    dropped, added = ({_capability(name) for name in host.get(key) or ()} for key in ("CapDrop", "CapAdd"))
    kept = set() if "ALL" in dropped else set(DEFAULT_CAPABILITIES) - dropped
    return mask(EVERY if "ALL" in added else (kept | added) & EVERY)


def _capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def _profile(options: Iterable[str]) -> str | None:
    return next((option.removeprefix("seccomp=") for option in options if option.startswith("seccomp=")), None)


def _mounts(inspected: Mapping[str, Any], host: Mapping[str, Any]) -> Iterator[MountPoint]:
    """Spell what was asked for as the kernel would list it."""
    yield _mount("/", "overlay", "ro" if host.get("ReadonlyRootfs") else "rw")
    for target, text in (host.get("Tmpfs") or {}).items():
        options = [_in_bytes(word) for word in str(text).split(",")]
        yield _mount(target, "tmpfs", "ro" if "ro" in options else "rw", *options)
    if host.get("IpcMode") != "none":
        size = host.get("ShmSize") or 0
        yield _mount("/dev/shm", "tmpfs", "rw", "nosuid", "nodev", "noexec", f"size={size}")  # noqa: S108 - no file
    for one in inspected.get("Mounts") or ():
        kind = "tmpfs" if one.get("Type") == "tmpfs" else str(one.get("Type"))
        yield _mount(str(one.get("Destination")), kind, "rw" if one.get("RW") else "ro", root=str(one.get("Source")))


def _mount(target: str, kind: str, *options: str, root: str = "/") -> MountPoint:
    return MountPoint(0, "", root, target, frozenset(options), kind, frozenset(options))


def _in_bytes(option: str) -> str:
    name, equals, value = option.partition("=")
    return f"size={parse_size(value)}" if equals and name == "size" else option


def _of_host(mount: Mapping[str, Any]) -> bool:
    return mount.get("Type") != "tmpfs"


def _misplaced(inspected: Mapping[str, Any], asked: Iterable[Mount | Volume]) -> frozenset[str]:
    # A volume is known by its name; the folder behind it is the engine's own affair.
    sources = {
        str(one.get("Destination")): one.get("Name") or one.get("Source") for one in inspected.get("Mounts") or ()
    }
    return frozenset(mount.target for mount in asked if sources.get(mount.target) != str(mount.source))


def _exposed(host: Mapping[str, Any], *, privileged: bool) -> frozenset[str] | None:
    if privileged:
        return frozenset((*MASKED, *READ_ONLY))
    # Podman does not say; that it hides them is seen in the kernel's list of mounts.
    if host.get("MaskedPaths") is None or host.get("ReadonlyPaths") is None:
        return None
    covered = {*host["MaskedPaths"], *host["ReadonlyPaths"]}
    return frozenset(path for path in ALWAYS if path not in covered)


def _rlimits(host: Mapping[str, Any]) -> dict[str, float]:
    # Podman writes RLIMIT_NOFILE; below 0 is no limit, and 0 is one.
    hard = {str(one["Name"]).lower().removeprefix("rlimit_"): one["Hard"] for one in host.get("Ulimits") or ()}
    return {name: math.inf if value < 0 else float(value) for name, value in hard.items()}


def _bound(value: Any) -> float:
    # The engine's words for no limit: left out, 0 and -1.
    return math.inf if value in (None, 0, -1) else float(value)


def _cpus(host: Mapping[str, Any]) -> float:
    if host.get("NanoCpus"):
        return float(host["NanoCpus"]) / 1e9
    quota, period = host.get("CpuQuota") or 0, host.get("CpuPeriod") or 100_000
    return quota / period if quota > 0 else math.inf


def _devices(host: Mapping[str, Any], *, privileged: bool) -> Iterator[str]:
    if privileged:
        yield "a *:* rwm"
    for one in host.get("Devices") or ():
        yield str(one.get("PathOnHost"))
    for one in host.get("DeviceRequests") or ():
        yield str(one.get("Driver") or "devices")
    yield from map(str, host.get("DeviceCgroupRules") or ())


def _namespaces(host: Mapping[str, Any]) -> dict[str, bool]:
    modes = {"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "net": "NetworkMode"}
    own = {name: not str(host.get(key) or "").startswith(("host", "container:")) for name, key in modes.items()}
    own["mnt"] = True  # there is no word that asks for another
    if host.get("CgroupnsMode"):
        own["cgroup"] = host["CgroupnsMode"] == "private"
    return own


def _interfaces(inspected: Mapping[str, Any], host: Mapping[str, Any]) -> frozenset[str]:
    # The mode counts beside the list: "host" and "container:…" are in no list of networks.
    networks = (inspected.get("NetworkSettings") or {}).get("Networks") or {}
    names = set(networks) | {str(host.get("NetworkMode") or "default")}
    return frozenset({"lo", *(names - {"none"})})
