"""What `.gitignore` leaves out, decided from a tree instead of a working directory.

Neither git nor libgit2 can answer this for a commit that is checked out nowhere, and laying a tree out only to ask
costs more than the export. So the rules are here: the patterns of gitignore(5), translated to regular expressions,
layered by directory. The price is a second implementation; a test compares it with `git check-ignore` on generated
patterns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CLASSES = {
    b"alnum": b"a-zA-Z0-9",
    b"alpha": b"a-zA-Z",
    b"blank": b" \\t",
    b"cntrl": b"\\x00-\\x1f\\x7f",
    b"digit": b"0-9",
    b"graph": b"\\x21-\\x7e",
    b"lower": b"a-z",
    b"print": b"\\x20-\\x7e",
    b"punct": b"!-/:-@\\[-`{-~",
    b"space": b" \\t\\n\\r\\f\\v",
    b"upper": b"A-Z",
    b"xdigit": b"0-9a-fA-F",
}


_LITERAL = re.compile(rb"[^*?\[\\]*", re.DOTALL)


class _NoMatchError(ValueError):
    """The pattern is malformed; git lets such a pattern match nothing."""


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
        if not content or self.everything:
            return self
        prefix = directory + b"/" if directory else b""
        return Rules(parse_ignore(content), prefix, self)

    def ignores(self, path: bytes, *, directory: bool) -> bool:
        """Return whether a path of this directory is left out; asked top down, so parents were not left out."""
        if self.everything:
            return True
        layer: Rules | None = self
        while layer is not None:
            verdict = layer.verdict(path, directory=directory)
            if verdict is not None:
                return verdict
            layer = layer.above
        return False

    def verdict(self, path: bytes, *, directory: bool) -> bool | None:
        """Return what this layer alone says: left out, taken back in, or nothing."""
        inside = path[len(self.prefix) :]
        name = inside.rpartition(b"/")[2]
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
    """Return the patterns of an ignore file, in order. Malformed lines match nothing, as in git."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
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
    anchored = b"/" in text
    text = text.removeprefix(b"/")
    if not text:
        return None
    try:
        regex = re.compile(_translate(text), re.DOTALL)
    except _NoMatchError:
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


def _translate(glob: bytes) -> bytes:
    """Return the regular expression of a glob: `*` and `?` stop at slashes, `**` between slashes does not."""
    out: list[bytes] = []
    at = 0
    while at < len(glob):
        step = _stars(glob, at) or _one(glob, at)
        out.append(step[0])
        at = step[1]
    return b"".join(out)


def _stars(glob: bytes, at: int) -> tuple[bytes, int] | None:
    """Translate a run of stars, with the slashes that give `**` its meaning."""
    run = len(glob) - at - len(glob[at:].lstrip(b"*"))
    if not run:
        return None
    end = at + run
    # git compares the literal start of a pattern first, so stars right behind it count as leading ones.
    leading = at == len(_LITERAL.match(glob)[0])  # type: ignore[index]
    alone = run >= 2 and (leading or glob[at - 1 : at] == b"/")
    if alone and end == len(glob):
        return b".*", end
    if alone and glob[end : end + 1] == b"/":
        return b"(?:.*/)?", end + 1
    return b"[^/]*", end


def _one(glob: bytes, at: int) -> tuple[bytes, int]:
    char = glob[at : at + 1]
    if char == b"?":
        return b"[^/]", at + 1
    if char == b"[":
        return _bracket(glob, at + 1)
    if char == b"\\":
        if at + 1 == len(glob):
            raise _NoMatchError(glob)
        return re.escape(glob[at + 1 : at + 2]), at + 2
    return re.escape(char), at + 1


def _bracket(glob: bytes, at: int) -> tuple[bytes, int]:
    """Translate what follows `[`. A `]` right after the bracket, or after its `!`, is a member."""
    negated = glob[at : at + 1] in (b"!", b"^")
    at += negated
    members: list[bytes] = []
    first = True
    while first or glob[at : at + 1] != b"]":
        first = False
        if at >= len(glob):
            raise _NoMatchError(glob)
        member, at = _member(glob, at)
        members.append(member)
    inside = b"".join(members)
    if not inside:
        return (b"[^/]" if negated else b"(?!)"), at + 1
    return (b"(?!/)[%s%s]" % (b"^" if negated else b"", inside)), at + 1


def _member(glob: bytes, at: int) -> tuple[bytes, int]:
    if glob.startswith(b"[:", at):
        end = glob.find(b"]", at + 2)
        if end > 0 and glob[end - 1 : end] == b":" and end - 1 > at + 1:
            name = glob[at + 2 : end - 1]
            if name not in _CLASSES:
                raise _NoMatchError(glob)
            return _CLASSES[name], end + 1
    low, at = _literal(glob, at)
    if glob[at : at + 1] != b"-" or glob[at + 1 : at + 2] in (b"]", b""):
        return _hex(low), at
    high, at = _literal(glob, at + 1)
    return (_hex(low) + b"-" + _hex(high) if low <= high else b""), at


def _literal(glob: bytes, at: int) -> tuple[int, int]:
    if glob[at : at + 1] == b"\\":
        at += 1
    if at >= len(glob):
        raise _NoMatchError(glob)
    return glob[at], at + 1


def _hex(byte: int) -> bytes:
    return b"\\x%02x" % byte
