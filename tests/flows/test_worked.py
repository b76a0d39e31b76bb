"""The record of work that is done and not yet a result: which of them a resume may go on from."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows.going import Outcome
from workflowmaster.flows.journal import Journal
from workflowmaster.flows.worked import Worked, open_work

if TYPE_CHECKING:
    from pathlib import Path

DONE = Outcome(receipts=(), outputs={"n": "1"}, commit="c" * 40, findings=(), reason="", cause="")
WORKED = Worked(step="a", attempt=2, key="k", container="box", started=5.0, outcome=DONE)
FIELDS: dict[str, Any] = WORKED.model_dump(mode="json", exclude_defaults=True)


def written(folder: Path, *records: tuple[Any, dict[str, Any]]) -> Path:
    path = folder / "records.jsonl"
    with closing(Journal(path)) as journal:
        for kind, fields in records:
            journal.append(kind, **fields)
    return path


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert open_work(written(tmp_path, ("worked", FIELDS))) == {"a": WORKED}


@pytest.mark.parametrize(
    ("later", "left"),
    [
        (("result", {"step": "a", "result": {}}), {}),
        (("go", {"step": "a", "purpose": "check"}), {}),
        (("go", {"step": "a", "purpose": "work"}), {}),
        (("go", {"step": "b", "purpose": "work"}), {"a": WORKED}),
        (("decision", {"step": "a", "verb": "retry", "key": "k"}), {}),
        (("ended", {"container": "box"}), {"a": WORKED}),
        (("worked", {**FIELDS, "attempt": 3}), {"a": WORKED.model_copy(update={"attempt": 3})}),
        (("worked", {"step": "a", "of": "another version"}), {}),
    ],
    ids=[
        "result",
        "its-check",
        "another-attempt",
        "another-step",
        "its-check-failed",
        "its-container-is-gone",
        "again",
        "strange",
    ],
)
def test_what_came_later_counts(later: tuple[Any, dict[str, Any]], left: dict[str, Worked], tmp_path: Path) -> None:
    assert open_work(written(tmp_path, ("worked", FIELDS), later)) == left


def test_without_records_there_is_nothing(tmp_path: Path) -> None:
    assert open_work(tmp_path / "none") == {}


def test_receipts_travel_along(tmp_path: Path) -> None:
    receipt = Receipt(
        container_id="i", container_name="n", image_id="sha256:0", policy="standard", command=("sh",), exit_code=0
    )
    record = WORKED.model_copy(update={"outcome": DONE.model_copy(update={"receipts": (receipt,)})})
    fields = record.model_dump(mode="json", exclude_defaults=True)
    assert open_work(written(tmp_path, ("worked", fields)))["a"].outcome.receipts == (receipt,)
