"""Step attributes: the bullets `- key: value` right below a heading.

The value is YAML, but not all of it is read by a YAML parser: most values are one plain word, and sentences such as an
`if` or a `reason` may hold colons, quotes and exclamation marks that YAML gives meanings nobody wants there. So plain
words are taken directly (a file of 500 steps is read in a tenth of the time), sentences as they stand unless they are
quoted, and only the rest goes to the parser. The accepted cost: `- reason: "…"` loses its quotes, as in YAML, while
`- if: "a" == "b"` keeps them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from workflowmaster.flows.attributes import ALIASES, FOREIGN, FrontMatter, StepAttributes, key_names
from workflowmaster.flows.diagnostics import closest
from workflowmaster.flows.located import Located, read_mapping, scalar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workflowmaster.flows.diagnostics import Place, Report
    from workflowmaster.flows.located import Path
    from workflowmaster.flows.outline import Block

STEP_KEYS = frozenset(key_names(StepAttributes)) | frozenset(ALIASES)
KNOWN = STEP_KEYS | FOREIGN | frozenset(key_names(FrontMatter))

# Lower case after the bullet makes a key; `\s` before it because a list may be indented.
_BULLET = re.compile(r"(\s*(?:[-*+])\s+)([A-Za-z][\w-]*):(?:\s+(.*))?")
_SENTENCES = frozenset(("if", "reason", "description", "name", "check"))
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\']|\'\')*\'')
# No sign that YAML could give a meaning to: no colon, quote, bracket, hash, comma or blank.
_PLAIN = re.compile(r"[A-Za-z0-9_./+][\w./+-]*")
_MISSPELT = 0.75


def has_attributes(blocks: Sequence[Block], lines: Sequence[str]) -> bool:
    """Whether a section begins with a bullet whose key is one of a step's."""
    if not blocks or blocks[0].kind != "list" or not blocks[0].children:
        return False
    found = _BULLET.fullmatch(lines[blocks[0].children[0].line - 1])
    return found is not None and found[2].lower() in STEP_KEYS


def read_attributes(blocks: Sequence[Block], lines: Sequence[str], report: Report) -> Located:
    """Return the attributes a section begins with; the list ends at the first bullet that is none.

    Reports doubled keys, YAML mistakes, and attributes that stand further down, where nobody would read them.
    """
    found = Located()
    read: set[int] = set()
    if blocks and blocks[0].kind == "list" and not blocks[0].children[0].level:
        for item in blocks[0].children:
            # The first bullet that is none ends the list for good, so that prose below is never read as keys.
            if not _is_attribute(lines[item.line - 1]):
                break
            read.add(item.line)
            _merge(found, _item(item, lines, report), report)
    _misplaced(blocks, lines, read, report)
    return found


def merge_fence(found: Located, info: str, place: Place, report: Report) -> None:
    """Add a fence's own attributes, `{timeout=5m needs="a, b"}`, to a step's."""
    for key, value in fence_attributes(info).items():
        one = Located({key: scalar(value)}, {key: value}, {(key,): place}, {(key,): place})
        _merge(found, one, report)


def fence_attributes(info: str) -> dict[str, str]:
    """Return what stands in the braces behind a fence's language."""
    inside = re.search(r"\{(.*)\}", info)
    pairs = re.finditer(r"""([\w-]+)=("[^"]*"|'[^']*'|[^\s}]+)""", inside[1]) if inside else ()
    return {pair[1]: pair[2].strip("\"'") for pair in pairs}


def _is_attribute(line: str) -> bool:
    found = _BULLET.fullmatch(line)
    if not found:
        return False
    key = found[2]
    # A capital begins a sentence ("Note: …"), unless the word is one of ours or nearly so.
    return key[0].islower() or key.lower() in KNOWN or bool(closest(key, STEP_KEYS, _MISSPELT))


def _item(item: Block, lines: Sequence[str], report: Report) -> Located:
    first = lines[item.line - 1]
    found = _BULLET.fullmatch(first)
    # The item's own end counts the blank lines behind it; its blocks do not.
    last = max([item.line, *(block.end_line for block in item.children)])
    if found and last == item.line:
        plain = _single(found, item.line)
        if plain:
            return plain
    marker = len(found[1]) if found else 0
    # Blanks instead of the bullet keep every column of the YAML the column of the file.
    text = "\n".join([" " * marker + first[marker:], *lines[item.line : last]])
    return read_mapping(text, line=item.line, report=report) or Located()


def _single(found: re.Match[str], line: int) -> Located | None:
    """Return an attribute of one line whose value needs no YAML parser."""
    key, value = found[2], (found[3] or "").strip()
    if _PLAIN.fullmatch(value):
        typed = scalar(value)
    elif key.lower() in _SENTENCES and value and not _QUOTED.fullmatch(value):
        typed = value
    else:
        return None
    start = found.start(3) + 1
    text = value if typed is not None else None
    keys: dict[Path, Place] = {(key,): (line, found.start(2) + 1, found.end(2) + 1)}
    places: dict[Path, Place] = {(key,): (line, start, start + len(value))}
    return Located({key: typed}, {key: text}, keys, places)


def _merge(whole: Located, part: Located, report: Report) -> None:
    for key, value in part.values.items():
        if key in whole.values:
            first = whole.key(key)[0]
            report.add("WM108", f"key {key!r} is written twice, first in line {first}", part.key(key), help="keep one")
            return
        whole.values[key], whole.texts[key] = value, part.texts[key]
    whole.keys.update(part.keys)
    whole.places.update(part.places)


def _misplaced(blocks: Sequence[Block], lines: Sequence[str], read: set[int], report: Report) -> None:
    for item in _top_items(blocks):
        found = _BULLET.fullmatch(lines[item.line - 1])
        if item.line not in read and found and found[2] in STEP_KEYS:
            report.add(
                "WM212",
                f"the attribute {found[2]!r} stands below other text, where it would not be read",
                (item.line, found.start(2) + 1, found.end(2) + 1),
                help="move it right below the step's heading, or reword it if it is prose",
            )


def _top_items(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        if block.kind == "list":
            yield from block.children
