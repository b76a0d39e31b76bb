"""Text of strangers, numbers and the closing lines."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from workflowmaster.flows import quoting
from workflowmaster.flows.plaintext import HIDDEN, decisive, one_line, plain, tail
from workflowmaster.flows.report import closing, failure_excerpt
from workflowmaster.flows.wording import counted, duration, listed, moment, short, size

# What pytest 8 prints for a failed assertion with colours forced on, cut to its end.
PYTEST = (
    "\x1b[32m.\x1b[0m\x1b[31mF\x1b[0m\x1b[31m                                   [100%]\x1b[0m\n"
    "\x1b[31m\x1b[1m____________ test_nested ____________\x1b[0m\n\n"
    "    \x1b[0m\x1b[94mdef\x1b[39;49;00m \x1b[92mtest_nested\x1b[39;49;00m():\n"
    ">       assert parse('[[') == 2\n"
    "\x1b[1m\x1b[31mE       AssertionError: assert 1 == 2\x1b[0m\n\n"
    "\x1b[1m\x1b[31mtests/test_parser.py\x1b[0m:4: AssertionError\n"
    "\x1b[31mFAILED\x1b[0m tests/test_parser.py::test_nested - AssertionError: assert 1 == 2\n"
    "\x1b[31m\x1b[31m\x1b[1m1 failed\x1b[0m, \x1b[32m1 passed\x1b[0m\x1b[31m in 0.02s\x1b[0m\n"
)
# What pip draws while it downloads: one line overwritten with carriage returns.
PIP = "Downloading x.whl (9 kB)\r\n   ---- 2.0/9.0 kB\r   -------- 9.0/9.0 kB\r\nInstalled\n"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;owned\x07title", "title"),
        ("\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x1b(Bcharset", "charset"),
        ("\x1b]52;c;never ended", ""),
        ("bell\x07", "bell\\u{07}"),
        ("a\u202eb", "a\\u{202e}b"),
        ("zero\u200bwidth", "zero\\u{200b}width"),
        ("tag\U000e0041", "tag\\u{e0041}"),
        ("byte\udcff", "byte\N{REPLACEMENT CHARACTER}"),
        ("family \U0001f468\u200d\U0001f469", "family \U0001f468\u200d\U0001f469"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("c1\x9b31m", "c1\\u{9b}31m"),
        (PIP, "Downloading x.whl (9 kB)\n   -------- 9.0/9.0 kB\nInstalled\n"),
    ],
)
def test_plain(raw, shown):
    assert plain(raw) == shown


@given(st.text())
def test_plain_text_hides_nothing_and_stays_as_it_is(raw):
    shown = plain(raw)
    assert not HIDDEN.search(shown)
    assert plain(shown) == shown
    shown.encode("utf-8")


@given(st.text(), st.integers(2, 50))
def test_one_line_keeps_its_limit(raw, limit):
    line = one_line(raw, limit)
    assert len(line) <= limit
    assert "\n" not in line


def test_tail_takes_the_last_lines_and_cuts_wide_ones():
    assert tail("a\nb\nc\n\n", 2) == ["b", "c"]
    assert tail("") == []
    assert tail("x" * 10_000_000, width=20) == ["x" * 20 + "…"]
    assert tail("progress 1%\rprogress 99%\n") == ["progress 99%"]


def test_decisive_lines_begin_just_before_the_error():
    lines = decisive("collected 2 items\n\ntests/test_parser.py\n" + PYTEST, limit=6)
    assert lines == [
        ">       assert parse('[[') == 2",
        "E       AssertionError: assert 1 == 2",
        "tests/test_parser.py:4: AssertionError",
        "FAILED tests/test_parser.py::test_nested - AssertionError: assert 1 == 2",
        "1 failed, 1 passed in 0.02s",
    ]


def test_decisive_lines_reach_back_to_an_error_above_the_last_lines():
    log = "\n".join(["cc -c a.c", "a.c:3: error: no semicolon", *(f"cleaning up {n}" for n in range(20))])
    lines = decisive(log, limit=6)
    assert lines[0] == "a.c:3: error: no semicolon"
    assert "…" in lines
    assert lines[-1] == "cleaning up 19"
    assert len(lines) == 6


@given(st.lists(st.sampled_from(["ok", "", "Error: x", "done", "E   assert"]), max_size=80), st.integers(4, 12))
def test_decisive_lines_are_few_and_end_where_the_log_ends(lines, limit):
    found = decisive("\n".join(lines), limit)
    assert len(found) <= limit
    filled = [line for line in lines if line]
    # Trailing lines are the end of the log, so the last one shown is the last one written.
    assert (found[-1] if found else None) == (filled[-1] if filled else None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (0.004, "0.00 s"),
        (0.04, "0.04 s"),
        (0.0949, "0.09 s"),
        (0.0951, "0.1 s"),
        (3.24, "3.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (65, "1 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7400, "2 h 03 min"),
        (86399, "1 d 00 h"),
        (3 * 86400 + 4 * 3600, "3 d 04 h"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (18.4 * 2**20, "18.4 MiB"),
        (512 * 2**20, "512 MiB"),
        (1023.9 * 2**20, "1.0 GiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_size(count, words):
    assert size(count) == words


def test_words():
    assert moment(1_700_000_000.9) == "2023-11-14 22:13:20 UTC"
    assert (counted(1, "step"), counted(0, "step")) == ("1 step", "0 steps")
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdef"), 3) == "a, b and 4 more"
    assert short("8d3f1c0e5b7a49d2c6f0e1a2b3c4d5e6f7a8b9c0") == "8d3f1c0e5b"
    assert short("sha256:" + "4f5c" * 16) == "4f5c4f5c4f5c"


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "# heading",
    "- item",
    "1. item",
    "a | b | c",
    "`code` ``code`` ```",
    "**bold** _it_ ~~gone~~",
    "<!-- workflowmaster:issue:1 -->",
    "https://evil.example",
    "&lt;b&gt; &#x3c;b&#x3e;",
    "\\",
    "> quote",
    "    indented",
    "===",
    "---",
    "| a |\n| --- |\n| b |",
]


def tokens(text):
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")
    found = parser.parse(text)
    return [inner for token in found for inner in [token, *(token.children or [])]]


def rendered_text(text):
    return "".join(token.content for token in tokens(text) if token.type in ("text", "code_inline", "text_special"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_inline_text_renders_as_its_letters(attack):
    words = f"x {attack}"
    made = quoting.inline(words)
    assert {token.type for token in tokens(made)} <= {
        "paragraph_open",
        "paragraph_close",
        "inline",
        "text",
        "text_special",
    }
    assert rendered_text(made) == one_line(words)


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_renders_as_its_letters_also_in_a_table(attack):
    made = quoting.table(("a", "b"), [(quoting.code(attack), quoting.inline(attack))])
    found = tokens(made)
    assert sum(token.type == "td_open" for token in found) == 2
    assert not {"html_inline", "html_block", "link_open", "image", "heading_open"} & {token.type for token in found}
    codes = [token.content for token in found if token.type == "code_inline"]
    assert codes == [one_line(attack).replace("<!--", "<!\u200b--")]


@example("```\n# out\n````")
@given(st.text(alphabet=st.sampled_from("`ab \n|<")))
def test_a_fence_holds_whatever_is_in_it(text):
    found = tokens(quoting.fence(text, "sh"))
    assert [token.type for token in found] == ["fence"]
    assert found[0].content == plain(text).rstrip("\n") + "\n"


@pytest.mark.parametrize("attack", ATTACKS)
def test_prose_loses_html_and_images(attack):
    assert not {"html_inline", "html_block", "image"} & {token.type for token in tokens(quoting.prose(attack))}


def test_prose_keeps_its_layout():
    text = "# A\n\n- b\n- **c**\n\n```sh\nls\n```"
    assert quoting.prose(text) == text


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("ask @all", "ask @\u200ball"),
        ("a@b.example", "a@\u200bb.example"),
        ("Fixes #12", "Fixes #\u200b12"),
        ("o/r#1", "o/r#\u200b1"),
        ("gh-7", "gh-\u200b7"),
        ("<!-- workflowmaster:issue:1 -->", "<!\u200b-- workflowmaster:issue:1 -->"),
        ("closes https://github.com/o/r/issues/3", "closes https:\u200b//github.com/o/r/issues/3"),
        ("@ # alone", "@ # alone"),
        ("https://github.com/o/r", "https://github.com/o/r"),
    ],
)
def test_nothing_acts_outside_the_page(text, harmless):
    assert quoting.neutral(text) == harmless


def test_a_body_is_cut_at_whole_blocks():
    assert quoting.bounded(["a" * 10, "b" * 10], 200) == "a" * 10 + "\n\n" + "b" * 10
    cut = quoting.bounded(["a" * 100, "b" * 100, "c"], 220)
    assert cut == "a" * 100 + "\n\n… 101 characters more in the report"


FAILED = [
    "Partly completed: tests failed after 3 attempts; 4 of 6 steps done in 15.9 s.",
    "6 steps: 4 ran, 1 reused, 2 retried, 1 failed, 1 blocked; 3 decisions",
    "Reason: tests: exit code 1 after 3 attempts",
    "Branch: workflowmaster/task-20261122-140233-1f2e3d4c at 8d3f1c0e5b",
    "Next:   workflowmaster logs task-20261122-140233-1f2e3d4c --step tests",
]


def test_closing_of_a_failed_run(failed_state):
    assert closing(failed_state) == FAILED


def test_closing_of_a_completed_run(shapes):
    lines = closing(shapes["fan"]().model_copy(update={"report": "/state/report.html"}))
    assert lines[0] == "Completed: all 10 steps done in 9.8 s."
    assert lines[1] == "10 steps: 10 ran"
    assert lines[-2:] == [
        "Report: /state/report.html",
        "Next:   git switch workflowmaster/task-20261122-140233-1f2e3d4c",
    ]


def test_closing_is_at_most_six_lines(shape):
    lines = closing(shape.model_copy(update={"report": "r.html", "reason": "because\nof this"}))
    assert len(lines) <= 6
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("status", "command"),
    [
        ("failed", "workflowmaster logs task-20261122-140233-1f2e3d4c --step tests"),
        ("aborted", "workflowmaster resume task-20261122-140233-1f2e3d4c"),
        ("running", "workflowmaster resume task-20261122-140233-1f2e3d4c"),
        ("waiting", "workflowmaster approve task-20261122-140233-1f2e3d4c"),
    ],
)
def test_the_next_command_fits_the_status(failed_state, status, command):
    assert closing(failed_state.model_copy(update={"status": status}))[-1] == f"Next:   {command}"


@pytest.mark.parametrize(
    ("needs", "command"), [("", "workflowmaster list --waiting"), ("a", "workflowmaster approve")], ids=["two", "one"]
)
def test_of_several_who_ask_each_has_a_command_in_the_list(needs, command, make):
    plan = make.plan(make.step("a"), make.step("b", *needs))
    state = make.state(plan, [make.result(name, status="waiting") for name in "ab"])
    assert closing(state)[-1].startswith(f"Next:   {command}")


def test_the_next_command_is_quoted_for_a_shell(failed_state, make):
    odd = make.plan(make.step("a; rm -rf ~"))
    state = make.state(odd, [make.result("a; rm -rf ~", make.receipt(0, 1, exit_code=1), status="failed")])
    assert closing(state)[-1].endswith("--step 'a; rm -rf ~'")


def test_failure_excerpt(failed_state):
    assert failure_excerpt(failed_state, {"tests": PYTEST}) == [
        "Step tests failed: exit code 1 after 3 attempts",
        "  | >       assert parse('[[') == 2",
        "  | E       AssertionError: assert 1 == 2",
        "  | tests/test_parser.py:4: AssertionError",
        "  | FAILED tests/test_parser.py::test_nested - AssertionError: assert 1 == 2",
        "  | 1 failed, 1 passed in 0.02s",
    ]


def test_there_is_no_excerpt_when_nothing_failed(shapes):
    assert failure_excerpt(shapes["fan"](), {}) == []
