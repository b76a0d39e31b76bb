"""Reads from an answer of GitHub's how long it wants to be left alone. Pure, but for telling a breaker.

A refusal for asking too much has the status of a refusal for good, 403, and only headers and words tell them apart.
GitHub's own order is kept (docs.github.com, "Best practices for using the REST API"): `Retry-After` first, then the
reset of a limit of which nothing remains, and for a secondary limit that names no time a minute. The reset is a moment
of GitHub's clock, so it is compared with the answer's own `Date`: a machine whose clock is five minutes behind would
otherwise wait five minutes too long, and one that is ahead would ask again at once, for which integrations are banned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.blocks.breaker import Breaker

SECONDARY_SECONDS = 60.0
"""What GitHub asks for at least where it names no time."""

AFTER_RESET = 1.0
"""Seconds after a reset: its time is cut to whole seconds."""

WORDS = re.compile(r"secondary rate limit|rate limit exceeded|abuse detection|api rate limit", re.IGNORECASE)
"""What the body of such a refusal says. A 403 for want of permission says none of it."""

SERVER_ERRORS = 500


@dataclass(frozen=True)
class Throttled:
    """The service wants to be left alone."""

    seconds: float
    """From now on."""
    limit: Literal["retry-after", "primary", "secondary"]
    """What told us: a header with the time, the hourly allowance, or a limit without a time."""
    reason: str
    """In one line."""


def throttled(status: int, headers: Mapping[str, str], body: str = "", *, now: float) -> Throttled | None:
    """Return how long to wait after an answer; None if it was no refusal for asking too much.

    `headers` may be spelled in any case; `now` is Unix time, used where the answer has no date of its own.
    """
    if status not in (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS):
        return None
    known = {name.lower(): value for name, value in headers.items()}
    clock = _date(known.get("date", ""), now)
    asked = _after(known.get("retry-after", ""), clock)
    if asked is not None:
        return Throttled(asked, "retry-after", f"GitHub asks for {asked:.0f} s of rest ({status})")
    reset = _number(known.get("x-ratelimit-reset", ""))
    if known.get("x-ratelimit-remaining", "").strip() == "0" and reset is not None:
        seconds = max(reset - clock, 0.0) + AFTER_RESET
        what = known.get("x-ratelimit-resource", "")
        return Throttled(seconds, "primary", f"GitHub's {what} limit is used up for {seconds:.0f} s".replace("  ", " "))
    # With what remains of the hourly allowance a secondary limit has nothing to do: 14 of 30 was seen.
    if status == HTTPStatus.TOO_MANY_REQUESTS or "gh-limited-by" in known or WORDS.search(body):
        return Throttled(SECONDARY_SECONDS, "secondary", f"GitHub's secondary limit is reached ({status})")
    return None


def heed(breaker: Breaker, status: int, headers: Mapping[str, str], body: str = "", *, now: float) -> Throttled | None:
    """Tell the breaker what an answer says of the service, and return how long to wait, if it was a refusal for that.

    An error of its server counts as a failure; every other answer, also one that refuses, shows that the service works.
    """
    found = throttled(status, headers, body, now=now)
    if found:
        breaker.rest(found.seconds, found.reason)
    elif status >= SERVER_ERRORS:
        breaker.failed(f"it answered {status}")
    else:
        breaker.succeeded()
    return found


def _number(text: str) -> float | None:
    try:
        return float(int(text))
    except ValueError:
        return None


def _after(text: str, clock: float) -> float | None:
    """Read `Retry-After`: seconds, or a date (RFC 9110, 10.2.3). None for what is neither."""
    seconds = _number(text)
    if seconds is not None:
        return max(seconds, 0.0)
    moment = _date(text, -1.0)
    return max(moment - clock, 0.0) if moment >= 0 else None


def _date(text: str, otherwise: float) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return otherwise
