"""What one run did: from records as runs write them, over kills, resumes, retries and what came back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import journal
from workflowmaster.flows.accounts import account
from workflowmaster.flows.plan import Decision, Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflowmaster.flows.accounts import RunAccount, StepAccount

START = 1_700_000_000.0


class Story:
    """A run of one step, written down by hand: each line is what the run would have recorded."""

    def __init__(self, kept: Any, make: Any) -> None:
        self.kept, self.make = kept, make
        self.containers = 0
        kept.begin()

    def go(self, step: str = "a", attempt: int = 1, **more: Any) -> str:
        self.containers += 1
        name = f"c{self.containers}"
        self.kept.records.append("go", step=step, attempt=attempt, purpose="work", container=name, **more)
        return name

    def receipt(self, container: str, seconds: float = 1.0, **more: Any) -> Any:
        return self.make.receipt(float(container[1:]), seconds, container_id=container, **more)

    def decide(self, verb: str = "retry", step: str = "a", **more: Any) -> None:
        known = {"reason": f"rule-of-{verb}: because", "rule": f"rule-of-{verb}", **more}
        decision = Decision(step=step, verb=verb, **known)
        self.kept.records.append("decision", key="k", **decision.model_dump(mode="json"))

    def end(self, status: str, *containers: str, step: str = "a", reused: bool = False, **more: Any) -> None:
        known = {"workflow": self.kept.folder.id, "status": status, **more}
        result = self.make.result(step, *map(self.receipt, containers), **known)
        self.kept.records.append("result", step=step, reused=reused, result=result.model_dump(mode="json"))

    def account(self, **more: Any) -> RunAccount:
        state = self.kept.folder.state()
        return account(state, journal.read(self.kept.folder.journal).entries, **more)

    @property
    def a(self) -> StepAccount:
        return self.account().steps[0]


@pytest.fixture
def story(run_of: Callable[..., Any], make: Any) -> Story:
    return Story(run_of(), make)


def test_a_retried_step_has_all_its_attempts_and_each_decision_its_outcome(story: Story) -> None:
    first = story.go()
    story.decide(attempt=1, wait_seconds=2.5, failure=Failure(cls="network", fingerprint="f" * 16))
    second = story.go(attempt=2)
    story.decide(attempt=2)
    third = story.go(attempt=3)
    story.end("completed", first, second, third, attempts=3)
    found = story.a
    assert (found.attempts, found.retries, len(found.receipts), found.unaccounted) == (3, 2, 3, 0)
    assert [(one.verb, one.outcome, one.wait_seconds) for one in found.decisions] == [
        ("retry", "failed", 2.5),
        ("retry", "succeeded", 0.0),
    ]
    assert [one.failure for one in found.decisions] == ["network", ""]


def test_what_a_failed_part_did_is_not_forgotten_when_a_later_one_succeeds(story: Story) -> None:
    """The state holds the second result alone, with the second container alone."""
    one, two = story.go(), story.go(attempt=2)
    story.end("failed", one, two, attempts=2)
    story.kept.close("partial")
    story.kept.begin()
    three = story.go(attempt=3)
    story.end("completed", three, attempts=3)
    assert len(story.kept.folder.state().results["a"].receipts) == 1
    found = story.account()
    assert (found.parts, found.steps[0].attempts, found.steps[0].status) == (2, 3, "completed")
    assert {receipt.container_id for receipt in found.steps[0].receipts} == {one, two, three}


def test_a_killed_container_counts_and_its_receipt_is_missing(story: Story) -> None:
    one = story.go()
    failed = story.receipt(one, exit_code=1).model_dump(mode="json")
    story.decide()
    story.go(attempt=2, receipts=[failed])
    found = story.account(alive=False)
    assert found.standing == "interrupted"
    assert (found.steps[0].attempts, len(found.steps[0].receipts), found.steps[0].unaccounted) == (2, 1, 1)
    assert [decision.outcome for decision in found.steps[0].decisions] == ["unfinished"]
    assert story.account(alive=True).standing == "going"


def test_a_result_that_comes_back_is_counted_where_it_was_made(story: Story) -> None:
    one = story.go()
    story.end("completed", one)
    story.kept.close("partial")
    story.kept.begin()
    story.end("completed", one, reused=True)
    found = story.account()
    assert (found.steps[0].reused, found.steps[0].attempts, len(found.steps[0].receipts)) == (True, 1, 1)


def test_the_work_of_another_run_is_none_of_ours(story: Story) -> None:
    story.end("completed", "c7", reused=True, workflow="task-other")
    assert (story.a.status, story.a.attempts, story.a.receipts, story.a.seconds) == ("completed", 0, (), None)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"answer": "approved by ada"}, "approve"),
        ({"answer": "denied by ada"}, "deny"),
        ({"answer": "approved by ada", "verb": "skip"}, "skip"),
        ({"answer": ""}, "open"),
        (None, "open"),
    ],
)
def test_an_escalation_ends_with_its_answer(story: Story, answer: dict[str, str] | None, outcome: str) -> None:
    story.decide("escalate")
    story.end("waiting", story.go())
    story.kept.close("waiting")
    if answer is not None:
        story.kept.records.append("approval", step="a", at=journal_time(story) + 90, **answer)
    found = story.account()
    assert [one.outcome for one in found.steps[0].decisions] == [outcome]
    assert (len(found.person_waits), found.open_questions) == ((0, 1) if outcome == "open" else (1, 0))
    assert all(wait == pytest.approx(90, abs=1) for wait in found.person_waits)


def journal_time(story: Story) -> float:
    return journal.read(story.kept.folder.journal).entries[-1].at


def test_nobody_answered_a_run_that_has_ended(story: Story) -> None:
    story.decide("escalate")
    story.end("failed", story.go())
    story.kept.close("failed")
    assert [one.outcome for one in story.a.decisions] == ["unanswered"]


@pytest.mark.parametrize("verb", ["skip", "continue", "abort"])
def test_what_gave_a_step_up_is_judged_by_the_runs_end(story: Story, verb: str) -> None:
    story.decide(verb)
    story.end("failed", story.go())
    story.kept.close("partial")
    assert [(one.verb, one.outcome) for one in story.a.decisions] == [(verb, "partial")]


def test_the_parts_add_up_and_a_killed_one_ends_with_its_last_record(story: Story) -> None:
    records, began = story.kept.records, journal_time(story)
    fields = journal.read(story.kept.folder.journal).entries[0].fields
    records.append("keys", step="b", key="k", at=START + 30)
    # Whoever resumes it writes before the next part begins, and that is no sign of life of the last one.
    records.append("claim", epoch=2, owner="another", at=START + 990)
    records.append("ended", container="c9", at=START + 995)
    records.append("begun", **{**fields, "started_at": START + 1000})
    records.append("closed", at=START + 1009, **closing(story, 9.0))
    assert began > 0
    found = story.account()
    assert (found.started_at, found.worked, found.elapsed, found.parts) == (START, 39.0, 1009.0, 2)


def closing(story: Story, seconds: float) -> dict[str, Any]:
    from workflowmaster.flows import snapshots

    return {**snapshots.closing(story.kept.folder.state()), "status": "completed", "seconds": seconds}


def test_without_records_the_state_alone_is_counted(shapes: dict[str, Callable[[], Any]]) -> None:
    found = account(shapes["failing"]())
    steps = {step.id: step for step in found.steps}
    assert {name: step.attempts for name, step in steps.items() if step.attempts > 1} == {"fix": 2, "tests": 3}
    assert [one.outcome for name in ("fix", "tests") for one in steps[name].decisions] == [
        "succeeded",
        "failed",
        "partial",
    ]
    assert (found.worked, found.parts, steps["release"].attempts) == (pytest.approx(15.9), 1, 0)


def test_a_run_that_has_not_begun_has_done_nothing(run_of: Callable[..., Any]) -> None:
    found = account(run_of().folder.state())
    assert [(step.attempts, step.receipts, step.decisions) for step in found.steps] == [(0, (), ())] * 3
    assert (found.worked, found.elapsed, found.standing) == (0.0, 0.0, "interrupted")


def test_a_decisions_own_time_is_that_of_its_record(story: Story) -> None:
    story.decide(at=START + 7, wait_seconds=30)
    story.decide()
    first, second = story.kept.folder.state().decisions
    assert first.at == START + 7
    assert second.at > START + 7, "one without a time has its record's"
