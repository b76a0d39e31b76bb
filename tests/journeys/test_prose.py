"""A prompt as people write them, without a single step, done by a small script that stands for an agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
# Refuse thousands separators

The parser in `parser.py` accepts `1,000` and reads it as one. Nobody noticed for a year.

## Requirements

- `1,000` must raise `ValueError`.
- Plain numbers must go on working.

## Implementation Steps

1. Change `parse` so that it refuses a comma.
2. Change the documentation string of the module accordingly.

## Success Criteria

- [ ] All tests pass
"""

AGENT = """sh -c '
cat > "prompt-$WM_STEP.txt"
case "$WM_STEP" in
  5.1) printf "def parse(text):\\n    return int(text)\\n" > parser.py ;;
esac
echo "done: $WM_STEP"
'"""

SKELETON = ["1", "2", "3", "4", "5", "6", "7", "8", "9"]

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def repo(repository: Callable[..., Any]) -> Any:
    return repository({"parser.py": 'def parse(text):\n    return int(text.split(",")[0])\n'})


@pytest.fixture(scope="module")
def before(repo: Any) -> dict[str, object]:
    state: dict[str, object] = repo.state()
    return state


@pytest.fixture(scope="module")
def run(wm: Any, repo: Any, before: dict[str, object], prompt_file: Callable[..., Path]) -> Answer:
    said = wm.run(prompt_file(PROMPT, "separators.md"), repo.path, "--agent", AGENT)
    assert said.code == 0, said.text
    answer: Answer = said.json
    return answer


def test_the_nine_tasks_complete(run: Answer) -> None:
    tasks = {task["id"]: task["status"] for task in run["tasks"]}
    assert set(SKELETON) <= set(tasks)
    assert {"5.1", "5.2"} <= set(tasks)
    assert set(tasks.values()) == {"completed"}


def test_the_work_is_on_the_branch(repo: Any, run: Answer, before: dict[str, object]) -> None:
    assert repo.git("show", f"{run['branch']}:parser.py") == "def parse(text):\n    return int(text)"
    assert repo.state() == before


def test_the_agent_was_told_the_task_and_its_context(repo: Any, run: Answer) -> None:
    asked = repo.git("show", f"{run['branch']}:prompt-5.1.txt")
    assert "Change `parse` so that it refuses a comma" in asked
    assert "Nobody noticed for a year" in asked


def test_there_is_an_issue_a_pull_request_and_a_patch(wm: Any, repo: Any, run: Answer, tmp_path: Path) -> None:
    folder = wm.folder(run["workflow_id"])
    assert "Refuse thousands separators" in (folder / "issue.md").read_text()
    body = Path(run["pull_request"]).read_text()
    assert "Refuse thousands separators" in body
    assert "5.1" in body
    repo.git("clone", "-q", repo.path, tmp_path / "clean")
    repo.git("apply", "--index", folder / "changes.patch", cwd=tmp_path / "clean")
    tree = repo.git("write-tree", cwd=tmp_path / "clean")
    assert tree == repo.git("rev-parse", f"{run['branch']}^{{tree}}")


def test_host_tasks_had_no_container(run: Answer) -> None:
    hosted = {task["id"] for task in run["tasks"] if task["container_id"] is None}
    assert {"1", "2", "3", "8"} <= hosted
