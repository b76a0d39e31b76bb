"""Decisions before people: the verb and the sentence first, the rule's name beside it, the factors on demand."""

from __future__ import annotations

from typing import Any

import pytest

from workflowmaster.flows import decided
from workflowmaster.flows.plan import Decision, Failure, Limits

NETWORK = Failure(cls="rate_limit", fingerprint="f" * 16, lines=("HTTP 403: rate limit exceeded", "retry later"))


def decision(**given: Any) -> Decision:
    known = {"step": "build", "verb": "retry", "reason": "passes-by-itself: it goes away", "rule": "passes-by-itself"}
    return Decision.model_validate({**known, **given})


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"attempt": 2, "wait_seconds": 4.0, "limits": Limits(memory=2**28)},
            "attempt 2: retry, tried again in 4.0 s with 256 MiB; it goes away (passes-by-itself)",
        ),
        ({}, "retry, tried again; it goes away (passes-by-itself)"),
        ({"verb": "escalate"}, "escalate, asked a person; it goes away (passes-by-itself)"),
        # Of an older version: no rule of its own, the attempt among the factors.
        (
            {"rule": "", "verb": "continue", "reason": "retries-spent: no attempt is left", "factors": {"attempt": 3}},
            "attempt 3: continue, gave it up, went on; no attempt is left (retries-spent)",
        ),
        (
            {"rule": "", "verb": "abort", "reason": "the same failure: three times"},
            "abort, stopped the run; the same failure: three times",
        ),
    ],
)
def test_a_decision_in_one_line(given: dict[str, Any], line: str) -> None:
    assert decided.line(decision(**given)) == line


def test_what_failed_is_its_class_and_the_line_that_said_so() -> None:
    assert decided.failure(decision(failure=NETWORK)) == "rate limit: HTTP 403: rate limit exceeded"
    assert decided.failure(decision(failure=NETWORK.model_copy(update={"lines": ()}))) == "rate limit"
    assert decided.failure(decision()) == ""


def test_factors_stand_behind_a_click_and_silent_ones_nowhere() -> None:
    factors = {"progress": 0.25, "breaker": "closed", "delays": [1, 2], "dependants": 3, "budget_spent": ""}
    (row,) = decided.rows([decision(attempt=1, factors=factors, failure=NETWORK)])
    before, folded = row.split("<details>")
    assert "progress" not in before
    assert folded.startswith("<summary>2 factors</summary>")
    assert "dependants 3" in folded
    assert "closed" not in row
    (bare,) = decided.rows([decision()])
    assert "<details>" not in bare


def test_markdown_has_a_row_and_an_item_for_each() -> None:
    hostile = decision(step="a|b`c", reason="r: <script> | x", rule="r", attempt=1, failure=NETWORK)
    table = decided.listed([hostile, decision()]).splitlines()
    assert table[0] == "| Step | Attempt | Failure | Decision | Why |"
    assert len(table) == 4
    assert decided.told(decision(attempt=1, failure=NETWORK)) == (
        "- `build`, attempt 1 (rate limit: HTTP 403: rate limit exceeded): tried again; it goes away "
        "(`passes-by-itself`)"
    )
