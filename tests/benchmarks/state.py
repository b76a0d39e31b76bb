"""What keeping a run's state costs: `python tests/benchmarks/state.py [STEPS]`, in bytes and snapshots, beside writing all of it each time.

Bytes are the same on every machine; the milliseconds are not, and only their growth from row to row says anything.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from types import SimpleNamespace
from typing import Any

COUNTS = (100, 300, 1_000)


def journey_of(count: int, *, marked: bool) -> Any:
    """As much of a run of this many steps as its keeping asks for."""
    from workflowmaster.flows import folders
    from workflowmaster.flows.journal import Journal
    from workflowmaster.flows.keeping import Keeping
    from workflowmaster.flows.plan import Plan, PromptRef, Source, Step

    where = Source(line=1, end_line=2)
    steps = [Step(id=f"s{n}", name=f"step {n}", kind="command", checkpoint=marked, source=where) for n in range(count)]
    ref = PromptRef(path="p.md", sha256="0" * 64, kind="explicit")
    folder = folders.create(folders.new_id())
    journey = SimpleNamespace(
        id=folder.id,
        folder=folder,
        plan=Plan(name="Bench", prompt=ref, compiler="1", tasks=tuple(steps)),
        record=SimpleNamespace(
            workflow_hash="h",
            flow_run_id="",
            options=SimpleNamespace(workspace="/w"),
            images={},
            model_dump=lambda **_: {},
        ),
        journal=Journal(folder.journal),
        claim=SimpleNamespace(lost=""),
        audit=SimpleNamespace(append=lambda *_, **__: None),
        store=SimpleNamespace(base=""),
        started_at=time.time(),
    )
    journey.keeping = Keeping(journey)
    return journey


def settle(journey: Any, step: Any) -> None:
    """End a step as the scheduler does: two records, and the state is told."""
    from workflowmaster.flows.plan import StepResult

    key = f"{journey.id}-{step.id:0>64}"
    made = StepResult(step=step.id, status="completed", key=key, started_at=time.time(), seconds=0.1)
    journey.journal.append("keys", step=step.id, key=key, parts={"work": "x" * 300})
    journey.journal.append("result", step=step.id, reused=False, result=made.model_dump(mode="json"))
    journey.keeping.settled(step, made, reused=False)


def measured(count: int, *, marked: bool) -> tuple[int, int, int, float, float]:
    """Return bytes of the journal, of all that was written, of the last state; and milliseconds a step, and to read."""
    journey = journey_of(count, marked=marked)
    began = time.perf_counter()
    journey.keeping.begin()
    for step in journey.plan.tasks:
        settle(journey, step)
    journey.keeping.end(journey.keeping.state(), durable=True)
    journey.keeping.close()
    took = (time.perf_counter() - began) * 1000 / count
    began = time.perf_counter()
    journey.folder.state()
    reading = (time.perf_counter() - began) * 1000
    size = journey.folder.state_file.stat().st_size
    return journey.journal.size, journey.keeping.written, size, took, reading


def main() -> None:
    """Print one row for each number of steps."""
    counts = (int(sys.argv[1]),) if len(sys.argv) > 1 else COUNTS
    with tempfile.TemporaryDirectory() as place:
        os.environ["WORKFLOWMASTER_HOME"] = place
        measured(1, marked=False)  # Prefect's import
        print("steps  marked  journal KB  written KB  once a step KB  ms/step  read ms")
        for count in counts:
            for marked in (False, True):
                journal, written, size, took, reading = measured(count, marked=marked)
                each = size * count // 2
                shown = f"{journal >> 10:>10}  {written >> 10:>10}  {each >> 10:>14}  {took:>7.2f}  {reading:>7.1f}"
                print(f"{count:>5}  {'all' if marked else 'none':>6}  {shown}", flush=True)


if __name__ == "__main__":
    main()
