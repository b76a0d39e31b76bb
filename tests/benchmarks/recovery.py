"""What recovery costs: a resume of a finished run, the audit log, and a container that is taken over.

    .venv/bin/python tests/benchmarks/recovery.py [--steps N] [--rounds N]

The run that is resumed is made first, with real containers: 200 of them take about a minute. `server` is a resume with
a Prefect server that is running already, `embedded` one that has none. The whole process is measured on a run that
stands as it was left, and then once more on one whose branch was deleted, which takes the long way through a flow run.
`a step` is the time from that flow's beginning to its end, as the run's records have it, for each step; the rest of the
long way is starting, which an empty run has too.
The machine's load is printed, because a bar of seconds means nothing on a busy one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import race

from workflowmaster.flows import journal
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.verifying import verify

WHOLE, STEP, ADOPTION = 3.0, 0.010, 1.0
"""Seconds that a resume of 200 finished steps may take, each of its steps, and an adoption after the claim."""

DURABLE, BUFFERED, VERIFY = 2_000, 10_000, 40
"""Events a second, and MB a second."""

LONG = "# Long\n\n## Steps\n\n### long\n```sh\necho working\nsleep 20\n```\n"


def graph(count: int) -> list[tuple[str, list[str]]]:
    """Twenty chains side by side."""
    return [(f"s{n}", [f"s{n - 20}"] if n >= 20 else []) for n in range(count)]


def prompt(count: int) -> str:
    """The graph as a prompt whose steps each write a file."""
    text = race.prompt(graph(count), 4)
    for n in range(count):
        text = text.replace("```sh\ntrue\n", f"```sh\necho {n} > f{n}.txt\n", 1)
    return text


def told(what: str, value: float, bar: float, unit: str, *, least: bool = False) -> None:
    held = value >= bar if least else value <= bar
    print(f"{what:<44}{value:>10.3f} {unit:<9}{'at least' if least else 'at most'} {bar:g}  {'yes' if held else 'NO'}")


def within(folder: Path) -> float:
    """Seconds between the beginning and the end of the last part of a run, by its records."""
    entries = journal.read(folder / "records.jsonl")
    begun, closed = ([entry.at for entry in entries.of(kind)][-1] for kind in ("begun", "closed"))
    return closed - begun


def answered(*words: str, url: str = "") -> dict[str, object]:
    env = (
        {**os.environ, "PREFECT_API_URL": url}
        if url
        else {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    )
    done = subprocess.run([*race.WM, *words, "--json", "-q"], capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)[:200]} failed:\n{done.stderr[-2000:]}")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def resumes(folder: Path, url: str, count: int, rounds: int) -> None:
    """Run a prompt once and resume it again and again, with a server and without one."""
    file, space = folder / "many.md", folder / "space"
    file.write_text(prompt(count))
    space.mkdir()
    began = time.perf_counter()
    said = answered("run", str(file), "--workspace", str(space), url=url)
    print(f"a run of {count} steps: {time.perf_counter() - began:.1f} s")
    place = Path(os.environ["WORKFLOWMASTER_HOME"]) / "workflows" / str(said["workflow_id"])
    for name, server in (("server", url), ("embedded", "")):
        whole, long, inside = [], [], []
        for _ in range(rounds):
            whole.append(resumed(place, server, said))
            branch = f"refs/heads/{said['branch']}"
            subprocess.run(["git", "--git-dir", place / "store/store.git", "update-ref", "-d", branch], check=True)
            long.append(resumed(place, server, said))
            inside.append(within(place))
        told(f"resume of {count}, {name}: whole process", statistics.median(whole), WHOLE, "s")
        told(f"resume of {count}, {name}: a step", 1000 * statistics.median(inside) / count, 1000 * STEP, "ms")
        print(f"{f'resume of {count}, {name}: the long way':<44}{statistics.median(long):>10.3f} s")


def resumed(place: Path, server: str, said: dict[str, object]) -> float:
    """Resume a finished run, hold that nothing of it ran, and return the seconds."""
    began = time.perf_counter()
    again = answered("resume", place.name, url=server)
    seconds = time.perf_counter() - began
    tasks = again["tasks"]
    assert isinstance(tasks, list)
    assert all(task["reused"] for task in tasks)
    assert again["commit"] == said["commit"]
    return seconds


def audit(folder: Path, count: int = 20_000) -> None:
    """Write and verify a log."""
    for name, event, bar in (("durable", "approval", DURABLE), ("buffered", "step.started", BUFFERED)):
        (folder / name).mkdir()
        path = folder / name / "audit.jsonl"
        log = AuditLog(path)
        number = count // 10 if name == "durable" else count
        began = time.perf_counter()
        for n in range(number):
            log.append(event, step=f"s{n}", answer="approved by ada")
        log.close()
        told(f"audit: {name} events", number / (time.perf_counter() - began), bar, "/s", least=True)
    began, size = time.perf_counter(), path.stat().st_size
    verify(path)
    told("audit: verify", size / 1e6 / (time.perf_counter() - began), VERIFY, "MB/s", least=True)


def adoption(folder: Path, url: str) -> None:
    """Kill a run in the middle of a step, and measure from the claim of the resume to the adoption of its container."""
    file, space = folder / "long.md", folder / "other"
    file.write_text(LONG)
    space.mkdir()
    workflows = Path(os.environ["WORKFLOWMASTER_HOME"]) / "workflows"
    known = set(workflows.iterdir())
    command = [*race.WM, "run", str(file), "--workspace", str(space), "-q"]
    running = subprocess.Popen(command, env={**os.environ, "PREFECT_API_URL": url}, stderr=subprocess.DEVNULL)
    while not [
        log for new in set(workflows.iterdir()) - known for log in new.glob("logs/long.1.log") if log.stat().st_size
    ]:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    (place,) = set(workflows.iterdir()) - known
    answered("resume", place.name, url=url)
    events = [json.loads(line) for line in (place / "audit.jsonl").read_text().splitlines()]
    claimed = [event["ts"] for event in events if event["event"] == "claim.taken"][-1]
    adopted = [event["ts"] for event in events if event["event"] == "container.adopted"]
    if adopted:
        told("adoption after the claim", adopted[0] - claimed, ADOPTION, "s")
    else:
        print("adoption: the container was not adopted")


def main() -> None:
    """Print every figure with its bar."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--steps", type=int, default=200)
    given.add_argument("--rounds", type=int, default=3)
    asked = given.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["WORKFLOWMASTER_HOME"] = str(folder / "home")
        (folder / "home").mkdir()
        audit(folder)
        with race.server(folder / "prefect-server") as url:
            resumes(folder, url, asked.steps, asked.rounds)
            adoption(folder, url)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
