"""What cannot be kept is refused, with the line and what to do."""

from __future__ import annotations

import pytest

from workflowmaster.flows import compiler, prompts
from workflowmaster.flows.unmet import refuse_unmet
from workflowmaster.policies import PolicyError


def plan(head: str = "", *attributes: str):
    bullets = "".join(f"- {line}\n" for line in attributes)
    text = f"{head}# T\n\n## Steps\n\n### one\n{bullets}```bash\ntrue\n```\n"
    done = compiler.compile_prompt(prompts.parse(text.encode(), "p.md"))
    assert done.plan, done.diagnostics
    return done.plan


@pytest.mark.parametrize(
    ("attribute", "word"),
    [
        ("on-retry: keep", "every attempt starts from a clean tree"),
        ("budget: {minutes: 5}", "use timeout-minutes"),
    ],
)
def test_a_step_that_asks_for_it_is_refused_with_its_line(attribute, word):
    with pytest.raises(PolicyError) as refused:
        refuse_unmet(plan("", attribute))
    assert "p.md:5: step one: " in str(refused.value)
    assert word in str(refused.value)


def test_a_budget_of_the_whole_run_is_not_promised():
    with pytest.raises(PolicyError, match=r"p\.md: budget: a run is not stopped by it yet"):
        refuse_unmet(plan("---\nbudget: {minutes: 5}\n---\n"))


@pytest.mark.parametrize(
    "attribute", ["network: {}", "network: [python]", "on-retry: reset", "priority: high", "secrets: [TOKEN]"]
)
def test_what_is_kept_is_not_refused(attribute):
    refuse_unmet(plan("", attribute))
