"""Where tasks stand: the counts are always all tasks, and what is held up says by what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflowmaster.flows.plan import Decision
from workflowmaster.flows.tracker import Tracker, done, place_of, worth_showing

if TYPE_CHECKING:
    from collections.abc import Callable

STATUSES = ("completed", "failed", "skipped", "blocked", "waiting")
EVENTS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["start", "retry", "escalate", *STATUSES])), max_size=30
)


@pytest.fixture
def diamond(make: Any) -> Tracker:
    steps = [make.step("a"), make.step("b", "a"), make.step("c", "a"), make.step("d", "b", "c"), make.step("e", "d")]
    return Tracker(make.plan(*steps))


def decision(step: str, verb: str = "retry", wait: float = 0.0, **more: Any) -> Decision:
    known = {"reason": "attempts-left: 1 of 2 retries", "attempt": 1, **more}
    return Decision.model_validate({"step": step, "verb": verb, "wait_seconds": wait, **known})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_whatever_happens_the_counts_are_all_tasks(make: Any, events: list[tuple[str, str]]) -> None:
    tracker = Tracker(make.plan(*map(make.step, "abcde")))
    for at, (step, event) in enumerate(events):
        if event == "start":
            tracker.started(step, 1, at)
        elif event in ("retry", "escalate"):
            tracker.decided(decision(step, event), at)
        else:
            tracker.finished(make.result(step, status=event), at)
        places = [task.place for task in tracker.tasks()]
        assert tracker.counts() == {place: places.count(place) for place in tracker.counts()}
        assert sum(tracker.counts().values()) == 5
        assert set(tracker.ended) == {
            task.id for task in tracker.tasks() if task.place not in ("pending", "in_progress")
        }
    assert tracker.changes == len(events)
    assert tracker["e"].place == "pending"


def test_a_step_that_is_retried_waits_and_is_counted_once(diamond: Tracker, make: Any) -> None:
    diamond.started("a", 1, 10.0)
    diamond.decided(decision("a", wait=4.0), 12.0)
    task = diamond["a"]
    assert (task.place, task.between, task.due, place_of(task)) == ("in_progress", True, 16.0, ("↻", "retrying"))
    assert diamond.summary() == "1 retrying, 4 pending"
    assert task.why == "1 of 2 retries"
    diamond.started("a", 2, 16.1)
    assert (diamond["a"].between, diamond["a"].attempt, diamond["a"].reason) == (False, 2, "")
    diamond.finished(make.result("a", make.receipt(0, 1.0), attempts=2), 17.0)
    assert (diamond["a"].place, diamond["a"].attempt, diamond.summary()) == ("completed", 2, "1 completed, 4 pending")
    assert diamond["a"].decision == decision("a", wait=4.0)


def test_what_comes_back_without_having_begun_was_reused(diamond: Tracker, make: Any) -> None:
    diamond.finished(make.result("a", make.receipt(0, 1.0)), 1.0)
    assert (diamond["a"].place, diamond.counts()) == ("reused", {"reused": 1, "pending": 4})
    assert diamond.behind("b") == ()
    assert done(diamond.counts()) == (1, 5)


def test_a_pending_task_waits_for_its_needs_and_a_blocked_one_names_the_cause(diamond: Tracker, make: Any) -> None:
    assert diamond.behind("d") == ("b", "c")
    diamond.finished(make.result("a"), 1.0, reused=False)
    diamond.started("b", 1, 1.0)
    diamond.finished(make.result("b", make.receipt(0, 1.0), status="failed"), 2.0)
    for step in "de":
        diamond.finished(make.result(step, status="blocked"), 2.0)
    assert diamond.behind("d") == ("b",)
    assert diamond.behind("e") == ("b",), "not d, which is only blocked itself"
    assert diamond["e"].attempt == 0


def test_who_waits_for_a_person_who_has_others_wait_is_the_cause(diamond: Tracker, make: Any) -> None:
    diamond.finished(make.result("a"), 1.0, reused=False)
    for step in "bde":
        diamond.finished(make.result(step, status="waiting"), 2.0)
    assert (diamond.behind("e"), diamond.behind("b")) == (("b",), ())


def test_a_state_shows_the_same(shapes: dict[str, Callable[[], Any]]) -> None:
    tracker = Tracker.of(shapes["failing"](), 0.0)
    assert tracker.summary() == "3 completed, 1 reused, 1 failed, 1 blocked"
    assert (tracker["tests"].attempt, tracker["tests"].decision.verb) == (3, "abort")  # type: ignore[union-attr]
    assert tracker.behind("release") == ("tests",)


@pytest.mark.parametrize(("now", "place"), [(105.0, ("↻", "retrying")), (111.0, ("●", "running"))])
def test_a_state_of_a_run_under_way_knows_what_waits(make: Any, now: float, place: tuple[str, str]) -> None:
    plan = make.plan(make.step("a"), make.step("b", "a"))
    state = make.state(plan, [], running=("a",), decisions=(decision("a", wait=10.0, at=100.0),), status="running")
    tracker = Tracker.of(state, now)
    assert place_of(tracker["a"]) == place
    assert tracker["a"].attempt == (1 if place[1] == "retrying" else 2)
    assert tracker.behind("b") == ("a",)


def test_a_retry_that_a_kill_cut_off_is_pending_again(make: Any) -> None:
    state = make.state(make.plan(make.step("a")), [], decisions=(decision("a", wait=10.0, at=100.0),), status="running")
    assert (Tracker.of(state, 101.0)["a"].place, Tracker.of(state, 101.0)["a"].between) == ("pending", False)


def test_phases_are_told_in_the_order_of_the_nine(make: Any) -> None:
    steps = [
        make.step("2", phase="review", kind="approval"),
        make.step("1", phase="initialization", kind="setup"),
        make.step("x", phase="testing"),
        make.step("y", phase="testing"),
    ]
    tracker = Tracker(make.plan(*steps))
    tracker.started("x", 1, 0.0)
    tracker.finished(make.result("x"), 1.0)
    assert tracker.progress() == "initialization 0/1, testing 1/2, review 0/1"
    assert Tracker(make.plan(make.step("x"))).phases() == {}, "a prompt with steps of its own has no phases to tell of"


def test_failures_stay_among_what_is_shown(make: Any) -> None:
    tracker = Tracker(make.plan(*(make.step(f"s{n}") for n in range(30))))
    for n in range(30):
        tracker.started(f"s{n}", 1, n)
        tracker.finished(make.result(f"s{n}", status="failed" if n < 4 else "completed"), n)
    shown = [task.id for task in worth_showing(map(tracker.__getitem__, tracker.ended), 6)]
    assert shown == ["s1", "s2", "s3", "s27", "s28", "s29"]
    assert worth_showing(tracker.tasks(), 0) == []


def test_a_wide_blocked_graph_is_looked_up_quickly(make: Any) -> None:
    steps = [make.step(f"f{n}") for n in range(200)]
    steps += [make.step(f"m{n}", *(s.id for s in steps[:200])) for n in range(200)]
    steps.append(make.step("last", *(f"m{n}" for n in range(200))))
    tracker = Tracker(make.plan(*steps))
    for step in steps:
        status = "failed" if step.id.startswith("f") else "blocked"
        tracker.finished(make.result(step.id, status=status), 0.0)
    assert len(tracker.behind("last")) == 8
