"""Markup that escapes by default.

A report shows text chosen by prompts, repositories and containers, so forgetting to escape once is enough for a
hole. Choice: no templates and no string concatenation; every element is built by `element`, which escapes each
child and attribute unless it is `Markup`, and only `element` and `joined` make `Markup`. Accepted cost: a page's
shape is read from calls, not from an HTML file.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final

from workflowmaster.flows.plaintext import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

VOID: Final = frozenset({"meta", "br", "rect", "line", "path", "circle", "stop"})
"""Elements without an end tag; written `<x/>`, which both HTML and XML parsers read."""


class Markup(str):
    """A string that is already markup."""

    __slots__ = ()


def element(tag: str, /, *children: object, **attributes: object) -> Markup:
    """Return `<tag …>children</tag>`; strings are escaped, `None` children and attributes are left out.

    Attribute names: a trailing underscore is dropped (`class_`), other underscores become hyphens. Floats are
    written with one decimal, which is finer than any screen.
    """
    head = tag + "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    # HTML's parser ignores the slash and XML's needs it, so one spelling serves both.
    if tag in VOID:
        return Markup(f"<{head}/>")
    return Markup(f"<{head}>{joined(children)}</{tag}>")


def joined(parts: Iterable[object]) -> Markup:
    """Concatenate parts: `Markup` as it is, `None` as nothing, everything else escaped."""
    return Markup("".join(_child(part) for part in parts))


def number(value: float) -> str:
    """Return a coordinate with at most one decimal: `12`, `12.5`."""
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def _child(part: object) -> str:
    if part is None:
        return ""
    # `plain` goes first: XML has no way to write a control character, not even as a reference.
    return part if isinstance(part, Markup) else html.escape(plain(str(part)), quote=False)


def _attribute(key: str, value: object) -> str:
    text = number(value) if isinstance(value, float) else plain(str(value))
    return f' {key.rstrip("_").replace("_", "-")}="{html.escape(text)}"'
