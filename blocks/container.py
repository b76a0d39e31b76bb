"""One container, used once: created, started parked, sent off with "go", read to its end, removed.

A container costs 150 to 300 ms to create and start, and none of that depends on what the step before it will leave
behind. So pid 1 is a shell of four lines that waits on stdin for one line. Until it comes nothing of the user's has
run; when it comes, the environment is read from a file bound read-only at `/wm`, so values with quotes and newlines
need no quoting in any argv, never stand in the engine's configuration, and are not known before they are needed.

What the shell says in secret marks is how we know the rest: one when the environment is in place and the command
begins, one at the end of each stream with the exit code. `reader` puts them together.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.cgroup import Cgroup
from workflowmaster.blocks.engine import OURS, Engine, EngineInfo, SandboxUnavailable
from workflowmaster.blocks.reader import Ending, Reader
from workflowmaster.blocks.streams import EDGE
from workflowmaster.policies import SecurityPolicy, seccomp_text

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

EXCHANGE = "/wm"
"""Where a container finds its environment, script, stdin and inputs, read-only."""
OUT = "/out"
"""Where a container leaves named outputs and declared files."""
WORKSPACE = "/workspace"
SCRATCH = "/tmp"  # noqa: S108 - the container's own, in memory
"""The container's scratch directory; also its HOME, and where a step without a workspace starts."""

WRAPPER = (
    'IFS= read -r wm_go && set -- "$wm_go" "$@" && unset wm_go && . /wm/env && { '
    'printf %s "$1" >&2; (shift; exec "$@" </wm/stdin 2>&1); set -- "$1" $?; '
    'printf %s "$1" >&2; printf "%s%03d" "$1" "$2"; exit "$2"; }; exit 125'
)
"""What a parked container runs. Closing its stdin without a go line ends it with 125 and nothing of the user's run.

The mark lives in `$1`, because any name could also be a variable of the step's environment, which is read after it. The
command is started by `exec` in a subshell, so that `exit` or `cd` as a command is a program that does not exist. Its
stdout and stderr share one pipe: in two, the engine mixes up what came first, and a person reads an error by its place.
"""

LONGEST_VALUE = 128 * 1024 - 1
"""Bytes of `NAME=value`: with one more, Linux refuses to start any program (MAX_ARG_STRLEN)."""

LONGEST_ENVIRONMENT = 1024 * 1024
"""Bytes of all of them: half of what Linux takes together with the arguments, under the usual 8 MiB stack limit."""


@dataclass(frozen=True)
class Mount:
    """A directory or file of this host seen inside."""

    source: Path
    target: str
    writable: bool = False

    def spelled(self) -> dict[str, Any]:
        """Spell it as the engine's API does. Not as `source:target`: a path may hold a colon.

        Also, the engine makes a missing source by itself, as root, if it is asked in the short form.
        """
        return {"Type": "bind", "Source": str(self.source), "Target": self.target, "ReadOnly": not self.writable}


@dataclass(frozen=True)
class ContainerRequest:
    """Everything that must be known to park a container."""

    name: str
    """Unique per workflow, step and attempt: the engine makes a name once, which fences two owners."""
    image_id: str
    policy: SecurityPolicy
    argv: tuple[str, ...]
    mounts: tuple[Mount, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = "1000:1000"
    workdir: str = WORKSPACE


def create_arguments(request: ContainerRequest, info: EngineInfo) -> tuple[dict[str, Any], dict[str, Any]]:
    """Translate a request into the engine's container configuration and host configuration. Pure.

    Traps that shaped it, all seen on a real engine: `cpu_count` is silently ignored on Linux, `nano_cpus` above the
    host's count is a create error; `memswap_limit` left out means twice the memory; the seccomp option takes the
    profile's text and not its path.
    """
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


def environment_file(values: Mapping[str, str]) -> str:
    """Spell an environment as shell assignments that survive any value.

    Raises ValueError for what no environment can carry: a name that is no identifier, a NUL byte, too much text.
    """
    total = 0
    for name, value in values.items():
        if not name.isidentifier() or not name.isascii() or name == "OPTIND":  # the shell takes only numbers in it
            raise ValueError(f"{name!r} cannot be an environment variable: use letters, digits and _")
        if "\0" in value:
            raise ValueError(f"the value of {name} has a NUL byte, which an environment variable cannot carry")
        size = len(name) + 1 + len(value.encode(errors="surrogateescape"))
        if size > LONGEST_VALUE:
            raise ValueError(
                f"{name} has {size:,} bytes and an environment variable may have {LONGEST_VALUE:,}; "
                "pass large values in a file of the workspace"
            )
        total += size + 1
    if total > LONGEST_ENVIRONMENT:
        raise ValueError(
            f"the environment has {total:,} bytes and may have {LONGEST_ENVIRONMENT:,}; "
            "pass large values in files of the workspace"
        )
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(values.items()))


class Container:
    """A container from parking to removal. Its methods block: call them from a thread, one thread at a time.

    Only `kill` may be called from elsewhere, at any moment.
    """

    def __init__(self, engine: Engine, request: ContainerRequest) -> None:
        self.request = request
        self.id = ""
        self.parked_at = 0.0
        self.gone_at = 0.0
        self._engine = engine
        self.stream: socket.socket | None = None
        self.pidfd = -1
        self.cgroup: Cgroup | None = None

    def park(self) -> Container:
        """Create and start it; it waits for `go`. Raises SandboxUnavailable and leaves nothing behind."""
        config, host = create_arguments(self.request, self._engine.info)
        self.id = self._engine.create(self.request.name, config, host)
        try:
            self.stream = self._engine.attach(self.id)
            self._engine.start(self.id)
            self._watch()
        except BaseException:
            with contextlib.suppress(SandboxUnavailable):  # the first error is the one that explains
                self.remove()
            raise
        self.parked_at = time.monotonic()
        return self

    def _watch(self) -> None:
        """Take hold of pid 1 and its cgroup, where they are visible from here."""
        if not self._engine.info.local or not hasattr(os, "pidfd_open"):
            return
        pid = int(self._engine.state(self.id).get("Pid") or 0)
        if not pid:
            return
        with contextlib.suppress(OSError):  # another kernel (Docker Desktop), or gone already: the engine will tell
            held = os.pidfd_open(pid)
            # Looked at only when held: the number may have been given to another process before, but not since.
            if self.id in Path(f"/proc/{pid}/cgroup").read_text():
                self.pidfd, self.cgroup = held, Cgroup.of(pid)
            else:
                os.close(held)

    def run(self, seconds: float, sink: Callable[[bytes], bool]) -> Ending:
        """Say go and read to the end. The host's side of `/wm` must be complete by now.

        `seconds` is the wall time from here; at its end the whole tree is killed. `sink` takes output as it comes and
        answers False when it will take no more: the container is killed then too. Raises SandboxUnavailable if it
        cannot be told how it ended, or if it ended before the command began.
        """
        if self.stream is None:
            raise RuntimeError("run() before park()")
        mark = EDGE + secrets.token_hex(16).encode() + EDGE
        reader = Reader(self, self._engine, mark, sink)
        self.gone_at = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # died while parked: the reader will tell why
            self.stream.sendall(mark + b"\n")
        return reader.read(seconds)

    def kill(self) -> None:
        """Kill the whole tree, from any thread."""
        if self.id:
            self._engine.kill(self.id)

    def remove(self) -> None:
        """Close our ends and remove the container, whatever state it is in."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        if self.id:
            self._engine.remove(self.id)
