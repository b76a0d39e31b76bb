"""Prose prompts: the guide's nine tasks, with what the prompt asks for as their steps.

The skeleton always stands, because issue, branch, tests, review are what writers forget; the steps found in the prose
become children of the task they belong to (`5.1`, `5.2`), and a task with children only waits for them. Nothing found
here is ever certain, so a wrong guess must be harmless: a step that is none costs an agent a look, while a fence runs
only where `commands.py` has no doubt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from workflowmaster.flows import criteria as wanted
from workflowmaster.flows.assembling import Found
from workflowmaster.flows.briefs import background
from workflowmaster.flows.criteria import Wanted, find_criteria
from workflowmaster.flows.ordering import find_cycle, in_order
from workflowmaster.flows.placing import Placed, place, stray_items
from workflowmaster.flows.plan import Criterion, Step
from workflowmaster.flows.prosesteps import Child, Maker
from workflowmaster.flows.references import find_references, prose_lines, resume_phase
from workflowmaster.flows.sections import Part, parts_of
from workflowmaster.flows.sequencing import Node, Waits, sequence
from workflowmaster.flows.skeleton import SKELETON
from workflowmaster.flows.stepitems import Item, find_items, quotations, shortened
from workflowmaster.flows.tracing import explain

if TYPE_CHECKING:
    from workflowmaster.flows.context import Context
    from workflowmaster.flows.plan import Reference
    from workflowmaster.flows.references import Line

_TESTING, _REVIEW = "6", "9"
MAX_STEPS = 400
"""Most steps found in one prompt; ten times the most any real one had."""
_CHECKS = -1
"""Mark of steps that prove criteria: they wait for the tests, not for each other."""


def read_prose(context: Context) -> Found:
    """Return the tasks, criteria and references of a prose prompt."""
    root = parts_of(context.prompt.root)
    lines = list(prose_lines(context.prompt.blocks))
    references = _references(lines, context)
    requests = sum(one.kind == "pull_request" for one in references)
    listed = find_items(root)
    found = _bounded(listed, context)
    criteria = find_criteria(root)
    placed = _review_alone(place(found, stray_items(root, found), requests))
    children = _children(placed, root, criteria)
    waits = _waits(children, context)
    steps = [item for some in (*placed.children.values(), *placed.mapped.values()) for item in some]
    about = background(context.prompt, steps, criteria)
    tasks = _tasks(Maker(context, tuple(criteria), about), placed, children, waits)
    _notes(root, listed, context)
    return Found(
        kind="prose",
        tasks=_in_order(tasks, context),
        criteria=_criteria(criteria, children),
        references=references,
        resume_phase=resume_phase(lines) or "",
        context=about,
        explained=explain(root, placed, children, criteria),
    )


def _bounded(found: list[Item], context: Context) -> list[Item]:
    """Return the items, or none where there are so many that they cannot be steps a person would follow."""
    if len(found) <= MAX_STEPS:
        return found
    said = f"{len(found)} things to do are more than {MAX_STEPS} steps: the whole prompt is one agent step"
    advice = "split the prompt, or write explicit steps"
    context.report.add("WM502", said, context.prompt.place(found[0].line), severity="warning", help=advice)
    return []


def _references(lines: list[Line], context: Context) -> tuple[Reference, ...]:
    metadata = context.front.metadata
    key = next((name for name in ("issue_number", "issue") if name in metadata), "")
    return find_references(lines, str(metadata.get(key, "")).lstrip("#"), context.prompt.front.key(key)[0])


def _review_alone(placed: Placed) -> Placed:
    """Keep the review a task of its own unless other work follows it; and keep a review where only that was found."""
    after = placed.children.get(_REVIEW, [])
    reviews = [item for item in after if item.meaning == "review"]
    # With no other work behind it, the task itself is the review; a child would only repeat it.
    if after and len(after) == len(reviews) == 1:
        children = {task: items for task, items in placed.children.items() if task != _REVIEW}
        return replace(placed, children=children, mapped={**placed.mapped, _REVIEW: reviews})
    if after and not reviews:
        line = after[0].line
        review = Item("Code review", "Review the change.", "review", line, line, "", "review that work follows")
        return replace(placed, children={**placed.children, _REVIEW: [review, *after]})
    return placed


def _children(placed: Placed, root: Part, criteria: list[Wanted]) -> dict[str, list[Child]]:
    """Return the steps of each task with their ids; the testing task also has the checks of the criteria."""
    children: dict[str, list[Child]] = {}
    for task in SKELETON:
        made = [Child(item) for item in placed.children.get(task.id, [])]
        if task.id == _TESTING:
            made += _test_commands(root, made)
            made += _criterion_checks(criteria, made)
        children[task.id] = [replace(child, id=f"{task.id}.{number}") for number, child in enumerate(made, 1)]
    return {task: some for task, some in children.items() if some}


def _test_commands(root: Part, known: list[Child]) -> list[Child]:
    lines = {line for child in known for line in range(child.item.line, child.item.end_line + 1)}
    made = []
    for block, name, section, commands in wanted.commands_of_tests(root):
        if block.line not in lines:
            item = Item(
                shortened(name),
                name,
                "tests",
                block.line,
                block.end_line,
                section,
                "commands of a test section",
                parallel=_CHECKS,
            )
            made.append(Child(item, command="".join(f"{command}\n" for command in commands)))
    return made


def _criterion_checks(criteria: list[Wanted], known: list[Child]) -> list[Child]:
    made: list[Child] = []
    for one in criteria:
        command = f"{one.command}\n"
        if one.command and command not in {child.command for child in (*known, *made)}:
            item = Item(
                shortened(one.text),
                one.text,
                "tests",
                one.line,
                one.line,
                "",
                "command of a success criterion",
                parallel=_CHECKS,
            )
            made.append(Child(item, command=command, proves=True))
    return made


def _waits(children: dict[str, list[Child]], context: Context) -> Waits:
    nodes = {task: [Node(child.id, task, child.item) for child in some] for task, some in children.items()}
    lines = context.prompt.lines
    texts = {
        node.id: "\n".join(lines[node.item.line - 1 : node.item.end_line]) for some in nodes.values() for node in some
    }
    waits = sequence(nodes, texts)
    for node, number in waits.unresolved:
        said = f"{node.item.name!r} waits for step {number}, which does not exist or runs later: that wait is dropped"
        context.report.add("WM509", said, context.prompt.place(node.item.line), severity="warning")
    return waits


def _tasks(maker: Maker, placed: Placed, children: dict[str, list[Child]], waits: Waits) -> list[Step]:
    tasks: list[Step] = []
    for task in SKELETON:
        own = children.get(task.id, [])
        for child in own:
            needs = waits.needs[child.id] or task.needs
            tasks.append(maker.child(task, child, needs, len(own)))
        ids = tuple(child.id for child in own)
        tasks.append(maker.task(task, placed.mapped.get(task.id, []), own, (*task.needs, *ids)))
    return tasks


def _in_order(tasks: list[Step], context: Context) -> tuple[Step, ...]:
    needs = {step.id: step.needs for step in tasks}
    if cycle := find_cycle(needs):
        steps = {step.id: step for step in tasks}
        named = " -> ".join(f"{name} ({steps[name].name})" for name in cycle)
        said = f"the prompt's own words make its steps wait for each other: {named}"
        context.report.add("WM508", said, context.prompt.place(steps[cycle[0]].source.line), help="reword one of them")
        return ()
    steps = {step.id: step for step in tasks}
    return tuple(steps[name] for name in in_order(needs))


def _criteria(found: list[Wanted], children: dict[str, list[Child]]) -> tuple[Criterion, ...]:
    checks = {child.command: child.id for child in children.get(_TESTING, [])}
    return tuple(
        Criterion(text=one.text, line=one.line, check=checks.get(f"{one.command}\n", "") if one.command else "")
        for one in found
    )


def _notes(root: Part, listed: list[Item], context: Context) -> None:
    for fence in quotations(root):
        said = "this fence quotes a whole document: nothing in it becomes a step"
        context.report.add("WM111", said, context.prompt.place(fence.line), severity="note")
    if not listed:
        said = "no list of things to do was found: the whole prompt is one agent step"
        advice = "write the steps as a numbered list under `## Implementation steps`, or as an explicit prompt"
        context.report.add("WM501", said, context.prompt.place(root.line), severity="note", help=advice)
