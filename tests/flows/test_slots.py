"""Slots: never more holders than slots, the most urgent next, and none lost however a wait ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Coroutine


def run(work: Coroutine[object, object, None]) -> None:
    asyncio.run(work)


def test_the_most_urgent_waits_least() -> None:
    async def work() -> None:
        slots, order = Slots(1), list[str]()
        await slots.acquire("first", 0)

        async def hold(name: str, rank: int) -> None:
            await slots.acquire(name, rank)
            order.append(name)
            slots.release(name)

        tasks = [asyncio.create_task(hold(name, rank)) for name, rank in (("low", 9), ("high", 1), ("mid", 5))]
        await asyncio.sleep(0)
        slots.release("first")
        await asyncio.gather(*tasks)
        assert order == ["high", "mid", "low"]
        assert slots.free == 1

    run(work())


def test_holding_twice_and_releasing_twice_change_nothing() -> None:
    async def work() -> None:
        slots = Slots(2)
        await slots.acquire("one", 0)
        await slots.acquire("one", 0)
        assert slots.free == 1
        slots.release("one")
        slots.release("one")
        slots.release("never held")
        assert slots.free == 2

    run(work())


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["work", "cancel"])), max_size=25))
def test_slots_are_never_exceeded_and_never_lost(limit: int, holders: list[tuple[int, str]]) -> None:
    async def work() -> None:
        slots, inside, most = Slots(limit), set[str](), 0

        async def hold(name: str, rank: int) -> None:
            nonlocal most
            await slots.acquire(name, rank)
            try:
                inside.add(name)
                most = max(most, len(inside))
                await asyncio.sleep(0)
            finally:
                inside.discard(name)
                slots.release(name)

        tasks = [asyncio.create_task(hold(str(n), rank)) for n, (rank, _) in enumerate(holders)]
        await asyncio.sleep(0)
        for task, (_, fate) in zip(tasks, holders, strict=True):
            if fate == "cancel":
                task.cancel()
                await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert most <= limit
        assert slots.free == limit

    run(work())


def test_a_wait_that_is_cancelled_just_as_its_turn_comes_gives_the_slot_on() -> None:
    async def work() -> None:
        slots = Slots(1)
        await slots.acquire("holder", 0)
        doomed = asyncio.create_task(slots.acquire("doomed", 1))
        heir = asyncio.create_task(slots.acquire("heir", 2))
        await asyncio.sleep(0)
        slots.release("holder")  # the doomed one's turn is set, and it is cancelled before it wakes
        doomed.cancel()
        await asyncio.wait_for(heir, 10)
        assert slots.free == 0
        slots.release("heir")
        assert slots.free == 1

    run(work())


def test_more_slots_are_handed_out_at_once_and_fewer_as_they_come_back() -> None:
    async def work() -> None:
        slots, order = Slots(2), list[str]()

        async def hold(name: str, rank: int) -> None:
            await slots.acquire(name, rank)
            order.append(name)

        tasks = [asyncio.create_task(hold(name, rank)) for rank, name in enumerate("abcdef")]
        await asyncio.sleep(0)
        assert order == ["a", "b"]
        slots.limit = 4
        await asyncio.sleep(0)
        assert order == ["a", "b", "c", "d"]
        slots.limit = 1
        assert slots.free == -3
        for name in "abc":
            slots.release(name)
        await asyncio.sleep(0)
        assert order == ["a", "b", "c", "d"]  # there were more holders than there may be
        slots.release("d")
        await asyncio.sleep(0)
        assert order[4:] == ["e"]
        slots.release("e")
        await asyncio.gather(*tasks)
        slots.release("f")
        assert (slots.limit, slots.free) == (1, 1)

    run(work())


@given(st.lists(st.one_of(st.integers(1, 5), st.sampled_from("abcdefgh")), max_size=40))
def test_however_their_number_changes_none_is_lost(deeds: list[int | str]) -> None:
    """A number changes how many there are; a letter takes a slot, or gives its own back."""

    async def work() -> None:
        slots, inside, tasks = Slots(2), set[str](), dict[str, asyncio.Task[None]]()

        async def hold(name: str) -> None:
            await slots.acquire(name, name)
            inside.add(name)

        for deed in deeds:
            if isinstance(deed, int):
                slots.limit = deed
            elif deed in inside:
                inside.discard(deed)
                slots.release(deed)
                del tasks[deed]
            elif deed not in tasks:
                tasks[deed] = asyncio.create_task(hold(deed))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert slots.free == slots.limit - len(inside)
            assert slots.free <= 0 or len(inside) == len(tasks)
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    run(work())
