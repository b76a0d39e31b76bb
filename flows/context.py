"""What every part of one compilation needs to know, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflowmaster.flows.attributes import FrontMatter
    from workflowmaster.flows.diagnostics import Report
    from workflowmaster.flows.limits import Standing
    from workflowmaster.flows.options import Options
    from workflowmaster.flows.plan import InputSpec
    from workflowmaster.flows.prompts import Prompt
    from workflowmaster.flows.validation import Read


@dataclass(frozen=True, slots=True)
class Context:
    """One prompt on its way to a plan. Only `report` changes: it collects what is found."""

    prompt: Prompt
    front: Read[FrontMatter]
    options: Options
    report: Report
    standing: Standing
    inputs: tuple[InputSpec, ...]
    values: dict[str, str]
    """Value of each input that has one, as text."""
