"""The command `approve`, the time-out rule and the list of what waits, on real folders and real locks."""

from __future__ import annotations

import argparse
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.forge import LocalForge
from workflowmaster.flows import answering, claim, cli, folders, overdue, waitinglist
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.fitting import Wish
from workflowmaster.flows.journal import read
from workflowmaster.flows.journey import Record
from workflowmaster.flows.past import past
from workflowmaster.flows.questions import Question

if TYPE_CHECKING:
    from collections.abc import Callable

ADA = Wish(by="ada")


@pytest.fixture
def waiting(run_of: Callable[..., Any]) -> Callable[..., Any]:
    """A run whose step `a` waits for approval and whose `b` has failed and asks, unless it is said otherwise."""

    def make(*, hours: float | None = None, otherwise: Any = "skip", workflow: str = "task-kept") -> Any:
        run = run_of(workflow=workflow)
        run.begin()
        now = time.time()
        for number, (step, sort) in enumerate((("a", "approval"), ("b", "escalation")), 1):
            due = None if hours is None else now + hours * 3600
            asked = Question(number=number, step=step, sort=sort, why=f"{step}?", due=due, asked_at=now - 60)
            run.records.append("question", **asked.model_copy(update={"otherwise": otherwise}).model_dump(mode="json"))
            run.settle(step, "waiting")
        run.close("waiting")
        return run

    return make


def given(*words: str) -> argparse.Namespace:
    return cli.parser().parse_args(["approve", "task-kept", *words])


def verbs(run: Any) -> dict[str, str]:
    book = past(run.folder.journal).book
    return {answer.step: answer.verb for answer in book.answers.values()}


def test_an_answer_is_kept_in_all_places_at_once(waiting: Callable[..., Any]) -> None:
    run = waiting()
    with claim.take(run.folder):
        overdue.put(run.folder, answering.chosen(run.folder, "b", Wish(by="ada", verb="skip"), everything=False))
    assert verbs(run) == {"b": "skip"}
    assert [one.step for one in past(run.folder.journal).book.open] == ["a"]
    assert folders.kept(run.folder.record, Record).approvals == {"b": "skipped by ada"}
    assert '"event":"approval"' in run.folder.audit.read_text()
    # Older versions read the words only.
    (entry,) = read(run.folder.journal).of("approval")
    assert entry.fields["answer"] == "skipped by ada"


@pytest.mark.parametrize(
    ("step", "wish", "everything", "error", "message"),
    [
        (None, ADA, False, NeedsPerson, "more than one step waits (a, b): name it with --step, or answer --all"),
        ("c", ADA, False, BadOption, "--step c: task-kept has no such step waiting; waiting: a, b"),
        ("a", Wish(by="ada", verb="retry"), False, BadOption, "step a: it waits for approval and has not failed"),
        (None, Wish(by="ada", verb="retry"), True, BadOption, "step a: it waits for approval and has not failed"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    waiting: Callable[..., Any], step: str | None, wish: Wish, everything: Any, error: type[Exception], message: str
) -> None:
    run = waiting()
    with pytest.raises(error, match=r".") as refused:
        answering.chosen(run.folder, step, wish, everything=everything)
    assert message in str(refused.value)
    assert verbs(run) == {}


def test_all_are_answered_alike(waiting: Callable[..., Any]) -> None:
    run = waiting()
    answers = answering.chosen(run.folder, None, ADA, everything=True)
    assert [(one.step, one.verb) for one in answers] == [("a", "approve"), ("b", "retry")]


def test_who_comes_second_is_told_who_was_first(waiting: Callable[..., Any]) -> None:
    run = waiting()
    overdue.put(run.folder, answering.chosen(run.folder, "b", ADA, everything=False))
    with pytest.raises(BadOption, match=r"waiting: a\. Its question was answered: retried by ada, 20") as refused:
        answering.chosen(run.folder, "b", ADA, everything=False)
    assert "no such step waiting" in str(refused.value)
    overdue.put(run.folder, answering.chosen(run.folder, "a", ADA, everything=False))
    with pytest.raises(NeedsPerson, match="no step waits; step b is retried by ada; step a is approved by ada"):
        answering.chosen(run.folder, None, ADA, everything=False)


@pytest.mark.parametrize("status", ["completed", "aborted", "failed", "partial"])
def test_a_run_that_has_ended_asks_nobody(waiting: Callable[..., Any], status: str) -> None:
    run = waiting()
    run.close(status)
    with pytest.raises(NeedsPerson, match="no step waits"):
        answering.chosen(run.folder, None, ADA, everything=False)


def test_a_question_whose_record_is_lost_can_still_be_answered(run_of: Callable[..., Any]) -> None:
    run = run_of()
    run.begin()
    run.settle("a", "waiting")
    run.close("waiting")
    (answer,) = answering.chosen(run.folder, None, Wish(by="ada", verb="skip"), everything=False)
    assert (answer.question, answer.step, answer.verb) == (0, "a", "skip")
    overdue.put(run.folder, [answer])
    with pytest.raises(NeedsPerson, match="no step waits"):
        answering.chosen(run.folder, None, ADA, everything=False)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), (None, "", None, None)),
        (("--retry", "--memory", "2g", "--minutes", "1.5"), ("retry", "", 2 * 2**30, 90.0)),
        (("--deny", "--note", "no"), ("deny", "no", None, None)),
        (("--abort",), ("abort", "", None, None)),
    ],
)
def test_what_the_command_line_says(words: tuple[str, ...], wanted: tuple[Any, ...]) -> None:
    wish = answering.wished(given(*words))
    assert (wish.verb, wish.note, wish.memory, wish.seconds) == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--memory", "lots"), "--memory lots: 'lots' is no size"),
        (("--memory", "0"), "--memory 0: expected a size"),
        (("--minutes", "0"), "--minutes 0: expected a number above 0"),
        (("--minutes", "inf"), "--minutes inf"),
    ],
)
def test_what_the_command_line_cannot_say(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        answering.wished(given(*words))


@pytest.mark.parametrize("words", [("--retry", "--skip"), ("--abort", "--deny"), ("--step", "a", "--all")])
def test_one_answer_at_a_time(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        given(*words)
    assert "not allowed with argument" in capsys.readouterr().err


def test_of_many_who_answer_at_once_one_wins(waiting: Callable[..., Any]) -> None:
    run = waiting()
    barrier, outcomes = threading.Barrier(6), []

    def answer(who: str) -> None:
        barrier.wait()
        try:
            with claim.take(run.folder, wait=20):
                overdue.put(run.folder, answering.chosen(run.folder, "b", Wish(by=who), everything=False))
                outcomes.append(who)
        except BadOption as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=answer, args=(f"p{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [one for one in outcomes if len(one) == 2]
    assert sum(f"answered: retried by {winner}" in one for one in outcomes) == 5
    assert len(list(read(run.folder.journal).of("approval"))) == 1


# --- the time-out rule ---


@pytest.mark.parametrize("action", ["skip", "abort", "deny"])
def test_the_rule_answers_what_is_overdue(waiting: Callable[..., Any], action: str) -> None:
    run = waiting(hours=-1.0, otherwise=action)
    with claim.take(run.folder):
        found = overdue.enforce(run.folder)
        assert overdue.enforce(run.folder) == []
    assert [(one.step, one.verb, one.by) for one in found] == [(s, action, "the time-out rule") for s in ("a", "b")]
    assert found[0].reason.startswith(f"{found[0].sentence}: nobody answered within ")
    assert verbs(run) == {"a": action, "b": action}


@pytest.mark.parametrize(("hours", "action"), [(None, "skip"), (1.0, "skip"), (-1.0, "wait")])
def test_the_rule_leaves_the_others_alone(waiting: Callable[..., Any], hours: float | None, action: str) -> None:
    run = waiting(hours=hours, otherwise=action)
    size = run.folder.journal.stat().st_size
    assert [one.step for one in overdue.enforced(run.folder).open] == ["a", "b"]
    assert run.folder.journal.stat().st_size == size


def test_the_rule_waits_for_who_works_on_it(waiting: Callable[..., Any]) -> None:
    run = waiting(hours=-1.0)
    with claim.take(run.folder):
        assert len(overdue.enforced(run.folder).open) == 2
    assert overdue.enforced(run.folder).open == []


# --- the list ---


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert waitinglist.show(argparse.Namespace(json=True)) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_the_list_names_who_asks_and_how_to_answer(
    waiting: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = waiting()
    first, second = rows(capsys)
    assert (first["step"], first["question"], first["why"]) == ("a", 1, "a?")
    assert first["command"] == "workflowmaster approve task-kept --step a"
    assert second["command"] == "workflowmaster approve task-kept --step b --retry"
    assert waitinglist.show(argparse.Namespace(json=False)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("task-kept  Fix the parser: step a asks for approval since 20")
    assert lines[5] == "    workflowmaster approve task-kept --step b --retry   (or --skip --abort --deny)"
    with claim.take(run.folder):
        assert [row["working"] for row in rows(capsys)] == [True, True]


def test_the_list_has_answers_that_nobody_has_carried_out(
    waiting: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    waiting(hours=-1.0)
    found = [(row["step"], row["sort"], row["answer"], row["command"]) for row in rows(capsys)]
    assert found == [(step, "answered", "skip", "workflowmaster resume task-kept") for step in ("a", "b")]


def test_the_list_leaves_out_what_has_ended(waiting: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    waiting().close("aborted")
    assert rows(capsys) == []
    waitinglist.show(argparse.Namespace(json=False))
    assert capsys.readouterr().err == "nothing waits for a person\n"


def test_the_local_forge_keeps_what_is_asked_until_it_is_answered(tmp_path: Any) -> None:
    forge = LocalForge(tmp_path / "w")
    forge.ask("")
    forge.ask("May it?")
    assert forge.questions_file.read_text() == "May it?\n"
    forge.ask("")
    assert not forge.questions_file.exists()
