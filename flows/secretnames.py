"""Which secrets a step asks for, by name, and how: read and checked at compile time, without any value.

A secret is a file unless its variable is asked for, because a variable is inherited by every program that the step
starts, and one of them prints it. The front matter's list is a bound and no default: a secret reaches only the steps
that name it, so that a step added later gets nothing by accident.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.flows.diagnostics import did_you_mean
from workflowmaster.flows.invocation import BASICS
from workflowmaster.flows.limits import check_environment
from workflowmaster.flows.naming import RESERVED_ENV, is_env_name, is_value_name

if TYPE_CHECKING:
    from workflowmaster.flows.attributes import SecretKeys, StepAttributes
    from workflowmaster.flows.context import Context
    from workflowmaster.flows.diagnostics import Place
    from workflowmaster.flows.validation import Read
    from workflowmaster.policies import SecurityPolicy

TAKEN = frozenset((*BASICS, "PATH", "IFS", "OPTIND", "PWD", "ENV", "BASH_ENV"))
"""Variables that we or a shell set or obey."""


def secret_names(read: Read[StepAttributes], context: Context, *, hosted: bool) -> tuple[str, ...]:
    """Return the names of a step's secrets. Reports what is no name, not declared, doubled, or of no use."""
    report, declared = context.report, context.front.keys.secrets
    names: list[str] = []
    for index, one in enumerate(read.keys.secrets):
        place = _place(read, index, "name")
        if not is_value_name(one.name):
            report.add("WM318", f"{one.name!r} cannot name a secret", place, help="write its name, not its value")
        elif declared and one.name not in declared:
            advice = did_you_mean(one.name, declared) or f"declared: {', '.join(declared)}"
            report.add("WM321", f"secret {one.name!r} is not among the file's", place, help=advice)
        elif hosted:
            report.add("WM325", "a step without a container is given no secrets", place, help="remove the line")
        if one.name not in names:
            names.append(one.name)
    return tuple(names)


def secret_variables(read: Read[StepAttributes], context: Context, policy: SecurityPolicy) -> dict[str, str]:
    """Return variable → secret for those that are wanted in the environment. Reports what cannot be a variable."""
    found: dict[str, str] = {}
    for index, one in enumerate(read.keys.secrets):
        # A name that is none has been reported, and its variable would be reported for the same letter.
        if (name := one.variable) and is_value_name(one.name):
            place = _place(read, index, "env")
            _check(name, one, place, context)
            check_environment([(name, place)], policy, context.report)
            if name in found or name in read.keys.env or name in context.front.keys.env:
                said = f"the variable {name!r} would have two values: a secret's and another"
                context.report.add("WM324", said, place, help="name another with `env: NAME`")
            found[name] = one.name
    return found


def _check(name: str, one: SecretKeys, place: Place, context: Context) -> None:
    if not is_env_name(name):
        advice = f"write {{name: {one.name}, env: VARIABLE}}, of letters, digits and `_`"
        context.report.add("WM306", f"{name!r} cannot name an environment variable", place, help=advice)
    elif name.upper().startswith(RESERVED_ENV) or name in TAKEN:
        said = f"{name!r} is set by us or by the shell, so it cannot hold a secret"
        context.report.add("WM307", said, place, help="name another with `env: NAME`")


def _place(read: Read[StepAttributes], index: int, key: str) -> Place:
    """Return where an entry, or what it says about `key`, is written; a single one may stand without a list."""
    located = read.located
    path = ("secrets", index) if isinstance(located.values.get("secrets"), list) else ("secrets",)
    return located.at(*path, key)
