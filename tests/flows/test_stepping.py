"""What a step's attributes become in the plan, where they name files."""

from __future__ import annotations

import pytest

from workflowmaster.flows.compiler import compile_prompt
from workflowmaster.flows.prompts import parse

PROMPT = """# T

## Steps

### build
- {key}: {value}
```sh
true
```
"""


def compiled(key: str, value: str):
    return compile_prompt(parse(PROMPT.format(key=key, value=value).encode(), "t.md"))


@pytest.mark.parametrize(
    ("value", "globs"),
    [
        ("report.html", ("report.html",)),
        ("[dist/*.whl, 'logs/**']", ("dist/*.whl", "logs/**")),
        ("a.txt, b.txt", ("a.txt", "b.txt")),
        ("'[ab].txt'", ("[ab].txt",)),
    ],
)
@pytest.mark.parametrize("key", ["artifacts", "inputs"])
def test_globs_come_into_the_plan_as_written(key: str, value: str, globs: tuple[str, ...]) -> None:
    done = compiled(key, value)
    assert done.plan, [one.message for one in done.diagnostics]
    assert getattr(done.plan.tasks[0], key) == globs


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("/etc/passwd", "'/etc/passwd' lies outside"),
        ("../secret", "'../secret' lies outside"),
        ("a/../../b", "lies outside"),
        ("~/x", "lies outside"),
        ("'[open'", "is no glob"),
        ("'a\\'", "is no glob"),
    ],
)
@pytest.mark.parametrize("key", ["artifacts", "inputs"])
def test_a_glob_that_leads_out_or_is_none_is_an_error_with_its_line(key: str, value: str, words: str) -> None:
    done = compiled(key, value)
    found = [one for one in done.diagnostics if one.code == "WM320"]
    assert [one.severity for one in found] == ["error"]
    assert words in found[0].message
    assert found[0].line == 6


def test_what_a_step_promises_is_part_of_the_plans_hash() -> None:
    plans = [compiled("artifacts", value).plan for value in ("a", "b")]
    assert plans[0].workflow_hash != plans[1].workflow_hash
