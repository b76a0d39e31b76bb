"""What a run asks a person and what it was answered: the nouns, and the book they are kept in. Pure.

The hard choice is that a question is a record of its own, with a number, and not the status of its step. A step may ask
twice, once before it runs and once after it failed; a retry that fails asks again; and somebody may answer a page that
he opened yesterday. Only a number says which question an answer is to. The cost is a book that has to be folded from
the records, and rules for when a question closes without an answer: when what it was about is something else by now.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from workflowmaster.flows.plan import Limits, Noun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.flows.journal import Entry
    from workflowmaster.flows.journey import Journey

Verb = Literal["approve", "retry", "skip", "abort", "deny"]
Sort = Literal["approval", "escalation"]
"""`approval`: a step may not begin before a person agrees. `escalation`: it failed, and a person decides what now."""
Overdue = Literal["wait", "skip", "abort", "deny"]
"""What an unanswered question becomes when its time is over."""

VERBS: Final[tuple[Verb, ...]] = get_args(Verb)
FITS: Final[dict[Sort, tuple[Verb, ...]]] = {
    "approval": ("approve", "skip", "abort", "deny"),
    "escalation": ("retry", "skip", "abort", "deny"),
}
"""Sort of a question → what may be answered, the plain way on first."""
DONE: Final[dict[Verb, str]] = {
    "approve": "approved",
    "retry": "retried",
    "skip": "skipped",
    "abort": "aborted",
    "deny": "denied",
}
RULE: Final = "the time-out rule"
"""Who answers a question whose time is over."""
INTERFACE: Final = "the Prefect UI"
"""Who answers through the form: Prefect does not say which of its users it was."""
NOTE: Final = 2000
"""Characters of a note that are kept."""
UNAPPROVED: Final = "a person must approve this"
"""How the reason of a step begins that nobody has approved yet."""
DERIVED: Final = "it needs "
"""How the reason of a step begins that waits only for others."""


class Question(Noun):
    """What a person is asked about one step."""

    number: int
    """Counted over the whole run from 1; 0 where the record is lost and only the step's status tells of it."""
    step: str
    sort: Sort
    why: str
    """Why it is asked, in one line."""
    lines: tuple[str, ...] = ()
    """The lines of the failed attempt's log that decided, secrets masked."""
    attempts: int = 0
    """Attempts that have been made."""
    had: Limits = Limits()
    """What the last attempt had."""
    most: Limits = Limits()
    """What an answer may give the next one at most."""
    dependants_run: bool = True
    """Whether what needs the step goes on when it is skipped."""
    inputs: dict[str, str] = {}
    """Needed step → commit that the question is about; with other ones it is moot."""
    asked_at: float = 0.0
    """Unix time, seconds."""
    due: float | None = None
    """When the time-out rule answers it, Unix time; None: never."""
    otherwise: Overdue = "wait"
    """What the rule answers then."""

    @property
    def verbs(self) -> tuple[Verb, ...]:
        """What may be answered."""
        return FITS[self.sort]

    def late(self, now: float) -> bool:
        """Whether its time is over and a rule says what that means."""
        return self.due is not None and now >= self.due and self.otherwise != "wait"


class Answer(Noun):
    """What somebody answered."""

    question: int
    """Number of the question; 0 for an answer of a version that counted none."""
    step: str
    verb: Verb
    by: str
    """Who: a user of this machine, `the Prefect UI`, or `the time-out rule`."""
    note: str = ""
    limits: Limits | None = None
    """What the next attempt gets, where the answer says so."""
    at: float = 0.0
    """Unix time, seconds."""

    @property
    def sentence(self) -> str:
        """The answer in words, without its note: `approved by ada`."""
        return f"{DONE[self.verb]} by {self.by}"

    @property
    def reason(self) -> str:
        """The answer in words, with its note."""
        return f"{self.sentence}: {self.note}" if self.note else self.sentence

    def fields(self) -> dict[str, Any]:
        """Return it as the fields of a record; `answer` is what older versions read."""
        said = self.model_dump(mode="json", exclude={"at"})
        return {**said, "answer": self.sentence}


@dataclass
class Book:
    """All questions of a run and their answers, folded from its records in order."""

    asked: dict[int, Question] = field(default_factory=dict)
    """Number → question, also of those that are answered."""
    answers: dict[int, Answer] = field(default_factory=dict)
    """Number of the question → its answer."""
    closed: dict[int, str] = field(default_factory=dict)
    """Number → why a question or its answer no longer counts."""
    earlier: dict[str, Answer] = field(default_factory=dict)
    """Step → answer of a version that counted no questions."""
    fresh: list[Answer] = field(default_factory=list)
    """Answers since a part of the run began or ended last: while nobody works on it, they wait to be carried out."""

    @property
    def next(self) -> int:
        """The number of the next question."""
        return max(self.asked, default=0) + 1

    @property
    def open(self) -> list[Question]:
        """The questions that nobody has answered, the oldest first."""
        return [one for number, one in sorted(self.asked.items()) if self.is_open(number)]

    def is_open(self, number: int) -> bool:
        """Whether a question waits for its answer."""
        return number in self.asked and number not in self.answers and number not in self.closed

    def open_of(self, step_id: str) -> Question | None:
        """Return what is open about a step."""
        return next((one for one in self.open if one.step == step_id), None)

    def answered(self, step_id: str) -> list[tuple[Question | None, Answer]]:
        """Return the answers about a step that count, the last one last, each with its question if that is known."""
        numbered = [
            (self.asked.get(number), answer)
            for number, answer in sorted(self.answers.items())
            if answer.step == step_id and number not in self.closed
        ]
        old = self.earlier.get(step_id)
        return [(None, old), *numbered] if old else [*numbered]

    def take(self, entry: Entry) -> None:
        """Take a record in; kinds that have nothing to do with questions are left alone."""
        fields = entry.fields
        if entry.kind == "question":
            self._question(fields, entry.at)
        elif entry.kind == "approval":
            self._approval(fields, entry.at)
        elif entry.kind == "rerun":
            for step in fields["steps"]:
                self._close(step, "the step runs again", unanswered=True)
        elif entry.kind in ("begun", "closed"):
            self.fresh.clear()
            self._ended(fields.get("status", "waiting"))

    def _question(self, fields: Mapping[str, Any], at: float) -> None:
        if why := fields.get("withdrawn"):
            self.closed[fields["number"]] = why
            return
        one = Question.model_validate({**fields, "asked_at": fields.get("asked_at") or at})
        self.asked[one.number] = one

    def _approval(self, fields: Mapping[str, Any], at: float) -> None:
        step = fields["step"]
        if not fields["answer"]:
            self.withdraw(step)
            return
        known = {name: fields[name] for name in Answer.model_fields if name in fields}
        one = Answer.model_validate({**known, "at": at}) if "verb" in fields else spelled(step, fields["answer"], at)
        self.write(one)

    def write(self, answer: Answer) -> None:
        """Enter an answer."""
        if answer.question:
            self.answers[answer.question] = answer
        else:
            self.earlier[answer.step] = answer
        self.fresh.append(answer)

    def withdraw(self, step: str) -> None:
        """Forget what was asked and said about a step: it is another by now."""
        self.earlier.pop(step, None)
        self._close(step, "the step was changed")

    def _close(self, step: str, why: str, *, unanswered: bool = False) -> None:
        for number, one in self.asked.items():
            if one.step == step and (not unanswered or number not in self.answers):
                self.closed.setdefault(number, why)

    def _ended(self, status: str) -> None:
        """Forget what has been carried out: whoever resumes what was given up wants it tried again."""
        if status in ("waiting", "paused"):
            return
        for number, answer in self.answers.items():
            question = self.asked.get(number)
            refused = answer.verb == "deny" and question is not None and question.sort == "escalation"
            if answer.verb == "abort" or refused:
                self.closed.setdefault(number, "it was carried out, and the run was begun again")
        self.earlier = {step: answer for step, answer in self.earlier.items() if answer.verb != "abort"}


def spelled(step: str, text: str, at: float = 0.0) -> Answer:
    """Read an answer that only its words are left of: `approved by ada`."""
    done, _, who = text.partition(" by ")
    verb = next((verb for verb, word in DONE.items() if word == done), "deny")
    return Answer(question=0, step=step, verb=verb, by=who, at=at)


def folded(entries: list[Entry]) -> Book:
    """Return the book of a run from its records."""
    book = Book()
    for entry in entries:
        book.take(entry)
    return book


def answer_of(journey: Journey, step_id: str) -> Answer | None:
    """Return the answer that holds for a step now; None if there is none, or a later question about it is open."""
    if open_of(journey, step_id):
        return None
    book = journey.past.book
    for question, answer in reversed(book.answered(step_id)):
        if question is None or not moot(question, journey):
            return answer
    # The records were lost, and only the run's own account has kept the words.
    words = "" if any(one.step == step_id for one in book.asked.values()) else journey.record.approvals.get(step_id, "")
    return spelled(step_id, words) if words else None


def open_of(journey: Journey, step_id: str) -> Question | None:
    """Return the question about a step that is open and still about what the step would do now."""
    found = journey.past.book.open_of(step_id)
    return found if found and not moot(found, journey) else None


def inputs_of(journey: Journey, step_id: str) -> dict[str, str]:
    """Return the commits that a step builds on, as far as what it needs has ended."""
    needs = (step.needs for step in journey.plan.tasks if step.id == step_id)
    return {name: journey.results[name].commit for name in next(needs, ()) if name in journey.results}


def moot(question: Question, journey: Journey) -> bool:
    """Whether a failure was another one's: the step has other inputs now. An approval is given for whatever comes."""
    return question.sort == "escalation" and question.inputs != inputs_of(journey, question.step)


# --- in words ---


def command(workflow: str, question: Question, verb: Verb | None = None) -> str:
    """Return the command line that answers a question, quoted for a shell."""
    chosen = verb or question.verbs[0]
    flag = "" if chosen == "approve" else f" --{chosen}"
    return f"workflowmaster approve {shlex.quote(workflow)} --step {shlex.quote(question.step)}{flag}"
