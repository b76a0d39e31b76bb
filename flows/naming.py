"""Names of steps and values: from headings to ids, and from ids to environment variables.

A step's id is the slug of its heading, so that a prompt reads as prose and still has stable names to refer to. Where
the heading is `word: rest`, the word alone is the id and the rest the name: a longer title then never breaks a `needs`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from workflowmaster.flows import outline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RESERVED_ENV = ("WM_", "INPUT_", "STEP_", "MATRIX_")
"""Beginnings of the variables we set ourselves."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_ID_AND_TITLE = re.compile(r"([A-Za-z0-9][\w.-]*):(?:\s+(\S.*))?")
_MARKUP = re.compile(r"[*_`<&\\\[]")
_MAX_ID = 60


def step_name(heading: str) -> tuple[str, str]:
    """Return the id and the name a step's heading stands for; the id is empty where nothing of it can be spelt."""
    text = outline.inline(heading).text if _MARKUP.search(heading) else heading.strip()
    found = _ID_AND_TITLE.fullmatch(text)
    if found:
        return slug(found[1]), (found[2] or found[1]).strip()
    return slug(text), text


def slug(text: str) -> str:
    """Return a text as an id: lower case, ASCII letters, digits, `_` and single hyphens, at most 60 characters."""
    # Ids end in container names, file names and variables: ASCII is what all of them take.
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:_MAX_ID].rstrip("-_")


def instance_id(step_id: str, values: Mapping[str, str]) -> str:
    """Return the id of a matrix instance: `tests/3.11-linux`."""
    return f"{step_id}/{'-'.join(_id_part(value) for value in values.values())}"


def _id_part(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+]+", "-", value).strip("-") or "-"


def variable(prefix: str, *names: str) -> str:
    """Return the environment variable of a value: `variable("STEP", "build", "changed")` is `STEP_BUILD_CHANGED`."""
    return "_".join((prefix, *(re.sub(r"[^A-Za-z0-9]", "_", name) for name in names))).upper()


def is_env_name(name: str) -> bool:
    """Whether a shell can use this as a variable's name."""
    return bool(_ENV_NAME.fullmatch(name))


def is_value_name(name: str) -> bool:
    """Whether this can name an input, an output or a matrix axis: a word of letters, digits, `_` and `-`."""
    return bool(_VALUE_NAME.fullmatch(name))


def clashes(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Return each name whose variable an earlier, different name already has, with that earlier name."""
    owners: dict[str, str] = {}
    found: dict[str, str] = {}
    for name in names:
        first = owners.setdefault(variable(prefix, name), name)
        if first != name:
            found[name] = first
    return found
