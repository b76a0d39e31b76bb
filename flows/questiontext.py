"""A question in Markdown: for the form in the Prefect UI, for an issue's comment, and for the file beside the run.

One text for all of them, so that whoever answers has read the same. It quotes logs and prompts, and is published under
our name: everything that is quoted is made harmless first (`quoting.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workflowmaster.flows.questions import command
from workflowmaster.flows.quoting import bounded, code, fence, inline
from workflowmaster.flows.wording import counted, duration, moment, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.flows.plan import Limits
    from workflowmaster.flows.questions import Question, Sort, Verb

LIMIT: Final = 60_000
"""Characters; GitHub refuses a comment of more than 65,536."""

MEANS: Final[dict[Sort, dict[Verb, str]]] = {
    "approval": {
        "approve": "it begins",
        "skip": "it is left out, and what needs it too",
        "abort": "the whole workflow ends here",
        "deny": "it counts as failed, and what needs it is blocked",
    },
    "escalation": {
        "retry": "it is tried again, from its input, with more memory or time if you say so",
        "skip": "it is given up",
        "abort": "the whole workflow ends here",
        "deny": "its failure stands, and what needs it is blocked",
    },
}
"""What each answer does, as the end of a sentence."""


def means(question: Question, verb: Verb) -> str:
    """Return what an answer would do to this question's step."""
    words = MEANS[question.sort][verb]
    if verb == "skip" and question.sort == "escalation":
        return f"{words}, and what needs it {'goes on' if question.dependants_run else 'is skipped too'}"
    return words


def told(question: Question, workflow: str) -> str:
    """Return one question: what happened, the lines that decided, and what may be answered."""
    step = code(question.step, 80)
    title = f"May {step} begin?" if question.sort == "approval" else f"{step} failed. What now?"
    log = f"workflowmaster logs {workflow} --step {question.step}"
    parts = [
        f"### {title}",
        inline(question.why, 600),
        fence("\n".join(question.lines)) if question.lines else "",
        _facts(question),
        f"Its log: {code(log, 300)}" if question.sort == "escalation" else "",
        "\n".join(f"- **{verb}**: {means(question, verb)}" for verb in question.verbs),
        f"On the command line: {code(command(workflow, question), 300)}",
    ]
    return "\n\n".join(part for part in parts if part)


def _facts(question: Question) -> str:
    facts = []
    if question.attempts:
        facts.append(f"{counted(question.attempts, 'attempt')} so far")
    if had := amounts(question.had):
        facts.append(f"the last had {had}")
    if question.attempts and (most := amounts(question.most)):
        facts.append(f"an answer may give up to {most}")
    if question.due is not None:
        ends = "" if question.otherwise == "wait" else f", then the time-out rule says {question.otherwise}"
        facts.append(f"asked until {moment(question.due)}{ends}")
    return f"{'; '.join(facts)}." if facts else ""


def amounts(limits: Limits) -> str:
    """Return limits in words: `512 MiB and 10 min 00 s`."""
    parts = [size(limits.memory)] if limits.memory else []
    return " and ".join([*parts, *([duration(limits.seconds)] if limits.seconds else [])])


def comment(questions: Iterable[Question], workflow: str, name: str) -> str:
    """Return the comment that asks people outside: on the workflow's issue, or in the file beside the run."""
    asked = list(questions)
    head = f"**{inline(name, 120)}** waits for {counted(len(asked), 'answer')} (workflow {code(workflow)})."
    return bounded([head, *(told(question, workflow) for question in asked)], LIMIT)
