"""A deployment's worker is killed, or the flow run's process under it: a retry goes on with the same workflow.

The worker is Prefect's own process worker, and the retry is what Prefect's UI and `prefect flow-run retry` do: the
flow run is set to AwaitingRetry, and whichever worker comes next takes it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from chaoskit import aftermath, subject
from chaoskit.aftermath import Outcome, outcome
from chaoskit.arena import Arena, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker, pytest.mark.prefect, pytest.mark.long]

PREFECT = Path(sys.executable).with_name("prefect")
PAUSE = 5.0
"""Seconds that `left` works: the kill comes meanwhile."""
SECONDS = 120.0
"""How long a worker may take to pick up a run, start Python and bring it to its end on a busy machine."""


class Deployment:
    """The torn prompt, deployed to a process pool of its own, and the workers that were started for it."""

    def __init__(self, arena: Arena, server: Any) -> None:
        self.arena, self.server = arena, server
        said = arena("compile", arena.prompt, "-o", arena.place, traced=False)
        assert said.code == 0, said.err
        self.prefect("work-pool", "create", "chaos", "--type", "process")
        self.prefect("--no-prompt", "deploy", "torn.py:torn", "--name", "chaos", "--pool", "chaos")
        self.workers: list[subprocess.Popen[str]] = []

    def prefect(self, *words: str) -> None:
        done = subprocess.run(
            [PREFECT, *words],
            cwd=self.arena.place,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def environment(self) -> dict[str, str]:
        return self.arena.environment(PREFECT_HOME=str(self.arena.home / "prefect"))

    def worker(self) -> subprocess.Popen[str]:
        words = [PREFECT, "worker", "start", "--pool", "chaos", "--type", "process"]
        log = (self.arena.place / f"worker.{len(self.workers)}.log").open("w")
        env = self.environment() | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
        made = subprocess.Popen(words, cwd=self.arena.place, env=env, stdout=log, stderr=log, text=True)
        self.workers.append(made)
        return made

    def flow_run(self) -> str:
        deployment = self.server.get("/deployments/name/Torn%20apart/chaos")
        parameters = {"workspace": str(self.arena.repo)}
        made = self.server.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def state(self, flow_run: str) -> str:
        return str(self.server.get(f"/flow_runs/{flow_run}")["state_type"])

    def retry(self, flow_run: str) -> None:
        state = {"type": "SCHEDULED", "name": "AwaitingRetry"}
        self.server.post(f"/flow_runs/{flow_run}/set_state", {"state": state, "force": True})

    def stop(self) -> None:
        while self.workers:
            worker = self.workers.pop()
            worker.send_signal(signal.SIGINT)
            worker.wait(SECONDS)


@pytest.fixture(scope="module")
def deployed(make_arena: Callable[..., Arena], prefect_server: Any, tally: Any) -> Deployment:
    arena = make_arena(subject.prompt(tally.address, pause=PAUSE), PREFECT_API_URL=prefect_server.url)
    return Deployment(arena, prefect_server)


@pytest.fixture
def deployment(deployed: Deployment) -> Iterator[Deployment]:
    """The deployment, with no worker but those that the test starts."""
    yield deployed
    deployed.stop()


@pytest.fixture(scope="module")
def good(deployed: Deployment) -> Outcome:
    said = deployed.arena.run()
    assert said.code == 0, said.err
    return outcome(deployed.arena, said.json["workflow_id"])


def working(deployment: Deployment, known: set[str]) -> tuple[str, int]:
    """Return the new workflow once `left` works in it, and the pid of the process that runs the flow."""
    arena = deployment.arena
    workflow = until(lambda: next((one for one in arena.workflows - known if arena.began(one)["left"]), ""), SECONDS)
    assert workflow, [path.read_text() for path in arena.place.glob("worker.*.log")]
    form = ["docker", "ps", "--filter", f"label=workflowmaster.workflow={workflow}", "--format"]
    found = subprocess.run([*form, '{{.Label "workflowmaster.owner-pid"}}'], capture_output=True, text=True, check=True)
    return workflow, int(found.stdout.split()[0])


def fine(deployment: Deployment, flow_run: str, workflow: str, good: Outcome) -> None:
    """Hold that the flow run has ended well, with everything once."""
    arena = deployment.arena
    assert until(lambda: deployment.state(flow_run) == "COMPLETED", SECONDS), deployment.server.get(
        f"/flow_runs/{flow_run}"
    )
    assert deployment.server.get(f"/flow_runs/{flow_run}")["name"] == workflow
    assert until(lambda: not aftermath.left(arena, workflow), 10.0)
    assert aftermath.wrong(arena, workflow, good) == []
    assert all(arena.began(workflow)[step] == 1 for step in ("seed", "left", "join", "last")), arena.began(workflow)


@pytest.mark.parametrize(
    "victims",
    [
        pytest.param(("run",), marks=pytest.mark.long),
        pytest.param(("worker",), marks=pytest.mark.long),
        ("worker", "run"),
    ],
    ids="+".join,
)
def test_a_killed_deployment_goes_on_with_the_same_workflow(
    victims: tuple[str, ...], deployment: Deployment, good: Outcome
) -> None:
    known, flow_run = deployment.arena.workflows, deployment.flow_run()
    worker = deployment.worker()
    workflow, pid = working(deployment, known)
    run = psutil.Process(pid)
    for victim in victims:
        os.kill(worker.pid if victim == "worker" else pid, signal.SIGKILL)
    if "worker" in victims:
        worker.wait(SECONDS)
        deployment.workers.remove(worker)
    if "run" in victims:
        assert until(lambda: not run.is_running() or run.status() == psutil.STATUS_ZOMBIE, SECONDS)
        if "worker" not in victims:
            assert until(lambda: deployment.state(flow_run) == "CRASHED", SECONDS), "its worker has not said so"
        deployment.retry(flow_run)
    if "worker" in victims and "run" in victims:
        deployment.worker()
    fine(deployment, flow_run, workflow, good)
    assert deployment.arena.workflows - known == {workflow}
