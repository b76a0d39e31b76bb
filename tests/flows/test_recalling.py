"""Waiting runs that can go on because they were answered while nobody worked on them; on a real server."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import claim, folders, maintenance, recalling, snapshots
from workflowmaster.flows.folders import new_id
from workflowmaster.flows.journal import Journal, read
from workflowmaster.flows.journey import Record
from workflowmaster.flows.plan import Plan, PromptRef, Source, Step, StepResult
from workflowmaster.flows.questions import Answer, Question
from workflowmaster.flows.state import WorkflowState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from workflowmaster.flows.folders import Folder

pytestmark = pytest.mark.prefect


@pytest.fixture(autouse=True)
def server(home: Path, prefect_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The session's server as this process's own, and an empty state directory."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    del home
    monkeypatch.setenv("PREFECT_API_URL", prefect_server.url)
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        yield prefect_server


@pytest.fixture
def waiting(server: Any, tmp_path: Path) -> Callable[..., Folder]:
    """Leave a workflow that waits, and its flow run. Its image does not exist, so no resume succeeds."""

    def one(*, due: float | None = None, row: str = "PAUSED") -> Folder:
        folder = folders.create(new_id())
        step = Step(id="s", name="s", kind="command", image="no/such:1", source=Source(line=1, end_line=2))
        prompt = PromptRef(path="prompt.md", sha256="0" * 64, kind="explicit")
        plan = Plan(name="Mend it", prompt=prompt, compiler="1", tasks=(step,))
        flow = server.post("/flows/", {"name": "Mend it"})["id"]
        run = server.post("/flow_runs/", {"flow_id": flow, "name": folder.id, "state": {"type": row}})["id"]
        options = {"prompt": "prompt.md", "workspace": str(tmp_path / "gone")}
        raw = {"workflow_id": folder.id, "options": options, "workflow_hash": plan.workflow_hash, "images": {}}
        folder.record.write_text(Record.model_validate({**raw, "flow_run_id": run}).model_dump_json())
        folder.plan_file.write_text(plan.model_dump_json())
        results = {
            "s": StepResult(step="s", status="waiting", key="k", reason="it failed and asks for a person: exit 1")
        }
        asked = Question(number=1, step="s", sort="escalation", why="exit 1", due=due, otherwise="skip", asked_at=1.0)
        with closing(Journal(folder.journal)) as records:
            records.append("question", **asked.model_dump(mode="json"))
            size = records.size
        raw = {"workflow_id": folder.id, "plan": plan, "status": "waiting", "results": results, "flow_run_id": run}
        snapshots.write(folder, WorkflowState.model_validate({**raw, "journal_at": size}))
        return folder

    return one


def fill_in(server: Any, folder: Folder, said: dict[str, Any]) -> None:
    """Leave what the UI's Resume leaves of a run that nobody starts."""
    run = folder.state().flow_run_id
    body = {"key": "workflowmaster-questions-1-0123abcd-response", "value": json.dumps(said)}
    server.post(f"/flow_runs/{run}/input", body)


def answers(*, enforce: bool = True) -> dict[str, str]:
    found = asyncio.run(recalling.answered(enforce=enforce))
    return {folder.id: who for folder, who in found}


def test_a_run_that_only_waits_is_left_alone(waiting: Callable[..., Folder]) -> None:
    waiting()
    waiting(due=time.time() + 3600)
    assert answers() == {}


def test_the_time_out_rule_is_carried_out_and_dry_only_told(waiting: Callable[..., Folder]) -> None:
    folder = waiting(due=time.time() - 1)
    size = folder.journal.stat().st_size
    told = answers(enforce=False)[folder.id]
    assert told.startswith("step s is skipped by the time-out rule: nobody answered within ")
    assert folder.journal.stat().st_size == size
    assert answers()[folder.id].startswith("step s is skipped by the time-out rule")
    (kept,) = read(folder.journal).of("approval")
    assert (kept.fields["verb"], kept.fields["by"]) == ("skip", "the time-out rule")
    assert '"event":"approval"' in folder.audit.read_text()


def test_an_answer_whose_process_was_killed_is_found(waiting: Callable[..., Folder]) -> None:
    folder = waiting()
    with closing(Journal(folder.journal)) as records:
        records.append("approval", **Answer(question=1, step="s", verb="retry", by="ada").fields())
    assert answers() == {folder.id: "step s is retried by ada"}
    with claim.take(folder):
        assert answers() == {}, "somebody carries it out"


def test_a_form_that_was_filled_in_is_found(server: Any, waiting: Callable[..., Folder]) -> None:
    folder, other = waiting(row="RUNNING"), waiting(row="RUNNING")
    fill_in(server, folder, {"verb": "skip"})
    assert answers() == {folder.id: "its questions were answered in the Prefect UI"}
    done = asyncio.run(maintenance.recover_orphans())
    lines = {one["workflow_id"]: one for one in done}
    # Its image is gone, so it cannot go on; the form must not be asked again for that.
    assert lines[folder.id]["action"] == "failed"
    assert [one["workflow_id"] for one in done].count(folder.id) == 1
    assert server.get(f"/flow_runs/{folder.state().flow_run_id}")["state_type"] == "RUNNING"
    assert lines[other.id]["action"] == "closed"
    assert server.get(f"/flow_runs/{other.state().flow_run_id}")["state_type"] == "PAUSED"
