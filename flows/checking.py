"""The commands that only look at prompt files: `check`, `plan`, `schema`. They start nothing and import no Prefect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.home import configured
from workflowmaster.flows import compiler, prompts
from workflowmaster.flows.diagnostics import Diagnostic, PromptError, render
from workflowmaster.flows.plan import SCHEMA, Plan, Step

if TYPE_CHECKING:
    import argparse

INVALID = 2


def check(given: argparse.Namespace) -> int:
    """Print every finding about the files; exit code 2 if one of them is an error."""
    found: list[Diagnostic] = []
    options = _options()
    for name in given.files:
        found += diagnostics(Path(name), options)
    if given.json:
        print(json.dumps([one.public() for one in found]))
    for one in found:
        sys.stderr.write(render(one, source(one.file)) + "\n")
    errors = sum(one.severity == "error" for one in found)
    summary = f"{len(given.files)} checked: {errors} errors, {len(found) - errors} warnings and notes\n"
    sys.stderr.write(summary)
    return INVALID if errors else 0


def _options() -> compiler.Options:
    """Return what a run without options would tell the compiler."""
    if not configured():
        return compiler.Options()
    from workflowmaster.flows.asking import Options, wanted
    from workflowmaster.flows.settings import load  # 0.1 s that nobody pays who has set nothing

    return wanted(Options(prompt=""), load(), running=False)


def diagnostics(path: Path, options: compiler.Options) -> tuple[Diagnostic, ...]:
    """Read and compile one file and return what was found."""
    try:
        return compiler.compile_prompt(prompts.read(path), options).diagnostics
    except PromptError as error:
        return error.diagnostics


def source(path: str) -> str | None:
    """Return a prompt's text for excerpts, None if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return None


def plan(given: argparse.Namespace) -> int:
    """Show what a prompt compiles to."""
    from workflowmaster.flows.asking import Options, compilation, inputs
    from workflowmaster.flows.settings import load  # 0.1 s that check must not pay

    options = Options(
        prompt=given.file,
        policy=given.policy,
        inputs=inputs(given.input),
        max_parallel=given.max_parallel,
        agent=given.agent,
    )
    done = compilation(options, load(), running=False)
    if done.plan is None:
        raise PromptError(*done.diagnostics)
    if given.json:
        print(json.dumps(public(done.plan, done.diagnostics), ensure_ascii=False))
        return 0
    from workflowmaster.flows.planview import show

    for one in done.diagnostics:
        sys.stderr.write(render(one, source(given.file)) + "\n")
    show(done.plan)
    return 0


def public(made: Plan, found: tuple[Diagnostic, ...]) -> dict[str, Any]:
    """Return what `plan --json` prints: stable names that other programs rely on."""
    return {
        "schema": SCHEMA,
        "name": made.name,
        "description": made.description,
        "workflow_hash": made.workflow_hash,
        "prompt": made.prompt.model_dump(mode="json"),
        "policy": made.policy,
        "max_parallel": made.max_parallel,
        "inputs": [spec.model_dump(mode="json") for spec in made.inputs],
        "tasks": [_task(step) for step in made.tasks],
        "criteria": [one.model_dump(mode="json") for one in made.criteria],
        "references": [one.model_dump(mode="json") for one in made.references],
        "resume_phase": made.resume_phase,
        "diagnostics": [one.public() for one in found],
    }


def _task(step: Step) -> dict[str, Any]:
    body = step.model_dump(mode="json", exclude={"retries"})
    return {**body, "max_retries": step.retries.max, "retries": step.retries.model_dump(mode="json")}


def schema(given: argparse.Namespace) -> int:
    """Print a JSON Schema."""
    from workflowmaster.flows.schema import front_matter_schema, plan_schema

    made = front_matter_schema() if given.what == "prompt" else plan_schema()
    print(json.dumps(made, indent=2, ensure_ascii=False))
    return 0
