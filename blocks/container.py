"""One container, used once: created, started parked, sent off with "go", read to its end, removed.

A container costs 150 to 300 ms to create and start, and none of that depends on what the step before it will leave
behind. So pid 1 is a shell of four lines that waits on stdin for one line. Until it comes nothing of the user's has
run; when it comes, the environment is read from a file bound read-only at `/wm`, so values with quotes and newlines
need no quoting in any argv, never stand in the engine's configuration, and are not known before they are needed.

The end is found without the engine where it shares our kernel: `pidfd` on pid 1 becomes readable only when the whole
pid namespace is dead, and the shell ends both streams with a secret mark, which proves that all output has arrived.
That takes 3 to 6 ms instead of the 25 to 35 ms of the engine's own word, and the cgroup still answers in that moment.
Without pidfd, or if a mark is missing (the shell was killed), the engine's word is waited for: slower, never wrong.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shlex
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.cgroup import Cgroup, Usage
from workflowmaster.blocks.engine import OURS, Engine, EngineInfo
from workflowmaster.policies import SecurityPolicy, seccomp_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

EXCHANGE = "/wm"
"""Where a container finds its environment, script, stdin and inputs, read-only."""
OUT = "/out"
"""Where a container leaves named outputs and declared files."""
WORKSPACE = "/workspace"
SCRATCH = "/tmp"  # noqa: S108 - the container's own, in memory
"""The container's scratch directory; also its HOME, and where a step without a workspace starts."""

WRAPPER = (
    'IFS= read -r t && . /wm/env && { "$@" </wm/stdin; r=$?; '
    'printf %s "$t" >&2; printf "%s%03d" "$t" "$r"; exit "$r"; }; exit 125'
)
"""What a parked pid 1 runs. Closing its stdin without a go line ends it with 125 and nothing of the user's run."""

MARK = 34
"""Length of the end mark: a record separator on both sides of 32 hex digits."""


@dataclass(frozen=True)
class Mount:
    """A directory or file of this host seen inside."""

    source: Path
    target: str
    writable: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.target}:{'rw' if self.writable else 'ro'}"


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


@dataclass(frozen=True)
class Ending:
    """How a container ended, before anyone judges it."""

    exit_code: int
    usage: Usage
    seconds: float
    timed_out: bool
    capped: bool
    oom_killed: bool
    error: str = ""
    """The engine's own words when it could not run the command."""


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
        "network_disabled": False,
    }
    host: dict[str, Any] = {
        "binds": [str(mount) for mount in request.mounts],
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
    # Above our own cap, so that whoever adopts the container after a crash can read all of it.
    size = f"{2 * policy.output_cap // 2**20 + 1}m"
    return {"Type": "local", "Config": {"max-size": size, "max-file": "1", "compress": "false"}}


def environment_file(values: Mapping[str, str]) -> str:
    """Spell an environment as shell assignments that survive any value.

    Raises ValueError for a name that is no identifier or a value with a NUL byte, which no environment can carry.
    """
    for name, value in values.items():
        if not name.isidentifier() or not name.isascii():
            raise ValueError(f"{name!r} cannot be an environment variable: use letters, digits and _")
        if "\0" in value:
            raise ValueError(f"the value of {name} has a NUL byte, which an environment variable cannot carry")
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
            self.remove()
            raise
        self.parked_at = time.monotonic()
        return self

    def _watch(self) -> None:
        """Take hold of pid 1 and its cgroup, where they are visible from here."""
        if not self._engine.info.local or not hasattr(os, "pidfd_open"):
            return
        pid = int(self._engine.state(self.id).get("Pid") or 0)
        with contextlib.suppress(OSError):  # another kernel (Docker Desktop), or gone already: the engine will tell
            if pid and self.id in Path(f"/proc/{pid}/cgroup").read_text():
                self.pidfd = os.pidfd_open(pid)
                self.cgroup = Cgroup.of(pid)

    def run(self, seconds: float, sink: Callable[[bytes], bool]) -> Ending:
        """Say go and read to the end. The host's side of `/wm` must be complete by now.

        `seconds` is the wall time from here; at its end the
        whole tree is killed. `sink` takes output as it comes and answers False when it will take no more: the
        container is killed then too.
        """
        if self.stream is None:
            raise RuntimeError("run() before park()")
        mark = f"\x1e{secrets.token_hex(16)}\x1e"
        self.gone_at = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # died while parked: the engine will tell why
            self.stream.sendall(mark.encode() + b"\n")
            self.stream.shutdown(socket.SHUT_WR)
        return _Reader(self, self._engine, mark.encode(), sink).read(seconds)

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


class _Reader:
    """Reads one container's streams until it has ended. Split off because it is state that no one else may see."""

    def __init__(self, container: Container, engine: Engine, mark: bytes, sink: Callable[[bytes], bool]) -> None:
        if container.stream is None:
            raise RuntimeError("run() before park()")
        self.container, self.engine, self.mark, self.sink = container, engine, mark, sink
        self.socket, self.pidfd, self.cgroup = container.stream, container.pidfd, container.cgroup
        self.frames = Frames()
        self.held = {1: b"", 2: b""}
        self.usage = Usage()
        self.timed_out = self.capped = self.dead = self.ended = False

    def read(self, seconds: float) -> Ending:
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        if self.pidfd >= 0:
            poll.register(self.pidfd, select.POLLIN)
        while not (self.ended or (self.dead and self._marked())):
            left = deadline - time.monotonic()
            if left <= 0 and not self.timed_out:
                self.timed_out = True
                self._kill()
            for fd, _ in poll.poll(max(left, 0.05) * 1000 if not self.timed_out else 1000):
                self._ready(fd, poll)
        return self._ending()

    def _ready(self, fd: int, poll: select.poll) -> None:
        if fd == self.pidfd:
            self.usage, self.dead = self.cgroup.usage() if self.cgroup else Usage(), True
            poll.unregister(fd)
            return
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        self.ended = not data
        for stream, chunk in self.frames.feed(data):
            self._take(stream, chunk)

    def _take(self, stream: int, chunk: bytes) -> None:
        """Pass output on, holding back what may be the beginning of the end mark."""
        data = self.held[stream] + chunk
        cut = data.rfind(b"\x1e", max(0, len(data) - MARK - 3))
        first = data.rfind(b"\x1e", max(0, len(data) - MARK - 3), cut) if cut >= 0 else -1
        keep = len(data) if cut < 0 else (first if first >= 0 else cut)
        self.held[stream] = data[keep:]
        if keep and not self.capped and not self.sink(data[:keep]):
            self.capped = True
            self._kill()

    def _kill(self) -> None:
        # In a thread: the engine answers only when the streams are drained, and draining them is our own job.
        threading.Thread(target=self.container.kill, daemon=True).start()

    def _marked(self) -> bool:
        out = self.held[1]
        return self.held[2] == self.mark and out[:MARK] == self.mark and len(out) == MARK + 3

    def _ending(self) -> Ending:
        marked = self._marked()
        oom = bool(self.usage.oom_kills)
        if marked and self.usage.oom_kills is not None:
            code, error = int(self.held[1][MARK:]), ""
        else:
            code = self.engine.wait(self.container.id)
            state = self.engine.state(self.container.id)
            oom, error = bool(state.get("OOMKilled")) or oom, str(state.get("Error") or "")
        if not marked:
            self._release()
        seconds = time.monotonic() - self.container.gone_at
        return Ending(code, self.usage, seconds, self.timed_out, self.capped, oom, error)

    def _release(self) -> None:
        """Give back what was held as a possible mark and was none."""
        for stream in (1, 2):
            rest = self.held[stream].partition(self.mark)[0]
            if rest and not self.capped:
                self.sink(rest)


class Frames:
    """Takes the engine's multiplexed stream apart: an eight-byte header (stream, length), then that many bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (1 stdout | 2 stderr, bytes). A frame is passed on as it comes, not when it is complete."""
        data = self._rest + data
        while len(data) >= 8:
            stream, length = struct.unpack(">BxxxL", data[:8])
            chunk = data[8 : 8 + length]
            if len(chunk) < length:
                yield from self._partial(stream, length, chunk)
                return
            yield stream, chunk
            data = data[8 + length :]
        self._rest = data

    def _partial(self, stream: int, length: int, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        if chunk:
            yield stream, chunk
        self._rest = struct.pack(">BxxxL", stream, length - len(chunk))
