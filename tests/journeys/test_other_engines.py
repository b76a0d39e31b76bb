"""Whole runs on Podman and under gVisor: the strictest policies, files in and out, a bounded `/out`.

`scripts/engines start` sets both up; where one does not answer its run is skipped.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

FOLDER = Path(os.environ.get("WORKFLOWMASTER_ENGINES", "/var/tmp/workflowmaster-engines"))
SOCKETS = {"podman": FOLDER / "podman.sock", "gvisor": FOLDER / "gvisor/docker.sock"}

PROMPT = """\
# In, through and out

## Steps

### write
```bash
echo one > one.txt
echo "v=12" >> "$WM_OUTPUT"
```

### hostile
- needs: write
- security-policy: paranoid
- inputs: [one.txt]
- outputs: [release]
```bash
mkdir -p /out/workspace
tr a-z A-Z < /wm/inputs/one.txt > /out/workspace/two.txt
echo "release=$(uname -r)" >> "$WM_OUTPUT"
```

### lay-over
- needs: hostile
- security-policy: hardened
```bash
mkdir -p /out/workspace
cat one.txt two.txt > /out/workspace/three.txt
```

### test
- needs: lay-over
- security-policy: testing
```bash
rm one.txt
test "$(cat three.txt)" = "one
ONE"
```
"""


@pytest.fixture(params=sorted(SOCKETS))
def other(request: pytest.FixtureRequest) -> str:
    """Name of an engine that answers."""
    if not SOCKETS[request.param].exists():
        pytest.skip(f"no engine at {SOCKETS[request.param]}: scripts/engines start")
    name: str = request.param
    return name


def test_a_run_there_ends_like_any_other(
    other: str, wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    place, repo = f"unix://{SOCKETS[other]}", repository()
    said = wm.run(prompt_file(PROMPT), repo.path, DOCKER_HOST=place)
    assert said.code == 0, said.text
    tasks = {task["id"]: task for task in said.json["tasks"]}
    assert {task["status"] for task in tasks.values()} == {"completed"}
    files = repo.files(said.json["branch"])
    assert (files["two.txt"], files["three.txt"]) == ("ONE", "one\nONE")
    ours = tasks["hostile"]["outputs"]["release"] == os.uname().release
    assert ours is (other == "podman"), "under gVisor the step has another kernel"
    label = f"label=workflowmaster.workflow={said.json['workflow_id']}"
    for words in (["ps", "-aq"], ["volume", "ls", "-q"]):
        listed = ["docker", "--host", place, *words, "--filter", label]
        assert subprocess.run(listed, capture_output=True, text=True, check=True).stdout == ""
