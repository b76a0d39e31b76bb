"""From written keys to typed values: what is kept, what is dropped, and that nothing is dropped in silence."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.flows.attributes import DESCRIPTIVE, FOREIGN, FrontMatter, StepAttributes, kebab, key_names
from workflowmaster.flows.diagnostics import Report
from workflowmaster.flows.located import Located, read_mapping
from workflowmaster.flows.validation import Read, validate


def read(text: str, model=FrontMatter, **options) -> tuple[Read, list[str]]:
    report = Report("p.md")
    located = read_mapping(text, line=2, report=report) or Located()
    found = validate(model, located, report, **options)
    return found, [one.code for one in report.diagnostics]


def test_a_wrong_value_is_dropped_and_the_rest_is_kept():
    found, codes = read("name: x\nmax-parallel: many\nlabels: [a]\nretries: {max: no}\n")
    assert codes == ["WM301", "WM301"]
    assert (found.keys.name, found.keys.max_parallel, found.keys.labels, found.keys.retries) == (
        "x",
        None,
        ("a",),
        None,
    )


def test_several_mistakes_in_one_value_are_all_said():
    _, codes = read("resources: {memory: x, cpus: y, pids: z, disc: 1}")
    assert codes == ["WM303", "WM301", "WM301", "WM201"]


def test_what_was_given_is_known():
    found, _ = read("network: {}\nname: x")
    assert found.given("network")
    assert not found.given("resources")
    assert found.at("name") == (3, 7, 8)


@pytest.mark.parametrize("key", sorted(FOREIGN | DESCRIPTIVE))
def test_foreign_and_descriptive_keys_are_metadata(key):
    found, codes = read(f"{key}: [x, 1]")
    assert found.metadata == {key: ["x", 1]}
    assert codes == (["WM214"] if key in FOREIGN else [])


@pytest.mark.parametrize(
    ("text", "metadata", "codes"),
    [
        ("estimated_hours: 3", {"estimated_hours": 3}, []),
        ("colour: red", {"colour": "red"}, []),
        ("securty-policy: x", {}, ["WM201"]),
        ("descripton: x", {}, ["WM201"]),
        ("max_paralell: 2", {}, ["WM201"]),
    ],
)
def test_prose_keeps_strange_keys_unless_they_look_misspelt(text, metadata, codes):
    found, said = read(text, lenient=True)
    assert (found.metadata, said) == (metadata, codes)


@pytest.mark.parametrize("text", ["env:", "network:", "metadata:", "on:", "github:"])
def test_some_keys_may_be_empty(text):
    assert read(text)[1] == []


@pytest.mark.parametrize("text", ["name:", "labels: ~", "retries: null", "budget:"])
def test_other_keys_may_not(text):
    assert read(text)[1] == ["WM301"]


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("Security_Policy", "security-policy"),
        ("TIMEOUT", "timeout-minutes"),
        ("max_parallel", "max-parallel"),
        ("Container", "image"),
    ],
)
def test_other_spellings_of_a_key(written, key):
    value = {"security-policy": "standard", "timeout-minutes": "5", "max-parallel": "2", "image": "x:1"}[key]
    found, codes = read(f"{written}: {value}")
    assert codes == []
    assert found.given(key)


def test_front_matters_requires_is_not_a_steps():
    assert read("requires: [gpu]")[0].keys.requires == ("gpu",)
    assert read("requires: [gpu]", StepAttributes)[0].keys.needs == ("gpu",)


def test_text_keeps_its_spelling_and_numbers_are_numbers():
    found, _ = read("name: 3.10\nlabels: [1.0, true]\nmax-parallel: 4\nbudget: {minutes: 1.50}")
    assert (found.keys.name, found.keys.labels) == ("3.10", ("1.0", "true"))
    assert (found.keys.max_parallel, found.keys.budget.minutes) == (4, 1.5)


def test_names_of_fields():
    assert kebab("if_") == "if"
    assert kebab("max_patch_size") == "max-patch-size"
    assert "if" in key_names(StepAttributes)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 500), st.text("abc, :", max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abmx", max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.sampled_from([FrontMatter, StepAttributes]), st.data())
def test_any_value_of_any_key_is_taken_or_reported(model, data):
    key = data.draw(st.sampled_from(key_names(model)))
    value = data.draw(values)
    place = {(key,): (2, 1, 2)}
    report = Report("p.md")
    found = validate(model, Located({key: value}, {key: value}, place, place), report)
    assert isinstance(found.keys, model)
    if report.diagnostics:
        assert {one.line for one in report.diagnostics} == {2}
