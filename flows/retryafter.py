"""How long whoever refused asked to be left alone, as servers and clients write it. Pure."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 24 * 3600.0
"""A wait beyond a day, in seconds, is no wait: it is cut, and whoever decides will not wait that long anyway."""

READ = 1_000
"""Characters of a line that are looked at."""

WORDS = (
    "retry-after",
    "retry_after",
    "retryafter",
    "ratelimit-reset",
    "try again",
    "retry in",
    "available again",
    "wait ",
    "reset in",
    "resets in",
    "retry your",
    "retry after",
)
"""One of these is in every line that says so, in lower case."""

_EPOCH, _MILLISECONDS = 10**8, 10**11
"""Numbers from here on are Unix times, and from there on Unix times in milliseconds; smaller ones are seconds."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AMOUNT = r"[0-9]+(?:\.[0-9]+)?"
_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|days?)"
_SPAN = rf"(?:{_AMOUNT}\s*{_UNIT}(?![a-z])[,\s]*(?:and\s+)?)+"
_ONE = re.compile(rf"({_AMOUNT})\s*({_UNIT}(?![a-z]))?", re.IGNORECASE)

_HEADER = re.compile(r"\bretry-after[\"']?\s*[:=]\s*[\"']?([^\"',}<>\r\n]+)", re.IGNORECASE)
_FIELD = re.compile(rf"\bretry_?after(_?ms|_?seconds)?[\"']?\s*[:=]\s*[\"']?({_AMOUNT})", re.IGNORECASE)
_SENTENCE = re.compile(
    rf"\b(?:(?:try|retry)(?: your request| again| this| it)*|available again|wait|resets?|reset)"
    rf"(?: again| for| at least| another| only)*(?: in| after| for)? (?:at least |about |approximately )?({_SPAN})",
    re.IGNORECASE,
)
_RESET = re.compile(r"\b(?:x-)?ratelimit-reset(?:-\w+)?[\"']?\s*[:=]\s*[\"']?([0-9]+(?:\.[0-9]+)?\w*)", re.IGNORECASE)
_DATE = re.compile(r"[A-Za-z]{3}, [0-9]{1,2} [A-Za-z]{3} [0-9]{4} [0-9:]{8} (?:GMT|UTC|[+-][0-9]{4})")


def retry_after(lines: Iterable[str], now: float) -> float | None:
    """Return the seconds from `now` (Unix time) that the lines ask for, in [0, `LONGEST`]; None if they do not.

    A header says it before a sentence, and both before the moment at which a limit is reset; the last line of each
    kind counts, for a client that tried three times was told three times.
    """
    text = [line[:READ] for line in lines if any(word in line.lower() for word in WORDS)]
    for read in (_header, _field, _sentence, _reset):
        asked = [seconds for line in text if (seconds := read(line, now)) is not None]
        if asked:
            return min(max(asked[-1], 0.0), LONGEST)
    return None


def _header(line: str, now: float) -> float | None:
    """Read `Retry-After: 30` or a date (RFC 9110, 10.2.3)."""
    found = _HEADER.search(line)
    if not found:
        return None
    value = found[1].strip()
    if date := _DATE.search(line, found.start(1)):
        try:
            return parsedate_to_datetime(date[0]).timestamp() - now
        except ValueError:
            # It looks like a date and is none, as the 99th of May.
            return None
    return seconds_of(value) if re.match(_AMOUNT, value) else None


def _field(line: str, _now: float) -> float | None:
    """Read `"retry_after": 1.5` and `retryAfterMs=1500` of JSON bodies."""
    found = _FIELD.search(line)
    if not found:
        return None
    return float(found[2]) / (1000 if (found[1] or "").lower().endswith("ms") else 1)


def _sentence(line: str, _now: float) -> float | None:
    found = _SENTENCE.search(line)
    return seconds_of(found[1]) if found else None


def _reset(line: str, now: float) -> float | None:
    """Read `X-RateLimit-Reset`: a Unix time (GitHub), that in milliseconds, or seconds (RateLimit-Reset)."""
    found = _RESET.search(line)
    if not found:
        return None
    if not found[1].replace(".", "").isdigit():
        return seconds_of(found[1])
    value = float(found[1])
    return value / 1000 - now if value >= _MILLISECONDS else value - now if value >= _EPOCH else value


def seconds_of(words: str) -> float:
    """Return the sum of spans such as `1m30s` or `2 minutes and 5 seconds`; a bare number is seconds."""
    return sum(float(number) * _UNITS[_short(unit)] for number, unit in _ONE.findall(words))


def _short(unit: str) -> str:
    low = unit.lower()
    return "ms" if low.startswith(("ms", "milli")) else low[:1] or "s"
