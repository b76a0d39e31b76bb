"""Sums over runs: a `Tally` of each run is added to others, in any order, and only then made into numbers.

Quantiles cannot be added, so a tally keeps the values themselves: a thousand runs of twenty steps are some hundred
thousand numbers, a few megabytes for the second that a command lives. Rates come with Wilson's interval, because a
workflow that went well three times of three has not been shown to go well always.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.flows.accounts import ENDED
from workflowmaster.flows.budgets import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from workflowmaster.blocks.receipt import Receipt
    from workflowmaster.flows.accounts import RunAccount, StepAccount

Z95: Final = 1.959964
"""Of the normal distribution, for an interval that holds 95 times of 100."""
STANDINGS: Final = ("completed", "partial", "failed", "aborted", "waiting", "paused", "going", "interrupted")
STATUSES: Final = ("completed", "failed", "skipped", "blocked", "waiting", "pending", "in_progress")
STARTS: Final = ("start", "parked", "begin")
"""What a container's start consists of: until it is parked, from then to go, from go to its first instruction."""
Start = tuple[str, str]
"""Image and policy, joined, and a part of a container's start."""


@dataclass
class Tally:
    """Counts and values of some runs; `add` is commutative and associative, and an empty tally changes nothing."""

    counts: Counter[str] = field(default_factory=Counter)
    values: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Durations in seconds and sizes in bytes, by what they are of."""
    decisions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(verb, rule, outcome) → how many."""
    over: Counter[str] = field(default_factory=Counter)
    """Limit of a budget → runs that had reached it when they ended."""
    starts: defaultdict[Start, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds; the part `count` has one for each container."""

    def add(self, other: Tally) -> Tally:
        """Take another one in, and return this one."""
        self.counts.update(other.counts)
        self.decisions.update(other.decisions)
        self.over.update(other.over)
        for name, values in other.values.items():
            self.values[name].extend(values)
        for start, values in other.starts.items():
            self.starts[start].extend(values)
        return self

    def step(self, step: StepAccount) -> None:
        """Count one step of one run."""
        tried = step.attempts > 0
        self.counts.update({"tasks": 1, f"task:{step.status}": 1, "attempts": step.attempts, "retries": step.retries})
        self.counts.update({"reused": step.reused, "unaccounted": step.unaccounted})
        self.counts.update({"tried": tried, "first": tried and step.status == "completed" and step.attempts == 1})
        decided = [decision for decision in step.decisions if decision.verb == "retry"]
        # One that was asked for and never begun was no attempt; what nobody decided was a resume's doing.
        self.counts["by_decision"] += min(step.retries, sum(one.outcome != "unfinished" for one in decided))
        self.decisions.update((one.verb, one.rule, one.outcome) for one in step.decisions)
        self.values["backoff"] += [one.wait_seconds for one in decided if one.wait_seconds > 0]
        if step.seconds is not None:
            self.values["step_seconds"].append(step.seconds)
        for receipt in step.receipts:
            self._container(receipt)

    def _container(self, receipt: Receipt) -> None:
        flags = {"oom": receipt.oom_killed, "timeouts": receipt.timed_out, "disk": receipt.disk_capped}
        self.counts.update({"containers": 1, **flags, "adopted": receipt.adopted})
        measured = {
            "container_seconds": receipt.seconds,
            "queued": receipt.queued_seconds,
            "cpu_seconds": receipt.cpu_seconds,
            "peak_memory": receipt.peak_memory,
        }
        for name, value in measured.items():
            if value is not None:
                self.values[name].append(float(value))
        # What ran before these were measured has no start, and would count as one that took no time.
        if receipt.start_seconds is not None:
            group = f"{receipt.image or receipt.image_id[7:19]} {receipt.policy}"
            self.starts[group, "count"].append(1.0)
            for part in STARTS:
                if (seconds := getattr(receipt, f"{part}_seconds")) is not None:
                    self.starts[group, part].append(seconds)

    def run(self, run: RunAccount) -> None:
        """Count one run, without its steps."""
        self.counts.update({"workflows": 1, f"run:{run.standing}": 1, "resumes": max(0, run.parts - 1)})
        self.counts["open_questions"] += run.open_questions
        self.over.update(run.over)
        for name, used in run.spent.items():
            self.values[f"spent:{name}"].append(used)
        self.values["person"] += run.person_waits
        if run.worked > 0:
            self.values["workflow_seconds"].append(run.worked)
        # A run that goes on has no length yet, and a short one would look quick.
        if run.standing in ENDED:
            self.values["workflow_elapsed_seconds"].append(run.elapsed)


def tally(runs: Iterable[RunAccount]) -> Tally:
    """Count some runs with all their steps."""
    made = Tally()
    for run in runs:
        made.run(run)
        for step in run.steps:
            made.step(step)
    return made


GROUPS: Final[Mapping[str, Callable[[RunAccount, StepAccount], str]]] = {
    "workflow": lambda run, _: run.name,
    "step": lambda run, step: f"{run.name} / {step.id}",
    "policy": lambda _, step: step.policy,
}
"""What `stats --by` takes → the group that a step of a run belongs to."""


def grouped(runs: Iterable[RunAccount], by: str) -> dict[str, Tally]:
    """Count some runs by workflow, step or policy, in the order of the alphabet.

    A run is counted once in each group in which it has a step; its own times only where the group is its workflow.
    """
    found: defaultdict[str, Tally] = defaultdict(Tally)
    for run in runs:
        groups = {GROUPS[by](run, step) for step in run.steps} or ({run.name} if by == "workflow" else set())
        for name in groups:
            if by == "workflow":
                found[name].run(run)
            else:
                found[name].counts.update({"workflows": 1, f"run:{run.standing}": 1})
        for step in run.steps:
            found[GROUPS[by](run, step)].step(step)
    return dict(sorted(found.items()))


# --- numbers ---


def numbers(counted: Tally) -> dict[str, Any]:
    """Return a tally as `stats --json` prints it: counts, seconds and bytes; None where there is no value to tell of.

    Every key is described in `docs/statistics.md`.
    """
    counts, values = counted.counts, defaultdict(list, counted.values)
    return {
        "workflows": counts["workflows"],
        "workflow_status": {name: counts[f"run:{name}"] for name in STANDINGS if counts[f"run:{name}"]},
        "success_rate": rate(counts["run:completed"], sum(counts[f"run:{name}"] for name in ENDED)),
        "resumes": counts["resumes"],
        "total_tasks": counts["tasks"],
        **{f"{name}_tasks": counts[f"task:{name}"] for name in STATUSES},
        "reused_tasks": counts["reused"],
        "task_success_rate": rate(counts["task:completed"], counts["task:completed"] + counts["task:failed"]),
        "first_attempt_rate": rate(counts["first"], counts["tried"]),
        "attempts": counts["attempts"],
        "retries": counts["retries"],
        "retries_by": {"decision": counts["by_decision"], "resume": counts["retries"] - counts["by_decision"]},
        "autonomous_decisions": counted.decisions.total(),
        "decisions": _decisions(counted.decisions),
        "open_questions": counts["open_questions"],
        "budget_over": {name: counted.over[name] for name in LIMITS if counted.over[name]},
        "budget_spent": {name: round(math.fsum(values[f"spent:{name}"]), 4) for name in LIMITS},
        **_containers(counted),
        "step_seconds": quantiles(values["step_seconds"]),
        "workflow_seconds": quantiles(values["workflow_seconds"]),
        "workflow_elapsed_seconds": quantiles(values["workflow_elapsed_seconds"]),
        "runtime_seconds": round(math.fsum(values["workflow_seconds"]), 3),
        "wait_seconds": {name: quantiles(values[name]) for name in ("queued", "backoff", "person")},
        "container_starts": _starts(counted.starts),
    }


def _containers(counted: Tally) -> dict[str, Any]:
    counts, values = counted.counts, defaultdict(list, counted.values)
    peaks = values["peak_memory"]
    return {
        "container_executions": counts["containers"] + counts["unaccounted"],
        "container_unaccounted": counts["unaccounted"],
        "container_seconds": round(math.fsum(values["container_seconds"]), 3),
        "container_cpu_seconds": round(math.fsum(values["cpu_seconds"]), 3),
        "container_peak_memory": {**quantiles(peaks, digits=0), "max": max(peaks, default=None)},
        "container_oom_kills": counts["oom"],
        "container_timeouts": counts["timeouts"],
        "container_disk_stops": counts["disk"],
        "containers_adopted": counts["adopted"],
    }


def _decisions(found: Counter[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Return one row for each verb and rule, the most frequent first, with what came of it."""
    rows: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (verb, rule, outcome), count in found.items():
        rows[verb, rule][outcome] += count
    listed = sorted(rows.items(), key=lambda item: (-item[1].total(), item[0]))
    return [
        {"verb": verb, "rule": rule, "count": outcomes.total(), "outcomes": dict(sorted(outcomes.items()))}
        for (verb, rule), outcomes in listed
    ]


def _starts(found: Mapping[Start, list[float]]) -> dict[str, dict[str, Any]]:
    """Return, by image and policy, how long containers take to be there, in seconds."""
    return {
        group: {
            "count": len(found[group, "count"]),
            **{f"{part}_seconds": _median_p95(found.get((group, part), [])) for part in STARTS},
        }
        for group in sorted({group for group, _ in found})
    }


def _median_p95(values: list[float]) -> dict[str, float | None]:
    return {name: _percentile(values, share, 4) for name, share in (("median", 50), ("p95", 95))}


def quantiles(values: list[float], *, digits: int = 3) -> dict[str, float | None]:
    """Return p50, p90 and p99, with linear interpolation between values; the only value stands for all of them."""
    ordered = sorted(values)
    return {f"p{share}": _percentile(ordered, share, digits) for share in (50, 90, 99)}


def _percentile(values: list[float], share: int, digits: int) -> float | None:
    """Return one percentile; None of nothing."""
    if not values:
        return None
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
    return round(cuts[share - 1], digits)


def rate(good: int, total: int) -> dict[str, float | int | None]:
    """Return a share, 0 to 1, with the bounds between which it lies 95 times of 100; None of nothing."""
    bounds = wilson(good, total)
    low, high = bounds or (None, None)
    return {"rate": round(good / total, 4) if total else None, "low": low, "high": high, "of": total}


def wilson(good: int, total: int, z: float = Z95) -> tuple[float, float] | None:
    """Return the bounds of the score interval for a share (E. B. Wilson, 1927); None of nothing."""
    if not total:
        return None
    share, square = good / total, z * z
    centre = share + square / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    scale = 1 + square / total
    return round(max(0.0, (centre - spread) / scale), 4), round(min(1.0, (centre + spread) / scale), 4)
