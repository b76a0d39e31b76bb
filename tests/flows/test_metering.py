"""The meter of a run under way, by a clock that the test holds."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows import compiler, granting, metering, prompts
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.budgets import Ledger
from workflowmaster.flows.journal import Journal
from workflowmaster.flows.metering import Meter
from workflowmaster.flows.plan import Plan, StepResult
from workflowmaster.flows.settings import Settings

STEPS = """\
# T

## Steps

### one
- budget: {minutes: 2, attempts: 2}
```bash
true
```

### two
```bash
true
```
"""


def plan(budget: str = "{minutes: 10, attempts: 5, container-minutes: 4, usd: 1}") -> Plan:
    head = f"---\nbudget: {budget}\n---\n" if budget else ""
    done = compiler.compile_prompt(prompts.parse(f"{head}{STEPS}".encode(), "p.md"))
    assert done.plan, done.diagnostics
    return done.plan


@dataclass
class Clock:
    """Seconds that this part of the run has worked."""

    at: float = 0.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Run:
    clock: Clock = field(default_factory=Clock)
    plan: Plan = field(default_factory=plan)
    settings: Settings = field(default_factory=Settings)
    ledger: Ledger = field(default_factory=lambda: Ledger("w"))

    def __post_init__(self) -> None:
        self.meter = Meter(self.plan, self.settings, self.ledger, self.clock)

    def does(self, step: str, attempt: int, seconds: float, **outputs: str) -> None:
        """Let a step's container work, and take its result in."""
        container = f"{step}-{attempt}"
        self.meter.begins(step, attempt, container)
        self.clock.at += seconds
        self.meter.ends(container, seconds)
        receipts = (Receipt(container_id=container, seconds=seconds),)
        known: dict[str, Any] = {"step": step, "status": "failed", "key": "k", "attempts": attempt}
        self.meter.took(StepResult(**known, receipts=receipts, outputs=outputs, workflow="w"))


@pytest.fixture
def run(home: Any) -> Run:
    del home
    return Run()


def test_a_run_without_a_budget_has_no_limit_and_counts_all_the_same(home: Any) -> None:
    del home
    text = STEPS.replace("- budget: {minutes: 2, attempts: 2}\n", "")
    bare = compiler.compile_prompt(prompts.parse(text.encode(), "p.md")).plan
    assert bare
    run = Run(plan=bare)
    run.does("one", 1, 60.0, usd="2")
    assert not run.meter
    assert (run.meter.over("one"), run.meter.over(None), run.meter.tick()) == ("", "", float("inf"))
    assert run.meter.account().spent == {"minutes": 1.0, "attempts": 1, "container-minutes": 1.0, "usd": 2.0}


def test_a_containers_time_counts_while_it_runs_and_by_its_receipt_afterwards(run: Run) -> None:
    run.meter.begins("two", 1, "c1")
    run.clock.at = 30.0
    assert run.meter.spent().container_minutes == 0.5
    assert run.meter.ends("c1", 27.0) == 27.0
    assert run.meter.spent("two").container_minutes * 60 == pytest.approx(27.0)
    assert run.meter.ends("c1") is None


def test_two_containers_use_container_minutes_twice_as_fast(run: Run) -> None:
    run.meter.begins("one", 1, "c1")
    assert run.meter.due() == pytest.approx(240.0)
    run.meter.begins("two", 1, "c2")
    assert run.meter.due() == pytest.approx(120.0)
    run.clock.at = 119.0
    assert (run.meter.pressing(), run.meter.due()) == ("", pytest.approx(1.0))
    run.clock.at = 120.0
    assert run.meter.pressing() == "the budget of the run is spent: 4 of 4 container-minutes"
    assert run.meter.names() == ("container-minutes",)


def test_minutes_run_out_by_the_clock_alone(run: Run) -> None:
    run.clock.at = 599.0
    assert (run.meter.over(None), run.meter.due()) == ("", pytest.approx(1.0))
    run.clock.at = 600.0
    assert run.meter.over(None) == run.meter.pressing() == "the budget of the run is spent: 10 of 10 minutes"


def test_earlier_parts_count(home: Any) -> None:
    del home
    run = Run(ledger=Ledger("w", parts=[500.0], tried={("two", 1), ("two", 2)}))
    run.clock.at = 99.0
    assert not run.meter.over(None)
    run.clock.at = 100.0
    assert run.meter.over(None)
    assert run.meter.spent().attempts == 2


def test_attempts_and_money_stop_nothing_that_runs(run: Run) -> None:
    for number in (1, 2, 3, 4):
        run.does("two", number, 1.0, usd="0.3")
    assert run.meter.over(None) == "the budget of the run is spent: 1.2 of 1 usd"
    assert run.meter.pressing() == ""


def test_a_granted_attempt_counts_until_its_go_so_that_none_is_granted_twice(run: Run) -> None:
    for number in (1, 2, 3):
        run.does("two", number, 1.0)
    run.meter.reserve("one")
    assert not run.meter.over(None)
    run.meter.reserve("two")
    assert "5 of 5 attempts" in run.meter.over(None)
    # Not against the one it was granted to, whose failure before go may still be tried again.
    assert run.meter.over("two") == ""
    run.meter.begins("two", 4, "c")
    run.meter.begins("one", 1, "d")
    assert "5 of 5 attempts" in run.meter.over("two")


def test_a_step_has_its_own_limits_first(run: Run) -> None:
    run.does("one", 1, 30.0)
    assert not run.meter.over("one")
    run.does("one", 2, 30.0)
    assert run.meter.over("one") == run.meter.own("one") == "the budget of step one is spent: 2 of 2 attempts"
    assert (run.meter.over("two"), run.meter.over(None)) == ("", "")
    assert run.meter.names("one") == ("one:attempts",)


def test_a_steps_container_has_what_its_budget_leaves(run: Run) -> None:
    assert (run.meter.seconds("one", 300.0), run.meter.seconds("one", 60.0)) == (120.0, 60.0)
    assert run.meter.seconds("two", 300.0) == 300.0
    run.does("one", 1, 100.0)
    assert run.meter.seconds("one", 300.0) == pytest.approx(20.0)
    # A container that was adopted counts from its go, so its own time is not taken off it.
    run.meter.begins("one", 2, "adopted", elapsed=15.0)
    assert run.meter.seconds("one", 300.0) == pytest.approx(20.0)
    run.clock.at += 60
    assert run.meter.ends("adopted") == pytest.approx(75.0)
    assert run.meter.seconds("one", 300.0) == metering.LEAST


@pytest.mark.parametrize(("timed_out", "told"), [(True, True), (False, False)])
def test_a_step_that_its_budget_has_stopped_says_so(run: Run, timed_out: bool, told: bool) -> None:
    run.does("one", 1, 121.0)
    receipt = Receipt(timed_out=timed_out, seconds=121.0)
    said = "it was stopped, because the budget of step one is spent: 2.017 of 2 minutes"
    assert run.meter.told("one", "exit 7", receipt) == (said if told else "exit 7")


def test_people_are_warned_at_four_fifths(run: Run) -> None:
    run.clock.at = 479.0
    assert run.meter.low() == {}
    run.clock.at = 481.0
    assert run.meter.low() == {"minutes": "8.017 of 10 minutes"}
    run.does("one", 1, 97.0)
    assert "one:minutes" in run.meter.low()


@pytest.mark.parametrize(
    ("budget", "tick"),
    [("{minutes: 0.1}", 1.0), ("{minutes: 45}", 1.2), ("{usd: 1}", 1.2), ("{container-minutes: 1}", 1.0)],
)
def test_how_long_it_worked_is_written_down_as_often_as_its_smallest_limit_asks(
    home: Any, budget: str, tick: float
) -> None:
    del home
    assert Run(plan=plan(budget)).meter.tick() == pytest.approx(tick)


def test_the_account_names_the_limits_that_stopped_it_and_no_others(run: Run) -> None:
    run.does("one", 1, 1.0)
    run.does("one", 2, 1.0)
    assert run.meter.account().over == ()
    run.meter.stopped_by = ("one:attempts",)
    account = run.meter.account()
    assert (account.over, account.limit["one:attempts"], account.spent["one:attempts"]) == (("one:attempts",), 2, 2)
    assert account.limit["usd"] == 1


# --- larger ones ---


def test_a_limit_that_is_given_frees_the_run(run: Run) -> None:
    run.clock.at = 700.0
    assert run.meter.over(None)
    run.meter.grant("", {"minutes": 20.0, "usd": 3.0}, by="ada")
    assert not run.meter.over(None)
    run.meter.grant("two", {"attempts": 1.0})
    assert [(one["step"], one["written"]) for one in run.meter.granted] == [
        ("", {"minutes": 10, "usd": 1}),
        ("two", {}),
    ]
    assert run.meter.steps["two"].limits == {"attempts": 1.0}


def test_the_operators_ceiling_stays_above_all(home: Any) -> None:
    del home
    run = Run(settings=Settings(budget_minutes=4))
    assert run.meter.run.limits["minutes"] == 4
    run.meter.grant("", {"minutes": 20.0})
    assert run.meter.run.limits["minutes"] == 4
    said = metering.further("w", run.meter, ["minutes"])
    assert said.startswith("The operator's setting budget_minutes allows no more")


def test_how_it_goes_on_is_said_with_the_command(run: Run) -> None:
    run.clock.at = 600.0
    said = metering.further("task-1", run.meter, run.meter.names())
    assert said == "`workflowmaster resume task-1 --budget minutes=20` goes on with twice as much"


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], {}),
        (["minutes=30,usd=5"], {"": {"minutes": 30.0, "usd": 5.0}}),
        (["minutes=0.5", "usd=0"], {"": {"minutes": 0.5, "usd": 0.0}}),
        (["a/3.11:attempts=4", "minutes=1"], {"a/3.11": {"attempts": 4.0}, "": {"minutes": 1.0}}),
        (["minutes=1", "minutes=2"], {"": {"minutes": 2.0}}),
    ],
)
def test_what_the_command_line_gives_is_read(texts: list[str], found: granting.Wanted) -> None:
    assert granting.wanted(texts) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("minuts=3", "did you mean 'minutes'?"),
        ("", "limits are minutes, attempts"),
        ("minutes", "minutes is a number above 0, and not nothing"),
        ("minutes=0", "minutes is a number above 0"),
        ("minutes=-3", "minutes is a number above 0, and not -3"),
        ("minutes=1e9", "minutes is a number above 0"),
        ("minutes=5m", "minutes is a number above 0, and not 5m"),
        ("attempts=1.5", "attempts is a whole number above 0"),
        ("usd=free", "usd is 0 or more"),
        ("minutes=1,", "limits are minutes"),
    ],
)
def test_what_is_no_limit_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadOption) as refused:
        granting.wanted([text])
    assert str(refused.value).startswith(f"--budget {text}: ")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"": {"minutes": 8.0}}, "--budget minutes=8: the run has used 8.333 minutes already; give more than that"),
        ({"two": {"attempts": 2.0}}, "step two has used 2 attempts already"),
        ({"": {"usd": 9.0}}, "--budget usd=9: the operator's setting budget_usd allows 5"),
        ({"tow": {"attempts": 9.0}}, "has no step 'tow'; did you mean 'two'?"),
    ],
)
def test_a_budget_that_would_not_help_is_refused(home: Any, given: granting.Wanted, said: str) -> None:
    del home
    ledger = Ledger("w", parts=[500.0], tried={("two", 1), ("two", 2)})
    with pytest.raises(BadOption) as refused:
        granting.admit(given, plan(), Settings(budget_usd=5), ledger)
    assert said in str(refused.value)


def test_one_that_helps_is_admitted(home: Any) -> None:
    del home
    ledger = Ledger("w", parts=[500.0], tried={("two", 1)})
    granting.admit({"": {"minutes": 8.5, "usd": 0.0}, "two": {"attempts": 2.0}}, plan(), Settings(), ledger)


def test_what_was_given_is_found_again_in_the_records(home: Any, tmp_path: Any) -> None:
    del home
    from workflowmaster.flows.past import past

    run, journal = Run(), Journal(tmp_path / "records.jsonl")
    run.meter.grant("", {"minutes": 20.0}, by="ada")
    journal.append("budget", **run.meter.granted[0])
    journal.close()
    later = past(tmp_path / "records.jsonl").ledger
    assert Run(ledger=later).meter.run.limits["minutes"] == 20.0
    assert Run(ledger=later, plan=plan("{minutes: 3}")).meter.run.limits["minutes"] == 3


@pytest.mark.parametrize(("usd", "raised"), [("0.2", False), ("1.5", True)])
def test_a_retry_is_not_begun_once_others_have_spent_the_money_for_it(run: Run, usd: str, raised: bool) -> None:
    run.does("one", 1, 1.0, usd=usd)
    journey: Any = SimpleNamespace(budget=run.meter)
    step, failed = run.plan.step("two"), RuntimeError("exit 7")
    metering.must_afford(journey, step, None)
    with pytest.raises(RuntimeError, match="exit 7") if raised else nullcontext():
        metering.must_afford(journey, step, failed)
