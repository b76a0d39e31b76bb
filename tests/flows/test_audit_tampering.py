"""Every kind of tampering is found, and the first record that does not hold is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks import keypair
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.auditfiles import rotated
from workflowmaster.flows.auditkeys import key_path
from workflowmaster.flows.auditline import Frame, composed, parsed
from workflowmaster.flows.sealing import Checkpoint, Sealing, checkpoint_path, read_signed, write_signed
from workflowmaster.flows.verifying import Verdict, examine

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 6


def write(folder: Path, *, ended: bool = True, **how: int) -> Path:
    path = folder / "audit.jsonl"
    audit = AuditLog(path, replace(Sealing.of(path), **how))
    audit.append("workflow.started", workflow=folder.name)
    for step in range(STEPS):
        audit.append("step.finished", step=str(step), reason="it said “no”", findings=[{"control": "network"}])
    if ended:
        audit.append("workflow.finished", status="completed")
    audit.close()
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "task-a").mkdir()
    return write(tmp_path / "task-a")


def judged(path: Path, *, ended: bool = True) -> Verdict:
    return examine(path, Sealing.of(path), ended=ended)


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def remade(line: bytes, **changes: str) -> bytes:
    """A record edited by somebody who makes its hash anew but has no key."""
    record = json.loads(line)
    frame = parsed(line)
    assert frame
    fields = {k: v for k, v in record.items() if k not in ("seq", "epoch", "ts", "pid", "event", "prev", "hash", "mac")}
    made, _ = composed(
        Frame(frame.seq, frame.epoch, b"?" * 32, frame.prev), record["ts"], record["event"], fields | changes
    )
    return made


@pytest.mark.parametrize(
    "field", ["seq", "epoch", "ts", "pid", "event", "step", "reason", "findings", "prev", "hash", "mac"]
)
def test_an_edit_of_any_field_is_found(log: Path, field: str) -> None:
    at = lines_of(log)
    record = json.loads(at[3])
    value = record[field]
    other = (
        value + 1 if isinstance(value, (int, float)) else f"{value[1:]}{value[:1]}x" if isinstance(value, str) else []
    )
    text = at[3].replace(
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(),
        json.dumps(other, ensure_ascii=False, separators=(",", ":")).encode(),
    )
    if field == "ts":
        text = at[3].replace(b'"ts":1', b'"ts":2')
    assert text != at[3]
    log.write_bytes(b"".join([*at[:3], text, *at[4:]]))
    assert (judged(log).holds, judged(log).first_bad) == (False, 3)


TAMPERING: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int]] = {
    "a field is added": (lambda at: [*at[:2], at[2].replace(b'"reason"', b'"extra":1,"reason"'), *at[3:]], 2),
    "a field is removed": (lambda at: [*at[:2], at[2].replace(b',"step":"1"', b""), *at[3:]], 2),
    "an edit with its hash made anew": (lambda at: [*at[:2], remade(at[2], step="x"), *at[3:]], 2),
    "the hash is stripped": (lambda at: [*at[:2], at[2][:-150] + b"}\n", *at[3:]], 2),
    "the mac is stripped": (lambda at: [*at[:2], at[2][:-75] + b"}\n", *at[3:]], 2),
    "the seal is stripped": (lambda at: [*at[:-1], at[-1].replace(b'"seal"', b'"leas"')], STEPS + 1),
    "a record is deleted": (lambda at: [*at[:2], *at[3:]], 2),
    "the first is deleted": (lambda at: at[1:], 0),
    "two are swapped": (lambda at: [at[0], at[2], at[1], *at[3:]], 1),
    "one is written twice": (lambda at: [*at[:3], at[2], *at[3:]], 3),
    "one is put in": (lambda at: [*at[:2], remade(at[1]), *at[2:]], 2),
    "a line is no record": (lambda at: [*at[:2], b"not json\n", *at[2:]], 2),
    "an empty line": (lambda at: [*at[:2], b"\n", *at[2:]], 2),
    "JSON that is no record": (lambda at: [*at[:2], b"[]\n", *at[2:]], 2),
    "the last is cut off": (lambda at: at[:-1], STEPS + 1),
    "half of it is cut off": (lambda at: at[:4], 4),
    "it is emptied": (lambda at: [], 0),
}


@pytest.mark.parametrize(("change", "record"), TAMPERING.values(), ids=TAMPERING)
@pytest.mark.parametrize("ended", [True, False], ids=["of an ended run", "of a killed one"])
def test_tampering_is_found_and_named(
    tmp_path: Path, change: Callable[..., list[bytes]], record: int, ended: bool
) -> None:
    (tmp_path / "task-a").mkdir()
    log = write(tmp_path / "task-a", ended=ended)
    at = lines_of(log)
    if not ended and record == STEPS + 1:
        record = STEPS
    changed = b"".join(change(at))
    if changed == log.read_bytes():
        pytest.skip("a killed run's log has no seal")
    log.write_bytes(changed)
    verdict = judged(log, ended=ended)
    assert (verdict.holds, verdict.first_bad) == (False, record), verdict.reason
    assert f"record {record if 'after' not in verdict.reason else record - 1}" in verdict.reason


def test_a_log_that_is_gone_is_found(log: Path) -> None:
    log.unlink()
    assert (judged(log).holds, judged(log).first_bad) == (False, 0)


def test_a_killed_run_is_intact_and_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "task-a").mkdir()
    log = write(tmp_path / "task-a", ended=False)
    verdict = judged(log, ended=False)
    assert (verdict.holds, verdict.finished, verdict.records) == (True, False, STEPS + 1)


def test_a_run_that_has_ended_without_saying_so_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "task-a").mkdir()
    assert "its log does not say so" in judged(write(tmp_path / "task-a", ended=False)).reason


class TestTwoLogs:
    @pytest.fixture
    def other(self, tmp_path: Path, log: Path) -> Path:
        (tmp_path / "task-b").mkdir()
        return write(tmp_path / "task-b")

    def test_the_files_of_two_workflows_are_swapped(self, log: Path, other: Path) -> None:
        log.write_bytes(other.read_bytes())
        assert (judged(log).holds, judged(log).first_bad) == (False, 0)

    def test_with_their_keys_too(self, log: Path, other: Path) -> None:
        for path in (log, key_path(log)):
            path.write_bytes((other.parent / path.name).read_bytes())
        assert "does not come from the seed" in judged(log).reason

    def test_with_everything_and_only_the_name_is_another(self, log: Path, other: Path) -> None:
        shutil.rmtree(log.parent)
        shutil.copytree(other.parent, log.parent)
        (log.parent / "audit.seeds/task-b").rename(log.parent / "audit.seeds/task-a")
        assert "does not follow" in judged(log).reason

    def test_a_checkpoint_of_the_other_is_no_checkpoint(self, log: Path, other: Path) -> None:
        shutil.copy(checkpoint_path(other, 0), checkpoint_path(log, 0))
        assert not judged(log).holds


def test_two_full_files_are_swapped(tmp_path: Path) -> None:
    (tmp_path / "task-a").mkdir()
    log = write(tmp_path / "task-a", most_bytes=500)
    first, second = rotated(log)[:2]
    count = len(lines_of(first))
    texts = first.read_bytes(), second.read_bytes()
    first.write_bytes(texts[1])
    second.write_bytes(texts[0])
    assert judged(log).first_bad == 0
    first.write_bytes(texts[0])
    second.unlink()
    assert judged(log).first_bad == count


class TestCheckpoints:
    def test_one_is_stripped(self, log: Path) -> None:
        checkpoint_path(log, 0).unlink()
        assert "checkpoint of epoch 0 is missing" in judged(log).reason
        assert not judged(log, ended=False).holds

    def test_one_is_edited(self, log: Path) -> None:
        path = checkpoint_path(log, 0)
        path.write_bytes(path.read_bytes().replace(b'"count":8', b'"count":7'))
        assert "was changed after it was signed" in judged(log).reason

    def test_one_is_forged_with_another_key(self, log: Path, tmp_path: Path) -> None:
        statement = read_signed(checkpoint_path(log, 0)).statement
        forger = replace(Sealing.of(log), signing_key=tmp_path / "forger.key")
        write_signed(checkpoint_path(log, 0), statement, forger)
        assert "another key than the log names" in judged(log).reason

    def test_one_says_something_else_and_is_signed_well(self, log: Path) -> None:
        statement = read_signed(checkpoint_path(log, 0)).statement
        assert isinstance(statement, Checkpoint)
        write_signed(checkpoint_path(log, 0), statement.model_copy(update={"head": "0" * 64}), Sealing.of(log))
        assert "does not agree with the log: head" in judged(log).reason

    def test_it_is_no_json(self, log: Path) -> None:
        checkpoint_path(log, 0).write_text("{")
        assert "not a signed statement" in judged(log).reason

    def test_the_key_of_another_machine_holds_where_it_is_trusted(self, log: Path) -> None:
        here = Sealing.of(log)
        key = keypair.public(here.signing_key)
        here.signing_key.unlink()
        assert "neither this machine's key nor" in judged(log).reason
        assert examine(log, replace(here, trusted=(key,)), ended=True).holds


class TestAnOlderCopy:
    @pytest.fixture
    def older(self, log: Path, tmp_path: Path) -> Path:
        """The log's folder, as it was one epoch ago, but for what lies elsewhere."""
        copy = tmp_path / "copy"
        shutil.copytree(log.parent, copy, ignore=shutil.ignore_patterns("audit.seeds"))
        audit = AuditLog(log)
        audit.append("approval", step="x", answer="denied by ada")
        audit.append("workflow.finished", status="failed")
        audit.close()
        return copy

    def put_back(self, log: Path, older: Path) -> None:
        for path in log.parent.iterdir():
            if path.name != "audit.seeds":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(older, log.parent, dirs_exist_ok=True)

    def test_of_the_log_alone_is_found_by_its_key(self, log: Path, older: Path) -> None:
        shutil.copy(older / log.name, log)
        assert judged(log).first_bad == STEPS + 2

    def test_of_everything_is_found_by_the_seeds_folder(self, log: Path, older: Path) -> None:
        self.put_back(log, older)
        assert "remembers checkpoint 1; an older copy was put back" in judged(log).reason

    def test_of_everything_is_found_by_the_note_on_the_branch(self, log: Path, older: Path) -> None:
        note = checkpoint_path(log, 1).read_text()
        self.put_back(log, older)
        shutil.rmtree(log.parent / "audit.seeds/task-a/000001.json", ignore_errors=True)
        (log.parent / "audit.seeds/task-a/000001.json").unlink()
        assert judged(log).holds, "without an anchor nobody can tell"
        assert not examine(log, Sealing.of(log), ended=True, note=note).holds


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "task-a"
    folder.mkdir()
    return write(folder, every=4)


@given(data=st.data())
def test_no_byte_can_be_changed(whole: Path, data: st.DataObject) -> None:
    kept = whole.read_bytes()
    place = data.draw(st.integers(0, len(kept) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != kept[place]))
    found = tampered(whole, kept[:place] + bytes([byte]) + kept[place + 1 :])
    assert not found.holds
    assert found.first_bad == kept[:place].count(b"\n")


@given(data=st.data())
def test_no_line_can_be_deleted_doubled_or_moved(whole: Path, data: st.DataObject) -> None:
    at = lines_of(whole)
    order = data.draw(st.lists(st.integers(0, len(at) - 1), max_size=len(at) + 2))
    if order == list(range(len(at))):
        return
    found = tampered(whole, b"".join(at[one] for one in order))
    same = [one == place for place, one in enumerate(order)]
    assert not found.holds
    assert found.first_bad == (same.index(False) if False in same else len(order))


@given(size=st.integers(0, 10_000))
def test_no_end_can_be_cut_off(whole: Path, size: int) -> None:
    kept = whole.read_bytes()
    if size < len(kept):
        assert not tampered(whole, kept[:size]).holds


def tampered(log: Path, text: bytes) -> Verdict:
    kept = log.read_bytes()
    log.write_bytes(text)
    try:
        return judged(log)
    finally:
        log.write_bytes(kept)
