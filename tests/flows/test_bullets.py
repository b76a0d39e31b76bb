"""Attributes as bullets: where the list begins and ends, and how each value is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.flows import outline
from workflowmaster.flows.bullets import fence_attributes, has_attributes, read_attributes
from workflowmaster.flows.diagnostics import Report
from workflowmaster.flows.located import Located


def read(text: str) -> tuple[Located, list[str]]:
    report = Report("p.md")
    found = read_attributes(outline.parse(text), text.split("\n"), report)
    return found, [f"{one.code}:{one.line}" for one in report.diagnostics]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("- needs: build", {"needs": "build"}),
        ("+ needs: build\n+ cache: true", {"needs": "build", "cache": True}),
        ("* retries: 3", {"retries": 3}),
        ("-   needs:   build  ", {"needs": "build"}),
        ("- needs: build\n\n\n- cache: false", {"needs": "build", "cache": False}),
        ("- needs: [a, b]", {"needs": ["a", "b"]}),
        ("- needs:\n  - a\n  - b", {"needs": ["a", "b"]}),
        ("- env:\n    A: 1\n    B: x\n- cache: true", {"env": {"A": 1, "B": "x"}, "cache": True}),
        ("- matrix: {v: [1,\n  2]}", {"matrix": {"v": [1, 2]}}),
        ("- if: a: b and c", {"if": "a: b and c"}),
        ("- if: !x", {"if": "!x"}),
        ('- if: "a" == "b"', {"if": '"a" == "b"'}),
        ('- if: "a == 1"', {"if": "a == 1"}),
        ("- reason: it's # not a comment", {"reason": "it's # not a comment"}),
        ("- timeout: 5 # minutes", {"timeout": 5}),
        ("- image: registry.example:5000/x/y:1.2", {"image": "registry.example:5000/x/y:1.2"}),
        ("- needs:", {"needs": None}),
        ("- check: |\n    a\n    b", {"check": "a\nb"}),
        ("- **needs**: x", {}),
        ("- needs:x", {}),
        ("1. needs: x", {}),
        ("words\n\n> - needs: x", {}),
        ("", {}),
    ],
)
def test_values(text, values):
    found, codes = read(text)
    assert (found.values, codes) == (values, [])


def test_the_list_ends_at_the_first_bullet_that_is_none():
    found, codes = read("- timeout: 5\n- Then: words\n- and more\n")
    assert (found.values, codes) == ({"timeout": 5}, [])


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("words\n\n- needs: b", ["WM212:3"]),
        ("- timeout: 5\n- Some words\n- needs: b", ["WM212:3"]),
        ("- Some words\n- needs: b", ["WM212:2"]),
        ("- needs: b\n\nwords\n\n- cache: true\n- also: this", ["WM212:5"]),
        ("- needs: b\n- Some words\n\n1. cache: true", []),
    ],
)
def test_attributes_further_down_are_named(text, codes):
    assert read(text)[1] == codes


def test_places_of_plain_and_of_parsed_values():
    found, _ = read("- needs: build\n- env: {A: x,\n    B: yy}\n")
    assert found.key("needs") == (1, 3, 8)
    assert found.at("needs") == (1, 10, 15)
    assert found.key("env", "A") == (2, 9, 10)
    assert found.at("env", "B") == (3, 8, 10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- needs: b", True),
        ("- timeout: 5", True),
        ("- depends-on: b", True),
        ("- colour: red", False),
        ("- max-parallel: 3", False),
        ("1. needs: b", False),
        ("words", False),
        ("", False),
    ],
)
def test_what_makes_a_section_look_explicit(text, expected):
    assert has_attributes(outline.parse(text), text.split("\n")) is expected


@pytest.mark.parametrize(
    ("info", "attributes"),
    [
        ("bash", {}),
        ("bash {}", {}),
        ("bash {name=x}", {"name": "x"}),
        ("bash {name=x timeout=5m}", {"name": "x", "timeout": "5m"}),
        ("sh {if=\"a == 1\" needs='a, b'}", {"if": "a == 1", "needs": "a, b"}),
        ("bash check {x=}", {}),
    ],
)
def test_attributes_of_fences(info, attributes):
    assert fence_attributes(info) == attributes


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["- needs: a", "- x", "  - y: z", "- if: (", "- env:", "    A: [", "", "words", "- A: b", "1. q"]
        ),
        max_size=8,
    )
)
def test_any_list_is_read(lines):
    found, _ = read("\n".join(lines))
    assert set(found.values) == set(found.texts)
