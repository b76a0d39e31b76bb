"""A policy file → its values and the lines they stand on, or one error that says where to look.

PyYAML's own loader forgets lines and lets a repeated key win silently, so the top level is walked by hand. A repeated
`network:` in a security policy must not depend on which one comes last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import ValidationError

from workflowmaster.policies.hostaccess import host_access
from workflowmaster.policies.model import PolicyError, SecurityPolicy, Tmp
from workflowmaster.policies.values import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails


@dataclass(frozen=True)
class Written:
    """A policy as its file has it."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]
    """Line of each field, counting from 1."""

    def at(self, field: str) -> str:
        """Return `file:line` of a field; of the file's first line where the field is not written."""
        return f"{self.path}:{self.lines.get(field, 1)}"


def read(path: Path) -> Written:
    """Read one policy file. PolicyError when it cannot be read, is no YAML mapping, or repeats a field."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: the policy cannot be read: {error}") from error
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for field, line, value in _fields(path, text):
        # The safe loader would take the last one, and a reader sees the first.
        if field in values:
            raise PolicyError(f"{path}:{line}: {field} stands here and in line {lines[field]}; keep one")
        values[field], lines[field] = value, line
    return Written(path, values, lines)


def build(written: Written, inherited: Mapping[str, Any]) -> SecurityPolicy:
    """Return the policy of a file over the values it inherits. PolicyError names file:line, field and the mend."""
    try:
        return SecurityPolicy.model_validate({**inherited, **written.values})
    except ValidationError as error:
        # All mistakes at once: a file with three typos should not take three tries.
        raise PolicyError("\n".join(_explain(written, detail) for detail in error.errors())) from error


def _fields(path: Path, text: str) -> Iterator[tuple[str, int, Any]]:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise PolicyError(f"{path}:1: a policy file is a YAML mapping of fields, such as `extends: hardened`")
        for key, value in root.value:
            yield str(key.value), key.start_mark.line + 1, loader.construct_object(value, deep=True)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PolicyError(f"{path}:{line}: not YAML: {error.problem or error}") from error
    finally:
        loader.dispose()


def _explain(written: Written, detail: ErrorDetails) -> str:
    field = str(detail["loc"][0]) if detail["loc"] else ""
    dotted = ".".join(part for part in detail["loc"] if isinstance(part, str))
    where = written.at(field)
    if detail["type"] == "extra_forbidden":
        known = Tmp.model_fields if field == "tmp" else SecurityPolicy.model_fields
        if advice := host_access(str(detail["loc"][-1])):
            return f"{where}: {dotted} cannot be granted: {advice}"
        return f"{where}: unknown field {dotted}{did_you_mean(str(detail['loc'][-1]), known)}"
    if detail["type"] == "missing":
        return f"{where}: {dotted} is missing; give it, or start from a policy with `extends:`"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "literal_error":
        # pydantic names the words it expects, but neither the one it got nor the likeliest of them.
        choices = get_args(SecurityPolicy.model_fields[field].annotation)
        message = f"{detail['input']!r} is none of {', '.join(choices)}{did_you_mean(str(detail['input']), choices)}"
    return f"{where}: {dotted}: {message}" if dotted else f"{where}: {message}"
