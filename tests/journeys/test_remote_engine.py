"""A whole run on an engine that shares no disk with us: the same results as on our own, and nothing left over there.

The engine is that of this machine, reached by TCP, so that every file must travel. The prompt has one of each: every
kind of workspace, retries, checks, a matrix, values, what `.gitignore` leaves out.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = Path(__file__).parent / "prompts/green.md"

HOSTILE = """\
# Odd things

## Steps

### leave
```bash
mkfifo pipe
ln -s /etc/passwd link
echo good > good.txt
mkdir -p /out/workspace
```

### too-much
- security-policy: hardened
- continue-on-error: true
```bash
mkdir /out/workspace
truncate -s 1T /out/workspace/sparse
```

### too-long
- timeout-minutes: 1s
- retries: 0
- continue-on-error: true
```bash
echo half > half.txt
sleep 60
```

### after
- needs: [leave, too-long]
```bash
test -L link && test ! -e pipe && cat good.txt half.txt
```
"""


def volumes(workflow: str) -> list[str]:
    command = ["docker", "volume", "ls", "-q", "--filter", f"label=workflowmaster.workflow={workflow}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def essence(answer: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on where the engine is."""
    kept = ("status", "attempts", "exit_code", "policy", "timed_out", "oom_killed", "outputs")
    return {task["id"]: {name: task[name] for name in kept} for task in answer["tasks"]}


@pytest.fixture(scope="module")
def repo(repository: Callable[..., Any]) -> Any:
    return repository()


@pytest.fixture(scope="module")
def near(wm: Any, repo: Any) -> Any:
    said = wm.run(PROMPT, repo.path, "--input", "greeting=hello")
    assert said.code == 0, said.text
    return said.json


@pytest.fixture(scope="module")
def far(wm: Any, repo: Any, far_engine: str) -> Any:
    said = wm.run(PROMPT, repo.path, "--input", "greeting=hello", DOCKER_HOST=far_engine)
    assert said.code == 0, said.text
    return said.json


def test_every_step_ends_as_on_our_own_engine(near: Any, far: Any) -> None:
    assert far["status"] == "completed"
    assert essence(far) == essence(near)


def test_the_branch_holds_the_same_tree(repo: Any, near: Any, far: Any) -> None:
    near_tree, far_tree = (repo.git("rev-parse", f"{answer['branch']}^{{tree}}") for answer in (near, far))
    assert near_tree == far_tree


def test_nothing_is_left_on_either_side(wm: Any, far: Any, containers: Callable[..., list[str]]) -> None:
    assert containers(far["workflow_id"]) == []
    assert volumes(far["workflow_id"]) == []
    folder = wm.folder(far["workflow_id"])
    assert not [path for path in folder.iterdir() if path.name in ("exchange", "trees")]


def test_receipts_have_the_shells_word_and_the_engines(wm: Any, far: Any) -> None:
    state = json.loads((wm.folder(far["workflow_id"]) / "state.json").read_text())
    receipts = [receipt for result in state["results"].values() for receipt in result["receipts"]]
    assert receipts
    assert all(receipt["peak_memory"] > 0 and receipt["cpu_seconds"] > 0 for receipt in receipts)
    assert all(receipt["enforced"] == [] and "seccomp" in receipt["told"] for receipt in receipts)


def test_what_a_step_leaves_is_judged_as_on_our_own_engine(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], far_engine: str
) -> None:
    prompt, answers = prompt_file(HOSTILE), []
    for place in ({}, {"DOCKER_HOST": far_engine}):
        own = repository()
        answer = wm.run(prompt, own.path, **place).json
        answers.append((essence(answer), own.files(answer["branch"]) if answer["branch"] else None))
        findings = json.loads((wm.folder(answer["workflow_id"]) / "state.json").read_text())["results"]["leave"][
            "findings"
        ]
        assert "pipe: left out, a FIFO" in findings
        assert volumes(answer["workflow_id"]) == []
    assert answers[0] == answers[1]
    tasks = answers[1][0]
    assert tasks["too-much"]["status"] == "failed"
    assert (tasks["too-long"]["status"], tasks["too-long"]["timed_out"]) == ("failed", True)
    assert tasks["after"]["status"] == "completed"
