"""The form in the Prefect UI: its schema as the server checks it, and how a response is read."""

from __future__ import annotations

from typing import Any

import pytest
from prefect._internal.pydantic.v2_schema import create_v2_schema
from prefect.utilities.schema_tools import ValidationError, validate

from workflowmaster.flows.plan import Limits
from workflowmaster.flows.questions import NOTE, Question
from workflowmaster.flows.questiontext import comment, means, told
from workflowmaster.flows.suspending import RESPONSE, form, wishes

MIB = 2**20
FAILED = Question(
    number=2,
    step="build",
    sort="escalation",
    why="it failed and asks for a person: @everyone",
    lines=("Traceback", "```", "MemoryError"),
    attempts=2,
    had=Limits(memory=64 * MIB, seconds=60.0),
    most=Limits(memory=512 * MIB, seconds=600.0),
    due=1_700_000_000.0,
    otherwise="skip",
)
GATE = Question(number=1, step="release", sort="approval", why="It publishes <b>everything</b>")


def schema(*questions: Question) -> dict[str, Any]:
    """As the server stores it, and checks responses against it."""
    model = form(questions, "what is asked")
    return create_v2_schema(model.__name__, model_base=model)


def accepted(said: dict[str, Any], *questions: Question) -> bool:
    try:
        validate(said, schema(*questions), raise_on_error=True)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ({"verb": "retry"}, True),
        ({"verb": "retry", "note": "n", "memory": 512, "minutes": 10}, True),
        ({"verb": "skip", "note": "x" * NOTE}, True),
        ({}, False),
        ({"verb": "approve"}, False),
        ({"verb": "retry", "memory": 513}, False),
        ({"verb": "retry", "memory": -1}, False),
        ({"verb": "retry", "memory": "2g"}, False),
        ({"verb": "retry", "minutes": 10.5}, False),
        ({"verb": "retry", "note": "x" * (NOTE + 1)}, False),
        ({"verb": "retry", "cpus": 2}, False),
    ],
)
def test_what_the_server_takes_about_a_failure(said: dict[str, Any], *, fits: bool) -> None:
    assert accepted(said, FAILED) is fits


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ({"verb": "approve"}, True),
        ({"verb": "deny", "note": "no"}, True),
        ({"verb": "retry"}, False),
        ({"verb": "approve", "memory": 64}, False),
    ],
)
def test_what_the_server_takes_about_an_approval(said: dict[str, Any], *, fits: bool) -> None:
    assert accepted(said, GATE) is fits


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ({}, True),
        ({"question_1": {"verb": "approve"}}, True),
        ({"question_1": {"verb": "later"}, "question_2": {"verb": "retry", "memory": 128}}, True),
        ({"question_1": {"verb": "retry"}}, False),
        ({"question_2": {"verb": "retry", "memory": 513}}, False),
        ({"question_3": {"verb": "retry"}}, False),
        ({"verb": "retry"}, False),
    ],
)
def test_what_the_server_takes_about_several(said: dict[str, Any], *, fits: bool) -> None:
    assert accepted(said, GATE, FAILED) is fits


def test_a_form_for_several_has_a_titled_section_for_each() -> None:
    found = schema(GATE, FAILED)["properties"]
    assert [(name, part["title"]) for name, part in found.items()] == [
        ("question_1", "release: may it begin?"),
        ("question_2", "build: it failed. What now?"),
    ]
    assert form([GATE], "what is asked")._description == "what is asked"


def test_a_response_to_one_question_is_flat() -> None:
    ((number, wish),) = wishes([2], {"verb": "retry", "note": "n", "memory": 128, "minutes": 1.5})
    assert (number, wish.verb, wish.note, wish.by) == (2, "retry", "n", "the Prefect UI")
    assert (wish.memory, wish.seconds) == (128 * MIB, 90.0)
    ((_, plain),) = wishes([1], {"verb": "approve"})
    assert (plain.note, plain.memory, plain.seconds) == ("", None, None)


def test_of_several_only_those_are_answered_that_are_not_put_off() -> None:
    said = {"question_1": {"verb": "later"}, "question_2": {"verb": "skip", "memory": 0, "minutes": 0}}
    assert [(number, wish.verb) for number, wish in wishes([1, 2, 3], said)] == [(2, "skip")]


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        ("workflowmaster-questions-3-0123abcd-response", "3"),
        ("workflowmaster-questions-1-12-0123abcd-response", "1-12"),
        ("workflowmaster-questions-3-0123abcd-schema", None),
        ("someone-elses-response", None),
    ],
)
def test_a_response_names_its_questions(key: str, numbers: str | None) -> None:
    match = RESPONSE.fullmatch(key)
    assert (match and match[1]) == numbers


def test_a_failure_is_told_with_what_decided_and_nothing_of_it_acts() -> None:
    text = told(FAILED, "task-1")
    assert text.startswith(
        "### `build` failed. What now?\n\nit failed and asks for a person: @\u200beveryone\n\n````\n"
    )
    assert (
        "2 attempts so far; the last had 64.0 MiB and 1 min 00 s; an answer may give up to 512 MiB and 10 min 00 s; "
        in text
    )
    assert "asked until 2023-11-14 22:13:20 UTC, then the time-out rule says skip." in text
    assert "`workflowmaster logs task-1 --step build`" in text
    assert "- **retry**: it is tried again" in text
    assert "`workflowmaster approve task-1 --step build --retry`" in text


def test_an_approval_is_told_and_its_prompt_cannot_pose_as_html() -> None:
    text = comment([GATE, FAILED], "task-1", "Release it")
    assert text.startswith(
        "**Release it** waits for 2 answers (workflow `task-1`).\n\n### May `release` begin?\n\nIt publ"
    )
    assert "<b>" not in text
    assert "logs task-1 --step release" not in text


def test_what_a_skip_means_is_said() -> None:
    assert means(FAILED, "skip") == "it is given up, and what needs it goes on"
    assert means(FAILED.model_copy(update={"dependants_run": False}), "skip").endswith("what needs it is skipped too")
    assert means(GATE, "skip") == "it is left out, and what needs it too"
