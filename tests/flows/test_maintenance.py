"""The flow `recover-orphans` on a real server: what it does with each kind of orphan, and says about it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import claim, folders, maintenance, orphans, snapshots
from workflowmaster.flows.folders import new_id
from workflowmaster.flows.journey import Record
from workflowmaster.flows.plan import Plan, PromptRef, Source, Step, StepResult
from workflowmaster.flows.settings import Settings
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
def make(server: Any, tmp_path: Path) -> Callable[..., Folder]:
    """Leave a workflow and its flow run as a killed run would. Its image does not exist, so no resume succeeds."""

    def one(*, status: str = "running", done: int = 0, failed: str = "", row: str = "RUNNING") -> Folder:
        folder = folders.create(new_id())
        source = Source(line=1, end_line=2)
        known: dict[str, Any] = {"kind": "command", "source": source, "priority": "high", "image": "no/such:1"}
        steps = [Step(id=f"s{n}", name="s", **known) for n in range(5)]
        prompt = PromptRef(path="prompt.md", sha256="0" * 64, kind="explicit")
        plan = Plan(name="Mend | it", prompt=prompt, compiler="1", tasks=tuple(steps))
        results = {s.id: StepResult(step=s.id, status="completed", key="k") for s in steps[:done]}
        results |= {failed: StepResult(step=failed, status="failed", key="k")} if failed else {}
        flow = server.post("/flows/", {"name": "Mend it"})["id"]
        run = server.post("/flow_runs/", {"flow_id": flow, "name": folder.id, "state": {"type": row}})["id"]
        known = {"flow_run_id": run, "task_key": "step", "dynamic_key": "0", "name": "s"}
        server.post("/task_runs/", {**known, "state": {"type": "RUNNING"}})
        options = {"prompt": "prompt.md", "workspace": str(tmp_path / "gone")}
        raw = {"workflow_id": folder.id, "options": options, "workflow_hash": plan.workflow_hash, "images": {}}
        folder.record.write_text(Record.model_validate({**raw, "flow_run_id": run}).model_dump_json())
        folder.plan_file.write_text(plan.model_dump_json())
        raw = {"workflow_id": folder.id, "plan": plan, "status": status, "results": results, "flow_run_id": run}
        snapshots.write(folder, WorkflowState.model_validate(raw))
        return folder

    return one


def recovered(*, dry_run: bool = False) -> dict[str, dict[str, Any]]:
    """Run the flow and return what it did with the workflows of this state directory."""
    done = asyncio.run(maintenance.recover_orphans(dry_run=dry_run))
    return {line["workflow_id"]: line for line in done if (folders.workflows() / line["workflow_id"]).exists()}


def kind(server: Any, folder: Folder) -> str:
    return str(server.get(f"/flow_runs/{folder.state().flow_run_id}")["state_type"])


def tasks(server: Any, folder: Folder) -> set[str]:
    found = server.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [folder.state().flow_run_id]}}})
    return {one["state_type"] for one in found}


def test_what_may_not_go_on_keeps_its_state_and_its_rows_are_closed(server: Any, make: Callable[..., Folder]) -> None:
    folder = make(failed="s0")
    (line,) = recovered().values()
    assert line["action"] == "left"
    assert line["reason"] == "s0, of high priority, failed, and only 0% of its steps are done"
    assert folder.state().status == "running", "a person may still resume it"
    run = server.get(f"/flow_runs/{folder.state().flow_run_id}")
    assert run["state_type"] == "CRASHED"
    assert "Not resumed: s0, of high priority, failed" in run["state"]["message"]
    assert tasks(server, folder) == {"CRASHED"}
    assert recovered()[folder.id]["action"] == "left", "the second time there is nothing to close"


def test_with_the_mode_off_everything_is_left(make: Callable[..., Folder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOWMASTER_AUTONOMOUS_MODE", "false")
    folder = make(done=3)
    assert recovered()[folder.id]["reason"] == "`autonomous_mode` is off: a person resumes"
    assert not (folder.path / "resume.log").exists()


def test_a_dry_run_touches_nothing(server: Any, make: Callable[..., Folder]) -> None:
    going, left, stopped = make(done=3), make(failed="s0"), make(row="CANCELLED")
    actions = {name: line["action"] for name, line in recovered(dry_run=True).items()}
    assert actions == {going.id: "would be resumed", left.id: "would be left", stopped.id: "would be closed"}
    assert [kind(server, one) for one in (going, left, stopped)] == ["RUNNING", "RUNNING", "CANCELLED"]
    assert tasks(server, left) == {"RUNNING"}
    assert not (going.path / "resume.log").exists()


@pytest.mark.docker
def test_one_that_was_cancelled_before_it_died_is_closed(server: Any, make: Callable[..., Folder]) -> None:
    folder = make(done=3, row="CANCELLED")
    line = recovered()[folder.id]
    assert (line["action"], line["reason"]) == ("closed", "cancelled by the Prefect server")
    assert folder.state().status == "aborted"
    assert recovered() == {}


@pytest.mark.parametrize(
    ("status", "row", "name"),
    [
        ("completed", "COMPLETED", "Completed"),
        ("failed", "FAILED", "Failed"),
        ("partial", "FAILED", "Failed"),
        ("aborted", "CANCELLED", "Cancelled"),
        ("waiting", "PAUSED", "WaitingForPerson"),
        ("paused", "PAUSED", "Suspended"),
    ],
)
def test_a_row_that_says_running_of_a_workflow_that_is_over_is_put_right(
    server: Any, make: Callable[..., Folder], status: str, row: str, name: str
) -> None:
    folder = make(status=status)
    assert recovered()[folder.id]["action"] == "closed"
    run = server.get(f"/flow_runs/{folder.state().flow_run_id}")
    assert (run["state_type"], run["state_name"]) == (row, name)
    assert tasks(server, folder) == {"CRASHED"}
    assert recovered() == {}


def test_what_somebody_works_on_is_left_alone(server: Any, make: Callable[..., Folder]) -> None:
    one, over = make(done=3), make(status="completed")
    with claim.take(one), claim.take(over):
        assert recovered() == {}
    assert (kind(server, one), kind(server, over)) == ("RUNNING", "RUNNING")


@pytest.mark.docker
def test_a_resume_that_fails_is_told_with_its_last_words(make: Callable[..., Folder]) -> None:
    folder = make(done=3)
    line = recovered()[folder.id]
    assert line["action"] == "failed"
    assert line["reason"] in (folder.path / "resume.log").read_text().replace("\n", " ")
    assert line["reason"].startswith("error: ")


def test_a_resume_of_what_is_held_says_who_holds_it(make: Callable[..., Folder]) -> None:
    folder = make(done=3)
    hold = "import sys\nfrom workflowmaster.flows import claim, folders\n"
    hold += "held = claim.take(folders.find(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, folder.id], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout
    other.stdout.readline()
    action, reason = maintenance.resume(folder)
    other.communicate("")
    assert (action, f"is held by process {other.pid} on" in reason) == ("held", True), reason


def test_the_report_is_a_table_that_a_name_cannot_break(make: Callable[..., Folder]) -> None:
    make(failed="s0")
    (found,) = orphans.detect_orphaned_workflows(server=False)
    line = {**replace(found, reason="a | b\nc").public(), "action": "left"}
    rows = maintenance._report([line]).splitlines()
    assert rows[0] == "1 left."
    assert rows[4].count(" | ") == 4, "five cells"
    assert "a \\| b c" in rows[4]
    assert maintenance._report([]) == "no orphans.\n"


def test_a_resume_goes_to_the_same_server_and_knows_nothing_of_this_flow_run(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "x")
    environment = maintenance._environment()
    assert environment["PREFECT_API_URL"] == server.url
    assert "PREFECT__FLOW_RUN_ID" not in environment
    assert Settings().autonomous_mode
