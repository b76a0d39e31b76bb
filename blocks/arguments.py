"""A request in the engine's own words. Pure.

Traps that shaped it, all seen on a real engine: `cpu_count` is silently ignored on Linux, `nano_cpus` above the host's
count is a create error; `memswap_limit` left out means twice the memory; the seccomp option takes the profile's text
and not its path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflowmaster.blocks import handout
from workflowmaster.blocks.accent import for_podman
from workflowmaster.blocks.engine import OURS
from workflowmaster.blocks.request import SCRATCH
from workflowmaster.blocks.runtime import confinement_for, is_gvisor, pids_granted, runtime_for
from workflowmaster.blocks.wrapper import WITH_SECRETS, WRAPPER
from workflowmaster.policies import refused_variables, seccomp_text
from workflowmaster.policies.checks import RANKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from workflowmaster.blocks.engine import EngineInfo
    from workflowmaster.blocks.request import ContainerRequest
    from workflowmaster.policies import SecurityPolicy


SET_BY_ENGINE = ("HOSTNAME", "PATH")
"""Variables the engine sets in every container, whatever its image says."""


NO_QUEUES = "S3"
"""The first tier without POSIX message queues."""


def create_arguments(
    request: ContainerRequest, info: EngineInfo, volumes: Iterable[str] = (), *, variables: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Translate a request into the engine's container configuration and host configuration.

    `volumes` are the paths that the image declares as such, `variables` the names of those it sets.
    """
    policy = request.policy
    config = {
        "image": request.image_id,
        "command": ["/bin/sh", "-c", WITH_SECRETS if request.secrets else WRAPPER, OURS, *request.argv],
        "entrypoint": "",
        "user": request.user,
        "working_dir": request.workdir,
        # For the engine's init alone; the wrapper takes it away before anything of the user's runs.
        "environment": {**_taken_away(policy, variables), "TINI_KILL_PROCESS_GROUP": "1"},
        "stdin_open": True,
        "labels": {f"{OURS}.{key}": value for key, value in request.labels.items()},
        # An image's own health check would run its code in a container that waits for its go.
        "healthcheck": {"test": ["NONE"]},
    }
    host: dict[str, Any] = {
        "mounts": [*(mount.spelled() for mount in request.mounts), *_covers(request, volumes)],
        "cap_drop": ["ALL"],
        "cap_add": list(policy.capabilities),
        "security_opt": _security_options(policy, info),
        "read_only": policy.root_filesystem == "ro",
        "tmpfs": tmpfs(request),
        "mem_limit": policy.memory,
        "memswap_limit": policy.memory,
        "nano_cpus": int(min(policy.cpus, info.cpus) * 1_000_000_000),
        "pids_limit": pids_granted(policy, gvisor=is_gvisor(runtime_for(policy, info))),
        "ulimits": _ulimits(policy),
        "network_mode": "bridge" if policy.network == "bridge" else "none",
        "ipc_mode": policy.ipc,
        "cgroupns": "private",  # on cgroup v1 the engine's own default is the host's
        "init": policy.init,
        # The engine's own log would hold in clear what a step prints, on a disk, until its container is removed.
        "log_config": {"Type": "none"} if request.secrets else _log_driver(policy),
    }
    if policy.shm and policy.ipc != "none":
        host["shm_size"] = policy.shm
    if runtime := runtime_for(policy, info):
        host["runtime"] = runtime
    return config, for_podman(host, request, info) if info.flavour == "podman" else host


def _taken_away(policy: SecurityPolicy, variables: Iterable[str]) -> dict[str, None]:
    """Take what the image and the engine set and the policy does not pass out of the container's environment.

    A name without a value is removed by the engine: in pid 1 too, whose environment a step can read in `/proc`.
    """
    return dict.fromkeys(refused_variables(policy, (*variables, *SET_BY_ENGINE)))


def _covers(request: ContainerRequest, volumes: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Put something empty and read-only where a volume of the image would be a writable place without a limit.

    Only under a read-only root file system: where it can be written anyway, the volume changes nothing.
    """
    taken = {SCRATCH, *(mount.target for mount in request.mounts)}
    if request.policy.root_filesystem == "ro":
        for path in volumes:
            if path.rstrip("/") not in taken:
                yield {"Type": "tmpfs", "Target": path, "ReadOnly": True, "TmpfsOptions": {"SizeBytes": 4096}}


def _security_options(policy: SecurityPolicy, info: EngineInfo) -> list[str]:
    options = ["seccomp=" + seccomp_text(policy)]
    if confinement := confinement_for(policy, info):
        options.append(f"apparmor={confinement}")
    return ["no-new-privileges:true", *options] if policy.no_new_privileges else options


def tmpfs(request: ContainerRequest) -> dict[str, str]:
    """Return the file systems in memory that a request asks for: place → options."""
    secrets = handout.tmpfs(request.user, len(request.secrets)) if request.secrets else {}
    return _tmpfs(request.policy) | secrets


def _tmpfs(policy: SecurityPolicy) -> dict[str, str]:
    if policy.tmp is None:
        return {}
    options = ["rw", "nosuid", "nodev", "exec" if policy.tmp.exec else "noexec", f"size={policy.tmp.size}", "mode=1777"]
    return {SCRATCH: ",".join([*options, *([f"nr_inodes={policy.tmp.inodes}"] if policy.tmp.inodes else [])])}


def _ulimits(policy: SecurityPolicy) -> list[dict[str, Any]]:
    limits = {"nofile": policy.nofile, "core": policy.core, "memlock": policy.memlock}
    if RANKS["seccomp"].index(policy.seccomp) >= RANKS["seccomp"].index(NO_QUEUES):
        # The profile takes mq_open away, and a file made in /dev/mqueue would be a queue all the same.
        limits["msgqueue"] = 0
    return [{"Name": name, "Soft": value, "Hard": value} for name, value in limits.items()]


def _log_driver(policy: SecurityPolicy) -> dict[str, Any]:
    # Above our own cap, so that whoever adopts the container after a crash can read all of it: the driver adds 25 bytes
    # to a line, which lines of 13 bytes on average still leave room for. Beyond it the log loses its beginning.
    size = f"{3 * policy.output_cap // 2**20 + 1}m"
    return {"Type": "local", "Config": {"max-size": size, "max-file": "1", "compress": "false"}}
