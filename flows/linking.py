"""How steps hang together: `needs` and `if`, resolved and checked before anything runs.

Everything is checked on the written steps and only then spread over matrix instances: a mistake is said once, not once
for each of a thousand instances, and cycles are looked for in a graph of the size of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.flows.conditions import Name, parse_condition
from workflowmaster.flows.diagnostics import PromptError, did_you_mean
from workflowmaster.flows.matrix import axes
from workflowmaster.flows.naming import slug, variable
from workflowmaster.flows.ordering import ancestors, find_cycle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from workflowmaster.flows.context import Context
    from workflowmaster.flows.diagnostics import Place, Report
    from workflowmaster.flows.explicit import Draft

# Two matrices of a thousand that need each other would be a million: seconds to order, megabytes to store.
MAX_EDGES = 200_000
"""Most dependencies of a plan, instances counted."""
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Family:
    """A written step and the ids of its instances; a step without a matrix is its own only instance."""

    draft: Draft
    ids: tuple[str, ...]


def link(families: Mapping[str, Family], context: Context) -> dict[str, tuple[str, ...]]:
    """Return, for each written step, the ids of all instances it needs.

    Reports unknown names, steps that need each other, more dependencies than a plan may have, and whatever is wrong
    with an `if`.
    """
    needs = {name: _needs(family.draft, families, context) for name, family in families.items()}
    owners = {instance: name for name, family in families.items() for instance in family.ids}
    # Steps, not instances: the graph stays as small as the file.
    graph = {name: tuple(dict.fromkeys(owners[need] for need in wanted)) for name, wanted in needs.items()}
    if cycle := find_cycle(graph):
        _report_cycle(cycle, families, context.report)
    edges = sum(len(needs[name]) * len(family.ids) for name, family in families.items())
    if edges > MAX_EDGES:
        said = f"the steps have {edges} dependencies; at most {MAX_EDGES} are allowed"
        advice = "put one step between two large matrices, and let both sides need or be needed by it"
        context.report.add("WM220", said, context.prompt.place(1), help=advice)
    for name, family in families.items():
        _condition(family.draft, families, ancestors(graph, name), context)
    return needs


def distinct_variables(families: Mapping[str, Family], report: Report) -> None:
    """Report instances whose outputs would be one environment variable (`tests/3.1` and `tests/3-1`)."""
    owners: dict[str, str] = {}
    for family in families.values():
        for one in family.ids:
            first = owners.setdefault(variable("STEP", one), one)
            if first != one:
                said = f"{first!r} and {one!r} share their environment variables' spelling"
                report.add("WM211", said, family.draft.place, help="rename the step, or respell a matrix value")


def known_steps(families: Iterable[str]) -> str:
    """Return the help line that lists a file's steps."""
    names = list(families)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"steps defined in this file: {', '.join(names[:_SHOWN])}{more}"


def _needs(draft: Draft, families: Mapping[str, Family], context: Context) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for index, word in enumerate(draft.read.keys.needs):
        ids = _resolve(word, families)
        if not ids:
            names = [*families, *(one for family in families.values() for one in family.ids[:_SHOWN])]
            advice = f"{did_you_mean(word, names)} {known_steps(families)}".strip()
            context.report.add("WM204", f"unknown step {word!r} in needs", _place(draft, index, context), help=advice)
        found.update(dict.fromkeys(ids))
    return tuple(found)


def _resolve(word: str, families: Mapping[str, Family]) -> tuple[str, ...]:
    # `needs: Build it` names the heading as it is written.
    for name in (word, slug(word)):
        if name in families:
            return families[name].ids
    family = families.get(word.partition("/")[0])
    return (word,) if family and word in family.ids else ()


def _place(draft: Draft, index: int, context: Context) -> Place:
    """Return where one word of `needs` stands, also in a list written as one text."""
    whole = draft.read.at("needs")
    exact = draft.read.located.places.get(("needs", index))
    if exact or len(draft.read.keys.needs) == 1:
        return exact or whole
    line, column, _ = whole
    word = draft.read.keys.needs[index]
    start = context.prompt.lines[line - 1].find(word, column - 1)
    return (line, start + 1, start + 1 + len(word)) if start >= 0 else whole


def _report_cycle(cycle: Sequence[str], families: Mapping[str, Family], report: Report) -> None:
    first = families[cycle[0]].draft
    said = f"steps need each other: {' -> '.join(cycle)}"
    lines = ", ".join(f"{name} in line {families[name].draft.read.at('needs')[0]}" for name in cycle[:-1])
    report.add("WM205", said, first.read.at("needs"), help=f"remove one of these needs: {lines}")


def _condition(draft: Draft, families: Mapping[str, Family], before: frozenset[str], context: Context) -> None:
    text = draft.read.keys.if_
    if not text:
        return
    line, column, _ = draft.read.at("if")
    # Inside quotes the condition begins one column later than its value.
    column += 1 if draft.read.located.texts["if"] != context.prompt.lines[line - 1][column - 1 :].strip() else 0
    try:
        condition = parse_condition(text, file=context.report.file, line=line, column=column)
    except PromptError as error:
        context.report.extend(error.diagnostics)
        return
    for name in condition.names:
        fault = _fault(name, draft, families, before, context)
        if fault:
            start = column + name.column - 1
            context.report.add("WM309", f"if: {fault[0]}", (line, start, start + name.length), help=fault[1])


def _fault(
    name: Name, draft: Draft, families: Mapping[str, Family], before: frozenset[str], context: Context
) -> tuple[str, str] | None:
    """Return what is wrong with a name in an `if`, and the advice; None where it is right."""
    room, word = name.path[0], name.path[1]
    if room == "inputs":
        return _unknown("input", word, [spec.name for spec in context.inputs])
    if room == "matrix":
        return _unknown("matrix axis", word, sorted(axes(draft.read)))
    return _step_fault(name, families, before)


def _step_fault(name: Name, families: Mapping[str, Family], before: frozenset[str]) -> tuple[str, str] | None:
    word = name.path[1]
    family = families.get(word.partition("/")[0])
    if family is None:
        return f"unknown step {word!r}", f"{did_you_mean(word, families)} {known_steps(families)}".strip()
    if word not in family.ids:
        shown = ", ".join(family.ids[:_SHOWN])
        return f"step {word!r} is a matrix: name one instance", f'write steps["{family.ids[0]}"]; it has {shown}'
    if family.draft.id not in before:
        return f"step {word!r} may not have ended by then", f"add `- needs: {word}`"
    outputs = family.draft.read.keys.outputs
    if name.path[2] == "outputs" and outputs:
        return _unknown(f"output of {word!r}", name.path[3], outputs)
    return None


def _unknown(what: str, word: str, known: Sequence[str]) -> tuple[str, str] | None:
    if word in known:
        return None
    return f"unknown {what} {word!r}", did_you_mean(word, known) or f"known: {', '.join(known) or 'none'}"
