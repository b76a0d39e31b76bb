"""Questions to a person, from the command line: what is asked, what can be answered, and what comes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

# Fails for want of memory until it is given more than the 64 MiB it asks for.
HUNGRY = """\
# Needs more than it asks for

## Steps

### before
```bash
echo before > before.txt
```

### hungry
- needs: before
- resources: {memory: 64m}
- retries: 0
- on-failure: escalate
```python
data = bytearray(150 * 1024 * 1024)
open("hungry.txt", "w").write(str(len(data)))
```

### uses
- needs: hungry
```bash
cat before.txt
ls
```

### side
```bash
echo side > side.txt
```
"""

TWO = """\
# Two questions

## Steps

### flaky
- retries: 0
- on-failure: escalate
```bash
echo "attempt $WM_ATTEMPT"
[ "$WM_ATTEMPT" -ge 3 ]
```

### release
- approval: required
```bash
echo released > released.txt
```

### after
- needs: release
```bash
cat released.txt
```
"""

CHAIN = """\
# Nothing is decided here

## Steps

### first
- priority: high
```bash
[ "$WM_ATTEMPT" -ge 2 ]
```

### second
- needs: first
- retries: 3
```bash
[ "$WM_ATTEMPT" -ge 2 ]
```
"""

Said = dict[str, Any]


def by_id(said: Any) -> dict[str, Said]:
    return {task["id"]: task for task in said.json["tasks"]}


def statuses(said: Any) -> dict[str, str]:
    return {name: task["status"] for name, task in by_id(said).items()}


def events(wm: Any, workflow: str, name: str) -> list[Said]:
    shown = wm("audit", "show", workflow, "--json", "--type", name).out.splitlines()
    return [json.loads(line) for line in shown]


@pytest.fixture
def hungry(wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]) -> Any:
    said = wm.run(prompt_file(HUNGRY), repository().path)
    assert said.code == 3, said.text
    return said


def test_more_memory_is_given_by_the_answer(wm: Any, hungry: Any, prefect_server: Any) -> None:
    workflow = hungry.json["workflow_id"]
    # Who does not need the failed step has finished.
    assert statuses(hungry) == {"before": "completed", "hungry": "waiting", "uses": "waiting", "side": "completed"}
    (row,) = [one for one in wm("list", "--waiting", "--json").json if one["workflow_id"] == workflow]
    assert (row["step"], row["sort"], row["verbs"]) == ("hungry", "escalation", ["retry", "skip", "abort", "deny"])
    assert row["command"] == f"workflowmaster approve {workflow} --step hungry --retry"
    asked = wm.folder(workflow) / "questions.md"
    assert "`hungry` failed. What now?" in asked.read_text()
    for words, message in (
        (("--memory", "64g"), "memory 64.0 GiB is more than its policy and the settings grant"),
        (("--memory", "32m"), "memory 32.0 MiB is less than it had: 64.0 MiB"),
        (("--memory", "lots"), "--memory lots"),
        (("--minutes", "-1"), "--minutes -1: expected a number above 0"),
        (("--skip", "--memory", "256m"), "memory and minutes are for another attempt"),
    ):
        refused = wm("approve", workflow, *words, "--json", "-q")
        assert refused.code == 2, refused.text
        assert message in refused.json["error"]
    assert not events(wm, workflow, "approval")
    said = wm("approve", workflow, "--retry", "--memory", "256m", "--note", "it loads it all", "--json", "-q")
    assert said.code == 0, said.text
    assert set(statuses(said).values()) == {"completed"}
    assert not asked.exists()
    (told,) = events(wm, workflow, "approval")
    kept = {name: told[name] for name in ("question", "verb", "note", "limits")}
    limits = {"memory": 256 * 2**20, "seconds": None}
    assert kept == {"question": 1, "verb": "retry", "note": "it loads it all", "limits": limits}
    late = wm("approve", workflow, "--step", "hungry", "--json", "-q")
    assert late.code == 2
    assert "Its question was answered: retried by " in late.json["error"]
    assert len(events(wm, workflow, "approval")) == 1


def test_what_is_skipped_lets_its_dependants_go_on(
    wm: Any, hungry: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]
) -> None:
    # A resume alone is no answer: it waits on, and nothing runs again.
    waits = wm("resume", hungry.json["workflow_id"], "--json", "-q")
    assert waits.code == 3, waits.text
    assert by_id(waits)["hungry"]["container_id"] == by_id(hungry)["hungry"]["container_id"]
    assert len(events(wm, hungry.json["workflow_id"], "question.asked")) == 1
    said = wm("approve", hungry.json["workflow_id"], "--skip", "--note", "not today", "--json", "-q")
    assert statuses(said) == {"before": "completed", "hungry": "skipped", "uses": "completed", "side": "completed"}
    assert by_id(said)["hungry"]["reason"].startswith("skipped by ")
    assert by_id(said)["hungry"]["reason"].endswith(": not today")
    # It builds on what the skipped step had to start from.
    assert wm("logs", hungry.json["workflow_id"], "--step", "uses").out.startswith("before\n")


@pytest.mark.long
def test_an_abort_ends_the_whole_workflow(wm: Any, hungry: Any, prefect_server: Any) -> None:
    workflow = hungry.json["workflow_id"]
    said = wm("approve", workflow, "--abort", "--note", "wrong branch", "--json", "-q")
    assert said.code == 1, said.text
    assert said.json["status"] == "aborted"
    assert said.json["reason"].startswith("step hungry: aborted by ")
    assert said.json["reason"].endswith(": wrong branch")
    assert statuses(said) == {"before": "completed", "hungry": "failed", "uses": "waiting", "side": "completed"}
    flow_run = prefect_server.get(f"/flow_runs/{said.json['flow_run_id']}")
    assert (flow_run["state_type"], flow_run["state_name"]) == ("CANCELLED", "Aborted")
    assert said.json["branch"] == hungry.json["branch"]
    again = wm("approve", workflow, "--json", "-q")
    assert (again.code, again.json["error"]) == (3, f"{workflow}: no step waits")


@pytest.fixture
def two(wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]) -> Any:
    said = wm.run(prompt_file(TWO), repository().path)
    assert said.code == 3, said.text
    assert statuses(said) == {"flaky": "waiting", "release": "waiting", "after": "waiting"}
    return said


def test_a_chain_of_questions_in_one_run(wm: Any, two: Any, prefect_server: Any) -> None:
    workflow = two.json["workflow_id"]
    which = wm("approve", workflow, "--json", "-q")
    assert which.code == 3
    assert "more than one step waits (release, flaky): name it with --step, or answer --all" in which.json["error"]
    misfit = wm("approve", workflow, "--all", "--retry", "--json", "-q")
    assert misfit.code == 2
    assert "step release: it waits for approval and has not failed" in misfit.json["error"]
    # Each answer leads on; what fails again asks again, under a number of its own.
    first = wm("approve", workflow, "--all", "--json", "-q")
    assert first.code == 3, first.text
    assert statuses(first) == {"flaky": "waiting", "release": "completed", "after": "completed"}
    assert by_id(first)["flaky"]["attempts"] == 2
    second = wm("approve", workflow, "--json", "-q")
    assert second.code == 0, second.text
    assert second.json["flow_run_id"] == two.json["flow_run_id"]
    assert [(q["number"], q["step"]) for q in events(wm, workflow, "question.asked")] == [
        (1, "release"),
        (2, "flaky"),
        (3, "flaky"),
    ]
    answers = [(a["question"], a["verb"]) for a in events(wm, workflow, "approval")]
    assert answers == [(1, "approve"), (2, "retry"), (3, "retry")]
    wanted = {"event": {"name": ["workflowmaster.question.asked"]}}
    resource = {"resource": {"id": [f"workflowmaster.workflow.{workflow}"]}}
    told = prefect_server.post("/events/filter", {"filter": {**wanted, **resource}})["events"]
    assert sorted(one["payload"]["number"] for one in told) == [1, 2, 3]
    assert {one["resource"]["workflowmaster.step"] for one in told} == {"flaky", "release"}


@pytest.mark.long
def test_of_two_answers_at_once_one_wins(wm: Any, two: Any) -> None:
    workflow = two.json["workflow_id"]
    words = ("approve", workflow, "--step", "release", "--json", "-q")
    both = [wm.start(*words), wm.start(*words, "--deny")]
    ended = [one.ended() for one in both]
    assert sorted(("error" in one.json) for one in ended) == [False, True], [one.text for one in ended]
    assert len(events(wm, workflow, "approval")) == 1
    (loser,) = [one for one in ended if "error" in one.json]
    assert loser.code in (2, 3)


def test_the_time_out_rule_answers_for_nobody(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]
) -> None:
    settings = {"WORKFLOWMASTER_APPROVAL_TIMEOUT_HOURS": "0.000001", "WORKFLOWMASTER_APPROVAL_TIMEOUT_ACTION": "skip"}
    said = wm.run(prompt_file(TWO), repository().path, **settings)
    workflow = said.json["workflow_id"]
    assert said.code == 3, said.text
    rows = [one for one in wm("list", "--waiting", "--json").json if one["workflow_id"] == workflow]
    assert [(row["step"], row["answer"]) for row in rows] == [("release", "skip"), ("flaky", "skip")]
    late = wm("approve", workflow, "--step", "release", "--json", "-q")
    assert late.code == 2
    assert "Its question was answered: skipped by the time-out rule: nobody answered within" in late.json["error"]
    done = wm("resume", workflow, "--json", "-q")
    assert statuses(done) == {"flaky": "skipped", "release": "skipped", "after": "skipped"}
    assert [one["by"] for one in events(wm, workflow, "approval")] == ["the time-out rule"] * 2


@pytest.mark.long
def test_with_the_mode_off_every_failure_asks_and_answers_lead_on(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]
) -> None:
    off = {"WORKFLOWMASTER_AUTONOMOUS_MODE": "false"}
    said = wm.run(prompt_file(CHAIN), repository().path, **off)
    found = [(said.code, statuses(said))]
    for _ in range(2):
        said = wm("approve", said.json["workflow_id"], "--json", "-q", **off)
        found.append((said.code, statuses(said)))
    assert found == [
        (3, {"first": "waiting", "second": "waiting"}),
        (3, {"first": "completed", "second": "waiting"}),
        (0, {"first": "completed", "second": "completed"}),
    ]
    decided = [(one["step"], one["verb"]) for one in said.json["decisions"]]
    assert decided == [("first", "escalate"), ("second", "escalate")]
