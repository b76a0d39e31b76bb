"""Numbers of real runs, held against what this test counts itself: log files, and the audit log's own account."""

from __future__ import annotations

import json
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
# Killed, retried, resumed

## Steps

### base
```sh
echo base > base.txt
```

### flaky
- needs: base
- retries: {max: 2, wait: 200ms, backoff: fixed}
```sh
[ "$WM_ATTEMPT" -ge 3 ] || exit "1$WM_ATTEMPT"
```

### slow
- needs: flaky
```sh
echo working
sleep 5
```

### last
- needs: slow
- retries: 0
```sh
exit 1
```

### never
- needs: last
```sh
true
```
"""


@pytest.fixture(scope="module")
def ended(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], wait_until: Callable[..., Any]
) -> Path:
    """Run, kill while a step works, resume, and resume once more; returns the workflow's folder."""
    running = wm.start("run", prompt_file(PROMPT), "--workspace", repository().path, "-q")

    def working() -> Path | None:
        assert running.process.poll() is None, running.ended().text
        logs = wm.home.glob("workflows/*/logs/slow.1.log")
        return next((log.parents[1] for log in logs if log.read_text().startswith("working")), None)

    folder: Path = wait_until(working, 120.0)
    running.interrupt(signal.SIGKILL)
    running.ended()
    for _ in range(2):
        said = wm("resume", folder.name, "-q")
        assert said.code == 1, said.text
    return folder


@pytest.fixture(scope="module")
def audited(ended: Path) -> list[dict[str, Any]]:
    """The audit log: evidence of another hand, from which no number is ever made."""
    return [json.loads(line) for line in (ended / "audit.jsonl").read_text().splitlines() if '"event"' in line]


@pytest.fixture(scope="module")
def numbers(wm: Any, ended: Path) -> dict[str, Any]:
    found: dict[str, Any] = wm("stats", ended.name, "--by", "step", "--json").json
    return found


def events(audited: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [record for record in audited if record["event"] == name]


def test_attempts_and_containers_are_those_that_left_a_trace(
    ended: Path, audited: list[dict[str, Any]], numbers: dict[str, Any]
) -> None:
    logs = Counter(path.name.split(".")[0] for path in (ended / "logs").glob("*.log"))
    assert logs == {"base": 1, "flaky": 3, "slow": 1, "last": 2}
    steps = {name.rpartition(" / ")[2]: one for name, one in numbers["by_step"].items()}
    assert {name: one["attempts"] for name, one in steps.items() if one["attempts"]} == logs
    started = {record["container"] for record in events(audited, "container.started")}
    assert numbers["container_executions"] == len(started) == 7
    assert (numbers["container_unaccounted"], numbers["containers_adopted"]) == (0, 1)
    seconds = {record["container_id"]: record["seconds"] for record in events(audited, "container.finished")}
    assert set(seconds) == started
    assert numbers["container_seconds"] == pytest.approx(sum(seconds.values()), abs=0.01)


def test_tasks_are_counted_once_over_all_parts(numbers: dict[str, Any]) -> None:
    wanted = {"workflows": 1, "workflow_status": {"partial": 1}, "resumes": 2, "total_tasks": 5}
    wanted |= {"completed_tasks": 3, "failed_tasks": 1, "blocked_tasks": 1, "reused_tasks": 3}
    wanted |= {"attempts": 7, "retries": 3, "retries_by": {"decision": 2, "resume": 1}}
    assert {key: numbers[key] for key in wanted} == wanted
    assert numbers["success_rate"]["rate"] == 0.0
    assert numbers["task_success_rate"]["rate"] == 0.75
    assert numbers["first_attempt_rate"]["rate"] == 0.5, "base and slow, of base, flaky, slow and last"


def test_decisions_are_those_of_the_audit_log_with_what_came_of_them(
    audited: list[dict[str, Any]], numbers: dict[str, Any]
) -> None:
    verbs = Counter(record["verb"] for record in events(audited, "decision"))
    found: Counter[str] = Counter()
    for row in numbers["decisions"]:
        found[row["verb"]] += row["count"]
    assert found == verbs
    assert numbers["autonomous_decisions"] == verbs.total()
    retried = [row["outcomes"] for row in numbers["decisions"] if row["verb"] == "retry"]
    assert Counter(name for row in retried for name in row for _ in range(row[name])) == {"failed": 1, "succeeded": 1}


def test_work_is_shorter_than_the_time_it_took(numbers: dict[str, Any], ended: Path) -> None:
    worked, elapsed = numbers["workflow_seconds"]["p50"], numbers["workflow_elapsed_seconds"]["p50"]
    assert 5 < numbers["container_seconds"] <= worked < elapsed, "between the parts nobody worked on it"
    # The budget's own book is kept by another rule and must come to the same.
    assert numbers["budget_spent"]["minutes"] * 60 == pytest.approx(worked, abs=3)


def test_the_tasks_are_shown_as_they_stand(wm: Any, ended: Path, prefect_server: Any) -> None:
    found = wm("tasks", ended.name, "--json").json
    assert found["counts"] == {"reused": 3, "failed": 1, "blocked": 1}
    rows = {task["id"]: task for task in found["tasks"]}
    assert (rows["never"]["behind"], rows["last"]["attempts"], rows["flaky"]["attempts"]) == (["last"], 2, 3)
    shown = prefect_server.post("/artifacts/filter", {"artifacts": {"key": {"any_": ["tasks"]}}})
    run = json.loads((ended / "run.json").read_text())
    mine = [
        one for one in shown if one["flow_run_id"] == run.get("flow_run_id", run.get("data", {}).get("flow_run_id"))
    ]
    latest = max(mine, key=lambda one: one["updated"])
    assert latest["description"] == "5 steps: 3 reused, 1 failed, 1 blocked"
    assert json.loads(latest["data"])[-1]["note"] == "by last"
