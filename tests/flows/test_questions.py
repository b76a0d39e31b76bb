"""Questions and answers as the records tell them, and what they mean for their steps. Pure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows import obeying
from workflowmaster.flows.journal import Entry
from workflowmaster.flows.past import Finished, Past
from workflowmaster.flows.plan import Decision, Limits, Plan, PromptRef, Source, Step, StepResult
from workflowmaster.flows.questions import (
    DONE,
    FITS,
    VERBS,
    Answer,
    Book,
    Question,
    answer_of,
    command,
    folded,
    moot,
    open_of,
    spelled,
)

MIB = 2**20


def asked(number: int, step: str = "b", sort: str = "escalation", **fields: Any) -> Entry:
    given_fields = {"number": number, "step": step, "sort": sort, "why": "exit 1", **fields}
    body = Question.model_validate(given_fields).model_dump(mode="json")
    return Entry("question", 100.0 + number, body, 0)


def answered(number: int, verb: str, step: str = "b", at: float = 200.0, **fields: Any) -> Entry:
    one = Answer.model_validate({"question": number, "step": step, "verb": verb, "by": "ada", **fields})
    return Entry("approval", at, one.fields(), 0)


def entry(kind: str, **fields: Any) -> Entry:
    return Entry(kind, 300.0, fields, 0)


def run_of(*entries: Entry, approvals: dict[str, str] | None = None, commits: dict[str, str] | None = None) -> Any:
    """A run of two steps, b after a, with these records; `a` has ended with a commit."""
    steps = [Step(id=name, name=name, kind="command", needs=needs, source=Source(line=1, end_line=1)) for name, needs in
             (("a", ()), ("b", ("a",)))]  # fmt: skip
    plan = Plan(name="p", compiler="1", tasks=tuple(steps), prompt=PromptRef(path="p", sha256="0", kind="explicit"))
    ended = {
        name: StepResult(step=name, status="completed", key="k", commit=commit)
        for name, commit in (commits or {"a": "c1"}).items()
    }
    return SimpleNamespace(
        id="task-1",
        plan=plan,
        steps={step.id: step for step in steps},
        past=Past(book=folded(list(entries))),
        record=SimpleNamespace(approvals=approvals or {}),
        results=ended,
        inputs={},
        keys={},
        decisions=[],
        grown={},
        store=SimpleNamespace(base="base"),
        claim=SimpleNamespace(epoch=1),
    )


def verb_of(run: Any, step: str = "b") -> str | None:
    found = answer_of(run, step)
    return found.verb if found else None


def test_a_question_is_open_until_it_is_answered() -> None:
    book = folded([asked(1), asked(2, "a")])
    assert [one.number for one in book.open] == [1, 2]
    book.take(answered(1, "retry", note="again"))
    assert [one.number for one in book.open] == [2]
    assert book.answers[1].reason == "retried by ada: again"
    assert book.next == 3


def test_a_retry_that_fails_asks_again_and_the_old_answer_does_not_count() -> None:
    run = run_of(asked(1, inputs={"a": "c1"}), answered(1, "retry"), asked(2, inputs={"a": "c1"}))
    assert verb_of(run) is None
    found = open_of(run, "b")
    assert found
    assert found.number == 2
    run.past.book.take(answered(2, "skip"))
    assert verb_of(run) == "skip"


def test_an_approval_holds_whatever_comes_and_a_failure_is_about_its_inputs() -> None:
    entries = [asked(1, sort="approval"), answered(1, "approve"), asked(2, inputs={"a": "c1"}), answered(2, "skip")]
    assert verb_of(run_of(*entries)) == "skip"
    # Another input: what was said of the failure is moot, and the approval before it holds.
    assert verb_of(run_of(*entries, commits={"a": "c2"})) == "approve"
    assert open_of(run_of(asked(1, inputs={"a": "c1"}), commits={"a": "c2"}), "b") is None


@pytest.mark.parametrize(
    ("records", "open_then", "verb"),
    [
        ([entry("question", number=1, step="b", withdrawn="other inputs")], [], None),
        ([entry("rerun", steps=["b"], generation=1)], [], None),
        ([entry("rerun", steps=["a"], generation=1)], [1], None),
        ([entry("approval", step="b", answer="")], [], None),
        ([answered(1, "skip"), entry("approval", step="b", answer="")], [], None),
        ([answered(1, "skip"), entry("rerun", steps=["b"], generation=1)], [], "skip"),
        ([answered(1, "skip"), entry("closed", status="completed")], [], "skip"),
        ([answered(1, "deny"), entry("closed", status="waiting")], [], "deny"),
        # Whoever resumes what was given up wants it tried.
        ([answered(1, "deny"), entry("closed", status="partial")], [], None),
        ([answered(1, "abort"), entry("closed", status="aborted")], [], None),
    ],
)
def test_what_closes_a_question_and_undoes_an_answer(
    records: list[Entry], open_then: list[int], verb: str | None
) -> None:
    run = run_of(asked(1, inputs={"a": "c1"}), *records)
    assert [one.number for one in run.past.book.open] == open_then
    assert verb_of(run) == verb


def test_a_denied_approval_stays_denied() -> None:
    run = run_of(asked(1, sort="approval"), answered(1, "deny"), entry("closed", status="failed"))
    assert verb_of(run) == "deny"


def test_answers_are_fresh_until_somebody_goes_on() -> None:
    book = folded([asked(1), answered(1, "skip")])
    assert [one.verb for one in book.fresh] == ["skip"]
    book.take(entry("begun"))
    assert book.fresh == []


def test_records_of_before_questions_were_counted() -> None:
    book = folded([entry("approval", step="b", answer="approved by ada lovelace")])
    run = run_of()
    run.past.book = book
    answer = answer_of(run, "b")
    assert answer
    assert (answer.verb, answer.by, answer.question) == ("approve", "ada lovelace", 0)
    book.take(entry("approval", step="b", answer=""))
    assert answer_of(run, "b") is None


def test_the_runs_own_account_speaks_where_the_records_are_lost() -> None:
    assert verb_of(run_of(approvals={"b": "denied by ada"})) == "deny"
    # Where they are not, they have the last word.
    closed = [asked(1, inputs={"a": "c1"}), answered(1, "abort"), entry("closed", status="aborted")]
    assert verb_of(run_of(*closed, approvals={"b": "aborted by ada"})) is None


@pytest.mark.parametrize("verb", VERBS)
def test_words_and_answers_are_the_same(verb: Any) -> None:
    one = Answer(question=3, step="b", verb=verb, by="ada by the sea", note="n", limits=Limits(memory=MIB))
    assert spelled("b", one.sentence).verb == verb
    assert spelled("b", one.sentence).by == "ada by the sea"
    book = folded([asked(3), Entry("approval", 7.0, one.fields(), 0)])
    assert book.answers[3] == one.model_copy(update={"at": 7.0})
    assert DONE[verb] in one.reason


@pytest.mark.parametrize(
    ("due", "otherwise", "now", "late"),
    [(None, "skip", 9e9, False), (100.0, "skip", 99.9, False), (100.0, "skip", 100.0, True), (1.0, "wait", 9.0, False)],
)
def test_when_a_question_is_late(due: float | None, otherwise: Any, now: float, *, late: bool) -> None:
    assert Question(number=1, step="b", sort="approval", why="", due=due, otherwise=otherwise).late(now) is late


def test_a_command_is_quoted_and_plain_where_it_can_be() -> None:
    gate = Question(number=1, step="tests/3.11 x", sort="approval", why="")
    assert command("task-1", gate) == "workflowmaster approve task-1 --step 'tests/3.11 x'"
    assert command("task-1", gate, "deny").endswith(" --deny")
    assert command("task-1", gate.model_copy(update={"sort": "escalation"})).endswith(" --retry")


@given(
    st.lists(
        st.one_of(
            st.builds(asked, st.integers(1, 4), st.sampled_from("ab"), st.sampled_from(["approval", "escalation"])),
            st.builds(answered, st.integers(1, 4), st.sampled_from(VERBS), st.sampled_from("ab")),
            st.builds(lambda s: entry("closed", status=s), st.sampled_from(["waiting", "aborted", "failed"])),
            st.builds(lambda s: entry("rerun", steps=[s], generation=1), st.sampled_from("ab")),
            st.builds(lambda s: entry("approval", step=s, answer=""), st.sampled_from("ab")),
        ),
        max_size=12,
    )
)
def test_no_order_of_records_breaks_the_book(entries: list[Entry]) -> None:
    book = folded(entries)
    numbers = {one.number for one in book.open}
    assert not numbers & (set(book.answers) | set(book.closed))
    for step in "ab":
        run = run_of()
        run.past.book = book
        assert open_of(run, step) is None or answer_of(run, step) is None


# --- what an answer means for its step ---


FAILED = {"step": "b", "status": "waiting", "key": "k", "commit": "in", "input_commit": "in", "attempts": 2}


@pytest.mark.parametrize(
    ("verb", "status", "given_up", "refused"),
    [
        ("retry", None, False, False),
        ("skip", "skipped", True, False),
        ("deny", "failed", False, True),
        ("abort", "failed", False, True),
    ],
)
def test_an_answer_about_a_failure_decides_its_step(verb: str, status: str | None, *, given_up: bool, refused: bool):
    run = run_of(asked(1, inputs={"a": "c1"}), answered(1, verb, note="n"))
    run.past.finished["b"] = Finished("k", FAILED, "", "")
    found = obeying.before(run.steps["b"], run)
    assert (found and found.status) == status
    # What goes on builds on what the failed step had to start from, and its attempts are still told.
    assert found is None or (found.commit, found.attempts, found.reason.endswith(" by ada: n")) == ("in", 2, True)
    assert (obeying.given_up(run.steps["b"], run), obeying.refused(run.steps["b"], run)) == (given_up, refused)


def test_an_open_question_keeps_its_step_waiting_whoever_goes_on() -> None:
    run = run_of(asked(1, inputs={"a": "c1"}))
    run.past.finished["b"] = Finished("k", FAILED, "", "")
    found = obeying.before(run.steps["b"], run)
    assert found
    assert (found.status, found.reason, found.attempts) == ("waiting", "exit 1", 2)


def test_a_skipped_approval_takes_its_dependants_along() -> None:
    run = run_of(asked(1, sort="approval"), answered(1, "skip"))
    assert not obeying.given_up(run.steps["b"], run)
    kept = run_of(asked(1, inputs={"a": "c1"}, dependants_run=False), answered(1, "skip"))
    assert not obeying.given_up(kept.steps["b"], kept)


def test_limits_of_an_answer_add_to_what_had_grown_and_a_later_decision_wins() -> None:
    run = run_of(asked(1), answered(1, "retry", limits={"memory": 256 * MIB}, at=200.0))
    run.grown = {"b": Limits(seconds=60.0)}
    assert obeying.granted(run) == {"b": Limits(memory=256 * MIB, seconds=60.0)}
    grew = {"step": "b", "verb": "retry", "reason": "r", "limits": {"memory": 512 * MIB}}
    run.decisions = [Decision.model_validate({**grew, "at": 150.0})]
    assert obeying.granted(run)
    run.decisions = [Decision.model_validate({**grew, "at": 250.0})]
    assert obeying.granted(run) == {}


def test_an_abort_is_found_before_anything_runs() -> None:
    assert obeying.aborted(run_of(asked(1), answered(1, "retry"))) is None
    found = obeying.aborted(run_of(asked(1), answered(1, "abort")))
    assert found
    assert found.verb == "abort"


def test_every_sort_has_a_plain_way_on_and_a_way_out() -> None:
    for sort, verbs in FITS.items():
        assert verbs[0] == ("approve" if sort == "approval" else "retry")
        assert {"skip", "abort", "deny"} < set(verbs)
    assert Book().next == 1
    assert moot(Question(number=1, step="b", sort="escalation", why="", inputs={"a": "other"}), run_of())
