"""The record of a go: what it says, what closes it, and how time is told from it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows.going import Going, Moment, Outcome, open_goings, unix_time
from workflowmaster.flows.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = Moment(wall=2_000_000_000.0, boot=5_000.0, boot_id="b007")


def record(**changed: Any) -> Going:
    """A record of a container that got its go ten seconds ago."""
    given: dict[str, Any] = {
        "step": "build",
        "attempt": 1,
        "purpose": "work",
        "key": "w-1",
        "container": "c1",
        "name": "w-build-1",
        "mark": "\x1e0123\x1e",
        "wall": NOW.wall - 10,
        "boot": NOW.boot - 10,
        "boot_id": NOW.boot_id,
        "timeout": 30.0,
        "commit": "abc",
        "tree": "trees/1",
        "exchange": "exchange/w-build-1.1",
        "log": "logs/build.1.log",
    }
    return Going(**{**given, **changed})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "records.jsonl")
    yield made
    made.close()


def write(journal: Journal, *records: Going) -> None:
    for one in records:
        journal.append("go", **one.model_dump(mode="json", exclude_defaults=True))


def test_a_record_comes_back_as_it_was_written(journal: Journal) -> None:
    work = Receipt(exit_code=0, policy="standard", seconds=1.5)
    before = Outcome(receipts=(work,), outputs={"a": "b"}, commit="def", findings=("x",), reason="", cause="")
    full = record(purpose="check", before=before, receipts=(work,), bound=(1 << 20, True), laid=7, epoch=3)
    write(journal, full)
    assert open_goings(journal.path) == [full]


def test_what_is_nobodys_to_read_stands_in_a_file_that_nobody_else_reads(journal: Journal) -> None:
    write(journal, record())
    assert journal.path.stat().st_mode & 0o777 == 0o600


CLOSED = {
    "its end": lambda journal: journal.append("ended", container="c1"),
    "its step's result": lambda journal: journal.append("result", step="build", result={}, reused=False),
    "what was decided about its failure": lambda journal: journal.append(
        "decision", step="build", verb="retry", key="w"
    ),
    "another attempt": lambda journal: write(journal, record(container="c2", attempt=2, unfit="x")),
    "another step in its directory": lambda journal: write(journal, record(container="c2", step="next")),
}


@pytest.mark.parametrize("what", CLOSED)
def test_a_record_is_closed_by(what: str, journal: Journal) -> None:
    write(journal, record())
    CLOSED[what](journal)
    assert "c1" not in [one.container for one in open_goings(journal.path)]


def test_others_ends_close_nothing(journal: Journal) -> None:
    write(journal, record())
    journal.append("ended", container="c9")
    journal.append("result", step="other", result={}, reused=False)
    journal.append("decision", step="other", verb="retry", key="w")
    journal.append("decision", step="build", verb="continue", rule="engine-waited")
    write(journal, record(container="c2", step="beside", tree="trees/2"), record(container="c3", step="bare", tree=""))
    assert [one.container for one in open_goings(journal.path)] == ["c1", "c2", "c3"]


def test_a_record_of_another_version_is_nobodys(journal: Journal) -> None:
    journal.append("go", step="build", container="c1", shape="new")
    assert open_goings(journal.path) == []
    assert open_goings(journal.path.with_name("none.jsonl")) == []


# --- time ---


def test_elapsed_time_is_counted_since_boot_whatever_the_wall_clock_says() -> None:
    back = Moment(NOW.wall - 3600, NOW.boot, NOW.boot_id)
    assert record().elapsed(NOW) == record().elapsed(back) == 10
    assert record().elapsed(Moment(NOW.wall, NOW.boot, "other")) == float("inf")


@pytest.mark.parametrize("jump", [0, -3600, 3600, -5])
@pytest.mark.parametrize("before", [True, False], ids=["ended-before-the-jump", "ended-after-it"])
def test_an_end_is_dated_right_although_the_clock_was_set(jump: float, before: bool) -> None:
    now = Moment(NOW.wall + jump, NOW.boot, NOW.boot_id)
    noted = NOW.wall - 10 + 6 + (0 if before else jump)
    found = record().ended_after(noted, now)
    # A small jump leaves two possible answers, and the step gets the benefit of the doubt.
    assert found == pytest.approx(6) or (abs(jump) < 10 and found < 6)


@given(st.floats(-1e5, 1e5), st.floats(0, 1e5), st.floats(-1e4, 1e4))
def test_an_end_lies_between_go_and_now(finished: float, elapsed: float, jump: float) -> None:
    now = Moment(NOW.wall - 10 + elapsed + jump, NOW.boot - 10 + elapsed, NOW.boot_id)
    found = record().ended_after(record().wall + finished, now)
    assert 0 <= found <= record().elapsed(now)


def test_the_present_moment_goes_on_in_both_clocks() -> None:
    first, second = Moment.now(), Moment.now()
    assert first.boot_id == second.boot_id != ""
    assert first.boot <= second.boot
    assert first.wall == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T20:37:56.790520288Z", 1795379876.79052),
        ("2026-11-22T21:37:56.79+01:00", 1795379876.79),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
    ],
)
def test_the_engines_times_are_read(text: str, expected: float) -> None:
    assert unix_time(text) == pytest.approx(expected, abs=1e-4)
