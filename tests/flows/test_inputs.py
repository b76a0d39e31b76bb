"""Typed inputs: specs, values, and where they may stand."""

from __future__ import annotations

import pytest

from workflowmaster.flows.compiler import Options, compile_prompt
from workflowmaster.flows.inputs import as_text, convert
from workflowmaster.flows.plan import InputSpec, Plan
from workflowmaster.flows.prompts import parse


def plan(front: str, attributes: str = "", **options) -> Plan:
    text = f"---\n{front}\n---\n# T\n\n## Steps\n\n### a\n{attributes}\n```bash\ntrue\n```\n"
    done = compile_prompt(parse(text.encode(), "p.md"), Options(**options))
    assert done.plan, [one.message for one in done.diagnostics]
    return done.plan


@pytest.mark.parametrize(
    ("written", "spec"),
    [
        ("runtime", InputSpec(name="x", default="runtime")),
        ("3.10", InputSpec(name="x", default="3.10")),
        ("{default: 3.10}", InputSpec(name="x", default="3.10")),
        ("{type: number, default: 3.10}", InputSpec(name="x", type="number", default=3.1)),
        ("{type: integer, default: '7'}", InputSpec(name="x", type="integer", default=7)),
        ("{type: boolean, default: yes}", InputSpec(name="x", type="boolean", default=True)),
        ("{required: true, description: say it}", InputSpec(name="x", required=True, description="say it")),
        ("{enum: [a, 3.10]}", InputSpec(name="x", enum=("a", "3.10"))),
        ("{type: integer, enum: [1, 2], default: 2}", InputSpec(name="x", type="integer", enum=(1, 2), default=2)),
    ],
)
def test_specs(written, spec):
    assert plan(f"inputs: {{x: {written}}}").inputs == (spec,)


@pytest.mark.parametrize(
    ("written", "given", "values"),
    [
        ("a", None, {"x": "a"}),
        ("a", "b", {"x": "b"}),
        ("{type: boolean}", "YES", {"x": "true"}),
        ("{type: boolean, default: false}", None, {"x": "false"}),
        ("{type: integer}", "007", {"x": "7"}),
        ("{type: number}", "2", {"x": "2.0"}),
        ("{}", None, {"x": ""}),
        ("{required: true}", None, {}),
        ("{required: true}", "", {"x": ""}),
        ("{enum: [a, b], type: string}", "b", {"x": "b"}),
    ],
)
def test_values(written, given, values):
    made = plan(f"inputs: {{x: {written}}}", inputs={} if given is None else {"x": given})
    assert made.input_values == values


def test_values_change_the_hash():
    one, other = (plan("inputs: {x: a}", inputs={"x": value}) for value in ("1", "2"))
    assert one.workflow_hash != other.workflow_hash


def test_values_fill_image_environment_and_description():
    made = plan(
        'inputs: {v: "3.12", who: me}\nimage: "python:{{ inputs.v }}"\nenv: {WHO: "{{inputs.who}}!"}',
        '- description: "for {{ inputs.who }}"',
        inputs={"who": "$(id)"},
    )
    step = made.step("a")
    assert (step.image, step.env, step.description) == ("python:3.12", {"WHO": "$(id)!"}, "for $(id)")


def test_a_placeholder_without_a_value_waits():
    made = plan('inputs: {v: {required: true}}\nimage: "x:{{ inputs.v }}"')
    assert made.step("a").image == "x:{{ inputs.v }}"


def test_a_value_that_makes_no_image_is_refused():
    text = '---\ninputs: {v: {required: true}}\nimage: "x:{{ inputs.v }}"\n---\n# T\n\n## Steps\n\n### a\n```bash\ntrue\n```\n'
    done = compile_prompt(parse(text.encode(), "p.md"), Options(inputs={"v": "a b; rm"}))
    assert [one.code for one in done.diagnostics] == ["WM322"]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [("x", "string", "x"), ("0", "boolean", False), ("-3", "integer", -3), ("1e3", "number", 1000.0)],
)
def test_conversion(text, kind, value):
    assert convert(text, kind) == value


@pytest.mark.parametrize(("text", "kind"), [("maybe", "boolean"), ("1.5", "integer"), ("x", "number")])
def test_conversion_refuses(text, kind):
    with pytest.raises(ValueError, match=r"number|true"):
        convert(text, kind)


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (3, "3"), (0.5, "0.5"), ("x", "x")])
def test_spelling(value, text):
    assert as_text(value) == text
