"""The race: our whole process against bare `docker run` and a plain Prefect flow, on the same graphs, in one run.

    .venv/bin/python tests/benchmarks/race.py [--rounds N] [--scale]

Every contender does the same containers with the same parallelism, with a Prefect server that is running already; the
contenders take turns, so that a machine whose speed drifts is unfair to nobody. Only ratios of one run mean anything.
Ours does more than the others: a policy with seccomp and limits, git in and out, audit, report.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

IMAGE = "workflowmaster/step:1"
WM = [sys.executable, "-m", "workflowmaster.flows.cli"]

FAN = [("first", []), *((f"side{n}", ["first"]) for n in range(8)), ("last", [f"side{n}" for n in range(8)])]
CHAIN = [(f"s{n}", [f"s{n - 1}"] if n else []) for n in range(10)]

PLAIN = """
import sys, json, asyncio, os
import docker
from concurrent.futures import ThreadPoolExecutor
from prefect import flow, task
graph = json.loads(sys.argv[1])
client = docker.from_env(max_pool_size=32)

@task
def step(name):
    c = client.containers.create("IMAGE", ["true"], network_mode="none")
    try:
        c.start()
        assert c.wait()["StatusCode"] == 0
        return c.logs().decode()
    finally:
        c.remove(force=True)

@flow
def plain():
    futures = {}
    for name, needs in graph:
        futures[name] = step.submit(name, wait_for=[futures[n] for n in needs])
    for f in futures.values():
        f.result()

plain()
""".replace("IMAGE", IMAGE)


def prompt(graph: list[tuple[str, list[str]]], parallel: int) -> str:
    """The graph as a prompt file of no-op steps."""
    lines = ["---", f"max-parallel: {parallel}", "security-policy: standard", "---", "# Race", "", "## Steps", ""]
    for name, needs in graph:
        lines += [f"### {name}", *([f"- needs: [{', '.join(needs)}]"] if needs else []), "```sh", "true", "```", ""]
    return "\n".join(lines)


def bare(graph: list[tuple[str, list[str]]]) -> None:
    """`docker run` for each node, all ready ones at the same time."""
    done: set[str] = set()
    running: dict[str, subprocess.Popen[bytes]] = {}
    left = dict(graph)
    while left or running:
        for name in [n for n, needs in left.items() if set(needs) <= done]:
            del left[name]
            command = ["docker", "run", "--rm", "--network", "none", IMAGE, "true"]
            running[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        ended = [name for name, process in running.items() if process.poll() is not None]
        for name in ended:
            assert running.pop(name).returncode == 0
            done.add(name)
        if not ended:
            time.sleep(0.002)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A Prefect server of its own that everybody uses."""
    from workflowmaster.flows.embedded import EmbeddedServer, environment

    os.environ.update(environment(folder))
    own = EmbeddedServer(folder).start()
    url = own.wait_ready()
    os.environ["PREFECT_API_URL"] = url
    try:
        yield url
    finally:
        own.stop(wait=True)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def quiet(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)[:200]} failed:\n{done.stderr[-2000:]}")


def race(folder: Path, rounds: int) -> None:
    """Print seconds and ratios for both graphs."""
    print(f"{'graph':<12}{'contender':<28}{'median s':>9}{'min':>8}{'max':>8}{'ours / it':>11}")
    for title, graph in (("1 → 8 → 1", FAN), ("chain of 10", CHAIN)):
        file = folder / "race.md"
        file.write_text(prompt(graph, 8))
        contenders: dict[str, Callable[[], object]] = {
            "bare docker run": lambda graph=graph: bare(graph),
            "plain Prefect + docker-py": lambda graph=graph: quiet([sys.executable, "-c", PLAIN, json.dumps(graph)]),
            "workflowmaster": lambda file=file: quiet([*WM, "run", str(file), "--workspace", str(folder / "ws"), "-q"]),
        }
        took: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds + 1):
            for name, work in contenders.items():
                seconds = timed(work)
                if number:  # the first round warms everybody up
                    took[name].append(seconds)
        ours = took["workflowmaster"]
        for name, values in took.items():
            ratio = statistics.median(a / b for a, b in zip(ours, values, strict=True))
            print(
                f"{title:<12}{name:<28}{statistics.median(values):>9.2f}{min(values):>8.2f}{max(values):>8.2f}{ratio:>11.2f}"
            )


def quick(rounds: int) -> None:
    """Print how fast the commands answer that must answer at once."""
    example = Path(__file__).parents[2] / "examples" / "fix-due-dates.md"
    for words in (["--help"], ["check", str(example)]):
        values = [timed(lambda words=words: quiet([*WM, *words])) for _ in range(rounds + 4)]
        print(
            f"{'':<12}{'workflowmaster ' + words[0]:<28}{statistics.median(values):>9.2f}{min(values):>8.2f}{max(values):>8.2f}"
        )


def scale(folder: Path) -> None:
    """Print what a step costs in a run of a hundred and of a thousand."""
    per = {}
    for count in (100, 1000):
        numbers = ", ".join(str(n) for n in range(count))
        file = folder / f"scale{count}.md"
        head = "---\nsecurity-policy: minimal\nmax-parallel: 8\n---\n# Scale\n\n## Steps\n\n### noop\n"
        file.write_text(f"{head}- matrix: {{n: [{numbers}]}}\n```sh\ntrue\n```\n")
        command = [*WM, "run", str(file), "--workspace", str(folder / "ws"), "-q", "--json"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        took = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer = json.loads(done.stdout)
        per[count] = 1000 * answer["seconds"] / count
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(
            f"{count} steps: {answer['status']}, {took:.1f} s in all, {per[count]:.1f} ms a step, "
            f"{1000 * cpu / count:.1f} ms CPU a step, peak RSS {after.ru_maxrss / 1024:.0f} MiB"
        )
    print(f"growth from 100 to 1000 steps: {per[1000] / per[100]:.2f} × per step")


def main() -> None:
    """Run what was asked for."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--rounds", type=int, default=5)
    given.add_argument("--scale", action="store_true", help="also 100 and 1000 steps in one prompt")
    options = given.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ws").mkdir()
        os.environ["WORKFLOWMASTER_HOME"] = str(folder / "home")
        with server(folder / "server"):
            race(folder, options.rounds)
            quick(options.rounds)
            if options.scale:
                scale(folder)


if __name__ == "__main__":
    main()
