"""What many containers leave in the process that runs them: no thread, no descriptor, no child."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from workflowmaster.blocks.engine import SandboxUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.docker

HARMS = ("none", "none", "kill", "stop", "remove", "never", "cap", "late")


def live(made: Any, engine: Any, chance: random.Random) -> str:
    """Park a container, give it its go or not, harm it while it works, remove it; return what became of it."""
    harm = chance.choice(HARMS)
    made.park()
    if harm == "never":
        made.container.remove()
        return harm

    def take(data: bytes) -> bool:
        if data.startswith(b"up"):
            ways = {"kill": made.container.kill, "stop": made.container.stop}
            if way := ways.get(harm) or (harm == "remove" and (lambda: engine.remove(made.container.id))):
                threading.Thread(target=way).start()
        return harm != "cap"

    try:
        ending = made.go(0.5 if harm == "late" else 30, take)
    except SandboxUnavailable as error:
        return error.reason
    finally:
        made.container.remove()
    return f"{harm} {ending.exit_code}"


def held() -> tuple[int, int, int]:
    me = psutil.Process()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(me.children(recursive=True))


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_containers_with_random_ends_leave_nothing_in_their_process(
    sh: Callable[..., Any], engine: Any, count: int, wait_until: Callable[..., Any]
) -> None:
    chance = random.Random(11)
    boxes = [sh("echo up; sleep 1.5; echo end") for _ in range(count)]
    live(sh("echo up"), engine, random.Random(1))  # what is imported and cached by the first stays
    engine.close()
    before = held()
    with ThreadPoolExecutor(4) as threads:
        ends = list(threads.map(lambda box: live(box, engine, random.Random(chance.random())), boxes))
    assert len(set(ends)) >= 5, ends
    engine.close()
    wait_until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)), 30.0)


def test_a_container_that_is_killed_while_it_is_attested_is_lost_and_not_refused(
    sh: Callable[..., Any], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a dying process shows of itself is weaker than any policy; that is no finding about the policy."""
    from workflowmaster.blocks import container, effective

    made = sh("true")

    def killed(*_: Any) -> Any:
        engine.kill(made.container.id)
        return effective.Effective(seccomp=False)  # as a process says that has just given everything up

    monkeypatch.setattr(container.effective, "read", killed)
    made.park()
    with pytest.raises(SandboxUnavailable) as caught:
        made.go()
    assert caught.value.reason == "parked"
    assert not made.container.begun
