"""How long GitHub wants to be left alone, by answers that it really gave, and by a real server that repeats them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.breaker import Breaker
from workflowmaster.blocks.throttling import AFTER_RESET, SECONDARY_SECONDS, Throttled, heed, throttled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATE = "Mon, 13 Jun 2022 11:48:53 GMT"
NOW = 1655120933.0
"""The same moment as Unix time."""

# github.com/KnpLabs/php-github-api/pull/1072, 13 June 2022: a secondary limit, with half of the allowance left.
SECONDARY = {
    "Server": "GitHub.com",
    "Date": DATE,
    "Content-Type": "application/json; charset=utf-8",
    "X-GitHub-Media-Type": "github.v3; format=json",
    "X-RateLimit-Limit": "30",
    "X-RateLimit-Remaining": "14",
    "X-RateLimit-Reset": "1655120964",
    "X-RateLimit-Used": "16",
    "X-RateLimit-Resource": "search",
}
SECONDARY_BODY = json.dumps(
    {
        "documentation_url": "https://docs.github.com/en/free-pro-team@latest/rest/overview/"
        "resources-in-the-rest-api#secondary-rate-limits",
        "message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
    }
)
# The hourly allowance of somebody without a token, as api.github.com answers it.
PRIMARY = {
    "date": DATE,
    "x-ratelimit-limit": "60",
    "x-ratelimit-remaining": "0",
    "x-ratelimit-reset": "1655122733",
    "x-ratelimit-resource": "core",
    "x-ratelimit-used": "60",
}
PRIMARY_BODY = json.dumps(
    {
        "message": "API rate limit exceeded for 203.0.113.7. (But here's the good news: Authenticated requests get a "
        "higher rate limit. Check out the documentation for more details.)",
        "documentation_url": "https://docs.github.com/rest/overview/resources-in-the-rest-api#rate-limiting",
    }
)
# A right that is missing: the same status, and no waiting helps.
FORBIDDEN = {"date": DATE, "x-ratelimit-remaining": "4987", "x-ratelimit-reset": "1655122733"}
FORBIDDEN_BODY = json.dumps(
    {
        "message": "Resource not accessible by integration",
        "documentation_url": "https://docs.github.com/rest/git/refs#create-a-reference",
    }
)
# What was answered before 2021.
ABUSE_BODY = (
    '{"message": "You have triggered an abuse detection mechanism. Please wait a few minutes before you try again."}'
)


@pytest.mark.parametrize(
    ("status", "headers", "body", "limit", "seconds"),
    [
        (403, PRIMARY, PRIMARY_BODY, "primary", 1800 + AFTER_RESET),
        (429, PRIMARY, PRIMARY_BODY, "primary", 1800 + AFTER_RESET),
        (403, SECONDARY, SECONDARY_BODY, "secondary", SECONDARY_SECONDS),
        (403, {**SECONDARY, "Retry-After": "31"}, SECONDARY_BODY, "retry-after", 31),
        (403, {"retry-after": "0"}, SECONDARY_BODY, "retry-after", 0),
        (403, {"Date": DATE, "Retry-After": "Mon, 13 Jun 2022 11:50:53 GMT"}, "", "retry-after", 120),
        (403, {"Date": DATE, "Retry-After": "Mon, 13 Jun 2022 11:40:53 GMT"}, "", "retry-after", 0),
        (403, {}, ABUSE_BODY, "secondary", SECONDARY_SECONDS),
        # hub4j/github-api issue 2009: a header of its own, and once nothing but the words.
        (403, {"gh-limited-by": "search-elapsed-time-shared-grouped"}, "", "secondary", SECONDARY_SECONDS),
        (429, {}, "", "secondary", SECONDARY_SECONDS),
        (429, {"retry-after": "soon"}, "", "secondary", SECONDARY_SECONDS),
        (429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "?"}, "", "secondary", SECONDARY_SECONDS),
    ],
)
def test_a_refusal_for_asking_too_much_says_how_long(
    status: int, headers: dict[str, str], body: str, limit: str, seconds: float
) -> None:
    found = throttled(status, headers, body, now=NOW)
    assert found is not None
    assert (found.limit, found.seconds) == (limit, seconds)
    assert "GitHub" in found.reason


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (403, FORBIDDEN, FORBIDDEN_BODY),
        (401, {}, '{"message": "Bad credentials"}'),
        (404, {"retry-after": "5"}, ""),
        (503, {"retry-after": "5"}, "rate limit exceeded"),
        (200, PRIMARY, "the last one that was allowed"),
        (403, {"x-ratelimit-remaining": "0"}, FORBIDDEN_BODY),
    ],
)
def test_every_other_answer_is_no_reason_to_wait(status: int, headers: dict[str, str], body: str) -> None:
    assert throttled(status, headers, body, now=NOW) is None


@pytest.mark.parametrize("ahead", [-300.0, 0.0, 300.0, 86_400.0])
def test_our_own_clock_does_not_matter_where_the_answer_has_one(ahead: float) -> None:
    found = throttled(403, PRIMARY, PRIMARY_BODY, now=NOW + ahead)
    assert found is not None
    assert found.seconds == 1800 + AFTER_RESET
    undated = {name: value for name, value in PRIMARY.items() if name != "date"}
    guessed = throttled(403, undated, PRIMARY_BODY, now=NOW + 300)
    assert guessed is not None
    assert guessed.seconds == 1500 + AFTER_RESET


@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["date", "Retry-After", "X-RateLimit-Remaining", "x-ratelimit-reset"]), st.text()),
    st.text(),
    st.floats(0, 4e9),
)
def test_whatever_is_answered_is_read(status: int, headers: dict[str, str], body: str, now: float) -> None:
    found = throttled(status, headers, body, now=now)
    assert found is None or found.seconds >= 0
    assert found is None or status in (403, 429)


# --- over a real connection ---


class Answers(BaseHTTPRequestHandler):
    """A server that gives one of the answers above, by the path that is asked for."""

    GIVES: dict[str, tuple[int, dict[str, str], str]] = {
        "/primary": (403, PRIMARY, PRIMARY_BODY),
        "/secondary": (403, {**SECONDARY, "Retry-After": "2"}, SECONDARY_BODY),
        "/forbidden": (403, FORBIDDEN, FORBIDDEN_BODY),
        "/broken": (502, {}, "<html>Unicorn!</html>"),
        "/well": (200, {}, "{}"),
    }

    def do_GET(self) -> None:
        status, headers, body = self.GIVES[self.path]
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(url: str, breaker: Breaker) -> Throttled | None:
    try:
        with urlopen(url, timeout=10) as answer:
            return heed(breaker, answer.status, dict(answer.headers), answer.read().decode(), now=NOW)
    except HTTPError as error:
        with error:
            return heed(breaker, error.code, dict(error.headers), error.read().decode(), now=NOW)


@pytest.fixture
def github(tmp_path: Path) -> Any:
    """A breaker, and the time by its clock."""
    return Breaker("github", threshold=2, seconds=30, folder=tmp_path, clock=lambda: NOW)


def test_a_used_up_allowance_keeps_everybody_away_until_its_reset(site: str, github: Breaker) -> None:
    assert ask(f"{site}/well", github) is None
    assert github.state == "closed"
    ask(f"{site}/primary", github)
    assert (github.state, github.wait) == ("open", 1801.0)
    assert github.kept.failure_count == 0
    assert "core limit is used up" in github.kept.why


def test_a_secondary_limit_keeps_them_away_for_as_long_as_it_says(site: str, github: Breaker) -> None:
    ask(f"{site}/secondary", github)
    assert (github.state, github.wait) == ("open", 2.0)


def test_a_missing_right_is_no_failure_of_the_service(site: str, github: Breaker) -> None:
    for _ in range(5):
        assert ask(f"{site}/forbidden", github) is None
    assert (github.state, github.kept.failure_count) == ("closed", 0)


def test_errors_of_its_server_count(site: str, github: Breaker) -> None:
    ask(f"{site}/broken", github)
    assert (github.state, github.kept.failure_count, github.kept.why) == ("closed", 1, "it answered 502")
    ask(f"{site}/well", github)
    assert github.kept.failure_count == 0
    ask(f"{site}/broken", github)
    ask(f"{site}/broken", github)
    assert (github.state, github.wait) == ("open", 30.0)
