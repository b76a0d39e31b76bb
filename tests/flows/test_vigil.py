"""The watch over a run's surroundings: what it sees, what it says and writes down, and how an outage is counted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.engine import Engine
from workflowmaster.blocks.vitals import SILENT, Room, Vitals
from workflowmaster.flows import vigil
from workflowmaster.flows.settings import Settings
from workflowmaster.flows.vigil import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GIB = 2**30
WELL = Vitals(load=0.5, memory=Room(8 * GIB, 16 * GIB), engine=0.002)
CRAMPED = Vitals(load=0.5, memory=Room(GIB // 2, 16 * GIB), engine=0.002)
NONE = Vitals(load=0.5, memory=Room(0, 16 * GIB), engine=0.002)


class Run:
    """As much of a journey as a watch needs: what it tells people and writes down is kept."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.engine = Engine(url)
        self.parallel = 4
        self.threads = ThreadPoolExecutor(2)
        self.closing = threading.Event()
        self.told: list[str] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.claim = SimpleNamespace(tell=self.told.append)
        self.decisions: list[Any] = []
        self.audit = SimpleNamespace(append=lambda event, **fields: self.events.append((event, fields)))
        self.records: list[dict[str, Any]] = []
        self.journal = SimpleNamespace(append=lambda kind, **fields: self.records.append({"kind": kind, **fields}))
        self.watch = Watch(self)  # type: ignore[arg-type] - it has what is asked for

    def sees(self, *looks: Vitals) -> Watch:
        """Have the watch seen these, without a thread that sees something else."""
        self.watch._sampling = self.threads.submit(lambda: None)
        self.watch._looks.extend(looks)
        return self.watch

    def close(self) -> None:
        self.closing.set()
        self.threads.shutdown(wait=True)
        self.engine.close()


@pytest.fixture
def begun(home: Path) -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def begin(url: str = "unix:///none.sock", **settings: Any) -> Run:
        made.append(Run(url, **settings))
        return made[-1]

    yield begin
    for run in made:
        run.close()


def test_until_there_was_a_look_all_is_taken_to_be_well(begun: Callable[..., Run]) -> None:
    run = begun()
    assert run.watch.value() == 1
    assert run.watch.parallel(4) == 4
    assert (run.told, run.events) == ([], [])


@pytest.mark.docker
def test_it_looks_in_the_background_until_the_run_is_over(
    begun: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., Any]
) -> None:
    monkeypatch.setattr(vigil, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(vigil, "SECONDS", 0.01)
    run = begun("")
    run.watch.parallel(4)
    wait_until(lambda: len(run.watch._looks) == vigil.LOOKS)
    found = run.watch.now()
    assert {"cpu", "memory", "disk", "engine", "engine_disk"} <= set(found.parts)
    assert found.parts["engine"] > 0
    run.closing.set()
    run.watch._sampling.result(30)  # it has ended


def test_low_health_leaves_fewer_steps_and_says_so_once(begun: Callable[..., Run]) -> None:
    run = begun()
    watch = run.sees(CRAMPED)
    room = watch.parallel(4)
    assert room < 4
    assert watch.parallel(4) == room
    assert run.told == [f"health {watch.value():.2f}: memory (512 MiB free); {room} of 4 steps at one time"]
    ((event, fields),) = run.events
    assert event == "health.low"
    assert fields["low"] == ["memory"]
    assert (fields["parallel"], fields["limit"]) == (room, 4)
    assert fields["health"] == pytest.approx(watch.value(), abs=0.001)
    assert watch.patrol == vigil.SECONDS


def test_the_way_back_is_told_when_it_is_over(begun: Callable[..., Run]) -> None:
    run = begun()
    run.sees(NONE)
    assert run.watch.parallel(4) == 1
    run.sees(WELL, WELL, WELL)
    assert run.watch.parallel(4) == 4
    assert [event for event, _ in run.events] == ["health.low", "health.back"]
    assert run.told[-1].endswith("all is well")
    assert run.watch.patrol is None


def test_part_of_the_way_back_is_not_told(begun: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun()
    run.sees(NONE)
    run.watch.parallel(4)
    monkeypatch.setattr(Watch, "now", lambda _: SimpleNamespace(value=0.5))
    assert run.watch.parallel(4) == 3
    assert len(run.events) == 1


def test_one_bad_look_changes_nothing(begun: Callable[..., Run]) -> None:
    run = begun()
    watch = run.sees(WELL, Vitals(load=0.5, memory=WELL.memory, engine=SILENT))
    assert watch.parallel(4) == 4
    run.sees(Vitals(engine=SILENT))
    assert watch.parallel(4) == 1


def test_attempts_count_by_what_ended_them(begun: Callable[..., Run]) -> None:
    watch = begun().watch
    for cause in ("", "failure", "timeout"):
        watch.ended(cause)
    assert watch.now().parts["failures"] == pytest.approx(1 - 1.5 / 8)
    for _ in range(vigil.RECENT):
        watch.ended("")
    assert watch.now().parts["failures"] == 1


# --- the engine's breaker and the run's patience ---


def test_a_closed_breaker_and_all_of_the_patience(begun: Callable[..., Run]) -> None:
    watch = begun(engine_patience_seconds=60).watch
    assert watch.service("command") == ("closed", 0, 60)
    assert watch.facts("command") == {"health": 1.0, "breaker": "closed", "breaker_wait": 0, "patience": 60}


def test_patience_shrinks_from_the_first_failure_on_and_is_whole_again_after_a_success(
    begun: Callable[..., Run], wait_until: Callable[..., Any]
) -> None:
    run = begun(engine_patience_seconds=60, circuit_breaker_threshold=1)
    watch = run.watch
    watch.engine.failed("it does not answer")
    assert watch.engine_away("it does not answer")
    assert not watch.engine_away("it still does not")
    wait_until(lambda: watch.patience < 60)
    assert watch.value() == 0
    # To decisions the breaker is a fact of its own: ill health would have the step given up, and the run completed.
    assert (watch.facts("command")["breaker"], watch.facts("command")["health"]) == ("open", 1)
    watch.engine_back("build", 2)
    assert watch.service("command") == ("closed", 0, 60)
    assert [event for event, _ in run.events] == ["engine.away", "engine.back", "decision"]
    assert run.told[0] == "the engine is away (it does not answer); waiting for it up to 60 s"
    assert run.told[1].startswith("the engine is back after ")


def test_an_outage_that_was_waited_out_is_on_record_and_no_retry(begun: Callable[..., Run]) -> None:
    run = begun(circuit_breaker_threshold=1)
    run.watch.engine.failed("it does not answer")
    run.watch.engine_away("it does not answer")
    run.watch.engine_back("build", 2)
    run.watch.engine_back("test", 1)
    (decision,) = run.decisions
    assert (decision.step, decision.verb, decision.rule, decision.attempt) == ("build", "continue", "engine-waited", 2)
    assert decision.reason.startswith("engine-waited: the engine was away for 0 s (it does not answer); ")
    assert decision.factors["counts"] is False
    (record,) = run.records
    assert (record["kind"], record["counted"]) == ("decision", False)
    assert "key" not in record


def test_a_start_that_succeeds_where_nothing_was_wrong_says_nothing(begun: Callable[..., Run], home: Path) -> None:
    run = begun()
    run.watch.engine_back("build", 1)
    assert (run.told, run.events, run.decisions) == ([], [], [])
    assert not (home / "breakers").exists()


def test_forge_steps_depend_on_github(begun: Callable[..., Run]) -> None:
    watch = begun(engine_patience_seconds=60).watch
    watch.github.rest(1800, "its allowance is used up")
    state, wait, patience = watch.service("forge")
    assert state == "open"
    assert 1790 < wait <= 1800
    assert patience >= wait - 1
    assert watch.service("command").state == "closed"
    assert watch.value() == 1


def test_its_engine_is_the_runs_own(begun: Callable[..., Run]) -> None:
    one, other = begun("unix:///one.sock", circuit_breaker_threshold=1), begun("unix:///other.sock")
    one.watch.engine.failed("gone")
    assert (one.watch.engine.state, other.watch.engine.state) == ("open", "closed")
