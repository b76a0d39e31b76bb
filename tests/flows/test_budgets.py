"""What a run has used, drawn from its records: once, whatever the order, and never less than nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.budgets import (
    LIMITS,
    Budget,
    Grant,
    Ledger,
    Spent,
    ceiling,
    command,
    cost,
    effective,
    least,
    line,
    number,
)
from workflowmaster.flows.journal import Entry
from workflowmaster.flows.plan import Account
from workflowmaster.flows.settings import Settings

BEGAN = 1_000.0


def entry(kind: str, at: float, **fields: Any) -> Entry:
    return Entry(kind, at, fields, end=0)


def begun(at: float = BEGAN) -> Entry:
    return entry("begun", at)


def go(container: str, at: float, attempt: int = 1, timeout: float = 300.0, **more: Any) -> Entry:
    return entry("go", at, step="a", attempt=attempt, container=container, timeout=timeout, **more)


def result(step: str, attempt: int, seconds: dict[str, float], at: float = BEGAN + 50, **more: Any) -> Entry:
    receipts = [{"container_id": name, "seconds": value} for name, value in seconds.items()]
    return entry("result", at, step=step, result={"step": step, "attempts": attempt, "receipts": receipts, **more})


def read(*entries: Entry, own: str = "w") -> Ledger:
    ledger = Ledger(own)
    for one in entries:
        ledger.take(one)
    return ledger.settle()


# --- which limits are reached ---

amounts = st.floats(0, 1e6, allow_nan=False)
spendings = st.builds(Spent, amounts, st.integers(0, 1000), amounts, amounts)
budgets = st.dictionaries(st.sampled_from(LIMITS), st.floats(0, 1e6, allow_nan=False))


@pytest.mark.parametrize(
    ("limits", "spent", "over"),
    [
        ({}, Spent(1e9, 10**6, 1e9, 1e9), ()),
        ({"minutes": 5}, Spent(minutes=4.999), ()),
        ({"minutes": 5}, Spent(minutes=5), ("minutes",)),
        ({"attempts": 2}, Spent(attempts=1), ()),
        ({"attempts": 2}, Spent(attempts=2), ("attempts",)),
        ({"usd": 0}, Spent(), ()),
        ({"usd": 0}, Spent(usd=0.01), ("usd",)),
        ({"usd": 1, "minutes": 1, "container-minutes": 9}, Spent(2, 0, 2, 2), ("minutes", "usd")),
    ],
)
def test_a_limit_is_reached_when_all_of_it_is_used(
    limits: dict[str, float], spent: Spent, over: tuple[str, ...]
) -> None:
    assert Budget(limits).over(spent) == over


@given(budgets, spendings, st.floats(1, 100))
def test_a_larger_budget_never_stops_earlier(limits: dict[str, float], spent: Spent, factor: float) -> None:
    larger = {name: limit * factor for name, limit in limits.items()}
    assert set(Budget(larger).over(spent)) <= set(Budget(limits).over(spent))


@given(budgets, spendings, amounts)
def test_using_more_never_frees_a_budget(limits: dict[str, float], spent: Spent, more: float) -> None:
    later = Spent(spent.minutes + more, spent.attempts + 1, spent.container_minutes + more, spent.usd + more)
    assert set(Budget(limits).over(spent)) <= set(Budget(limits).over(later))


@given(st.lists(budgets, min_size=1, max_size=3))
def test_the_least_of_several_limits_is_under_all_of_them(several: list[dict[str, float]]) -> None:
    found = least(*several)
    assert set(found) == {name for one in several for name in one}
    assert all(found[name] <= value for one in several for name, value in one.items())


@pytest.mark.parametrize(
    ("value", "shown"),
    [(8.0, "8"), (0.5, "0.5"), (0.050412, "0.05041"), (45.0123, "45.01"), (12345.6, "12346"), (0.0, "0")],
)
def test_a_figure_is_shown_as_people_read_it(value: float, shown: str) -> None:
    assert number(value) == shown


def test_what_is_said_names_use_and_limit() -> None:
    said = Budget({"minutes": 0.5, "attempts": 8}).said(Spent(minutes=0.504, attempts=3), ("minutes", "attempts"))
    assert said == "0.504 of 0.5 minutes, 3 of 8 attempts"


# --- money ---


@pytest.mark.parametrize(
    ("outputs", "usd", "fault"),
    [
        ({}, 0.0, ""),
        ({"usd": "0.25"}, 0.25, ""),
        ({"usd": " 1e-3 "}, 0.001, ""),
        ({"usd": "0"}, 0.0, ""),
        ({"usd": "-1"}, 0.0, "usd=-1"),
        ({"usd": "free"}, 0.0, "usd=free"),
        ({"usd": ""}, 0.0, "usd="),
        ({"usd": "nan"}, 0.0, "usd=nan"),
        ({"usd": "inf"}, 0.0, "usd=inf"),
        ({"usd": "$5"}, 0.0, "usd=$5"),
    ],
)
def test_what_is_no_amount_counts_as_nothing_and_is_said(outputs: dict[str, str], usd: float, fault: str) -> None:
    value, said = cost(outputs)
    assert value == usd
    assert (fault in said and "counted as 0" in said) if fault else not said


# --- which limits hold ---


def test_what_was_given_holds_until_the_prompt_says_something_else() -> None:
    grants = {"minutes": Grant(30.0, written=5.0), "usd": Grant(2.0, written=None)}
    assert effective({"minutes": 5.0, "attempts": 3.0}, grants) == {"minutes": 30.0, "attempts": 3.0, "usd": 2.0}
    assert effective({"minutes": 60.0}, grants) == {"minutes": 60.0, "usd": 2.0}
    assert effective({"minutes": 5.0, "usd": 1.0}, grants) == {"minutes": 30.0, "usd": 1.0}


def test_the_operators_ceiling_is_read_from_the_settings(monkeypatch: pytest.MonkeyPatch, home: Any) -> None:
    del home
    monkeypatch.setenv("WORKFLOWMASTER_BUDGET_CONTAINER_MINUTES", "90")
    assert ceiling(Settings(budget_usd=0)) == {"container-minutes": 90.0, "usd": 0.0}


# --- what to type next ---


def test_the_command_gives_twice_as_much_of_what_is_lacking() -> None:
    account = Account(
        limit={"minutes": 5, "build it:attempts": 2, "usd": 0},
        spent={"minutes": 5.1, "build it:attempts": 2, "usd": 0.105},
        over=("minutes", "usd", "build it:attempts"),
    )
    words = "workflowmaster resume task-1 --budget minutes=10,usd=0.21 --budget 'build it:attempts=4'"
    assert command("task-1", account) == words
    assert line(account) == "5.1 of 5 minutes, build it: 2 of 2 attempts, 0.105 of 0 usd"
    assert line(None) == ""


@given(st.sampled_from(LIMITS), st.floats(0.001, 1e5), st.floats(1, 1e3))
def test_what_the_command_gives_is_more_than_was_used(name: str, limit: float, factor: float) -> None:
    account = Account(limit={name: limit}, spent={name: limit * factor}, over=(name,))
    assert float(command("w", account).rpartition("=")[2]) > limit * factor


# --- the ledger ---


def test_time_is_the_sum_of_the_parts_and_not_of_what_lies_between() -> None:
    ledger = read(
        begun(1000),
        entry("closed", 1030, seconds=28.5),
        entry("approval", 9000, step="a", answer="approved by ada"),
        begun(9010),
        entry("closed", 9020, seconds=10.0),
    )
    assert ledger.seconds == pytest.approx(38.5)


@pytest.mark.parametrize(
    ("signs", "seconds"),
    [
        ([], 0.0),
        ([entry("keys", 1007, step="a", key="k")], 7.0),
        ([entry("spent", 1029, worked=30.0), entry("keys", 1035, step="b", key="k")], 35.0),
        ([entry("keys", 400, step="a", key="k")], 0.0),
        ([entry("claim", 5000, who="b"), entry("ended", 5000, container="c"), entry("rerun", 5000, steps=[])], 0.0),
    ],
    ids=["nothing", "a sign", "a tick", "a clock that was put back", "only of those who came later"],
)
def test_a_killed_part_worked_until_its_last_sign_of_life(signs: list[Entry], seconds: float) -> None:
    assert read(begun(1000), *signs, begun(8000)).parts == [seconds, 0.0]


def test_each_container_counts_once_whoever_tells_of_it() -> None:
    before = {"receipts": [{"container_id": "c2", "seconds": 4.0}]}
    ledger = read(
        begun(),
        go("c1", BEGAN),
        entry("spent", BEGAN + 3, step="a", attempt=1, containers={"c1": 3.0}, usd=0.5),
        go("c2", BEGAN + 4, attempt=2, receipts=[{"container_id": "c1", "seconds": 3.0}]),
        go("c3", BEGAN + 8, attempt=2, before=before),
        result("a", 2, {"c1": 3.0, "c2": 4.0, "c3": 1.0}, outputs={"usd": "0.25"}),
        begun(BEGAN + 100),
        result("a", 2, {"c1": 3.0, "c2": 4.0, "c3": 1.0}, outputs={"usd": "0.25"}),
    )
    spent = ledger.spent("a")
    assert (spent.attempts, spent.usd) == (2, 0.75)
    assert spent.container_minutes * 60 == pytest.approx(8.0)
    assert ledger.spent("b") == Spent()


def test_what_another_run_did_costs_this_one_nothing() -> None:
    ledger = read(begun(), result("a", 1, {"c1": 60.0}, workflow="other", outputs={"usd": "3"}))
    assert ledger.spent() == Spent(minutes=pytest.approx(50 / 60))
    assert read(begun(), result("a", 1, {"c1": 60.0}, workflow="w")).spent().container_minutes == 1.0


def test_steps_of_the_host_are_no_attempts() -> None:
    assert read(begun(), result("setup", 1, {})).spent().attempts == 0


@pytest.mark.parametrize(("timeout", "seconds"), [(300.0, 20.0), (5.0, 5.0)])
def test_a_container_whose_end_nobody_saw_worked_as_long_as_it_was_seen(timeout: float, seconds: float) -> None:
    ledger = read(begun(), go("c1", BEGAN + 10, timeout=timeout), entry("spent", BEGAN + 30, worked=30.0))
    assert ledger.spent().container_minutes * 60 == pytest.approx(seconds)
    # Adopted, it has a receipt, and the guess is forgotten.
    ledger.take(result("a", 1, {"c1": 42.0}))
    assert ledger.spent().container_minutes * 60 == pytest.approx(42.0)


def test_the_last_limits_that_were_given_are_known_by_step() -> None:
    ledger = read(
        entry("budget", 1, limits={"minutes": 5.0}, written={"minutes": 1.0}, step=""),
        entry("budget", 2, limits={"minutes": 9.0, "usd": 1.0}, written={}, step=""),
        entry("budget", 3, limits={"attempts": 4.0}, written={"attempts": 2.0}, step="a"),
        entry("budget", 4, limit="minutes", said="spent"),
    )
    assert ledger.grants[""] == {"minutes": Grant(9.0, None), "usd": Grant(1.0, None)}
    assert ledger.grants["a"] == {"attempts": Grant(4.0, 2.0)}


records = st.one_of(
    st.builds(
        lambda step, attempt, seconds, usd: result(step, attempt, {f"{step}{attempt}": seconds}, outputs={"usd": usd}),
        st.sampled_from("abc"),
        st.integers(1, 3),
        st.floats(-5, 500),
        st.sampled_from(["0.1", "0.7", "-3", "x", "nan"]),
    ),
    st.builds(
        lambda step, attempt, seconds: entry(
            "spent", BEGAN, step=step, attempt=attempt, containers={f"{step}-{attempt}": seconds}, usd=0.1
        ),
        st.sampled_from("abc"),
        st.integers(1, 3),
        st.floats(-5, 500),
    ),
)


def name_of(one: Entry) -> object:
    """What a record is about: no attempt was ever told of in two ways."""
    told = one.fields.get("result", one.fields)
    return told["step"], told.get("attempts", told.get("attempt"))


@given(st.lists(records, unique_by=name_of), st.randoms())
def test_the_order_of_results_does_not_matter(entries: list[Entry], random: Any) -> None:
    turned = list(entries)
    random.shuffle(turned)
    for step in ("", "a", "b"):
        assert read(begun(), *entries).spent(step) == read(begun(), *turned).spent(step)


@given(st.lists(records))
def test_sums_are_never_negative_and_reading_twice_changes_nothing(entries: list[Entry]) -> None:
    once, twice = read(begun(), *entries), read(begun(), *entries, *entries)
    assert all(value >= 0 and math.isfinite(value) for value in once.spent().named().values())
    assert once.spent().named() | {"minutes": 0} == twice.spent().named() | {"minutes": 0}


@given(st.lists(st.tuples(st.floats(0, 1e5), st.one_of(st.none(), st.floats(-10, 1e5))), max_size=6))
def test_time_is_never_negative_whatever_clocks_do(parts: list[tuple[float, float | None]]) -> None:
    entries: list[Entry] = []
    for at, seconds in parts:
        entries += [begun(at), entry("keys", at - 50, step="a", key="k")]
        entries += [] if seconds is None else [entry("closed", at, seconds=seconds)]
    assert all(part >= 0 for part in read(*entries).parts)
