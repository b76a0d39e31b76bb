"""Progress on a terminal and off it: stderr only, never taller than the terminal, cheap."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time

import pytest

from workflowmaster.flows.plan import Decision, Limits
from workflowmaster.flows.progress import Progress

CLOCK = re.compile(r"^\d\d:\d\d:\d\d ", re.MULTILINE)
SGR_COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")


@pytest.fixture
def lines():
    stream = io.StringIO()
    return stream, lambda: CLOCK.sub("", stream.getvalue()).splitlines()


def run(progress, state):
    for step in state.plan.tasks:
        progress.step_started(step.id, 1)
        progress.step_finished(state.results[step.id])


def frames(text):
    """Return what a terminal shows after each redraw: the text between two erasures, without escapes."""
    parts = re.split(r"(?:\x1b\[1A\x1b\[2K)+|\x1b\[2K", text)
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part).replace("\r", "") for part in parts]


def test_off_a_terminal_each_change_is_one_line(lines, failed_state):
    stream, shown = lines
    with Progress(failed_state.plan, stream=stream) as progress:
        run(progress, failed_state)
        progress.step_started("tests", 2)
        progress.note("decision: retry tests")
    assert shown() == [
        "● running   reproduce (standard)",
        "✓ completed reproduce in 3.1 s",
        "● running   fix (development)",
        "✓ completed fix in 3.2 s",
        "● running   lint (standard)",
        "✓ completed lint in 1.0 s",
        "● running   tests (testing)",
        "✗ failed    tests in 7.2 s: exit code 1 after 3 attempts",
        "● running   docs (standard)",
        "✓ completed docs in 3.3 s",
        "● running   release Release notes (standard)",
        "⊘ blocked   release Release notes in 0 s: needs tests, which failed",
        "● running   tests (attempt 2, testing)",
        "decision: retry tests",
    ]


def test_a_decision_is_told_with_its_wait_and_its_limits(lines, failed_state):
    stream, shown = lines
    progress = Progress(failed_state.plan, stream=stream)
    progress.step_started("tests", 1)
    more = Limits(memory=2**28, seconds=600)
    progress.step_decided(decision(wait_seconds=4.2, limits=more))
    progress.step_decided(decision(verb="escalate", reason="repeated: the same failure twice"))
    progress.step_finished(failed_state.results["release"])
    progress.step_finished(failed_state.results["docs"])
    assert shown()[1:] == [
        "→ decided   tests: retry in 4.2 s with 256 MiB and 10 min 00 s of time; attempts-left: 1 of 2 retries",
        "→ decided   tests: escalate; repeated: the same failure twice",
        "⊘ blocked   release Release notes in 0 s: needs tests, which failed",
        "↺ reused    docs in 3.3 s",
    ]


def decision(**more):
    known = {"step": "tests", "verb": "retry", "reason": "attempts-left: 1 of 2 retries", "attempt": 1, **more}
    return Decision(**known)


def test_the_picture_shows_what_waits_and_what_blocks(make, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    phases = {"a": "initialization", "b": "testing", "c": "testing", "tests": "testing", "d": "review"}
    plan = make.plan(*(make.step(name, phase=phase) for name, phase in phases.items()), make.step("e", "b", "d"))
    stream = io.StringIO()
    progress = Progress(plan, stream=stream, live=True)
    progress.step_finished(make.result("a", make.receipt(0, 1.0)))
    progress.step_started("b", 1)
    progress.step_finished(make.result("b", make.receipt(0, 1.0), status="failed", reason="exit 1, " + "x" * 200))
    progress.step_finished(make.result("e", status="blocked"))
    progress.step_started("tests", 1)
    progress.step_decided(decision(wait_seconds=3600))
    progress.step_started("c", 2)
    progress.close()
    last = [line.rstrip() for line in frames(stream.getvalue())[-1].strip().splitlines()]
    assert [line.split()[:2] for line in last[1:-2]] == [
        ["↺", "reused"],
        ["✗", "failed"],
        ["⊘", "blocked"],
        ["↻", "retrying"],
        ["●", "running"],
    ]
    assert last[3].endswith("by b")
    assert "again in " in last[4]
    assert last[4].endswith(": 1 of 2 retries")
    assert last[2].endswith("x…"), "a long reason shortens no other column"
    assert last[-2].startswith("6 steps: 1 reused, 1 failed, 1 blocked, 1 running, 1 retrying, 1 pending; ")
    assert last[-1] == "phases: initialization 1/1, implementation 0/1, testing 0/3, review 0/1"


def test_output_of_steps_is_shown_only_when_asked_for(lines, failed_state):
    stream, shown = lines
    progress = Progress(failed_state.plan, stream=stream)
    progress.step_log("fix", "patched")
    progress.show_logs = True
    progress.step_log("fix", "\x1b[2J\x1b]0;owned\x07patched \u202eagain\n")
    assert shown() == ["fix | patched \\u{202e}again"]


def test_quiet_is_silent(lines, failed_state):
    stream, shown = lines
    with Progress(failed_state.plan, stream=stream, quiet=True, live=True, show_logs=True) as progress:
        run(progress, failed_state)
        progress.note("x")
        progress.step_log("fix", "x")
    assert shown() == []


def test_nothing_reaches_stdout(failed_state, capsys):
    for live in (True, False):
        with Progress(failed_state.plan, live=live) as progress:
            run(progress, failed_state)
            progress.note("x")
    out, err = capsys.readouterr()
    assert out == ""
    assert "reproduce" in err


def test_the_last_picture_stands_and_says_everything(failed_state, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    stream = io.StringIO()
    progress = Progress(failed_state.plan, stream=stream, live=True)
    run(progress, failed_state)
    progress.step_started("docs", 2)
    progress.close()
    progress.close()
    last = [line.rstrip() for line in frames(stream.getvalue())[-1].strip().splitlines()]
    assert last[0].split() == ["state", "step", "try", "time", "note"]
    assert [line.split()[:3] for line in last[1:-1]] == [
        ["✓", "completed", "reproduce"],
        ["✓", "completed", "fix"],
        ["✓", "completed", "lint"],
        ["✗", "failed", "tests"],
        ["⊘", "blocked", "release"],
        ["●", "running", "docs"],
    ]
    assert last[-1].startswith("6 steps: 3 completed, 1 failed, 1 blocked, 1 running; ")
    assert stream.getvalue().endswith("\x1b[?25h"), "the cursor is given back"


@pytest.mark.parametrize("height", [8, 24])
def test_never_more_rows_than_the_terminal(shapes, monkeypatch, height):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", str(height))
    state = shapes["many"]()
    stream = io.StringIO()
    progress = Progress(state.plan, stream=stream, live=True)
    run(progress, state)
    for step in state.plan.tasks[:50]:
        progress.step_started(step.id, 2)
    progress.close()
    assert max(frame.strip().count("\n") + 1 for frame in frames(stream.getvalue())) <= height
    assert "50 running" in stream.getvalue()


def test_a_failure_stays_in_sight(shapes, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "12")
    state = shapes["many"]()
    stream = io.StringIO()
    progress = Progress(state.plan, stream=stream, live=True)
    run(progress, state)
    progress.close()
    last = frames(stream.getvalue())[-1]
    assert "✗ failed" in last
    assert state.plan.tasks[-1].id in last


def test_messages_stand_above_the_table(failed_state):
    stream = io.StringIO()
    progress = Progress(failed_state.plan, stream=stream, live=True)
    progress.note("[red]not markup[/red] \x1b[31mnor colour")
    progress.close()
    assert "[red]not markup[/red] nor colour\n" in stream.getvalue()


def test_no_color_is_honoured(failed_state, monkeypatch):
    def colours():
        stream = io.StringIO()
        progress = Progress(failed_state.plan, stream=stream, live=True)
        run(progress, failed_state)
        progress.close()
        return SGR_COLOUR.findall(stream.getvalue())

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


@pytest.mark.parametrize(
    ("terminal", "term", "redraws"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_it_redraws_only_on_a_terminal_that_can(failed_state, monkeypatch, terminal, term, redraws):
    monkeypatch.setenv("TERM", term)
    reader, writer = pty.openpty() if terminal else os.pipe()
    with os.fdopen(writer, "w") as stream:
        progress = Progress(failed_state.plan, stream=stream)
        progress.note("hello")
        progress.close()
        stream.flush()
        shown = ""
        while "hello" not in shown:  # a terminal hands on what it was given piece by piece
            shown += os.read(reader, 65_536).decode()
    os.close(reader)
    assert ("\x1b[?25l" in shown) == redraws


def test_rich_is_imported_only_for_a_terminal():
    code = (
        "import io, sys; from workflowmaster.flows.progress import Progress\n"
        "from workflowmaster.flows.plan import Plan, PromptRef\n"
        "p = Plan(name='x', prompt=PromptRef(path='', sha256='', kind='prose'), compiler='', tasks=())\n"
        "Progress(p, stream=io.StringIO()).close(); print('rich' in sys.modules)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout == "False\n"


@pytest.mark.parametrize("live", [True, False])
def test_a_thousand_steps_cost_less_than_a_second(make, live):
    steps = [make.step(f"s{n}") for n in range(1000)]
    results = [make.result(s.id, make.receipt(0, 1.0)) for s in steps]
    progress = Progress(make.plan(*steps), stream=io.StringIO(), live=live)
    began = time.process_time()
    for step, result in zip(steps, results, strict=True):
        progress.step_started(step.id, 1)
        progress.step_finished(result)
    progress.close()
    # Measured 0.035 s live and 0.015 s as lines.
    assert time.process_time() - began < 1


def test_many_threads_may_tell_at_once(make, monkeypatch):
    monkeypatch.setenv("LINES", "20")
    steps = [make.step(f"s{n}") for n in range(200)]
    stream = io.StringIO()
    progress = Progress(make.plan(*steps), stream=stream, live=True)

    def work(part):
        for step in part:
            progress.step_started(step.id, 1)
            progress.step_finished(make.result(step.id, make.receipt(0, 0.1)))

    threads = [threading.Thread(target=work, args=(steps[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.close()
    assert "200 steps: 200 completed; " in stream.getvalue()
