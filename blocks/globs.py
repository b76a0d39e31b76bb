"""Git's globs as regular expressions that cannot be made slow.

A step writes the `.gitignore` that we then apply, and the plain translation of `*a*a*a*b` backtracks for hours on the
right name. A star need never give back what the text after it has matched once, as long as another star follows: what
it would give back, the next star can take. So each star with its text is an atomic group, and matching costs
about pattern times name. The price is that this file must be read beside wildmatch.c; a test compares the two.
"""

from __future__ import annotations

import os
import re

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
# The three marks can stand beside expressions, because an expression for a star is written with a backslash.
_STAR = b"*"
_FOLDERS = b"**/"
_REST = b"**"


class MalformedGlobError(ValueError):
    """The pattern is malformed; git lets such a pattern match nothing."""


def is_glob(text: str) -> bool:
    """Return whether a text is a glob that can match anything."""
    try:
        compile_glob(os.fsencode(text))
    except ValueError:  # malformed, or with half a character that no file's name can hold
        return False
    return True


def compile_glob(glob: bytes) -> re.Pattern[bytes]:
    """Return a pattern for `fullmatch`: `*` and `?` stop at slashes, `**` between slashes does not."""
    tokens = _tokens(glob)
    whole: list[bytes] = []
    while tokens:
        if tokens[0] == _REST:
            whole.append(b".*")
            tokens = tokens[1:]
            continue
        # One round a stretch between two `**`, with the `**/` that leads it.
        deep = tokens[0] == _FOLDERS
        start = int(deep)
        end = next((n for n in range(start, len(tokens)) if tokens[n] in (_FOLDERS, _REST)), len(tokens))
        last = end == len(tokens)
        names = _names(tokens[start:end], last=last)
        # Of several places a stretch could start at, the first leaves most to the next `**`; the last stretch has none.
        if deep:
            names = b"(?:.*/)?" + names if last else b"(?>(?:[^/]*/)*?" + names + b")"
        whole.append(names)
        tokens = tokens[end:]
    return re.compile(b"".join(whole), re.DOTALL)


def _names(tokens: list[bytes], *, last: bool) -> bytes:
    """Translate what stands between two `**`. Only the last star of all may take back what it took."""
    texts: list[list[bytes]] = [[]]
    for token in tokens:
        if token == _STAR:
            texts.append([])
        else:
            texts[-1].append(token)
    first, *rest = (b"".join(t) for t in texts)
    out = [first]
    for n, text in enumerate(rest, 1):
        free = last and n == len(rest)
        out.append(b"[^/]*" + text if free else b"(?>[^/]*?" + text + b")")
    return b"".join(out)


def _tokens(glob: bytes) -> list[bytes]:
    """Return the glob as single-character expressions and the three marks for stars."""
    out: list[bytes] = []
    at = 0
    while at < len(glob):
        token, at = _stars(glob, at) or _one(glob, at)
        out.append(token)
    return out


def _stars(glob: bytes, at: int) -> tuple[bytes, int] | None:
    """Read a run of stars, with the slashes that give `**` its meaning."""
    run = len(glob) - at - len(glob[at:].lstrip(b"*"))
    if not run:
        return None
    end = at + run
    # git compares the literal start of a pattern first, so stars right behind it count as leading ones.
    literal = _LITERAL.match(glob)
    leading = literal is not None and at == literal.end()
    alone = run >= 2 and (leading or glob[at - 1 : at] == b"/")
    if alone and end == len(glob):
        return _REST, end
    if alone and glob[end : end + 1] == b"/":
        return _FOLDERS, end + 1
    return _STAR, end


def _one(glob: bytes, at: int) -> tuple[bytes, int]:
    # A glob stops at a slash wherever it does not name one.
    char = glob[at : at + 1]
    if char == b"?":
        return b"[^/]", at + 1
    if char == b"[":
        return _bracket(glob, at + 1)
    if char == b"\\":
        # Nothing follows the backslash: git lets the whole pattern match nothing.
        if at + 1 == len(glob):
            raise MalformedGlobError(glob)
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
            raise MalformedGlobError(glob)
        member, at = _member(glob, at)
        members.append(member)
    return b"(?!/)[%s%s]" % (b"^" if negated else b"", b"".join(members)), at + 1


def _member(glob: bytes, at: int) -> tuple[bytes, int]:
    if glob.startswith(b"[:", at):
        end = glob.find(b"]", at + 2)
        if end > 0 and glob[end - 1 : end] == b":" and end - 1 > at + 1:
            name = glob[at + 2 : end - 1]
            # git calls the whole pattern malformed, not only the class.
            if name not in _CLASSES:
                raise MalformedGlobError(glob)
            return _CLASSES[name], end + 1
    low, at = _literal(glob, at)
    # A dash at either end is a dash.
    if glob[at : at + 1] != b"-" or glob[at + 1 : at + 2] in (b"]", b""):
        return _hex(low), at
    high, at = _literal(glob, at + 1)
    # A range that runs backwards still holds its first character: wildmatch has taken it before it sees the dash.
    return (_hex(low) + b"-" + _hex(high) if low <= high else _hex(low)), at


def _literal(glob: bytes, at: int) -> tuple[int, int]:
    if glob[at : at + 1] == b"\\":
        at += 1
    if at >= len(glob):
        raise MalformedGlobError(glob)
    return glob[at], at + 1


def _hex(byte: int) -> bytes:
    return b"\\x%02x" % byte
