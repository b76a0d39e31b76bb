"""JSON Schemas: they are valid, and agree with the compiler about what is right and wrong."""

from __future__ import annotations

import jsonschema
import pytest

from workflowmaster.flows.attributes import FrontMatter, StepAttributes, key_names
from workflowmaster.flows.compiler import compile_prompt
from workflowmaster.flows.diagnostics import Report
from workflowmaster.flows.located import read_mapping
from workflowmaster.flows.prompts import parse
from workflowmaster.flows.schema import front_matter_schema, plan_schema

VALIDATOR = jsonschema.Draft202012Validator

GOOD = [
    "name: x",
    "retries: 3",
    "retries: {max: 2, backoff: linear, wait: 5s, on: [oom]}",
    "timeout-minutes: 5",
    "timeout-minutes: 90s",
    "security-policy: hardened",
    "network: [python]",
    "network: {allowed: [python], blocked: [x.org]}",
    "network: {}",
    "inputs: {a: x, b: {type: integer, default: 3, enum: [3, 4]}}",
    "on: {schedule: [{cron: '1 2 3 4 5'}]}",
    "decisions: assist",
    "concurrency: {group: x, cancel-in-progress: true}",
    "outputs: {create-pull-request: {draft: true, labels: [a]}}",
    "budget: {minutes: 3}",
    "coach: never",
    "resources: {memory: 1g, cpus: 0.5}",
    "env: {A: b}",
    "model: large",
    "metadata: {anything: [1, {x: y}]}",
]
BAD = [
    "nme: x",
    "retries: {mx: 1}",
    "retries: 3.5",
    "security-policy: [x]",
    "max-parallel: 0",
    "outputs: {create-pr: {}}",
    "decisions: {mode: maybe}",
    "inputs: {a: {type: strin}}",
    "resources: {cpus: -1}",
    "staged: perhaps",
    "coach: {apply: sometimes}",
]


def values(front: str):
    return read_mapping(front, line=2, report=Report("p.md")).values


def compiles(front: str) -> bool:
    text = f"---\n{front}\n---\n# T\n\n## Steps\n\n### a\n```bash\ntrue\n```\n"
    return compile_prompt(parse(text.encode(), "p.md")).plan is not None


@pytest.mark.parametrize("schema", [front_matter_schema(), plan_schema()], ids=["front", "plan"])
def test_the_schemas_are_schemas(schema):
    VALIDATOR.check_schema(schema)


@pytest.mark.parametrize("front", GOOD)
def test_what_compiles_is_valid(front):
    assert compiles(front)
    VALIDATOR(front_matter_schema()).validate(values(front))


@pytest.mark.parametrize("front", BAD)
def test_what_does_not_compile_is_invalid(front):
    assert not compiles(front)
    assert not VALIDATOR(front_matter_schema()).is_valid(values(front))


def test_the_front_matter_schema_knows_every_key():
    schema = front_matter_schema()
    assert set(key_names(FrontMatter)) <= set(schema["properties"])
    assert set(key_names(StepAttributes)) <= set(schema["$defs"]["Step"]["properties"])


def test_a_plan_is_valid_against_its_schema():
    text = "---\non: {schedule: '@daily'}\n---\n# T\n\n## Steps\n\n### a\n- matrix: {v: [1, 2]}\n```bash\ntrue\n```\n"
    made = compile_prompt(parse(text.encode(), "p.md")).plan
    VALIDATOR(plan_schema()).validate(made.model_dump(mode="json"))
