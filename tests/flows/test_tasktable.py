"""The artifact `tasks`: what it shows, how seldom it is written, and that no trouble with it is the run's."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import tasktable
from workflowmaster.flows.journal import Journal
from workflowmaster.flows.plan import Decision
from workflowmaster.flows.tasktable import MOST_ROWS, Table, headline, rows
from workflowmaster.flows.tracker import Tracker
from workflowmaster.flows.watching import silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_rows_say_what_each_task_waits_for(shapes: dict[str, Callable[[], Any]]) -> None:
    state = shapes["failing"]()
    tracker = Tracker.of(state, 0.0)
    assert headline(tracker) == "6 steps: 3 completed, 1 reused, 1 failed, 1 blocked"
    found = {row["task"]: row for row in rows(tracker, state.plan, 0.0)}
    assert found["tests"] == {
        "task": "tests",
        "state": "✗ failed",
        "name": "",
        "try": "3",
        "time": "7.2 s",
        "note": "exit code 1 after 3 attempts",
    }
    assert (found["release"]["note"], found["release"]["try"]) == ("by tests", "")
    assert (found["reproduce"]["state"], found["release"]["name"]) == ("↺ reused", "Release notes")


def test_a_retry_says_when_and_why(make: Any) -> None:
    tracker = Tracker(make.plan(make.step("a"), make.step("b", "a")))
    tracker.started("a", 1, 0.0)
    tracker.decided(Decision(step="a", verb="retry", reason="network: dns", wait_seconds=60.0), 1_700_000_000.0)
    first, second = rows(tracker, make.plan(make.step("a"), make.step("b", "a")), 1_700_000_012.0)
    assert first["note"] == "next attempt at 2023-11-14 22:14:20 UTC (in 48.0 s): dns"
    assert (first["state"], second["note"]) == ("↻ retrying", "after a")


def test_a_prose_prompt_has_its_phases(make: Any) -> None:
    plan = make.plan(make.step("1", phase="initialization"), make.step("6", phase="testing", name="testing"))
    tracker = Tracker(plan)
    assert headline(tracker) == "2 steps: 2 pending; initialization 0/1, testing 0/1"
    assert [row["phase"] for row in rows(tracker, plan, 0.0)] == ["initialization", "testing"]


def test_of_a_thousand_tasks_those_that_matter_are_listed(make: Any) -> None:
    plan = make.plan(*(make.step(f"s{n}") for n in range(1000)))
    tracker = Tracker(plan)
    tracker.finished(make.result("s999", status="failed"), 0.0)
    found = rows(tracker, plan, 0.0)
    assert (len(found), found[0]["task"], found[-1]["task"]) == (MOST_ROWS, "s0", "s999")
    assert len(json.dumps(found)) < 100_000


def test_a_decision_is_heard_from_whoever_writes_it_down(make: Any, tmp_path: Path) -> None:
    heard: list[Decision] = []
    watcher = SimpleNamespace(**{name: getattr(silent, name) for name in dir(silent) if name[0] != "_"})
    watcher.step_decided = heard.append
    table = Table(make.plan(make.step("a")), watcher)
    journal = Journal(tmp_path / "records.jsonl")
    journal.heard = table.recorded
    decision = Decision(step="a", verb="retry", reason="r: s", wait_seconds=1.0, at=5.0)
    journal.append("decision", key="k", had=None, **decision.model_dump(mode="json"))
    journal.append("keys", step="a", key="k")
    journal.close()
    assert heard == [decision]
    assert table.tracker["a"].between


def test_a_step_costs_less_than_a_millisecond(make: Any) -> None:
    plan = make.plan(*(make.step(f"s{n}", *([f"s{n - 1}"] if n else [])) for n in range(1000)))
    table = Table(plan, silent)
    results = [make.result(step.id, make.receipt(0, 1.0)) for step in plan.tasks]
    began = time.process_time()
    for step, result in zip(plan.tasks, results, strict=True):
        table.step_started(step.id, 1)
        table.step_finished(result)
    # A table every five seconds: of a thousand steps of a second each, four at a time, fifty.
    for _ in range(50):
        rows(table.tracker, plan, 0.0)
    # Measured 0.03 ms for the tracker and 0.1 ms for the tables, a step.
    assert (time.process_time() - began) / 1000 < 0.001


def going(make: Any, count: int = 3) -> Any:
    """As much of a journey as a table needs."""
    plan = make.plan(*(make.step(f"s{n}") for n in range(count)))
    return SimpleNamespace(id="task-table", plan=plan, journal=SimpleNamespace(heard=None))


class Written:
    """Takes the place of the server: what would have been written to it, and the trouble it gives."""

    def __init__(self, patch: pytest.MonkeyPatch, trouble: str = "") -> None:
        self.lines: list[str] = []
        self.event, self.trouble = asyncio.Event(), trouble
        patch.setattr(tasktable, "SECONDS", 0.02)
        patch.setattr(tasktable, "PATIENCE", 0.1)

        async def write(table: Table) -> None:
            await self.take(table)

        patch.setattr(Table, "write", write)

    async def take(self, table: Table) -> None:
        table._written = table.tracker.changes
        self.lines.append(headline(table.tracker))
        self.event.set()
        if self.trouble == "hangs":
            await asyncio.sleep(60)
        if self.trouble:
            raise RuntimeError("Failed to reach API")


def test_it_is_written_seldom_and_only_when_something_changed(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        written, journey = Written(monkeypatch), going(make)
        async with tasktable.kept(journey, silent) as table:
            await asyncio.sleep(0.1)
            assert written.lines == [], "nothing has happened yet"
            for n in range(3):
                table.step_started(f"s{n}", 1)
            await asyncio.wait_for(written.event.wait(), 20)
            await asyncio.sleep(0.1)
            assert written.lines == ["3 steps: 3 running"]
            table.step_finished(make.result("s0"))
            await tasktable.last(journey)
        assert written.lines[-1] == "3 steps: 1 completed, 2 running"
        count = len(written.lines)
        await tasktable.last(journey)
        assert len(written.lines) == count, "a run that is over has no table"
        assert journey.journal.heard is None

    asyncio.run(run())


@pytest.mark.parametrize("trouble", ["raises", "hangs"])
def test_a_server_in_trouble_disturbs_nothing(make: Any, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    async def run() -> None:
        written, journey = Written(monkeypatch, trouble), going(make)
        async with tasktable.kept(journey, silent) as table:
            table.step_started("s0", 1)
            await asyncio.wait_for(written.event.wait(), 20)
            await tasktable.last(journey)
            table.step_finished(make.result("s0"))
        assert table.tracker["s0"].place == "completed"

    began = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - began < 20
    assert tasktable._tables == {}


@pytest.mark.prefect
def test_the_server_has_one_table_that_is_overwritten(
    make: Any, prefect_server: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server.url)
    (home.parent / "user").mkdir()  # Prefect keeps its bookkeeping there
    from prefect import flow
    from prefect.context import FlowRunContext
    from prefect.settings import PREFECT_API_URL, temporary_settings

    plan = make.plan(make.step("a"), make.step("b", "a"))

    @flow(name="tables")
    async def tables() -> str:
        table = Table(plan, silent)
        table.step_started("a", 1)
        await table.attempt()
        table.step_finished(make.result("a", make.receipt(0, 1.0)))
        await table.attempt()
        assert table.writes == 2
        assert not table.stale
        context = FlowRunContext.get()
        assert context
        assert context.flow_run
        return str(context.flow_run.id)

    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        run = asyncio.run(tables())  # type: ignore[arg-type]
    found = prefect_server.post("/artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
    (only,) = [one for one in found if one["key"] == "tasks"]
    assert (only["type"], only["description"]) == ("table", "2 steps: 1 completed, 1 pending")
    assert [row["state"] for row in json.loads(only["data"])] == ["✓ completed", "○ pending"]
