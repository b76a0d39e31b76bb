"""Sums over runs: they add up, in any order and however they are split, and a rate is never surer than its count."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows.accounts import Decided, RunAccount, Standing, StepAccount, account
from workflowmaster.flows.counting import GROUPS, STANDINGS, STATUSES, Tally, grouped, numbers, quantiles, tally, wilson
from workflowmaster.flows.plan import StepStatus

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = st.floats(0, 1e6, allow_nan=False)

RECEIPTS = st.builds(
    Receipt,
    container_id=st.uuids().map(str),
    image=st.sampled_from(["a:1", "b:2"]),
    policy=st.sampled_from(["standard", "hardened"]),
    seconds=SECONDS,
    queued_seconds=SECONDS,
    start_seconds=st.none() | SECONDS,
    begin_seconds=st.none() | SECONDS,
    cpu_seconds=st.none() | SECONDS,
    peak_memory=st.none() | st.integers(0, 2**40),
    oom_killed=st.booleans(),
    timed_out=st.booleans(),
)
DECISIONS = st.builds(
    Decided,
    step=st.just("s"),
    verb=st.sampled_from(["retry", "skip", "escalate", "continue", "abort"]),
    rule=st.sampled_from(["one", "two"]),
    failure=st.just(""),
    outcome=st.sampled_from(["succeeded", "failed", "unfinished", "open"]),
    wait_seconds=SECONDS,
)
STEPS = st.builds(
    StepAccount,
    id=st.sampled_from("abc"),
    policy=st.sampled_from(["host", "standard", "hardened"]),
    kind=st.just("command"),
    name=st.just(""),
    status=st.sampled_from(get_args(StepStatus)),
    reused=st.booleans(),
    attempts=st.integers(0, 5),
    seconds=st.none() | SECONDS,
    receipts=st.lists(RECEIPTS, max_size=3).map(tuple),
    unaccounted=st.integers(0, 2),
    decisions=st.lists(DECISIONS, max_size=3).map(tuple),
)
RUNS = st.lists(
    st.builds(
        RunAccount,
        id=st.uuids().map(str),
        name=st.sampled_from(["fix", "release"]),
        standing=st.sampled_from(get_args(Standing)),
        steps=st.lists(STEPS, max_size=3).map(tuple),
        worked=SECONDS,
        elapsed=SECONDS,
        parts=st.integers(1, 3),
        person_waits=st.lists(SECONDS, max_size=2).map(tuple),
    ),
    max_size=6,
)


@given(RUNS, st.randoms(use_true_random=False))
def test_the_order_of_runs_changes_nothing(runs: list[RunAccount], chance: Any) -> None:
    shuffled = [dataclasses.replace(run, steps=tuple(chance.sample(run.steps, len(run.steps)))) for run in runs]
    chance.shuffle(shuffled)
    assert numbers(tally(shuffled)) == numbers(tally(runs))


@given(RUNS, st.integers(0, 6))
def test_two_sets_together_are_the_sum_of_both(runs: list[RunAccount], at: int) -> None:
    merged = tally(runs[:at]).add(tally(runs[at:]))
    assert numbers(merged) == numbers(tally(runs))
    assert numbers(Tally().add(tally(runs))) == numbers(tally(runs)), "nothing added is nothing"


@given(RUNS)
def test_the_counts_add_up(runs: list[RunAccount]) -> None:
    found = numbers(tally(runs))
    assert found["workflows"] == len(runs) == sum(found["workflow_status"].values())
    assert found["total_tasks"] == sum(found[f"{status}_tasks"] for status in STATUSES)
    assert found["retries"] == sum(found["retries_by"].values()) <= found["attempts"]
    assert found["autonomous_decisions"] == sum(row["count"] for row in found["decisions"])
    assert all(row["count"] == sum(row["outcomes"].values()) for row in found["decisions"])
    ended = sum(run.standing in ("completed", "partial", "failed", "aborted") for run in runs)
    assert found["success_rate"]["of"] == ended, "what goes on, waits or was cut off is no failure"


@pytest.mark.parametrize("by", sorted(GROUPS))
@given(runs=RUNS)
def test_the_groups_add_up_to_the_whole(by: str, runs: list[RunAccount]) -> None:
    parts = [numbers(one) for one in grouped(runs, by).values()]
    whole = numbers(tally(runs))
    for key in ("total_tasks", "attempts", "retries", "container_executions", "autonomous_decisions", "failed_tasks"):
        assert sum(part[key] for part in parts) == whole[key]
    assert all(part["workflows"] <= len(runs) for part in parts)


def test_every_standing_and_status_has_a_count() -> None:
    assert set(STANDINGS) == set(get_args(Standing))
    assert set(STATUSES) == set(get_args(StepStatus))


def test_nothing_is_zeros_and_none() -> None:
    found = numbers(tally([]))
    assert {key: value for key, value in found.items() if isinstance(value, (int, float)) and value} == {}
    assert found["success_rate"] == {"rate": None, "low": None, "high": None, "of": 0}
    assert found["step_seconds"] == {"p50": None, "p90": None, "p99": None}
    assert (found["decisions"], found["container_starts"], found["container_peak_memory"]["max"]) == ([], {}, None)


@pytest.mark.parametrize(
    ("good", "total", "bounds"),
    [
        (0, 0, None),
        (0, 1, (0.0, 0.7935)),
        (1, 1, (0.2065, 1.0)),
        (3, 3, (0.4385, 1.0)),
        (8, 10, (0.4902, 0.9433)),
        (50, 100, (0.4038, 0.5962)),
    ],
)
def test_a_rate_is_as_sure_as_its_count(good: int, total: int, bounds: tuple[float, float] | None) -> None:
    assert wilson(good, total) == bounds


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_interval_holds_its_rate_and_narrows_with_the_count(good: int, bad: int) -> None:
    total = good + bad
    if not total:
        return
    low, high = wilson(good, total) or (1.0, 0.0)
    assert 0 <= low <= round(good / total, 4) <= high <= 1
    narrow = wilson(good * 4, total * 4) or (0.0, 1.0)
    assert narrow[1] - narrow[0] <= high - low + 1e-4
    # What the interval is: the shares of which the one that was seen is just not too far off.
    for bound in {low, high} - {0.0, 1.0}:
        off = 1.959964 * math.sqrt(bound * (1 - bound) / total)
        assert abs(good / total - bound) == pytest.approx(off, rel=0.02, abs=2e-4)


@given(st.lists(SECONDS, min_size=1))
def test_quantiles_rise_and_are_among_the_values(values: list[float]) -> None:
    found = [value for value in quantiles(values, digits=9).values() if value is not None]
    # Interpolated between equal values, the last bit of a figure may fall.
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(found))
    assert min(values) - 1e-3 <= found[0]
    assert found[-1] <= max(values) + 1e-3


def test_a_run_with_failures_in_numbers(shapes: dict[str, Callable[[], Any]]) -> None:
    found = numbers(tally([account(shapes["failing"]())]))
    wanted = {"total_tasks": 6, "completed_tasks": 4, "failed_tasks": 1, "blocked_tasks": 1, "reused_tasks": 1}
    wanted |= {"attempts": 8, "retries": 3, "container_executions": 9, "container_oom_kills": 1}
    assert {key: found[key] for key in wanted} == wanted
    # Of the three attempts beyond a first one, two were decided on; of one the journal is gone.
    assert found["retries_by"] == {"decision": 2, "resume": 1}
    assert found["container_peak_memory"]["max"] == 512 * 1024**2
    assert (found["success_rate"]["rate"], found["success_rate"]["of"]) == (0.0, 1)
    assert found["decisions"][-1] == {
        "verb": "retry",
        "rule": "out of memory, and 2 retries are left",
        "count": 1,
        "outcomes": {"succeeded": 1},
    }


def test_a_decision_nobody_came_to_act_on_made_no_attempt() -> None:
    undone = Decided("a", "retry", "r", "", "unfinished")
    step = StepAccount("a", "standard", "command", "", "failed", reused=False, attempts=2, decisions=(undone,))
    found = numbers(tally([RunAccount("id", "n", "partial", (step,))]))
    assert found["retries_by"] == {"decision": 0, "resume": 1}
