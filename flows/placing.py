"""Which of the nine tasks each found item belongs to.

Two things beside an item's own words decide. Work goes forward: what is listed after the pull request or the review
cannot be done before it, so it follows the review; and what is investigated after something was built belongs to the
building. And a prompt about many pull requests ("review all twelve") speaks of its subject, not of its own pull
request, so there nothing is taken for a retold task.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workflowmaster.flows.sections import items
from workflowmaster.flows.skeleton import RETOLD, TASK_OF
from workflowmaster.flows.stepitems import Item, shortened
from workflowmaster.flows.vocabulary import meaning

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workflowmaster.flows.sections import Part
    from workflowmaster.flows.vocabulary import Meaning

MANY_REQUESTS = 3
"""Distinct pull requests from which a prompt is about them rather than about its own."""

_PUBLISHED = frozenset(("8", "9"))
_SUBJECT = frozenset(("pull_request", "review", "followup", "issue", "branch"))


@dataclass(frozen=True, slots=True)
class Placed:
    """The items of a prompt, sorted into the skeleton."""

    children: dict[str, list[Item]]
    """Task id → the steps it stands for, in document order."""
    mapped: dict[str, list[Item]]
    """Task id → items that describe the task itself."""


def place(found: Sequence[Item], stray: Sequence[Item], requests: int) -> Placed:
    """Sort items into the skeleton. `stray` are items from outside the step source; `requests` counts distinct PRs."""
    children: dict[str, list[Item]] = {}
    mapped: dict[str, list[Item]] = {}
    subject = requests >= MANY_REQUESTS
    built, reached = False, "0"
    for item in found:
        one = replace(item, meaning="implementation") if subject and item.meaning in _SUBJECT else item
        task = TASK_OF.get(one.meaning, "5")
        # After the review even a push is a follow-up: it cannot be part of the pull request that was reviewed.
        if reached == "9" or (reached == "8" and task < "8"):
            task = "9"
        elif task == "4" and built:
            task = "5"
        built = built or task == "5"
        reached = task if task in _PUBLISHED else reached
        _put(mapped if one.meaning in RETOLD and task != "9" else children, task, one)
    for item in stray:
        _put(mapped if item.meaning in RETOLD else children, TASK_OF[item.meaning], item)
    return Placed(children, mapped)


def stray_items(root: Part, taken: Iterable[Item]) -> list[Item]:
    """Return what is asked for outside the step source and belongs to a task by its words alone.

    A paragraph that begins "Create branch … and submit PR", and a test named in a list of files ("Test: create …").
    """
    lines = {line for item in taken for line in range(item.line, item.end_line + 1)}
    found: list[Item] = []
    for part in root.walk():
        if part.kind in ("design", "risks"):
            continue
        for block in part.blocks:
            if block.kind == "paragraph" and block.line not in lines:
                found += _retold_sentences(block.text, block.line, part.title)
            if block.kind == "list" and part.kind == "files":
                found += [
                    _item(words.rest, "tests", item.line, part.title, "test named among the files")
                    for item, words in items(block)
                    if words.lead.lower().strip(" :") in ("test", "tests", "testing") and meaning(words.rest) == "tests"
                ]
    return found


def _retold_sentences(text: str, line: int, section: str) -> list[Item]:
    found = []
    for offset, sentence in enumerate(text.split("\n")):
        for clause in sentence.split(" and "):
            kind = meaning(clause)
            if kind in ("branch", "pull_request", "issue") and clause.split()[0].lower() in _ORDERS:
                found.append(_item(clause, kind, line + offset, section, "sentence that retells a task"))
    return found


_ORDERS = frozenset(("create", "open", "submit", "raise", "push", "commit", "make", "file"))


def _item(text: str, kind: Meaning, line: int, section: str, rule: str) -> Item:
    return Item(
        name=shortened(text),
        text=text.strip(),
        meaning=kind,
        line=line,
        end_line=line,
        section=section,
        rule=rule,
    )


def _put(where: dict[str, list[Item]], task: str, item: Item) -> None:
    where.setdefault(task, []).append(item)
