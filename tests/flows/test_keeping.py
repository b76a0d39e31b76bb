"""When a run's state is written: at milestones, rarely otherwise, and in all never more than a few times what happened."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import checkpoints, keeping, snapshots
from workflowmaster.flows.keeping import Keeping, Milestones

if TYPE_CHECKING:
    from collections.abc import Callable


class Said(list[tuple[str, dict[str, Any]]]):
    """An audit log that only remembers."""

    def append(self, event: str, **fields: Any) -> None:  # type: ignore[override]
        super().append((event, fields))


@pytest.fixture
def journey_of(run_of: Callable[..., Any], make: Any) -> Callable[..., Any]:
    """Make as much of a run under way as the keeping of its state asks for."""

    def made(*steps: Any, **workflow: str) -> Any:
        run = run_of(*steps, **workflow)
        record = SimpleNamespace(
            workflow_hash=run.plan.workflow_hash,
            flow_run_id="f1",
            options=SimpleNamespace(workspace="/w"),
            images={},
            model_dump=lambda **_: {},
        )
        journey = SimpleNamespace(
            id=run.folder.id,
            folder=run.folder,
            plan=run.plan,
            record=record,
            journal=run.records,
            claim=SimpleNamespace(lost=""),
            audit=Said(),
            store=SimpleNamespace(base="b" * 40),
            started_at=make.start,
            run=run,
        )
        journey.keeping = Keeping(journey)
        return journey

    return made


def settle(journey: Any, name: str, status: str = "completed", *, reused: bool = False) -> None:
    made = journey.run.settle(name, status, reused=reused)
    journey.keeping.settled(journey.plan.step(name), made, reused=reused)


def names(journey: Any) -> list[str]:
    journey.keeping.drain()
    return [path.name for path in checkpoints.files(journey.folder).values()]


PHASES = {
    "1": "initialization",
    "2": "issue_creation",
    "3": "branch_management",
    "4": "research_planning",
    "5.1": "implementation",
    "5": "implementation",
    "6": "testing",
    "8": "pull_request_creation",
}


def test_each_milestone_of_a_workflow_has_a_checkpoint(journey_of: Callable[..., Any], make: Any) -> None:
    journey = journey_of(*(make.step(name, phase=phase) for name, phase in PHASES.items()))
    journey.keeping.begin()
    for name in PHASES:
        settle(journey, name)
    assert names(journey) == [
        "0001-setup.json.gz",
        "0002-issue.json.gz",
        "0003-branch.json.gz",
        "0004-implementation.json.gz",
        "0005-tests.json.gz",
        "0006-pull-request.json.gz",
    ]
    events = [(event, fields["step"], fields["done"]) for event, fields in journey.audit]
    assert events[:3] == [("checkpoint.written", str(n), n) for n in (1, 2, 3)]
    assert events[3] == ("checkpoint.written", "5", 6)
    implemented = checkpoints.read(checkpoints.files(journey.folder)[4], journey.folder)
    assert set(implemented.state.results) == {"1", "2", "3", "4", "5.1", "5"}


def test_a_marked_step_has_one_of_its_own_name(journey_of: Callable[..., Any], make: Any) -> None:
    journey = journey_of(make.step("a"), make.step("b/3.11", checkpoint=True), make.step("c"))
    journey.keeping.begin()
    settle(journey, "a")
    settle(journey, "b/3.11")
    assert names(journey) == ["0001-b_3.11.json.gz"]


def test_a_failed_step_is_no_milestone_and_what_only_came_back_is_none_anew(
    journey_of: Callable[..., Any], make: Any
) -> None:
    steps = make.step("a", phase="testing"), make.step("b", checkpoint=True)
    reached = Milestones(steps).reached
    assert reached(steps[0], make.result("a", status="failed")) == ""
    assert reached(steps[1], make.result("b", status="failed")) == ""
    assert reached(steps[0], make.result("a", status="skipped")) == "tests"
    journey = journey_of(*steps)
    journey.keeping.begin()
    settle(journey, "a", reused=True)
    assert names(journey) == []
    settle(journey, "b")
    assert names(journey) == ["0001-b.json.gz"]


def test_the_end_is_kept_as_a_whole(journey_of: Callable[..., Any], make: Any) -> None:
    journey = journey_of(make.step("a"), make.step("b"))
    journey.keeping.begin()
    settle(journey, "a", "failed")
    state = journey.keeping.state().model_copy(update={"status": "failed", "reason": "no", "pull_request": "/p.md"})
    journey.keeping.last_checkpoint(state)
    journey.keeping.end(state, durable=True)
    journey.keeping.close()
    kept = snapshots.read(journey.folder)
    assert kept == journey.folder.state()
    assert (kept.status, kept.reason, kept.pull_request, kept.running) == ("failed", "no", "/p.md", ())
    assert kept.journal_at == journey.folder.journal.stat().st_size
    assert [one.name for one in checkpoints.good(journey.folder)] == ["pull-request"]


def test_a_lost_claim_writes_nothing(journey_of: Callable[..., Any], make: Any) -> None:
    journey = journey_of(make.step("a", checkpoint=True))
    journey.claim.lost = "another process has it"
    journey.keeping.begin()
    settle(journey, "a")
    assert names(journey) == []
    assert not journey.folder.state_file.exists()


def test_a_disk_that_is_full_fails_no_step(
    journey_of: Callable[..., Any], make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journey = journey_of(make.step("a", checkpoint=True))
    journey.keeping.begin()
    (journey.folder.path / "checkpoints").write_text("a file where a folder belongs")
    settle(journey, "a")
    journey.keeping.drain()
    assert "its state could not be kept" in caplog.text


def test_no_step_waits_for_what_is_written(
    journey_of: Callable[..., Any], make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey = journey_of(make.step("a", checkpoint=True), make.step("b"))
    journey.keeping.begin()
    gate, writers = threading.Event(), []
    real = checkpoints.write

    def slow(*given: Any) -> Any:
        writers.append(threading.current_thread().name)
        assert gate.wait(60)
        return real(*given)

    monkeypatch.setattr(checkpoints, "write", slow)
    settle(journey, "a")
    settle(journey, "b")  # returns although the checkpoint of `a` is held up
    gate.set()
    assert names(journey) == ["0001-a.json.gz", "0002-implementation.json.gz"]
    assert writers == ["state_0", "state_0"]
    # Of what came after the milestone a checkpoint says nothing, however late it is written.
    assert [set(one.state.results) for one in checkpoints.good(journey.folder)] == [{"a", "b"}, {"a"}]


def work_through(journey: Any, sizes: list[int]) -> float:
    """Settle every step; `sizes` gets the bytes of each snapshot. Returns all that was written, in last snapshots."""
    journey.keeping.begin()
    for step in journey.plan.tasks:
        # Skipped: a result to be persisted takes longer than all that is counted here.
        settle(journey, step.id, "skipped")
        journey.keeping.drain()
    journey.keeping.end(journey.keeping.state(), durable=False)
    journey.keeping.close()
    assert len(journey.folder.state().results) == len(journey.plan.tasks)
    return float(journey.keeping.written / sizes[-1])


@pytest.mark.parametrize(("marked", "times", "most"), [(False, 5, 8), (True, 14, 40)], ids=["plain", "all"])
def test_a_thousand_steps_cost_what_changes_and_not_its_square(
    journey_of: Callable[..., Any], make: Any, marked: bool, times: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts bytes, which are the same on any machine."""
    monkeypatch.setattr(keeping, "FREE", 0)
    sizes: list[int] = []
    real = snapshots.write

    def counted(*given: Any, **how: Any) -> int:
        sizes.append(real(*given, **how))
        return sizes[-1]

    monkeypatch.setattr(snapshots, "write", counted)
    cost, calls = {}, {}
    for count in (250, 1000):
        steps = (make.step(f"s{n}", checkpoint=marked) for n in range(count))
        sizes.clear()
        cost[count] = work_through(journey_of(*steps, workflow=f"task-{count}"), sizes)
        calls[count] = len(sizes)
    print(cost, calls)
    assert cost[1000] <= times
    assert cost[1000] <= 1.5 * cost[250]
    assert calls[1000] <= most
