"""From a prompt to a plan: the journey of one compilation, and the only way to it.

A compilation is a function of the prompt's bytes, the options and `COMPILER`: no clock, no machine, no network, no
randomness, so equal input gives equal JSON and a plan's hash can name a workflow. It never raises for what a prompt
says; everything wrong with it is in the diagnostics, all at once.

In explicit prompts a step without `needs` depends on nothing, as in GitHub Actions: order on paper is no order of
work. Prose is the other way round (`prose.py`): there the order on paper is all there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.flows.assembling import Found, assemble, note_agents
from workflowmaster.flows.attributes import FrontMatter
from workflowmaster.flows.context import Context
from workflowmaster.flows.diagnostics import Report
from workflowmaster.flows.explicit import duplicate_ids, read_drafts, steps_section
from workflowmaster.flows.inputs import read_inputs
from workflowmaster.flows.limits import check_file_limits, standing
from workflowmaster.flows.linking import Family, distinct_variables, link
from workflowmaster.flows.matrix import instances
from workflowmaster.flows.naming import instance_id
from workflowmaster.flows.options import Compilation, Explained, Options
from workflowmaster.flows.ordering import in_order
from workflowmaster.flows.placeholders import refuse_elsewhere
from workflowmaster.flows.reachable import check_file_network
from workflowmaster.flows.stepping import shared_outputs, steps_of
from workflowmaster.flows.surroundings import background, criteria, mentioned
from workflowmaster.flows.validation import validate

if TYPE_CHECKING:
    from workflowmaster.flows.outline import Section
    from workflowmaster.flows.plan import Step
    from workflowmaster.flows.prompts import Prompt

__all__ = ["COMPILER", "Compilation", "Explained", "Options", "compile_prompt"]

COMPILER = "1"
"""Version of the compiler: raised when equal prompts come to give other plans."""


def compile_prompt(prompt: Prompt, options: Options | None = None) -> Compilation:
    """Return the plan of a prompt, or the reasons why it has none. Never raises for what the prompt says."""
    report = Report(prompt.path)
    report.extend(prompt.diagnostics)
    section = steps_section(prompt)
    context = _context(prompt, options or Options(), report, lenient=section is None)
    if section is None:
        from workflowmaster.flows.prose import read_prose

        found = read_prose(context)
    else:
        found = Found(
            kind="explicit",
            tasks=tuple(_explicit(section, context)),
            criteria=criteria(section, context),
            references=mentioned(section, context),
            context=background(section, context),
        )
    note_agents(found, context)
    plan = None if report.failed else assemble(found, context, COMPILER)
    return Compilation(plan=plan, diagnostics=report.diagnostics, explained=found.explained)


def _context(prompt: Prompt, options: Options, report: Report, *, lenient: bool) -> Context:
    front = validate(FrontMatter, prompt.front, report, lenient=lenient)
    refuse_elsewhere(front.located, report)
    policies = standing(front, options, report)
    check_file_limits(front, policies.policy(policies.file), report)
    check_file_network(front, policies.policy(policies.file), report)
    specs, values = read_inputs(front, options, report)
    return Context(prompt, front, options, report, policies, specs, values)


def _explicit(section: Section, context: Context) -> list[Step]:
    drafts = read_drafts(section, context.prompt, context.report)
    duplicate_ids(drafts, context.report)
    shared_outputs(drafts, context.report)
    families: dict[str, Family] = {}
    made: dict[str, list[Step]] = {}
    for draft in drafts:
        values = instances(draft.read, draft.id, context.report)
        ids = tuple(instance_id(draft.id, one) if one else draft.id for one in values)
        families.setdefault(draft.id, Family(draft, ids))
        made.setdefault(draft.id, steps_of(draft, values, context))
    distinct_variables(families, context.report)
    needs = link(families, context)
    if context.report.failed:
        return []
    steps = {step.id: step.model_copy(update={"needs": needs[name]}) for name in made for step in made[name]}
    return [steps[name] for name in in_order({step.id: step.needs for step in steps.values()})]
