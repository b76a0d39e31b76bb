"""From written keys to typed values, every mistake at its place.

Pydantic says what is wrong and at which path; the reader remembers where each path was written; this file joins the
two and puts the result into words a prompt's writer uses. A wrong value is dropped after it was reported, and the rest
is read again, so that one run shows all mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

from pydantic import ValidationError

from workflowmaster.flows.attributes import (
    ALIASES,
    DESCRIPTIVE,
    FOREIGN,
    CommonKeys,
    FrontMatter,
    Keys,
    StepAttributes,
    key_names,
)
from workflowmaster.flows.diagnostics import closest, did_you_mean
from workflowmaster.flows.located import Located
from workflowmaster.policies import host_access, is_unmistakable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from workflowmaster.flows.diagnostics import Place, Report

Model = TypeVar("Model", bound=CommonKeys)

MAY_BE_EMPTY = frozenset(("on", "network", "env", "metadata", "github"))
"""Keys whose empty value means something: none, or nothing special."""

_OTHERS: Mapping[type[CommonKeys], type[CommonKeys]] = {FrontMatter: StepAttributes, StepAttributes: FrontMatter}
_PHRASES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "a mapping",
    "model": "a mapping",
    "tuple": "a list",
    "list": "a list",
    "missing": "given",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_SURE = 0.8
"""Likeness from which a strange key of a prose prompt is taken for a misspelt one."""


@dataclass(frozen=True)
class Read(Generic[Model]):
    """Keys as they were understood, and where they were written."""

    keys: Model
    located: Located = field(default_factory=Located)
    metadata: dict[str, Any] = field(default_factory=dict)
    """Foreign and descriptive keys, as written."""

    def given(self, key: str) -> bool:
        """Whether the prompt says anything about this key."""
        return key in self.located.values

    def at(self, *path: str | int) -> Place:
        """Return where a value was written."""
        return self.located.at(*path)


def validate(model: type[Model], written: Located, report: Report, *, lenient: bool = False) -> Read[Model]:
    """Return the written keys as a model.

    Reports unknown, doubled, empty and ill-typed keys. `lenient` keeps unknown keys as metadata unless they look like
    misspelt ones: prose prompts carry whatever their writer's tracker wants.
    """
    located, metadata = _known(model, written, report, lenient=lenient)
    values = {
        key: located.texts[key] if key in model.text_keys else value
        for key, value in located.values.items()
        if not _empty(key, value, located, report)
    }
    # Each round drops the wrong keys it reported; without any left, the model holds.
    while True:
        try:
            return Read(model.model_validate(values), located, metadata)
        except ValidationError as errors:
            for error in errors.errors(include_url=False):
                _explain(model, error, located, report)
                values.pop(str(error["loc"][0]) if error["loc"] else "", None)


def _known(
    model: type[CommonKeys], written: Located, report: Report, *, lenient: bool
) -> tuple[Located, dict[str, Any]]:
    """Return the keys under their canonical names, and those that are kept but not read."""
    names = key_names(model)
    metadata: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    for key, value in written.values.items():
        canonical = _canonical(key, names)
        if canonical in renamed.values():
            first = next(old for old, new in renamed.items() if new == canonical)
            report.add("WM203", f"{key!r} says the same as {first!r}, which is given above", written.key(key))
        elif canonical in names:
            renamed[key] = canonical
        elif key in FOREIGN or key in DESCRIPTIVE:
            metadata[key] = value
            _note_foreign(key, written, report)
        elif is_unmistakable(key) or (host_access(key) and not lenient):
            report.add("WM413", f"{key!r} cannot be asked for", written.key(key), help=host_access(key))
        # A tracker's own fields are welcome in prose, a misspelt limit nowhere.
        elif lenient and not closest(key, names, _SURE):
            metadata[key] = value
        else:
            _unknown(key, model, names, written, report)
    return _rename(written, renamed), metadata


def _canonical(key: str, names: tuple[str, ...]) -> str:
    for word in (key, key.lower(), key.lower().replace("_", "-")):
        if word in names:
            return word
        if ALIASES.get(word) in names:
            return ALIASES[word]
    return key


def _rename(written: Located, renamed: dict[str, str]) -> Located:
    def moved(places: dict[tuple[str | int, ...], Place]) -> dict[tuple[str | int, ...], Place]:
        return {(renamed[str(path[0])], *path[1:]): at for path, at in places.items() if path and path[0] in renamed}

    return Located(
        {new: written.values[old] for old, new in renamed.items()},
        {new: written.texts[old] for old, new in renamed.items()},
        moved(written.keys),
        moved(written.places),
    )


def _note_foreign(key: str, written: Located, report: Report) -> None:
    if key in FOREIGN:
        said = f"{key!r} belongs to agents' own prompt files: it is kept and does not change the run"
        report.add("WM214", said, written.key(key), severity="note")


def _unknown(key: str, model: type[CommonKeys], names: tuple[str, ...], written: Located, report: Report) -> None:
    code, kind = ("WM201", "front-matter key") if model is FrontMatter else ("WM202", "step attribute")
    advice = did_you_mean(key, [*names, *(alias for alias, name in ALIASES.items() if name in names)])
    if _canonical(key, key_names(_OTHERS[model])) in key_names(_OTHERS[model]):
        place = "in a step, as `- key: value` below its heading" if model is FrontMatter else "in the front matter"
        advice = f"{key!r} is known {place}"
    report.add(code, f"unknown {kind} {key!r}", written.key(key), help=advice or f"known: {', '.join(names)}")


def _empty(key: str, value: object, located: Located, report: Report) -> bool:
    if value is not None:
        return False
    if key not in MAY_BE_EMPTY:
        report.add("WM301", f"{key!r} has no value", located.key(key), help="give it one, or remove the line")
    return True


def _explain(model: type[CommonKeys], error: ErrorDetails, located: Located, report: Report) -> None:
    path = _written_path(error["loc"], located)
    name = ".".join(str(part) for part in path) or "this"
    kind, context = error["type"], error.get("ctx", {})
    place = located.at(*path)
    if kind.startswith("WM"):
        report.add(kind, f"{name}: {error['msg']}", place)
    elif kind == "extra_forbidden":
        if advice := host_access(str(path[-1])):
            report.add("WM413", f"{path[-1]!r} cannot be asked for", located.key(*path), help=advice)
            return
        known = key_names(_model_at(model, path[:-1]))
        advice = f"{did_you_mean(str(path[-1]), known)} known: {', '.join(known)}".strip()
        code = "WM201" if model is FrontMatter else "WM202"
        report.add(code, f"unknown key {path[-1]!r} in {path[0]!r}", located.key(*path), help=advice)
    elif kind == "literal_error":
        choices = [choice.strip("'") for choice in str(context["expected"]).replace(" or ", ", ").split(", ")]
        advice = f"{did_you_mean(str(error['input']), choices)} it is one of {', '.join(choices)}".strip()
        report.add("WM304", f"{name} cannot be {error['input']!r}", place, help=advice)
    elif kind.startswith(("greater_than", "less_than")):
        bound = next(f"{word} {context[limit]}" for limit, word in _BOUNDS.items() if limit in context)
        report.add("WM305", f"{name} must be {bound}", place)
    else:
        phrase = _PHRASES.get(kind.split("_", maxsplit=1)[0], error["msg"].lower())
        report.add("WM301", f"{name} must be {phrase}", place)


def _written_path(loc: tuple[int | str, ...], located: Located) -> tuple[int | str, ...]:
    """Return the part of pydantic's path that was written; its union tags and `[key]` marks were not."""
    path: tuple[int | str, ...] = ()
    for part in loc:
        if part == "[key]":
            break
        path = (*path, part)
        if path not in located.places and path not in located.keys:
            # A list written as one word, or a missing key: the nearest written thing is meant.
            return path if path[:-1] in located.places and isinstance(part, str) else path[:-1] or path
    return path


def _model_at(model: type[Keys], path: tuple[int | str, ...]) -> type[Keys]:
    """Return the model that reads the mapping at a path."""
    for part in path:
        field_ = next((f for f in model.model_fields.values() if f.alias == part), None)
        if field_ is not None:
            model = next(iter(_models(field_.annotation)), model)
    return model


def _models(annotation: Any) -> list[type[Keys]]:
    if isinstance(annotation, type) and issubclass(annotation, Keys):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
