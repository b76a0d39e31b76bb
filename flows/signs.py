"""Signs of life on the Prefect server: what it says about runs whose process nobody here can look at.

Two things are asked, each a page at a time and never once for each run. The claims of all workflows are rows whose
holders write them every few seconds; how old a row is, the server says itself, so nobody's clock is compared with
anybody else's. Flow runs that have no such row send heartbeats, which carry their own host's time, and are believed
dead only after three that failed to come. A run whose heartbeats come less often than ours is asked for its last two,
and judged by the distance between those: that is the one question for a single run, and only silent ones cause it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.flows.epochrows import PREFIX, Row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun

PAGE: Final = 200
"""Rows that the server gives at once."""
MISSED: Final = 3
"""Heartbeats that must fail to come before a run is believed dead."""
FREQUENCY: Final = 30.0
"""Seconds between two heartbeats of our runs, and the least that Prefect allows."""
HEARTBEAT: Final = "prefect.flow-run.heartbeat"
WORKING: Final = ("RUNNING", "CANCELLING")
"""Types of state in which a flow run should have a process."""
OURS: Final = re.compile(r"task-\d{8}-\d{6}-[0-9a-f]{8}")
"""Names of our flow runs: workflow ids that we made."""
NAME: Final = re.compile(re.escape(PREFIX) + r"(.+)_\d{6,9}")


@dataclass(frozen=True)
class Run:
    """A flow run that has not ended, or was stopped."""

    id: str
    name: str
    """The workflow's id."""
    flow: str
    """Name of its flow: the prompt's title."""
    state: str
    """Type of its state."""
    deployed: bool
    seen: datetime
    """When it was last heard of: heartbeat, or change of state."""
    frequency: float = FREQUENCY
    """Seconds between its heartbeats."""


@dataclass(frozen=True)
class Signs:
    """What one look at the server has shown."""

    now: datetime
    """By the server's clock."""
    runs: list[Run] = field(default_factory=list)
    fresh: frozenset[str] = frozenset()
    """Workflows whose claim was beaten within its lease, by a holder that cannot be judged from here or lives."""

    def alive(self, workflow: str) -> bool:
        """Whether somebody has claimed a workflow and gives signs of life."""
        return workflow in self.fresh

    def age(self, run: Run) -> float:
        """Return the seconds since a run was last heard of; never negative."""
        return max(0.0, (self.now - run.seen).total_seconds())

    def silent(self, run: Run) -> bool:
        """Whether a run that should be working has been silent for too long."""
        return run.state in WORKING and self.age(run) > MISSED * run.frequency

    def run_of(self, workflow: str, flow_run: str) -> Run | None:
        """Return a workflow's flow run, by its id, or by its name where the id is not known."""
        named = [run for run in self.runs if run.name == workflow]
        return next((run for run in named if run.id == flow_run), None if flow_run else next(iter(named), None))


async def look(known: list[str]) -> Signs:
    """Ask the server that this process uses. Raises what httpx raises for one that is away.

    `known` are ids of flow runs that matter in whatever state they are.
    """
    from prefect import get_client

    async with get_client() as client:
        now, fresh = await _claims(client)
        found = list({run.id: run async for run in _flow_runs(client, known)}.values())
        names = await _flow_names(client, {run.flow_id for run in found})
        beats = await _beats(
            client, [str(run.id) for run in found if run.state_type and run.state_type.value in WORKING], now
        )
        runs = [_run(run, names, beats) for run in found]
        signs = Signs(now, runs, fresh)
        judged = [await _closer(client, signs, run) for run in runs]
    return Signs(now, judged, fresh)


async def _claims(client: PrefectClient) -> tuple[datetime, frozenset[str]]:
    """Return the server's time, and the workflows whose newest row is fresh."""
    fresh: dict[str, tuple[int, bool]] = {}
    now, offset = datetime.now(UTC), 0
    while True:
        wanted = {"variables": {"name": {"like_": f"{PREFIX}%"}}, "sort": "NAME_ASC", "limit": PAGE, "offset": offset}
        answer = await client.request("POST", "/variables/filter", json=wanted)
        now = _clock(answer, now)
        for one in answer.json():
            if name := NAME.fullmatch(one["name"]):
                row = Row.read(int(one["name"].rpartition("_")[2]), one["value"])
                before = fresh.get(name[1], (-1, False))
                fresh[name[1]] = max(before, (row.number, _lives(row, now - datetime.fromisoformat(one["updated"]))))
        if len(answer.json()) < PAGE:
            return now, frozenset(workflow for workflow, (_, lives) in fresh.items() if lives)
        offset += PAGE


def _lives(row: Row, age: timedelta) -> bool:
    """Whether a claim's row has a living holder: none that was given back, or whose process here is dead."""
    dead = row.released or (row.owner is not None and row.owner.proven_dead())
    # The server's answer is dated in whole seconds.
    return not dead and age.total_seconds() <= row.lease + 1


def _clock(answer: httpx.Response, now: datetime) -> datetime:
    dated = answer.headers.get("Date", "")
    return parsedate_to_datetime(dated) if dated else now


async def _flow_runs(client: PrefectClient, known: list[str]) -> AsyncIterator[FlowRun]:
    """Yield our flow runs that have not ended, and those that were asked for."""
    async for run in _pages(client, {"name": {"like_": "task-"}, "state": {"type": {"any_": list(WORKING)}}}):
        if OURS.fullmatch(run.name):
            yield run
    for first in range(0, len(known), PAGE):
        async for run in _pages(client, {"id": {"any_": known[first : first + PAGE]}}):
            yield run


async def _pages(client: PrefectClient, wanted: dict[str, Any]) -> AsyncIterator[FlowRun]:
    """Yield the flow runs of a filter, page by page, in an order that stays."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    chosen, offset = FlowRunFilter.model_validate(wanted), 0
    while True:
        page = await client.read_flow_runs(flow_run_filter=chosen, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=offset)
        for run in page:
            yield run
        if len(page) < PAGE:
            return
        offset += PAGE


async def _flow_names(client: PrefectClient, flows: set[Any]) -> dict[Any, str]:
    from prefect.client.schemas.filters import FlowFilter

    names: dict[Any, str] = {}
    wanted = list(flows)
    for first in range(0, len(wanted), PAGE):
        some = FlowFilter.model_validate({"id": {"any_": wanted[first : first + PAGE]}})
        names |= {flow.id: flow.name for flow in await client.read_flows(flow_filter=some, limit=PAGE)}
    return names


async def _beats(client: PrefectClient, runs: list[str], now: datetime) -> dict[str, datetime]:
    """Return, by flow run, the newest heartbeat of the last minutes: all of them page by page."""
    since = now - timedelta(seconds=2 * MISSED * FREQUENCY)
    newest: dict[str, datetime] = {}
    for first in range(0, len(runs), PAGE):
        ids = [f"prefect.flow-run.{run}" for run in runs[first : first + PAGE]]
        async for run, at in _events(client, ids, since):
            newest[run] = max(at, newest.get(run, at))
    return newest


async def _events(client: PrefectClient, ids: list[str], since: datetime) -> AsyncIterator[tuple[str, datetime]]:
    """Yield (flow run, time) of the heartbeats of some flow runs since a moment, the newest first."""
    wanted = {
        "event": {"name": [HEARTBEAT]},
        "resource": {"id": ids},
        # Hosts whose clock is ahead of the server's count too.
        "occurred": {"since": since.isoformat(), "until": (datetime.now(UTC) + timedelta(days=1)).isoformat()},
        "order": "DESC",
    }
    answer = (await client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50})).json()
    while True:
        for event in answer["events"]:
            number = event["resource"]["prefect.resource.id"].rpartition(".")[2]
            yield number, datetime.fromisoformat(event["occurred"])
        if not (answer.get("next_page") and answer["events"]):
            return
        token = answer["next_page"].rpartition("page-token=")[2]
        answer = (await client.request("GET", "/events/filter/next", params={"page-token": token})).json()


def _run(run: FlowRun, names: dict[Any, str], beats: dict[str, datetime]) -> Run:
    changed = run.state.timestamp if run.state else datetime.fromtimestamp(0, UTC)
    return Run(
        id=str(run.id),
        name=run.name,
        flow=names.get(run.flow_id, run.name),
        state=run.state_type.value if run.state_type else "",
        deployed=run.deployment_id is not None,
        seen=max(changed, beats.get(str(run.id), changed)),
    )


async def _closer(client: PrefectClient, signs: Signs, run: Run) -> Run:
    """Ask for the last two heartbeats of a run that seems silent: they may come less often than ours."""
    if not signs.silent(run):
        return run
    wanted = {
        "event": {"name": [HEARTBEAT]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "occurred": {"since": (signs.now - timedelta(days=1)).isoformat()},
        "order": "DESC",
    }
    answer = (await client.request("POST", "/events/filter", json={"filter": wanted, "limit": 2})).json()
    times = [datetime.fromisoformat(event["occurred"]) for event in answer["events"]]
    apart = (times[0] - times[1]).total_seconds() if len(times) == 2 else FREQUENCY
    seen = max([run.seen, *times])
    return Run(run.id, run.name, run.flow, run.state, run.deployed, seen, max(apart, FREQUENCY))
