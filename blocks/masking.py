"""Takes secrets out of streams and texts, and finds them in files.

One automaton holds all forms of all secrets of a run (`forms`), so the time is that of one pass however many there are:
a library's, in Rust, because a pure one is ten times slower than a step can print. Line breaks are overlooked: `base64`
wraps its output at 76 letters, and half of a token on each of two lines is still the token.

In a stream only what could still become a secret is held back, so a line is passed on when it comes. The hard choice:
what was held when a stream ends is masked too, from six bytes on, although it may be innocent: whether the output was
cut in the middle of a secret, by its cap or by a kill, cannot be told from the bytes.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from workflowmaster.blocks.forms import LEAST, SOLID, forms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BREAKS = b"\r\n"
_BREAK = re.compile(rb"[\r\n]")

Span = tuple[int, int]


class Masker:
    """The forms of some secrets, made ready to be found. Immutable, for any number of threads and streams."""

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        """`secrets` are name → value. ValueError, without the value, for one that is too short to be looked for."""
        from ahocorasick_rs import BytesAhoCorasick

        owners: dict[bytes, str] = {}
        for name, value in secrets.items():
            found = forms(value)
            if not found:
                raise ValueError(f"secret {name} has no line of at least {LEAST} bytes, so it cannot be masked safely")
            for form in found:
                owners.setdefault(form.translate(None, _BREAKS), name)
        self.longest = max(map(len, owners), default=0)
        self.mark = _mark(owners)
        self._patterns = sorted(owners)
        self._owners = [owners[pattern] for pattern in self._patterns]
        self._all = BytesAhoCorasick(self._patterns)
        self._heads = BytesAhoCorasick(sorted({p[:SOLID] for p in self._patterns if len(p) > SOLID}))
        self._beginnings = frozenset(p[:n] for p in self._patterns for n in range(1, min(SOLID, len(p))))

    def __repr__(self) -> str:
        return f"Masker({len(self._patterns)} forms)"

    def mask(self, data: bytes) -> bytes:
        """Return the data with every form of a secret replaced by a mark."""
        return _covered(data, [span for span, _ in self.spans(data)], self.mark, 0)

    def text(self, text: str) -> str:
        """Mask a text: a message, a reason, a finding."""
        data = text.encode(errors="surrogateescape")
        masked = self.mask(data)
        return text if masked == data else masked.decode(errors="replace")

    def found(self, data: bytes) -> frozenset[str]:
        """Return the names of the secrets that have a form in the data."""
        return frozenset(name for _, name in self.spans(data))

    def stream(self) -> Masking:
        """Begin a stream."""
        return Masking(self)

    def spans(self, data: bytes, joined: bytes | None = None) -> list[tuple[Span, str]]:
        """Return where forms stand, overlapping ones too, with the names of their secrets.

        `joined` is the data without line breaks, where somebody has it already.
        """
        joined = data.translate(None, _BREAKS) if joined is None else joined
        hits = self._all.find_matches_as_indexes(joined, overlapping=True)
        if not hits:
            return []
        where = _Places(data, len(joined))
        return [
            ((where[first], where[last - 1] + 1), self._owners[index])
            for index, first, last in hits
            if where.solid(first, last)
        ]

    def open_end(self, data: bytes, joined: bytes) -> int:
        """Return where the first beginning of a form stands that the data ends in; its length if there is none."""
        begin = max(0, len(joined) - self.longest + 1)
        tail = joined[begin:]
        starts = [first for _, first, _ in self._heads.find_matches_as_indexes(tail, overlapping=True)]
        if starts:
            where = _Places(data, len(joined))
            for first in starts:
                if where.solid(begin + first, begin + first + SOLID) and self._goes_on(tail[first:]):
                    return where[begin + first]
        # Shorter beginnings may not have a line break in them, nor behind them.
        for size in range(min(SOLID - 1, len(data)), 0, -1):
            if data[-size:] in self._beginnings:
                return len(data) - size
        return len(data)

    def _goes_on(self, beginning: bytes) -> bool:
        """Return whether a form begins so and is longer. All such forms stand together in the sorted list."""
        at = bisect_right(self._patterns, beginning)
        return at < len(self._patterns) and self._patterns[at].startswith(beginning)


class Masking:
    """One stream on its way through a masker: any chunking gives the same bytes."""

    def __init__(self, masker: Masker) -> None:
        self.names: set[str] = set()
        """Secrets that were found so far."""
        self._masker = masker
        self._held = b""
        self._covered = 0
        """Bytes at the beginning of what is held for which the mark has been passed on already."""

    def feed(self, chunk: bytes) -> bytes:
        """Take a piece and return what is certain by now, masked."""
        data = self._held + chunk
        joined = data.translate(None, _BREAKS)
        end = self._masker.open_end(data, joined)
        found = [(span, name) for span, name in self._masker.spans(data, joined) if span[0] < end]
        self.names.update(name for _, name in found)
        spans, covered = [span for span, _ in found], self._covered
        self._covered = max(0, max([covered, *(last for _, last in spans)]) - end)
        self._held = data[end:]
        return _covered(data[:end], spans, self._masker.mark, covered)

    def rest(self) -> bytes:
        """Return what was held, once nothing more will come; from `LEAST` bytes on it is masked."""
        held, covered = self._held, self._covered
        self._held, self._covered = b"", 0
        self.names |= self._masker.found(held)
        body = held.rstrip(_BREAKS)
        if len(body) < LEAST:
            return held[covered:]
        return (b"" if covered else self._masker.mark) + held[len(body) :]


class _Places:
    """From a byte's place without line breaks to its place with them."""

    def __init__(self, data: bytes, joined: int) -> None:
        # The n-th break comes before all joined bytes from its place minus n on.
        breaks = [found.start() for found in _BREAK.finditer(data)] if joined < len(data) else []
        self._shifts = [place - n for n, place in enumerate(breaks)]

    def __getitem__(self, at: int) -> int:
        return at + bisect_right(self._shifts, at)

    def solid(self, first: int, last: int) -> bool:
        """Return whether no break stands among the first `SOLID` bytes of a stretch."""
        end = min(first + SOLID, last) - 1
        return not self._shifts or bisect_left(self._shifts, first + 1) == bisect_right(self._shifts, end)


def _covered(data: bytes, spans: Sequence[Span], mark: bytes, covered: int) -> bytes:
    """Return the data with each stretch of overlapping spans replaced by one mark; up to `covered` it is already."""
    if not spans and not covered:
        return data
    output: list[bytes] = []
    at = covered
    for first, last in sorted(spans):
        if first >= at:
            output += (data[at:first], mark)
        at = max(at, last)
    output.append(data[at:])
    return b"".join(output)


def _mark(patterns: Mapping[bytes, str]) -> bytes:
    """Return what stands for a secret: three of a character that no form has, so that it can be no part of one."""
    used = set(b"".join(patterns))
    return bytes([next((byte for byte in b"*#~^|%_-+=.:,;!" if byte not in used), ord("*"))]) * 3
