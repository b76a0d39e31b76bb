"""What stays of a failure's words when all is taken out that differs from one run to the next.

Two failures are the same where only paths, numbers, hashes, times or addresses differ, so those become marks, and the
rest is hashed. The hard choice is what counts as a number. Digits that hang on a word are part of its name: `E0308`,
`TS2345`, `test_retry_2` and `utf8` are other errors and other tests when their digits change. Digits that stand alone
are numbers. The accepted cost: HTTP statuses and exit codes inside a line are masked too (a fingerprint holds the class
and the exit code besides), and machines called `worker12` and `worker13` fail differently.

Masking what is masked changes nothing, which is why marks hold neither digits nor slashes.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from workflowmaster.flows.plan import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.flows.plan import FailureClass

LONGEST = 1_000
"""Characters of a line that count. What makes a failure what it is stands at its beginning."""

DIGITS = 16
"""Hex digits of a fingerprint."""

_ROUNDS = 6
"""Most passes until nothing changes; two do for what tools print."""

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
"""Colours, cursor movements and window titles."""

_USER = r"(?:[^\s/@'\"<>]{1,200}@)?"
_DAY = r"[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_CLOCK = r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]+)?"
_ZONE = r"(?:\s?(?:Z|UTC|GMT|[AP]M|[+-][0-9]{2}:?[0-9]{2})(?!\w))?"
_SPAN = r"[0-9]+(?:[.,][0-9]+)?(?:\s?(?:ns|us|µs|ms|secs?|seconds?|mins?|minutes?|hrs?|hours?|days?)|[smh])(?!\w)"
_IN_PATH = r"[^\s'\"`:,;()\[\]{}<>|&=*?!#]"

_PARTS: tuple[tuple[str, str], ...] = (
    (
        "url",
        rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{{1,12}}://){_USER}(?P<host>[\w.\[\]:-]+)(?:[/?#][^\s'\"<>`,]*)?",
    ),
    (
        "time",
        rf"(?<![\w.]){_DAY}(?:[T ]+{_CLOCK}{_ZONE}|T?[0-9]{{2}}:[0-9]{{2}}(?!\w))?(?!\w)",
    ),
    (
        "time",
        rf"(?<!\w)(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]{{0,6}},?\s+)?(?:[0-9]{{1,2}}\s+{_MONTH}(?:\s+[0-9]{{4}})?|{_MONTH}\s+[0-9]{{1,2}}(?:,?\s+[0-9]{{4}})?)(?:\s+{_CLOCK}{_ZONE})?(?!\w)",
    ),
    ("time", rf"(?<![\w.:]){_CLOCK}{_ZONE}(?![\w:])"),
    ("time", rf"(?<![\w.])(?:{_SPAN})(?:\s?(?:{_SPAN}))*"),
    ("size", r"(?<![\w.])[0-9]+(?:[.,][0-9]+)?(?:\s?(?:[kKMGTP]i?B|B|[bB]ytes?)(?:/s)?|[kKMGT]i?)(?!\w)"),
    ("id", r"(?<!\w)(?:task-[0-9]{8}-[0-9]{6}-[0-9a-f]{4,8}|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12})"),
    ("id", r"(?<!\w)(?=[\w-]{20})(?=[\w-]*[A-Z])(?:[A-Za-z_-]*[0-9]){4}[\w-]*(?!\w)"),
    ("addr", r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?::[0-9]+|/[0-9]{1,2})?(?![\w.]*[0-9])"),
    ("addr", r"(?<![\w:>.])(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}(?![\w:])"),
    (
        "addr",
        r"(?<![\w:>.])(?=[a-fA-F:]*[0-9])(?:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,5})?::(?:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,5})?(?![\w:])",
    ),
    ("n", r"(?<![\w])(?:0[xX][0-9a-fA-F]+|(?=[a-fA-F]*[0-9])[0-9a-fA-F]{7,})(?!\w)"),
    ("n", r"(?<![\w/.-])[0-9]+(?:/[0-9]+)+(?![\w/.])"),
    ("tmp", r"(?<!\w)tmp(?:\.[A-Za-z0-9]{6,12}|(?=[a-z_]*[0-9])[a-z0-9_]{8}|(?<=['\"]tmp)[a-z0-9_]{8}(?=['\"]))(?!\w)"),
    ("path", r"(?<=['\"`])(?:~|\.{1,2}|[A-Za-z]:)?[/\\][^'\"`<>]{1,300}(?=['\"`])"),
    (
        "path",
        rf"(?<![\w<>/.~+@-])(?:[A-Za-z]:[\\/]|~/|\.{{1,2}}/|/(?!/))(?:{_IN_PATH}*[^\s'\"`:,;()\[\]{{}}<>|&=*?!#.])",
    ),
    ("path", r"(?<![\w<>/.+@~-])(?:[\w.+@~-]+/){2,}(?:[\w.+@~-]*[\w+@~-])?"),
    ("path", r"(?<![\w<>/.+@~-])[\w+@-][\w.+@-]*/[\w.+@-]*\.[A-Za-z]\w{0,4}(?![\w/])"),
    ("n", r"(?:(?<![\w)\]>])[-+])?(?<!\w)v?[0-9]+(?:[.,_][0-9]+)*(?:[eE][+-]?[0-9]+(?!\w))?%?"),
)
"""Mark → what becomes it. In this order: an address is not four numbers, and a path not a division."""

# All of it begins a word with a digit or a slash in it, or a month: most words are passed over at once.
_BEGIN = r"(?<!\w)(?=\S*[0-9/\\]|[A-Z][a-z]{2,8},?\s|tmp)"
_ANY = re.compile(
    f"{_BEGIN}(?:{'|'.join(f'(?P<p{number}_{mark}>{pattern})' for number, (mark, pattern) in enumerate(_PARTS))})"
)
_RUN = re.compile(r"<n>(?:[ ,:/x.-]{1,3}<n>)+")
_DIGITS = re.compile("[0-9]+")
_SPACE = re.compile(r"\s+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def masked(line: str) -> str:
    """Return a line with marks for what differs between runs: `<path>`, `<n>`, `<time>`, `<size>`, `<addr>`, `<id>`.

    Colours and control characters go, white space is one space, and what is over `LONGEST` characters is cut off.
    """
    if "\x1b" in line:
        line = ANSI.sub("", line)
    for _ in range(_ROUNDS):
        before, line = line, _once(line)
        if line == before:
            break
    return line


def fingerprint(cls: FailureClass, lines: Iterable[str], exit_code: int | None) -> str:
    """Return 16 hex digits for a failure: its class, its exit code, and its masked lines whatever their order.

    Order and repeats do not count: what runs in parallel fails in another order each time.
    """
    words = sorted({masked(line) for line in lines} - {""})
    return hashlib.sha256(canonical([cls, exit_code, words])).hexdigest()[:DIGITS]


def _once(line: str) -> str:
    line = _SPACE.sub(" ", _CONTROL.sub(" ", line[:LONGEST])).strip()
    return _RUN.sub("<n>", _ANY.sub(_mark, line))[:LONGEST].rstrip()


def _mark(found: re.Match[str]) -> str:
    mark = str(found.lastgroup).partition("_")[2]
    return _address(found) if mark == "url" else f"<{mark}>"


def _address(found: re.Match[str]) -> str:
    """Keep who was asked, and mask what for: two hosts fail for two reasons, two pages of one seldom do."""
    scheme, host = found["scheme"], found["host"]
    if host.startswith("[") or not host.strip("0123456789.:"):
        whole = f"{scheme}<addr>"
    else:
        whole = f"{scheme}{_DIGITS.sub('<n>', host)}"
    return whole if found[0] == f"{scheme}{host}" or found[0].endswith("@" + host) else f"{whole}<path>"
