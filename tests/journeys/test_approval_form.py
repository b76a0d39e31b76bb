"""Questions in the Prefect UI: the form as its page gets it, and its answers as that page posts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
# Asks in the interface

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
print("about to take 150 MiB", flush=True)
data = bytearray(150 * 1024 * 1024)
```

### after
- needs: hungry
```bash
cat before.txt
```
"""

TWO = """\
# Two in the interface

## Steps

### failing
- retries: 0
- on-failure: escalate
```bash
exit 3
```

### release
- approval: required
```bash
echo released
```
"""

PREFECT = Path(sys.executable).with_name("prefect")
POOL = "asking"
Said = dict[str, Any]


def prefect(wm: Any, folder: Path, *words: str) -> None:
    environment = {
        "PATH": f"{PREFECT.parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(wm.user_home),
        "PREFECT_HOME": str(wm.home / "prefect"),
        "PREFECT_API_URL": wm.env["PREFECT_API_URL"],
        "WORKFLOWMASTER_HOME": str(wm.home),
    }
    command = [PREFECT, "--no-prompt", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def work(wm: Any, place: Path) -> None:
    """Let a worker do what is scheduled, once."""
    prefect(wm, place, "worker", "start", "--pool", POOL, "--type", "process", "--run-once")


@pytest.fixture(scope="module")
def place(wm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("deployed")
    (folder / "asks.md").write_text(PROMPT)
    said = wm("compile", folder / "asks.md", "-o", folder)
    assert said.code == 0, said.text
    prefect(wm, folder, "work-pool", "create", POOL, "--type", "process")
    prefect(wm, folder, "deploy", "asks.py:asks", "--name", "asks", "--pool", POOL)
    return folder


def form_of(prefect_server: Any, flow_run: str) -> tuple[Said, str]:
    """The schema and the description that the UI asks for before it shows the form."""
    details = prefect_server.get(f"/flow_runs/{flow_run}")["state"]["state_details"]
    keys = details["run_input_keyset"]
    schema = prefect_server.get(f"/flow_runs/{flow_run}/input/{keys['schema']}")
    return schema, prefect_server.get(f"/flow_runs/{flow_run}/input/{keys['description']}")


def state_of(folder: Path) -> Said:
    state: Said = json.loads((folder / "state.json").read_text())
    return state


def approvals(wm: Any, workflow: str) -> list[Said]:
    shown = wm("audit", "show", workflow, "--json", "--type", "approval").out.splitlines()
    return [json.loads(line) for line in shown]


def test_a_deployments_run_is_suspended_with_a_form_and_goes_on_with_its_answer(
    wm: Any, prefect_server: Any, place: Path, repository: Callable[..., Any]
) -> None:
    deployment = prefect_server.get("/deployments/name/Asks%20in%20the%20interface/asks")
    made = {"parameters": {"workspace": str(repository().path)}}
    flow_run = prefect_server.post(f"/deployments/{deployment['id']}/create_flow_run", made)["id"]
    work(wm, place)
    run = prefect_server.get(f"/flow_runs/{flow_run}")
    assert (run["state_type"], run["state_name"]) == ("PAUSED", "WaitingForPerson"), run["state"]
    schema, description = form_of(prefect_server, flow_run)
    fields = schema["properties"]
    assert list(fields) == ["verb", "note", "memory", "minutes"]
    assert fields["verb"]["enum"] == ["retry", "skip", "abort", "deny"]
    assert schema["required"] == ["verb"]
    folder = wm.folder(run["name"])
    assert "### `hungry` failed. What now?" in description
    assert f"workflowmaster logs {folder.name} --step hungry" in description
    # What the server refuses by the schema leaves the run as it is, and its form open.
    most = fields["memory"]["maximum"]
    for bad in ({}, {"verb": "perhaps"}, {"verb": "retry", "memory": most + 1}, {"verb": "retry", "cpus": 4}):
        refused = prefect_server.post(f"/flow_runs/{flow_run}/resume", {"run_input": bad})
        assert (refused["status"], refused["state"]["type"]) == ("REJECT", "PAUSED"), bad
    given = {"verb": "retry", "note": "give it more", "memory": 256, "minutes": 0}
    taken = prefect_server.post(f"/flow_runs/{flow_run}/resume", {"run_input": given})
    assert (taken["status"], taken["state"]["name"]) == ("ACCEPT", "Resuming")
    work(wm, place)
    run = prefect_server.get(f"/flow_runs/{flow_run}")
    # A run that was suspended is one run to Prefect, however often it was started.
    assert (run["state_type"], run["run_count"], run["name"]) == ("COMPLETED", 1, folder.name), run["state"]
    state = state_of(folder)
    assert (state["status"], state["reused"]) == ("completed", ["before"])
    (answer,) = approvals(wm, folder.name)
    kept = {name: answer[name] for name in ("step", "verb", "by", "note", "limits")}
    limits = {"memory": 256 * 2**20, "seconds": None}
    assert kept == {"step": "hungry", "verb": "retry", "by": "the Prefect UI", "note": "give it more", "limits": limits}
    left = prefect_server.post(f"/flow_runs/{flow_run}/input/filter", {"prefix": "workflowmaster-", "limit": 50})
    assert left == []


@pytest.mark.long
def test_a_form_with_a_section_for_each_question_is_read_by_a_resume(
    wm: Any, prefect_server: Any, repository: Callable[..., Any], prompt_file: Callable[..., Any]
) -> None:
    said = wm.run(prompt_file(TWO), repository().path)
    assert said.code == 3, said.text
    workflow, flow_run = said.json["workflow_id"], said.json["flow_run_id"]
    schema, description = form_of(prefect_server, flow_run)
    assert list(schema["properties"]) == ["question_1", "question_2"]
    assert f"workflowmaster resume {workflow}" in description
    given = {"question_1": {"verb": "approve"}, "question_2": {"verb": "later"}}
    taken = prefect_server.post(f"/flow_runs/{flow_run}/resume", {"run_input": given})
    assert taken["status"] == "ACCEPT", taken
    # Nobody starts a run without a deployment; whoever goes on finds the answer.
    first = wm("resume", workflow, "--json", "-q")
    statuses = {task["id"]: task["status"] for task in first.json["tasks"]}
    assert (first.code, statuses) == (3, {"failing": "waiting", "release": "completed"})
    # The form that is open now asks for the one that is left.
    schema, _ = form_of(prefect_server, flow_run)
    assert schema["properties"]["verb"]["enum"] == ["retry", "skip", "abort", "deny"]
    taken = prefect_server.post(f"/flow_runs/{flow_run}/resume", {"run_input": {"verb": "deny", "note": "leave it"}})
    assert taken["status"] == "ACCEPT", taken
    # Somebody at a terminal was quicker to be heard: the form's answer is told and not taken.
    last = wm("approve", workflow, "--skip", "--json", "-q")
    assert last.code == 0, last.text
    assert [(one["question"], one["verb"]) for one in approvals(wm, workflow)] == [(1, "approve"), (2, "skip")]
    shown = wm("audit", "show", workflow, "--json", "--type", "approval.refused").out.splitlines()
    (refused,) = [json.loads(line) for line in shown]
    assert refused["reason"].startswith("question 2 is no longer open: skipped by ")
