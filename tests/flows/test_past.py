"""What a resume learns from the records of a run's earlier parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.journal import Journal
from workflowmaster.flows.past import Past, past

if TYPE_CHECKING:
    from collections.abc import Iterable

Record = tuple[str, dict[str, Any]]


def read(path: Path, records: Iterable[Record]) -> Past:
    journal = Journal(path)
    for kind, fields in records:
        journal.append(kind, **fields)  # type: ignore[arg-type]
    journal.close()
    return past(path)


def failed(key: str, attempt: int, verb: str = "retry") -> Record:
    return "decision", {"step": "a", "verb": verb, "reason": "r", "factors": {"attempt": attempt}, "key": key}


def result(key: str = "k1", status: str = "failed", **fields: Any) -> Record:
    return "result", {"step": "a", "result": {"step": "a", "status": status, "key": key}, **fields}


ANSWER: Record = ("approval", {"step": "a", "answer": "approved by ada"})


@pytest.mark.parametrize(
    ("records", "spent"),
    [
        ([], 0),
        ([failed("k1", 1)], 1),
        ([failed("k1", 1), failed("k1", 2)], 2),
        ([failed("k1", 1), failed("k1", 2, "continue")], 1),
        ([failed("k1", 1), result()], 0),
        ([failed("k1", 1), result(), failed("k1", 1)], 1),
        ([failed("k0", 1), failed("k0", 2), failed("k1", 1)], 1),
        ([failed("k0", 1)], 0),
        ([failed("k1", 1), ANSWER], 0),
    ],
    ids=["new", "one", "two", "the last is none", "over", "over and again", "another key", "only another", "approved"],
)
def test_only_attempts_that_ended_and_belong_to_this_try_count(
    records: list[Record], spent: int, tmp_path: Path
) -> None:
    assert read(tmp_path / "r", records).spent("a", "k1") == spent


def test_the_last_result_stands_with_its_row(tmp_path: Path) -> None:
    found = read(
        tmp_path / "r",
        [result("k1"), result("k2", "completed", task_run="t2", flow_run="f"), ("keys", {"step": "a", "key": "k3"})],
    )
    last = found.finished["a"]
    assert (last.key, last.task_run, last.flow_run, last.result["status"]) == ("k2", "t2", "f", "completed")
    assert found.keyed == {"a": "k3"}
    assert found.rows == {"t2"}


def test_decisions_and_answers_survive_as_they_were_given(tmp_path: Path) -> None:
    withdrawn: Record = ("approval", {"step": "a", "answer": ""})
    found = read(tmp_path / "r", [failed("k1", 1), ANSWER, failed("k1", 2, "abort")])
    assert [(one.verb, one.factors["attempt"]) for one in found.decisions] == [("retry", 1), ("abort", 2)]
    assert found.approvals == {"a": "approved by ada"}
    assert read(tmp_path / "r", [withdrawn]).approvals == {"a": ""}


def test_every_place_of_results_is_known_the_last_one_last(tmp_path: Path) -> None:
    began: list[Record] = [("begun", {"results_place": place}) for place in ("/a", "/b", "/a", "")]
    assert read(tmp_path / "r", began).places == ["/b", "/a"]


@given(st.lists(st.tuples(st.sets(st.sampled_from("abc"), min_size=1), st.integers(1, 9)), max_size=6))
def test_a_step_has_the_highest_generation_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, reruns: list[tuple[set[str], int]]
) -> None:
    records: list[Record] = [("rerun", {"steps": sorted(steps), "generation": count}) for steps, count in reruns]
    found = read(tmp_path_factory.mktemp("p") / "r", records)
    for name in "abc":
        assert found.generations.get(name, 0) == max([0, *(count for steps, count in reruns if name in steps)])


def test_a_damaged_line_costs_what_it_said_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "r"
    read(path, [failed("k1", 1), failed("k1", 2), ANSWER])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"k1", b"k9") + lines[2])
    found = past(path)
    assert len(found.decisions) == 1
    assert found.approvals == {"a": "approved by ada"}
