"""Epochs: which of two machines works on a workflow, and how the one that lost it finds out.

Who wants a workflow that another machine holds may not believe its clock, nor the server's, so it watches: a row whose
beat stays the same for a whole lease, by the watcher's own clock, has no living holder. It then begins the next epoch,
which only one can, and looks once more: if the old holder has moved meanwhile, it lives, and the taker steps back. The
holder in turn beats first and looks second. So of a beat and a take at the same moment at least one sees the other, and
both going on is impossible; both giving way is possible, and costs a second try.

A holder trusts its last beat for a lease from before it was sent, on the clock that also counts a machine's sleep.
After that, as after a SIGSTOP, it asks before it sends anything off, keeps a result or publishes; and as long as the
server does not answer, it waits with these. What runs in containers by then goes on: a lease cannot reach them, as it
cannot when the holder is stopped. Their results are thrown away if the workflow was lost, and nothing outside of the
sandbox is written. The cost is that a server which is away for longer than a lease holds a run up, and ends it after
two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import httpx
from prefect.exceptions import Abort

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.flows.claim import Claim, Holder, NeedsPerson, held
from workflowmaster.flows.epochrows import Row, Rows
from workflowmaster.flows.sweeping import remove_own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workflowmaster.flows.journey import Journey

BEATS = 4
"""Signs of life in a lease: three may fail before anybody may take over."""

LOOKS = 20
"""Looks of a watcher in a lease, but not more than one in `SLOWEST` and not faster than ten in a second."""

SLOWEST = 1.0

PATIENCE = 120.0
"""Seconds for which a holder waits for a server that does not answer. A restart takes ten, on a busy machine thirty."""

LAST_WORDS = 2.0
"""Seconds that giving back may take; who cannot say so is found to be silent."""

log = logging.getLogger(__name__)

Verdict = Literal["free", "held", "unknown"]


def boottime() -> float:
    """Return seconds on the clock that goes on while this process, or the whole machine, is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Watch(NamedTuple):
    """What a watcher saw, and since when, on its own clock."""

    number: int
    beat: int
    since: float


def judge(newest: Row | None, watch: Watch | None, now: float, former: Holder | None = None) -> Verdict:
    """Say whether the newest epoch of a workflow is over. Pure, but for asking whether a process of this host lives.

    `watch` is what was seen of it before, `now` the watcher's clock before it looked; `former` held the file lock that
    the watcher holds now, so it works on the workflow no longer.
    """
    if newest is None or newest.released:
        return "free"
    if newest.owner and (newest.owner.proven_dead() or (former and newest.owner == former.owner)):
        return "free"
    if watch is None:
        return "unknown"
    if (newest.number, newest.beat) != (watch.number, watch.beat):
        return "held"
    return "free" if now - watch.since > newest.lease else "unknown"


def undisturbed(mine: Row, before: Iterable[Row], after: Iterable[Row]) -> bool:
    """Say whether an epoch that was just begun may stand: nobody who was there has moved, and nobody came in between.

    `before` are the rows that were judged, `after` those that are there now.
    """
    others = [row for row in after if row.number != mine.number]
    known = {(row.number, row.beat) for row in before}
    return all(row.number < mine.number and (row.released or (row.number, row.beat) in known) for row in others)


class Store(Protocol):
    """Where rows are kept: `Rows` on the server, or a dictionary in a test of the protocol."""

    async def all(self) -> list[Row]:
        """Return all rows, the newest first."""

    async def create(self, row: Row) -> bool:
        """Begin an epoch; False if it was begun already."""

    async def write(self, row: Row) -> bool:
        """Write a row; False if it is no more."""

    async def delete(self, number: int) -> None:
        """Remove a row, if it is there."""


class Tenure:
    """An epoch that this process holds. Its methods belong to one event loop."""

    def __init__(self, rows: Store, row: Row, sent: float, clock: Callable[[], float] = boottime) -> None:
        self.row, self.rows = row, rows
        self.proven = sent
        """When, on the clock, the last request was sent whose answer proved that the workflow is ours."""
        self.lost = ""
        """Why it is no longer ours; empty while it is."""
        self.successor: Row | None = None
        """The newer epoch, where there is one."""
        self.on_lost: Callable[[], object] = lambda: None
        self._clock, self._one = clock, asyncio.Lock()
        self._beating: asyncio.Task[None] | None = None

    @property
    def number(self) -> int:
        """Number of the epoch."""
        return self.row.number

    @property
    def every(self) -> float:
        """Seconds between two beats."""
        return self.row.lease / BEATS

    async def must_hold(self, *, look: bool = False) -> None:
        """Return when it is certain that the workflow is ours. See `Claim.must_hold`."""
        until = time.monotonic() + PATIENCE
        while self.lost or look or self._clock() - self.proven >= self.row.lease:
            if self.lost:
                await asyncio.get_running_loop().create_future()  # until whoever waits for this is cancelled
            if await self.beat():
                return
            if time.monotonic() > until:
                raise SandboxUnavailable(
                    "the Prefect server does not answer, and without it nobody knows whether another machine has taken "
                    f"this run over. Start it, then `workflowmaster resume` goes on; {PATIENCE:g} s were waited",
                    reason="prefect",
                )
            await asyncio.sleep(min(self.every, SLOWEST))

    async def beat(self) -> bool:
        """Give a sign of life, then look for a newer epoch; return whether the workflow is certainly ours."""
        async with self._one:
            if self.lost:
                return False
            sent = self._clock()
            try:
                async with asyncio.timeout(self.every):
                    self.row = replace(self.row, beat=self.row.beat + 1)
                    await self.rows.write(self.row)
                    found = await self.rows.all()
            except (httpx.HTTPError, TimeoutError, OSError) as error:
                log.debug("no beat of epoch %d: %r", self.number, error)
                return False
            return self._seen(found, sent)

    def _seen(self, found: list[Row], sent: float) -> bool:
        newest = found[0] if found else None
        if newest and newest.number == self.number:
            self.proven = sent
            return True
        self.successor = newest if newest and newest.number > self.number else None
        who = self.successor.holder if self.successor else None
        self.lost = f"was taken over by {who or 'another process'}, because this one had not been heard of for a lease"
        self.on_lost()
        return False

    def keep(self, on_lost: Callable[[], object]) -> None:
        """Beat in the background; `on_lost` is called once, should the workflow be taken over."""
        self.on_lost = on_lost
        self._beating = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while not self.lost:
            await asyncio.sleep(self.every)
            await self.beat()

    async def release(self, *, forget: bool) -> None:
        """Stop beating, and say that the workflow is free; `forget` a completed one's row altogether."""
        if self._beating:
            self._beating.cancel()
        if self.lost:
            return
        with contextlib.suppress(httpx.HTTPError, TimeoutError, OSError):
            async with asyncio.timeout(LAST_WORDS):
                if forget:
                    await self.rows.delete(self.number)
                else:
                    await self.rows.write(replace(self.row, released=True))


@dataclass
class Taking:
    """One process's attempt to begin the next epoch of a workflow."""

    rows: Store
    claim: Claim
    wanted: Row
    """The row to create, but for its number."""
    clock: Callable[[], float] = boottime

    async def done(self, known: int) -> Tenure:
        """Begin an epoch above `known`, as soon as nobody holds one. NeedsPerson with who does."""
        if self.claim.fresh and (tenure := await self._begun(known + 1)):
            return tenure
        watch: Watch | None = None
        while True:
            before = self.clock()
            found = await self.rows.all()
            newest = found[0] if found else None
            verdict = judge(newest, watch, before, self.claim.former)
            if verdict == "free":
                tenure = await self._begun(max(known, newest.number if newest else 0) + 1, found)
                if tenure:
                    if watch and newest:
                        self.claim.superseded = newest.owner
                    return tenure
                # Whoever was quicker has a newer row than this, so it counts as one that has moved.
                watch = Watch(newest.number if newest else 0, newest.beat if newest else 0, self.clock())
            elif newest:
                watch = self._waited(newest, watch, verdict)
            await asyncio.sleep(max(0.1, min(SLOWEST, self.wanted.lease / LOOKS)))

    async def _begun(self, number: int, found: list[Row] | None = None) -> Tenure | None:
        """Create the row, and look whether it may stand; of a new workflow nobody can know."""
        sent, row = self.clock(), replace(self.wanted, number=number)
        if not await self.rows.create(row) and not await self._mine(row):
            return None
        if found is not None and not undisturbed(row, found, await self.rows.all()):
            await self.rows.delete(number)
            return None
        for old in found or ():
            # Whoever held them need only see that there is a newer one.
            await self.rows.delete(old.number)
        return Tenure(self.rows, row, sent, self.clock)

    async def _mine(self, row: Row) -> bool:
        """Whether a row that is there already is what we created: the first answer may have been lost on its way."""
        return row in await self.rows.all()

    def _waited(self, newest: Row, watch: Watch | None, verdict: Verdict) -> Watch:
        if watch and (newest.number, newest.beat) == (watch.number, watch.beat):
            return watch
        waiting = self.claim.until > time.monotonic()
        if verdict == "held" and not waiting:
            self.claim.rival = newest.flow_run
            raise NeedsPerson(held(self.claim.workflow, newest.holder, ", and gives signs of life"))
        if watch is None:
            who = newest.holder or "another process"
            what = "waiting for it" if waiting else f"if it is silent for {newest.lease:g} s, it is dead"
            self.claim.tell(f"{self.claim.workflow} is held by {who}: {what}")
        return Watch(newest.number, newest.beat, self.clock())


async def take(journey: Journey) -> None:
    """Have an epoch for a run's claim; at once if it has one. NeedsPerson with who holds the workflow instead."""
    claim = journey.claim
    if claim.tenure:
        return
    wanted = Row(
        number=0,
        owner=claim.holder.owner,
        since=claim.holder.since,
        lease=journey.settings.claim_lease_seconds,
        engine=journey.engine.info.id,
        flow_run=journey.record.flow_run_id,
        command=claim.holder.command,
    )
    claim.tenure = await Taking(Rows(claim.workflow), claim, wanted).done(_known(journey))
    claim.say(replace(claim.holder, epoch=claim.epoch))
    if claim.superseded:
        # It may be asleep and not dead, so nobody can adopt what it left, and its containers' names are in our way.
        await asyncio.to_thread(remove_own, journey.engine, journey.id, claim.superseded)
    who = asdict(claim.holder.owner)
    journey.journal.append("claim", epoch=claim.epoch, owner=who)
    journey.audit.append("claim.taken", claim=claim.epoch, owner=who, command=claim.holder.command)


def keep(journey: Journey) -> None:
    """Beat in the background from here on; the present task is cancelled, should the workflow be taken over."""
    task = asyncio.current_task()
    if journey.claim.tenure and task:
        journey.claim.tenure.keep(task.cancel)


async def release(journey: Journey, *, forget: bool) -> None:
    """Stop beating and give the epoch back, after everything else is closed."""
    if journey.claim.tenure:
        await journey.claim.tenure.release(forget=forget)


def stopped(journey: Journey, error: BaseException) -> Abort | None:
    """Return what ends the flow of a run whose workflow is somebody else's; None for any other.

    `Abort` leaves the flow run's state alone, which may be the other's by now: the command line tells the reason.
    """
    claim, task = journey.claim, asyncio.current_task()
    if claim.lost:
        journey.crash = NeedsPerson(f"{journey.id} {claim.lost}. Nothing more was written; it goes on there")
        journey.audit.append("claim.lost", claim=claim.epoch, reason=claim.lost)
        if task:
            task.uncancel()
        return Abort(str(journey.crash))
    if isinstance(error, NeedsPerson) and claim.rival and claim.rival == journey.record.flow_run_id:
        return Abort(str(error))
    return None


def _known(journey: Journey) -> int:
    """Return the highest epoch that this workflow is known to have had: numbers are never given twice."""
    claim = journey.claim
    if claim.fresh:
        return 0
    from workflowmaster.flows.journal import read

    records = read(journey.folder.journal).of("claim")
    return max([claim.holder.epoch, *(int(record.fields.get("epoch", 0)) for record in records)])
