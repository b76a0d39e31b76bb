"""Policies in the words of their files, side by side: for `docs/policies.md` and the command line.

The tables are made from the loaded policies and the model's own field descriptions, never typed: a document about
security that is a version behind is worse than none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflowmaster.policies.model import SecurityPolicy, Tmp
from workflowmaster.policies.values import show_size

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = frozenset({"disk", "result_cap", "memory", "core", "memlock", "shm", "output_cap"})
"""Fields that are bytes."""

NOTHING = {
    "tmp": "on the root file system",
    "disk": "unbounded",
    "result_cap": "unbounded",
    "shm": "none",
    "images": "every repository",
    "environment": "what the prompt declares",
}
"""What none means, field by field: for some it is the widest value, for one the narrowest."""

# In the order of asking: a list of names also has `str` in its type.
_KINDS = {
    "tuple": "list",
    "Tmp": "mapping, see below",
    "bool": "true, false",
    "int": "number",
    "float": "number",
    "str": "text",
}


def words(policy: SecurityPolicy) -> dict[str, str]:
    """Return every control of a policy as short text, in the model's order."""
    return {name: _word(name, getattr(policy, name)) for name in policy.controls}


def matrix(policies: Sequence[SecurityPolicy]) -> str:
    """Return a Markdown table: a row for each control, a column for each policy."""
    columns = [words(policy) for policy in policies]
    # A star may stand in a name; two in one row would be read as emphasis.
    rows = [[f"`{name}`", *(column[name].replace("*", r"\*") for column in columns)] for name in columns[0]]
    return _table(["control", *(policy.name for policy in policies)], rows)


def fields() -> str:
    """Return a Markdown table of every field of a policy file: name, what may stand there, and what it means."""
    rows = [_row(name, field) for name, field in SecurityPolicy.model_fields.items()]
    rows += [_row(f"tmp.{name}", field) for name, field in Tmp.model_fields.items()]
    return _table(["field", "values", "meaning"], rows)


def _row(name: str, field: Any) -> list[str]:
    return [f"`{name}`", _values(name, field.annotation), " ".join((field.description or "").split())]


def _values(name: str, annotation: Any) -> str:
    """Return what may stand in a field: its words where they are few, else the kind of value."""
    choices = [str(choice) for choice in getattr(annotation, "__args__", ()) if isinstance(choice, str)]
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if name in SIZES or name == "tmp.size":
        return "size"
    return next(kind for word, kind in _KINDS.items() if word in str(annotation))


def _word(name: str, value: Any) -> str:
    if value is None:
        return NOTHING[name]
    if isinstance(value, Tmp):
        inodes = f", {value.inodes} inodes" if value.inodes else ""
        return f"{show_size(value.size)} {'exec' if value.exec else 'noexec'}{inodes}"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return show_size(value) if name in SIZES else f"{value:g}" if isinstance(value, int | float) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
