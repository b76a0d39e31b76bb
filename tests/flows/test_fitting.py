"""Which answers fit which questions, and what is said of those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.fitting import Wish, fitted
from workflowmaster.flows.plan import Limits
from workflowmaster.flows.questions import FITS, NOTE, VERBS, Question

MIB = 2**20
HAD = Limits(memory=64 * MIB, seconds=60.0)
MOST = Limits(memory=512 * MIB, seconds=600.0)


def question(sort: Any = "escalation", **fields: Any) -> Question:
    return Question(number=1, step="b", sort=sort, why="exit 1", **{"had": HAD, "most": MOST, **fields})


@pytest.mark.parametrize("verb", [None, *VERBS])
@pytest.mark.parametrize("sort", list(FITS))
def test_every_answer_to_every_question(sort: Any, verb: Any) -> None:
    wish = Wish(by="ada", verb=verb)
    fits = verb is None or verb in FITS[sort] or (sort, verb) == ("escalation", "approve")
    if not fits:
        with pytest.raises(BadOption, match="it can be answered with"):
            fitted(question(sort), wish, 5.0)
        return
    answer = fitted(question(sort), wish, 5.0)
    plain = {"approval": "approve", "escalation": "retry"}[sort]
    assert answer.verb == (plain if verb in (None, "approve") else verb)
    assert (answer.question, answer.step, answer.by, answer.at, answer.limits) == (1, "b", "ada", 5.0, None)


@pytest.mark.parametrize(
    ("sort", "verb", "memory", "seconds", "message"),
    [
        (
            "escalation",
            "retry",
            513 * MIB,
            None,
            "memory 513 MiB is more than its policy and the settings grant: 512 M",
        ),
        ("escalation", "retry", 63 * MIB, None, "memory 63.0 MiB is less than it had: 64.0 MiB"),
        (
            "escalation",
            None,
            None,
            601.0,
            "time 10 min 01 s is more than its policy and the settings grant: 10 min 00 s",
        ),
        ("escalation", None, None, 59.0, "time 59.0 s is less than it had: 1 min 00 s"),
        ("escalation", "skip", 128 * MIB, None, "memory and minutes are for another attempt, and 'skip' makes none"),
        (
            "approval",
            "approve",
            128 * MIB,
            None,
            "memory and minutes are for another attempt, and 'approve' makes none",
        ),
    ],
)
def test_limits_that_cannot_be_given(
    sort: Any, verb: Any, memory: int | None, seconds: float | None, message: str
) -> None:
    with pytest.raises(BadOption, match="step b: ") as refused:
        fitted(question(sort), Wish(by="ada", verb=verb, memory=memory, seconds=seconds), 5.0)
    assert message in str(refused.value)


@pytest.mark.parametrize(("memory", "seconds"), [(64 * MIB, None), (512 * MIB, 600.0), (None, 60.0)])
def test_limits_at_both_ends_are_given(memory: int | None, seconds: float | None) -> None:
    answer = fitted(question(), Wish(by="ada", memory=memory, seconds=seconds), 5.0)
    assert answer.limits == Limits(memory=memory, seconds=seconds)


def test_a_step_on_the_host_has_no_limits() -> None:
    with pytest.raises(BadOption, match="it runs in no container"):
        fitted(question(had=Limits(), most=Limits()), Wish(by="ada", memory=MIB), 5.0)


def test_a_note_is_one_line_and_has_an_end() -> None:
    assert fitted(question(), Wish(by="ada", note=" two\n lines "), 5.0).note == "two lines"
    with pytest.raises(BadOption, match=f"a note of {NOTE + 1} characters is too long"):
        fitted(question(), Wish(by="ada", note="x" * (NOTE + 1)), 5.0)
