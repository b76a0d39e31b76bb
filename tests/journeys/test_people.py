"""Runs that meet a person: approvals, escalations, conflicts at a join, an abort, agents, and none of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

APPROVAL = """\
# Ask before releasing

## Steps

### build
```bash
echo built > built.txt
echo "digest=abc" >> "$WM_OUTPUT"
```

### ask
- needs: build
- approval: required

### release
- needs: ask
- approval: true
```bash
cat built.txt; echo "released $STEP_BUILD_DIGEST" > released.txt
```

### docs
- needs: build
```bash
echo docs > docs.txt
```
"""

CONFLICT = """\
# Two sides of one line

## Steps

### left
```bash
sed -i s/two/LEFT/ a.txt
```

### right
```bash
sed -i s/two/RIGHT/ a.txt
```

### other
```bash
echo other > other.txt
```

### join
- needs: [left, right]
```bash
echo never
```
"""

ABORT = """\
# Stop everything

## Steps

### first
- on-failure: abort
```bash
exit 5
```

### second
- needs: first
- if: always()
```bash
echo never
```

### side
- needs: second
```bash
echo never
```
"""

ESCALATE = """\
# Ask when it fails

## Steps

### risky
- on-failure: escalate
```bash
exit 6
```

### next
- needs: risky
```bash
echo never
```
"""

AGENT = """\
# Let an agent write

The parser accepts `1,000` as one, which it must not.

## Steps

### write
```prompt
Write the word done into answer.txt.
```

### use
- needs: write
```bash
cat answer.txt
```
"""

AGENT_COMMAND = """sh -c 'cat > prompt.txt; echo done > answer.txt; echo "I read $(wc -l < prompt.txt) lines"'"""

Answer = dict[str, Any]


def by_id(answer: Answer) -> dict[str, Answer]:
    return {task["id"]: task for task in answer["tasks"]}


@pytest.fixture(scope="module")
def waiting(wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]) -> Any:
    said = wm.run(prompt_file(APPROVAL), repository().path)
    assert said.code == 3, said.text
    return said


@pytest.fixture(scope="module")
def half(wm: Any, waiting: Any) -> Any:
    """After the first of two approvals."""
    said = wm("approve", waiting.json["workflow_id"], "--json", "-q")
    assert said.code == 3, said.text
    return said


@pytest.fixture(scope="module")
def approved(wm: Any, half: Any) -> Answer:
    said = wm("approve", half.json["workflow_id"], "--json", "-q")
    assert said.code == 0, said.text
    answer: Answer = said.json
    return answer


def test_a_run_waits_for_an_approval_and_does_the_rest(waiting: Any, prefect_server: Any) -> None:
    answer, tasks = waiting.json, by_id(waiting.json)
    statuses = {name: task["status"] for name, task in tasks.items()}
    assert statuses == {"build": "completed", "ask": "waiting", "release": "waiting", "docs": "completed"}
    assert answer["status"] == "waiting"
    hint = f"a person must approve this: workflowmaster approve {answer['workflow_id']} --step ask"
    assert tasks["ask"]["reason"] == hint
    assert waiting.err.splitlines()[-1] == f"Next:   workflowmaster approve {answer['workflow_id']}"


def test_a_step_with_work_waits_too(half: Any) -> None:
    tasks = by_id(half.json)
    assert (tasks["ask"]["status"], tasks["release"]["status"]) == ("completed", "waiting")
    assert tasks["ask"]["outputs"].keys() == {"approved_by"}
    assert tasks["release"]["container_id"] is None


def test_approving_goes_on_with_the_same_flow_run(waiting: Any, approved: Answer, prefect_server: Any) -> None:
    assert approved["status"] == "completed"
    assert approved["workflow_id"] == waiting.json["workflow_id"]
    assert approved["flow_run_id"] == waiting.json["flow_run_id"]
    flow_run = prefect_server.get(f"/flow_runs/{approved['flow_run_id']}")
    assert (flow_run["state_type"], flow_run["state_name"]) == ("COMPLETED", "Completed")
    states = prefect_server.get(f"/flow_run_states/?flow_run_id={approved['flow_run_id']}")
    assert "WaitingForPerson" in [state["name"] for state in states]


def test_what_was_finished_is_reused(waiting: Any, approved: Answer) -> None:
    tasks, before = by_id(approved), by_id(waiting.json)
    assert {name for name, task in tasks.items() if task["reused"]} == {"build", "docs", "ask"}
    assert all(tasks[name]["container_id"] == before[name]["container_id"] for name in ("build", "docs"))
    assert tasks["build"]["outputs"] == {"digest": "abc"}


def test_the_branch_grows_with_the_second_part(wm: Any, waiting: Any, approved: Answer) -> None:
    assert waiting.json["branch"] == approved["branch"]
    shown = wm("audit", "show", approved["workflow_id"], "--json").out.splitlines()
    answers = [(r["step"], r["answer"][:12]) for r in map(json.loads, shown) if r["event"] == "approval"]
    assert answers == [("ask", "approved by "), ("release", "approved by ")]


def test_a_finished_run_asks_nobody(wm: Any, approved: Answer) -> None:
    said = wm("approve", approved["workflow_id"], "--json", "-q")
    assert said.code == 3
    assert said.json["error"] == f"{approved['workflow_id']}: no step waits"


def test_a_denied_step_fails(wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]) -> None:
    first = wm.run(prompt_file(APPROVAL), repository().path)
    unknown = wm("approve", first.json["workflow_id"], "--step", "nope", "--json", "-q")
    assert unknown.code == 2
    assert "waiting: ask" in unknown.json["error"]
    said = wm("approve", first.json["workflow_id"], "--step", "ask", "--deny", "--json", "-q")
    assert said.code == 1, said.text
    tasks = by_id(said.json)
    assert tasks["ask"]["status"] == "failed"
    assert tasks["ask"]["reason"].startswith("denied by ")
    assert tasks["release"]["status"] == "blocked"


def test_a_conflict_at_a_join_names_files_and_both_steps(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]
) -> None:
    repo = repository()
    before = repo.state()
    said = wm.run(prompt_file(CONFLICT), repo.path)
    assert said.code == 1, said.text
    join = by_id(said.json)["join"]
    assert join["status"] == "failed"
    assert all(word in join["reason"] for word in ("a.txt", "left", "right"))
    assert join["container_id"] is None
    assert said.json["branch"] is None
    assert repo.state() == before
    assert repo.refs() == {"refs/heads/main", f"refs/workflowmaster/{said.json['workflow_id']}/base"}


def test_an_abort_stops_the_run(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any], prefect_server: Any
) -> None:
    said = wm.run(prompt_file(ABORT), repository().path)
    assert said.code == 1, said.text
    assert said.json["status"] == "aborted"
    assert said.json["reason"] == "step first failed and its on-failure is abort: exit 5"
    assert [task["status"] for task in said.json["tasks"]] == ["failed", "pending", "pending"]
    flow_run = prefect_server.get(f"/flow_runs/{said.json['flow_run_id']}")
    assert (flow_run["state_type"], flow_run["state_name"]) == ("CANCELLED", "Aborted")


def test_an_escalation_waits_for_a_person(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]
) -> None:
    said = wm.run(prompt_file(ESCALATE), repository().path)
    assert said.code == 3, said.text
    statuses = {name: (task["status"], task["reason"]) for name, task in by_id(said.json).items()}
    assert statuses["risky"] == ("waiting", "it failed and asks for a person: exit 6")
    assert statuses["next"] == ("waiting", "it needs risky, which is waiting")
    denied = wm("approve", said.json["workflow_id"], "--deny", "--json", "-q")
    assert denied.code == 1, denied.text
    assert [task["status"] for task in denied.json["tasks"]] == ["failed", "blocked"]


def test_an_agent_gets_its_prompt_on_stdin_and_leaves_files(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]
) -> None:
    repo = repository()
    said = wm.run(prompt_file(AGENT), repo.path, "--agent", AGENT_COMMAND)
    assert said.code == 0, said.text
    files = repo.files(said.json["branch"])
    assert files["answer.txt"] == "done"
    assert "Write the word done into answer.txt." in files["prompt.txt"]
    assert wm("logs", said.json["workflow_id"], "--step", "write").out.startswith("I read ")
    assert wm("logs", said.json["workflow_id"], "--step", "use").out == "done\n"


def test_without_an_agent_nothing_is_started(
    bare: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any], containers: Callable[..., list[str]]
) -> None:
    repo, prompt = repository(), prompt_file(AGENT)
    before = set(containers())
    said = bare.run(prompt, repo.path)
    assert said.code == 3
    assert said.json["error"].startswith(f"{prompt}: 1 steps are work for an agent, and none is configured:\n  write")
    assert "--agent 'COMMAND …'" in said.err
    assert not (bare.home / "workflows").exists()
    assert set(containers()) <= before
    assert repo.refs() == {"refs/heads/main"}
