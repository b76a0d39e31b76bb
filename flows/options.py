"""What the compiler is told besides the prompt, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from workflowmaster.flows.diagnostics import Diagnostic
from workflowmaster.flows.plan import Noun, Plan

DEFAULT_IMAGE = "workflowmaster/step:1"
"""Image of steps that name none, built by `workflowmaster image build`."""


class Options(Noun):
    """The operator's side of a compilation. Everything here that changes a plan is in the plan, so in its hash."""

    policy: str | None = None
    """What the operator insists on (`--policy`). It can only tighten what a prompt says, and replaces the default."""
    default_policy: str = "standard"
    """Policy of prompts that name none."""
    policy_folders: tuple[Path, ...] = ()
    """Folders with the user's own policies."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Values of the prompt's inputs, as text (`--input k=v`)."""
    require_inputs: bool = False
    """Whether a missing required input is an error (before a run) or a warning (`check` and `plan`)."""
    default_image: str = DEFAULT_IMAGE
    default_timeout_seconds: float = Field(default=300, gt=0)
    """Of command steps that name none. No cap: that is the policy's maximum."""
    max_retries: int = Field(default=3, ge=0, le=20)
    """Most retries of any step; the default of the skeleton's tasks, and of a step with `on-failure: retry`."""
    backoff: Literal["exponential", "linear", "fixed"] = "exponential"
    """How delays grow where a step does not say."""
    max_parallel: int | None = Field(default=None, ge=1)
    """Steps at the same time; the lower of this and the prompt's own. Neither given: 3."""
    agent: bool = False
    """Whether an agent is configured; without one, agent steps are named in a note."""


class Explained(Noun):
    """What a range of lines became, and by which rule; the substance of `plan --explain`."""

    line: int
    end_line: int
    became: str
    """A step's id, `criterion`, `reference`, `context`, `quotation` or `nothing`."""
    rule: str


class Compilation(Noun):
    """The compiler's answer: a plan or the reasons why there is none."""

    plan: Plan | None
    """None exactly when one of the diagnostics is an error."""
    diagnostics: tuple[Diagnostic, ...]
    explained: tuple[Explained, ...] = ()
    """By line; empty for explicit prompts, whose form explains itself."""
