"""The decisive lines of logs that tools really printed; what is pinned here was captured, not written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.decisive import (
    FIRST,
    LAST,
    LONGEST,
    MOST,
    MOST_TEXT,
    Gate,
    cleaned,
    decisive,
    survey,
    told,
)

CHAINED = """\
Traceback (most recent call last):
  File "/tmp/chain.py", line 4, in f
    try: open("/surely/not/there")
         ^^^^^^^^^^^^^^^^^^^^^^^^^
FileNotFoundError: [Errno 2] No such file or directory: '/surely/not/there'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/tmp/chain.py", line 6, in <module>
    f()
  File "/tmp/chain.py", line 5, in f
    except OSError as e: raise RuntimeError("no settings") from e
RuntimeError: no settings
"""

UNITTEST = """\
F.
======================================================================
FAIL: test_not_found (__main__.T.test_not_found)
----------------------------------------------------------------------
Traceback (most recent call last):
  File "/tmp/u.py", line 3, in test_not_found
    def test_not_found(self): self.assertEqual(b"not found", b"ok")
                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
AssertionError: b'not found' != b'ok'

----------------------------------------------------------------------
Ran 2 tests in 0.002s

FAILED (failures=1)
"""

CARGO = """\
   Compiling cr v0.1.0 (/tmp/cr)
error[E0425]: cannot find value `y` in this scope
 --> src/main.rs:1:50
  |
1 | fn main(){ let x: i32 = "a"; println!("{}", y); }
  |                                             ^ help: a local variable with a similar name exists: `x`

error[E0308]: mismatched types
 --> src/main.rs:1:25
  |
1 | fn main(){ let x: i32 = "a"; println!("{}", y); }
  |                   ---   ^^^ expected `i32`, found `&str`
  |                   |
  |                   expected due to this

Some errors have detailed explanations: E0308, E0425.
For more information about an error, try `rustc --explain E0308`.
error: could not compile `cr` (bin "cr") due to 2 previous errors
"""

RUST_PANIC = """\
    Finished `dev` profile [unoptimized + debuginfo] target(s) in 0.66s
     Running `target/debug/cr`

thread 'main' (11963) panicked at src/main.rs:1:52:
index out of bounds: the len is 0 but the index is 3
stack backtrace:
   0: __rustc::rust_begin_unwind
             at /rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/panicking.rs:689:5
note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.
"""

NPM = """\
npm warn Unknown user config "nodedir". This will stop working in the next major version of npm.
npm error code E429
npm error 429 Too Many Requests - GET http://127.0.0.1:18099/429/surely-not-there
npm error A complete log of this run can be found in: /root/.npm/_logs/2026-11-23T00_53_02_114Z-debug-0.log
"""

MAKE = """\
ok
gcc a.c
a.c: In function ‘main’:
a.c:1:20: error: ‘x’ undeclared (first use in this function)
    1 | int main(){ return x; }
      |                    ^
a.c:1:20: note: each undeclared identifier is reported only once for each function it appears in
make: *** [Makefile:5: fail] Error 1
"""

GIT = """\
Auto-merging a.txt
CONFLICT (content): Merge conflict in a.txt
Automatic merge failed; fix conflicts and then commit the result.
"""

SET_X = "+ echo 'error: not really'\nerror: not really\n+ true\n+ test 1 = 2\n"

APT = """\
Reading package lists...
Building dependency tree...
Reading state information...
E: Unable to locate package surely-not-there
"""

NODE_TEST = """\
TAP version 13
# Subtest: handles permission denied
not ok 1 - handles permission denied
  ---
  duration_ms: 2.6
  error: |-
    1 == 2
  code: 'ERR_ASSERTION'
  ...
# Subtest: connection reset handled
ok 2 - connection reset handled
  ---
  duration_ms: 0.2
  ...
1..2
# fail 1
"""

GITLAB = """\
section_end:1657092127:step_script\r\x1b[0Ksection_start:1657092127:cleanup_file_variables\r\x1b[0K\x1b[0KCleaning up project \
directory and file based variables\x1b[0;m
\x1b[31;1mERROR: Job failed: exit code 1\x1b[0;m
"""

CHOSEN = {
    CHAINED: (
        "FileNotFoundError: [Errno 2] No such file or directory: '/surely/not/there'",
        "RuntimeError: no settings",
    ),
    UNITTEST: ("FAIL: test_not_found (__main__.T.test_not_found)", "AssertionError: b'not found' != b'ok'"),
    CARGO: ("error[E0425]: cannot find value `y` in this scope", "error[E0308]: mismatched types"),
    RUST_PANIC: (
        "thread 'main' (11963) panicked at src/main.rs:1:52:",
        "index out of bounds: the len is 0 but the index is 3",
    ),
    NPM: ("npm error 429 Too Many Requests - GET http://127.0.0.1:18099/429/surely-not-there",),
    MAKE: ("a.c:1:20: error: ‘x’ undeclared (first use in this function)",),
    GIT: (
        "CONFLICT (content): Merge conflict in a.txt",
        "Automatic merge failed; fix conflicts and then commit the result.",
    ),
    SET_X: ("error: not really", "+ test 1 = 2"),
    APT: ("E: Unable to locate package surely-not-there",),
    NODE_TEST: ("not ok 1 - handles permission denied",),
}


@pytest.mark.parametrize("log", CHOSEN, ids=lambda log: log.split()[0])
def test_the_decisive_lines_of_a_tool(log):
    assert decisive(log) == CHOSEN[log]


def test_a_traceback_ends_with_whatever_was_raised():
    assert decisive('Traceback (most recent call last):\n  File "x"\n    f()\nours.Trouble: 7\nbye\n') == (
        "ours.Trouble: 7",
    )


def test_of_an_exception_group_each_is_found():
    group = "  + Exception Group Traceback (most recent call last):\n  |   File x\n  | ExceptionGroup: two (2 sub-exceptions)\n"
    inner = "  +-+---------------- 1 ----------------\n    | ValueError: 1\n    +------------------------------------\n"
    assert any("ValueError: 1" in line for line in decisive(group + inner))


def test_boilerplate_and_the_mere_last_line_are_not_chosen():
    assert decisive("cp: cannot stat 'x': No such file or directory\ndone\n" + GITLAB) == (
        "cp: cannot stat 'x': No such file or directory",
    )


def test_without_a_word_of_trouble_the_last_line_is_shown():
    assert decisive("building\nhm, that is odd\n\n" + GITLAB) == ("hm, that is odd",)


def test_a_traced_command_that_said_nothing_is_the_reason():
    assert decisive("+ cd x\n+ grep -q y z\n") == ("+ grep -q y z",)


@pytest.mark.parametrize("log", ["", "\n\n", "\x1b[0m\r\n"])
def test_an_empty_log_has_no_decisive_line(log):
    assert decisive(log) == ()


def test_a_summary_counts_where_nothing_says_why():
    assert decisive("working\nmake: *** [Makefile:2: all] Error 1\n") == ("make: *** [Makefile:2: all] Error 1",)


def test_words_count_where_nothing_is_in_a_tools_form():
    assert decisive("we have a timeout here\nbye\n") == ("we have a timeout here",)


def test_colours_titles_and_bars_are_gone():
    assert cleaned("\x1b[1;31mred\x1b[0m\n\x1b]0;title\x07x\n 10%\r 20%\r100%\ny\r\n50%\r") == [
        "red",
        "x",
        "100%",
        "y",
        "50%",
    ]


def test_many_equal_lines_are_one():
    assert decisive("error: no\n" * 50) == ("error: no",)


def test_of_many_lines_the_first_and_the_last_are_kept():
    lines = [f"error: number {n}" for n in range(FIRST + LAST)]
    chosen = decisive("\n".join(lines))
    assert len(chosen) == MOST
    assert chosen[0] == lines[0]
    assert chosen[-1] == lines[-1]


def test_the_first_error_is_kept_however_many_follow():
    lines = [f"error: number {n}" for n in range(1000)]
    assert decisive("\n".join(lines))[0] == lines[0]


def test_of_a_long_line_the_beginning_and_the_end_are_kept():
    (line,) = decisive(f"error: {'x' * 5000} (Caused by ProxyError)")
    assert len(line) == LONGEST
    assert line.startswith("error: xxx")
    assert line.endswith("(Caused by ProxyError)")


def test_only_the_end_of_a_log_is_looked_at():
    assert decisive("error: old\n" + "calm\n" * MOST_TEXT) == ("calm",)


def test_a_gate_finds_further_words_and_decisive_lines_stay_the_same():
    text = "the fox\nerror: x\nok, said the FOX\n"
    seen = survey(text, Gate(["fox"]))
    assert list(seen.worded) == [0, 1, 2]
    assert told(seen) == decisive(text) == ("error: x",)
    assert [line.text for line in seen.others(10)] == ["the fox"]


@given(st.text(alphabet=st.sampled_from("eE: rofailTracbk()\n\r\x1b[0m+İß✕"), max_size=300))
def test_any_text_has_few_short_lines_that_are_in_it(text):
    chosen = decisive(text)
    assert len(chosen) <= MOST + 1
    shown = "\n".join(cleaned(text))
    assert all(line in shown and "\n" not in line and len(line) <= LONGEST for line in chosen)


@given(st.lists(st.sampled_from(["calm", "error: a", "E: b", "", "x\x1b[1my"]), max_size=30))
def test_a_log_and_its_cleaned_form_are_decided_alike(lines):
    text = "\n".join(lines)
    assert decisive(text) == decisive("\n".join(cleaned(text)))
