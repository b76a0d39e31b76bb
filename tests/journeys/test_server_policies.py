"""Policies as an operator edits them in the Prefect UI: tighter ones take effect, looser ones need a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = "# Look\n\n## Steps\n\n### look\n- security-policy: testing\n```bash\necho looked\n```\n"

EDIT = """
import json, sys
from workflowmaster.blocks.sandbox import DockerSandbox
block = DockerSandbox.load("testing", validate=False)
block.limits, block.reason = json.loads(sys.argv[1]), sys.argv[2]
block.save("testing", overwrite=True)
"""


@pytest.fixture(scope="module")
def saved(command_line: Callable[..., Any], prefect_server: Any) -> Iterator[Any]:
    """A command line whose server has the policies' documents. They are taken away again: others use the server."""
    line = command_line(PREFECT_API_URL=prefect_server.url)
    said = line("init")
    assert said.code == 0, said.text
    assert next(row.split() for row in said.out.splitlines()) == ["docker-sandbox/minimal", "saved"]
    yield line
    for one in prefect_server.post("/block_documents/filter", {}):
        if one["block_type"]["slug"] == "docker-sandbox":
            prefect_server.delete(f"/block_documents/{one['id']}")
    for one in prefect_server.post("/automations/filter", {}):
        prefect_server.delete(f"/automations/{one['id']}")


def edit(line: Any, limits: dict[str, Any], reason: str = "") -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(line.user_home), "PREFECT_HOME": str(line.home), **line.env}
    command = [sys.executable, "-c", EDIT, json.dumps(limits), reason]
    subprocess.run(command, check=True, capture_output=True, env=env)


def test_init_keeps_what_was_edited(saved: Any) -> None:
    assert {row.split()[1] for row in saved("init").out.splitlines()} == {"kept"}
    forced = saved("init", "--force").out.splitlines()
    assert {row.split()[1] for row in forced if row.startswith("docker-sandbox/")} == {"saved"}


def test_a_tighter_document_takes_effect_and_is_audited(
    saved: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    edit(saved, {"pids": 77})
    said = saved.run(prompt_file(PROMPT), repository().path)
    assert said.code == 0, said.text
    records = [json.loads(line) for line in Path(said.json["audit_log"]).read_text().splitlines()]
    (changed,) = [record for record in records if record["event"] == "policy.changed"]
    assert (changed["policy"], changed["limits"]) == ("testing", {"pids": 77})


def test_a_looser_document_without_a_reason_is_refused(
    saved: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], orphans: Callable[[], list[str]]
) -> None:
    known, repo = set(orphans()), repository()
    edit(saved, {"network": "bridge"})
    said = saved.run(prompt_file(PROMPT), repo.path)
    assert said.code == 5, said.text
    assert "docker-sandbox/testing grants more than policy testing" in said.json["error"]
    assert "gives no reason" in said.json["error"]
    assert "Traceback" not in said.text
    assert set(orphans()) <= known
    (row,) = [row for row in saved("list", "--json").json if row["status"] == "failed"]
    shown = saved("audit", "show", row["workflow_id"], "--json").out.splitlines()
    events = [record["event"] for record in map(json.loads, shown)]
    assert [name for name in events if name in ("policy.refused", "step.started", "container.started")] == [
        "policy.refused"
    ]
    assert "workflow.finished" in events[events.index("policy.refused") :]
    edit(saved, {"network": "bridge"}, "the tests download fixtures")
    assert saved.run(prompt_file(PROMPT), repo.path).code == 0
