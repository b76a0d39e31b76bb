"""What `.gitignore` leaves out, decided from a tree instead of a working directory.

Neither git nor libgit2 can answer this for a commit that is checked out nowhere, and laying a tree out only to ask
costs more than the export. So the rules are here: the patterns of gitignore(5), translated to regular expressions,
layered by directory. The price is a second implementation; a test compares it with `git check-ignore` on generated
patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from workflowmaster.blocks.globs import MalformedGlobError, compile_glob

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable


MOST_LINES = 4000


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line of an ignore file."""

    regex: re.Pattern[bytes]
    negated: bool
    directories_only: bool
    anchored: bool
    """Matched against the path below the file's directory rather than against the last name."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The ignore patterns that apply in one directory, nearest layer first.

    `prefix` is that layer's directory: empty for the root, else ending in a slash.
    """

    patterns: tuple[Pattern, ...] = ()
    prefix: bytes = b""
    above: Rules | None = None
    everything: bool = False
    """Inside an ignored directory, where nothing can be taken back in."""

    def below(self, directory: bytes, content: bytes | None) -> Rules:
        """Return the rules inside `directory` (no slash at its end), whose own `.gitignore` reads `content`."""
        # A folder without rules of its own shares the object above: most have none.
        if not content or self.everything:
            return self
        prefix = directory + b"/" if directory else b""
        return Rules(parse_ignore(content), prefix, self)

    def ignores(self, path: bytes, *, directory: bool) -> bool:
        """Return whether a path of this directory is left out; asked top down, so parents were not left out."""
        if self.everything:
            return True
        # The nearest file speaks first, and whoever speaks is obeyed.
        layer: Rules | None = self
        while layer is not None:
            verdict = layer.verdict(path, directory=directory)
            if verdict is not None:
                return verdict
            layer = layer.above
        return False

    def verdict(self, path: bytes, *, directory: bool) -> bool | None:
        """Return what this layer alone says: left out, taken back in, or nothing."""
        # Patterns with a slash are relative to the folder their file lies in.
        inside = path[len(self.prefix) :]
        name = inside.rpartition(b"/")[2]
        # Within a file the last line wins.
        for pattern in reversed(self.patterns):
            if pattern.directories_only and not directory:
                continue
            if pattern.regex.fullmatch(inside if pattern.anchored else name):
                return not pattern.negated
        return None


EVERYTHING = Rules(everything=True)
"""The rules inside a directory that is itself left out."""


def rules_from(contents: Iterable[bytes]) -> Rules:
    """Return root rules of whole ignore files, weakest first (`core.excludesFile`, then `info/exclude`)."""
    rules = Rules()
    for content in contents:
        rules = rules.below(b"", content)
    return rules


@lru_cache(maxsize=512)
def parse_ignore(content: bytes) -> tuple[Pattern, ...]:
    """Return the patterns of an ignore file, in order. Malformed lines match nothing, as in git.

    Lines after the first `MOST_LINES` do not count: each costs time at every path, and a step writes the file.
    """
    # Editors on Windows leave a byte order mark and carriage returns; git forgives both.
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n", MOST_LINES)[:MOST_LINES]
    found = (_pattern(line.removesuffix(b"\r")) for line in lines)
    return tuple(p for p in found if p is not None)


def _pattern(line: bytes) -> Pattern | None:
    text = _strip_spaces(line)
    if not text or text.startswith(b"#"):
        return None
    negated = text.startswith(b"!")
    text = text[1:] if negated else text
    directories_only = text.endswith(b"/")
    text = text[:-1] if directories_only else text
    # The slash at the end is gone by now: only one at the start or in the middle ties a pattern to its folder.
    anchored = b"/" in text
    text = text.removeprefix(b"/")
    if not text:
        return None
    try:
        regex = compile_glob(text)
    except MalformedGlobError:
        return None
    return Pattern(regex, negated, directories_only, anchored)


def _strip_spaces(line: bytes) -> bytes:
    """Drop trailing blanks unless a backslash keeps them."""
    end = len(line)
    while end and line[end - 1 : end] == b" ":
        if _escaped(line, end - 1):
            break
        end -= 1
    return line[:end]


def _escaped(line: bytes, at: int) -> bool:
    backslashes = at - len(line[:at].rstrip(b"\\"))
    return backslashes % 2 == 1
