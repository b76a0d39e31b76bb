"""A request in the engine's own words. Pure.

Traps that shaped it, all seen on a real engine: `cpu_count` is silently ignored on Linux, `nano_cpus` above the host's
count is a create error; `memswap_limit` left out means twice the memory; the seccomp option takes the profile's text
and not its path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.engine import OURS
from workflowmaster.blocks.request import SCRATCH
from workflowmaster.blocks.wrapper import WRAPPER
from workflowmaster.policies import seccomp_text

if TYPE_CHECKING:
    from workflowmaster.blocks.engine import EngineInfo
    from workflowmaster.blocks.request import ContainerRequest
    from workflowmaster.policies import SecurityPolicy


def create_arguments(request: ContainerRequest, info: EngineInfo) -> tuple[dict[str, Any], dict[str, Any]]:
    """Translate a request into the engine's container configuration and host configuration."""
    policy = request.policy
    config = {
        "image": request.image_id,
        "command": ["/bin/sh", "-c", WRAPPER, OURS, *request.argv],
        "entrypoint": "",
        "user": request.user,
        "working_dir": request.workdir,
        "stdin_open": True,
        "labels": {f"{OURS}.{key}": value for key, value in request.labels.items()},
        # An image's own health check would run its code in a container that waits for its go.
        "healthcheck": {"test": ["NONE"]},
    }
    host: dict[str, Any] = {
        "mounts": [mount.spelled() for mount in request.mounts],
        "cap_drop": ["ALL"],
        "cap_add": list(policy.capabilities),
        "security_opt": _security_options(policy),
        "read_only": policy.root_filesystem == "ro",
        "tmpfs": _tmpfs(policy),
        "mem_limit": policy.memory,
        "memswap_limit": policy.memory,
        "nano_cpus": int(min(policy.cpus, info.cpus) * 1_000_000_000),
        "pids_limit": policy.pids,
        "ulimits": _ulimits(policy),
        "network_mode": "bridge" if policy.network == "bridge" else "none",
        "ipc_mode": policy.ipc,
        "init": policy.init,
        "log_config": _log_driver(policy),
    }
    if policy.shm and policy.ipc != "none":
        host["shm_size"] = policy.shm
    return config, host


def _security_options(policy: SecurityPolicy) -> list[str]:
    options = ["seccomp=" + seccomp_text(policy)]
    return ["no-new-privileges:true", *options] if policy.no_new_privileges else options


def _tmpfs(policy: SecurityPolicy) -> dict[str, str]:
    if policy.tmp is None:
        return {}
    options = ["rw", "nosuid", "nodev", "exec" if policy.tmp.exec else "noexec", f"size={policy.tmp.size}", "mode=1777"]
    return {SCRATCH: ",".join([*options, *([f"nr_inodes={policy.tmp.inodes}"] if policy.tmp.inodes else [])])}


def _ulimits(policy: SecurityPolicy) -> list[dict[str, Any]]:
    limits = {"nofile": policy.nofile, "core": policy.core, "memlock": policy.memlock}
    return [{"Name": name, "Soft": value, "Hard": value} for name, value in limits.items()]


def _log_driver(policy: SecurityPolicy) -> dict[str, Any]:
    # Above our own cap, so that whoever adopts the container after a crash can read all of it: the driver adds 25 bytes
    # to a line, which lines of 13 bytes on average still leave room for. Beyond it the log loses its beginning.
    size = f"{3 * policy.output_cap // 2**20 + 1}m"
    return {"Type": "local", "Config": {"max-size": size, "max-file": "1", "compress": "false"}}
