"""`{{ inputs.x }}` and `{{ matrix.x }}` in attribute values, filled in before anything runs.

Only an image, a name and values of `env` may hold them. None of these is ever read by a shell, so a value cannot become
code; everywhere else a placeholder is an error (and inside fences, `fences.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workflowmaster.flows.diagnostics import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.flows.diagnostics import Place, Report
    from workflowmaster.flows.located import Located

ALLOWED = frozenset(("image", "name", "env", "description"))
"""Keys whose values may hold placeholders."""

# `${{ … }}` is what hands used to GitHub Actions type; it means the same here.
_HOLE = re.compile(r"\$?\{\{\s*(.*?)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Values:
    """What placeholders stand for. A name that is known but has no value yet maps to None."""

    inputs: Mapping[str, str | None] = field(default_factory=dict)
    matrix: Mapping[str, str | None] = field(default_factory=dict)


def fill(text: str, values: Values, place: Place, report: Report) -> str:
    """Return the text with its placeholders filled in; one without a value stays as it is. Reports unknown names."""
    if "{{" not in text:
        return text

    def value(found: re.Match[str]) -> str:
        known, name = _find(found[1], values)
        if name in known:
            filled = known[name]
            # Without a value the text stays as it is: `check` knows no inputs, and must not invent one.
            return found[0] if filled is None else filled
        advice = did_you_mean(name, known) or (f"known: {', '.join(known)}" if known else "none is defined")
        report.add("WM310", f"{found[0]} stands for nothing known", place, help=advice)
        return found[0]

    return _HOLE.sub(value, text)


def is_open(text: str) -> bool:
    """Whether a text still holds a placeholder that waits for its value."""
    return bool(_HOLE.search(text))


def refuse_elsewhere(located: Located, report: Report) -> None:
    """Report placeholders in attributes that may not hold them."""
    for key, value in located.texts.items():
        if key not in ALLOWED and "{{" in str(value) and _HOLE.search(str(value)):
            said = f"a placeholder is not filled in here: {key!r}"
            report.add("WM311", said, located.at(key), help="only image, name, description and env values may hold one")


def _find(inside: str, values: Values) -> tuple[Mapping[str, str | None], str]:
    room, _, name = inside.partition(".")
    if room == "inputs":
        return values.inputs, name
    if room == "matrix":
        return values.matrix, name
    known = {f"inputs.{key}": None for key in values.inputs} | {f"matrix.{key}": None for key in values.matrix}
    return known, inside
