"""Which unfinished run `run` finds for a prompt and a directory, and which it leaves alone."""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import folders, offering
from workflowmaster.flows.asking import BadOption, Options, plan_of
from workflowmaster.flows.claim import take
from workflowmaster.flows.journey import Record
from workflowmaster.flows.settings import Settings
from workflowmaster.flows.state import WorkflowState

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflowmaster.flows.folders import Folder

TEXT = "# One\n\n## Steps\n\n### a\n```sh\ntrue\n```\n"


@pytest.fixture
def asked(home: Path, tmp_path: Path) -> Options:
    """What is asked for: a prompt and a directory. `home` is made empty by that fixture."""
    (tmp_path / "work").mkdir()
    (tmp_path / "p.md").write_text(TEXT)
    return Options(prompt=str(tmp_path / "p.md"), workspace=str(tmp_path / "work"))


@pytest.fixture
def keep(asked: Options) -> Callable[..., Folder]:
    """Keep a run as it would be after ending with a status; a later call is a newer run."""
    made: list[Folder] = []

    def one(status: str = "failed", **changes: Any) -> Folder:
        options = asked.model_copy(update=changes)
        plan = plan_of(asked, Settings())
        folder = folders.create(f"task-20260101-0000{len(made):02}-00000000")
        source = str(Path(options.prompt).resolve())
        record = Record(workflow_id=folder.id, options=options, source=source, workflow_hash="h", images={})
        folder.record.write_text(record.model_dump_json())
        folder.plan_file.write_text(plan.model_dump_json())
        folder.prompt.write_text(TEXT)
        state = WorkflowState(workflow_id=folder.id, plan=plan).model_copy(update={"status": status})
        folder.state_file.write_text(state.model_dump_json())
        made.append(folder)
        return folder

    return one


def given(**words: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"resume": None, "new": False, "json": False, **words})


def test_nothing_is_offered_where_nothing_is(asked: Options, capsys: pytest.CaptureFixture[str]) -> None:
    assert offering.chosen(given(), asked) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("status", ["failed", "partial", "aborted", "waiting", "paused", "running"])
def test_an_unfinished_run_is_told_of_where_nobody_can_be_asked(
    status: str, asked: Options, keep: Callable[..., Folder], capsys: pytest.CaptureFixture[str]
) -> None:
    keep("failed")
    newest = keep(status)
    assert offering.chosen(given(), asked) is None
    assert capsys.readouterr().err.endswith(f"go on with it: workflowmaster resume {newest.id}\n")
    assert offering.chosen(given(new=True), asked) is None
    assert capsys.readouterr().err == ""


def test_a_run_to_the_end_closes_the_matter(
    asked: Options, keep: Callable[..., Folder], capsys: pytest.CaptureFixture[str]
) -> None:
    keep("failed")
    done = keep("completed")
    assert offering.chosen(given(), asked) is None
    assert capsys.readouterr().err == ""
    # Asked for, it is gone on with all the same: its prompt may have been edited since.
    assert offering.chosen(given(resume=offering.NEWEST), asked) == done


@pytest.mark.parametrize("changes", [{"policy": "testing"}, {"agent": "other"}, {"include_dirty": True}])
def test_a_run_with_other_options_is_another_run(
    changes: dict[str, Any], asked: Options, keep: Callable[..., Folder], capsys: pytest.CaptureFixture[str]
) -> None:
    keep("failed")
    assert offering.chosen(given(), asked.model_copy(update=changes)) is None
    assert capsys.readouterr().err == ""
    with pytest.raises(BadOption, match="a run keeps what it was begun with"):
        offering.chosen(given(resume=offering.NEWEST), asked.model_copy(update=changes))


def test_it_is_the_same_prompt_by_its_path_or_by_its_bytes(
    asked: Options, keep: Callable[..., Folder], tmp_path: Path
) -> None:
    kept = keep("failed")
    copy = tmp_path / "copy.md"
    copy.write_text(TEXT)
    assert offering.newest(asked.model_copy(update={"prompt": str(copy)})) == kept
    copy.write_text(TEXT + "\nMore.\n")
    assert offering.newest(asked.model_copy(update={"prompt": str(copy)})) is None
    Path(asked.prompt).write_text(TEXT + "\nMore.\n")
    assert offering.newest(asked) == kept


def test_one_that_is_worked_on_is_not_offered(
    asked: Options, keep: Callable[..., Folder], capsys: pytest.CaptureFixture[str]
) -> None:
    living = keep("running")
    with take(living):
        assert offering.chosen(given(), asked) is None
    assert f"{living.id} is running this prompt here already" in capsys.readouterr().err


@pytest.mark.parametrize(("said", "goes_on"), [("\n", True), ("y\n", True), ("n\n", False), ("", False)])
def test_a_person_is_asked(
    said: str, goes_on: bool, asked: Options, keep: Callable[..., Folder], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    unfinished, screen = keep("failed"), Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(said))
    monkeypatch.setattr("sys.stderr", screen)
    assert offering.chosen(given(), asked) == (unfinished if goes_on else None)
    assert screen.getvalue().endswith("Go on with it? [Y/n] ")


def test_an_id_is_held_against_prompt_and_place(asked: Options, keep: Callable[..., Folder], tmp_path: Path) -> None:
    kept = keep("failed")
    assert offering.chosen(given(resume=kept.id), asked) == kept
    other = tmp_path / "other.md"
    other.write_text("# Other\n")
    with pytest.raises(BadOption, match=rf"that is a run of {asked.prompt}, not of {other}"):
        offering.chosen(given(resume=kept.id), asked.model_copy(update={"prompt": str(other)}))
    with pytest.raises(BadOption, match=f"works on {asked.workspace}, not on {tmp_path}"):
        offering.chosen(given(resume=kept.id), asked.model_copy(update={"workspace": str(tmp_path)}))


def test_a_damaged_run_stands_in_nobodys_way(asked: Options, keep: Callable[..., Folder]) -> None:
    older, damaged = keep("failed"), keep("failed")
    damaged.record.write_bytes(damaged.record.read_bytes()[:-40])
    assert offering.newest(asked) == older


def test_a_thousand_runs_elsewhere_cost_a_moment(asked: Options, keep: Callable[..., Folder], tmp_path: Path) -> None:
    mine = keep("failed")
    body = mine.record.read_text().replace(asked.workspace, str(tmp_path / "elsewhere"))
    for n in range(1000):
        place = folders.workflows() / f"task-20270101-000000-{n:08x}"
        place.mkdir()
        (place / "run.json").write_text(body)
        (place / "state.json").write_text("{}")
    began = time.process_time()
    assert offering.newest(asked) == mine
    assert time.process_time() - began < 1.0
