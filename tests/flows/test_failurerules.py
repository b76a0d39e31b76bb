"""Rules of failures: every shipped one by its own examples, and an operator's file by its mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from workflowmaster.flows import failurerules
from workflowmaster.flows.decisive import LONGEST, survey
from workflowmaster.flows.failurerules import Rule, load, misjudged, shipped
from workflowmaster.flows.patternrisk import risk
from workflowmaster.flows.plan import FailureClass
from workflowmaster.flows.settings import Settings, SettingsError

EXAMPLES = [(rule, line) for rule in shipped() for line in rule.examples]
COUNTEREXAMPLES = [(rule, line) for rule in shipped() for line in rule.counterexamples]

MEASURED = {"sandbox_unavailable", "unknown"}
"""Classes that no text can say: one is the engine's, and the other that nothing is known."""

SHADOWED = {
    # A test's verdict, which in a log only rules of its class may read.
    "not ok 3 - handles permission denied": "not-permitted",
}


def named(pair) -> str:
    return f"{pair[0].name}: {pair[1][:40]}"


@pytest.mark.parametrize("pair", EXAMPLES, ids=named)
def test_a_rule_matches_its_examples(pair):
    rule, line = pair
    assert misjudged(rule.model_copy(update={"examples": (line,), "counterexamples": ()})) == ""


@pytest.mark.parametrize("pair", COUNTEREXAMPLES, ids=named)
def test_a_rule_does_not_match_its_counterexamples(pair):
    rule, line = pair
    assert misjudged(rule.model_copy(update={"examples": (), "counterexamples": (line,)})) == ""


@pytest.mark.parametrize("pair", EXAMPLES, ids=named)
def test_all_rules_together_give_an_example_the_same_class(pair):
    rule, line = pair
    found = load().read(line, rule.kinds[0] if rule.kinds else "command")
    assert found
    assert found.rule.cls == rule.cls or found.rule.name == SHADOWED.get(line)


@pytest.mark.parametrize("rule", shipped(), ids=lambda rule: rule.name)
def test_a_counterexample_shares_something_with_its_rule(rule):
    """A line that has nothing of the rule in it could never match, and shows nothing."""
    parts = {part for word in rule.words for part in re.findall(r"\w{3,}|\W", word.lower()) if part.strip()}
    assert any(part in line.lower() for line in rule.counterexamples for part in parts)


@pytest.mark.parametrize("rule", shipped(), ids=lambda rule: rule.name)
def test_shipped_patterns_are_held_to_what_an_operators_are(rule):
    assert [risk(pattern, LONGEST) for pattern in (*rule.patterns, rule.unless)] == [""] * (len(rule.patterns) + 1)


def test_every_class_that_text_can_say_has_a_rule_and_names_are_unique():
    assert {rule.cls for rule in shipped()} == set(get_args(FailureClass)) - MEASURED
    names = [rule.name for rule in shipped()]
    assert len(names) == len(set(names))


def test_what_a_rule_yields_to_exists():
    known = {rule.name for rule in shipped()} | set(get_args(FailureClass))
    assert {name for rule in shipped() for name in rule.yields} <= known


def test_ours_are_read_once():
    assert load() is load()


OWN = """\
rules:
  - name: licence-server
    class: rate_limit
    words: [no licence seat]
    examples:
      - "acme: error: no licence seat is free"
    counterexamples:
      - "acme: there were no licence seats"
    advice: Somebody else has it; it comes back by itself.
"""


def own(tmp_path, text: str, name: str = "failures.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def judged(rules, text: str, kind: str = "command") -> str:
    found = rules.judge(survey(text, rules.gate), kind)
    return found.rule.name if found else ""


def test_an_operators_rules_come_first(tmp_path):
    taken = OWN.replace("no licence seat", "connection refused")
    rules = load([own(tmp_path, taken)])
    assert (
        judged(rules, "curl: (7) Failed to connect to example.org port 443: Connection refused\n") == "licence-server"
    )
    assert judged(load(), "curl: (7) Failed to connect to example.org port 443: Connection refused\n") == "connection"


def test_an_operators_rule_is_found_where_no_cue_is(tmp_path):
    rules = load([own(tmp_path, OWN.replace("    advice", "    where: anywhere\n    advice"))])
    assert judged(rules, "well\nno licence seat is free\nbye\n") == "licence-server"
    assert judged(load(), "well\nno licence seat is free\nbye\n") == ""


def test_rules_of_a_folder_are_read_in_the_order_of_their_names(tmp_path):
    own(tmp_path, OWN.replace("licence-server", "second"), "b.yaml")
    own(tmp_path, OWN.replace("licence-server", "first"), "a.yaml")
    assert [rule.name for rule in load([tmp_path])][:2] == ["first", "second"]


def test_advice_is_found_by_the_source_of_a_failure(tmp_path):
    rules = load([own(tmp_path, OWN)])
    assert rules.advice("rule:licence-server").startswith("Somebody else")
    assert rules.advice("model:1") == rules.advice("rule:nope") == ""


def test_words_are_whole_words_in_any_case():
    rules = failurerules.Rules(
        [
            Rule.model_validate(
                {
                    "name": "au",
                    "class": "permission",
                    "words": ["auth", "a b"],
                    "examples": ["auth"],
                    "counterexamples": ["x"],
                }
            )
        ]
    )
    assert all(rules.read(line) for line in ("AUTH", "no auth!", "(auth)", "x: A b.", "auth"))
    assert not any(rules.read(line) for line in ("author", "oauth", "auth_x", "auth2", "xa b", "a bc", ""))


MISTAKES = {
    "no YAML at all": ("rules: [", ":2: this is no YAML"),
    "another key": ("rule: []\n", ":1: a file of failure rules is `rules:`"),
    "no list": ("rules: {a: 1}\n", ":1: a file of failure rules is `rules:`"),
    "a word for a rule": ("rules:\n  - oops\n", ":2: rule number 1: it:"),
    "no such class": (OWN.replace("rate_limit", "ratelimit"), ":3: rule licence-server: class:"),
    "no such field": (
        OWN.replace("words", "word"),
        ":4: rule licence-server: word: there is no such field; there are name, class, words",
    ),
    "no words": (OWN.replace("[no licence seat]", "[]"), ":4: rule licence-server: words:"),
    "no counterexample": (re.sub(r"    counter.*\n.*\n", "", OWN), ":2: rule licence-server: counterexamples:"),
    "a name in capitals": (OWN.replace("licence-server", "Licence"), ":2: rule Licence: name:"),
    "a confidence of two": (OWN + "    confidence: 2\n", ":10: rule licence-server: confidence:"),
    "a bad pattern": (
        OWN + "    patterns: ['(']\n",
        ":10: rule licence-server: patterns: Value error, '(' is no regular",
    ),
    "a slow pattern": (OWN + "    patterns: ['(a+)+$']\n", "could take for ever: a repeat or a choice stands inside"),
    "a slow not": (
        OWN + "    not: '.*.*x'\n",
        ":10: rule licence-server: not: Value error, '.*.*x' could take for ever",
    ),
    "a spaced word": (OWN.replace("[no licence seat]", '["seat "]'), "begins or ends with a space"),
    "the same key twice": (OWN + "    words: [x]\n", ":10: key 'words' is written twice, first in line 4"),
    "an anchor": (OWN.replace("[no licence seat]", "&a [no licence seat]"), ":4: anchors, aliases and tags"),
    "an example that fails": (
        OWN.replace("no licence seat is free", "none free"),
        ":2: rule licence-server: it does not match its example",
    ),
    "a counterexample that matches": (
        OWN.replace("no licence seats", "no licence seat"),
        ":2: rule licence-server: it matches its counterexample",
    ),
    "an unknown yield": (
        OWN + "    yields: [nobody]\n",
        ":2: rule licence-server: yields: there is no class and no rule nobody",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_with_file_and_line(tmp_path, mistake):
    text, said = MISTAKES[mistake]
    path = own(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load([path])
    assert str(caught.value).startswith(f"{path}:")
    assert said in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_said(tmp_path):
    for path in (tmp_path / "nope.yaml", tmp_path / "bytes.yaml"):
        (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SettingsError, match=re.escape(f"{path}: the failure rules cannot be read")):
            load([path])


def test_settings_name_the_state_directorys_file_first(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKFLOWMASTER_HOME", str(tmp_path))
    settings = Settings(failure_rules=(tmp_path / "more.yaml",))
    assert settings.own_failure_rules == (tmp_path / "more.yaml",)
    own(tmp_path, OWN)
    assert settings.own_failure_rules == (tmp_path / "failures.yaml", tmp_path / "more.yaml")
    monkeypatch.setenv("WORKFLOWMASTER_FAILURE_RULES", f"{tmp_path}/a.yaml, ~/b")
    assert [path.name for path in Settings().own_failure_rules] == ["failures.yaml", "a.yaml", "b"]
    assert "~" not in str(Settings().own_failure_rules[2])


def test_a_verdict_is_evidence_only_for_a_failed_test():
    rules = load()
    assert judged(rules, "FAIL: test_x (a.T)\nAssertionError: 'Connection refused' != 'ok'\n") == "assertions"


def test_what_failed_last_counts_before_what_failed_long_ago():
    early = "curl: (6) Could not resolve host: example.org\n"
    late = "error[E0308]: mismatched types\n"
    assert judged(load(), early + late) == "compiler"
    assert judged(load(), "E: Unable to locate package x\n" + "calm\n" * 50 + "SyntaxError: no\n") == "syntax"


def test_a_weak_line_is_worth_less():
    rules = load()
    strong = rules.judge(survey("curl: (6) Could not resolve host: example.org", rules.gate))
    weak = rules.judge(survey("warning: could not resolve host: example.org", rules.gate))
    assert strong
    assert weak
    assert strong.rule == weak.rule
    assert weak.confidence == pytest.approx(strong.confidence * failurerules.WEAK)


def test_kinds_keep_a_rule_to_its_steps():
    text = "Error: Reached max turns (30)\n"
    assert judged(load(), text, "agent") == "agent-stopped"
    assert judged(load(), text, "command") == ""


DOCS = (Path(__file__).parents[2] / "docs" / "failures.md").read_text(encoding="utf-8")


def test_the_rules_of_the_documentation_are_taken(tmp_path):
    for number, fence in enumerate(re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)):
        assert len(load([own(tmp_path, fence, f"{number}.yaml")]).all) > len(shipped())


def test_every_class_and_field_is_documented():
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", DOCS, re.MULTILINE))
    assert rows >= {*get_args(FailureClass), *failurerules.FIELDS}


def test_the_length_that_lines_are_cut_to_is_documented():
    assert f"cut to {LONGEST} characters" in DOCS
