"""What an engine is, from its own words: version, host, and what it can be asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workflowmaster.blocks.trouble import SandboxUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDEST_API, NEWEST_API = "1.41", "1.44"
"""Of Engine 20.10, the first whose limits all hold; and of Engine 25, the newest whose every word was read. Each engine
from 25 to 29 still speaks the latter (29 nothing older); one in between is spoken to in its own."""


@dataclass(frozen=True)
class EngineInfo:
    """What the engine says of itself and its host."""

    version: str
    api: str
    cpus: int
    memory: int
    """Bytes."""
    cgroup: str
    """`1` or `2`."""
    storage: str
    security: tuple[str, ...]
    """For example `seccomp`, `apparmor`, `userns`, `rootless`."""
    runtimes: tuple[str, ...]
    root: str
    """The engine's data directory on its host."""
    local: bool
    """Reached over a socket of this machine, so bind mounts and pids mean the same on both sides."""
    flavour: Literal["docker", "podman"] = "docker"
    """Whose engine answers: Podman's speaks Docker's language with an accent (`arguments`)."""
    machine: str = ""
    """As its kernel calls it: `x86_64`."""
    kernel: str = ""
    """Release of its kernel; another one than ours means another machine, or a virtual one."""
    id: str = ""
    """What it calls itself, by which two machines know that they use the same one; empty if it has no name."""

    @classmethod
    def read(cls, said: Mapping[str, Any], version: Mapping[str, Any], *, api: str, local: bool) -> EngineInfo:
        """Take it from the engine's answers to `info` and `version`."""
        parts = [str(part.get("Name", "")) for part in version.get("Components") or ()]
        return cls(
            version=said["ServerVersion"],
            api=api,
            cpus=int(said["NCPU"]),
            memory=int(said["MemTotal"]),
            cgroup=str(said.get("CgroupVersion", "1")),
            storage=said["Driver"],
            security=tuple(option.split(",")[0].removeprefix("name=") for option in said.get("SecurityOptions") or ()),
            runtimes=tuple(sorted(said.get("Runtimes") or ())),
            root=said.get("DockerRootDir", ""),
            local=local,
            flavour="podman" if any("podman" in name.lower() for name in parts) else "docker",
            machine=str(said.get("Architecture", "")),
            kernel=str(said.get("KernelVersion", "")),
            id=str(said.get("ID", "")),
        )

    @property
    def gvisor(self) -> str | None:
        """Name of the runtime that is gVisor; None if the engine has none, or takes no wish for one."""
        if self.flavour == "podman":
            return None  # its list has every runtime it ever heard of, and its socket ignores which is asked for
        return next((name for name in self.runtimes if "runsc" in name or "gvisor" in name), None)


def common_version(said: Mapping[str, Any]) -> str:
    """Return the newest API version that both sides speak. SandboxUnavailable for an engine that is too old."""
    try:
        most, least = str(said["ApiVersion"]), str(said.get("MinAPIVersion") or OLDEST_API)
    except (KeyError, TypeError) as error:
        raise SandboxUnavailable(f"what answers is no Docker Engine: it says {str(said)[:80]!r}") from error
    if _number(most) < _number(OLDEST_API):
        raise SandboxUnavailable(
            f"the engine is version {said.get('Version')} with API {most}; {OLDEST_API} is needed: update it to 20.10 "
            "or newer"
        )
    return max(min(most, NEWEST_API, key=_number), least, key=_number)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
