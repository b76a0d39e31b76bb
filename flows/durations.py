"""Times as people write them: durations, minutes and schedules.

A bare number is minutes where the key says so (`timeout-minutes`) and refused elsewhere: `wait: 5` has been read as
seconds, minutes and milliseconds by three tools its writers know, so the unit must stand there.
"""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern}\s*)+")
LONGEST = 7 * 86400.0
"""Seconds; longer times are mistakes of a unit."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)
_CRON_NAMES = frozenset(("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"))
_CRON_PART = re.compile(r"(\*|[a-z]{3}|\d{1,2})(?:-([a-z]{3}|\d{1,2}))?(?:/(\d{1,2}))?", re.ASCII)


def seconds(value: object) -> float:
    """Return the seconds of `30s`, `5m`, `1h30m`, `250ms`. ValueError for anything else, a bare number included."""
    text = str(value).strip()
    if isinstance(value, bool) or not _WHOLE.fullmatch(text):
        raise ValueError(f"{value!r} is no duration: write a number with its unit, such as 30s, 5m or 2h")
    return _bounded(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)), value)


def seconds_of_minutes(value: object) -> float:
    """Return the seconds of a number of minutes, or of a duration with its unit. ValueError for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _bounded(float(value) * 60, value)
    try:
        return seconds(value)
    except ValueError:
        message = f"{value!r} is no time: write minutes as a number, or a number with its unit, such as 90s or 2h"
        raise ValueError(message) from None


def cron(value: object) -> str:
    """Return a schedule in five cron fields, or one of the names, as written. ValueError says which field is wrong."""
    text = str(value).strip()
    if text in _CRON_NAMES:
        return text
    fields = text.lower().split()
    if len(fields) != len(_CRON_FIELDS):
        raise ValueError(f"{value!r} has {len(fields)} fields; cron has five: minute hour day month weekday")
    for field, (name, low, high, words) in zip(fields, _CRON_FIELDS, strict=True):
        for part in field.split(","):
            if not _cron_part(part, low, high, words):
                raise ValueError(f"{part!r} is no {name} of cron: {low} to {high}, `*`, `*/2`, `1-5` or `1,3`")
    return text


def _bounded(found: float, written: object) -> float:
    if not 0 < found <= LONGEST:
        raise ValueError(f"{written!r} is out of range: above zero and at most seven days")
    return found


def _cron_part(part: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    found = _CRON_PART.fullmatch(part)
    if not found:
        return False
    numbers = [_cron_number(word, words) for word in (found[1], found[2]) if word and word != "*"]
    if any(number is None or not low <= number <= high for number in numbers):
        return False
    step = found[3] is None or int(found[3]) > 0
    return step and (len(numbers) < 2 or (numbers[0] or 0) <= (numbers[1] or 0))


def _cron_number(word: str, words: tuple[str, ...]) -> int | None:
    if word.isdigit():
        return int(word)
    # Months count from one, weekdays from zero.
    return words.index(word) + (words is _MONTHS) if word in words else None
