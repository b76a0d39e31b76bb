"""Which runs have lost their owner: real folders, real locks, real processes that are killed and stopped."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import workflowmaster.flows
from workflowmaster.blocks.owner import Owner
from workflowmaster.flows import claim, folders, orphans, snapshots
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.journal import Journal
from workflowmaster.flows.journey import Record
from workflowmaster.flows.orphans import Orphan, Sight, detect_orphaned_workflows, orphaned, same_work, should_resume
from workflowmaster.flows.plan import Plan, PromptRef, Source, Step, StepResult, WorkflowStatus
from workflowmaster.flows.settings import Settings
from workflowmaster.flows.signs import FREQUENCY, MISSED, Run, Signs
from workflowmaster.flows.state import WorkflowState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workflowmaster.flows.folders import Folder

KEYS = {"workflow_id", "name", "age_seconds", "progress", "resumable", "reason"}
HOLD = """
import sys
from workflowmaster.flows import claim, folders
held = claim.take(folders.Folder(folders.workflows() / sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)


def plan(*ids: str, high: tuple[str, ...] = ()) -> Plan:
    source = Source(line=1, end_line=2)
    steps = tuple(
        Step(id=name, name=name, kind="command", source=source, priority="high" if name in high else "medium")
        for name in ids
    )
    prompt = PromptRef(path="prompt.md", sha256="0" * 64, kind="explicit")
    return Plan(name="Mend it", prompt=prompt, compiler="1", tasks=steps)


@pytest.fixture
def make(home: Path, tmp_path: Path) -> Callable[..., Folder]:
    """Leave a workflow's folder as a run would: by default one that works on the second of four steps."""
    del home

    def one(
        number: int = 1, *, status: str = "running", done: int = 1, failed: tuple[str, ...] = (), **fields: Any
    ) -> Folder:
        folder = folders.create(f"task-20261122-1400{number // 100:02d}-{number:08x}")
        steps = plan("a", "b", "c", "d", high=failed)
        results = {s.id: StepResult(step=s.id, status="completed", key="k") for s in steps.tasks[:done]}
        results |= {name: StepResult(step=name, status="failed", key="k") for name in failed}
        state = WorkflowState.model_validate(
            {"workflow_id": folder.id, "plan": steps, "status": status, "results": results, **fields}
        )
        options = {"prompt": "prompt.md", "workspace": str(tmp_path)}
        record = Record.model_validate(
            {"workflow_id": folder.id, "options": options, "workflow_hash": steps.workflow_hash, "images": {}}
        )
        folder.plan_file.write_text(steps.model_dump_json())
        folder.record.write_text(record.model_dump_json())
        snapshots.write(folder, state)
        return folder

    return one


@pytest.fixture
def holding() -> Iterator[Callable[[Folder], subprocess.Popen[str]]]:
    """Have another process hold a workflow."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Folder) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOLD, folder.id]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def found() -> dict[str, Orphan]:
    return {orphan.workflow_id: orphan for orphan in detect_orphaned_workflows()}


# --- the table: every combination of state, claim, sign of life and Prefect state ---

STATUSES = (*get_args(WorkflowStatus), "?")
TYPES = ("", "PENDING", "SCHEDULED", "RUNNING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED", "CANCELLING", "PAUSED")
DEAD = {("running", kind) for kind in TYPES if kind != "PAUSED"} | {("?", kind) for kind in TYPES if kind != "PAUSED"}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(("held", "alive"), list(itertools.product((True, False), repeat=2)))
def test_only_what_nobody_holds_and_has_not_ended_is_an_orphan(status: str, held: bool, alive: bool) -> None:
    for kind in TYPES:
        expected = (status, kind) in DEAD and not held and not alive
        assert orphaned(Sight(status, held=held, alive=alive, flow_run=kind)) is expected, kind


# --- what lies in the state directory ---


@pytest.mark.parametrize("status", get_args(WorkflowStatus))
def test_a_folder_that_nobody_holds_is_an_orphan_if_it_has_not_ended(make: Callable[..., Folder], status: str) -> None:
    folder = make(status=status)
    assert set(found()) == ({folder.id} if status == "running" else set())


def test_a_living_owner_is_no_orphan_however_long_it_sleeps_and_a_dead_one_is_at_once(
    make: Callable[..., Folder], holding: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = make()
    process = holding(folder)
    os.utime(folder.state_file, (1, 1))
    assert found() == {}
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert found() == {}, "stopped is not dead"
    process.send_signal(signal.SIGKILL)
    process.wait()
    (orphan,) = found().values()
    assert orphan.resumable
    assert orphan.reason.startswith(f"process {process.pid} on ")
    assert orphan.reason.endswith(", is dead; 1 of 4 steps done")


def test_a_run_between_claim_and_first_state_lives_and_is_an_orphan_when_it_is_killed_there(
    make: Callable[..., Folder], holding: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = make()
    folder.state_file.unlink()
    process = holding(folder)
    assert found() == {}
    process.kill()
    process.wait()
    (orphan,) = found().values()
    assert (orphan.resumable, orphan.progress, orphan.name) == (True, 0.0, "Mend it")
    folder.plan_file.unlink()
    assert found() == {}, "this is no workflow yet, and somebody may be about to fill it"


def test_whoever_has_given_it_back_without_an_end_and_another_machine_are_named(make: Callable[..., Folder]) -> None:
    folder = make()
    claim.take(folder).close()
    assert "has given it back" in found()[folder.id].reason
    holder = claim.Holder(Owner("far/0/0", 7, "x-1"), time.time(), command="wm run")
    claim.lock_file(folder).write_bytes(holder.text())
    assert "process 7 on far since" in found()[folder.id].reason
    assert "no longer holds its claim" in found()[folder.id].reason


def test_what_was_recorded_after_the_snapshot_counts(make: Callable[..., Folder]) -> None:
    """A run is killed between its last record and the snapshot that would hold it."""
    folder = make()
    ended = folder.state().model_copy(update={"status": "completed"})
    journal = Journal(folder.journal)
    journal.append("closed", **snapshots.closing(ended))
    assert b'"status":"running"' in folder.state_file.read_bytes()
    assert found() == {}
    begun = {"plan_hash": "", "started_at": time.time(), "flow_run_id": ""}
    journal.append("begun", **begun)
    journal.close()
    assert set(found()) == {folder.id}


@pytest.mark.parametrize("damage", [b"", b"{", b'{"status":"complete', b"\0" * 4096])
def test_a_damaged_state_hides_no_run_and_invents_none(make: Callable[..., Folder], damage: bytes) -> None:
    folder = make()
    folder.state_file.write_bytes(damage)
    assert set(found()) == {folder.id}
    folder.plan_file.unlink()
    (orphan,) = found().values()
    assert not orphan.resumable
    audit = AuditLog(folder.audit)
    audit.append("workflow.finished", status="completed", reason="")
    audit.close()
    assert found() == {}, "the audit log says that it has ended"


def test_the_figures_are_right_whatever_the_clock_does(make: Callable[..., Folder]) -> None:
    folder = make(done=3)
    for path in (*folder.path.iterdir(), folder.path):
        os.utime(path, (time.time() - 100, time.time() - 100))
    orphan = found()[folder.id]
    assert set(orphan.public()) == KEYS
    assert 100 <= orphan.age_seconds < 130
    assert (orphan.progress, orphan.name) == (0.75, "Mend it")
    os.utime(folder.path, (time.time() + 3600, time.time() + 3600))
    assert found()[folder.id].age_seconds == 0, "the clock has jumped back an hour"


def test_a_thousand_workflows_take_well_under_a_second(make: Callable[..., Folder]) -> None:
    make(1)
    pattern = make(2, status="completed")
    body = pattern.state_file.read_text()
    for number in range(3, 1001):
        folder = folders.create(f"task-20261122-1400{number // 100:02d}-{number:08x}")
        folder.state_file.write_text(body.replace(pattern.id, folder.id))
    began = time.perf_counter()
    assert len(found()) == 1
    assert time.perf_counter() - began < 1.0


def test_it_is_had_from_the_package_too_without_importing_prefect(home: Path) -> None:
    code = "import sys, workflowmaster.flows as f; assert f.detect_orphaned_workflows() == []; print('prefect' in sys.modules)"
    env = {**os.environ, "WORKFLOWMASTER_HOME": str(home)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout == b"False\n"
    assert workflowmaster.flows.should_resume is should_resume
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        workflowmaster.flows.nothing  # noqa: B018


def test_the_command_lists_them_for_people_and_for_programs(
    make: Callable[..., Folder], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from workflowmaster.flows import cli

    assert cli.main(["orphans"]) == 0
    assert "no orphans" in capsys.readouterr().out
    folder = make()
    assert cli.main(["orphans", "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert set(said) == KEYS
    assert cli.main(["orphans"]) == 0
    assert f"workflowmaster resume {folder.id}" in capsys.readouterr().out
    assert home.exists()


# --- what lies elsewhere ---


def run(**fields: Any) -> Run:
    given: dict[str, Any] = {"id": "r", "name": "task-20261122-140000-0000000f", "flow": "Far", "state": "RUNNING"}
    return Run(**{**given, "deployed": False, "seen": NOW - timedelta(seconds=1000), **fields})


@pytest.mark.parametrize(
    ("seconds", "frequency", "state", "silent"),
    [
        (MISSED * FREQUENCY - 1, FREQUENCY, "RUNNING", False),
        (MISSED * FREQUENCY + 1, FREQUENCY, "RUNNING", True),
        (MISSED * FREQUENCY + 1, FREQUENCY, "CANCELLING", True),
        (MISSED * FREQUENCY + 1, 180, "RUNNING", False),
        (MISSED * 180 + 1, 180, "RUNNING", True),
        (10_000, FREQUENCY, "PAUSED", False),
        (10_000, FREQUENCY, "COMPLETED", False),
        (-3600, FREQUENCY, "RUNNING", False),
    ],
)
def test_silence_has_to_last(seconds: float, frequency: float, state: str, silent: bool) -> None:
    one = run(state=state, frequency=frequency, seen=NOW - timedelta(seconds=seconds))
    assert Signs(NOW, [one]).silent(one) is silent
    assert Signs(NOW, [one]).age(one) == max(0, seconds)


def test_a_run_of_another_machine_is_told_and_not_resumed_here(home: Path) -> None:
    del home
    one = run()
    (orphan,) = orphans._far(Signs(NOW, [one]))
    assert (orphan.resumable, orphan.progress, orphan.name, orphan.age_seconds) == (False, 0.0, "Far", 1000)
    assert "its folder is not in this state directory: it lies on another host" in orphan.reason
    assert list(orphans._far(Signs(NOW, [one], frozenset({one.name})))) == [], "its claim is beaten"
    assert list(orphans._far(Signs(NOW, [run(seen=NOW)]))) == [], "it was heard of just now"


def test_what_the_server_knows_decides_about_a_folder_here(make: Callable[..., Folder]) -> None:
    folder = make(flow_run_id="r")
    near = list(orphans._near())
    for state, stopped in [("RUNNING", ""), ("CRASHED", ""), ("CANCELLED", "cancelled"), ("CANCELLING", "cancelled")]:
        (orphan,) = orphans._judged(near, Signs(NOW, [run(name=folder.id, state=state)]))
        assert orphan.stopped == stopped
    assert list(orphans._judged(near, Signs(NOW, [run(name=folder.id, state="PAUSED")]))) == []
    assert list(orphans._judged(near, Signs(NOW, [], frozenset({folder.id})))) == [], "it goes on on another machine"
    (orphan,) = orphans._judged(near, Signs(NOW, [run(id="other", name=folder.id, state="CANCELLED")]))
    assert orphan.stopped == "", "an earlier flow run of it"


# --- what goes on by itself ---

FINE = Orphan("task-x", "X", age_seconds=60, progress=0.0, resumable=True, reason="process 1 is dead")


@pytest.mark.parametrize(
    ("changes", "settings", "resume", "reason"),
    [
        ({}, {}, True, "nothing speaks against it"),
        ({"resumable": False}, {}, False, "process 1 is dead"),
        ({"stopped": "cancelled"}, {}, False, "it was cancelled before it died"),
        ({}, {"autonomous_mode": False}, False, "`autonomous_mode` is off: a person resumes"),
        ({"age_seconds": 24 * 3600}, {}, True, "nothing speaks against it"),
        ({"age_seconds": 24 * 3600 + 1}, {}, False, "it has been dead for 1 d 00 h, more than the 24 h of"),
        ({"age_seconds": 7200}, {"resume_within_hours": 1}, False, "more than the 1 h of `resume_within_hours`"),
        ({"age_seconds": 0}, {}, True, "nothing speaks against it"),
        ({"deaths": 2}, {}, True, "nothing speaks against it"),
        ({"deaths": 3, "progress": 0.9}, {}, False, "it has died 3 times without finishing a step in between"),
        ({"progress": 0.21, "failed_important": ("a",)}, {}, True, "21% of its steps are done"),
        ({"progress": 0.2, "failed_important": ("a",)}, {}, False, "a, of high priority, failed, and only 20%"),
        ({"progress": 0.9}, {}, True, "90% of its steps are done"),
    ],
)
def test_what_goes_on_by_itself(
    home: Path, changes: dict[str, Any], settings: dict[str, Any], resume: bool, reason: str
) -> None:
    del home
    choice = should_resume(replace(FINE, **changes), Settings(**settings))
    assert (choice.resume, reason in choice.reason) == (resume, True), choice.reason


@given(
    age=st.floats(0, 1e9),
    progress=st.floats(0, 1),
    deaths=st.integers(1, 9),
    resumable=st.booleans(),
    stopped=st.sampled_from(["", "cancelled"]),
)
def test_every_answer_has_a_reason_and_no_obstacle_is_overlooked(
    age: float, progress: float, deaths: int, resumable: bool, stopped: str
) -> None:
    orphan = Orphan("t", "T", age, progress, resumable, "dead", deaths=deaths, stopped=stopped)
    settings = Settings.model_construct(autonomous_mode=True, resume_within_hours=24.0)
    choice = should_resume(orphan, settings)
    assert choice.reason
    assert not (choice.resume and (not resumable or stopped or deaths >= orphans.DEATHS or age > 24 * 3600))


def test_deaths_are_counted_from_the_last_step_that_ended(make: Callable[..., Folder]) -> None:
    folder = make()
    journal = Journal(folder.journal)
    begun = {"plan_hash": "", "started_at": time.time(), "flow_run_id": ""}
    result = StepResult(step="b", status="completed", key="k").model_dump(mode="json")
    for _ in range(2):
        journal.append("begun", **begun)
    assert found()[folder.id].deaths == 2
    journal.append("result", step="b", reused=False, result=result)
    journal.append("begun", **begun)
    journal.close()
    assert found()[folder.id].deaths == 1


def test_a_failed_step_of_high_priority_is_seen(make: Callable[..., Folder]) -> None:
    folder = make(done=0, failed=("a",))
    assert found()[folder.id].failed_important == ("a",)


def test_only_the_same_prompt_for_the_same_workspace_is_the_same_work(
    make: Callable[..., Folder], tmp_path: Path
) -> None:
    folder = make()
    here = Path("prompt.md").resolve()
    assert same_work(folder, here, tmp_path)
    assert not same_work(folder, tmp_path / "prompt.md", tmp_path)
    assert not same_work(folder, here, tmp_path / "other")
    folder.record.write_text("{")
    assert not same_work(folder, here, tmp_path)
