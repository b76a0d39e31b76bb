"""The audit log: the chain holds, and every kind of tampering is found and named."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows.audit import GENESIS, AuditLog, records, verify
from workflowmaster.flows.plan import canonical

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path)
    audit.append("workflow.started", workflow="task-1")
    for step in ("one", "two", "three"):
        audit.append("step.finished", step=step, reason="“quoted” \n line", seconds=0.1)
    audit.append("workflow.finished", status="completed")
    audit.close()
    return path


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def edited(line: str, **changes: Any) -> str:
    return canonical({**json.loads(line), **changes}).decode() + "\n"


def rehashed(line: str, **changes: Any) -> str:
    import hashlib

    body = {**json.loads(line), **changes}
    del body["hash"]
    return edited(line, **changes, hash=hashlib.sha256(canonical(body)).hexdigest())


def test_an_untouched_log_holds(log: Path) -> None:
    assert verify(log) == 5
    assert [record["seq"] for record in records(log)] == [0, 1, 2, 3, 4]
    assert next(records(log))["prev"] == GENESIS
    assert log.stat().st_mode & 0o777 == 0o600


TAMPERING: dict[str, tuple[Callable[[list[str]], list[str]], int]] = {
    "a field is edited": (lambda at: [*at[:2], edited(at[2], step="other"), *at[3:]], 2),
    "a field is added": (lambda at: [*at[:2], edited(at[2], extra=1), *at[3:]], 2),
    "a time is edited": (lambda at: [*at[:3], edited(at[3], ts=0.0), *at[4:]], 3),
    "a field is edited and the hash made anew": (lambda at: [*at[:2], rehashed(at[2], step="other"), *at[3:]], 3),
    "a record is deleted": (lambda at: [*at[:2], *at[3:]], 2),
    "the first is deleted": (lambda at: at[1:], 0),
    "two are swapped": (lambda at: [at[0], at[2], at[1], *at[3:]], 1),
    "one is written twice": (lambda at: [*at[:3], at[2], *at[3:]], 3),
    "one is put in": (lambda at: [*at[:2], edited(at[1], seq=2), *at[2:]], 2),
}


@pytest.mark.parametrize(("change", "record"), TAMPERING.values(), ids=TAMPERING)
def test_tampering_is_found_and_named(log: Path, change: Callable[[list[str]], list[str]], record: int) -> None:
    log.write_text("".join(change(lines_of(log))))
    with pytest.raises(ValueError, match=rf"audit.jsonl:{record + 1}: the chain is broken at record {record}$"):
        verify(log)


def test_a_line_that_is_no_record_is_named(log: Path) -> None:
    at = lines_of(log)
    log.write_text("".join([*at[:2], "not json\n", *at[2:]]))
    with pytest.raises(ValueError, match=r"audit.jsonl:3: not a record of an audit log"):
        verify(log)


@pytest.mark.parametrize("line", ["[]\n", "7\n", "null\n", '"text"\n', "{}\n"])
def test_json_that_is_no_record_is_broken_too(log: Path, line: str) -> None:
    at = lines_of(log)
    log.write_text("".join([*at[:2], line, *at[2:]]))
    with pytest.raises(ValueError, match=r"audit.jsonl:3: "):
        verify(log)


def test_of_a_run_that_has_ended_the_end_must_be_there(log: Path) -> None:
    assert verify(log, ended=True) == 5
    log.write_text("".join(lines_of(log)[:3]))
    assert verify(log) == 3
    with pytest.raises(ValueError, match=r"audit.jsonl:3: the chain is broken after record 2: the end is missing"):
        verify(log, ended=True)


def test_a_torn_last_line_is_a_crash_and_no_tampering(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-10])
    assert verify(log) == 4


def test_a_log_with_a_torn_line_goes_on_in_order(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-10])
    audit = AuditLog(log)
    audit.append("resumed")
    audit.close()
    assert verify(log) == 5
    assert [record["event"] for record in records(log)][-2:] == ["step.finished", "resumed"]


def test_two_handles_and_many_threads_make_one_chain(log: Path) -> None:
    first, second = AuditLog(log), AuditLog(log)

    def write(audit: AuditLog) -> None:
        for number in range(50):
            audit.append("event", number=number)

    threads = [threading.Thread(target=write, args=(audit,)) for audit in (first, second, first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(log) == 205


WRITER = """
import sys
from pathlib import Path
from workflowmaster.flows.audit import AuditLog
audit = AuditLog(Path(sys.argv[1]))
for number in range(100):
    audit.append("event", number=number)
"""


def test_two_processes_make_one_chain(log: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(log)]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert verify(log) == 205
