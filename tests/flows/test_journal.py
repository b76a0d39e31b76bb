"""Small records: what was written is read, what was torn or flipped is told and never believed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.journal import Journal, read

if TYPE_CHECKING:
    from pathlib import Path

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def written(path: Path, *steps: str) -> None:
    journal = Journal(path)
    for step in steps:
        journal.append("ended", step=step)
    journal.close()


def steps(path: Path, start: int = 0) -> list[str]:
    return [entry.fields["step"] for entry in read(path, start).entries]


@given(st.lists(st.dictionaries(st.text("abc", min_size=1), VALUES, max_size=3), max_size=6))
def test_what_was_written_is_read_back_in_order(tmp_path_factory: pytest.TempPathFactory, many: list[dict]) -> None:
    path = tmp_path_factory.mktemp("j") / "records.jsonl"
    journal = Journal(path)
    for fields in many:
        journal.append("keys", **{f"x{name}": value for name, value in fields.items()})
    journal.close()
    found = read(path)
    assert [e.fields for e in found.entries] == [{f"x{k}": v for k, v in fields.items()} for fields in many]
    assert not found.damaged
    assert journal.size == path.stat().st_size == (found.entries[-1].end if many else 0)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_costs_the_lines_it_touches_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("j") / "records.jsonl"
    written(path, "a", "b", "c", "d")
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    found = read(path)
    kept = [entry.fields["step"] for entry in found.entries]
    # A flipped line end joins two lines; a flip that makes one splits a line in two.
    assert len(kept) >= 2
    assert kept == [step for step in "abcd" if step in kept]
    assert found.damaged
    assert len(kept) < 4


@given(st.integers(0, 400))
def test_a_cut_file_is_gone_on_with_and_only_the_torn_line_is_lost(
    tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    path = tmp_path_factory.mktemp("j") / "records.jsonl"
    written(path, "a", "b", "c")
    data = path.read_bytes()
    path.write_bytes(data[: size % len(data)])
    # Without its end a line is whole all the same: its checksum says so.
    whole = (data[: size % len(data)] + b"\n").count(b"}\n")
    written(path, "new")
    assert steps(path) == [*"abc"[:whole], "new"]


def test_what_came_later_can_be_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    written(path, "a", "b")
    at = path.stat().st_size
    written(path, "c")
    assert steps(path, at) == ["c"]
    assert steps(tmp_path / "none.jsonl") == []


def test_threads_never_mix_their_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "records.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: journal.append("ended", step=f"s{n}" * 300), range(400)))
    journal.close()
    found = read(journal.path)
    assert len(found.entries) == 400
    assert not found.damaged
    assert sorted(e.fields["step"] for e in found.entries) == sorted(f"s{n}" * 300 for n in range(400))


def test_kinds_can_be_chosen(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "records.jsonl")
    journal.append("ended", step="a")
    journal.append("rerun", steps=["a"], generation=1)
    journal.append("decision", durable=True, verb="retry")
    journal.close()
    assert [e.kind for e in read(journal.path).of("rerun", "decision")] == ["rerun", "decision"]


def fill(journal: Journal) -> None:
    for _ in range(2_000):
        journal.append("ended", step="x" * 60_000)


def test_a_full_disk_is_an_error_and_leaves_no_half_of_a_record(small_disk: Path) -> None:
    path = small_disk / "records.jsonl"
    journal = Journal(path)
    journal.append("ended", step="a")
    with pytest.raises(OSError, match=r"(?i)no space left"):
        fill(journal)
    journal.close()
    assert not read(path).damaged
    assert steps(path)[0] == "a"
