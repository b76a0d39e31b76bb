"""Work that is put off is done a moment later, and in any case before the end."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from workflowmaster.flows.clearing import Clearing


def test_it_is_done_a_moment_later_in_another_thread() -> None:
    done: list[int] = []
    happened = threading.Event()

    def work() -> None:
        done.append(threading.get_ident())
        happened.set()

    async def use(threads: ThreadPoolExecutor) -> bool:
        Clearing(threads).later(work)
        at_once = bool(done)
        await asyncio.to_thread(happened.wait, 10)
        return at_once

    with ThreadPoolExecutor(2) as threads:
        assert asyncio.run(use(threads)) is False
    assert len(done) == 1
    assert done[0] != threading.get_ident()


def test_what_still_waits_at_the_end_is_done_once_and_not_forgotten() -> None:
    done: list[int] = []

    async def use(threads: ThreadPoolExecutor) -> None:
        clearing = Clearing(threads)
        for number in range(5):
            clearing.later(lambda number=number: done.append(number))  # type: ignore[misc]
        clearing.close()
        clearing.close()

    with ThreadPoolExecutor(1) as threads:
        asyncio.run(use(threads))
    assert done == [0, 1, 2, 3, 4]
