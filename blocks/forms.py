"""The forms in which a secret may turn up in what a step prints or writes.

A value is hardly ever printed as it is: a shell quotes it, a URL escapes it, JSON escapes it, base64 hides it behind
three alignments. Each form is a plain byte string, because then one automaton finds all of them in a single pass. The
accepted cost is that only what is listed here is found: whoever reverses, encrypts, compresses or spells a value letter
by letter gets it past us, and docs/secrets.md says so.
"""

from __future__ import annotations

import base64
import html
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST = 6
"""Bytes that a value, or a line of it, must have to be looked for. Shorter ones, and pieces of their base64, turn up by
chance (four letters of base64: once in 16 MB of random bytes), and a step would fail for a secret it never wrote."""

SOLID = 4
"""Bytes of a form that stand on one line before a line break may stand in it. With fewer, the end of every line that
happens to end as a secret begins would have to wait for the next."""

_BREAKS = re.compile(rb"[\r\n]+")
# What frames a key in PEM is the same for everybody; a test's own key must not look like the operator's.
_ARMOUR = re.compile(rb"-----(BEGIN|END) [A-Z0-9 ]+-----")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_ESCAPED_BYTE = re.compile(r"%[0-9A-F]{2}")
# What `printf %q` and most shells leave alone.
_SHELL_SPECIAL = re.compile(rb"[^A-Za-z0-9_@%+=:,./-]")
_ANSI_C = {0x07: b"\\a", 0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0B: b"\\v", 0x0C: b"\\f", 0x0D: b"\\r"}
_ANSI_C |= {0x1B: b"\\E", 0x27: b"\\'", 0x5C: b"\\\\"}


def lines_of(value: bytes) -> list[bytes]:
    """Return the parts of a value that are secret by themselves: its lines, without the shortest and PEM's frame."""
    parts = [part.strip() for part in _BREAKS.split(value)]
    return [part for part in parts if len(part) >= LEAST and not _ARMOUR.fullmatch(part)]


def forms(value: bytes) -> frozenset[bytes]:
    """Return every byte string that gives the value away, or a line of it; empty if it is too short for that."""
    lines = lines_of(value)
    if not lines:
        return frozenset()
    # Without the line break at its end, which a shell's `$(…)` takes away, and which is no secret.
    whole = value.strip(b"\r\n")
    found = {form for text in {whole, *lines} for form in _spelled(text)}
    # Where lines are cut by their length, a cut may come after the first letters; they are lost, the rest is not.
    found |= {form[lost:] for form in (*_base64(whole), *_hex(whole)) for lost in range(1, SOLID)}
    return frozenset(form for form in found if len(form.translate(None, b"\r\n")) >= LEAST)


def _spelled(text: bytes) -> Iterator[bytes]:
    yield text
    yield from _base64(text)
    yield from _hex(text)
    yield from _quoted_for_a_url(text)
    yield from _quoted_for_a_shell(text)
    yield repr(text)[2:-1].encode()
    try:
        yield from _quoted_as_text(text.decode())
    except UnicodeDecodeError:
        return  # JSON, HTML and Python's text cannot carry it


def _base64(text: bytes) -> Iterator[bytes]:
    """Yield the letters that depend on the text alone, for what may stand before it and after it.

    A letter is six bits, so the text begins within a letter at two of three positions; where it also ends the encoded
    data, its last letter and the padding are its own too.
    """
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + text)
        first = -(-8 * before // 6)
        inner = 8 * (before + len(text)) // 6
        for form in (encoded[first:inner], encoded[first:].rstrip(b"="), encoded[first:]):
            yield form
            yield form.translate(_URL_SAFE)


def _hex(text: bytes) -> Iterator[bytes]:
    yield text.hex().encode()
    yield text.hex().upper().encode()


def _quoted_for_a_url(text: bytes) -> Iterator[bytes]:
    # The last are what JavaScript's encodeURIComponent and encodeURI leave alone.
    spellings = [quote_plus(text), *(quote(text, safe=safe) for safe in ("", "/", "!'()*", "!'()*;,/?:@&=+$#"))]
    for spelling in spellings:
        yield spelling.encode()
        yield _ESCAPED_BYTE.sub(lambda found: found[0].lower(), spelling).encode()


def _quoted_for_a_shell(text: bytes) -> Iterator[bytes]:
    """Yield what stands between a shell's quotes, in the ways of dash, bash, `set -x`, `printf %q` and Python."""
    yield text.replace(b"'", b"'\\''")
    yield text.replace(b"'", b"'\"'\"'")
    yield _SHELL_SPECIAL.sub(lambda found: b"\\" + found[0], text)
    yield b"".join(_ANSI_C.get(byte) or (b"%c" % byte if 32 <= byte < 127 else b"\\%03o" % byte) for byte in text)
    yield b"".join(_ANSI_C.get(byte) or b"%c" % byte for byte in text)


def _quoted_as_text(text: str) -> Iterator[bytes]:
    for plain in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
        yield plain.encode()
        yield plain.replace("/", "\\/").encode()
    yield repr(text)[1:-1].encode()
    yield html.escape(text).encode()
    yield html.escape(text, quote=False).encode()
