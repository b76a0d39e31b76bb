"""When a step waits for its engine, when it is started anew, and when it is not."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.flows import anew
from workflowmaster.flows.settings import Settings
from workflowmaster.flows.vigil import Watch

if TYPE_CHECKING:
    from pathlib import Path

DONE = (0.0, SimpleNamespace(cause=""))


@pytest.fixture(autouse=True)
def _quick(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anew, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(anew, "NAP_SECONDS", 0.02)


class Surroundings:
    """An attempt with as much of a journey as is asked for, and an engine that answers from the n-th look on."""

    url = ""

    def __init__(self, answers_at: int = 1, **settings: Any) -> None:
        self.asked, self.answers_at = 0, answers_at
        self.events: list[dict[str, Any]] = []
        self.decisions: list[Any] = []
        self.journal = SimpleNamespace(append=lambda *_, **__: None)
        self.settings = Settings(**{"circuit_breaker_seconds": 0.1, **settings})
        self.troubled, self.engine, self.audit, self.parallel = False, self, self, 2
        self.claim, self.closing = SimpleNamespace(tell=lambda _: None), Event()
        self.threads = ThreadPoolExecutor(1)
        self.health = Watch(self)  # type: ignore[arg-type] - it has what is asked for
        self.journey, self.step, self.number = self, SimpleNamespace(id="s"), 3

    def append(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def named(self) -> list[str]:
        return [event["event"] for event in self.events]

    def answers(self) -> bool:
        self.asked += 1
        return self.asked >= self.answers_at


def failing(*errors: SandboxUnavailable | None, begun: bool = False) -> Any:
    """Work that takes a container and fails so, one try after the other."""
    tries = iter(errors)

    async def work(_: Any, held: list[Any]) -> Any:
        held.append(SimpleNamespace(container=SimpleNamespace(begun=begun)))
        if error := next(tries):
            raise error
        return DONE

    return work


def lost(reason: str = "engine") -> SandboxUnavailable:
    return SandboxUnavailable(f"words of {reason}", reason=reason)


def tried(near: Surroundings, *errors: SandboxUnavailable | None, begun: bool = False) -> Any:
    return asyncio.run(anew.once_more(near, failing(*errors, begun=begun)))  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", ["engine", "parked", "gone", "runtime", "network", "unclassified"])
def test_what_may_have_passed_is_tried_once_more(reason: str) -> None:
    near = Surroundings()
    assert tried(near, lost(reason), None) == DONE
    told = {"step": "s", "attempt": 3, "reason": reason, "error": f"words of {reason}"}
    assert near.events == [{"event": "sandbox.retried", **told}]
    assert near.troubled
    assert near.health.engine.kept.failure_count == 0  # the start after it has shown that it works


@pytest.mark.parametrize(
    "reason", ["image", "command", "mount", "conflict", "disk", "permission", "unsupported", "stuck"]
)
def test_what_would_only_be_met_again_is_not_and_is_no_failure_of_the_engine(reason: str) -> None:
    near = Surroundings(circuit_breaker_threshold=1)
    with pytest.raises(SandboxUnavailable):
        tried(near, lost(reason), None)
    assert near.events == []
    assert near.health.engine.state == "closed"
    assert near.health.now().parts["failures"] < 1


@pytest.mark.parametrize("reason", ["engine", "gone"])
def test_a_step_whose_command_had_begun_is_not_done_twice(reason: str) -> None:
    with pytest.raises(SandboxUnavailable):
        tried(Surroundings(), lost(reason), None, begun=True)


def test_an_engine_that_answers_and_fails_gets_one_more_try_a_step() -> None:
    near = Surroundings()
    with pytest.raises(SandboxUnavailable) as caught:
        tried(near, lost("runtime"), lost("gone"), None)
    assert caught.value.reason == "gone"
    assert near.named() == ["sandbox.retried"]


def test_an_outage_in_between_does_not_use_that_up() -> None:
    assert tried(Surroundings(), lost(), lost("gone"), lost(), None) == DONE


def test_it_waits_until_the_engine_answers_again() -> None:
    near = Surroundings(answers_at=6)
    assert tried(near, lost(), None) == DONE
    assert near.asked == 6
    assert near.named() == ["engine.away", "sandbox.retried", "engine.back", "decision"]
    assert near.health.engine.state == "closed"


def test_no_longer_than_its_patience() -> None:
    near = Surroundings(answers_at=10**6, engine_patience_seconds=0.5)
    with pytest.raises(SandboxUnavailable, match=r"away for longer than 0\.5 s \(engine_patience_seconds\)") as caught:
        tried(near, lost())
    assert caught.value.reason == "engine"
    assert near.health.facts("command")["breaker"] == "open"
    assert near.health.patience == 0
    assert near.health.gave_up


def test_an_open_breaker_keeps_a_step_from_even_trying() -> None:
    near = Surroundings(answers_at=2, circuit_breaker_threshold=1)
    near.health.engine.failed("another process met it")
    assert tried(near, None) == DONE
    assert near.asked == 2
    assert near.named() == ["engine.away", "engine.back", "decision"]


def test_the_others_wait_to_be_stopped_and_do_not_fail_of_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    near = Surroundings(answers_at=10**6, engine_patience_seconds=0.2, circuit_breaker_threshold=1)

    async def several() -> list[bool]:
        waiting = [asyncio.create_task(anew.once_more(near, failing(lost()))) for _ in range(4)]  # type: ignore[arg-type]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert all(isinstance(task.exception(), SandboxUnavailable) for task in done)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return [task.cancelled() for task in waiting]

    assert sorted(asyncio.run(several())) == [False, True, True, True]
    # Should nobody stop them, they end all the same.
    monkeypatch.setattr(anew, "STOP_SECONDS", 0.01)
    with pytest.raises(SandboxUnavailable):
        tried(near, None)


def test_an_engine_that_came_back_after_the_end_of_patience_is_used() -> None:
    near = Surroundings(answers_at=10**6, engine_patience_seconds=0.2, circuit_breaker_threshold=1)
    with pytest.raises(SandboxUnavailable):
        tried(near, lost())
    near.answers_at = 0
    near.health.engine.rest(0, "now")
    assert tried(near, None) == DONE
    assert not near.health.gave_up
    assert near.health.patience == 0.2


def test_a_lost_container_of_an_engine_that_answers_is_not_an_outage() -> None:
    near = Surroundings()
    with pytest.raises(SandboxUnavailable):
        tried(near, lost(), begun=True)
    assert near.named() == []
    assert near.health.facts("command")["breaker"] == "closed"


def test_of_an_engine_that_is_away_it_is_known_before_anything_is_decided() -> None:
    near = Surroundings(answers_at=10**6, circuit_breaker_seconds=10)
    with pytest.raises(SandboxUnavailable):
        tried(near, lost(), begun=True)
    assert near.named() == ["engine.away"]
    facts = near.health.facts("command")
    assert facts["breaker"] == "open"
    assert 0 < facts["breaker_wait"] <= 10
    assert facts["patience"] > 100


@pytest.mark.parametrize(("cause", "part"), [("", 1.0), ("failure", 1 - 0.5 / 8), ("oom", 1 - 1 / 8)])
def test_how_an_attempt_ended_is_part_of_the_runs_health(cause: str, part: float) -> None:
    near = Surroundings()

    async def work(*_: Any) -> Any:
        return 0.0, SimpleNamespace(cause=cause)

    asyncio.run(anew.once_more(near, work))  # type: ignore[arg-type]
    assert near.health.now().parts["failures"] == pytest.approx(part)
