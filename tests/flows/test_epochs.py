"""Epochs: the taking logic by itself, then whole races of machines that stall, on a clock that tests turn."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.owner import Owner
from workflowmaster.flows import epochs
from workflowmaster.flows.claim import Claim, Holder, NeedsPerson
from workflowmaster.flows.epochrows import LONGEST, SHORTEST, UNKNOWN, Row, Rows
from workflowmaster.flows.epochs import Taking, Tenure, Watch, judge, undisturbed

LEASE = 20.0
ELSEWHERE = Owner("other/1/2", 77, "b-1")
ME = Owner.me()
DEAD = replace(ME, started="another-boot-1")
ROW = Row(3, ELSEWHERE, beat=5, since=1.0, lease=LEASE)


# --- one look ---


@pytest.mark.parametrize(
    ("newest", "watch", "now", "verdict"),
    [
        pytest.param(None, None, 0, "free", id="nobody ever"),
        pytest.param(replace(ROW, released=True), None, 0, "free", id="given back"),
        pytest.param(replace(ROW, owner=DEAD), None, 0, "free", id="proven dead on this host"),
        pytest.param(replace(ROW, owner=ME), None, 0, "unknown", id="alive on this host"),
        pytest.param(ROW, None, 0, "unknown", id="first look"),
        pytest.param(ROW, Watch(3, 5, 100), 101, "unknown", id="silent for a second"),
        pytest.param(ROW, Watch(3, 5, 100), 120, "unknown", id="silent for a lease and not longer"),
        pytest.param(ROW, Watch(3, 5, 100), 120.1, "free", id="silent for longer than a lease"),
        pytest.param(ROW, Watch(3, 5, 100), 50, "unknown", id="a clock that goes back takes nobody's claim"),
        pytest.param(ROW, Watch(3, 4, 100), 101, "held", id="it has beaten"),
        pytest.param(ROW, Watch(3, 4, 100), 900, "held", id="it has beaten, and we were away"),
        pytest.param(ROW, Watch(2, 5, 100), 900, "held", id="somebody was quicker"),
        pytest.param(ROW, Watch(0, 0, 100), 900, "held", id="somebody was the first"),
        pytest.param(replace(ROW, lease=300), Watch(3, 5, 100), 150, "unknown", id="its own lease counts"),
    ],
)
def test_a_look_says_whether_an_epoch_is_over(newest: Row, watch: Watch, now: float, verdict: str) -> None:
    assert judge(newest, watch, now) == verdict


def test_whoever_held_our_file_lock_before_works_no_longer() -> None:
    """Also where it cannot be proven dead: another pid namespace over the same directory."""
    assert judge(ROW, None, 0, Holder(ELSEWHERE, 1.0)) == "free"
    assert judge(ROW, None, 0, Holder(replace(ELSEWHERE, pid=78), 1.0)) == "unknown"


MINE = replace(ROW, number=4, owner=ME)


@pytest.mark.parametrize(
    ("before", "after", "stands"),
    [
        pytest.param([], [MINE], True, id="the first"),
        pytest.param([ROW], [MINE, ROW], True, id="the old one is silent"),
        pytest.param([ROW], [MINE], True, id="the old one is gone"),
        pytest.param([ROW], [MINE, replace(ROW, beat=6)], False, id="the old one lives after all"),
        pytest.param([ROW], [MINE, replace(ROW, beat=6, released=True)], True, id="the old one has given it back"),
        pytest.param([ROW], [replace(ROW, number=5), MINE], False, id="there is a newer one"),
        pytest.param([], [MINE, ROW], False, id="an older one has come in between"),
    ],
)
def test_an_epoch_stands_only_if_nobody_moved_meanwhile(before: list[Row], after: list[Row], stands: bool) -> None:
    assert undisturbed(MINE, before, after) is stands


# --- rows ---


@given(
    st.builds(
        Row,
        number=st.integers(1, 999_999_999),
        owner=st.builds(Owner, st.text(), st.integers(0), st.text()),
        beat=st.integers(0),
        since=st.floats(0, 1e12),
        lease=st.floats(SHORTEST, LONGEST),
        released=st.booleans(),
        engine=st.text(),
        flow_run=st.text(),
        command=st.text(),
    )
)
def test_a_row_is_read_as_it_was_written(row: Row) -> None:
    assert Row.read(row.number, row.value()) == row


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@given(JSON)
def test_what_a_person_made_of_a_row_is_nobodys_and_still_watched(value: Any) -> None:
    row = Row.read(7, value)
    assert (row.number, row.owner, row.released, row.lease) == (7, None, False, UNKNOWN)
    assert row.holder is None
    assert Row.read(7, value) == row
    assert judge(row, None, 0) == "unknown"


@pytest.mark.parametrize(("said", "lease"), [(math.nan, SHORTEST), (-5, SHORTEST), (1e9, LONGEST), (30, 30)])
def test_no_row_can_ask_for_an_absurd_lease(said: float, lease: float) -> None:
    assert Row.read(1, {**ROW.value(), "lease": said}).lease == lease


def test_a_row_with_more_in_it_than_we_know_is_read() -> None:
    assert Row.read(3, {**ROW.value(), "hair": "red"}) == ROW


def test_the_names_are_what_a_variable_may_be_called() -> None:
    assert Rows("task-20261122-010203-0a1b2c3d").name(12) == "wm_claim_task-20261122-010203-0a1b2c3d_000012"


# --- machines that race ---


class TurnedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next thing to do."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        select = self._selector.select

        def jump(timeout: float | None = None) -> Any:
            self._now += timeout or 0.0
            return select(0)

        self._selector.select = jump

    def time(self) -> float:
        return self._now


def turned(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with asyncio.Runner(loop_factory=TurnedLoop) as runner:
        return runner.run(work())


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Server:
    """What the server does with rows: each request takes effect at one moment."""

    rows: dict[int, Row] = field(default_factory=dict)
    away: bool = False

    def do(self, what: Callable[[], Any]) -> Any:
        if self.away:
            raise ConnectionError("away")
        return what()

    def begin(self, row: Row) -> bool:
        return self.rows.setdefault(row.number, row) is row

    def change(self, row: Row) -> bool:
        known = row.number in self.rows
        if known:
            self.rows[row.number] = row
        return known


@dataclass
class Line:
    """One machine's way to the server: requests and answers may take any time, and are not taken back."""

    server: Server
    delays: Iterator[float] = field(default_factory=lambda: iter(()))
    requests: int = 0

    async def _ask(self, what: Callable[[], Any]) -> Any:
        self.requests += 1

        async def ask() -> Any:
            await asyncio.sleep(next(self.delays, 0.01))
            answer = self.server.do(what)
            await asyncio.sleep(next(self.delays, 0.01))
            return answer

        asking = asyncio.create_task(ask())
        with contextlib.suppress(ConnectionError):
            return await asyncio.shield(asking)
        raise ConnectionError("away")

    async def all(self) -> list[Row]:
        rows: list[Row] = await self._ask(lambda: sorted(self.server.rows.values(), key=lambda r: -r.number))
        return rows

    async def create(self, row: Row) -> bool:
        return bool(await self._ask(lambda: self.server.begin(row)))

    async def write(self, row: Row) -> bool:
        return bool(await self._ask(lambda: self.server.change(row)))

    async def delete(self, number: int) -> None:
        await self._ask(lambda: self.server.rows.pop(number, None))


def taking(server: Server, name: str, delays: Iterator[float] | None = None, *, fresh: bool = False) -> Taking:
    claim = Claim("wf", -1)
    claim.fresh = fresh
    wanted = Row(0, Owner(f"{name}/0/0", 1, "x"), since=1.0, lease=LEASE)
    return Taking(Line(server, delays or iter(())), claim, wanted, now)


@dataclass
class Watcher:
    """Sees who works, and that nobody does after somebody else has taken the workflow."""

    taken: list[tuple[float, int]] = field(default_factory=list)
    """When an epoch was taken for good, and its number."""
    worked: list[tuple[float, int]] = field(default_factory=list)
    """When a fence let a holder through, and its epoch."""

    def faults(self) -> list[str]:
        return [
            f"{number} worked at {at:.2f}, and {newer} was taken at {since:.2f}"
            for at, number in self.worked
            for since, newer in self.taken
            if newer > number and since < at
        ]


async def machine(
    server: Server, watcher: Watcher, name: str, life: tuple[float, list[float], list[float], bool]
) -> None:
    """Wait, take the workflow if it is free, work with pauses, and give it back or die."""
    later, stalls, delays, dies = life
    await asyncio.sleep(later)
    try:
        tenure = await taking(server, name, iter(delays)).done(0)
    except NeedsPerson:
        return
    watcher.taken.append((now(), tenure.number))
    gone = asyncio.Event()
    tenure.keep(gone.set)
    for stall in stalls:
        await asyncio.sleep(stall)
        holding = asyncio.create_task(tenure.must_hold(look=stall == 0))
        losing = asyncio.create_task(gone.wait())
        await asyncio.wait({holding, losing}, return_when=asyncio.FIRST_COMPLETED)
        if gone.is_set():
            holding.cancel()
            return
        watcher.worked.append((now(), tenure.number))
        losing.cancel()
    if dies and tenure._beating:
        tenure._beating.cancel()
    else:
        await tenure.release(forget=False)


STALLS = st.lists(st.sampled_from([0.0, 0.3, 2.0, 7.0, 19.0, 21.0, 50.0]), max_size=6)
DELAYS = st.lists(st.sampled_from([0.0, 0.01, 0.02, 0.4, 3.0, 6.0, 18.0, 21.0, 45.0]), max_size=24)
LIVES = st.tuples(st.sampled_from([0.0, 0.01, 3.0, 18.0, 40.0]), STALLS, DELAYS, st.booleans())


@given(st.lists(LIVES, min_size=2, max_size=5))
@example([(0.0, [0.0, 50.0, 0.3], [], False), (1.0, [0.0] * 5, [], False)])
@example([(0.0, [], [], True), (0.0, [0.3] * 6, [], False), (0.0, [0.3] * 6, [], False)])
def test_nobody_works_once_somebody_else_has_taken_it_however_they_stall(lives: list[Any]) -> None:
    watcher = Watcher()

    async def all_of_them() -> None:
        server = Server()
        running = [machine(server, watcher, f"host{number}", life) for number, life in enumerate(lives)]
        async with asyncio.timeout(3600):
            await asyncio.gather(*running)

    turned(all_of_them)
    assert watcher.faults() == []
    assert len({number for _, number in watcher.taken}) == len(watcher.taken)


@pytest.mark.parametrize("racers", [2, 8])
def test_of_racers_for_a_dead_holders_workflow_one_wins(racers: int) -> None:
    async def race() -> list[Any]:
        server = Server({ROW.number: ROW})
        asked = [taking(server, f"host{n}").done(0) for n in range(racers)]
        return await asyncio.gather(*asked, return_exceptions=True)

    said = turned(race)
    (winner,) = [one for one in said if isinstance(one, Tenure)]
    assert winner.number == ROW.number + 1
    refused = [str(one) for one in said if isinstance(one, NeedsPerson)]
    assert len(refused) == racers - 1
    name = winner.row.owner.host.partition("/")[0] if winner.row.owner else ""
    assert all(f"wf is held by process 1 on {name} since 1970-01-01" in text for text in refused)


def test_a_dead_holders_workflow_is_free_soon_after_a_lease() -> None:
    async def take() -> tuple[float, int]:
        tenure = await taking(Server({ROW.number: ROW}), "host").done(0)
        return now(), tenure.number

    seconds, number = turned(take)
    assert LEASE < seconds < LEASE + 2
    assert number == 4


def test_a_living_holder_refuses_within_two_beats_and_is_named() -> None:
    async def refused() -> tuple[float, str]:
        server = Server()
        holder = await taking(server, "holder").done(0)
        holder.keep(lambda: None)
        with pytest.raises(NeedsPerson, match="gives signs of life") as caught:
            await taking(server, "other").done(0)
        return now(), str(caught.value)

    seconds, text = turned(refused)
    assert seconds < LEASE / 2
    assert "process 1 on holder since 1970-01-01 00:00:01 UTC" in text


def test_numbers_are_never_given_twice() -> None:
    """The rows of a completed workflow are gone, and its folder knows what they were."""

    async def numbers() -> list[int]:
        server, found = Server(), []
        for known in (0, 1, 7):
            tenure = await taking(server, "host").done(known)
            found.append(tenure.number)
            await tenure.release(forget=True)
        assert server.rows == {}
        return found

    assert turned(numbers) == [1, 2, 8]


def test_old_rows_do_not_pile_up() -> None:
    async def rows() -> set[int]:
        server = Server()
        for _ in range(5):
            tenure = await taking(server, "host").done(0)
            await tenure.release(forget=False)
        return set(server.rows)

    assert turned(rows) == {5}


def test_a_new_workflow_costs_one_request() -> None:
    async def requests() -> int:
        attempt = taking(Server(), "host", fresh=True)
        await attempt.done(0)
        return attempt.rows.requests  # type: ignore[attr-defined]

    assert turned(requests) == 1


def test_an_answer_that_got_lost_is_not_somebody_elses_claim() -> None:
    """The client asks again after a torn connection, and is told that the row exists: it is our own."""

    async def take() -> int:
        server = Server()
        begin = server.begin

        def twice(row: Row) -> bool:
            begin(row)
            return begin(replace(row))

        server.begin = twice  # type: ignore[method-assign]
        return (await taking(server, "host", fresh=True).done(0)).number

    assert turned(take) == 1


# --- the holder ---


def held(story: Callable[[Server, Tenure], Awaitable[Any]]) -> Any:
    async def told() -> Any:
        server = Server()
        return await story(server, await taking(server, "holder").done(0))

    return turned(told)


def test_a_fresh_beat_makes_the_fence_free() -> None:
    async def story(_: Server, tenure: Tenure) -> int:
        before = tenure.rows.requests  # type: ignore[attr-defined]
        await asyncio.sleep(LEASE - 1)
        for _ in range(1000):
            await tenure.must_hold()
        return tenure.rows.requests - before  # type: ignore[attr-defined]

    assert held(story) == 0


@pytest.mark.parametrize(("asleep", "look"), [(LEASE + 1, False), (0.0, True)])
def test_the_fence_looks_after_a_lease_or_when_told_to(asleep: float, look: bool) -> None:
    async def story(server: Server, tenure: Tenure) -> tuple[int, str]:
        lost: list[int] = []
        tenure.on_lost = lambda: lost.append(1)
        await asyncio.sleep(asleep)
        server.rows = {2: replace(ROW, number=2)}
        with pytest.raises(TimeoutError):  # it never returns: whoever waits is cancelled
            async with asyncio.timeout(1000):
                await tenure.must_hold(look=look)
        return len(lost), tenure.lost

    times, why = held(story)
    assert times == 1
    assert why.startswith("was taken over by process 77 on other since 1970-01-01 00:00:01 UTC, because ")


def test_a_beat_counts_from_before_it_is_sent_and_looks_only_then() -> None:
    """A taker may see the beat as soon as it is sent, and its lease runs from there."""

    async def story(server: Server, tenure: Tenure) -> tuple[float, list[str]]:
        asked: list[str] = []
        do = server.do
        server.do = lambda what: (asked.append(what.__qualname__.split(".")[1]), do(what))[1]  # type: ignore[method-assign]
        tenure.rows = Line(server, iter([0.0, 2.0, 0.0, 2.0]))
        sent = now()
        assert await tenure.beat()
        return tenure.proven - sent, asked

    assert held(story) == (0.0, ["write", "all"])


def test_a_row_that_has_vanished_is_lost_to_somebody_unknown() -> None:
    async def story(server: Server, tenure: Tenure) -> tuple[bool, str, Row | None]:
        server.rows.clear()
        return await tenure.beat(), tenure.lost, tenure.successor

    assert held(story) == (
        False,
        "was taken over by another process, because this one had not been heard of for a lease",
        None,
    )


def test_a_beat_rides_out_a_server_that_is_away_for_a_moment() -> None:
    async def story(server: Server, tenure: Tenure) -> tuple[str, float]:
        tenure.keep(lambda: None)
        server.away = True
        await asyncio.sleep(LEASE * 0.8)
        server.away = False
        await asyncio.sleep(LEASE * 0.5)
        return tenure.lost, now() - tenure.proven

    lost, age = held(story)
    assert lost == ""
    assert age < LEASE / 2


def test_the_fence_waits_for_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(server: Server, tenure: Tenure) -> float:
        server.away = True
        await asyncio.sleep(LEASE)
        asyncio.get_running_loop().call_later(30, setattr, server, "away", False)
        began = now()
        await tenure.must_hold()
        return now() - began

    assert 30 <= held(story) < 33


def test_the_fence_gives_a_server_up_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(server: Server, tenure: Tenure) -> None:
        monkeypatch.setattr(epochs.time, "monotonic", now)
        server.away = True
        await tenure.must_hold(look=True)

    with pytest.raises(SandboxUnavailable, match="the Prefect server does not answer") as caught:
        held(story)
    assert caught.value.reason == "prefect"


def test_giving_back_does_not_wait_for_a_server_that_is_away() -> None:
    async def story(server: Server, tenure: Tenure) -> float:
        server.away = True
        await tenure.release(forget=False)
        return now()

    assert held(story) < 5


def test_who_has_lost_it_writes_nothing_when_it_ends() -> None:
    async def story(server: Server, tenure: Tenure) -> dict[int, Row]:
        server.rows = {2: replace(ROW, number=2)}
        await tenure.beat()
        await tenure.release(forget=True)
        return server.rows

    assert held(story) == {2: replace(ROW, number=2)}


def test_the_clock_of_the_fence_goes_on_while_the_machine_sleeps() -> None:
    assert epochs.boottime() >= epochs.time.monotonic() - 0.1
