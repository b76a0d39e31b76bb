"""How a workflow's status follows from its steps', where a rule of ours has given one up."""

from __future__ import annotations

from typing import Any

import pytest

from workflowmaster.flows.state import final_status


@pytest.mark.parametrize(
    ("mandatory", "waived", "status"),
    [(True, False, "completed"), (True, True, "partial"), (False, True, "completed")],
)
def test_a_mandatory_step_that_was_waived_leaves_the_run_partial(
    mandatory: bool, waived: bool, status: str, make: Any
) -> None:
    plan = make.plan(make.step("a"), make.step("docs", mandatory=mandatory))
    results = [make.result("a"), make.result("docs", status="skipped", waived=waived)]
    assert final_status(plan.tasks, {result.step: result for result in results}) == status
