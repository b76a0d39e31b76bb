"""Text that was encoded as UTF-8 twice, mended where it is certain.

The bytes of one UTF-8 character, read as Windows-1252 and encoded again, make a run of two to four odd characters that
is valid UTF-8 once more when the way is gone back. Each such run is mended by itself instead of decoding the whole
file, because real files mix both kinds. The accepted cost: one lone pair (`Â°`) is left alone, as a person may mean it.
"""

from __future__ import annotations

import re

_UNDEFINED = frozenset((0x81, 0x8D, 0x8F, 0x90, 0x9D))


def _as_character(byte: int) -> str:
    # Windows-1252 leaves five bytes undefined; programs pass them through as control characters.
    return chr(byte) if byte in _UNDEFINED else bytes((byte,)).decode("cp1252")


_BYTE = {_as_character(byte): byte for byte in range(0x80, 0x100)}


def _characters(start: int, end: int) -> str:
    return "[" + re.escape("".join(_as_character(byte) for byte in range(start, end + 1))) + "]"


_NEXT = _characters(0x80, 0xBF)
_PAIR = _characters(0xC2, 0xDF) + _NEXT
_LONGER = f"{_characters(0xE0, 0xEF)}{_NEXT}{{2}}|{_characters(0xF0, 0xF4)}{_NEXT}{{3}}"
_RUN = re.compile(f"{_LONGER}|{_PAIR}")


def repair(text: str) -> tuple[str, int]:
    """Return the text with doubly encoded characters mended, and the line of the first one (0: none was)."""
    if text.isascii():
        return text, 0
    runs = [run for run in _RUN.finditer(text) if _mended(run[0]) != run[0]]
    if not runs or (len(runs) == 1 and len(runs[0][0]) == 2):
        return text, 0
    line = text.count("\n", 0, runs[0].start()) + 1
    return _RUN.sub(lambda run: _mended(run[0]), text), line


def _mended(run: str) -> str:
    try:
        return bytes(_BYTE[character] for character in run).decode("utf-8")
    except UnicodeDecodeError:
        return run
