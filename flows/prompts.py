"""A prompt file as a value: bytes in, text, front matter and outline out.

Reading is kept apart from compiling, because what can go wrong differs: here a file may be no text at all, and then
nothing further can be said about it. Everything else, odd bytes at the start, foreign line ends, text that was encoded
twice, is mended and said. The accepted cost: the compiler never sees the file as it is on disk, so `sha256` is taken
from the bytes before anything is mended.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.flows import outline
from workflowmaster.flows.diagnostics import Diagnostic, Place, PromptError, Report
from workflowmaster.flows.located import Located, read_mapping
from workflowmaster.flows.mojibake import repair

if TYPE_CHECKING:
    from pathlib import Path

    from workflowmaster.flows.outline import Block, Section

MAX_BYTES = 4 * 1024 * 1024
"""Largest prompt; a hundred times the largest seen."""

# Tab, line ends and escape are let through: escape is shown as a replacement sign, and logs are pasted with it.
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_FENCE = re.compile(r"---[ \t]*")
_FENCE_END = re.compile(r"(---|\.\.\.)[ \t]*")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file, read."""

    path: str
    """As it was given."""
    sha256: str
    """Of the bytes on disk (hex)."""
    text: str
    """Decoded and mended; lines end in `\\n`."""
    lines: tuple[str, ...]
    front: Located
    """Front matter, empty where there is none."""
    body_line: int
    """First line below the front matter."""
    blocks: tuple[Block, ...]
    root: Section
    """The tree of headings; its own blocks are those before the first one."""
    diagnostics: tuple[Diagnostic, ...] = ()
    """What was found while reading; compiling passes them on."""

    def place(self, line: int, words: str = "") -> Place:
        """Return where `words` stand in a line, or the line's own text where they do not."""
        text = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        start = text.find(words) if words else -1
        if start >= 0:
            return (line, start + 1, start + 1 + len(words))
        stripped = text.strip()
        return (line, text.find(stripped) + 1, text.find(stripped) + 1 + max(1, len(stripped)))


def read(path: Path) -> Prompt:
    """Read a prompt file.

    PromptError: there is no such file, it is a directory or cannot be opened, it is larger than 4 MiB, it is not text,
    it is empty, or its front matter cannot be read.
    """
    shown = str(path)
    try:
        with path.open("rb") as file:
            # One byte more than allowed tells a large file from one of just that size, without reading all of it.
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        advice = "check the path; it is relative to the folder you are in"
        raise _refusal(shown, "WM101", "there is no such file", advice) from None
    except IsADirectoryError:
        advice = "name the prompt files in it, such as prompts/*.md"
        raise _refusal(shown, "WM102", "this is a directory", advice) from None
    except OSError as error:
        message = f"the file cannot be opened: {error.strerror or error}"
        raise _refusal(shown, "WM102", message, "check the path and its permissions") from error
    return parse(data, shown)


def parse(data: bytes, path: str) -> Prompt:
    """Read a prompt from its bytes; `path` is only for messages. PromptError as `read`."""
    report = Report(path)
    if len(data) > MAX_BYTES:
        raise _refusal(path, "WM112", f"the file is larger than {MAX_BYTES // 1024**2} MiB", "a prompt is a short text")
    text = _decode(data, path)
    if not text.strip():
        raise _refusal(
            path, "WM104", "the file is empty", "write what is to be done, or `## Steps` with `### name` each"
        )
    # Mended before anything is parsed: a doubled non-breaking space would split headings and bullets.
    text, first_mended = repair(text)
    lines = tuple(text.split("\n"))
    if first_mended:
        report.add(
            "WM105",
            "text that was encoded twice (such as `â€™` for an apostrophe) was mended",
            (first_mended, 1, len(lines[first_mended - 1]) + 1),
            severity="warning",
            help="save the file as UTF-8 so that everybody reads the same",
        )
    front, body_line = _front_matter(lines, report)
    # Front matter that cannot be read may hold the policy, so nothing below it is worth compiling.
    if report.failed:
        raise PromptError(*report.diagnostics)
    # Blank lines stand for the front matter, so that the parser's line numbers are the file's.
    body = "\n" * (body_line - 1) + "\n".join(lines[body_line - 1 :])
    if not body.strip():
        raise _refusal(path, "WM104", "there is nothing below the front matter", "write what is to be done")
    blocks = outline.parse(body)
    _unclosed(blocks, report)
    return Prompt(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        text=text,
        lines=lines,
        front=front,
        body_line=body_line,
        blocks=blocks,
        root=outline.sections(blocks, len(lines)),
        diagnostics=report.diagnostics,
    )


def _refusal(path: str, code: str, message: str, advice: str, line: int = 1) -> PromptError:
    report = Report(path)
    report.add(code, message, (line, 1, 2), help=advice)
    return PromptError(*report.diagnostics)


def _decode(data: bytes, path: str) -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"this is not {encoding.upper()} text: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise _refusal(path, "WM103", message, "save the file as UTF-8", line) from error
    if found := _CONTROLS.search(text):
        line = text.count("\n", 0, found.start()) + 1
        message = f"this is a binary file: control character 0x{ord(found[0]):02x}"
        raise _refusal(path, "WM103", message, "a prompt is a Markdown text", line)
    # CommonMark counts all three line ends; our own line numbers must agree with it.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _front_matter(lines: tuple[str, ...], report: Report) -> tuple[Located, int]:
    """Return the front matter and the first line below it."""
    if not _FENCE.fullmatch(lines[0]):
        return Located(), 1
    end = next((index for index, line in enumerate(lines[1:], 1) if _FENCE_END.fullmatch(line)), 0)
    if not end:
        return _no_front_matter(lines, report), 1
    found = read_mapping("\n".join(lines[1:end]), line=2, report=report)
    return found or Located(), end + 2


def _no_front_matter(lines: tuple[str, ...], report: Report) -> Located:
    # A rule as the first line is Markdown; a `key:` right below it is front matter that somebody forgot to end.
    if len(lines) > 1 and re.match(r"[\w-]+:(\s|$)", lines[1]):
        report.add("WM107", "the front matter has no end", (1, 1, 4), help="put a line `---` below its last key")
    return Located()


def _unclosed(blocks: tuple[Block, ...], report: Report) -> None:
    for block in (inner for outer in blocks for inner in outer.walk()):
        if block.kind == "fence" and not block.closed:
            report.add(
                "WM110",
                "this fence is never closed: everything below it is its text",
                (block.line, 1, 4),
                severity="warning",
                help="end it with a line of the same marks",
            )
