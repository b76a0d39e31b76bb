"""Text from prompts, repositories and containers inside Markdown that somebody else renders.

Markdown lets text become a link, a heading, HTML, a mention that mails a stranger, or a keyword that closes an issue.
Choice: `prose` keeps the writer's Markdown but takes away what acts outside the page (HTML, mentions, references);
`inline` and `code` keep nothing but the letters. Mentions are broken with a zero-width space, because a backslash
does not stop them and a code span does not survive an answer by mail. Accepted cost: copied text carries that space.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from workflowmaster.flows.plaintext import one_line, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GAP: Final = "\N{ZERO WIDTH SPACE}"
SYNTAX: Final = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")
"""Characters that can be Markdown; a full stop is only in `1.`, which inline text never begins a line with."""
MENTION: Final = re.compile(r"@(?=\w)")
REFERENCE: Final = re.compile(r"(#|\bGH-)(?=\d)", re.IGNORECASE)
CLOSING_URL: Final = re.compile(r"(https?:)(//[^\s/]+/[^\s/]+/[^\s/]+/(?:issues|pull)/\d)", re.IGNORECASE)


def neutral(text: str) -> str:
    """Return `text` in which no mention, issue reference or issue address acts, and no comment can pose as a marker."""
    apart = CLOSING_URL.sub(rf"\1{GAP}\2", text.replace("<!--", f"<!{GAP}--"))
    return REFERENCE.sub(rf"\1{GAP}", MENTION.sub(f"@{GAP}", apart))


def prose(text: str) -> str:
    """Return Markdown that keeps its layout and loses HTML, comments, images, mentions and references."""
    # An image would make every reader's browser call the address that the text names.
    return neutral(plain(text).replace("&", "&amp;").replace("<", "&lt;").replace("![", "!\\["))


def inline(text: str, limit: int = 200) -> str:
    """Return `text` as one line of Markdown that renders as exactly these letters, also in a table cell."""
    # Entities first, so that the backslashes put in next are not taken for part of one.
    line = one_line(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return neutral(SYNTAX.sub(r"\\\1", line))


def code(text: str, limit: int = 200) -> str:
    """Return `text` as a code span, also in a table cell; empty text gives nothing."""
    line = one_line(text, limit)
    if not line:
        return ""
    # Backslashes mean nothing in a code span; only a longer run of backticks keeps it closed.
    ticks = "`" * (_longest_run(line) + 1)
    space = " " if line[0] in "` " or line[-1] in "` " else ""
    # A table is cut at `|` before code spans are read; with a backslash the cut is not made.
    return f"{ticks}{space}{neutral(line).replace('|', chr(92) + '|')}{space}{ticks}"


def fence(text: str, language: str = "") -> str:
    """Return a fenced block that `text` cannot end."""
    body = plain(text).rstrip("\n")
    ticks = "`" * max(3, _longest_run(body) + 1)
    return f"{ticks}{language}\n{body}\n{ticks}"


def title(text: str, limit: int = 250) -> str:
    """Return the title of an issue or pull request: one line of plain text in which nothing acts."""
    return neutral(one_line(text, limit)) or "Untitled"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Iterable[int] = ()) -> str:
    """Return a Markdown table of cells that are Markdown already; `numeric` columns are right-aligned."""
    right = set(numeric)
    rule = ["---:" if index in right else "---" for index in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def bounded(blocks: Sequence[str], limit: int) -> str:
    """Join blocks by empty lines; whole blocks that would go beyond `limit` characters are left out, and counted."""
    kept: list[str] = []
    used = 0
    for index, block in enumerate(blocks):
        # Blocks are cut whole, because half a fence would swallow everything after it.
        if used + len(block) + 2 > limit - 80:
            left = sum(map(len, blocks[index:]))
            return "\n\n".join([*kept, f"… {left} characters more in the report"])
        kept.append(block)
        used += len(block) + 2
    return "\n\n".join(kept)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
