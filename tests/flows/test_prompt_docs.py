"""The documentation of prompts: every example compiles, every key and every code is there, nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workflowmaster.flows.attributes import ALIASES, DESCRIPTIVE, FOREIGN, FrontMatter, StepAttributes, key_names
from workflowmaster.flows.compiler import compile_prompt
from workflowmaster.flows.conditions import parse_condition
from workflowmaster.flows.fences import LANGUAGES
from workflowmaster.flows.prompts import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")
CODES = (ROOT / "docs" / "diagnostics.md").read_text(encoding="utf-8")
SOURCES = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "flows").glob("*.py")))
EXAMPLES = [
    pytest.param(found[1], id=f"line-{PAGE[: found.start()].count(chr(10)) + 1}")
    for found in re.finditer(r"^````markdown\n(.*?)^````$", PAGE, re.DOTALL | re.MULTILINE)
]


def section(title: str) -> str:
    prose = re.sub(r"^````markdown$.*?^````$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", prose, re.DOTALL | re.MULTILINE)[1]


def documented_keys(title: str) -> dict[str, list[str]]:
    """Canonical key → its aliases, from the first column of a section's table."""
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", section(title), re.MULTILINE)
    words = [re.findall(r"`([a-z-]+)`", row) for row in rows]
    return {first: aliases for first, *aliases in words}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_compiles(example):
    done = compile_prompt(parse(example.encode(), "example.md"))
    assert done.plan, [one.message for one in done.diagnostics]
    assert {one.code for one in done.diagnostics} <= {"WM312", "WM506"}


def test_there_are_examples_of_both_kinds():
    kinds = [compile_prompt(parse(one.values[0].encode(), "e.md")).plan.prompt.kind for one in EXAMPLES]
    assert kinds.count("explicit") > 8
    assert kinds.count("prose") >= 1


@pytest.mark.parametrize(("title", "model"), [("Front matter", FrontMatter), ("Step attributes", StepAttributes)])
def test_every_key_is_in_its_table_and_nothing_else(title, model):
    documented = documented_keys(title)
    assert set(documented) == set(key_names(model))
    for name, aliases in documented.items():
        assert all(ALIASES[alias] == name for alias in aliases)


@pytest.mark.parametrize("alias", sorted(alias for alias in ALIASES if "_" not in alias))
def test_every_alias_is_documented(alias):
    assert f"`{alias}`" in PAGE


@pytest.mark.parametrize("key", sorted(FOREIGN | DESCRIPTIVE))
def test_every_key_that_is_let_through_is_documented(key):
    assert f"`{key}`" in section("Front matter")


@pytest.mark.parametrize("title", ["Front matter", "Step attributes"])
def test_the_example_of_every_key_is_valid(title):
    front = title == "Front matter"
    for row in re.findall(r"^\| `[a-z-]+`.*\| `(.+)` \|$", section(title), re.MULTILINE):
        step = "### a\n```bash\ntrue\n```\n"
        around = "### build\n```bash\ntrue\n```\n### lint\n```bash\ntrue\n```\n"
        text = f"---\n{row}\n---\n# T\n\n## Steps\n\n{step}" if front else ""
        if not front:
            work = "" if row.startswith("uses") else "```bash\ntrue\n```\n"
            text = f"---\ninputs: {{group: dev}}\n---\n# T\n\n## Steps\n\n{around}### a\n- {row}\n{work}"
        done = compile_prompt(parse(text.encode(), "row.md"))
        assert done.plan, (row, [one.message for one in done.diagnostics])


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_every_language_of_a_fence_is_documented(language):
    assert f"`{language}`" in section("Steps") or language == "python3"


@pytest.mark.parametrize(
    "function", ["contains(a, b)", "startsWith(a, b)", "endsWith(a, b)", "success()", "failure()", "always()"]
)
def test_every_function_of_a_condition_is_documented(function):
    assert f"`{function}`" in PAGE
    parse_condition(function.replace("(a, b)", "('a', 'b')"))


def used_codes() -> set[str]:
    return set(re.findall(r'"(WM\d{3})"', SOURCES))


def test_every_code_in_the_sources_is_documented_once():
    documented = re.findall(r"^\| (WM\d{3}) \|", CODES, re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert documented == sorted(documented)
    assert set(documented) == used_codes()


def test_codes_stand_in_the_section_of_their_hundred():
    for hundred, body in re.findall(r"^## (WM\d)xx.*?$(.*?)(?=^## |\Z)", CODES, re.DOTALL | re.MULTILINE):
        assert all(code.startswith(hundred) for code in re.findall(r"^\| (WM\d{3}) \|", body, re.MULTILINE))


def test_severities_of_the_documentation_are_those_of_the_sources():
    said = dict(re.findall(r"^\| (WM\d{3}) \| (\w+) \|", CODES, re.MULTILINE))
    for call in re.findall(r"\.add\(\s*\"(WM\d{3})\"(.*?)\)\n", SOURCES, re.DOTALL):
        code, rest = call
        given = re.search(r'severity="(\w+)"', rest)
        if given and said[code] != "error":
            assert said[code] == given[1], code


def test_the_excerpt_in_the_documentation_is_what_is_printed():
    from workflowmaster.flows.diagnostics import Diagnostic, render

    finding = Diagnostic(
        code="WM204",
        severity="error",
        file="prompts/release.md",
        line=31,
        column=10,
        end_column=15,
        message="unknown step 'buidl' in needs",
        help="did you mean 'build'? steps defined in this file: build, lint, test",
    )
    assert render(finding, "\n" * 30 + "- needs: buidl") in CODES
