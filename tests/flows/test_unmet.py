"""What cannot be kept is refused, with the line and what to do."""

from __future__ import annotations

import pytest

from workflowmaster.flows import compiler, prompts
from workflowmaster.flows.limiting import effective
from workflowmaster.flows.settings import Settings
from workflowmaster.flows.unmet import refuse_unmet
from workflowmaster.policies import PolicyError

KEPT = (
    "network: {}",
    "network: [python]",
    "on-retry: reset",
    "priority: high",
    "budget: {minutes: 5}",
    "secrets: [TOKEN]",
)


def refuse(policy: str, *attributes: str):
    bullets = "".join(f"- {line}\n" for line in (f"policy: {policy}", *attributes))
    text = f"---\nsecurity-policy: {policy}\n---\n# T\n\n## Steps\n\n### one\n{bullets}```bash\ntrue\n```\n"
    done = compiler.compile_prompt(prompts.parse(text.encode(), "p.md"))
    assert done.plan, done.diagnostics
    refuse_unmet(done.plan, {step.id: effective(step, Settings()) for step in done.plan.tasks})


def test_a_step_that_asks_for_what_its_policy_throws_away_is_refused_with_its_line(home):
    with pytest.raises(PolicyError) as refused:
        refuse("testing", "on-retry: keep")
    assert "p.md:8: step one: on-retry: keep: policy testing throws away" in str(refused.value)
    assert "name a policy that keeps it" in str(refused.value)


@pytest.mark.parametrize("policy", ["minimal", "standard", "hardened", "paranoid"])
def test_a_policy_that_takes_in_what_a_step_leaves_can_keep_it(policy, home):
    refuse(policy, "on-retry: keep")


@pytest.mark.parametrize("attribute", KEPT)
def test_what_is_kept_is_not_refused(attribute, home):
    refuse("standard", attribute)
