"""A deployment's run whose process was killed goes on in the same flow run: by Prefect's retry, or by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
# Cut short

## Steps

### before
```bash
echo before > before.txt
```

### middle
- needs: before
```bash
echo working
sleep 5
echo middle > middle.txt
```

### after
- needs: middle
```bash
cat before.txt middle.txt
```
"""

PREFECT = Path(sys.executable).with_name("prefect")
POOL = "cut-short"


def environment(wm: Any) -> dict[str, str]:
    return {
        "PATH": f"{PREFECT.parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(wm.user_home),
        "PREFECT_HOME": str(wm.home / "prefect"),
        "PREFECT_API_URL": wm.env["PREFECT_API_URL"],
        "WORKFLOWMASTER_HOME": str(wm.home),
    }


def prefect(wm: Any, folder: Path, *words: str) -> str:
    command = [PREFECT, "--no-prompt", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment(wm), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(wm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("deployed")
    (folder / "cut.md").write_text(PROMPT)
    said = wm("compile", folder / "cut.md", "-o", folder)
    assert said.code == 0, said.text
    prefect(wm, folder, "work-pool", "create", POOL, "--type", "process")
    prefect(wm, folder, "deploy", "cut.py:cut", "--name", "short", "--pool", POOL)
    return folder


@pytest.fixture
def killed(
    wm: Any, prefect_server: Any, place: Path, repository: Callable[..., Any], wait_until: Callable[..., Any]
) -> Iterator[tuple[str, Path]]:
    """A flow run of the deployment whose process was killed in its middle step; returns its id and the workflow."""
    known = set((wm.home / "workflows").glob("*"))
    deployment = prefect_server.get("/deployments/name/Cut%20short/short")
    made = {"parameters": {"workspace": str(repository().path)}}
    flow_run = prefect_server.post(f"/deployments/{deployment['id']}/create_flow_run", made)["id"]
    command = [PREFECT, "worker", "start", "--pool", POOL, "--type", "process", "--run-once"]
    worker = subprocess.Popen(
        command, cwd=place, env=environment(wm), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def works() -> Path | None:
        assert worker.poll() is None, prefect_server.get(f"/flow_runs/{flow_run}")["state"]
        logs = (folder / "logs/middle.1.log" for folder in set((wm.home / "workflows").glob("*")) - known)
        return next((log.parents[1] for log in logs if log.exists() and log.read_text() == "working\n"), None)

    folder = wait_until(works, 120.0)
    os.kill(owner(folder), signal.SIGKILL)
    assert worker.wait(120) == 0
    wait_until(lambda: prefect_server.get(f"/flow_runs/{flow_run}")["state_type"] == "CRASHED", 60.0)
    yield flow_run, folder
    assert set((wm.home / "workflows").glob("*")) - known == {folder}, "it has begun anew"


def owner(folder: Path) -> int:
    """The process that works on a workflow, as its containers' labels say."""
    form = '{{.Label "workflowmaster.owner-pid"}}'
    command = ["docker", "ps", "--filter", f"label=workflowmaster.workflow={folder.name}", "--format", form]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


def state_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state


def test_prefects_retry_goes_on_with_the_same_workflow(
    wm: Any, prefect_server: Any, place: Path, killed: tuple[str, Path]
) -> None:
    flow_run, folder = killed
    prefect(wm, place, "flow-run", "retry", flow_run)
    prefect(wm, place, "worker", "start", "--pool", POOL, "--type", "process", "--run-once")
    run = prefect_server.get(f"/flow_runs/{flow_run}")
    assert (run["state_type"], run["run_count"], run["name"]) == ("COMPLETED", 2, folder.name), run["state"]
    state = state_of(folder)
    assert (state["status"], state["flow_run_id"], state["reused"]) == ("completed", flow_run, ["before"])


@pytest.mark.long
def test_a_resume_by_hand_takes_the_same_flow_run_and_no_worker_does(
    wm: Any, prefect_server: Any, place: Path, killed: tuple[str, Path]
) -> None:
    flow_run, folder = killed
    said = wm("resume", folder.name, "--json", "-q")
    assert said.code == 0, said.text
    assert said.json["flow_run_id"] == flow_run
    assert [task["id"] for task in said.json["tasks"] if task["reused"]] == ["before"]
    run = prefect_server.get(f"/flow_runs/{flow_run}")
    assert (run["state_type"], run["run_count"]) == ("COMPLETED", 2), run["state"]
    # Nothing is left for a worker to pick up.
    prefect(wm, place, "worker", "start", "--pool", POOL, "--type", "process", "--run-once")
    assert prefect_server.get(f"/flow_runs/{flow_run}")["run_count"] == 2
