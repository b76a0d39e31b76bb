"""Retention: whole files go when their time has come, their checkpoints stay, and the rest still holds."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import auditkeeping, folders
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.auditfiles import rotated
from workflowmaster.flows.auditkeeping import DAY, drop
from workflowmaster.flows.claim import NeedsPerson, take
from workflowmaster.flows.sealing import Sealing, checkpoint_path, dropped_path
from workflowmaster.flows.settings import Settings, load
from workflowmaster.flows.verifying import examine

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflowmaster.flows.folders import Folder


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


@pytest.fixture
def make(home: Path, settings: Settings, shapes: dict[str, Callable[[], Any]]) -> Callable[..., Folder]:
    def made(status: str = "completed") -> Folder:
        folder = folders.create("task-old")
        state = shapes["single"]().model_copy(update={"workflow_id": folder.id, "status": status, "commit": ""})
        folder.state_file.write_text(state.model_dump_json())
        log = AuditLog(folder.audit, replace(Sealing.of(folder.audit, settings), most_bytes=2000))
        for number in range(20):
            log.append("network.attempt", number=number)
        if status != "running":
            log.append("workflow.finished", status=status)
        log.close()
        return folder

    return made


def age(*paths: Path, days: float = 91) -> None:
    for path in paths:
        os.utime(path, (time.time() - days * DAY,) * 2)


def verdict(folder: Folder, *, ended: bool = True) -> Any:
    return examine(folder.audit, Sealing.of(folder.audit), ended=ended)


def test_what_is_young_stays(make: Callable[..., Folder], settings: Settings) -> None:
    folder = make()
    age(*rotated(folder.audit), folder.audit, days=89)
    before = folder.audit.read_bytes()
    assert drop(folder, settings) == ()
    assert folder.audit.read_bytes() == before


def test_full_files_go_the_oldest_first(make: Callable[..., Folder], settings: Settings) -> None:
    folder = make("running")
    full = rotated(folder.audit)
    age(full[0])
    records = verdict(folder, ended=False).records
    assert drop(folder, settings) == (full[0].name,)
    assert not full[0].exists()
    found = verdict(folder, ended=False)
    assert (found.holds, found.records) == (True, records + 1), found.reason
    assert 0 < found.dropped < found.records
    age(*full[1:])
    assert drop(folder, settings) == tuple(path.name for path in full[1:])
    assert verdict(folder, ended=False).holds


def test_of_a_run_that_has_ended_all_goes_and_it_still_holds(make: Callable[..., Folder], settings: Settings) -> None:
    folder = make()
    records = verdict(folder).records
    age(*rotated(folder.audit), folder.audit)
    drop(folder, settings)
    assert not list(folder.path.glob("audit*.jsonl"))
    found = verdict(folder)
    assert (found.holds, found.records, found.dropped) == (True, records + 1, records + 1), found.reason


def test_a_run_can_go_on_after_its_log_was_dropped(make: Callable[..., Folder], settings: Settings) -> None:
    folder = make()
    age(*rotated(folder.audit), folder.audit)
    gone = drop(folder, settings)
    log = AuditLog(folder.audit, replace(Sealing.of(folder.audit, settings), most_bytes=500))
    for _ in range(5):
        log.append("approval", step="x", answer="approved by ada")
    log.append("workflow.finished", status="completed")
    log.close()
    found = verdict(folder)
    assert found.holds, found.reason
    assert not {path.name for path in rotated(folder.audit)} & set(gone), "a name is never given twice"


def test_killed_before_the_files_went(make: Callable[..., Folder], settings: Settings, monkeypatch: Any) -> None:
    folder = make()
    age(*rotated(folder.audit), folder.audit)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    drop(folder, settings)
    monkeypatch.undo()
    assert rotated(folder.audit)
    assert verdict(folder).holds, verdict(folder).reason


@pytest.mark.parametrize("which", ["its checkpoint", "the statement"])
def test_files_that_just_vanish_are_no_retention(make: Callable[..., Folder], settings: Settings, which: str) -> None:
    folder = make()
    age(*rotated(folder.audit), folder.audit)
    drop(folder, settings)
    (
        dropped_path(folder.audit)
        if which == "the statement"
        else max(checkpoint_path(folder.audit, 0).parent.glob("0*"))
    ).unlink()
    assert not verdict(folder).holds


def test_what_is_worked_on_is_left_alone(make: Callable[..., Folder], settings: Settings) -> None:
    folder = make()
    age(folder.audit, *rotated(folder.audit))
    with take(folder):
        with pytest.raises(NeedsPerson):
            drop(folder, settings)
        assert auditkeeping.drop_all(settings) == ([], [])


def test_without_signing_nothing_is_dropped(make: Callable[..., Folder], settings: Settings) -> None:
    folder = make()
    age(folder.audit, *rotated(folder.audit))
    assert drop(folder, settings.model_copy(update={"audit_enabled": False})) == ()


def test_a_log_that_cannot_be_judged_is_told_and_stays(make: Callable[..., Folder], settings: Settings) -> None:
    folder = make()
    age(folder.audit, *rotated(folder.audit))
    folder.audit.with_suffix(".key").write_bytes(b"")
    gone, trouble = auditkeeping.drop_all(settings)
    assert (gone, len(trouble)) == ([], 1)
    assert "task-old" in trouble[0]
    assert folder.audit.exists()
