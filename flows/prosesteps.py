"""Steps of the plan made from what was found in prose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflowmaster.flows.attributes import StepAttributes
from workflowmaster.flows.briefs import step_brief, task_brief
from workflowmaster.flows.commands import SHELLS, judge, judge_fence
from workflowmaster.flows.limits import check_image, default_timeout, resources
from workflowmaster.flows.placeholders import Values, fill
from workflowmaster.flows.plan import Retries, Source, Step, Work
from workflowmaster.flows.reachable import reachable
from workflowmaster.flows.stepping import admit_variables, environment, image_place, retries
from workflowmaster.flows.validation import Read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflowmaster.flows.context import Context
    from workflowmaster.flows.criteria import Wanted
    from workflowmaster.flows.outline import Block
    from workflowmaster.flows.plan import Kind
    from workflowmaster.flows.skeleton import SkeletonTask
    from workflowmaster.flows.stepitems import Item

_HOST_KINDS: frozenset[Kind] = frozenset(("setup", "forge", "check"))


@dataclass(frozen=True, slots=True)
class Child:
    """A step found in the prose, under one of the nine tasks."""

    item: Item
    id: str = ""
    command: str = ""
    """What it runs, where that was found elsewhere than in a fence of its own."""
    proves: bool = False
    """Whether it is the check of a success criterion."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes steps; holds what they all share."""

    context: Context
    criteria: tuple[Wanted, ...]
    background: str

    def child(self, task: SkeletonTask, child: Child, needs: tuple[str, ...], siblings: int) -> Step:
        """Return the step of one found item."""
        item = child.item
        work, danger = self._work(child)
        kind: Kind = "agent" if work.interpreter == "prompt" else "check" if child.proves else "command"
        return self._step(
            task,
            kind,
            id=child.id,
            name=item.name,
            description=item.text if item.text != item.name else "",
            needs=needs,
            work=work,
            approval=bool(danger),
            details=item.details,
            estimated_minutes=round(task.minutes / siblings, 2),
            source=Source(line=item.line, end_line=item.end_line, section=item.section),
        )

    def task(self, task: SkeletonTask, told: Sequence[Item], own: Sequence[Child], needs: tuple[str, ...]) -> Step:
        """Return one of the nine: doing its work itself, or waiting for the steps found for it."""
        kind: Kind = "check" if own else task.kind
        asks_agent = kind == "agent"
        brief = task_brief(task.asks, self._title(), told, self.criteria, self.background) if asks_agent else ""
        source = self._source(told, own)
        return self._step(
            task,
            kind,
            id=task.id,
            name=task.name,
            description="; ".join(item.text or item.name for item in told),
            needs=needs,
            work=Work(interpreter="prompt", text=brief, line=source.line) if asks_agent else None,
            details=tuple(line for item in told for line in (item.name, *item.details)),
            children=tuple(child.id for child in own),
            estimated_minutes=task.minutes,
            source=source,
        )

    def _title(self) -> str:
        prompt = self.context.prompt
        first = next((section for section in prompt.root.walk() if section.level), None)
        return first.title if first else "the task below"

    def _source(self, told: Sequence[Item], own: Sequence[Child]) -> Source:
        items = [*told, *(child.item for child in own)]
        if not items:
            first = next((block for block in self.context.prompt.blocks), None)
            line = first.line if first else 1
            return Source(line=line, end_line=line)
        return Source(
            line=min(item.line for item in items),
            end_line=max(item.end_line for item in items),
            section=items[0].section,
        )

    def _work(self, child: Child) -> tuple[Work, str]:
        """Return a step's work, and why a person must approve it where that is so."""
        item = child.item
        if child.command:
            danger = judge(child.command).danger
            self._flag(danger, item.line)
            return Work(interpreter="bash", text=child.command, line=item.line), danger
        fences = [block for block in item.blocks if block.kind == "fence"]
        scripts = [(fence, judge_fence(fence)) for fence in fences]
        good = [(fence, script) for fence, script in scripts if not script.refusal]
        for fence, script in scripts:
            if script.refusal and _language(fence) in SHELLS:
                said = f"this fence is shown to the agent and not run: {script.refusal}"
                self.context.report.add("WM504", said, self.context.prompt.place(fence.line), severity="note")
        # All or nothing: running half of what a step shows would be neither its work nor the agent's.
        if good and len(good) == sum(_language(fence) in SHELLS for fence in fences):
            danger = next((script.danger for _, script in good if script.danger), "")
            self._flag(danger, good[0][0].line)
            text = "".join(script.text for _, script in good)
            return Work(interpreter="bash", text=text, line=good[0][0].line + 1), danger
        brief = step_brief(item, self.context.prompt, self._title(), self.criteria, self.background)
        return Work(interpreter="prompt", text=brief, line=item.line), ""

    def _flag(self, danger: str, line: int) -> None:
        if danger:
            said = f"this command {danger}: it waits for a person's approval"
            self.context.report.add("WM503", said, self.context.prompt.place(line), severity="warning")

    def _step(self, task: SkeletonTask, kind: Kind, **fields: Any) -> Step:
        """Return a step with what every step of its task has."""
        context, front = self.context, self.context.front.keys
        policy = context.standing.stricter(task.policy, context.standing.workflow)
        if policy == "testing" and kind == "agent" and "." in fields["id"]:
            # An agent that is to write tests leaves files, and `testing` throws its copy of the workspace away.
            policy = context.standing.workflow
        granted = context.standing.policy(policy)
        hosted = fields["work"] is None
        values = Values({spec.name: context.values.get(spec.name) for spec in context.inputs})
        place = context.front.at("image")
        image = fill(front.image or context.options.default_image, values, place, context.report)
        if not hosted:
            admit_variables(_UNSAID, granted, context)
            check_image(image, granted, image_place(_UNSAID, context), context.report)
        limits = default_timeout(kind, granted, context.options)
        return Step(
            kind=kind,
            phase=task.phase,
            priority=task.priority,
            policy=policy,
            image="" if hosted else image,
            env=_filled(environment(_UNSAID, context), values, context),
            timeout_seconds=min(front.timeout_minutes or limits, float(granted.wall_seconds_max)),
            retries=Retries() if kind == "check" and hosted else self._retries(),
            on_failure=front.on_failure or "auto",
            cache=bool(front.cache),
            resources=resources(_UNSAID, granted, context),
            network=reachable(_UNSAID, granted, context),
            git=kind == "agent",
            **fields,
        )

    def _retries(self) -> Retries:
        if self.context.front.keys.retries:
            return retries(_UNSAID, self.context)
        options = self.context.options
        asked = self.context.front.keys.on_failure == "retry"
        return Retries(max=options.max_retries, backoff=options.backoff, automatic=not asked)


_UNSAID: Read[StepAttributes] = Read(StepAttributes())
"""Attributes of a step nobody wrote any for."""


def _filled(env: dict[str, str], values: Values, context: Context) -> dict[str, str]:
    return {name: fill(text, values, context.front.at("env", name), context.report) for name, text in env.items()}


def _language(fence: Block) -> str:
    return fence.info.split(maxsplit=1)[0].lower() if fence.info else ""
