"""Parts that every picture needs: how wide a text will be, and the frame of an SVG.

There is no font engine here, and the reader's font is not known. Widths are estimated from Arial's metrics with a
margin that also covers the wider fonts of other systems; layout keeps boxes of that width apart.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib.resources import files
from typing import Final

from workflowmaster.flows.elements import Markup, element

# Three widths of letters are enough. Measured in Chromium on 292 labels: Liberation Sans (Arial's metrics) was never
# wider than the estimate, 0.85 of it in the median; DejaVu Sans, the widest likely fallback, 0.98, and 1.18 in bold.
NARROW: Final = frozenset("iljI|.,:;!'`()[]{}/\\ ft-r")
WIDE: Final = frozenset("mwMW@%…—ABCDEGHKNOPQRSUVXYZ&")
MARGIN: Final = 1.12


def text_width(text: str, size: float) -> float:
    """Return the estimated width of `text` at a font size, both in pixels."""
    return sum(_advance(char) for char in text) * size * MARGIN


def fitted(text: str, width: float, size: float) -> str:
    """Return `text`, cut with an ellipsis if it is wider than `width` pixels."""
    if text_width(text, size) <= width:
        return text
    # Letter by letter, since widths differ; names are short, so this stays cheap.
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip(" -_/.") + "…" if text else ""


def picture(width: float, height: float, *parts: object, title: str, standalone: bool) -> Markup:
    """Return an `<svg>`; a stand-alone one brings its style and paper, an inline one takes the page's."""
    # The sheet is our own file; it goes in unescaped, as style elements are read verbatim in HTML.
    style = element("style", Markup(stylesheet())) if standalone else None
    paper = element("rect", class_="paper", width=width, height=height, rx=8.0) if standalone else None
    return element(
        "svg",
        element("title", title),
        style,
        paper,
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        class_="dg",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}" if standalone else None,
        height=f"{height:.0f}" if standalone else None,
        role="img",
    )


def text(x: float, y: float, words: str, *, class_: str | None = None, anchor: str | None = None) -> Markup:
    """Return a `<text>` element; `y` is the baseline."""
    return element("text", words, x=x, y=y, class_=class_, text_anchor=anchor)


@cache
def stylesheet() -> str:
    """Return the style shared by all pictures."""
    return files("workflowmaster.flows").joinpath("diagram.css").read_text("utf-8")


@cache
def _advance(char: str) -> float:
    if char in NARROW:
        return 0.31
    if char in WIDE:
        return 0.76
    # Han, kana and emoji fill a whole square; taking them for letters would let labels overlap.
    return 1.0 if unicodedata.east_asian_width(char) in "WF" else 0.556
