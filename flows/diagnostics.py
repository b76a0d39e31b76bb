"""What is wrong with a prompt, said so that it can be mended: where, what, and what to do.

A diagnostic is a value, not an exception: one run of `check` must show every mistake of a file, and an exception ends
at the first. Only a file that cannot be read as a prompt at all raises (`PromptError`), because then there is nothing
to go on with. The accepted cost: everything that finds a mistake carries a `Report` and goes on with a harmless value.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Literal

from workflowmaster.flows.plan import Noun

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["error", "warning", "note"]

MAX_EXCERPT = 160
"""Characters of a line that are shown; of a longer one, those around the caret."""

_WIDE = frozenset("WF")
_INVISIBLE = frozenset(("Cc", "Cf", "Zl", "Zp"))


class Diagnostic(Noun):
    """One finding about one place of a prompt file."""

    code: str
    """Stable: `WM1xx` reading, `WM2xx` structure, `WM3xx` values, `WM4xx` policy, `WM5xx` prose."""
    severity: Severity
    file: str
    """Path as it was given."""
    line: int
    """Counts from 1."""
    column: int
    """Of the first character that is meant; counts from 1, in characters."""
    end_column: int
    """One past the last character that is meant."""
    message: str
    help: str = ""
    """What to do; begins with `did you mean …?` where there is a likely word."""

    def public(self) -> dict[str, str | int]:
        """Return the JSON form that `check --json` prints."""
        return self.model_dump(exclude={"end_column"})


class PromptError(ValueError):
    """A file that cannot be read as a prompt; `diagnostics` says why, `str()` is the first one's text."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(render(one, None) for one in diagnostics))


class Report:
    """The findings about one file while it is read and compiled."""

    def __init__(self, file: str) -> None:
        self.file = file
        # A dict keeps the order of discovery and drops the same finding made twice, once for each matrix instance.
        self._found: dict[Diagnostic, None] = {}

    def add(self, code: str, message: str, at: Place, *, severity: Severity = "error", help: str = "") -> None:  # noqa: A002 - the word of the JSON contract
        """Note one finding; the same one twice counts once."""
        # An empty value has no width, but a caret must point at something.
        line, column, end = at
        found = Diagnostic(
            code=code,
            severity=severity,
            file=self.file,
            line=line,
            column=column,
            end_column=max(end, column + 1),
            message=message,
            help=help,
        )
        self._found.setdefault(found)

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Note findings made elsewhere."""
        self._found.update(dict.fromkeys(diagnostics))

    @property
    def failed(self) -> bool:
        """Whether any of them is an error."""
        return any(found.severity == "error" for found in self._found)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All findings by line and column; findings at one place keep the order they were made in."""
        return tuple(sorted(self._found, key=lambda found: (found.line, found.column)))


Place = tuple[int, int, int]
"""Line, column of the first character and of the one past the last; all count from 1."""


def render(diagnostic: Diagnostic, text: str | None) -> str:
    """Return the finding as people read it: the line with a caret below when `text`, the whole file, is given."""
    # The shape editors' problem matchers know from compilers: `--> file:line:column`.
    spot = f"{diagnostic.file}:{diagnostic.line}:{diagnostic.column}"
    hint, advice = _split_help(diagnostic.help)
    said = [f"{diagnostic.severity} {diagnostic.code}: {diagnostic.message}", f"  --> {spot}"]
    lines = text.split("\n") if text is not None else []
    if 0 < diagnostic.line <= len(lines):
        said += _excerpt(diagnostic, lines[diagnostic.line - 1], hint)
    elif hint:
        said.append(f"   = help: {hint}")
    if advice:
        said.append(f"   = help: {advice}")
    return "\n".join(said)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the closest other word, or nothing where none is close."""
    close = closest(word, known)
    return f"did you mean {close!r}?" if close and close != word else ""


def closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known word that is most like `word`, or nothing where none is."""
    import difflib

    # Case and `_` against `-` are the commonest slips, and no slip at all to a reader.
    choices = list(known)
    folded = {choice.lower().replace("_", "-"): choice for choice in reversed(choices)}
    found = difflib.get_close_matches(word.lower().replace("_", "-"), folded, n=1, cutoff=cutoff)
    return folded[found[0]] if found else ""


def _split_help(text: str) -> tuple[str, str]:
    if not text.startswith("did you mean"):
        return "", text
    # The likely word stands beside the caret, where the eye is; the rest goes below.
    hint, mark, advice = text.partition("?")
    return hint + mark, advice.lstrip(" ;")


def _excerpt(diagnostic: Diagnostic, line: str, hint: str) -> list[str]:
    start, end = diagnostic.column - 1, diagnostic.end_column - 1
    if len(line) > MAX_EXCERPT:
        cut = max(0, min(start - MAX_EXCERPT // 3, len(line) - MAX_EXCERPT))
        line, start, end = line[cut : cut + MAX_EXCERPT], start - cut, min(end - cut, MAX_EXCERPT)
    shown = "".join(_visible(character) for character in line)
    before = sum(_width(character) for character in line[:start])
    marked = sum(_width(character) for character in line[start:end])
    gutter = " " * max(2, len(str(diagnostic.line)))
    number = str(diagnostic.line).rjust(len(gutter))
    caret = " " * (before + max(0, start - len(line))) + "^" * max(1, marked)
    return [f"{gutter} |", f"{number} | {shown}".rstrip(), f"{gutter} | {caret} {hint}".rstrip()]


def _visible(character: str) -> str:
    # A prompt may come from anywhere: no control or direction mark of it may reach the terminal.
    if character == "\t":
        return " "
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) in _INVISIBLE else character


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1
