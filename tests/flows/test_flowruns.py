"""Which workflow a flow run goes on with, and what is kept of the server it is on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from workflowmaster.flows import flowruns, folders, serving
from workflowmaster.flows.asking import Options
from workflowmaster.flows.folders import Folder, UnknownWorkflow
from workflowmaster.flows.journey import Record

if TYPE_CHECKING:
    from collections.abc import Callable

FLOW_RUN = "7d0f3a52-9d0e-4b43-8c65-0d7a3c2b1f00"


@pytest.fixture
def keep(home: Path) -> Callable[..., Folder]:
    """Keep the record of a run. `home` is made empty by that fixture."""

    def one(number: int, flow_run: str = "", prompt: str = "p.md") -> Folder:
        folder = folders.create(f"task-20260101-000000-{number:08x}")
        known = {"workflow_id": folder.id, "workflow_hash": "h", "images": {}, "flow_run_id": flow_run}
        record = Record.model_validate({**known, "options": Options(prompt=prompt)})
        folder.record.write_text(record.model_dump_json())
        folder.state_file.write_text("{}")
        return folder

    return one


def test_a_flow_run_finds_its_own_workflow_and_no_other(keep: Callable[..., Folder]) -> None:
    keep(1, "00000000-0000-0000-0000-000000000000")
    own = keep(2, FLOW_RUN)
    # Its id in another place of a record is no claim to it.
    keep(3, "", prompt=FLOW_RUN)
    assert flowruns.workflow_of(FLOW_RUN) == own
    assert flowruns.workflow_of("11111111-1111-1111-1111-111111111111") is None


def test_it_is_found_among_a_thousand_in_a_moment(keep: Callable[..., Folder]) -> None:
    own = keep(0, FLOW_RUN)
    for number in range(1, 1001):
        keep(number, f"00000000-0000-0000-0000-{number:012x}")
    began = time.process_time()
    assert flowruns.workflow_of(FLOW_RUN) == own
    assert time.process_time() - began < 0.5


def test_a_workflow_that_is_named_must_be_there_and_be_named_whole(keep: Callable[..., Folder]) -> None:
    folder = keep(1)
    with pytest.raises(UnknownWorkflow, match=f"give the whole id, which may be {folder.id}"):
        flowruns.opened("latest", lambda: pytest.fail("it began anew"))
    with pytest.raises(UnknownWorkflow, match="no such workflow"):
        flowruns.opened("task-20990101-000000-00000000", lambda: pytest.fail("it began anew"))


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("", ""),
        ("http://127.0.0.1:4200/api", "http://127.0.0.1:4200/api"),
        ("https://ada:secret@prefect.example/api", "https://prefect.example/api"),
    ],
)
@pytest.mark.usefixtures("home")
def test_no_password_is_kept_of_a_servers_address(url: str, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert serving.lives_on() == kept


@pytest.mark.usefixtures("home")
def test_results_stay_where_a_run_has_kept_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", "x")
    monkeypatch.delenv("PREFECT_LOCAL_STORAGE_PATH")
    serving.keep_results_in(str(tmp_path / "gone"))
    assert "PREFECT_LOCAL_STORAGE_PATH" not in os.environ
    serving.keep_results_in(str(tmp_path))
    assert os.environ["PREFECT_LOCAL_STORAGE_PATH"] == str(tmp_path)
    serving.keep_results_in(str(tmp_path.parent))
    assert os.environ["PREFECT_LOCAL_STORAGE_PATH"] == str(tmp_path), "what was said before holds"
