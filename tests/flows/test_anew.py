"""When a step is started anew after the engine failed, and when it is not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.flows import anew


class Surroundings:
    """An attempt with as much of a journey as is asked for, and an engine that answers from the n-th time on."""

    def __init__(self, answers_at: int = 1) -> None:
        self.asked, self.answers_at = 0, answers_at
        self.events: list[dict[str, Any]] = []
        self.journey = SimpleNamespace(troubled=False, engine=self, audit=self)
        self.step, self.number = SimpleNamespace(id="s"), 3

    def append(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def answers(self) -> bool:
        self.asked += 1
        return self.asked >= self.answers_at


def failing(*errors: SandboxUnavailable | None, begun: bool = False) -> Any:
    """Work that takes a container and fails so, one try after the other."""
    tries = iter(errors)

    async def work(_: Any, held: list[Any]) -> str:
        held.append(SimpleNamespace(container=SimpleNamespace(begun=begun)))
        if error := next(tries):
            raise error
        return "done"

    return work


def lost(reason: str) -> SandboxUnavailable:
    return SandboxUnavailable("words", reason=reason)


@pytest.mark.parametrize("reason", ["engine", "parked", "gone", "runtime", "network", "unclassified"])
def test_what_may_have_passed_is_tried_once_more(reason: str) -> None:
    near = Surroundings()
    assert asyncio.run(anew.once_more(near, failing(lost(reason), None))) == "done"  # type: ignore[arg-type]
    assert near.events == [{"event": "sandbox.retried", "step": "s", "attempt": 3, "reason": reason, "error": "words"}]
    assert near.journey.troubled


@pytest.mark.parametrize(
    "reason", ["image", "command", "mount", "conflict", "disk", "permission", "unsupported", "stuck"]
)
def test_what_would_only_be_met_again_is_not(reason: str) -> None:
    near = Surroundings()
    with pytest.raises(SandboxUnavailable):
        asyncio.run(anew.once_more(near, failing(lost(reason), None)))  # type: ignore[arg-type]
    assert near.events == []


def test_a_step_whose_command_had_begun_is_not_done_twice() -> None:
    with pytest.raises(SandboxUnavailable):
        asyncio.run(anew.once_more(Surroundings(), failing(lost("engine"), None, begun=True)))  # type: ignore[arg-type]


def test_once_is_all() -> None:
    near = Surroundings()
    with pytest.raises(SandboxUnavailable) as caught:
        asyncio.run(anew.once_more(near, failing(lost("engine"), lost("gone"), None)))  # type: ignore[arg-type]
    assert caught.value.reason == "gone"
    assert len(near.events) == 1


def test_it_waits_until_the_engine_answers_again() -> None:
    near = Surroundings(answers_at=3)
    assert asyncio.run(anew.once_more(near, failing(lost("engine"), None))) == "done"  # type: ignore[arg-type]
    assert near.asked == 3


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anew, "BACK_SECONDS", 0.3)
    near = Surroundings(answers_at=1000)
    with pytest.raises(SandboxUnavailable):
        asyncio.run(anew.once_more(near, failing(lost("engine"), lost("engine"))))  # type: ignore[arg-type]
    assert near.asked < 10
