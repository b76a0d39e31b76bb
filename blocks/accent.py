"""A request as Podman wants to hear it through its Docker-compatible socket.

The words of `arguments` are Docker's and stay the only place where a policy is spelled out; this file changes, at the
end, the few that Podman (seen with 4.3) takes differently, and never so that more is granted:

* A seccomp profile is opened as a path; its text is "file name too long".
* Without a limit of processes it sets one of its own, which fails where its service may not raise limits.
* In a read-only container it makes `/run` and `/var/tmp` writable, unless something is mounted there.
* It gives added capabilities to a user that is not root as ambient ones, in effect at once. Docker only leaves them in
  the bounding set, where nobody can reach them without a setuid program. So none are added.
* Its tmpfs knows no `nr_inodes`. A volume of type tmpfs does, if its size is spelled in pages, because `size=` is taken
  for a disk quota there; `noexec` must be said where the volume is mounted.
* Docker's `local` log is unknown.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.policies.model import FOLDER

if TYPE_CHECKING:
    from workflowmaster.blocks.engine import EngineInfo
    from workflowmaster.blocks.request import ContainerRequest
    from workflowmaster.policies import SecurityPolicy

PROCESSES = 32_768
"""Processes of one uid over all containers, where a number must be named. What bounds a step is the policy's `pids`."""

FLAGS = ("rw", "nosuid", "nodev", "noexec", "exec")
"""Options that belong to where something is mounted and not to the file system."""

PAGE = os.sysconf("SC_PAGE_SIZE")
"""Bytes of the blocks a tmpfs is counted in; the engine's machine is ours, or `for_podman` refuses."""

ITS_OWN = ("/run", "/var/tmp")  # noqa: S108 - the container's own, in memory
"""Directories that it makes writable in a read-only container."""

CLOSED = "ro,nosuid,nodev,noexec,size=4k"


def profile_path(policy: SecurityPolicy) -> str:
    """Return where the policy's seccomp profile lies, for a service on this host."""
    return str(FOLDER / "seccomp" / f"{policy.seccomp}.json")


def volume_options(tmpfs: str) -> dict[str, str] | None:
    """Spell the options of a tmpfs for a volume that is one; None where Podman's own tmpfs knows them all."""
    words = tmpfs.split(",")
    if not any(word.startswith("nr_inodes=") for word in words):
        return None
    spelled = [f"nr_blocks={int(word[5:]) // PAGE}" if word.startswith("size=") else word for word in words]
    return {"type": "tmpfs", "device": "tmpfs", "o": ",".join(word for word in spelled if word not in FLAGS)}


def for_podman(host: dict[str, Any], request: ContainerRequest, info: EngineInfo) -> dict[str, Any]:
    """Translate a host configuration. SandboxUnavailable for a Podman on another host."""
    if not info.local:
        raise SandboxUnavailable(
            "Podman reads a seccomp profile from a file on its own host, so a remote one cannot be held to a policy's: "
            "use its socket on that host, or a Docker Engine",
            reason="unsupported",
        )
    profile = f"seccomp={profile_path(request.policy)}"
    closed = dict.fromkeys(ITS_OWN, CLOSED) if host["read_only"] else {}
    return {
        **host,
        "cap_add": [],
        "security_opt": [profile if word.startswith("seccomp=") else word for word in host["security_opt"]],
        "ulimits": [*host["ulimits"], {"Name": "nproc", "Soft": PROCESSES, "Hard": PROCESSES}],
        "log_config": _log(host["log_config"]),
        **_in_memory({**closed, **host["tmpfs"]}, request),
    }


def _log(config: dict[str, Any]) -> dict[str, Any]:
    if config["Type"] != "local":
        return config
    return {"Type": "k8s-file", "Config": {"max-size": config["Config"]["max-size"]}}


def _in_memory(tmpfs: dict[str, str], request: ContainerRequest) -> dict[str, Any]:
    volumes = {volume.target: volume.source for volume in request.memory}
    # In the short form, because the long one has no word for noexec and drops the driver's options without one.
    binds = [
        ":".join([source, target, ",".join(word for word in tmpfs[target].split(",") if word in FLAGS)])
        for target, source in volumes.items()
    ]
    return {"tmpfs": {place: said for place, said in tmpfs.items() if place not in volumes}, "binds": binds}
