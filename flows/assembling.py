"""The last leg of a compilation: steps and what else was found become a `Plan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workflowmaster.flows import outline
from workflowmaster.flows.plan import Criterion, Plan, PromptRef, Reference

if TYPE_CHECKING:
    from workflowmaster.flows.context import Context
    from workflowmaster.flows.options import Explained
    from workflowmaster.flows.outline import Section
    from workflowmaster.flows.plan import Step

DEFAULT_PARALLEL = 3
"""Steps at the same time where neither the prompt nor the operator says (the guide's `max_parallel_tasks`)."""

FRONT_KEYS = (
    "on",
    "concurrency",
    "outputs",
    "budget",
    "decisions",
    "staged",
    "github",
    "coach",
    "network",
    "resources",
    "retries",
    "secrets",
    "kept",
    "dropped",
    "requires",
)
"""Front-matter keys that other parts read from `Plan.front`, as plain JSON, only where the prompt gives them."""

_MAX_NAME = 120
_MAX_DESCRIPTION = 400


@dataclass(frozen=True, slots=True)
class Found:
    """What was read out of a prompt's body."""

    kind: Literal["explicit", "prose"]
    tasks: tuple[Step, ...]
    """In the plan's order."""
    criteria: tuple[Criterion, ...] = ()
    references: tuple[Reference, ...] = ()
    resume_phase: str = ""
    context: str = ""
    explained: tuple[Explained, ...] = ()


def assemble(found: Found, context: Context, compiler: str) -> Plan:
    """Return the plan of a prompt without errors."""
    front = context.front
    metadata = {**front.metadata, **front.keys.metadata}
    # Both are upper bounds, so the lower one holds.
    limits = [most for most in (front.keys.max_parallel, context.options.max_parallel) if most is not None]
    return Plan(
        name=front.keys.name or _title(context),
        description=front.keys.description or str(metadata.get("description", "")) or _opening(context),
        prompt=PromptRef(path=context.prompt.path, sha256=context.prompt.sha256, kind=found.kind),
        compiler=compiler,
        policy=context.standing.workflow,
        max_parallel=min(limits, default=DEFAULT_PARALLEL),
        inputs=context.inputs,
        input_values=context.values,
        labels=front.keys.labels,
        tasks=found.tasks,
        criteria=found.criteria,
        references=found.references,
        resume_phase=found.resume_phase,
        context=found.context,
        metadata=metadata,
        front=_front(context),
    )


def note_agents(found: Found, context: Context) -> None:
    """Say which steps need an agent or a person, where no agent is configured."""
    agents = [step for step in found.tasks if step.kind == "agent"]
    if not agents or context.options.agent:
        return
    names = ", ".join(step.id for step in agents[:8]) + (" …" if len(agents) > 8 else "")
    need = "step needs" if len(agents) == 1 else "steps need"
    said = f"{len(agents)} {need} an agent or a person: {names}"
    place = context.prompt.place(agents[0].source.line)
    context.report.add("WM506", said, place, severity="note", help="configure an agent, or do them when the run waits")


def _front(context: Context) -> dict[str, Any]:
    written = context.front.keys.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {key: written[key] for key in FRONT_KEYS if key in written}


def _title(context: Context) -> str:
    given = context.front.metadata.get("title")
    headings = [section for section in context.prompt.root.walk() if section.level]
    first = next((heading for heading in headings if heading.level == 1), headings[0] if headings else None)
    text = str(given) if given else outline.inline(first.title).text if first else _first_line(context)
    return text.strip()[:_MAX_NAME] or "prompt"


def _first_line(context: Context) -> str:
    lines = context.prompt.lines[context.prompt.body_line - 1 :]
    return next((outline.inline(line.strip()).text for line in lines if line.strip()), "")


def _opening(context: Context) -> str:
    """Return the first paragraph before any second-level heading."""
    places: list[Section] = [context.prompt.root, *context.prompt.root.sections[:1]]
    paragraphs = [block for place in places for block in place.blocks if block.kind == "paragraph"]
    if not paragraphs:
        return ""
    text = " ".join(outline.inline(paragraphs[0].text).text.split())
    return text if len(text) <= _MAX_DESCRIPTION else text[: _MAX_DESCRIPTION - 1].rstrip() + "…"
