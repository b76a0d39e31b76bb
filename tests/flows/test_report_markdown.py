"""The Prefect artifact, the pull request and the issue."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET

import pytest
from markdown_it import MarkdownIt

from workflowmaster.blocks.forge import ChangedFile
from workflowmaster.flows.report import issue_text, markdown, pull_request

LOGS = {"tests": "\x1b[31mE   AssertionError: 1 != 2\x1b[0m\n1 failed\n"}
FILES = (ChangedFile(path="parser/core.py", added=14, deleted=3), ChangedFile(path="a|b`c", change="added"))


def tokens(text):
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")
    return [inner for token in parser.parse(text) for inner in [token, *(token.children or [])]]


def kinds(text):
    return {token.type for token in tokens(text)}


def headings(text):
    found = tokens(text)
    return [found[n + 1].content for n, token in enumerate(found) if token.type == "heading_open"]


def test_the_artifact_begins_with_the_outcome_and_its_reason(failed_state):
    first, _, second = markdown(failed_state, {}).splitlines()[:3]
    assert first == "**Partly completed: tests failed after 3 attempts; 4 of 6 steps done in 15.9 s.**"
    assert second == "tests: exit code 1 after 3 attempts"


def test_the_artifact_has_what_the_page_can_draw(failed_state):
    text = markdown(failed_state, LOGS)
    assert headings(text) == ["What failed", "Timeline", "Plan", "Steps", "Decisions", "Success criteria"]
    fences = [token for token in tokens(text) if token.type == "fence"]
    assert [f.info for f in fences] == ["", "mermaid"]
    assert fences[0].content == "E   AssertionError: 1 != 2\n1 failed\n"
    assert not {"html_block", "html_inline"} & kinds(text)


def test_the_timeline_is_an_image_that_needs_nothing(failed_state):
    data = re.search(r"!\[timeline\]\(data:image/svg\+xml;base64,([\w+/=]+)\)", markdown(failed_state, {}))[1]
    assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_the_step_table_has_a_row_per_step(failed_state):
    text = markdown(failed_state, {}).replace("\N{NO-BREAK SPACE}", " ")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows[3] == "| `tests` | ✗ failed | testing | 3 | 0.6 s | 7.2 s | 40.0 MiB | 5.0 s | 1 |"
    assert rows[5] == "| `release` Release notes | ⊘ blocked | standard |  |  |  |  |  |  |"


def test_links_are_made_only_of_web_addresses(failed_state):
    def row(pull):
        lines = markdown(failed_state.model_copy(update={"pull_request": pull}), {}).splitlines()
        return next((line for line in lines if "Pull request" in line), "")

    assert "](<https://github.com/a/b/pull/1>)" in row("https://github.com/a/b/pull/1")
    assert row("/state/pull-request.md") == "| **Pull request** | `/state/pull-request.md` |"
    for bad in ("javascript:alert(1)", "https://evil.example/>) [x](javascript:alert(1)"):
        assert "link_open" not in kinds(row(bad))


def test_a_hostile_run_stays_text_everywhere(make):
    state = make.hostile()
    title, body = pull_request(state, files=[ChangedFile(path=text) for text in make.attacks])
    issue_title, issue_body = issue_text(state.plan)
    for text in (markdown(state, make.hostile_logs()), body, issue_body):
        assert not {"html_block", "html_inline"} & kinds(text)
        assert not [t for t in tokens(text) if t.type == "link_open" and "javascript" in str(t.attrs.get("href"))]
        text.encode("utf-8")
    for published in (body, issue_body):
        assert not re.search(r"@everyone|(?<!&)#1\b|<!--", published)
    for line in (title, issue_title):
        assert "\n" not in line
        assert "@everyone" not in line


def test_a_hostile_run_adds_no_heading_row_or_cell(make):
    # The description is the prompt writer's own Markdown and may hold a heading; everything else may not.
    state = make.hostile()
    state = state.model_copy(update={"plan": state.plan.model_copy(update={"description": ""})})
    text = markdown(state, make.hostile_logs())
    assert headings(text) == ["What failed", "Timeline", "Plan", "Steps", "Decisions", "Success criteria"]
    found = tokens(text)
    summary, steps, decisions, criteria = (2, 1 + 10), (9, 1 + 11), (5, 1 + 1), (3, 1 + 10)
    tables = (summary, steps, decisions, criteria)
    assert sum(token.type == "tr_open" for token in found) == sum(rows for _, rows in tables)
    cells = sum(token.type in ("td_open", "th_open") for token in found)
    assert cells == sum(columns * rows for columns, rows in tables)


def test_hundreds_of_steps_are_not_all_listed(shapes, make):
    steps = [make.step(f"s{n}") for n in range(450)]
    results = [make.result(s.id, make.receipt(n, 1.0)) for n, s in enumerate(steps)]
    results[7] = make.result("s7", make.receipt(7, 1.0, exit_code=3), status="failed")
    text = markdown(make.state(make.plan(*steps), results), {})
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `s")] == ["`s7`"]
    assert "449 steps that simply completed are not listed." in text


def test_the_pull_request_tells_why_what_and_how_to_check(failed_state):
    title, body = pull_request(failed_state, files=FILES)
    assert title == "Fix the parser"
    assert headings(body) == ["What and why", "What was done", "Files changed", "Checks", "Decisions", "How to verify"]
    for line in (
        "Nested brackets crash the parser; fix it and prove it.",
        "- `reproduce`: reused under standard",
        "- `fix`: completed after 2 attempts in 3.2 s under development",
        "- `tests`: failed after 3 attempts in 7.2 s under testing: exit code 1 after 3 attempts",
        "2 files, +14 \N{MINUS SIGN}3 lines",
        "- [ ] All tests pass (not met, step `tests`)",
        "- [x] Documentation describes the new syntax (met, step `docs`)",
        "- `tests`, attempt 3: stopped the run; the same failure three times",
        "git switch workflowmaster/task-20261122-140233-1f2e3d4c",
    ):
        assert line in body.splitlines(), line
    assert body.endswith("plan `" + failed_state.plan.workflow_hash[:12] + "`.")


def test_checks_can_be_copied_or_are_named(make):
    checked = make.step("a", check={"interpreter": "bash", "text": "make check", "line": 20})
    mention = make.step("b", phase="testing", script="pip install x@1.2")
    _, body = pull_request(make.state(make.plan(checked, mention), []))
    fence = next(token.content for token in tokens(body) if token.type == "fence")
    assert fence == "git switch workflowmaster/task-20261122-140233-1f2e3d4c\nmake check\n"
    assert "Also the checks at `prompts/fix-parser.md`, line 9." in body
    assert "@" not in fence


@pytest.mark.parametrize("count", [300, 3000])
def test_bodies_fit_the_forge(make, count):
    steps = [make.step(f"s{n}", name="n" * 100, phase="testing") for n in range(count)]
    plan = make.plan(*steps, context="word " * 30_000, name="t" * 1000)
    title, body = pull_request(make.state(plan, []), files=[ChangedFile(path="p" * 190)] * count)
    issue_title, issue_body = issue_text(plan)
    assert max(len(body), len(issue_body)) <= 65_536
    assert max(len(title), len(issue_title)) <= 256
    assert "characters more in the report" in issue_body


def test_the_issue_says_what_is_planned(failed_state):
    title, body = issue_text(failed_state.plan)
    assert title == "Fix the parser"
    assert "- `release` Release notes" in body.splitlines()
    assert "- [ ] All tests pass" in body.splitlines()
