"""What a person asks for: a prompt, how to read it, and the plan that comes of both. Nothing is started here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.flows import compiler, prompts
from workflowmaster.flows.diagnostics import PromptError
from workflowmaster.flows.plan import Noun, Plan

if TYPE_CHECKING:
    from workflowmaster.flows.compiler import Compilation
    from workflowmaster.flows.settings import Settings


class BadOption(ValueError):
    """An argument of a command that cannot be meant; the message says what was expected."""


class Options(Noun):
    """What a run was asked for; kept with it, so that a resume asks for the same."""

    prompt: str
    workspace: str = "."
    policy: str | None = None
    inputs: dict[str, str] = {}
    max_parallel: int | None = None
    agent: str = ""
    include_dirty: bool = False


def inputs(pairs: list[str]) -> dict[str, str]:
    """Read `NAME=VALUE` pairs. BadOption names the first that is none."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadOption(f"--input {pair}: expected NAME=VALUE")
        found[name] = value
    return found


def compilation(options: Options, settings: Settings, *, running: bool) -> Compilation:
    """Read and compile a prompt as options and settings say. PromptError if it cannot be read as one, BadOption."""
    if options.max_parallel is not None and options.max_parallel < 1:
        raise BadOption(f"--max-parallel {options.max_parallel}: expected a number of steps, 1 or more")
    return compiler.compile_prompt(prompts.read(Path(options.prompt)), wanted(options, settings, running=running))


def wanted(options: Options, settings: Settings, *, running: bool) -> compiler.Options:
    """Return what the compiler is told, out of what was asked for and what is set."""
    # A setting that nobody set is a default, which the prompt overrides; one that somebody set is a limit.
    limit = settings.max_parallel_tasks if "max_parallel_tasks" in settings.model_fields_set else None
    return compiler.Options(
        policy=options.policy,
        default_policy=settings.security_policy,
        policy_folders=settings.own_policies,
        inputs=options.inputs,
        require_inputs=running,
        default_image=settings.image,
        default_timeout_seconds=settings.default_timeout_seconds,
        max_retries=settings.max_retry_attempts,
        backoff=settings.retry_backoff_strategy,
        max_parallel=options.max_parallel or limit,
        agent=bool(options.agent or settings.agent),
    )


def plan_of(options: Options, settings: Settings, *, running: bool = True) -> Plan:
    """Return the plan of a prompt. PromptError carries every diagnostic if one of them is an error."""
    done = compilation(options, settings, running=running)
    if done.plan is None:
        raise PromptError(*done.diagnostics)
    return done.plan
