"""The language of `if`: what it says, where it is wrong, and that evaluating never fails."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.flows.conditions import StepView, evaluate, parse_condition, truth
from workflowmaster.flows.diagnostics import PromptError

STEPS = {
    "build": StepView("completed", {"changed": "3", "empty": "", "zero": "0", "version": "3.10"}),
    "tests/3.12": StepView("skipped"),
}
INPUTS = {"group": "runtime", "count": 3, "draft": False, "ratio": 0.5}
MATRIX = {"python": "3.10", "os": "linux"}


def holds(text: str, steps=STEPS) -> bool:
    return evaluate(parse_condition(text), steps=steps, inputs=INPUTS, matrix=MATRIX)


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "not false",
        "!false",
        "1",
        "steps.build.outputs.changed",
        'steps.build.outputs.changed != "0"',
        "steps.build.outputs.changed > 2",
        "steps.build.outputs.changed == 3",
        'steps.build.status == "completed"',
        "steps['tests/3.12'].status == 'skipped'",
        'steps["tests/3.12"].status == "skipped"',
        'inputs.group == "runtime"',
        "inputs.count >= 3 and inputs.count <= 3",
        "inputs.ratio < 1",
        "!inputs.draft",
        "inputs.draft == false",
        "inputs.draft == 'false'",
        "matrix.python == 3.1",
        'matrix.python != "3.1"',
        'matrix.python == "3.10"',
        '"in" in matrix.os',
        'contains(matrix.os, "nu")',
        "startsWith(inputs.group, 'run') && endsWith(inputs.group, 'time')",
        "(false or true) and not (true and false)",
        "false and false or true",
        "true or false and false",
        "steps.build.outputs.nothing == ''",
        "steps.build.outputs.nothing == null",
        "'10' > '9'",
        "'b' > 'a'",
        r"'it\'s' == 'it\'s'",
        "success()",
        "always()",
        "-1 < 0",
    ],
)
def test_what_holds(text):
    assert holds(text)


@pytest.mark.parametrize(
    "text",
    [
        "false",
        "null",
        "0",
        "''",
        "'false'",
        "' FALSE '",
        "steps.build.outputs.empty",
        "steps.build.outputs.zero",
        "steps.gone.status",
        "inputs.gone",
        "matrix.gone",
        "failure()",
        "inputs.group == 'dev'",
        "'a' < 'a'",
        "'3.10' == '3.1'",
        "contains(matrix.os, 'q')",
        "steps.build.status in 'failed'",
    ],
)
def test_what_does_not_hold(text):
    assert not holds(text)


@pytest.mark.parametrize(
    ("text", "after_success", "after_failure"),
    [
        ("true", True, False),
        ("success()", True, False),
        ("failure()", False, True),
        ("always()", True, True),
        ("always() and steps.a.status != 'completed'", False, True),
        ("failure() or true", True, True),
        ("steps.a.status == 'failed'", False, False),
    ],
)
@pytest.mark.parametrize("failed", ["failed", "blocked"])
def test_a_failure_before_it_stops_a_step_that_does_not_ask(text, after_success, after_failure, failed):
    assert holds(text, {"a": StepView("completed")}) is after_success
    assert holds(text, {"a": StepView(failed), "b": StepView("completed")}) is after_failure


def test_names_and_their_columns():
    condition = parse_condition("  inputs.a == steps.b-c.outputs.d_e and matrix['x y'] in 'z'")
    assert [(name.path, name.column, name.length) for name in condition.names] == [
        (("inputs", "a"), 3, 8),
        (("steps", "b-c", "outputs", "d_e"), 15, 21),
        (("matrix", "x y"), 41, 13),
    ]
    assert not condition.looks_at_failures


@pytest.mark.parametrize(
    ("text", "column", "said", "advice"),
    [
        ("", 1, "a value is missing at the end", "a name, a number, or text in quotes"),
        ("inputs.a ==", 12, "a value is missing at the end", "a name"),
        ("and true", 1, "a value is missing before 'and'", ""),
        ("inputs.a = 1", 10, "'=' cannot be read here", "use == to compare"),
        ("'open", 1, '"\'" cannot be read here', "text stands in quotes"),
        ("inputs.a $ 1", 10, "'$' cannot be read here", ""),
        ("inputs.a 'x'", 10, "unexpected \"'x'\"", "join two conditions"),
        ("(true", 6, "')' is missing", ""),
        ("input.a", 1, "'input.a' is no value", "did you mean 'inputs'?"),
        ("steps.a", 1, "'steps.a' is no value", "steps.ID.outputs.NAME"),
        ("steps.a.outputs", 1, "'steps.a.outputs' is no value", ""),
        ("steps.a.exit", 1, "'steps.a.exit' is no value", ""),
        ("inputs.a.b", 1, "'inputs.a.b' is no value", ""),
        ("hello", 1, "'hello' is no value", "text stands in quotes"),
        ("failed()", 1, "unknown function 'failed'", "did you mean 'failure'?"),
        ("contains('a')", 1, "contains() takes 2 values, not 1", ""),
        ("success(1)", 1, "success() takes 0 values, not 1", ""),
        ("contains('a' 'b')", 14, "',' is missing", ""),
        ("!" * 60 + "true", 41, "nested too deep", ""),
        ("(" * 60 + "true" + ")" * 60, 41, "nested too deep", ""),
        ("true == true == true", 14, "unexpected '=='", ""),
    ],
)
def test_mistakes_have_their_column(text, column, said, advice):
    with pytest.raises(PromptError) as caught:
        parse_condition(text, file="p.md", line=7, column=101)
    (found,) = caught.value.diagnostics
    assert (found.code, found.file, found.line, found.column) == ("WM308", "p.md", 7, 100 + column)
    assert said in found.message
    assert advice in found.help


@pytest.mark.parametrize(
    ("value", "true"), [("x", True), ("False", False), (0, False), (2, True), (None, False), (" ", False)]
)
def test_truth(value, true):
    assert truth(value) is true


names = st.sampled_from(
    ["inputs.group", "matrix.os", "steps.build.status", "steps.build.outputs.changed", "inputs.none"]
)
literals = st.one_of(
    st.integers(-99, 99).map(str),
    st.sampled_from(["true", "false", "null"]),
    st.text("abc 0.1", max_size=5).map(lambda text: f"'{text}'"),
)
comparisons = st.tuples(
    st.one_of(names, literals), st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in"]), st.one_of(names, literals)
).map(" ".join)
trees = st.recursive(
    st.one_of(comparisons, names, literals, st.sampled_from(["success()", "failure()", "always()"])),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or", "&&", "||"]), inner).map(lambda three: f"({' '.join(three)})"),
        inner.map(lambda one: f"not ({one})"),
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(trees)
def test_evaluating_never_fails_and_not_is_the_opposite(text):
    condition = parse_condition(f"always() and ({text})")
    opposite = parse_condition(f"always() and not ({text})")
    known = {"steps": STEPS, "inputs": INPUTS, "matrix": MATRIX}
    assert evaluate(condition, **known) is not evaluate(opposite, **known)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_an_error_at_a_column(text):
    column = 1
    try:
        parse_condition(text)
    except PromptError as error:
        column = error.diagnostics[0].column
    assert 1 <= column <= len(text) + 1


@settings(deadline=None)
@given(comparisons, comparisons)
def test_comparisons_are_consistent(left, right):
    first, operator, second = left.split(" ", 2) if left.count(" ") == 2 else ("1", "==", "1")
    del right, operator
    same = holds(f"{first} == {second}", {})
    assert holds(f"{first} != {second}", {}) is not same
