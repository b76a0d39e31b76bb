"""Typed inputs of a workflow: from front matter and command line to specs and values.

A value is kept as text, because that is what reaches a step (`INPUT_<NAME>`); its type only decides which texts are
refused. `true` and `42` therefore look the same whether they came from YAML or from `--input`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.flows.diagnostics import did_you_mean
from workflowmaster.flows.naming import clashes, is_value_name, variable
from workflowmaster.flows.plan import InputSpec

if TYPE_CHECKING:
    from workflowmaster.flows.attributes import FrontMatter, InputKeys
    from workflowmaster.flows.diagnostics import Place, Report, Severity
    from workflowmaster.flows.options import Options
    from workflowmaster.flows.validation import Read

Plain = str | int | float | bool

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def read_inputs(
    front: Read[FrontMatter], options: Options, report: Report
) -> tuple[tuple[InputSpec, ...], dict[str, str]]:
    """Return the declared inputs, and the value of each that has one, as text.

    Reports names that cannot be variables, defaults and given values of another type or outside the `enum`, values for
    inputs that do not exist, and required inputs without a value.
    """
    specs = tuple(_spec(name, keys, front, report) for name, keys in front.keys.inputs.items())
    for later, first in clashes((spec.name for spec in specs), "INPUT").items():
        said = f"inputs {first!r} and {later!r} are one environment variable, {variable('INPUT', later)}"
        report.add("WM211", said, front.located.key("inputs", later), help="rename one of them")
    known = {spec.name: spec for spec in specs}
    for name in options.inputs:
        if name not in known:
            advice = did_you_mean(name, known) or (
                f"known: {', '.join(known)}" if known else "the prompt has no inputs"
            )
            report.add("WM315", f"unknown input {name!r}", _top(front), help=advice)
    values: dict[str, str] = {}
    for spec in specs:
        value = _value(spec, front, options, report)
        if value is not None:
            values[spec.name] = value
    return specs, values


def convert(text: str, kind: str) -> Plain:
    """Return the value a text stands for. ValueError when it is none of that type."""
    if kind == "string":
        return text
    if kind == "boolean":
        if text.lower() not in _BOOLEANS:
            raise ValueError("true or false")
        return _BOOLEANS[text.lower()]
    try:
        return int(text) if kind == "integer" else float(text)
    except ValueError:
        raise ValueError("a whole number" if kind == "integer" else "a number") from None


def as_text(value: Plain) -> str:
    """Return the text a step sees."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _top(front: Read[FrontMatter]) -> Place:
    return front.located.key("inputs") if front.given("inputs") else (1, 1, 2)


def _spec(name: str, keys: InputKeys, front: Read[FrontMatter], report: Report) -> InputSpec:
    place = front.located.key("inputs", name)
    if not is_value_name(name):
        report.add("WM318", f"{name!r} cannot name an input", place, help="a word of letters, digits, `_` and `-`")
    # The spelling, not YAML's number: a default of 3.10 for a string is the text 3.10.
    written = front.located.texts["inputs"][name]
    given = written.get("default") if isinstance(written, dict) else written
    default: Plain | None = None
    if given is not None:
        default = _typed(name, str(given), keys.type, front.at("inputs", name, "default"), report)
    choices = written.get("enum") or () if isinstance(written, dict) else ()
    enum = tuple(
        _typed(name, str(choice), keys.type, front.at("inputs", name, "enum", index), report)
        for index, choice in enumerate(choices)
    )
    allowed = tuple(choice for choice in enum if choice is not None and not isinstance(choice, bool))
    spec = InputSpec(
        name=name,
        type=keys.type,
        required=keys.required,
        default=default,
        enum=allowed,
        description=keys.description,
    )
    if default is not None:
        _in_enum(spec, default, front.at("inputs", name, "default"), report)
    return spec


def _typed(name: str, text: str, kind: str, place: Place, report: Report) -> Plain | None:
    try:
        return convert(text, kind)
    except ValueError as error:
        report.add("WM313", f"input {name!r} must be {error}, not {text!r}", place)
        return None


def _in_enum(spec: InputSpec, value: Plain, place: Place, report: Report) -> None:
    if spec.enum and value not in spec.enum:
        choices = [as_text(choice) for choice in spec.enum]
        advice = did_you_mean(as_text(value), choices) or f"it is one of {', '.join(choices)}"
        report.add("WM314", f"input {spec.name!r} cannot be {as_text(value)!r}", place, help=advice)


def _value(spec: InputSpec, front: Read[FrontMatter], options: Options, report: Report) -> str | None:
    place = front.located.key("inputs", spec.name)
    if spec.name in options.inputs:
        value = _typed(spec.name, options.inputs[spec.name], spec.type, place, report)
        if value is not None:
            _in_enum(spec, value, place, report)
            return as_text(value)
        return None
    if spec.default is not None:
        return as_text(spec.default)
    if spec.required:
        severity: Severity = "error" if options.require_inputs else "warning"
        advice = f"give it with `--input {spec.name}=…`"
        report.add("WM312", f"input {spec.name!r} is required and has no value", place, severity=severity, help=advice)
    # An optional input without a value is an empty variable, so that scripts under `set -u` do not break on it.
    return None if spec.required else ""
