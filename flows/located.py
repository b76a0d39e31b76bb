"""YAML as plain values that remember where each was written and how it was spelt.

Built from the parser's events instead of `yaml.safe_load`, for four reasons: a mistake must be shown at its line and
column; the same key twice must be an error, not the last one's silent victory; `on:` must not become `True`, nor `3.10`
become `3.1` (YAML 1.1); and a hostile prompt must not explode by aliases or overflow a stack by nesting. The accepted
cost: anchors, aliases, merge keys and tags are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yaml import Event

    from workflowmaster.flows.diagnostics import Place, Report

MAX_DEPTH = 12
"""Deepest nesting of lists and mappings; a prompt's own keys need five."""

_INT = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_WORDS: Mapping[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Located:
    """A mapping read from YAML: `values` typed, `texts` with every scalar as it was spelt, and where it all stands."""

    values: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)

    def at(self, *path: str | int) -> Place:
        """Return the place of a value, or of the nearest thing around it that has one."""
        for end in range(len(path), 0, -1):
            if found := self.places.get(path[:end]) or self.keys.get(path[:end]):
                return found
        return (1, 1, 2)

    def key(self, *path: str | int) -> Place:
        """Return the place of a key."""
        return self.keys.get(path) or self.at(*path)


def scalar(text: str) -> str | float | bool | None:
    """Return what an unquoted word stands for: null, true or false, a number, or else the word (YAML 1.2's core)."""
    # YAML 1.2's core schema: `yes`, `on`, dates and `1:30` are words, as their writers mean them.
    if text in _WORDS:
        return _WORDS[text]  # type: ignore[return-value]
    if _INT.fullmatch(text):
        # A number of thousands of digits is a mistake, and Python refuses to read it.
        return int(text, 0 if text[:2] in ("0x", "0o") else 10) if len(text) < 40 else text
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def read_mapping(text: str, *, line: int, report: Report) -> Located | None:
    """Read a YAML mapping whose first line is `line` of the file; None, with the reason reported, where it is none."""
    import yaml

    builder = _Builder(line, report)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            if not builder.take(event):
                return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        row, column = (mark.line, mark.column) if mark else (0, 0)
        report.add("WM106", f"this is no YAML: {error.problem or error}", (line + row, column + 1, column + 2))
        return None
    except yaml.YAMLError as error:
        report.add("WM106", f"this is no YAML: {' '.join(str(error).split())}", (line, 1, 2))
        return None
    return builder.result()


class _Builder:
    """Folds events into values with a stack of its own, so that depth is ours to bound."""

    def __init__(self, line: int, report: Report) -> None:
        self._line = line
        self._report = report
        self._located = Located()
        self._open: list[tuple[Any, Any]] = []
        self._path: list[str | int] = []
        self._root: tuple[Any, Any] = (None, None)
        self._takers: dict[str, Callable[[Any], bool]] = {
            "ScalarEvent": self._scalar,
            "MappingStartEvent": self._start,
            "SequenceStartEvent": self._start,
            "MappingEndEvent": self._end,
            "SequenceEndEvent": self._end,
            "AliasEvent": self._unsupported,
        }

    def take(self, event: Event) -> bool:
        """Fold one event in; False when the text cannot be used, with the reason reported."""
        taker = self._takers.get(type(event).__name__)
        return taker(event) if taker else True

    def result(self) -> Located | None:
        """Return the whole, or None where it is no mapping."""
        typed, texts = self._root
        if typed is None:
            return Located()
        if not isinstance(typed, dict):
            place = self._located.places.get((), (self._line, 1, 2))
            self._report.add("WM109", "this must be a mapping: lines of `key: value`", place)
            return None
        return Located(typed, texts, self._located.keys, self._located.places)

    def _place(self, event: Any) -> Place:
        start, end = event.start_mark, event.end_mark
        # A value over several lines is pointed at by its beginning.
        last = end.column if end.line == start.line else start.column + 1
        return (self._line + start.line, start.column + 1, max(last, start.column + 1) + 1)

    def _refuse(self, event: Any, message: str, advice: str) -> bool:
        self._report.add("WM114", message, self._place(event), help=advice)
        return False

    def _unsupported(self, event: Any) -> bool:
        return self._refuse(event, "anchors, aliases and tags are not read here", "write the value out")

    def _start(self, event: Any) -> bool:
        if event.anchor or event.tag:
            return self._unsupported(event)
        if len(self._open) >= MAX_DEPTH:
            return self._refuse(event, f"nested more than {MAX_DEPTH} deep", "no key of a prompt is that deep")
        both: tuple[Any, Any] = ({}, {}) if type(event).__name__ == "MappingStartEvent" else ([], [])
        if not self._put(event, both):
            return False
        self._open.append(both)
        return True

    def _end(self, _event: Any) -> bool:
        self._open.pop()
        self._close()
        return True

    def _scalar(self, event: Any) -> bool:
        if event.anchor or event.tag:
            return self._unsupported(event)
        # The C parser gives an empty plain scalar the style '', the Python one None.
        typed = event.value if event.style else scalar(event.value)
        if self._wants_key():
            return self._key(event, event.value)
        if not self._put(event, (typed, None if typed is None else event.value)):
            return False
        self._close()
        return True

    def _wants_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1][0], dict) and len(self._path) < len(self._open)

    def _key(self, event: Any, name: str) -> bool:
        if name in self._open[-1][0]:
            first = self._located.keys[(*self._path, name)][0]
            place = self._place(event)
            # The last one would silently win, and the first is the one the reader sees.
            self._report.add("WM108", f"key {name!r} is written twice, first in line {first}", place, help="keep one")
            return False
        self._path.append(name)
        self._located.keys[tuple(self._path)] = self._place(event)
        return True

    def _put(self, event: Any, both: tuple[Any, Any]) -> bool:
        if not self._open:
            self._root = both
        elif isinstance(self._open[-1][0], list):
            self._path.append(len(self._open[-1][0]))
            self._open[-1][0].append(both[0])
            self._open[-1][1].append(both[1])
        elif self._wants_key():
            return self._refuse(event, "a list or mapping cannot be a key", "write a word before the colon")
        else:
            self._open[-1][0][self._path[-1]], self._open[-1][1][self._path[-1]] = both
        self._located.places[tuple(self._path)] = self._place(event)
        return True

    def _close(self) -> None:
        # A finished value frees its own key or index; the root has none.
        if self._path:
            self._path.pop()
