"""`matrix`: one written step, an instance for each combination of values.

Values are taken as they are spelt (`3.10` stays `3.10`) and every instance is an ordinary step of the plan, with an id
of its own (`tests/3.10-linux`), so that nothing after the compiler knows that there ever was a matrix.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from workflowmaster.flows.naming import clashes, instance_id, is_value_name, variable

if TYPE_CHECKING:
    from workflowmaster.flows.attributes import StepAttributes
    from workflowmaster.flows.diagnostics import Report
    from workflowmaster.flows.validation import Read

MAX_INSTANCES = 10_000
"""Most instances of one step."""

_LISTS = ("include", "exclude")


def instances(read: Read[StepAttributes], step: str, report: Report) -> list[dict[str, str]]:
    """Return the values of each instance in the written order; one without values where there is no matrix.

    The product of the axes, minus what `exclude` matches, plus each entry of `include`: one that agrees with existing
    instances on the axes it names adds its other values to them, any other is an instance of its own (as in GitHub
    Actions). Reports axes that are no lists, names that cannot be variables, and instances that come out alike.
    """
    written = read.keys.matrix
    if not written:
        if read.given("matrix"):
            report.add("WM316", f"the matrix of step {step!r} has no axis", read.at("matrix"), help="name: [value, …]")
        return [{}]
    axes = {name: _axis(name, value, read, report) for name, value in written.items() if name not in _LISTS}
    # Counted before it is made: ten axes of ten are ten thousand million instances.
    count = 1
    for values in axes.values():
        count *= max(1, len(values))
    if count > MAX_INSTANCES:
        said = f"the matrix of step {step!r} has {count} instances; at most {MAX_INSTANCES} are allowed"
        report.add("WM316", said, read.at("matrix"))
        return [{}]
    found = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if axes else []
    excluded = _entries("exclude", read, report)
    found = [one for one in found if not any(_matches(one, entry) for entry in excluded)]
    found = _include(found, _entries("include", read, report), frozenset(axes))
    _check(found, step, read, report)
    return found or [{}]


def axes(read: Read[StepAttributes]) -> frozenset[str]:
    """Return every name a step's matrix gives values to, `include` counted."""
    written = read.keys.matrix
    entries = written.get("include")
    added = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return frozenset(name for name in written if name not in _LISTS) | {name for entry in added for name in entry}


def _axis(name: str, value: Any, read: Read[StepAttributes], report: Report) -> list[str]:
    if not is_value_name(name):
        place = read.located.key("matrix", name)
        report.add("WM318", f"{name!r} cannot name a matrix axis", place, help="a word of letters, digits, `_` and `-`")
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) for one in values):
        place = read.at("matrix", name)
        report.add("WM316", f"matrix axis {name!r} must be a list of plain values", place, help=f"{name}: [a, b]")
        return ["?"]
    return values


def _entries(key: str, read: Read[StepAttributes], report: Report) -> list[dict[str, str]]:
    written = read.keys.matrix.get(key, [])
    good = isinstance(written, list) and all(
        isinstance(entry, dict) and entry and all(isinstance(value, str) for value in entry.values())
        for entry in written
    )
    if good:
        return list(written)
    report.add("WM316", f"`{key}` must be a list of mappings", read.at("matrix", key), help=f"{key}: [{{axis: value}}]")
    return []


def _matches(one: dict[str, str], entry: dict[str, str]) -> bool:
    return all(one.get(name) == value for name, value in entry.items())


def _include(found: list[dict[str, str]], entries: list[dict[str, str]], axes: frozenset[str]) -> list[dict[str, str]]:
    result = list(found)
    for entry in entries:
        shared = {name: value for name, value in entry.items() if name in axes}
        alike = [index for index, one in enumerate(found) if shared and _matches(one, shared)]
        if alike and len(shared) < len(entry):
            for index in alike:
                result[index] = {**result[index], **entry}
        # An entry that agrees with an instance in everything adds nothing.
        elif not alike:
            result.append(entry)
    return result


def _check(found: list[dict[str, str]], step: str, read: Read[StepAttributes], report: Report) -> None:
    place = read.at("matrix")
    if not found:
        report.add("WM316", f"the matrix of step {step!r} has no instance left", place, help="exclude less")
    names = list(dict.fromkeys(name for one in found for name in one))
    for later, first in clashes(names, "MATRIX").items():
        said = f"matrix axes {first!r} and {later!r} are one environment variable, {variable('MATRIX', later)}"
        report.add("WM211", said, place, help="rename one of them")
    seen: dict[str, dict[str, str]] = {}
    for one in found:
        other = seen.setdefault(instance_id(step, one), one)
        if other is not one:
            said = f"two matrix instances of step {step!r} are both called {instance_id(step, one)!r}"
            report.add("WM211", said, place, help="values that differ only in odd signs make one id: respell one")
