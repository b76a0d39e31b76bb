"""The form in the Prefect UI: what a waiting flow run asks there, and what was filled in when it is started again.

Prefect keeps a form as inputs of the flow run: a JSON Schema, a description and, once somebody has pressed Resume, a
response that its server has checked against the schema. The paused state only names them. `suspend_flow_run` would do
the same, but stops the flow by an exception in the middle of its work, and only a deployment's; our flow ends in order
and returns the state itself. So what is done here is what Prefect does, with its own model and its own generator of
schemas, and the same form serves runs without a deployment: there the UI's Resume starts nothing, and the answer is
read by whoever goes on.

One question makes the form's fields; more than one make a section each, `question_3` for the third, in which `later`
leaves it open. One after the other would cost a start for each. The names of the inputs hold the questions' numbers,
so a response is never taken for an answer to another question.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from uuid import UUID, uuid4

import httpx
from prefect import get_client, get_run_logger
from prefect.client.schemas.objects import State, StateDetails
from prefect.input import RunInput
from prefect.input.run_input import keyset_from_base_key
from prefect.states import Paused
from pydantic import Field, create_model

from workflowmaster.flows import obeying, overdue, questioning, stopping
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.fitting import Wish, fitted
from workflowmaster.flows.questions import INTERFACE, NOTE, Question
from workflowmaster.flows.questiontext import comment
from workflowmaster.flows.wording import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRunInput

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.state import WorkflowState

PREFIX: Final = "workflowmaster-questions-"
RESPONSE: Final = re.compile(rf"{PREFIX}([0-9-]+)-[0-9a-f]{{8}}-response")
LATER: Final = "later"
"""What leaves a question open in a form that asks several."""
MIB: Final = 2**20
MOST: Final = 200
"""Inputs of a flow run that are looked through: two for each time it has waited."""


class Response(NamedTuple):
    """What somebody filled in."""

    numbers: tuple[int, ...]
    """Questions that the form asked."""
    said: Mapping[str, Any]


# --- what the form looks like ---


def form(questions: Iterable[Question], description: str) -> type[RunInput]:
    """Return the model whose schema is the form for these questions: flat for one, a section for each of several."""
    asked = list(questions)
    alone = len(asked) == 1
    fields: dict[str, Any] = _fields(asked[0], ()) if alone else {_section(one): _nested(one) for one in asked}
    model = create_model("Answer" if alone else "Answers", __base__=RunInput, **fields)
    model._description = description  # noqa: SLF001 - `with_initial_data` sets the same, and makes one more model
    return model


def _section(question: Question) -> str:
    return f"question_{question.number}"


def _nested(question: Question) -> tuple[Any, Any]:
    inner = create_model(f"Question{question.number}", __base__=RunInput, **_fields(question, (LATER,)))
    title = f"{question.step}: {'may it begin?' if question.sort == 'approval' else 'it failed. What now?'}"
    return inner, Field(default_factory=inner, title=title)


def _fields(question: Question, further: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of one question's form; a limit's bounds are in the schema, so the server checks them."""
    verbs = (*further, *question.verbs)
    kind: Any = Literal[verbs]  # the schema's list of choices; no static type can know them
    note = Field("", title="Note", max_length=NOTE, description="Kept with the answer, and in the audit log")
    fields: dict[str, Any] = {
        "verb": (kind, Field(*further or (...,), title="Answer")),
        "note": (str, note),
    }
    if question.most.memory:
        fields["memory"] = _limit(int, "Memory in MiB", question.most.memory / MIB)
    if question.most.seconds:
        fields["minutes"] = _limit(float, "Minutes", question.most.seconds / 60)
    return fields


def _limit(kind: type, title: str, most: float) -> tuple[Any, Any]:
    top = kind(most)
    told = f"For another attempt, {top:g} at most; 0 leaves it as it was"
    return kind, Field(0, title=title, ge=0, le=top, description=told)


def wishes(numbers: Iterable[int], said: Mapping[str, Any]) -> Iterator[tuple[int, Wish]]:
    """Read a response as what is wanted for each question. KeyError, TypeError or ValueError if it is no response."""
    known = list(numbers)
    for number in known:
        part = said if len(known) == 1 else said.get(f"question_{number}", {"verb": LATER})
        if part.get("verb", LATER) != LATER:
            memory, minutes = part.get("memory") or 0, part.get("minutes") or 0
            wish = Wish(by=INTERFACE, verb=part["verb"], note=str(part.get("note") or ""))
            yield number, replace(wish, memory=int(memory * MIB) or None, seconds=float(minutes) * 60 or None)


# --- on the server ---


async def ended(journey: Journey, state: WorkflowState) -> State[Any] | None:
    """Return the state in which a run that waits for a person leaves its flow run; None for any other run."""
    asked = journey.past.book.open
    number = stopping.flow_run_id()
    if state.status != "waiting" or not asked or number is None:
        return None
    keys = f"{PREFIX}{'-'.join(str(one.number) for one in asked)}-{uuid4().hex[:8]}"
    keyset = keyset_from_base_key(keys)
    how = "" if stopping.deployed() else f"\n\n{_by_hand(journey.id)}"
    try:
        await form(asked, comment(asked, journey.id, journey.plan.name) + how).asave(keyset, flow_run_id=number)
    except httpx.HTTPError as error:
        get_run_logger().warning("the questions could not be put into the UI, `approve` answers them: %s", error)
        return None
    # Only a deployment's run can be started again by the server, and so by the UI's Resume.
    details = StateDetails(run_input_keyset=keyset)
    name = stopping.PAUSES[state.status]
    return Paused(
        name=name, message=state.reason, reschedule=stopping.deployed(), pause_key=keys, state_details=details
    )


def _by_hand(workflow: str) -> str:
    return f"This run belongs to no deployment: after Resume, `workflowmaster resume {workflow}` goes on with it."


async def responses(flow_run_id: str) -> list[Response]:
    """Return what was filled in for a flow run and not taken in yet."""
    async with get_client() as client:
        return [found for one in await _inputs(client, flow_run_id) if (found := _response(one))]


async def _inputs(client: PrefectClient, flow_run_id: str) -> list[FlowRunInput]:
    return await client.filter_flow_run_input(UUID(flow_run_id), key_prefix=PREFIX, limit=MOST, exclude_keys=set())


def _response(one: FlowRunInput) -> Response | None:
    match = RESPONSE.fullmatch(one.key)
    return Response(tuple(map(int, match[1].split("-"))), json.loads(one.value)) if match else None


async def taken_in(journey: Journey) -> None:
    """Read what was answered in the UI, and make those answers count that fit a question which is still open."""
    run = journey.record.flow_run_id
    if not (run and journey.past.book.asked):
        return
    async with get_client() as client:
        for one in await _inputs(client, run):
            if found := _response(one):
                for number, wish in wishes(found.numbers, found.said):
                    _hear(journey, number, wish, one.created.timestamp() if one.created else time.time())
            # After the answer is on the disk: read twice, it is to a question that is no longer open. The form goes
            # too; the next time the run waits it has another.
            with contextlib.suppress(httpx.HTTPError):
                await client.delete_flow_run_input(UUID(run), one.key)
    for answer in overdue.due(journey.past.book.open, time.time()):
        questioning.hear(journey, answer)
    journey.grown |= obeying.granted(journey)


def _hear(journey: Journey, number: int, wish: Wish, at: float) -> None:
    """Take in one answer, which was given at that time; one that cannot be taken is told and audited."""
    book = journey.past.book
    question = book.asked.get(number)
    wrong = "" if question and book.is_open(number) else f"question {number} is no longer open{_who(journey, number)}"
    if question and question.late(at):
        wrong = wrong or f"question {number} was open until {moment(question.due or at)}"
    if question and not wrong:
        try:
            questioning.hear(journey, fitted(question, wish, time.time()))
        except BadOption as error:
            wrong = str(error)
    if wrong:
        get_run_logger().warning("the answer from the UI was not taken: %s", wrong)
        journey.audit.append("approval.refused", question=number, by=INTERFACE, reason=wrong)


def _who(journey: Journey, number: int) -> str:
    answer = journey.past.book.answers.get(number)
    return f": {answer.sentence}" if answer else ""
