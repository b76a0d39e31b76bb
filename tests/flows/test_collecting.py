"""Named outputs and artifacts, from `/out` into a step's result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks.artifacts import Artifact
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.flows import collecting
from workflowmaster.flows.collecting import MOST_FINDINGS, few, listed, take_out
from workflowmaster.flows.folders import Folder, workflows
from workflowmaster.flows.plan import Source, Step, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflowmaster.blocks.artifacts import Taken


@pytest.fixture
def taken_out(tmp_path: Path) -> Callable[..., tuple[dict[str, str], Taken, str]]:
    """Take out what lies in `/out` for a step of these attributes."""
    exchange = Exchange(tmp_path / "x")
    (exchange.outward / "artifacts").mkdir(parents=True)

    def take(policy: str = "standard", *, files: dict[str, str], **step: Any) -> tuple[dict[str, str], Taken, str]:
        for name, text in files.items():
            (exchange.outward / name).write_text(text)
        request = SimpleNamespace(policy=policies.load(policy), user="0:0")
        parked: Any = SimpleNamespace(
            container=SimpleNamespace(request=request, shares_files=False), exchange=exchange, fetch=lambda *_: None
        )
        journey: Any = SimpleNamespace(folder=Folder(tmp_path / "run"), secrets=SimpleNamespace(screen=lambda _: None))
        given = Step(id="build", name="build", kind="command", source=Source(line=1, end_line=1), **step)
        return take_out(journey, parked, given)

    return take


def test_outputs_and_artifacts_come_together(taken_out: Callable[..., Any], tmp_path: Path) -> None:
    outputs, taken, fault = taken_out(files={"outputs": "a=1\n", "artifacts/x": "ok"}, outputs=("a",), artifacts=("x",))
    assert (outputs, [one.name for one in taken.artifacts], fault) == ({"a": "1"}, ["x"], "")
    assert (tmp_path / "run/artifacts/build/x").read_text() == "ok"


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"outputs": "b=1\n"}, "it did not write a to $WM_OUTPUT, as its outputs promise"),
        ({"outputs": "a=1\n"}, "it left no x, y/*.txt in /out/artifacts, as its artifacts promise"),
        ({"outputs": "nonsense\n", "artifacts/x": ""}, "line 1 of $WM_OUTPUT is 'nonsense'; expected name=value"),
    ],
)
def test_a_broken_promise_is_a_fault(taken_out: Callable[..., Any], files: dict[str, str], fault: str) -> None:
    assert taken_out(files=files, outputs=("a",), artifacts=("x", "y/*.txt"))[2] == fault


def test_artifacts_come_even_where_the_outputs_cannot_be_read(taken_out: Callable[..., Any]) -> None:
    outputs, taken, fault = taken_out(files={"outputs": "nonsense\n", "artifacts/x": "ok"})
    assert outputs == {}
    assert fault
    assert [one.name for one in taken.artifacts] == ["x"]


@pytest.mark.parametrize(("policy", "most"), [("paranoid", 64 << 20), ("hardened", 512 << 20), ("standard", 4 << 30)])
def test_the_smaller_of_the_policys_caps_counts(policy: str, most: int) -> None:
    parked: Any = SimpleNamespace(container=SimpleNamespace(request=SimpleNamespace(policy=policies.load(policy))))
    assert collecting.most_out(parked) == most


def test_a_result_keeps_few_findings_and_counts_the_rest() -> None:
    assert few(map(str, range(MOST_FINDINGS))) == tuple(map(str, range(MOST_FINDINGS)))
    many = few(f"line {n}" for n in range(100_000))
    assert len(many) == MOST_FINDINGS + 1
    assert many[-1] == "… and 99,900 more findings"


@pytest.mark.parametrize("made_by", ["", "task-other"])
def test_the_answer_says_where_the_files_lie(made_by: str) -> None:
    result = StepResult(
        step="tests/3.11",
        status="completed",
        key="k",
        workflow=made_by,
        artifacts=(Artifact(name="a/b.txt", bytes=3, sha256="00"),),
    )
    (one,) = listed(result, "task-own")
    assert one["path"].startswith(str(workflows() / (made_by or "task-own") / "artifacts"))
    assert one["path"].endswith("/a/b.txt")
    assert (one["name"], one["bytes"], one["sha256"]) == ("a/b.txt", 3, "00")
