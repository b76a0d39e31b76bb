r"""Text from prompts, logs and containers, made safe to look at.

A step's output is chosen by whoever wrote the step. Shown raw it can move the cursor, recolour a terminal, reverse
a line with bidi marks or hide characters. Choice: strip what only formats (ANSI sequences, overwritten parts of a
progress line) and spell out everything else that cannot be seen, as `\u{202e}`. Accepted cost: colours of a log
are lost in reports; `workflowmaster logs` still prints the raw bytes.
"""

from __future__ import annotations

import re

ANSI = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movement
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC and other strings: titles, hyperlinks
    r"|\x1b[ -/]*[0-~]"  # two-character escapes
)
"""ECMA-48 escape sequences, complete ones and strings that were cut off."""

# U+200D stays: emoji are joined with it. Line feed and tab stay: they are the layout of a log.
HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ud800-\udfff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
"""Controls, bidi and zero-width marks, tags, lone surrogates and code points that XML 1.0 does not allow."""

ERROR = re.compile(
    r"\b(?:[A-Z]\w*(?:Error|Exception|Warning)\b|error|fatal|fail(?:ed|ure)?|panic|denied|not found|cannot|killed"
    r"|no such file)\b|^E  ",
    re.IGNORECASE,
)
"""What a line that explains a failure usually contains; pytest marks such lines with a leading `E`."""
WEB_ADDRESS = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d{1,5})?(?:[/?#][\w:/?&=%.~#+,@-]*)?", re.ASCII)
"""Addresses that are made into links; anything odder is shown as text."""
CONTEXT = 1
"""Lines kept before the first one that names an error."""


def plain(text: str) -> str:
    """Return `text` with escape sequences removed, progress lines collapsed and invisible characters spelled out."""
    # Before progress lines are collapsed, or every line of a Windows tool would count as overwritten.
    unified = text.replace("\r\n", "\n")
    if "\x1b" in unified:
        unified = ANSI.sub("", unified)
    if "\r" in unified:
        unified = "\n".join(_last_drawn(line) for line in unified.split("\n"))
    # Last, so that what an escape sequence was hiding is looked at too.
    return HIDDEN.sub(_spelled, unified)


def one_line(text: str, limit: int = 120) -> str:
    """Return `text` as one line of at most `limit` characters, cut with an ellipsis."""
    line = " ".join(plain(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def tail(log: str, limit: int = 40, width: int = 500) -> list[str]:
    """Return the last `limit` lines of a log as plain text, each at most `width` characters, no empty ones last."""
    raw = log.rstrip().split("\n") if log.strip() else []
    # Only the end is cleaned: a log may hold hundreds of megabytes, and one line of it too.
    lines = [plain(_last_drawn(line)[: width * 4]) for line in raw[-limit:]]
    return [line if len(line) <= width else line[:width] + "…" for line in lines]


def decisive(log: str, limit: int = 12) -> list[str]:
    """Return at most `limit` lines of a failed step's log that explain the failure best.

    They are the last lines, because programs say last why they stop; lines before the first that names an error are
    dropped. Where such a line stands just above the last ones, the excerpt starts there and leaves out the middle.
    """
    # Sixty lines hold a traceback of ordinary depth; an error further up is rarely the last cause.
    lines = [line for line in tail(log, limit=60) if line.strip()]
    window = lines[-limit:]
    named = [n for n, line in enumerate(window) if ERROR.search(line)]
    if named:
        return window[max(0, named[0] - CONTEXT) :]
    above = [n for n, line in enumerate(lines[:-limit]) if ERROR.search(line)]
    if not above:
        return window
    half = limit // 2
    # The last error above, not the first: earlier ones were often survived.
    return [*lines[above[-1] : above[-1] + half], "…", *lines[-(limit - half - 1) :]]


def _last_drawn(line: str) -> str:
    parts = [part for part in line.split("\r") if part]
    return parts[-1] if parts else ""


def _spelled(match: re.Match[str]) -> str:
    code = ord(match.group())
    # A lone surrogate is a byte that was no UTF-8; which one it was helps nobody.
    return "\N{REPLACEMENT CHARACTER}" if 0xD800 <= code <= 0xDFFF else f"\\u{{{code:02x}}}"
