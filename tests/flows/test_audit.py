"""The audit log as it is written: one chain, keys that ratchet, checkpoints, files that fill up, what killed writers leave."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workflowmaster.flows import auditkeys
from workflowmaster.flows.audit import AuditLog, insist
from workflowmaster.flows.auditfiles import PLAIN_GENESIS, records, rotated
from workflowmaster.flows.auditkeys import AuditBroken, key_at, key_path, look, read_seed
from workflowmaster.flows.auditline import RESERVED, genesis, mac, parsed
from workflowmaster.flows.plan import canonical
from workflowmaster.flows.sealing import Checkpoint, Sealing, checkpoint_path, read_signed
from workflowmaster.flows.verifying import examine, verify

STEPS = ("one", "two", "three")


def sealing(path: Path, **changes: Any) -> Sealing:
    return replace(Sealing.of(path), **changes)


def events(path: Path) -> list[str]:
    return [record["event"] for record in records(path)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path)
    audit.append("workflow.started", workflow="task-1")
    for step in STEPS:
        audit.append("step.finished", step=step, reason="“quoted” \n line", seconds=0.1)
    audit.append("workflow.finished", status="completed")
    audit.close()
    return path


def test_an_untouched_log_holds(log: Path) -> None:
    assert verify(log, ended=True) == 5
    found = list(records(log))
    assert [record["seq"] for record in found] == [0, 1, 2, 3, 4]
    assert found[0]["prev"] == genesis(log.parent.name)
    assert [record["prev"] for record in found[1:]] == [record["hash"] for record in found[:-1]]
    assert {record["pid"] for record in found} == {os.getpid()}


def test_nobody_else_can_read_what_belongs_to_it(log: Path) -> None:
    private = [log, key_path(log), Sealing.of(log).seeds / "seed", Sealing.of(log).signing_key]
    assert [path.stat().st_mode & 0o777 for path in private] == [0o600] * 4
    assert Sealing.of(log).seeds.stat().st_mode & 0o777 == 0o700


def test_every_line_is_json_with_the_frame_around_its_fields(log: Path) -> None:
    for line in log.read_bytes().splitlines(keepends=True):
        assert list(json.loads(line))[:5] == ["seq", "epoch", "ts", "pid", "event"]
        assert list(json.loads(line))[-3:] == ["prev", "hash", "mac"]
        assert parsed(line) is not None


def test_a_field_cannot_pass_for_a_part_of_the_frame(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.jsonl")
    for name in RESERVED - {"event"}:
        with pytest.raises(ValueError, match=f"an event has no field {name}"):
            audit.append("swept", **{name: 1})
    audit.append("swept", deep={"seal": "AAAA", "mac": "x"}, text='","seal":"AAAA","prev":"')
    audit.close()
    assert verify(audit.path) == 1
    assert examine(audit.path, Sealing.of(audit.path)).checkpoints == 0


@pytest.mark.parametrize("text", ["\udcff.txt", "\u2028\u2029", "\x00\x1f", "🙂", '"\\', "\n\r"])
def test_any_text_can_be_written_and_read_back(tmp_path: Path, text: str) -> None:
    audit = AuditLog(tmp_path / "audit.jsonl")
    audit.append("swept", text=text)
    audit.close()
    assert next(records(audit.path))["text"] == text
    assert verify(audit.path) == 1


def test_the_key_goes_one_way_and_the_old_one_is_gone(log: Path) -> None:
    seed = read_seed(Sealing.of(log).seeds)
    assert look(key_path(log)).key == key_at(seed, 1)
    everything = b"".join(path.read_bytes() for path in log.parent.rglob("*") if path.is_file() and path.name != "seed")
    assert key_at(seed, 0).hex().encode() not in everything
    assert seed.hex().encode() not in everything


def test_a_run_that_goes_on_has_an_epoch_more(log: Path) -> None:
    audit = AuditLog(log)
    audit.append("approval", step="one", answer="approved by ada")
    audit.append("workflow.finished", status="completed")
    audit.close()
    assert [record["epoch"] for record in records(log)] == [0, 0, 0, 0, 0, 1, 1]
    first, second = (read_signed(checkpoint_path(log, epoch)).statement for epoch in (0, 1))
    assert isinstance(first, Checkpoint)
    assert isinstance(second, Checkpoint)
    assert (second.first, second.last, second.count) == (5, 6, 7)
    assert (first.previous, len(second.previous)) == ("", 64)
    assert verify(log, ended=True) == 7


def test_a_checkpoint_is_made_at_every_so_many_records(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, sealing(path, every=10))
    for number in range(35):
        audit.append("network.attempt", number=number)
    audit.close()
    verdict = examine(path, Sealing.of(path))
    assert (verdict.holds, verdict.records, verdict.checkpoints, verdict.pending) == (True, 35, 3, 0)
    assert not verdict.finished


def test_a_full_file_is_put_away_and_the_next_one_names_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, sealing(path, most_bytes=4000))
    for number in range(40):
        audit.append("network.attempt", number=number)
    audit.close()
    full = rotated(path)
    assert [one.name for one in full] == [f"audit.{n + 1:06}.jsonl" for n in range(len(full))]
    assert len(full) >= 2
    first = json.loads(path.read_bytes().splitlines()[0])
    last = json.loads(full[-1].read_bytes().splitlines()[-1])
    assert (first["event"], first["file"], first["size"]) == ("audit.rotated", full[-1].name, full[-1].stat().st_size)
    assert first["head"] == first["prev"] == last["hash"]
    assert verify(path) == 40 + len(full)
    assert len(list(records(path))) == 40 + len(full)


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_writer_that_was_killed_between_two_files_is_followed(tmp_path: Path, left: str) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, sealing(path, most_bytes=2000))
    while not (audit._tail.sealed and audit._tail.size > 2000):
        audit.append("network.attempt")
    audit.close()
    path.rename(path.with_name("audit.000001.jsonl"))
    if left == "an empty file":
        path.touch()
    assert examine(path, Sealing.of(path)).holds
    count = verify(path)
    again = AuditLog(path)
    again.append("swept")
    again.close()
    assert events(path)[-2:] == ["audit.rotated", "swept"]
    assert verify(path) == count + 2


def test_signing_can_be_off_and_the_chain_stays(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, sealing(path, enabled=False))
    audit.append("swept")
    audit.append("workflow.finished", status="completed")
    audit.close()
    assert not list(tmp_path.glob("audit.checkpoints/*"))
    assert not Sealing.of(path).signing_key.exists()
    verdict = examine(path, sealing(path, enabled=False), ended=True)
    assert (verdict.holds, verdict.records, verdict.checkpoints, verdict.unsigned) == (True, 2, 0, 1)
    path.write_bytes(path.read_bytes().replace(b'"completed"', b'"partial!!"'))
    assert examine(path, sealing(path, enabled=False)).first_bad == 1


def test_a_torn_tail_is_cut_off_and_written_down(log: Path) -> None:
    whole = log.read_bytes()
    AuditLog(log).close()
    with log.open("ab") as file:
        file.write(b'{"seq":5,"epo')
    verdict = examine(log, Sealing.of(log), ended=True)
    assert (verdict.holds, verdict.torn_bytes) == (True, 13)
    audit = AuditLog(log)
    audit.append("swept")
    audit.close()
    assert log.read_bytes().startswith(whole)
    torn = list(records(log))[5]
    assert (torn["event"], torn["bytes"]) == ("audit.torn_tail", 13)
    assert torn["sha256"] == hashlib.sha256(b'{"seq":5,"epo').hexdigest()
    assert verify(log) == 7


def test_a_damaged_last_record_stays_to_be_seen(log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b'"status":"completed"', b'"status":"compl\x00ted"'))
    audit = AuditLog(log)
    audit.append("swept")
    audit.append("workflow.finished", status="completed")
    audit.close()
    verdict = examine(log, Sealing.of(log), ended=True)
    assert (verdict.holds, verdict.first_bad) == (False, 4)


@pytest.mark.parametrize("cut", [1, 2, 4, 5])
def test_a_cut_end_cannot_be_hidden_by_writing_on(log: Path, cut: int) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-cut]))
    audit = AuditLog(log)
    audit.append("swept")
    audit.append("workflow.finished", status="completed")
    audit.close()
    verdict = examine(log, Sealing.of(log), ended=True)
    assert (verdict.holds, verdict.first_bad) == (False, 5 - cut)


def test_a_log_of_the_old_format_is_put_away_and_vouched_for(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(plain_log())
    assert verify(path, ended=True) == 2
    audit = AuditLog(path)
    audit.append("workflow.finished", status="completed")
    audit.close()
    assert events(path) == ["workflow.started", "workflow.finished", "audit.rotated", "workflow.finished"]
    assert verify(path, ended=True) == 2
    old = path.with_name("audit.000000.jsonl")
    old.write_bytes(plain_log(status="partial"))
    with pytest.raises(AuditBroken, match=r"audit.000000.jsonl is not the file it speaks of"):
        verify(path)


def plain_log(**fields: Any) -> bytes:
    lines, prev = [], PLAIN_GENESIS
    for seq, event in enumerate(("workflow.started", "workflow.finished")):
        body = {"seq": seq, "ts": 1.0, "event": event, "prev": prev, **fields}
        prev = hashlib.sha256(canonical(body)).hexdigest()
        lines.append(canonical({**body, "hash": prev}) + b"\n")
    return b"".join(lines)


def test_the_old_format_is_checked_by_its_own_rule(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(plain_log().replace(b'"ts":1.0', b'"ts":2.0'))
    verdict = examine(path, Sealing.of(path))
    assert (verdict.holds, verdict.first_bad, verdict.format) == (False, 0, 1)


DAMAGE = {
    "is empty": lambda path: path.write_bytes(b""),
    "cannot be read": lambda path: path.unlink(),
    "is damaged": lambda path: path.write_bytes(b"\x00" + path.read_bytes()[1:]),
    "damaged; put it back": lambda path: path.write_bytes(path.read_bytes()[:-9]),
}


@pytest.mark.parametrize(("message", "change"), DAMAGE.items(), ids=DAMAGE)
def test_a_missing_or_damaged_key_is_refused_and_nothing_is_written(log: Path, message: str, change: Any) -> None:
    change(key_path(log))
    kept = log.read_bytes()
    for refused in (lambda: insist(log, Sealing.of(log)), lambda: verify(log)):
        with pytest.raises(AuditBroken, match=message):
            refused()
    with pytest.raises(AuditBroken, match="Nothing was changed"):
        AuditLog(log)
    assert log.read_bytes() == kept
    assert key_path(log).exists() == (message != "cannot be read")


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-3])])
def test_a_missing_or_damaged_seed_is_one_clear_error(log: Path, change: Any) -> None:
    change(Sealing.of(log).seeds / auditkeys.SEED)
    with pytest.raises(AuditBroken, match=r"seed.*(cannot be read|is damaged)"):
        verify(log)


def test_a_seed_is_never_made_over_another(log: Path) -> None:
    for path in (log, key_path(log)):
        path.unlink()
    with pytest.raises(AuditBroken, match=r"audit\.key: the key of the audit log cannot be read"):
        AuditLog(log)
    with pytest.raises(AuditBroken, match="whose key is gone"):
        auditkeys.make_seed(Sealing.of(log).seeds)


def test_a_signing_key_that_others_can_read_is_refused_at_once(log: Path) -> None:
    Sealing.of(log).signing_key.chmod(0o644)
    with pytest.raises(AuditBroken, match="others can read it"):
        AuditLog(log)


def test_a_signing_key_that_breaks_on_the_way_is_told_and_fails_no_run(log: Path) -> None:
    audit = AuditLog(log)
    Sealing.of(log).signing_key.with_suffix(".pub").unlink()
    Sealing.of(log).signing_key.write_text("nonsense")
    audit.append("workflow.finished", status="completed")
    audit.close()
    assert "audit.unsigned" in events(log)


def test_many_threads_and_two_handles_make_one_chain(log: Path) -> None:
    first, second = AuditLog(log, sealing(log, every=30)), AuditLog(log, sealing(log, every=30))

    def write(audit: AuditLog) -> None:
        for number in range(50):
            audit.append("network.attempt" if number % 5 else "container.started", number=number)

    threads = [threading.Thread(target=write, args=(audit,)) for audit in (first, second, first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first.close()
    second.close()
    assert verify(log) == 205


def test_nothing_is_written_after_the_end(log: Path) -> None:
    audit = AuditLog(log)
    audit.close()
    with pytest.raises(OSError, match="the audit log is closed"):
        audit.append("swept")


def test_the_seed_of_a_workflow_that_never_began_is_taken_back(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.jsonl")
    audit.append("plan.compiled")
    audit.close()
    assert audit.sealing.seeds.is_dir()
    audit.discard()
    assert not audit.sealing.seeds.exists()


@pytest.mark.parametrize("key", [b"k" * 32, bytes(32), b"\xff" * 32])
def test_the_mac_is_the_standard_one(key: bytes) -> None:
    assert mac(key, "ab" * 32) == hmac.new(key, b"ab" * 32, "sha256").hexdigest()
