"""What is left of runs, however they end: nothing. Real processes, real kills, and a look at everything afterwards."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks import bounded, deadline
from workflowmaster.blocks.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

ASKED = """\
# Asked to end

## Steps

### polite
- timeout: {polite}
- retries: 0
- continue-on-error: true
```bash
trap 'echo last words; exit 3' TERM
echo working
sleep 60
```

### deaf
- timeout: {deaf}
- retries: 0
- continue-on-error: true
```bash
trap '' TERM
echo working
sleep 60
```
"""

SHORT = """\
# Short containers

## Steps

### one
- policy: {policy}
```bash
echo one
```

### two
- needs: one
- policy: {policy}
```bash
sleep 0.3
```

### three
- needs: one
- policy: {policy}
```bash
sleep 0.2
```
"""


def docker(*words: str) -> list[str]:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
    return done.stdout.split()


def receipts(folder: Path) -> dict[str, Any]:
    """Step → receipt of its last container."""
    results = json.loads((folder / "state.json").read_text())["results"]
    return {name: result["receipts"][-1] for name, result in results.items() if result["receipts"]}


# --- asked to end, then killed ---


def test_at_its_wall_time_a_step_may_say_its_last_words_and_a_deaf_one_is_killed(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    said = wm.run(prompt_file(ASKED.format(polite="1s", deaf="1s")), repository().path)
    folder = wm.folder(said.json["workflow_id"])
    found = receipts(folder)
    polite, deaf = found["polite"], found["deaf"]
    assert (polite["exit_code"], polite["signal"], polite["timed_out"]) == (3, None, True)
    assert (deaf["exit_code"], deaf["signal"], deaf["timed_out"]) == (137, 9, True)
    assert 1 <= polite["seconds"] < 3.5 < deaf["seconds"] < 8
    log = wm("logs", folder.name, "--step", "polite").out
    assert "last words\n" in log
    assert log.endswith("[workflowmaster: stopped after 1 s, the step's wall time]\n")
    tasks = {task["id"]: task for task in said.json["tasks"]}
    assert tasks["polite"]["reason"].startswith("it ran longer than 1 s and was stopped")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stopped_run_asks_its_steps_to_end_before_it_kills_them(
    number: signal.Signals,
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
    containers: Callable[..., list[str]],
) -> None:
    line = command_line(PREFECT_API_URL=prefect_server.url)
    running = line.start("run", prompt_file(ASKED.format(polite="60s", deaf="60s")), "--workspace", repository().path)

    def both_work() -> list[Path]:
        assert running.process.poll() is None, running.ended().text
        logs = list((line.home / "workflows").glob("*/logs/*.1.log"))
        return logs if [log.read_text() for log in logs] == ["working\n"] * 2 else []

    logs = {log.name.split(".")[0]: log for log in wait_until(both_work, 60.0)}
    asked = time.monotonic()
    running.interrupt(number)
    assert running.ended(60.0).code == 130
    assert time.monotonic() - asked < 15
    assert "last words\n" in logs["polite"].read_text()
    assert "last words" not in logs["deaf"].read_text()
    assert containers(logs["deaf"].parents[1].name) == []


# --- who may remove what ---


@pytest.fixture
def dead() -> Owner:
    """A process of this host that has ended."""
    child = subprocess.Popen(["sleep", "60"])
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    owner = Owner.me()
    child.kill()
    child.wait()
    return Owner(owner.host, child.pid, f"{owner.started.rpartition('-')[0]}-{started}")


@pytest.fixture
def leave() -> Iterator[Callable[[str, Owner], dict[str, str]]]:
    """Leave one of each kind behind, as an owner's: a container on a network and with a volume, all of one name."""
    made: list[str] = []

    def one(name: str, owner: Owner) -> dict[str, str]:
        marks = {"workflow": name, **owner.labels(), **deadline.labels(1)}
        labels = [word for key, value in marks.items() for word in ("--label", f"workflowmaster.{key}={value}")]
        made.append(name)
        docker("network", "create", "--internal", *labels, name)
        docker("volume", "create", *labels, name)
        options = ("--name", name, "--network", name, "-v", f"{name}:/x")
        docker("run", "-d", *labels, *options, "workflowmaster/step:1", "sleep", "600")
        return {"container": name, "network": name, "volume": name}

    yield one
    for name in made:
        for words in (("rm", "-fv"), ("network", "rm"), ("volume", "rm", "-f")):
            subprocess.run(["docker", *words, name], capture_output=True, check=False)


def there(name: str) -> dict[str, bool]:
    """Which of the three kinds of that name the engine still has."""
    asked = {
        "container": ("ps", "-aq", "--filter", f"name=^/{name}$"),
        "network": ("network", "ls", "-q", "--filter", f"name=^{name}$"),
        "volume": ("volume", "ls", "-q", "--filter", f"name=^{name}$"),
    }
    return {kind: bool(docker(*words)) for kind, words in asked.items()}


ALL, NONE = (
    dict.fromkeys(("container", "network", "volume"), True),
    dict.fromkeys(("container", "network", "volume"), False),
)


def test_a_run_sweeps_up_after_the_dead_when_it_begins_and_after_nobody_else(
    wm: Any,
    dead: Owner,
    leave: Callable[..., Any],
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
) -> None:
    mark = f"wm-test-{os.getpid()}-{random.randrange(10**6)}"
    leave(f"{mark}-dead", dead)
    leave(f"{mark}-mine", Owner.me())
    leave(f"{mark}-elsewhere", Owner("elsewhere/0/0", dead.pid, dead.started))
    forgotten = wm.home / "workflows/task-20250101-000000-00000000"
    for name in ("trees/1", "exchange/a/in", "logs"):
        (forgotten / name).mkdir(parents=True, exist_ok=True)
    said = wm.run(prompt_file(SHORT.format(policy="standard")), repository().path)
    assert said.code == 0, said.text
    assert there(f"{mark}-dead") == NONE
    assert there(f"{mark}-mine") == ALL
    assert there(f"{mark}-elsewhere") == ALL
    assert [path.name for path in forgotten.iterdir() if path.is_dir()] == ["logs"]
    events = [json.loads(text) for text in Path(said.json["audit_log"]).read_text().splitlines()]
    (swept,) = [event for event in events if event["event"] == "swept"]
    # Which of the runs on this engine swept the container up, nobody can say: the suite has others at the same time.
    assert forgotten.name in swept["folders"]


def test_what_is_past_its_deadline_elsewhere_is_told_and_stays(wm: Any, dead: Owner, leave: Callable[..., Any]) -> None:
    mark = f"wm-test-{os.getpid()}-{random.randrange(10**6)}"
    elsewhere = {"workflow": mark, **Owner("elsewhere/0/0", 1, dead.started).labels(), "deadline": "1700000000"}
    labels = [word for key, value in elsewhere.items() for word in ("--label", f"workflowmaster.{key}={value}")]
    docker("create", "--name", mark, *labels, "workflowmaster/step:1", "true")
    try:
        told = wm("clean", "--json").json
        assert mark in told["overdue"]
        assert mark not in told["removed"]
        assert f"docker rm -f {mark}" in wm("clean").err
        assert there(mark)["container"]
    finally:
        docker("rm", "-f", mark)


@pytest.mark.long
def test_two_runs_and_a_clean_never_touch_each_others(
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
) -> None:
    """Two processes with one state directory, while a third cleans again and again."""
    line = command_line(PREFECT_API_URL=prefect_server.url)
    prompt = prompt_file(SHORT.format(policy="standard") + "\n### last\n- needs: two, three\n```bash\nsleep 2\n```\n")
    running = [line.start("run", prompt, "--workspace", repository().path, "--json", "-q") for _ in range(2)]
    removed: list[str] = []
    while any(one.process.poll() is None for one in running):
        removed += line("clean", "--json").json["removed"]
    answers = [one.ended() for one in running]
    assert [said.code for said in answers] == [0, 0], [said.text for said in answers]
    ids = [said.json["workflow_id"] for said in answers]
    assert not [name for name in removed if any(one in name for one in ids)]
    assert [task["attempts"] for said in answers for task in said.json["tasks"]] == [1] * 8


# --- many runs, random kills ---


def devices() -> set[str]:
    """Files behind loop devices."""
    return {path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")}


def corpses() -> set[int]:
    """Processes that have ended and that nobody has reaped."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if text.rpartition(")")[2].split()[0] == "Z":
            found.add(int(path.parent.name))
    return found


def torment(line: Any, prompt: Path, repo: Path, chance: random.Random) -> int:
    """Run once, and at a random moment do a random harm to it; return the exit code."""
    running = line.start("run", prompt, "--workspace", repo, "--json", "-q")
    harm = chance.choice(["none", "container", "container", "SIGKILL", "SIGKILL", "SIGTERM", "SIGINT"])
    until = time.monotonic() + chance.uniform(0.5, 5.0)
    while time.monotonic() < until and running.process.poll() is None:
        time.sleep(0.02)
    if harm.startswith("SIG"):
        running.interrupt(signal.Signals[harm])
    elif harm == "container":
        label = f"label=workflowmaster.owner-pid={running.process.pid}"
        for found in chance.sample(names := docker("ps", "-q", "--filter", label), min(1, len(names))):
            subprocess.run(["docker", "kill", found], capture_output=True, check=False)
    return int(running.ended().code)


def torments(line: Any, repo: Path, prompts: list[Path], *, count: int) -> list[int]:
    chance = random.Random(7)
    seeds = [chance.random() for _ in range(count)]
    with ThreadPoolExecutor(4) as threads:
        return list(
            threads.map(lambda n: torment(line, prompts[n % len(prompts)], repo, random.Random(seeds[n])), range(count))
        )


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_runs_with_random_kills_leave_nothing_behind(
    count: int,
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> None:
    line, repo = command_line(PREFECT_API_URL=prefect_server.url), repository()
    prompts = [prompt_file(SHORT.format(policy=policy)) for policy in ("standard", "hardened")]
    before = corpses()
    codes = torments(line, repo.path, prompts, count=count)
    assert set(codes) <= {0, 1, 4, 130, -9, -15, -2}, codes
    assert codes.count(-9) >= count / 10, "too few were killed for this to mean anything"
    # What a killed run had under way waits for its resume, unless somebody says that there will be none.
    for name in {one.rpartition("-")[0].rpartition("-")[0] for one in line("clean", "--json").json["kept"]}:
        if (line.home / "workflows" / name).exists():
            assert line("cancel", name).code in (0, 1, 130)
    cleaned = line("clean", "--json")
    assert cleaned.code == 0, cleaned.text
    workflows = [path.name for path in (line.home / "workflows").iterdir()]
    for words in (("ps", "-a", "--format", "{{.Names}}"), ("network", "ls", "-q"), ("volume", "ls", "-q")):
        found = [docker(*words, "--filter", f"label=workflowmaster.workflow={name}") for name in workflows]
        assert [one for one in found if one] == []
    assert bounded.mounted(line.home) == []
    assert [name for name in devices() if name.startswith(str(line.home))] == []
    left = [path for path in (line.home / "workflows").glob("*/*") if re.match(r"trees|exchange|\.swept", path.name)]
    assert left == []
    assert line("clean", "--json").json["removed"] == []
    wait_until(lambda: not corpses() - before, 30.0)
