"""Fingerprints: equal for what differs only in paths, numbers and times, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.fingerprints import LONGEST, fingerprint, masked

MASKED = {
    "2026-01-02T03:04:05.678Z ERROR in /srv/x/y.py:12 after 1.2s": "<time> ERROR in <path>:<n> after <time>",
    "FAILED tests/test_a.py::test_x - AssertionError: assert 3 == 4": "FAILED <path>::test_x - AssertionError: assert <n> == <n>",
    "main.c:12:34: error: 'x' undeclared": "main.c:<n>: error: 'x' undeclared",
    "error[E0308]: mismatched types": "error[E0308]: mismatched types",
    "src/a.ts(3,5): error TS2322: no": "<path>(<n>): error TS2322: no",
    "curl: (7) Failed to connect to localhost port 8080 after 0 ms": "curl: (<n>) Failed to connect to localhost port <n> after <time>",
    "Error: connect ECONNREFUSED 10.0.0.1:443": "Error: connect ECONNREFUSED <addr>",
    "GET https://user:token@host3.example.org:8443/a/b?x=1 failed": "GET https://host<n>.example.org:<n><path> failed",
    "http://127.0.0.1:3128/x": "http://<addr><path>",
    "fatal: unable to access 'https://example.org/x.git/': no": "fatal: unable to access 'https://example.org<path>': no",
    "pulled sha256:abcdef0123456789abcdef0123456789": "pulled sha256:<n>",
    "HEAD is now at 1a2b3c4d fix": "HEAD is now at <n> fix",
    "id 550e8400-e29b-41d4-a716-446655440000": "id <id>",
    "container task-20260101-010203-deadbeef-tests-1": "container <id>-tests-<n>",
    "request req_011CSHoEeqs5C35K2UUqR7Fy": "request <id>",
    'File "/usr/lib/python3.11/x.py", line 12, in f': 'File "<path>", line <n>, in f',
    "cannot open '/tmp/a b/c'": "cannot open '<path>'",
    "in 2 minutes 3 seconds, of 1.5 MB": "in <time>, of <size>",
    "fe80::1 and [::1]:80": "<addr> and [<addr>]:<n>",
    "Mon, 21 Oct 2015 07:28:00 GMT: done": "<time>: done",
    "made tmpab12cd_8 and 'tmpabcdefgh', see tmp_path_factory": "made <tmp> and '<tmp>', see tmp_path_factory",
    r"C:\a\b.txt is gone": "<path> is gone",
    "[2/10] 50% of 1,234": "[<n>] <n> of <n>",
    "-I/usr/include --prefix=/usr": "<path> --prefix=<path>",
    "\x1b[31merror\x1b[0m:\t no  such": "error: no such",
}
KEPT = [
    "and/or read/write application/json",
    "std::vector abc::def",
    "test_retry_2 utf8 x86_64 int64 E0308",
    "<div>/a</div>",
    "No module named 'surely_not_there'",
]


@pytest.mark.parametrize("line", MASKED)
def test_what_differs_between_runs_becomes_a_mark(line):
    assert masked(line) == MASKED[line]


@pytest.mark.parametrize("line", KEPT)
def test_what_a_message_is_about_stays(line):
    assert masked(line) == line


TRICKY = st.text(alphabet="ab1/.:-_<n>' \"[]~@+ 0fTZv\\=,", max_size=60)


@given(st.one_of(st.text(max_size=80), TRICKY))
def test_masking_what_is_masked_changes_nothing(line):
    assert masked(masked(line)) == masked(line)


@given(st.text(min_size=LONGEST, max_size=3 * LONGEST))
def test_no_line_grows_without_bound(line):
    assert len(masked(line)) <= LONGEST


NUMBERS = st.one_of(st.integers(0, 10**12).map(str), st.floats(0, 1e6, allow_nan=False).map("{:.3f}".format))
SEGMENTS = st.text(alphabet="abcxyz019_", min_size=1, max_size=8)
PATHS = st.lists(SEGMENTS, min_size=2, max_size=5).map(lambda parts: "/" + "/".join(parts) + ".py")
CLOCKS = st.datetimes().map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0"))
DURATIONS = st.tuples(st.integers(0, 10**4), st.sampled_from(("ms", "s", " seconds", " minutes"))).map(
    lambda pair: f"{pair[0]}{pair[1]}"
)
HASHES = st.text(alphabet="0123456789abcdef", min_size=12, max_size=64).filter(lambda text: any(map(str.isdigit, text)))
PORTS = st.integers(1, 65535)


@st.composite
def failures(draw):
    """One failure as two runs tell it."""
    return (
        f"{draw(CLOCKS)} worker {draw(NUMBERS)} of {draw(NUMBERS)}: {draw(PATHS)}:{draw(st.integers(1, 9999))}: commit "
        f"{draw(HASHES)} refused by 10.0.0.{draw(st.integers(0, 255))}:{draw(PORTS)} after {draw(DURATIONS)}"
    )


@given(failures(), failures())
def test_numbers_paths_and_times_do_not_change_a_fingerprint(one, other):
    assert fingerprint("network", [one], 1) == fingerprint("network", [other], 1)


WORDS = st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)


@given(st.lists(WORDS, min_size=1, max_size=5), st.lists(WORDS, min_size=1, max_size=5))
def test_other_words_are_another_failure(one, other):
    first, second = " ".join(one), " ".join(other)
    assert (fingerprint("unknown", [first], 1) == fingerprint("unknown", [second], 1)) == (first == second)


def test_a_fingerprint_holds_the_class_and_the_exit_code():
    line = ["it failed"]
    prints = {fingerprint("network", line, 1), fingerprint("disk", line, 1), fingerprint("network", line, 2)}
    assert len(prints) == 3
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in prints)


def test_order_and_repeats_do_not_count():
    assert fingerprint("test_failure", ["a", "b", "a"], 1) == fingerprint("test_failure", ["b", "a"], 1)


def test_a_fingerprint_stays_the_same_over_releases():
    # Kept in users' histories: whoever changes this number makes them begin anew, and says so in the changelog.
    assert fingerprint("network", ["curl: (6) Could not resolve host: example.org"], 6) == "c0fe917262dbebe9"
