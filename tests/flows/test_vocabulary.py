"""The words of prose: sections by their headings, items by how they begin."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.flows.vocabulary import is_imperative, meaning, normal, section_kind, vocabulary


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("Implementation Steps", "steps"),
        ("Implementation Tasks", "steps"),
        ("3. Action items:", "steps"),
        ("🚀 Tasks", "steps"),
        ("To Do", "steps"),
        ("Schritte", "steps"),
        ("Étapes", "steps"),
        ("Implementation Plan", "plan"),
        ("Fix Strategy", "plan"),
        ("Proposed Approach", "plan"),
        ("Feature Requirements", "requirements"),
        ("Requirements to Implement:", "requirements"),
        ("Anforderungen", "requirements"),
        ("Testing Requirements", "tests"),
        ("Test Plan", "tests"),
        ("Success Criteria", "success"),
        ("Acceptance Criteria (must pass)", "success"),
        ("Definition of Done", "success"),
        ("Risk Mitigation", "risks"),
        ("Files to Modify", "files"),
        ("Target Files", "files"),
        ("Related Issues", "references"),
        ("Problem Statement", "context"),
        ("Issue #206: Background", "context"),
        ("Technical Analysis", "design"),
        ("Documentation", "docs"),
        ("Notes", "notes"),
        ("Installation Instructions for README", None),
        ("Foobar", None),
        ("", None),
    ],
)
def test_sections(heading, kind):
    assert section_kind(heading) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Create Issue", "issue"),
        ("Create a comprehensive GitHub issue for the migration", "issue"),
        ("GitHub Issue Creation", "issue"),
        ("Automatically create GitHub issues for new prompts", "implementation"),
        ("Create feature branch for Issue #101", "branch"),
        ("Branch Creation and Worktree Setup", "branch"),
        ("Use worktree-manager to create an isolated environment", "branch"),
        ("Use git worktree remove for each", "implementation"),
        ("Continue on existing branch", "branch"),
        ("Create PR with the implementation", "pull_request"),
        ("Pull Request", "pull_request"),
        ("Commit changes", "pull_request"),
        ("Push branch and create a draft pull request", "pull_request"),
        ("Update PR description", "pull_request"),
        ("Code Review", "review"),
        ("Invoke code-reviewer agent to review the PR", "review"),
        ("Execute Phase 9 using code-reviewer agent", "review"),
        ("Review Response", "followup"),
        ("Address review feedback", "followup"),
        ("Ensure PR ready for merge approval", "followup"),
        ("Execute Phase 11", "followup"),
        ("Done", "nothing"),
        ("N/A", "nothing"),
        ("Delegate to WorkflowManager for proper execution", "process"),
        ("Execute the complete WorkflowManager workflow", "process"),
        ("All tests must continue to pass", "constraint"),
        ("Maintain backward compatibility", "constraint"),
        ("No breaking changes", "constraint"),
        ("Capture current test results as baseline", "baseline"),
        ("Test it works", "tests"),
        ("Run all tests to ensure nothing is broken", "tests"),
        ("Ensure CI pipelines still work", "tests"),
        ("Write unit tests", "tests"),
        ("Create test cases to validate it", "tests"),
        ("Comprehensive Testing", "tests"),
        ("Performance Benchmarking", "tests"),
        ("Add conditional skips for tests requiring the tool", "implementation"),
        ("Update test expectations to match the API", "implementation"),
        ("Document", "docs"),
        ("Update README installation section", "docs"),
        ("Create developer migration guide", "docs"),
        ("Documentation", "docs"),
        ("Audit existing dependencies", "research"),
        ("List all files in the root directory", "research"),
        ("Brittleness Assessment", "research"),
        ("Create a comprehensive reference update plan", "research"),
        ("Read how the job retries", "research"),
        ("Add context-aware assessment", "implementation"),
        ("Fix the retry loop", "implementation"),
        ("`Build` it", "implementation"),
        ("Error Classification System", "unknown"),
        ("", "unknown"),
    ],
)
def test_meanings(text, kind):
    assert meaning(text) == kind


@pytest.mark.parametrize(
    ("text", "plain"),
    [("**3.1) Über: **", "über"), ("✅ Done #", "done"), ("Issue #12 fix", "fix"), ("a) first", "first")],
)
def test_headings_are_stripped_to_their_words(text, plain):
    assert normal(text) == plain


@pytest.mark.parametrize(
    ("text", "number", "title"),
    [
        ("Phase 1: Analysis", "1", "Analysis"),
        ("Step 2.3 \N{EN DASH} Create it", "2.3", "Create it"),
        ("TASK 4", "4", ""),
        ("Part A: First", "A", "First"),
    ],
)
def test_numbered_headings(text, number, title):
    found = vocabulary().phase.fullmatch(text)
    assert (found[2], found[3]) == (number, title)


@pytest.mark.parametrize("text", ["Phases of the moon", "Stepping stones", "Taskmaster 5", "My phase 1"])
def test_what_is_no_numbered_heading(text):
    assert not vocabulary().phase.fullmatch(text)


def test_imperatives():
    assert is_imperative("Update CLAUDE.md references:")
    assert not is_imperative("Deliverables")


def test_the_data_holds_only_text():
    # YAML reads `true` and `no` as no words: such a program would never match.
    assert all(isinstance(word, str) for word in vocabulary().programs)
    assert {"true", "false", "test", "["} <= vocabulary().programs


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_words_have_a_meaning(text):
    assert meaning(text)
    section_kind(text)
    normal(text)
