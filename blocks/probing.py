"""Runs hostile operations in containers of a policy, and the same ones in a container without any, and compares.

The containers of the policy are made by the very code that makes a step's: the same request, the same arguments, the
same bounded folders and the same watch. So what is judged is what steps get. The container without a policy is the
control of the experiment: privileged, root, in the host's own network and among its processes. A probe that does not
succeed there says nothing about a sandbox, and is void.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict

from workflowmaster.blocks import bounded
from workflowmaster.blocks.bystander import VARIABLE, Bystander
from workflowmaster.blocks.capabilities import names
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import OURS, SandboxUnavailable
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.output import Capture
from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.ownership import hand_over, needs_handing_over
from workflowmaster.blocks.probes import battery
from workflowmaster.blocks.promises import Outcome, Verdict, Word, judge, promises
from workflowmaster.blocks.request import SCRATCH, WORKSPACE, ContainerRequest, Mount
from workflowmaster.blocks.runtime import is_gvisor, pids_granted, runtime_for
from workflowmaster.policies import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from workflowmaster.blocks.bounded import Bound
    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.growth import Growth
    from workflowmaster.blocks.probes.battery import Probe
    from workflowmaster.blocks.reader import Ending
    from workflowmaster.policies import SecurityPolicy

PYTHON = "python3"

START = "import sys; sys.path.insert(0, '/wm/inputs'); from workflowmaster.blocks.probes.battery import main; main()"
"""What python3 is told inside: the probes under the names they have here, and nothing else of ours."""

SECONDS = 240.0
"""Wall time of a lane; each probe has its own, and they take three to six seconds together."""

WALL = 1.0
"""Wall time of the lane whose probe wants to live longer."""

AT_ONCE = 3
"""Lanes at a time: most of them mostly wait."""

YOUNGEST = 38
"""Number of the first capability (PERFMON, then BPF and CHECKPOINT_RESTORE) that was split off SYS_ADMIN."""


class ProbeReport(BaseModel):
    """What all probes say of one policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    policy_hash: str
    image_id: str
    seconds: float
    """For the policy's own containers, without the unrestricted ones."""
    probes: tuple[Verdict, ...]

    def having(self, word: Word) -> tuple[str, ...]:
        """Return the names of the probes with this verdict, in the table's order."""
        return tuple(one.name for one in self.probes if one.verdict == word)


@dataclass
class Placed:
    """One container that is about to run probes, and where it writes."""

    container: Container
    exchange: Exchange
    workspace: Path | None
    bound: Bound | None


class Unrestricted(Container):
    """A container that may do everything: what probes are measured by. Never for anything but our own probes.

    Not by the engine's word `privileged`, which asks for capabilities that its own host may not have, and fails.
    """

    def _arguments(self, request: ContainerRequest) -> tuple[dict[str, Any], dict[str, Any]]:
        config, host = super()._arguments(request)
        config |= {"user": "0:0", "environment": {VARIABLE: os.environ.get(VARIABLE, "")}}
        mounts = [*request.mounts, Mount(Path("/dev"), "/dev"), Mount(Path("/sys"), "/sys")]
        return config, {
            "mounts": [replace(mount, writable=True).spelled() for mount in mounts],
            "cap_drop": ["ALL"],
            "cap_add": list(_capabilities()),
            "security_opt": ["seccomp=unconfined", "apparmor=unconfined", "label=disable"],
            "device_cgroup_rules": ["b *:* rwm", "c *:* rwm"],
            "network_mode": "host",
            "pid_mode": "host",
            "uts_mode": "host",
            # The engine mounts /dev/shm noexec even here, and gives it 64 megabytes.
            "tmpfs": {SCRATCH: "exec", "/dev/shm": "exec"},  # noqa: S108 - the container's own
            "init": True,
            "log_config": host["log_config"],
            "MaskedPaths": [],
            "ReadonlyPaths": [],
        }

    def _attest(self, asked: ContainerRequest) -> None:
        """Attest nothing: it promises nothing. Among the host's processes the death of one is not the end of all."""


def _capabilities() -> tuple[str, ...]:
    """Return what this host's kernel has to give, which is never less than what its engine has.

    Without the three youngest: engines of before 2022 do not know them, and SYS_ADMIN has what is in them.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    bits = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd"))
    return names(int(bits, 16) & (1 << YOUNGEST) - 1)


class Proving:
    """A context in which policies are probed; the unrestricted container runs once for all of them."""

    def __init__(self, engine: Engine, image_id: str, watch: Callable[[Engine, Placed], Growth | None]) -> None:
        self.engine, self.image_id, self.watch = engine, image_id, watch
        self.probes = battery.load()
        self.folder = Path(tempfile.mkdtemp(prefix="workflowmaster-probe-"))
        self.gift = self.folder / "gift"
        self.bystander = Bystander(self.folder / "host")
        self._name = f"{OURS}-probe-{secrets.token_hex(4)}"
        self._made = 0

    def __enter__(self) -> Self:
        """Put up what stands outside. SandboxUnavailable where the engine is on another machine."""
        try:
            self._refuse_remote()
            # Containers of any user pass through; what is in it is worth nothing to anybody.
            self.folder.chmod(0o755)
            self.gift.mkdir()
            self.bystander.__enter__()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def _refuse_remote(self) -> None:
        if not self.engine.info.local:
            raise SandboxUnavailable(
                "probes reach for what is on this machine, and the engine is on another: run them there", reason="mount"
            )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Take it down, and all folders with it."""
        self.bystander.__exit__(kind, error, tb)
        bounded.release(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def report(self, policy: SecurityPolicy) -> ProbeReport:
        """Probe one policy. SandboxUnavailable if a container cannot be had, or has no python3."""
        reference = self.unrestricted
        began = time.monotonic()
        found = self._battery(policy, Container)
        gvisor = is_gvisor(runtime_for(policy, self.engine.info))
        held = policy.model_copy(update={"pids": pids_granted(policy, gvisor=gvisor)})
        verdicts = tuple(
            judge(one, held, found[name], reference[name], gvisor=gvisor) for name, one in self.probes.items()
        )
        return ProbeReport(
            policy=policy.name,
            policy_hash=policy.hash,
            image_id=self.image_id,
            seconds=round(time.monotonic() - began, 3),
            probes=verdicts,
        )

    @cached_property
    def unrestricted(self) -> dict[str, Outcome]:
        """How every probe ends in a container that may do everything."""
        return self._battery(load("minimal"), Unrestricted)

    def _battery(self, policy: SecurityPolicy, kind: type[Container]) -> dict[str, Outcome]:
        lanes: dict[str, list[Probe]] = {}
        for one in self.probes.values():
            lanes.setdefault(one.lane, []).append(one)
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix=self._name) as threads:
            # The main one first: it is the longest.
            work = [threads.submit(Lane(self, policy, kind, probes).run) for _, probes in sorted(lanes.items())]
            return {name: outcome for done in work for name, outcome in done.result().items()}

    def place(self, policy: SecurityPolicy, kind: type[Container], names: Sequence[str]) -> Placed:
        """Park a container that will run these probes, as a step's is parked."""
        self._made += 1
        name, user = f"{self._name}-{self._made}", _user(policy, kind)
        bound = None if kind is Unrestricted else bounded.bound_of(policy, local=self.engine.info.local)
        exchange = Exchange(self.folder / name).make(user, bound)
        workspace = self._workspace(exchange.folder, user) if policy.workspace != "none" else None
        request = ContainerRequest(
            name=name,
            image_id=self.image_id,
            policy=policy,
            argv=(PYTHON, "-I", "-B", "-c", START),
            mounts=(*exchange.mounts, *self._mounts(policy, kind, workspace)),
            labels={"workflow": "probe", **Owner.me().labels()},
            user=f"{user[0]}:{user[1]}",
            workdir=WORKSPACE if workspace else SCRATCH,
        )
        for file in sorted(Path(battery.__file__).parent.glob("*.py")):
            exchange.place(f"workflowmaster/blocks/probes/{file.name}", file.read_bytes())
        watched = [] if kind is Unrestricted else [n for n in names if promises(self.probes[n].blocked_by, policy)]
        facts = replace(self.bystander.facts, watched=tuple(watched))
        environment = {"HOME": SCRATCH, **({VARIABLE: facts.token} if kind is Unrestricted else {})}
        exchange.write(environment, {"outside.json": json.dumps(asdict(facts)), "names": "\n".join(names)})
        return Placed(kind(self.engine, request).park(), exchange, workspace, bound)

    def _workspace(self, folder: Path, user: tuple[int, int]) -> Path:
        workspace = folder / "workspace"
        workspace.mkdir()
        (workspace / "readme").write_text("a file\n", encoding="ascii")
        for path, mode in ((workspace, 0o755), (workspace / "readme", 0o644)):
            path.chmod(mode)  # whatever our own umask says
            if os.geteuid() == 0:
                os.chown(path, *user)
        return workspace

    def _mounts(self, policy: SecurityPolicy, kind: type[Container], workspace: Path | None) -> list[Mount]:
        mounts = [Mount(workspace, WORKSPACE, writable=policy.workspace in ("rw", "copy"))] if workspace else []
        # Read-only for those who are judged: what an unrestricted container has left for them to run.
        mounts.append(Mount(self.gift, "/gift"))
        if kind is Unrestricted:
            mounts.append(Mount(self.bystander.folder, str(self.bystander.folder)))
            sockets = [Path(path) for path in ("/var/run/docker.sock",) if Path(path).is_socket()]
            mounts += [Mount(path, str(path)) for path in sockets]
        return mounts

    def clear(self, placed: Placed) -> None:
        """Remove a container and unmount what was mounted for it; what another user left becomes ours to remove."""
        placed.container.remove()
        bounded.release(placed.exchange.folder)
        request = placed.container.request
        user = 0 if isinstance(placed.container, Unrestricted) else int(request.user.partition(":")[0])
        for number, folder in enumerate(filter(None, (placed.exchange.outward, placed.workspace))):
            if placed.container.shares_files and needs_handing_over(folder, user):
                hand_over(self.engine, self.image_id, folder, name=f"{request.name}-own{number}", labels={})


def _user(policy: SecurityPolicy, kind: type[Container]) -> tuple[int, int]:
    """Return uid and gid of a container: never 0 but for the unrestricted one."""
    if kind is Unrestricted:
        return 0, 0
    if policy.user == "workspace" and os.geteuid():
        return os.geteuid(), os.getegid()
    number = 200_000 + secrets.randbelow(60_000) if policy.user == "unique" else 1000
    return number, number


@dataclass
class Lane:
    """Some probes in one container, or in as many as they take along."""

    proving: Proving
    policy: SecurityPolicy
    kind: type[Container]
    probes: list[Probe]

    def run(self) -> dict[str, Outcome]:
        """Run them and return how each ended. SandboxUnavailable."""
        lane = self.probes[0].lane
        if lane == "output":
            return self._printed()
        return self._outlived() if lane == "time" else self._told()

    def _told(self) -> dict[str, Outcome]:
        """Run probes that judge themselves; the one that takes its container along was stopped with it."""
        found: dict[str, Outcome] = {}
        left = [one.name for one in self.probes]
        while left:
            lines = Lines()
            ending = self._once(left, SECONDS, lines)
            if not lines.begun:
                raise SandboxUnavailable(
                    f"no probe began under {self.policy.name}: {lines.other.strip() or f'exit {ending.exit_code}'}; "
                    "the image needs python3",
                    reason="image",
                )
            found |= lines.outcomes
            if lines.begun not in found:
                found[lines.begun] = Outcome("refused", _ended(ending))
            left = [name for name in left if name not in found]
        return found

    def _printed(self) -> dict[str, Outcome]:
        """Let the loudest print, and see how much of it arrives."""
        loudest = max(self.probes, key=lambda one: one.measure)
        log = self.proving.folder / f"log-{secrets.token_hex(4)}"
        cap = 1 << 40 if self.kind is Unrestricted else self.policy.output_cap
        with Capture(log, cap=cap, policy=self.policy.name) as capture:
            self._once([loudest.name], SECONDS, capture)
        log.unlink()
        cut = Outcome("refused", f"stopped after {capture.size:,} bytes")
        return {one.name: Outcome("done") if capture.size >= one.measure << 20 else cut for one in self.probes}

    def _outlived(self) -> dict[str, Outcome]:
        """Give it less wall time than it wants."""
        ending = self._once([self.probes[0].name], SECONDS if self.kind is Unrestricted else WALL, lambda _: True)
        stopped = Outcome("refused", f"killed after {ending.seconds:.1f} s")
        return {self.probes[0].name: stopped if ending.timed_out else Outcome("done")}

    def _once(self, names: Sequence[str], seconds: float, sink: Callable[[bytes], bool]) -> Ending:
        placed = self.proving.place(self.policy, self.kind, names)
        try:
            watch = None if self.kind is Unrestricted else self.proving.watch(self.proving.engine, placed)
            return placed.container.run(seconds, sink, watch)
        finally:
            self.proving.clear(placed)


class Lines:
    """Takes a battery's output: a line of JSON for each beginning and each outcome, and whatever else is said."""

    def __init__(self) -> None:
        self.begun = ""
        """The last probe that was begun."""
        self.outcomes: dict[str, Outcome] = {}
        self.other = ""
        self._rest = b""

    def __call__(self, data: bytes) -> bool:
        """Take bytes as they come."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line.decode(errors="replace"))
        return True

    def _take(self, line: str) -> None:
        if not line.startswith("{"):
            self.other += f"{line}\n"
            return
        said = json.loads(line)
        if said["outcome"] == "begun":
            self.begun = said["name"]
        else:
            self.outcomes[said["name"]] = Outcome(said["outcome"], said["detail"])


def _ended(ending: Ending) -> str:
    if ending.disk_capped:
        return "its container was stopped for what its files grew by"
    if ending.oom_killed:
        return "its container was killed for its memory"
    return "its container ran out of time" if ending.timed_out else f"its container ended with {ending.exit_code}"
