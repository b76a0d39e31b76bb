"""Many workflows at once on a small machine: all complete, nothing is left, and no trouble goes without a name.

Each is a process of the command line with a workspace of its own; all share one state directory, and so one database of
the temporary servers that each of them starts.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

POLICIES = ("standard", "hardened", "testing")


def prompt(steps: int) -> str:
    """A workflow of diamonds: each step needs the one three before it, so three may always run at a time."""
    parts = ["# Load\n\n## Steps\n"]
    for number in range(steps):
        needs = f"- needs: s{number - 3}\n" if number >= 3 else ""
        policy = POLICIES[number % len(POLICIES)]
        parts.append(f"### s{number}\n{needs}- policy: {policy}\n```bash\nseq 200\necho step {number}\n```\n")
    return "\n".join(parts)


def processes_of(home: Path) -> list[int]:
    """Processes that were started with this state directory."""
    wanted, found = f"WORKFLOWMASTER_HOME={home}\0".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(
    ("workflows", "steps"), [(3, 5), pytest.param(8, 20, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
def test_workflows_at_once_all_complete(
    workflows: int,
    steps: int,
    command_line: Callable[..., Any],
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    containers: Callable[..., list[str]],
    wait_until: Callable[..., Any],
    record_property: Callable[[str, object], None],
) -> None:
    line, file = command_line(), prompt_file(prompt(steps))
    running = [line.start("run", file, "--workspace", repository().path, "--json", "-q") for _ in range(workflows)]
    answers = [one.ended(1500.0) for one in running]
    assert [said.code for said in answers] == [0] * workflows, [said.text[-2000:] for said in answers if said.code]
    for said in answers:
        assert [task["status"] for task in said.json["tasks"]] == ["completed"] * steps
        assert containers(said.json["workflow_id"]) == []
        _audited(Path(said.json["audit_log"]), steps)
        assert "unclassified" not in said.text
        assert "Traceback" not in said.text
    log = (line.home / "prefect/server.log").read_text()
    assert not re.search(r"Traceback|database is locked", log), log[-3000:]
    # The temporary servers write down what they were told last, and go.
    wait_until(lambda: not processes_of(line.home), 60.0)
    record_property("seconds", max(said.seconds for said in answers))


def _audited(path: Path, steps: int) -> None:
    """Every container that started also ended, each step's once, and none was started anew."""
    events = [json.loads(text) for text in path.read_text().splitlines()]
    of = {kind: [e["step"] for e in events if e["event"] == f"container.{kind}"] for kind in ("started", "finished")}
    assert sorted(of["started"]) == sorted(of["finished"]) == sorted(f"s{number}" for number in range(steps))
    assert [event for event in events if event["event"] == "sandbox.retried"] == []
