"""Which secrets a step asks for, and as what; every mistake at its place, and never a value."""

from __future__ import annotations

import pytest

from workflowmaster.flows import compiler, prompts


def compiled(attribute: str, front: str = "", *, work: str = "```bash\ntrue\n```\n"):
    head = f"---\n{front}\n---\n" if front else ""
    text = f"{head}# T\n\n## Steps\n\n### one\n- {attribute}\n{work}"
    return compiler.compile_prompt(prompts.parse(text.encode(), "p.md"))


@pytest.mark.parametrize(
    ("written", "names", "variables"),
    [
        ("TOKEN", ("TOKEN",), {}),
        ("A, B", ("A", "B"), {}),
        ("[A, B]", ("A", "B"), {}),
        ("[123_no, A]", None, None),
        ("{name: TOKEN}", ("TOKEN",), {}),
        ("{name: TOKEN, env: true}", ("TOKEN",), {"TOKEN": "TOKEN"}),
        ("{name: TOKEN, env: True}", ("TOKEN",), {"TOKEN": "TOKEN"}),
        ("{name: TOKEN, env: false}", ("TOKEN",), {}),
        ("[A, {name: my-pat, env: GH_TOKEN}]", ("A", "my-pat"), {"GH_TOKEN": "my-pat"}),
        ("[TOKEN, {name: TOKEN, env: X1}, {name: TOKEN, env: X2}]", ("TOKEN",), {"X1": "TOKEN", "X2": "TOKEN"}),
    ],
)
def test_a_secret_is_a_file_and_a_variable_where_that_is_asked_for(written, names, variables):
    plan = compiled(f"secrets: {written}").plan
    if names is None:
        assert plan is None
        return
    assert (plan.step("one").secrets, plan.step("one").secret_env) == (names, variables)


def test_in_a_list_of_yaml_lines_too():
    attribute = "secrets:\n    - TOKEN\n    - name: PAT\n      env: GH_TOKEN"
    step = compiled(attribute).plan.step("one")
    assert (step.secrets, step.secret_env) == (("TOKEN", "PAT"), {"GH_TOKEN": "PAT"})


@pytest.mark.parametrize(
    ("attribute", "front", "code", "word"),
    [
        ("secrets: [s3cr=t]", "", "WM318", "not its value"),
        ("secrets: [{name: s3cr=t, env: true}]", "", "WM318", "not its value"),
        ("secrets: [TOKN]", "secrets: [TOKEN]", "WM321", "did you mean 'TOKEN'?"),
        ("secrets: [{name: my-token, env: true}]", "", "WM306", "write {name: my-token, env: VARIABLE}"),
        ("secrets: [{name: A, env: 1X}]", "", "WM306", "1X"),
        ("secrets: [{name: A, env: WM_OUTPUT}]", "", "WM307", "WM_OUTPUT"),
        ("secrets: [{name: A, env: PATH}]", "", "WM307", "PATH"),
        ("secrets: [{name: HOME, env: true}]", "", "WM307", "HOME"),
        ("secrets: [{name: A, env: X}, {name: B, env: X}]", "", "WM324", "two values"),
        ("secrets: [{name: A, env: X}]", "env: {X: plain}", "WM324", "two values"),
        ("secrets: [{name: A, as: env}]", "", "WM202", "known: name, env"),
        ("secrets: [{env: true}]", "", "WM301", "name"),
        ("secrets: [[A]]", "", "WM301", ""),
        ("secrets: [TOKEN]\n- security-policy: hardened", "", None, ""),
        ("secrets: [{name: A, env: true}]\n- security-policy: hardened", "", "WM412", "'A'"),
    ],
)
def test_every_mistake_has_its_code(attribute, front, code, word):
    found = [one for one in compiled(attribute, front).diagnostics if one.severity == "error"]
    assert [one.code for one in found] == ([code] if code else [])
    assert all(word in one.message + one.help for one in found)


def test_a_mistake_is_shown_where_it_stands():
    (found,) = compiled("secrets: [GOOD, {name: A, env: 1X}]").diagnostics
    assert (found.line, found.column) == (6, 34)


def test_a_step_without_a_container_is_given_none():
    done = compiled("uses: create-pull-request\n- secrets: [TOKEN]", work="")
    assert [one.code for one in done.diagnostics if one.severity == "error"] == ["WM325"]


def test_the_file_gives_no_step_anything():
    assert compiled("priority: high", "secrets: [TOKEN]").plan.step("one").secrets == ()


def test_the_files_own_list_holds_names_only():
    done = compiled("priority: high", "secrets: [{name: A, env: true}]")
    assert [one.code for one in done.diagnostics] == ["WM301"]
