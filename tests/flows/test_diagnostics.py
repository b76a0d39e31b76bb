"""How findings look, and what a report keeps."""

from __future__ import annotations

import pytest

from workflowmaster.flows.diagnostics import MAX_EXCERPT, Diagnostic, PromptError, Report, closest, did_you_mean, render

RELEASE = "\n".join(["---", *["x"] * 29, "- needs: buidl"])
SHOWN = """\
error WM204: unknown step 'buidl' in needs
  --> prompts/release.md:31:10
   |
31 | - needs: buidl
   |          ^^^^^ did you mean 'build'?
   = help: steps defined in this file: build, lint, test"""


def finding(**changed) -> Diagnostic:
    fields = {
        "code": "WM204",
        "severity": "error",
        "file": "prompts/release.md",
        "line": 31,
        "column": 10,
        "end_column": 15,
        "message": "unknown step 'buidl' in needs",
        "help": "did you mean 'build'? steps defined in this file: build, lint, test",
    }
    return Diagnostic(**(fields | changed))


def test_a_finding_with_its_line():
    assert render(finding(), RELEASE) == SHOWN


def test_a_finding_without_the_text_keeps_its_advice():
    assert render(finding(), None).splitlines() == [
        "error WM204: unknown step 'buidl' in needs",
        "  --> prompts/release.md:31:10",
        "   = help: did you mean 'build'?",
        "   = help: steps defined in this file: build, lint, test",
    ]


def test_a_line_that_is_not_there_is_not_shown():
    assert "|" not in render(finding(line=99), RELEASE)


def test_the_caret_stands_below_wide_characters():
    shown = render(finding(line=1, column=5, end_column=7), "日本語 ab").splitlines()
    assert shown[3] == " 1 | 日本語 ab"
    assert shown[4] == "   |        ^^ did you mean 'build'?"


def test_combining_marks_take_no_room():
    text = "e\u0301e\u0301 x"
    assert render(finding(line=1, column=6, end_column=7, help=""), text).splitlines()[4] == "   |    ^"


@pytest.mark.parametrize("sign", ["\x1b", "\u202e", "\u200b", "\x07"])
def test_no_control_sign_of_a_prompt_reaches_the_terminal(sign):
    shown = render(finding(line=1, column=1, end_column=2), f"{sign}[31mred")
    assert sign not in shown
    assert "\N{REPLACEMENT CHARACTER}[31mred" in shown


def test_tabs_keep_the_caret_in_place():
    shown = render(finding(line=1, column=2, end_column=3, help=""), "\tx")
    assert shown.splitlines()[3:] == [" 1 |  x", "   |  ^"]


@pytest.mark.parametrize("column", [1, 500, 1990])
def test_of_a_long_line_only_the_part_around_the_caret_is_shown(column):
    text = "".join(str(index % 10) for index in range(2000))
    shown = render(finding(line=1, column=column, end_column=column + 3, help=""), text).splitlines()
    excerpt, caret = shown[3][5:], shown[4][5:]
    assert len(excerpt) == MAX_EXCERPT
    assert excerpt[caret.index("^") :][:3] == text[column - 1 : column + 2]


def test_line_numbers_of_four_digits_keep_their_gutter():
    shown = render(finding(line=1000, column=1, end_column=2, help=""), "\n" * 999 + "x").splitlines()
    assert shown[2:] == ["     |", "1000 | x", "     | ^"]


def test_the_public_form_is_the_contract_of_check_json():
    assert finding().public() == {
        "code": "WM204",
        "severity": "error",
        "file": "prompts/release.md",
        "line": 31,
        "column": 10,
        "message": "unknown step 'buidl' in needs",
        "help": "did you mean 'build'? steps defined in this file: build, lint, test",
    }


def test_a_prompt_error_is_a_value_error_with_its_findings():
    error = PromptError(finding(), finding(line=32))
    assert isinstance(error, ValueError)
    assert [one.line for one in error.diagnostics] == [31, 32]
    assert str(error).startswith("error WM204: unknown step 'buidl' in needs\n  --> prompts/release.md:31:10")


def test_a_report_sorts_by_place_and_counts_the_same_finding_once():
    report = Report("x.md")
    for line in (3, 1, 3):
        report.add("WM301", "wrong", (line, 1, 2))
    report.add("WM302", "also wrong", (3, 1, 2))
    assert [(one.line, one.code) for one in report.diagnostics] == [(1, "WM301"), (3, "WM301"), (3, "WM302")]
    assert report.failed


def test_warnings_and_notes_do_not_fail_a_report():
    report = Report("x.md")
    report.add("WM110", "hm", (1, 1, 1), severity="warning")
    report.add("WM111", "so", (1, 1, 1), severity="note")
    assert not report.failed
    assert all(one.end_column == 2 for one in report.diagnostics)


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("buidl", ["build", "lint"], "build"),
        ("Security_Policy", ["security-policy", "secrets"], "security-policy"),
        ("build", ["build"], "build"),
        ("zzz", ["build", "lint"], ""),
        ("x", [], ""),
    ],
)
def test_the_closest_word(word, known, meant):
    assert closest(word, known) == meant


def test_nobody_is_asked_whether_they_meant_what_they_wrote():
    assert did_you_mean("build", ["build"]) == ""
    assert did_you_mean("buidl", ["build"]) == "did you mean 'build'?"
