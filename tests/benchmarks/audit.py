"""What the audit log costs: events a second, the moment an `append` takes of a step, and verifying.

    .venv/bin/python tests/benchmarks/audit.py [--folder DIR]

Figures depend on the disk and on what else the machine does; beside each stands the same with nothing but the system
calls, so that the ratio can be read on any machine. Targets: 2,000 durable and 10,000 buffered events a second, verifying
40 MB a second.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.verifying import verify

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS = {
    "step": "build",
    "attempt": 1,
    "purpose": "work",
    "container": "a" * 64,
    "image": f"sha256:{'b' * 64}",
    "policy": "standard",
    "policy_hash": "c" * 64,
}
"""Of `container.started`: a record of about 600 bytes."""
BUFFERED, DURABLE = "network.attempt", "policy.loosened"
WRITER = "import sys; sys.path.insert(0, sys.argv[3]); import audit; audit.written(sys.argv[1], audit.BUFFERED, int(sys.argv[2]))"


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def written(path: str | Path, event: str, count: int) -> None:
    log = AuditLog(Path(path))
    for _ in range(count):
        log.append(event, **FIELDS)
    log.close()


def bare(path: Path, count: int, *, sync: bool) -> None:
    """The same bytes with the system calls alone."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for _ in range(count):
        os.write(handle, b"x" * 611 + b"\n")
        if sync:
            os.fdatasync(handle)
    os.close(handle)


def several(path: Path, count: int, writers: int) -> None:
    command = [sys.executable, "-c", WRITER, str(path), str(count // writers), str(Path(__file__).parent)]
    for process in [subprocess.Popen(command) for _ in range(writers)]:
        process.wait()


def moments(path: Path, event: str, count: int) -> tuple[float, float]:
    """Median and 99th percentile of one append, in milliseconds."""
    log = AuditLog(path)
    found = [timed(lambda: log.append(event, **FIELDS)) * 1000 for _ in range(count)]
    log.close()
    return statistics.median(found), statistics.quantiles(found, n=100)[98]


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--folder", help="where to write (default: the system's temporary folder)")
    with tempfile.TemporaryDirectory(dir=given.parse_args().folder) as place:
        folder = Path(place)
        for event, count in ((BUFFERED, 20_000), (DURABLE, 3_000)):
            log, sync = folder / event / "audit.jsonl", event == DURABLE
            log.parent.mkdir()
            busy = time.process_time()
            ours = timed(lambda log=log, event=event, count=count: written(log, event, count))
            spent = time.process_time() - busy
            raw = timed(lambda count=count, sync=sync: bare(folder / "bare", count, sync=sync))
            name = "durable" if sync else "buffered"
            print(f"{name:<22} {count / ours:>9,.0f} events/s   {ours / raw:.1f} x the system calls alone")
            print(f"{name + ', computing':<22} {count / spent:>9,.0f} events a second of one core")
            median, late = moments(log, event, 2000)
            print(f"{name + ', one append':<22} {median:>9.3f} ms median, {late:.3f} ms p99")
        log = folder / "several/audit.jsonl"
        log.parent.mkdir()
        written(log, BUFFERED, 1)
        print(
            f"{'four processes':<22} {20_000 / timed(lambda: several(log, 20_000, 4)):>9,.0f} events/s with their start"
        )
        log = folder / BUFFERED / "audit.jsonl"
        size = log.stat().st_size / 1e6
        busy = time.process_time()
        seconds = min(timed(lambda: verify(log)) for _ in range(3))
        spent = (time.process_time() - busy) / 3
        hashing = min(timed(lambda: hashlib.sha256(log.read_bytes())) for _ in range(3))
        print(f"{'verify':<22} {size / seconds:>9,.0f} MB/s       {seconds / hashing:.1f} x one SHA-256 over the file")
        print(f"{'verify, computing':<22} {size / spent:>9,.0f} MB a second of one core")


if __name__ == "__main__":
    main()
