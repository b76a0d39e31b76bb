"""What the sandbox adds to a step: from ready to the first instruction, from the last one to the result.

    .venv/bin/python tests/benchmarks/sandbox.py [--rounds N] [--chains N]

All contenders take turns in one run, so only ratios and differences within it mean anything. The command under test
prints the clock as its first and its last act; the container's clock is the host's. `bare` is `docker run` with the
same flags, made from the same request as ours.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import race

from workflowmaster import policies
from workflowmaster.blocks.arguments import create_arguments
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import Engine
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.request import SCRATCH, ContainerRequest
from workflowmaster.flows.audit import AuditLog

ARGV = ("sh", "-c", "date +%s%N; date +%s%N")
USER = 1000


class Contest:
    """Makes containers of one policy, and keeps what each contender took."""

    def __init__(self, engine: Engine, folder: Path, policy: str) -> None:
        self.engine, self.folder = engine, folder
        self.policy = policies.load(policy)
        self.image = engine.image_id(race.IMAGE) or sys.exit(f"no image {race.IMAGE}: workflowmaster image build")
        self.took: dict[str, list[float]] = {}

    def note(self, what: str, seconds: float) -> None:
        self.took.setdefault(what, []).append(1000 * seconds)

    def made(self) -> tuple[Container, Exchange]:
        name = f"bench-{secrets.token_hex(6)}"
        exchange = Exchange(self.folder / name).make((USER, USER))
        request = ContainerRequest(
            name=name,
            image_id=self.image,
            policy=self.policy,
            argv=ARGV,
            mounts=exchange.mounts,
            labels={"workflow": "bench"},
            user=f"{USER}:{USER}",
            workdir=SCRATCH,
        )
        exchange.write({"PATH": "/usr/bin:/bin"}, {})
        return Container(self.engine, request), exchange

    def parked(self, how: str, *, by_pidfd: bool) -> None:
        """Go to a container that waits: what is on a step's critical path."""
        container, _ = self.made()
        container.park()
        if not by_pidfd:
            os.close(container.pidfd)
            container.pidfd = -1
        self._go(container, how, time.time_ns())

    def unparked(self) -> None:
        """Create, start and go, as nothing had been prepared."""
        container, _ = self.made()
        ready = time.time_ns()
        container.park()
        self._go(container, "unparked", ready)

    def _go(self, container: Container, how: str, ready: int) -> None:
        output = bytearray()
        try:
            container.run(60, lambda data: output.extend(data) is None)
            ended = time.time_ns()
        finally:
            container.remove()
        self._account(how, ready, bytes(output), ended)
        if how == "unparked":
            self.note("unparked, whole, removed", (time.time_ns() - ready) / 1e9)

    def _account(self, how: str, ready: int, output: bytes, ended: int) -> None:
        first, last = (int(line) for line in output.split())
        self.note(f"{how}: ready → first instruction", (first - ready) / 1e9)
        self.note(f"{how}: last instruction → result", (ended - last) / 1e9)
        self.note(f"{how}: both", (ended - last + first - ready) / 1e9)

    def bare(self) -> None:
        """`docker run` with the same flags, spelt from the same request."""
        container, exchange = self.made()
        command = ["docker", "run", "--rm", *self._flags(container.request, exchange), self.image, *ARGV]
        ready = time.time_ns()
        done = subprocess.run(command, capture_output=True, check=True)
        ended = time.time_ns()
        self._account("bare docker run", ready, done.stdout, ended)
        self.note("bare docker run, whole, removed", (ended - ready) / 1e9)

    def _flags(self, request: ContainerRequest, exchange: Exchange) -> list[str]:
        _, host = create_arguments(request, self.engine.info)
        profile = exchange.folder / "seccomp.json"
        profile.write_text(next(o for o in host["security_opt"] if o.startswith("seccomp=")).removeprefix("seccomp="))
        flags = [
            *("--user", request.user, "--workdir", request.workdir, "--network", host["network_mode"]),
            *("--security-opt", "no-new-privileges:true", "--security-opt", f"seccomp={profile}"),
            *("--memory", str(host["mem_limit"]), "--memory-swap", str(host["memswap_limit"])),
            *("--cpus", str(host["nano_cpus"] / 1e9), "--pids-limit", str(host["pids_limit"])),
            *("--ipc", host["ipc_mode"], "--log-driver", host["log_config"]["Type"], "--cap-drop", "ALL"),
            *(["--read-only"] if host["read_only"] else []),
            *(["--init"] if host["init"] else []),
        ]
        for path, options in host["tmpfs"].items():
            flags += ["--tmpfs", f"{path}:{options}"]
        for limit in host["ulimits"]:
            flags += ["--ulimit", f"{limit['Name']}={limit['Soft']}:{limit['Hard']}"]
        for mount in request.mounts:
            flags += ["--volume", f"{mount.source}:{mount.target}:{'rw' if mount.writable else 'ro'}"]
        return flags

    def ratio(self, ours: str, theirs: str) -> float:
        return statistics.median(a / b for a, b in zip(self.took[ours], self.took[theirs], strict=True))


def overhead(engine: Engine, folder: Path, rounds: int, policy: str) -> None:
    """Print the milliseconds of each part, for each contender."""
    contest = Contest(engine, folder, policy)
    contenders: list[Callable[[], None]] = [
        lambda: contest.parked("parked, pidfd and mark", by_pidfd=True),
        lambda: contest.parked("parked, the engine's word", by_pidfd=False),
        contest.unparked,
        contest.bare,
    ]
    for number in range(rounds + 1):
        for work in contenders:
            work()
        if number == 0:
            contest.took.clear()  # the first round warms everybody up
    print(f"policy {policy}, {rounds} rounds, ms{'':<37}{'median':>9}{'min':>8}{'max':>8}")
    for what, values in contest.took.items():
        print(f"  {what:<58}{statistics.median(values):>9.1f}{min(values):>8.1f}{max(values):>8.1f}")
    whole = contest.ratio("unparked, whole, removed", "bare docker run, whole, removed")
    result = contest.ratio("unparked: both", "bare docker run: both")
    print(f"  unparked / bare docker run: whole {whole:.2f}, to the result {result:.2f}")


def paperwork(engine: Engine, folder: Path, rounds: int) -> None:
    """Print what attestation and the audit record of one step cost."""
    contest = Contest(engine, folder, "standard")
    log = AuditLog(folder / "audit.jsonl")
    container, _ = contest.made()
    container.park()
    try:
        for _ in range(rounds):
            os.close(container.pidfd)  # it is taken anew
            started = time.perf_counter()
            container._attest(container.request)
            contest.note("attestation", time.perf_counter() - started)
            started = time.perf_counter()
            log.append("container.started", step="s", container=container.id)
            log.append("container.finished", step="s", enforced=["memory"] * 30)
            contest.note("two audit records", time.perf_counter() - started)
    finally:
        container.remove()
        log.close()
    for what, values in contest.took.items():
        print(f"  {what:<58}{statistics.median(values):>9.1f}{min(values):>8.1f}{max(values):>8.1f}")


def chains(folder: Path, rounds: int) -> None:
    """Print a chain of ten steps of half a second: its steps phase against the ideal, and the process against plain."""
    file = folder / "chain.md"
    file.write_text(race.prompt(race.CHAIN, 8).replace("\ntrue\n", "\nsleep 0.5\n"))
    plain = race.PLAIN.replace('["true"]', '["sleep", "0.5"]')
    phases, ratios = [], []
    for number in range(rounds + 1):
        started = time.perf_counter()
        command = [*race.WM, "run", str(file), "--workspace", str(folder / "ws"), "-q", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        ours = time.perf_counter() - started
        theirs = race.timed(lambda: race.quiet([sys.executable, "-c", plain, json.dumps(race.CHAIN)]))
        if number:
            phases.append(steps_phase(json.loads(done.stdout)) / 5.0)
            ratios.append(ours / theirs)
    print(f"chain of ten 0.5 s steps: steps phase {statistics.median(phases):.3f} × ideal", end="; ")
    print(f"whole process {statistics.median(ratios):.2f} × plain Prefect's ({min(ratios):.2f} to {max(ratios):.2f})")


def steps_phase(answer: dict[str, Any]) -> float:
    """Seconds from the first step's go to the last one's end, by the run's own audit log."""
    records = [json.loads(line) for line in Path(answer["audit_log"]).read_text().splitlines()]
    begun = [record["ts"] for record in records if record["event"] == "container.started"]
    ended = [record["ts"] for record in records if record["event"] == "step.finished"]
    return float(max(ended) - min(begun))


def main() -> None:
    """Run what was asked for."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--rounds", type=int, default=20)
    given.add_argument("--chains", type=int, default=5)
    given.add_argument("--policies", nargs="+", default=["standard", "hardened"])
    options = given.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "ws").mkdir()
        os.environ["WORKFLOWMASTER_HOME"] = str(folder / "home")
        engine = Engine()
        for policy in options.policies:
            overhead(engine, folder, options.rounds, policy)
        paperwork(engine, folder, max(options.rounds, 50))
        with race.server(folder / "server"):
            chains(folder, options.chains)


if __name__ == "__main__":
    main()
