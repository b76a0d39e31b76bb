"""Rows that a killed process has left open on a real server: ended where they are its own, and nowhere else."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from workflowmaster.flows import signs, taskrows
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.folders import UnknownWorkflow, new_id
from workflowmaster.flows.past import Past
from workflowmaster.flows.stopping import Asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.prefect

CANCEL, PAUSE = Asked("cancel", "ada on the command line"), Asked("pause", "ada on the command line")


@pytest.fixture(autouse=True)
def server(prefect_server: Any) -> Iterator[Any]:
    """The session's server as this process's own."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        yield prefect_server


@pytest.fixture
def flow_run(server: Any) -> Callable[..., str]:
    """Create a flow run as a killed process leaves one behind, with task runs in these states."""

    def make(name: str, *tasks: str, state: str = "RUNNING") -> str:
        flow = server.post("/flows/", {"name": "rows"})["id"]
        run = server.post("/flow_runs/", {"flow_id": flow, "name": name, "state": {"type": state}})["id"]
        for number, kind in enumerate(tasks):
            known = {"flow_run_id": run, "task_key": "step", "dynamic_key": str(number), "name": f"{number}-{kind}"}
            server.post("/task_runs/", {**known, "state": {"type": kind}})
        return str(run)

    return make


def rows(server: Any, run: str) -> dict[str, str]:
    """Task run → type of its state."""
    found = server.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return {one["name"]: one["state_type"] for one in found}


def kind(server: Any, run: str) -> str:
    return str(server.get(f"/flow_runs/{run}")["state_type"])


def ended(run: str, before: datetime) -> int:
    from prefect import get_client

    async def work() -> int:
        async with get_client() as client:
            return await taskrows.end_tasks(client, UUID(run), before=before)

    return asyncio.run(work())


def test_open_task_runs_end_and_finished_ones_stay(server: Any, flow_run: Callable[..., str]) -> None:
    run = flow_run(new_id(), "RUNNING", "PENDING", "COMPLETED", "FAILED", "SCHEDULED")
    assert ended(run, datetime.now(UTC)) == 3
    assert set(rows(server, run).values()) == {"CRASHED", "COMPLETED", "FAILED"}
    assert rows(server, run)["2-COMPLETED"] == "COMPLETED"
    assert ended(run, datetime.now(UTC)) == 0, "twice does nothing"


def test_what_began_after_the_moment_is_never_touched(server: Any, flow_run: Callable[..., str]) -> None:
    run = flow_run(new_id(), "RUNNING", "PENDING")
    assert ended(run, datetime.now(UTC) - timedelta(hours=1)) == 0
    assert set(rows(server, run).values()) == {"RUNNING", "PENDING"}


def test_more_rows_than_a_page_all_end(server: Any, flow_run: Callable[..., str], monkeypatch: Any) -> None:
    monkeypatch.setattr(taskrows, "PAGE", 3)
    run = flow_run(new_id(), *["RUNNING"] * 8)
    assert ended(run, datetime.now(UTC)) == 8
    assert set(rows(server, run).values()) == {"CRASHED"}


def test_a_resume_ends_what_the_dead_part_left_and_nothing_of_its_own(
    server: Any, flow_run: Callable[..., str], monkeypatch: Any
) -> None:
    from prefect import flow, task
    from prefect.events.worker import EventsWorker

    # One that an earlier test has left speaks to that test's server.
    EventsWorker.drain_all(timeout=5, at_exit=False)
    monkeypatch.setattr(taskrows, "LATE", 0.5)
    name = new_id()
    before = flow_run(name, "RUNNING", "PENDING")

    @task(task_run_name="mine")
    async def mine() -> None:
        await asyncio.sleep(2)

    @flow(flow_run_name=name)
    async def part() -> str:
        from workflowmaster.flows.stopping import flow_run_id

        journey: Any = SimpleNamespace(id=name, claim=SimpleNamespace(fresh=False), past=Past())
        await asyncio.gather(mine(), taskrows.tidy(journey))
        return str(flow_run_id())

    run = asyncio.run(part())
    assert set(rows(server, before).values()) == {"CRASHED"}
    assert kind(server, before) == "CRASHED", "the flow run that it went on from"
    message = server.get(f"/flow_runs/{before}")["state"]["message"]
    assert message.endswith(f"the workflow went on as flow run {run}")
    assert [one["state_type"] for one in server.tasks(run, count=1)] == ["COMPLETED"]
    assert kind(server, run) == "COMPLETED"


@pytest.mark.parametrize(
    ("there", "to", "after", "changed"),
    [
        ("RUNNING", "CRASHED", "CRASHED", True),
        ("CANCELLING", "CANCELLED", "CANCELLED", True),
        ("PAUSED", "CANCELLED", "CANCELLED", True),
        ("PAUSED", "PAUSED", "PAUSED", False),
        ("COMPLETED", "CRASHED", "COMPLETED", False),
        ("FAILED", "CANCELLED", "FAILED", False),
    ],
)
def test_a_flow_run_that_has_ended_keeps_its_state(
    server: Any, flow_run: Callable[..., str], there: str, to: str, after: str, changed: bool
) -> None:
    from prefect.states import State

    run = flow_run(new_id(), state=there)
    assert asyncio.run(taskrows.end_run(run, State(type=to, message="gone"))) is changed
    assert kind(server, run) == after


def test_a_flow_run_that_the_server_does_not_know_is_nobodys_concern() -> None:
    from prefect.states import Crashed

    assert asyncio.run(taskrows.end_run("00000000-0000-4000-8000-000000000000", Crashed())) is False


# --- asked through the server ---


@pytest.mark.parametrize(
    ("asked", "seen", "end", "status"),
    [(CANCEL, "CANCELLING", "CANCELLED", "aborted"), (PAUSE, "PAUSED", "", "paused")],
)
def test_a_run_elsewhere_is_asked_and_waited_for(
    server: Any, flow_run: Callable[..., str], asked: Asked, seen: str, end: str, status: str
) -> None:
    name = new_id()
    run = flow_run(name)
    heard: list[str] = []

    def process() -> None:
        while not heard:
            heard.extend({kind(server, run)} & {seen})
            time.sleep(0.05)
        if end:
            server.post(f"/flow_runs/{run}/set_state", {"state": {"type": end}, "force": True})

    thread = threading.Thread(target=process)
    thread.start()
    assert asyncio.run(taskrows.ask_run(name, asked, seconds=20)) == (status, asked.reason)
    thread.join()
    assert heard == [seen]


def test_one_that_does_not_stop_and_one_that_is_not_there_are_told(flow_run: Callable[..., str]) -> None:
    name = new_id()
    flow_run(name)
    with pytest.raises(NeedsPerson, match="has not stopped within 0 s; is its host up"):
        asyncio.run(taskrows.ask_run(name, CANCEL, seconds=0.3))
    with pytest.raises(UnknownWorkflow, match="no flow run of that name is under way"):
        asyncio.run(taskrows.ask_run(new_id(), CANCEL, seconds=1))


# --- signs of life ---


def beat(server: Any, run: str, *ages: float) -> None:
    """Have a flow run's heartbeats have come so many seconds ago."""
    from prefect.events import Event, Resource
    from prefect.events.clients import get_events_client

    async def send() -> None:
        async with get_events_client() as client:
            for age in ages:
                at = datetime.now(UTC) - timedelta(seconds=age)
                resource = Resource({"prefect.resource.id": f"prefect.flow-run.{run}"})
                await client.emit(Event(event=signs.HEARTBEAT, occurred=at, resource=resource))

    asyncio.run(send())
    wanted = {"filter": {"resource": {"id": [f"prefect.flow-run.{run}"]}, "event": {"name": [signs.HEARTBEAT]}}}
    deadline = time.monotonic() + 30
    while len(server.post("/events/filter", wanted)["events"]) < len(ages):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def aged(server: Any, run: str, seconds: float) -> None:
    """Have a flow run's state be so old: the server itself dates what it is told."""
    at = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=seconds)
    with closing(sqlite3.connect(server.home / "prefect/prefect.db", timeout=60)) as database, database:
        done = database.execute("UPDATE flow_run_state SET timestamp = ? WHERE flow_run_id = ?", (str(at), run))
        assert done.rowcount


@pytest.mark.parametrize(
    ("age", "beats", "silent"),
    [
        (10, (), False),
        (1000, (), True),
        (1000, (20, 50), False),
        (1000, (100, 130), True),
        (4000, (300, 480), False),
        (4000, (600, 780), True),
    ],
    ids=["just-begun", "never-beat", "beats", "stopped-beating", "beats-slowly", "stopped-beating-slowly"],
)
def test_the_newest_heartbeat_tells_the_living_from_the_dead(
    server: Any, flow_run: Callable[..., str], age: float, beats: tuple[float, ...], silent: bool
) -> None:
    name = new_id()
    run = flow_run(name)
    aged(server, run, age)
    if beats:
        beat(server, run, *beats)
    found = asyncio.run(signs.look([]))
    one = found.run_of(name, run)
    assert one is not None
    assert (one.flow, one.state, one.deployed) == ("rows", "RUNNING", False)
    assert found.silent(one) is silent


def test_a_claim_that_is_beaten_is_a_sign_of_life_and_an_old_or_released_one_is_none(server: Any) -> None:
    fresh, released, dead = new_id(), new_id(), new_id()
    value = {"host": "far/0/0", "pid": 7, "started": "x-1", "beat": 3, "since": 0, "lease": 20, "released": False}
    value |= {"engine": "", "flow_run": "", "command": "wm"}
    for name, change in ((fresh, {}), (released, {"released": True})):
        server.post("/variables/", {"name": f"wm_claim_{name}_000001", "value": {**value, **change}})
    from workflowmaster.blocks.owner import Owner

    me = Owner.me()
    gone = {"host": me.host, "pid": 2**22 - 1, "started": me.started}
    server.post("/variables/", {"name": f"wm_claim_{dead}_000002", "value": {**value, **gone}})
    server.post("/variables/", {"name": f"wm_claim_{dead}_000001", "value": value})
    found = asyncio.run(signs.look([]))
    assert [found.alive(name) for name in (fresh, released, dead)] == [True, False, False]


def test_flow_runs_in_any_state_are_found_if_they_are_asked_for(flow_run: Callable[..., str], monkeypatch: Any) -> None:
    monkeypatch.setattr(signs, "PAGE", 2)
    names = {new_id(): state for state in ("CANCELLED", "COMPLETED", "PAUSED", "RUNNING", "CANCELLING")}
    known = [flow_run(name, state=state) for name, state in names.items()]
    found = {run.name: run.state for run in asyncio.run(signs.look(known)).runs if run.name in names}
    assert found == names
    unasked = {run.name for run in asyncio.run(signs.look([])).runs}
    assert {state for name, state in names.items() if name in unasked} == {"RUNNING", "CANCELLING"}
