"""docs/autonomy.md has the table as it is, and its examples are what is really decided."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from workflowmaster.flows.decisions import RULES, Facts, decide
from workflowmaster.flows.facts import LIMITED, NEVER, PERMANENT, TRANSIENT, UNCLEAR, Recalled, barred
from workflowmaster.flows.plan import Failure, FailureClass, Limits

PAGE = (Path(__file__).parents[2] / "docs" / "autonomy.md").read_text(encoding="utf-8")
GIB = 2**30


def facts(cls: FailureClass = "unknown", **more: Any) -> Facts:
    failure = Failure(cls=cls, fingerprint="9f2c41d07ab3e658", confidence=more.pop("confidence", 1.0))
    known: dict[str, Any] = {
        "step": "build",
        "kind": "command",
        "priority": "medium",
        "mandatory": True,
        "on_failure": "auto",
        "mode": "autonomous",
        "attempt": 1,
        "most": 4,
        "stated": False,
        "failure": failure,
        "delays": (2.3, 4.6, 9.2),
    }
    return Facts(**{**known, **more})


EXAMPLES = (
    facts("network", mode="off"),
    facts("network", budget_spent="62 of 60 minutes are used"),
    facts("sandbox_unavailable", breaker="open", breaker_wait=10.0, patience=95.0),
    facts("sandbox_unavailable", breaker="open", breaker_wait=10.0, patience=0.0),
    facts("test_failure", stated=True, most=3),
    facts("network", attempt=2),
    facts("out_of_memory", growth=Limits(memory=2 * GIB)),
    facts("unknown", on_failure="skip", dependants=2),
    facts("timeout", on_failure="abort", attempt=4),
    facts("code_error", on_failure="escalate"),
    facts("test_failure", continue_on_error=True),
    facts("out_of_memory", mode="assist", growth=Limits(memory=2 * GIB)),
    facts("test_failure", priority="high", chance=Recalled(0.02, 61)),
    facts("unknown", priority="high", attempt=2),
    facts("permission", priority="high"),
    facts("policy_refused"),
    facts("missing_resource", priority="low", progress=0.8, dependants=1),
    facts("test_failure", health=0.42),
    facts("test_failure", chance=Recalled(0.83, 46)),
    facts("timeout", attempt=2, grown=True, repeated=True),
    facts("test_failure", attempt=2, repeated=True),
    facts("code_error", priority="low", dependants=3),
    facts("unknown", priority="low"),
    facts("test_failure", priority="high", attempt=2, repeated=True),
)
"""One for each row of the table, in its order."""


def table() -> list[str]:
    return [f"| {n} | `{rule.name}` | {rule.verb} | {rule.words} |" for n, rule in enumerate(RULES, start=1)]


def test_the_page_has_the_whole_table_in_its_order() -> None:
    found = re.findall(r"^\| \d+ \| `.*$", PAGE, re.MULTILINE)
    assert found == table(), "docs/autonomy.md has to say:\n" + "\n".join(table())


def test_the_page_s_examples_are_what_is_decided() -> None:
    decisions = [decide(one) for one in EXAMPLES]
    assert [(one.rule, one.verb) for one in decisions] == [(rule.name, rule.verb) for rule in RULES]
    wanted = "\n".join(one.reason for one in decisions)
    assert f"```text\n{wanted}\n```" in PAGE, f"docs/autonomy.md has to say:\n{wanted}"


def test_the_page_s_record_is_one() -> None:
    shown = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
    made = decide(facts("out_of_memory", growth=Limits(memory=2 * GIB), progress=0.25, health=0.97, dependants=2))
    whole = made.model_dump(mode="json")
    assert shown["factors"] == whole["factors"]
    assert shown == {name: whole[name] for name in shown}


@pytest.mark.parametrize(
    ("heading", "classes"),
    [
        ("passes by itself", TRANSIENT),
        ("ran into a limit", LIMITED),
        ("unclear", UNCLEAR),
        ("permanent", PERMANENT - NEVER),
        ("never tried again", NEVER),
    ],
)
def test_the_page_has_the_classes_in_their_groups(heading: str, classes: frozenset[str]) -> None:
    row = re.search(rf"^\| {heading} \| (.*?) \|", PAGE, re.MULTILINE)
    assert row, heading
    assert set(re.findall(r"`(\w+)`", row[1])) == classes
    assert classes <= set(get_args(FailureClass))


@pytest.mark.parametrize(
    "case",
    [
        facts(budget_spent="62 of 60 minutes are used"),
        facts("permission"),
        facts(attempt=4),
        facts(retries_on=("oom",)),
        facts(repeated=True),
        facts().__class__(**{**vars(facts()), "failure": Failure(cls="unknown", fingerprint="", retry_after=4000.0)}),
    ],
)
def test_the_page_names_everything_that_rules_a_retry_out(case: Facts) -> None:
    bar = barred(case)
    assert bar
    assert f"| `{bar.name}` |" in PAGE
