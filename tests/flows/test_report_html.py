"""The HTML report: complete, self-contained, and deaf to whatever is in it."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.forge import ChangedFile
from workflowmaster.flows.elements import VOID, Markup, element, number
from workflowmaster.flows.report import html

ALLOWED = set(
    re.findall(
        r"\w+",
        "html head meta title style body main header section footer div p span h1 h2 h3 dl dt dd ul li table thead tbody tr"
        " th td code pre a details summary svg g rect line path circle text",
    )
)


class Page(HTMLParser):
    """What a browser's parser makes of a page: elements, attributes, visible text, and whether it is balanced."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


FILES = (
    ChangedFile(path="parser/core.py", added=14, deleted=3),
    ChangedFile(path="logo.png", change="added", binary=True),
)
LOGS = {"tests": "\x1b[31mE   AssertionError: 1 != 2\x1b[0m\n1 failed\n", "fix": "patched\n"}


def test_pages_are_well_formed(shape):
    page = Page(html(shape, LOGS, files=FILES))
    assert page.open == []
    assert set(page.tags) <= ALLOWED


def test_a_hostile_run_stays_text(make):
    page = html(make.hostile(), make.hostile_logs(), files=[ChangedFile(path=text) for text in make.attacks])
    parsed = Page(page)
    assert parsed.open == []
    assert set(parsed.tags) <= ALLOWED
    assert not [a for a in parsed.attributes if a[1].startswith("on") or a[1] in ("style", "src", "srcdoc")]
    # One path stands beside the report and may be linked: as a file name, in which nothing is left to act.
    assert all(re.fullmatch(r"\./[\w.%~-]+", value) for _, name, value in parsed.attributes if name == "href")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e\ufffe\ud800-\udfff]", page)
    page.encode("utf-8")
    for shown in ("<script>alert(1)</script>", "</style></title><img", "\\u{202e}gnp.exe", "javascript:alert(1)"):
        assert shown in parsed.text


def test_nothing_is_loaded_and_nothing_runs(failed_state):
    page = html(failed_state, LOGS)
    assert page.count("<style>") == 1
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(value for tag, name, value in Page(page).attributes if name == "content" and "default-src" in value)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not [
        a
        for a in Page(page).attributes
        if a[1] in ("src", "style") or "http://" in a[2].replace("http://www.w3.org", "")
    ]


@pytest.mark.parametrize(
    ("pull_request", "href"),
    [
        ("https://github.com/ada/parser/pull/12", "https://github.com/ada/parser/pull/12"),
        ("/state/w/pull-request.md", "./pull-request.md"),
        ("/elsewhere/pull-request.md", None),
        ("javascript:alert(1)", None),
        ("data:text/html,x", None),
        ("//evil.example/x", None),
        ("https:alert(1)", None),
        ("https://[bad", None),
        ("https://user:secret@host/x", None),
        ("/", None),
    ],
)
def test_links_go_to_the_web_or_beside_the_report(failed_state, pull_request, href):
    told = failed_state.model_copy(update={"pull_request": pull_request, "report": "/state/w/report.html"})
    links = [value for _, name, value in Page(html(told, {})).attributes if name == "href"]
    assert [link for link in links if "changes.patch" not in link] == ([href] if href else [])


def test_the_page_tells_the_whole_story(failed_state):
    text = Page(html(failed_state.model_copy(update={"pull_request": "/w/pull-request.md"}), LOGS, files=FILES)).text
    for words in (
        "Partly completed : tests failed after 3 attempts; 4 of 6 steps done in 15.9 s.",
        "Nested brackets crash the parser",
        "Prompt prompts/fix-parser.md",
        "SHA-256 9b1d9b1d9b1d",
        "Branch workflowmaster/task-20261122-140233-1f2e3d4c",
        "Commit 8d3f1c0e5b",
        "Patch /w/changes.patch",
        "Change 2 files, +14 \N{MINUS SIGN}3 lines",
        "Why it ended this way tests: exit code 1 after 3 attempts E AssertionError: 1 != 2 1 failed",
        "Next: workflowmaster logs task-20261122-140233-1f2e3d4c --step tests",
        "tests failed testing 3 0.6 s 7.2 s 40.0 MiB 5.0 s 1",
        "Command python -m pytest -q echo done",
        "version = 2.0.1",
        "left out: build/cache (60 MiB)",
        "Ended by out of memory",
        "fix 1 retry tried again out of memory, and 2 retries are left 3 factors class oom attempt 1 progress 0.17",
        "not met All tests pass (step tests)",
        "met Documentation describes the new syntax (step docs)",
        "to be judged A maintainer is happy",
        "logo.png binary",
        "workflowmaster/step:1 sha256:4f5c4f5c",
        "standard capabilities, memory, network, user 4",
    ):
        assert words in text, words


def test_failed_steps_are_open_and_others_folded(failed_state):
    details = [name for tag, name, _ in Page(html(failed_state, LOGS)).attributes if tag == "details"]
    assert details == ["open"]


def test_a_completed_run_needs_no_reason(shapes):
    text = Page(html(shapes["fan"](), {})).text
    assert "Completed : all 10 steps done in 9.8 s." in text
    assert "Why it ended this way" not in text
    assert "Decisions" not in text
    assert "critical path, 3 of 10 steps" in text


def test_only_what_held_in_every_container_is_claimed(make):
    plan = make.plan(make.step("a"), make.step("b"))
    less = make.result("b", make.receipt(1, 1, enforced=("user",)))
    text = Page(html(make.state(plan, [make.result("a", make.receipt(0, 1)), less]), {})).text
    assert "standard user 2 WorkflowMaster" in text


def test_the_engines_word_and_what_is_absent_are_shown_apart(make):
    plan = make.plan(make.step("a"), make.step("b"))
    less = make.receipt(1, 1, enforced=("user",), told=("memory",), absent=("apparmor: found none",))
    state = make.state(plan, [make.result("a", make.receipt(0, 1)), make.result("b", less)])
    text = Page(html(state, {})).text
    assert "Policy Controls in force By the engine's word Absent here Containers" in text
    assert "standard user memory apparmor: found none 2" in text


@pytest.mark.parametrize(("status", "word"), [("completed", "met"), ("failed", "not met"), ("skipped", "not proved")])
def test_only_a_completed_step_proves_a_criterion(make, status, word):
    criteria = [{"text": "It works", "line": 3, "check": "a"}]
    plan = make.plan(make.step("a"), criteria=criteria)
    text = Page(html(make.state(plan, [make.result("a", make.receipt(0, 1), status=status)]), {})).text
    assert f"{word} It works (step a)" in text


def test_long_logs_and_scripts_are_cut(make):
    script = "\n".join(f"echo {n}" for n in range(50))
    state = make.state(make.plan(make.step("a", script=script)), [make.result("a", make.receipt(0, 1))])
    text = Page(html(state, {"a": "\n".join(f"line {n}" for n in range(10_000))})).text
    assert "echo 0 (+49)" in text
    assert "echo 11 … 38 more" in text
    assert "Log, last 40 lines; all of it: workflowmaster logs" in text
    assert "line 9960" in text
    assert "line 9959" not in text


def test_three_hundred_steps_make_a_page_in_time(shapes):
    state = shapes["many"]()
    logs = {s.id: "word " * 200 + "\n" for s in state.plan.tasks}
    began = time.perf_counter()
    page = html(state, logs)
    # Measured 0.1 s; the page must also stay small enough to be mailed.
    assert time.perf_counter() - began < 3
    assert len(page) < 2_000_000


@given(st.text(), st.text())
def test_elements_escape_children_and_attributes(child, value):
    page = Page(element("div", child, title=value))
    assert page.tags == ["div"]
    assert [name for _, name, _ in page.attributes] == ["title"]
    assert page.open == []


def test_elements():
    assert element("p", None, "a<b", Markup("<br/>"), 3, class_="x", data_y=None) == '<p class="x">a&lt;b<br/>3</p>'
    assert element("rect", x=1.25, stroke_width=2) == '<rect x="1.2" stroke-width="2"/>'
    assert [number(v) for v in (12.0, 12.56, -0.01)] == ["12", "12.6", "0"]
