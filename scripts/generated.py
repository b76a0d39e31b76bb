# ruff: noqa: INP001 - scripts are run, and find each other as neighbours
"""A page of documentation with generated parts: a marked part is replaced, everything else is left as written."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def fill(page: Path, parts: Mapping[str, str]) -> str:
    """Return the page's text with every marked part replaced. ValueError when a marker is missing."""
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not block.search(text):
            raise ValueError(f"{page.name}: the markers <!-- {name} --> … <!-- /{name} --> are missing")
        # A function, because a part may hold backslashes.
        text = block.sub(lambda found, part=part: f"{found[1]}{part}\n{found[2]}", text)
    return text


def write(page: Path, parts: Mapping[str, str], argv: list[str]) -> int:
    """Write the page, or with `--check` only say whether it is stale; return the exit code."""
    written, filled = page.read_text(encoding="utf-8"), fill(page, parts)
    if argv != ["--check"]:
        page.write_text(filled, encoding="utf-8")
        return 0
    if filled != written:
        sys.stdout.write(f"{page.name} is stale: run `make generated`\n")
    return int(filled != written)
