"""A plan as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflowmaster.flows.plan import Plan, Step

COMMAND_WIDTH = 48


def show(plan: Plan) -> None:
    """Print the plan: what would run, after what, where and how long. Nothing has run."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(plan.name, style="bold"), Text(f"  {plan.prompt.kind} prompt, plan {plan.workflow_hash[:12]}"))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("Step", "Kind", "After", "Policy", "Time", "Work"):
        table.add_column(title, overflow="fold", no_wrap=title in ("Kind", "Policy", "Time"))
    for step in plan.tasks:
        table.add_row(*(Text(cell) for cell in _cells(step)))
    console.print(table)
    agents = sum(step.kind == "agent" for step in plan.tasks)
    containers = sum(step.in_container for step in plan.tasks)
    told = f"{len(plan.tasks)} tasks, {containers} in containers, at most {plan.max_parallel} at a time."
    console.print(Text(told + (f" {agents} need an agent (--agent 'CMD …')." if agents else "")))


def _cells(step: Step) -> list[str]:
    limit = f"{step.timeout_seconds:g} s" if step.in_container else ""
    label = step.id if step.name == step.id else f"{step.id}  {step.name}"
    return [
        label,
        step.kind,
        ", ".join(step.needs[:4]),
        step.policy if step.in_container else "host",
        limit,
        _work(step),
    ]


def _work(step: Step) -> str:
    if step.work is None:
        return f"{len(step.children)} steps" if step.children else step.phase.replace("_", " ")
    line = next((line.strip() for line in step.work.text.splitlines() if line.strip()), "")
    return line if len(line) <= COMMAND_WIDTH else line[: COMMAND_WIDTH - 1] + "…"
