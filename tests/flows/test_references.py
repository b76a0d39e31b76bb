"""References and the phase at which a prompt begins."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.flows.outline import parse
from workflowmaster.flows.references import find_references, prose_lines, resume_phase


def found(text: str) -> list[tuple[str, str]]:
    return [(one.kind, one.value) for one in find_references(list(prose_lines(parse(text))))]


@pytest.mark.parametrize(
    ("text", "references"),
    [
        ("Fix #12.", [("issue", "12")]),
        ("See issue #12 and Issue 13", [("issue", "12"), ("issue", "13")]),
        ("PR #7, then #7 again", [("pull_request", "7")]),
        ("Pull request 7 closes #8", [("pull_request", "7"), ("issue", "8")]),
        ("https://github.com/a/b/issues/5.", [("issue", "5"), ("url", "https://github.com/a/b/issues/5")]),
        ("on branch `fix/x-1`", [("branch", "fix/x-1")]),
        ("Branch: feature/y", [("branch", "feature/y")]),
        ("**Branch**: `z`", [("branch", "z")]),
        ("edit `src/a.py` and `.claude/agents/`", [("file", "src/a.py"), ("file", ".claude/agents/")]),
        ("`@docs/x.md` `Makefile` `pytest -q` `v1.2` `example.com`", [("file", "docs/x.md")]),
        ("**Prompt File**: other.md", [("prompt", "other.md")]),
        ("## A heading about #4", [("issue", "4")]),
        ("a/b#5, &#33; and color #fff", []),
        ("```\nPR #9\n```", []),
    ],
)
def test_what_is_mentioned(text, references):
    assert found(text) == references


def test_each_thing_once_with_its_first_line():
    references = find_references(list(prose_lines(parse("# T #1\n\n- #1\n- #2\n"))), "#3".lstrip("#"), 5)
    assert [(one.value, one.line) for one in references] == [("3", 5), ("1", 1), ("2", 4)]


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("PR #270 exists. Complete phase 9.", "review"),
        ("Continue the existing PR: phases 6-9", "testing"),
        ("Complete Phase 9 (Code Review) for PR #278", "review"),
        ("Finish phases 10 and 11 for PR #5", "review"),
        ("Resume PR 41, which already exists.\n\nPhase 7: documentation", "documentation"),
        ("PR #270 exists.", None),
        ("Complete phase 9.", None),
        ("Complete the migration PR #36.\n\n### Phase 1: Quick wins", None),
        ("Complete phase 0 for PR #1", None),
    ],
)
def test_the_phase_at_which_a_prompt_begins(text, phase):
    assert resume_phase(list(prose_lines(parse(text)))) == phase


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_mentions_something_or_nothing(text):
    for one in find_references([(1, text)]):
        assert one.value
        assert one.line == 1
