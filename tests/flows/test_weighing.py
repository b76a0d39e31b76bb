"""Lines that tools really print, and what each says about a failure."""

from __future__ import annotations

import pytest

from workflowmaster.flows.weighing import A_WORD, NOTHING, THAT, WHY, boilerplate, unprefixed, weigh

VERDICTS = [
    "FAILED test_a.py::test_permission_denied - AssertionError: assert 'Permission...",
    "ERROR test_b.py::test_x - fixture 'db' not found",
    "E       assert 1 == 2",
    "E   AssertionError: page not found",
    "FAIL: test_not_found (__main__.T.test_not_found)",
    "test timeout_is_refused ... FAILED",
    "    --- FAIL: TestTimeout (0.00s)",
    "not ok 1 - handles permission denied",
    "  ✕ refuses a connection (5 ms)",
    "  ● router › answers 404 not found",
    "AssertionError: b'not found' != b'ok'",
    "AssertionError [ERR_ASSERTION]: 1 == 2",
    "d: d.c:2: main: Assertion `1==2' failed.",
    "assertion `left == right` failed",
    "[ERROR] Tests run: 3, Failures: 1, Errors: 0, Skipped: 0",
]
REASONS = [
    "ModuleNotFoundError: No module named 'surely_not_there'",
    "E   ModuleNotFoundError: No module named 'surely_not_there'",
    "E               ConnectionRefusedError: [Errno 111] Connection refused",
    "requests.exceptions.ReadTimeout: HTTPConnectionPool(host='x', port=80): Read timed out.",
    "subprocess.TimeoutExpired: Command '['sleep', '5']' timed out after 0.2 seconds",
    "KeyboardInterrupt",
    "Error: Cannot find module 'surely-not-there'",
    "Caused by: java.net.UnknownHostException: example.org",
    "error[E0425]: cannot find value `y` in this scope",
    "error: no matching package named `surely-not-there` found",
    "a.c:1:20: error: ‘x’ undeclared (first use in this function)",
    "b.c:1:10: fatal error: nope.h: No such file or directory",
    "src/a.ts(3,5): error TS2322: Type 'string' is not assignable to type 'number'.",
    "src/a.py:3: error: Incompatible return value type",
    "./main.go:5:2: undefined: foo",
    "/usr/bin/ld: c.c:(.text+0xa): undefined reference to `foo'",
    "/usr/bin/ld: cannot find -lnope: No such file or directory",
    "make: *** No rule to make target 'nope'.  Stop.",
    "npm error 404 Not Found - GET http://127.0.0.1:18099/404/surely-not-there",
    "npm ERR! network Socket hang up",
    "ERROR: No matching distribution found for surely-not-there",
    "E: Unable to locate package surely-not-there",
    "fatal: unable to access 'https://surely-not-there.invalid/x.git/': Could not resolve host: surely-not-there.invalid",
    "CONFLICT (content): Merge conflict in a.txt",
    " ! [rejected]        main -> main (fetch first)",
    "docker: Error response from daemon: No such image: nope:1",
    'ERROR: failed to solve: process "/bin/sh -c false" did not complete successfully: exit code: 1',
    "curl: (6) Could not resolve host: surely-not-there.invalid",
    "bash: line 1: surely-not-there: command not found",
    "sh: 1: surely-not-there: not found",
    "cat: /etc/shadow: Permission denied",
    "touch: cannot touch '/etc/x': Read-only file system",
    "dd: error writing '/dev/full': No space left on device",
    "bash: line 1: NOPE: unbound variable",
    "bash: line 1: 10476 Killed                  python3 train.py",
    "Killed",
    "bash: line 1: 11382 Segmentation fault      ./e",
    "thread 'main' (11963) panicked at src/main.rs:1:52:",
    "panic: runtime error: index out of range [3] with length 0",
    "##[error]The operation was canceled.",
    "#12 3.456 E: Unable to locate package nope",
    "2026-01-01T00:00:00.123Z ERROR worker died",
    "[workflowmaster: refused example.org:443: example.org is not among the hosts this step may reach.]",
    "Refused by WorkflowMaster's proxy (ERR_WORKFLOWMASTER_LIST): example.org is not among the hosts.",
    "ssh: connect to host 127.0.0.1 port 9: Connection refused",
]
SUMMARIES = [
    "========================= 3 failed, 1 passed in 7.33s ==========================",
    "FAILED (failures=1)",
    "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
    'error: could not compile `cr` (bin "cr") due to 2 previous errors',
    "error: test failed, to rerun pass `--bin cr`",
    "make: *** [Makefile:5: fail] Error 1",
    "npm error code E404",
    "collect2: error: ld returned 1 exit status",
    "HTTP/1.0 403 Forbidden",
    "BUILD FAILED in 3s",
    "✖ 4 problems (3 errors, 1 warning)",
]
WARNINGS = [
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'OSError('Tunnel connection failed: 403 Forbidden')'",
    'npm warn Unknown user config "nodedir".',
    "W: Failed to fetch http://deb.example.org/x  Temporary failure resolving 'deb.example.org'",
    "warning: unused variable: `error`",
    "2026-01-01 00:00:00 INFO the last request failed, trying again",
    "a.c:3:5: warning: implicit declaration of function ‘fail’",
]
CALM = [
    "ok connection reset handled",
    "ok 2 - connection reset handled",
    "test_a.py::test_connection_reset_ok PASSED                               [100%]",
    "test net::timeout ... ok",
    "--- PASS: TestPermissionDenied (0.00s)",
    "  ✓ shows 404 not found (3 ms)",
    "test result: ok. 12 passed; 0 failed; 0 ignored",
    "0 errors",
    "Found 0 errors in 9 files",
    "12 passed, 0 failed",
    "Build finished without errors",
    "no errors found",
    "   Compiling thiserror v1.0.50",
    "+ echo 'error: not really'",
    "gcc -c error.c -o error.o",
    "ERROR: Job failed: exit code 1",
    "##[error]Process completed with exit code 1.",
    "npm error A complete log of this run can be found in: /root/.npm/_logs/x.log",
    "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
    "PLAY RECAP: host : ok=3 changed=1 unreachable=0 failed=0",
]


@pytest.mark.parametrize("line", VERDICTS)
def test_a_tests_verdict_is_known_as_one(line):
    assert weigh(line) == (WHY, True)


@pytest.mark.parametrize("line", REASONS)
def test_a_tools_own_way_to_report_a_fault_is_decisive(line):
    assert weigh(line) == (WHY, False)


@pytest.mark.parametrize("line", SUMMARIES)
def test_a_summary_says_that_and_not_why(line):
    assert weigh(line)[0] == THAT


@pytest.mark.parametrize("line", WARNINGS)
def test_a_warning_is_a_word(line):
    assert weigh(line) == (A_WORD, False)


@pytest.mark.parametrize("line", CALM)
def test_what_went_well_and_what_is_always_said_is_nothing(line):
    assert weigh(line) == (NOTHING, False)


def test_some_errors_beside_none_are_errors():
    assert weigh("3 errors, 0 failures")[0] != NOTHING
    assert weigh("failed=0 ok=1 | failed=2")[0] != NOTHING


def test_times_of_runners_are_taken_off():
    assert unprefixed("2026-01-01T00:00:00.123Z [12:00:01] remote: error: x") == "error: x"
    assert unprefixed("#9 0.123 E: x") == "E: x"
    assert unprefixed("#define x") == "#define x"


def test_boilerplate_is_told_apart():
    assert boilerplate("section: ERROR: Job failed: exit code 1")
    assert not boilerplate("the job failed")
