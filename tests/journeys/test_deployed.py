"""A compiled prompt, deployed with `prefect deploy` and run by a process worker, as Prefect's own users do it."""

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
---
name: Greet from afar
inputs:
  who: {type: string, required: true}
---
# Greet from afar

## Steps

### greet
```bash
echo "hello $INPUT_WHO" > greeting.txt
```

### proof
- needs: greet
```bash
cat greeting.txt
```
"""

PREFECT = Path(sys.executable).with_name("prefect")


@pytest.fixture(scope="module")
def place(wm: Any, prefect_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the prompt, its lock and its module, deployed as `greet/afar` to a process pool."""
    folder: Path = tmp_path_factory.mktemp("deployed")
    (folder / "greet.md").write_text(PROMPT)
    said = wm("compile", folder / "greet.md", "-o", folder)
    assert said.code == 0, said.text
    prefect(wm, folder, "work-pool", "create", "tests", "--type", "process")
    deploy = ["deploy", "greet.py:greet", "--name", "afar", "--pool", "tests"]
    prefect(wm, folder, "--no-prompt", *deploy)
    return folder


def prefect(wm: Any, folder: Path, *words: str) -> str:
    env = {
        "PATH": f"{PREFECT.parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(wm.user_home),
        "PREFECT_HOME": str(wm.home / "prefect"),
        "PREFECT_API_URL": wm.env["PREFECT_API_URL"],
        "WORKFLOWMASTER_HOME": str(wm.home),
    }
    done = subprocess.run(
        [PREFECT, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def ran(wm: Any, prefect_server: Any, folder: Path, *parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Create flow runs of the deployment, let one worker pick them up, and return them when they have ended."""
    deployment = prefect_server.get("/deployments/name/Greet%20from%20afar/afar")
    create = f"/deployments/{deployment['id']}/create_flow_run"
    made = [prefect_server.post(create, {"parameters": one})["id"] for one in parameters]
    prefect(wm, folder, "worker", "start", "--pool", "tests", "--type", "process", "--run-once")
    return [prefect_server.get(f"/flow_runs/{flow_run}") for flow_run in made]


def test_a_deployed_run_leaves_its_branch_and_checks_its_inputs(
    wm: Any, prefect_server: Any, place: Path, repository: Callable[..., Any], containers: Callable[..., list[str]]
) -> None:
    repo, other = repository(), repository()
    before = repo.state()
    given = {"workspace": str(repo.path), "inputs": {"who": "ada"}}
    run, refused = ran(wm, prefect_server, place, given, {"workspace": str(other.path)})
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Completed"), run["state"]
    workflow = run["name"]
    assert repo.files(f"workflowmaster/{workflow}")["greeting.txt"] == "hello ada"
    assert repo.state() == before
    assert containers(workflow) == []
    state = json.loads((wm.folder(workflow) / "state.json").read_text())
    assert (state["status"], state["flow_run_id"]) == ("completed", run["id"])
    assert wm("logs", workflow, "--step", "proof").out == "hello ada\n"
    assert refused["state_type"] in ("FAILED", "CRASHED")
    assert "input who is required and has no value" in refused["state"]["message"]
    assert other.refs() == {"refs/heads/main"}


@pytest.mark.long
def test_a_deployed_run_refuses_a_stale_lock(
    wm: Any, prefect_server: Any, place: Path, repository: Callable[..., Any]
) -> None:
    repo = repository()
    (place / "greet.md").write_text(PROMPT + "\nMore words.\n")
    (run,) = ran(wm, prefect_server, place, {"workspace": str(repo.path), "inputs": {"who": "ada"}})
    assert run["state_type"] in ("FAILED", "CRASHED")
    renew = "greet.md has changed since it was compiled; renew it with: workflowmaster compile"
    assert renew in run["state"]["message"]
    assert repo.refs() == {"refs/heads/main"}
