"""YAML with places, and what of YAML is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.flows.diagnostics import Report
from workflowmaster.flows.located import MAX_DEPTH, Located, read_mapping, scalar


def load(text: str) -> tuple[Located | None, list[str]]:
    report = Report("p.md")
    found = read_mapping(text, line=2, report=report)
    return found, [f"{one.code}:{one.line}:{one.column}" for one in report.diagnostics]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3.10", 3.1),
        ("12", 12),
        ("-4", -4),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", 10),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2025-01-08", "2025-01-08"),
        ("1_000", "1_000"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_unquoted_words_are_read_as_yaml_1_2_reads_them(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_values_keep_their_spelling_beside_their_type():
    found, problems = load("on: {schedule: [{cron: '0 6 * * 1'}]}\nmatrix: {python: [3.10, '3.11', 3]}\nempty:\n")
    assert problems == []
    assert found.values["on"] == {"schedule": [{"cron": "0 6 * * 1"}]}
    assert found.values["matrix"] == {"python": [3.1, "3.11", 3]}
    assert found.texts["matrix"] == {"python": ["3.10", "3.11", "3"]}
    assert found.values["empty"] is None
    assert found.texts["empty"] is None


def test_every_value_knows_where_it_was_written():
    found, _ = load("a: 1\nlist:\n  - x\n  - {k: 'v'}\n")
    assert found.at("a") == (2, 4, 5)
    assert found.at("list", 1, "k") == (5, 9, 12)
    assert found.key("list", 1, "k") == (5, 6, 7)
    assert found.at("list", 7, "nothing") == found.at("list")
    assert Located().at("anything") == (1, 1, 2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1, 2", "WM106:3:1"),
        ("a: b: c", "WM106:2:5"),
        ("a:\n\t- b", "WM106:3:1"),
        ("a: 1\na: 2", "WM108:3:1"),
        ("a: {k: 1, k: 2}", "WM108:2:11"),
        ("- a", "WM109:2:1"),
        ("just words", "WM109:2:1"),
        ("a: &x 1", "WM114:2:4"),
        ("b: *x", "WM114:2:4"),
        ("a: !!str 1", "WM114:2:4"),
        ("<<: *x", "WM114:2:5"),
        ("? [a]\n: b", "WM114:2:3"),
        ("a: " + "[" * (MAX_DEPTH + 1), "WM114:2:15"),
    ],
)
def test_what_is_refused_and_where(text, problem):
    found, problems = load(text)
    assert found is None
    assert problems == [problem]


def test_nothing_is_an_empty_mapping():
    assert load("") == (Located(), [])
    assert load("# only a comment\n") == (Located(), [])


@pytest.mark.parametrize("text", ["[" * 20000, "- " * 20000, "{a: " * 20000, "a: " + "{a: " * 15 + "1" + "}" * 15])
def test_hostile_nesting_ends_in_a_finding(text):
    found, problems = load(text)
    assert found is None
    assert len(problems) == 1


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=200))
def test_any_text_is_read_or_refused(text):
    found, problems = load(text)
    assert (found is None) == bool(problems)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True),
        st.one_of(st.integers(-(10**9), 10**9), st.booleans(), st.lists(st.integers(0, 99), max_size=3)),
        min_size=1,
        max_size=6,
    )
)
def test_plain_values_come_back(values):
    text = "\n".join(f"{key}: {str(value).lower()}" for key, value in values.items())
    found, problems = load(text)
    assert problems == []
    assert found.values == values
    assert all(found.key(key)[0] == line for line, key in enumerate(values, 2))
