"""Circuit breakers: when they open, who looks, who may go on; across threads, processes and damage."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks import breaker as breakers
from workflowmaster.blocks.breaker import Breaker, Kept, file_of, states

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

START = 1_700_000_000.0


class Clock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(tmp_path: Path, clock: Clock) -> Callable[..., Breaker]:
    def make(**more: Any) -> Breaker:
        return Breaker("engine", **{"threshold": 3, "seconds": 10, "folder": tmp_path, "clock": clock, **more})

    return make


def yes() -> bool:
    return True


def no() -> bool:
    return False


def never() -> bool:
    raise AssertionError("nobody may look now")


def test_it_opens_at_the_threshold_and_not_before(made: Callable[..., Breaker]) -> None:
    breaker = made()
    assert [breaker.failed("gone") for _ in range(3)] == ["closed", "closed", "open"]
    assert breaker.wait == 10
    assert (breaker.kept.failure_count, breaker.kept.since, breaker.kept.openings) == (3, START, 1)


def test_a_success_starts_the_count_anew(made: Callable[..., Breaker]) -> None:
    breaker = made()
    breaker.failed("one")
    breaker.failed("two")
    breaker.succeeded()
    assert [breaker.failed("again"), breaker.failed("again")] == ["closed", "closed"]


def test_an_open_one_keeps_everybody_away_for_its_time(made: Callable[..., Breaker], clock: Clock) -> None:
    breaker = made(threshold=1)
    breaker.failed("gone")
    clock.time += 9.9
    assert breaker.state == "open"
    assert breaker.wait == pytest.approx(0.1)
    assert not breaker.probe(never)
    clock.time += 0.1
    assert (breaker.state, breaker.wait) == ("half-open", 0)


def test_a_look_that_succeeds_closes_it(made: Callable[..., Breaker], clock: Clock) -> None:
    breaker = made(threshold=1)
    breaker.failed("gone")
    clock.time += 10
    seen: list[str] = []

    def look() -> bool:
        seen.append(breaker.state)
        return True

    assert breaker.probe(look)
    assert seen == ["half-open"]
    assert (breaker.state, breaker.kept.failure_count, breaker.kept.since) == ("closed", 0, START + 10)
    assert breaker.probe(never)  # a closed one lets everybody go on unseen


def test_a_look_that_fails_opens_it_for_another_time(made: Callable[..., Breaker], clock: Clock) -> None:
    breaker = made()
    for _ in range(3):
        breaker.failed("gone")
    clock.time += 11
    assert not breaker.probe(no)
    assert (breaker.state, breaker.wait) == ("open", 10)
    assert (breaker.kept.openings, breaker.kept.failure_count, breaker.kept.why) == (2, 4, "gone")


def test_what_began_before_it_opened_tells_nothing_new(made: Callable[..., Breaker], clock: Clock) -> None:
    breaker = made(threshold=1)
    breaker.failed("gone")
    clock.time += 5
    assert breaker.failed("gone too") == "open"
    assert (breaker.kept.failure_count, breaker.wait, breaker.kept.why) == (1, 5, "gone")


def test_a_success_closes_it_whatever_was_thought(made: Callable[..., Breaker]) -> None:
    breaker = made(threshold=1)
    breaker.failed("gone")
    breaker.succeeded()
    assert (breaker.state, breaker.kept.failure_count) == ("closed", 0)


def test_a_rest_lasts_as_long_as_was_asked_for_and_is_no_failure(made: Callable[..., Breaker], clock: Clock) -> None:
    breaker = made()
    breaker.rest(1800, "its allowance is used up\nfor an hour")
    assert (breaker.state, breaker.wait, breaker.kept.failure_count) == ("open", 1800, 0)
    assert breaker.kept.why == "its allowance is used up"
    clock.time += 1801
    assert breaker.probe(yes)
    breaker.failed("a usual failure")
    assert breaker.kept.seconds == 10


@pytest.mark.parametrize("back", [1, 3600, 86_400 * 365])
def test_a_clock_that_is_set_back_keeps_nobody_away(made: Callable[..., Breaker], clock: Clock, back: float) -> None:
    breaker = made(threshold=1)
    breaker.failed("gone")
    clock.time -= back
    assert breaker.state == "half-open"
    assert breaker.probe(yes)


def test_all_of_a_state_directory_see_the_same(made: Callable[..., Breaker], clock: Clock) -> None:
    one, other = made(), made()
    one.failed("gone")
    other.failed("gone")
    one.failed("gone")
    assert other.state == "open"
    clock.time += 10
    assert other.probe(yes)
    assert one.state == "closed"


def test_each_address_has_its_own(made: Callable[..., Breaker], tmp_path: Path, clock: Clock) -> None:
    here, there = made(threshold=1), made(threshold=1, at="tcp://build:2376")
    there.failed("gone")
    assert (here.state, there.state) == ("closed", "open")
    found = states(tmp_path, clock)
    assert list(found) == ["engine", "github", "engine tcp://build:2376"]
    assert found["engine tcp://build:2376"]["state"] == "open"
    assert found["engine"]["state"] == found["github"]["state"] == "closed"


def test_only_one_looks_at_a_time(made: Callable[..., Breaker], clock: Clock) -> None:
    one, other = made(threshold=1), made(threshold=1)
    one.failed("gone")
    clock.time += 10
    looking, go_on = threading.Event(), threading.Event()

    def look() -> bool:
        looking.set()
        return go_on.wait(30)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(one.probe, look)
        assert looking.wait(30)
        assert not other.probe(never)
        assert other.state == "half-open"
        assert other.failed("meanwhile") == "open"  # a look does not keep the others from telling what they met
        go_on.set()
        assert first.result(30)
    assert other.state == "closed"


PROCESS = """
import sys
from pathlib import Path
from workflowmaster.blocks.breaker import Breaker
breaker = Breaker("engine", threshold=1000, folder=Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    breaker.failed("gone")
"""


def test_processes_count_together_and_none_is_lost(tmp_path: Path) -> None:
    started = [subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path), "40"]) for _ in range(3)]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    assert Breaker("engine", folder=tmp_path).kept.failure_count == 120


def test_threads_count_together_and_none_is_lost(tmp_path: Path) -> None:
    breaker = Breaker("engine", threshold=1000, folder=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(breaker.failed, ["gone"] * 100))
    assert breaker.kept.failure_count == 100


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"state": "ajar"}', b'{"failure_count": -1}', b'{"since": "yesterday"}'],
)
def test_a_damaged_file_is_a_closed_breaker(made: Callable[..., Breaker], tmp_path: Path, damage: bytes) -> None:
    file_of("engine", folder=tmp_path).write_bytes(damage)
    breaker = made()
    assert (breaker.state, breaker.wait) == ("closed", 0)
    assert breaker.failed("gone") == "closed"
    assert breaker.kept.failure_count == 1
    assert list(states(tmp_path)) == ["engine", "github"]


def test_a_file_of_a_later_version_is_understood(made: Callable[..., Breaker], tmp_path: Path) -> None:
    file_of("engine", folder=tmp_path).write_text('{"state": "open", "since": 1700000000, "mood": "sad"}')
    assert made().state == "open"


def test_where_nothing_can_be_written_it_works_for_this_process(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("no folder")
    breaker = Breaker("engine", threshold=2, folder=tmp_path / "file" / "breakers", clock=clock)
    assert [breaker.failed("gone"), breaker.failed("gone")] == ["closed", "open"]
    clock.time += 100
    assert breaker.probe(yes)
    assert breaker.state == "closed"
    breaker.failed("gone")
    breaker.succeeded()
    assert breaker.kept.failure_count == 0


def test_what_was_never_wrong_leaves_no_file_and_imports_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from workflowmaster.blocks.breaker import Breaker, states; "
        "breaker = Breaker('engine', folder=pathlib.Path(sys.argv[1])); breaker.succeeded(); "
        "assert breaker.state == 'closed'; states(pathlib.Path(sys.argv[1])); assert 'pybreaker' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True)
    assert not (tmp_path / "b").exists()


def test_states_tell_what_statistics_ask_for(made: Callable[..., Breaker], tmp_path: Path, clock: Clock) -> None:
    breaker = made(threshold=1)
    breaker.failed("it does not answer")
    clock.time += 4
    assert states(tmp_path, clock)["engine"] == {
        "state": "open",
        "failure_count": 1,
        "since": START,
        "openings": 1,
        "why": "it does not answer",
        "threshold": 1,
        "wait_seconds": 6.0,
    }
    clock.time += 6
    assert states(tmp_path, clock)["engine"]["state"] == "half-open"


@given(
    st.lists(
        st.one_of(
            st.just("failed"),
            st.just("succeeded"),
            st.tuples(st.just("pass"), st.floats(0, 25)),
            st.tuples(st.just("probe"), st.booleans()),
        ),
        max_size=30,
    )
)
def test_it_agrees_with_a_model_of_itself(tmp_path_factory: pytest.TempPathFactory, deeds: list[Any]) -> None:
    clock = Clock()
    breaker = Breaker("engine", threshold=3, seconds=10, folder=tmp_path_factory.mktemp("b"), clock=clock)
    count, until = 0, None  # failures in a row, and until when it is open
    for deed in deeds:
        name, what = deed if isinstance(deed, tuple) else (deed, None)
        due = until is None or clock.time >= until
        if name == "pass":
            clock.time += what
        elif name == "failed" and due:
            breaker.failed("gone")
            count += 1
            until = clock.time + 10 if count >= 3 or until else None
        elif name == "failed":
            breaker.failed("gone")
        elif name == "succeeded":
            breaker.succeeded()
            count, until = 0, None
        else:
            went = breaker.probe(yes if what else no)
            assert went == (until is None or (due and what))
            if until is not None and due:
                count, until = (0, None) if what else (count + 1, clock.time + 10)
        state = "closed" if until is None else "open" if clock.time < until else "half-open"
        assert (breaker.state, breaker.kept.failure_count) == (state, count)


def test_the_engine_of_this_machine_and_github_always_have_one() -> None:
    assert breakers.NAMES == ("engine", "github")
    assert Kept().seen(START) == "closed"
