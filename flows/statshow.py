"""The command `stats`: what runs did, over all of them, over one, or group by group.

A damaged run is named and left out: what is known of it may be half of what it did, and would make the others' rates
wrong without a word. `state repair` brings it back into the count. One that is asked for by its id is counted all the
same, with what is wrong of it said beside the numbers.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from workflowmaster.flows import folders, journal
from workflowmaster.flows.accounts import account
from workflowmaster.flows.claim import claimed
from workflowmaster.flows.counting import grouped, numbers, tally
from workflowmaster.flows.looking import out
from workflowmaster.flows.wording import duration, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping

    from workflowmaster.flows.accounts import RunAccount
    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.state import WorkflowState


def stats(given: argparse.Namespace) -> int:
    """Count runs, steps, attempts, decisions and containers, with the times they took."""
    runs = [_named(folders.find(given.id))] if given.id else list(readable())
    if given.since:
        from workflowmaster.flows.auditing import moment_of  # the audit log's readers are needed for nothing else

        since = moment_of(given.since)
        runs = [run for run in runs if run.started_at >= since]
    found = numbers(tally(runs))
    groups = {name: numbers(part) for name, part in grouped(runs, given.by).items()} if given.by else {}
    if given.json:
        out(json.dumps({**found, f"by_{given.by}": groups} if given.by else found))
        return 0
    for line in _lines(found):
        out(line)
    for line in _table(groups):
        out(line)
    return 0


def readable(known: Iterable[Folder] | None = None) -> Iterator[RunAccount]:
    """Yield the account of every run, or of these; damaged ones are left out and named on stderr."""
    for folder in folders.everything() if known is None else known:
        state, wrong = folder.condition()
        # Of one that has just begun, the first snapshot is on its way.
        if state is None or (wrong and not claimed(folder)):
            sys.stderr.write(f"not counted: {wrong}\n")
        else:
            yield account_of(folder, state)


def account_of(folder: Folder, state: WorkflowState) -> RunAccount:
    """Return what a run did, by its state and its records; records that are damaged are named on stderr."""
    records = journal.read(folder.journal)
    if records.damaged:
        sys.stderr.write(f"{folder.id}: counted without {len(records.damaged)} damaged records\n")
    return account(state, records.entries, alive=state.status == "running" and claimed(folder))


def _named(folder: Folder) -> RunAccount:
    """Return the account of one run that was asked for. UnknownWorkflow if its state is lost."""
    state, wrong = folder.condition()
    if state and wrong and not claimed(folder):
        sys.stderr.write(f"{wrong}\n")
    return account_of(folder, state or folder.state())


# --- for people ---


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    for key, value in found.items():
        if key not in ("decisions", "container_starts"):
            yield f"{key:<26} {_shown(key, value)}"
    for row in found["decisions"]:
        outcomes = ", ".join(f"{count} {name}" for name, count in row["outcomes"].items())
        yield f"decision {row['verb']} by {row['rule']}: {row['count']} ({outcomes})"
    for name, one in found["container_starts"].items():
        told = ", ".join(f"{part} {_pair(one[f'{part}_seconds'])}" for part in ("start", "parked", "begin"))
        yield f"{name}: {one['count']} containers; median / p95 in seconds: {told}"


def _shown(key: str, value: Any) -> str:
    """Spell a value: rates in percent with their interval, memory in its units, quantiles side by side."""
    if isinstance(value, dict) and "rate" in value:
        return _percent(value)
    if not isinstance(value, dict):
        return "-" if value is None else str(value)
    spelt = size if key.endswith("memory") else duration if key.endswith("_seconds") else str
    parts = {
        name: _shown(f"{key}_{name}_seconds", part) if isinstance(part, dict) else "-" if part is None else spelt(part)
        for name, part in value.items()
    }
    return "; ".join(f"{name} {part}" for name, part in parts.items()) or "-"


def _percent(found: Mapping[str, Any]) -> str:
    if found["rate"] is None:
        return "-"
    return f"{found['rate']:.0%} of {found['of']} (95 times of 100 between {found['low']:.0%} and {found['high']:.0%})"


def _pair(pair: Mapping[str, float | None]) -> str:
    return " / ".join("-" if value is None else f"{value:.3f}" for value in pair.values())


def _table(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each group: how often it went well, what it took, and how often it had to be tried again."""
    if not groups:
        return
    width = min(48, max(len(name) for name in groups))
    heads = f"{'runs':>6} {'done':>6} {'tasks':>6} {'done':>6} {'retries':>8} {'p50':>12} {'p90':>12} {'peak':>10}"
    yield f"\n{'':<{width}} {heads}"
    for name, one in groups.items():
        times, peak = one["step_seconds"], one["container_peak_memory"]["max"]
        spent = [f"{'-' if times[share] is None else duration(times[share]):>12}" for share in ("p50", "p90")]
        rates = [_short(one[key]) for key in ("success_rate", "task_success_rate")]
        yield (
            f"{name:<{width}} {one['workflows']:>6} {rates[0]:>6} {one['total_tasks']:>6} {rates[1]:>6}"
            f" {one['retries']:>8} {' '.join(spent)} {'-' if peak is None else size(peak):>10}"
        )


def _short(found: Mapping[str, Any]) -> str:
    return "-" if found["rate"] is None else f"{found['rate']:.0%}"
