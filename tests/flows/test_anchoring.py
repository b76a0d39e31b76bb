"""Anchors: what keeps checkpoints elsewhere, and what may be named as one."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from workflowmaster.flows.anchoring import FolderAnchor, made
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.auditfiles import records
from workflowmaster.flows.sealing import Sealing, checkpoint_path
from workflowmaster.flows.settings import SettingsError, load
from workflowmaster.flows.verifying import examine

WITNESS = """
class Witness:
    there = {}
    def keep(self, workflow, epoch, checkpoint):
        self.there.setdefault(workflow, {})[epoch] = checkpoint
    def kept(self, workflow):
        return self.there.get(workflow, {})
"""


def write(path: Path, *anchors: str) -> Sealing:
    how = replace(Sealing.of(path), anchors=anchors)
    log = AuditLog(path, how)
    log.append("workflow.finished", status="completed")
    log.close()
    return how


def test_a_folder_keeps_every_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    how = write(path, f"folder:{tmp_path}/mine", f"folder:{tmp_path}/other")
    write(path, *how.anchors)
    for place in ("mine", "other"):
        kept = FolderAnchor(tmp_path / place).kept(tmp_path.name)
        assert kept == {epoch: checkpoint_path(path, epoch).read_bytes() for epoch in (0, 1)}
    said = examine(path, how, ended=True).anchors
    assert [said[f"folder:{tmp_path}/{place}"] for place in ("mine", "other")] == ["agrees on 2 of 2 checkpoints"] * 2


def test_a_folder_never_gives_a_checkpoint_up_for_another(tmp_path: Path) -> None:
    anchor = FolderAnchor(tmp_path)
    anchor.keep("task-a", 3, b"one")
    anchor.keep("task-a", 3, b"one")
    with pytest.raises(FileExistsError, match="another checkpoint of the same epoch"):
        anchor.keep("task-a", 3, b"two")
    assert anchor.kept("task-a") == {3: b"one"}
    assert anchor.kept("task-b") == {}


@pytest.mark.parametrize("why", ["it is a file", "there is no such class"])
def test_an_anchor_that_fails_is_told_and_the_run_goes_on(tmp_path: Path, why: str) -> None:
    (tmp_path / "file").touch()
    spec = f"folder:{tmp_path}/file" if why == "it is a file" else "hypothesis:NoSuchThing"
    path = tmp_path / "audit.jsonl"
    how = write(path, spec)
    failed = [record for record in records(path) if record["event"] == "anchor.failed"]
    assert [(record["anchor"], record["checkpoint"]) for record in failed] == [(spec, 0)]
    verdict = examine(path, how, ended=True)
    assert verdict.holds
    assert why == "it is a file" or verdict.anchors[spec].startswith("cannot be asked: ")


def test_a_class_of_an_installed_package_can_be_one(tmp_path: Path) -> None:
    module = Path(sysconfig.get_path("purelib")) / "wm_anchor_of_a_test.py"
    module.write_text(WITNESS)
    try:
        how = write(tmp_path / "audit.jsonl", "wm_anchor_of_a_test:Witness")
        said = examine(tmp_path / "audit.jsonl", how, ended=True).anchors
        assert said["wm_anchor_of_a_test:Witness"] == "agrees on 1 of 1 checkpoints"
    finally:
        module.unlink()


def test_a_module_of_the_working_directory_is_never_imported(tmp_path: Path) -> None:
    (tmp_path / "witness.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n{WITNESS}")
    code = "from workflowmaster.flows.anchoring import made; made('witness:Witness')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "witness is no package installed in" in done.stderr
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("spec", ["no_such_module_at_all:Witness", "json:JSONDecoder", "sys:path"])
def test_what_is_no_installed_package_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="is no package installed"):
        made(spec)


@pytest.mark.parametrize("words", ["folder", "folder:", ":x", "/mnt/witness"])
def test_a_word_that_names_no_anchor_is_a_bad_setting(home: Path, words: str) -> None:
    with pytest.raises(SettingsError, match="is no anchor"):
        load(audit_anchors=words)
