"""How long whoever refused asked to be left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.retryafter import LONGEST, retry_after, seconds_of

NOW = 1_900_000_000.0

SAID = {
    "Retry-After: 30": 30,
    "< retry-after: 7": 7,
    '"Retry-After": "12"': 12,
    "Retry-After: 0": 0,
    "Retry-After: Sun, 17 Mar 2030 17:47:10 GMT": 30,
    "Retry-After: Sun, 17 Mar 2030 17:46:00 GMT": 0,
    '{"message": "You are being rate limited.", "retry_after": 1.5, "global": false}': 1.5,
    "retryAfterMs=1500": 1.5,
    "Please try again in 20s. Visit https://example.org": 20,
    "Rate limit reached. Please try again in 1m30.5s.": 90.5,
    "Please retry after 45 seconds": 45,
    "retry in 2 minutes and 5 seconds": 125,
    "wait for 3 minutes before you go on": 180,
    "please wait 10 s": 10,
    "quota resets in 1h": 3600,
    "Please retry your request again in 250 ms": 0.25,
    "X-RateLimit-Reset: 1900000060": 60,
    "< x-ratelimit-reset: 1900000060000": 60,
    "ratelimit-reset: 35": 35,
    "x-ratelimit-reset-requests: 1m6s": 66,
    "X-RateLimit-Reset: 1899999990": 0,
    "try again in 900 hours": LONGEST,
}
SILENT = [
    "",
    "too many requests",
    "Please wait a few minutes before you try again.",
    "waited 30 s",
    "X-RateLimit-Remaining: 0",
    "Retry-After:",
    "Retry-After: Sun, 99 May 2030 17:47:10 GMT",
    "retrying in a while",
    "the wait after 5 attempts",
]


@pytest.mark.parametrize("line", SAID)
def test_what_servers_and_clients_say_is_read(line):
    assert retry_after([line], NOW) == pytest.approx(SAID[line])


@pytest.mark.parametrize("line", SILENT)
def test_what_says_no_time_is_none(line):
    assert retry_after([line], NOW) is None


def test_a_header_says_it_before_a_sentence_and_that_before_a_reset():
    reset, sentence, header = "X-RateLimit-Reset: 1900000060", "try again in 20s", "Retry-After: 5"
    assert retry_after([header, sentence, reset], NOW) == 5
    assert retry_after([sentence, reset], NOW) == 20
    assert retry_after([reset], NOW) == 60


def test_the_last_word_counts():
    assert retry_after(["Retry-After: 5", "Retry-After: 50"], NOW) == 50


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_spans_are_summed(hours, minutes, seconds):
    assert seconds_of(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@given(st.lists(st.one_of(st.text(max_size=80), st.sampled_from(sorted(SAID))), max_size=5), st.floats(0, 4e9))
def test_a_wait_is_bounded_whatever_is_said(lines, now):
    asked = retry_after(lines, now)
    assert asked is None or 0 <= asked <= LONGEST
