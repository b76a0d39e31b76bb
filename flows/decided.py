"""How a decision is put before people: one way in the HTML report, the artifact and the pull request.

A decision carries every factor that was looked at, and a person wants none of them before its verb and its sentence.
So the sentence comes first and the factors stand behind a click; where nothing can be clicked, they are left to the
report and the audit log, which have them whole.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from workflowmaster.flows.elements import Markup, element
from workflowmaster.flows.factors import shown
from workflowmaster.flows.plaintext import one_line
from workflowmaster.flows.quoting import code, inline, table
from workflowmaster.flows.wording import counted, next_attempt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.flows.plan import Decision

DOES = {
    "retry": "tried again",
    "skip": "skipped",
    "continue": "gave it up, went on",
    "abort": "stopped the run",
    "escalate": "asked a person",
}
"""Verb → what was done."""


def sentence(decision: Decision) -> str:
    """Return why, without the rule's name before it."""
    rule = rule_of(decision)
    return decision.reason.removeprefix(f"{rule}: ") if rule else decision.reason


def rule_of(decision: Decision) -> str:
    """Return the name of the rule that decided; empty where the reason is a sentence alone."""
    if decision.rule:
        return decision.rule
    # Decisions of an older version have the name in front of their reason only.
    name, colon, _ = decision.reason.partition(": ")
    return name if colon and " " not in name else ""


def done(decision: Decision) -> str:
    """Return what was done: `tried again in 4.0 s with 256 MiB`, `asked a person`."""
    words = DOES[decision.verb]
    more = decision.wait_seconds or decision.limits
    return f"{words} {next_attempt(decision)}" if decision.verb == "retry" and more else words


def failure(decision: Decision) -> str:
    """Return what it was about: `network`, and the line of output that said so."""
    known = decision.failure
    if known is None:
        return ""
    kind = known.cls.replace("_", " ")
    return f"{kind}: {one_line(known.lines[0], 160)}" if known.lines else kind


def attempt(decision: Decision) -> str:
    """Return the number of the attempt that failed; empty where it is not known."""
    number = decision.attempt or decision.factors.get("attempt", "")
    return str(number or "")


def line(decision: Decision) -> str:
    """Return a decision in one line of plain text."""
    number = f"attempt {attempt(decision)}: " if attempt(decision) else ""
    name = f" ({rule_of(decision)})" if rule_of(decision) else ""
    return f"{number}{decision.verb}, {done(decision)}; {sentence(decision)}{name}"


# --- HTML ---


def rows(decisions: Iterable[Decision]) -> list[Markup]:
    """Return a row for each decision: step, attempt, what failed, what was done, why, and the factors on demand."""
    return [
        element(
            "tr",
            element("td", decision.step, class_="step"),
            element("td", attempt(decision), class_="num"),
            element("td", failure(decision)),
            element("td", decision.verb, *_more(done(decision))),
            element("td", sentence(decision), *_more(_rule(decision)), _factors(decision)),
        )
        for decision in decisions
    ]


HEAD = ("Step", "Attempt", "Failure", "Decision", "Why")


def _more(text: str) -> list[Markup]:
    """Return a line of smaller words below what is told."""
    return [element("p", text, class_="hint")] if text else []


def _rule(decision: Decision) -> str:
    name = rule_of(decision)
    return f"rule {name}" if name else ""


def _factors(decision: Decision) -> Markup | None:
    """Return all that was looked at, folded away."""
    told = shown(decision.factors)
    if not told:
        return None
    spans = (element("span", f"{name} {_value(value)}", class_="factor") for name, value in told.items())
    return element("details", element("summary", counted(len(told), "factor")), *spans)


def _value(value: Any) -> str:
    """Spell a factor: words as they are, everything else as JSON, so that a list is seen to be one."""
    return one_line(value if isinstance(value, str) else json.dumps(value, default=str), 200)


# --- Markdown ---


def listed(decisions: Iterable[Decision]) -> str:
    """Return the decisions as a Markdown table."""
    lines = [
        (code(one.step, 60), inline(attempt(one)), inline(failure(one), 200), _said(one), _why(one))
        for one in decisions
    ]
    return table(HEAD, lines, numeric=(1,))


def _said(decision: Decision) -> str:
    return f"**{decision.verb}**: {inline(done(decision))}"


def told(decision: Decision) -> str:
    """Return a decision as one item of a Markdown list."""
    about = f" ({inline(failure(decision), 120)})" if decision.failure else ""
    number = f", attempt {inline(attempt(decision))}" if attempt(decision) else ""
    return f"- {code(decision.step)}{number}{about}: {inline(done(decision))}; {_why(decision)}"


def _why(decision: Decision) -> str:
    name = rule_of(decision)
    return inline(sentence(decision), 300) + (f" ({code(name)})" if name else "")
