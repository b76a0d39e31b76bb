"""Several processes on one log, killed in the middle of it, and disks that are full: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.auditfiles import records
from workflowmaster.flows.sealing import Sealing
from workflowmaster.flows.verifying import examine, verify

WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.sealing import Sealing
path, event, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
audit = AuditLog(path, replace(Sealing.of(path), every=20))
for number in range(count):
    audit.append(event, number=number)
    print(number, flush=True)
if count < 1000:
    audit.close()
"""


def writer(path: Path, event: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), event, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writers = [writer(path, event, 60) for event in ("network.attempt", "container.started", "policy.loosened")]
    assert [len(one.communicate()[0].split()) for one in writers] == [60] * 3
    assert [one.returncode for one in writers] == [0] * 3
    assert verify(path) == 180
    assert len({record["pid"] for record in records(path)}) == 3
    verdict = examine(path, Sealing.of(path))
    assert (verdict.checkpoints, verdict.pending) == (9, 0)


@pytest.mark.parametrize("round_", range(4))
def test_no_acknowledged_record_is_lost_when_writers_are_killed(tmp_path: Path, round_: int) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path).close()
    events = ("policy.loosened", "network.attempt")
    writers = [writer(path, event, 100_000) for event in events]
    told: list[list[str]] = [[], []]

    def listen(which: int) -> None:
        told[which] = list(writers[which].stdout or ())

    threads = [threading.Thread(target=listen, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    while not path.exists() or path.stat().st_size < 30_000 * (round_ + 1):
        assert all(one.poll() is None for one in writers)
    for one in writers:
        one.send_signal(signal.SIGKILL)
        one.wait()
    for thread in threads:
        thread.join()
    verdict = examine(path, Sealing.of(path))
    assert verdict.holds, verdict.reason
    there = [[r["number"] for r in records(path) if r["event"] == event] for event in events]
    for numbers, lines in zip(there, told, strict=True):
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= len(lines)
    after = AuditLog(path)
    after.append("workflow.finished", status="failed")
    after.close()
    final = examine(path, Sealing.of(path), ended=True)
    assert (final.holds, final.pending) == (True, 0), "whoever goes on signs what the killed ones could not"


def test_a_log_that_is_being_written_holds_at_every_moment(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    one = writer(path, "container.started", 400)
    assert one.stdout
    one.stdout.readline()
    while one.poll() is None:
        verdict = examine(path, Sealing.of(path))
        assert verdict.holds, verdict.reason
        one.stdout.readline()
    one.stdout.read()
    assert verify(path) == 400


SMALL = """
import signal, sys, resource
from pathlib import Path
from workflowmaster.flows.audit import AuditLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
audit = AuditLog(path)
audit.append("workflow.started")
for size in range(path.stat().st_size + 10, path.stat().st_size + 700, 23):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    before = path.read_bytes()
    try:
        audit.append("swept", text="x" * 400)
    except OSError as error:
        assert "the audit log cannot be written" in str(error), error
        assert path.read_bytes() == before
        print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
audit.append("swept", text="there is room again")
audit.close()
"""


def test_a_full_disk_leaves_no_half_record_and_is_told(tmp_path: Path) -> None:
    """A limit on the file's size ends a write in the middle, as a disk does that is full."""
    path = tmp_path / "audit.jsonl"
    done = subprocess.run([sys.executable, "-c", SMALL, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused") > 20
    assert verify(path) == len(list(records(path))) >= 2
    assert "audit.torn_tail" not in [record["event"] for record in records(path)]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "gone/audit.jsonl")
    with pytest.raises(FileNotFoundError):
        audit.append("swept")


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)


def write_on(audit: AuditLog) -> None:
    for _ in range(100):
        audit.append("swept", text="x" * 300)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_fills_up_while_a_checkpoint_is_signed(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], check=True)
    try:
        (place / "task-a").mkdir()
        path = place / "task-a/audit.jsonl"
        audit = AuditLog(path)
        audit.append("workflow.started")
        with pytest.raises(OSError, match="No space"):
            fill(place / "filler")
        with pytest.raises(OSError, match="No space"):
            write_on(audit)
        count = verify(path)
        (place / "filler").unlink()
        audit.append("workflow.finished", status="failed")
        audit.close()
        assert verify(path, ended=True) == count + 1
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
