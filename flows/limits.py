"""Which policy a step runs under, and whether what it asks for is within it.

What a prompt may do is settled before anything runs: a policy that is looser than the file's needs a written reason,
and a time or a size above the policy's is an error instead of being lowered in silence, since a writer who asked for an
hour and gets ten minutes would look for the fault elsewhere. Only values nobody wrote for this step (a default of the
file, of the operator) are lowered to fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from workflowmaster.flows.diagnostics import did_you_mean
from workflowmaster.flows.plan import Kind, Resources
from workflowmaster.policies import (
    PolicyError,
    available,
    load,
    refused_image,
    refused_variables,
    show_size,
    stricter,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from workflowmaster.flows.attributes import FrontMatter, ResourceKeys, StepAttributes
    from workflowmaster.flows.context import Context
    from workflowmaster.flows.diagnostics import Place, Report
    from workflowmaster.flows.options import Options
    from workflowmaster.flows.validation import Read
    from workflowmaster.policies import SecurityPolicy

GUIDE_TIMEOUT = 300.0
"""Seconds a policy grants a step that names no time; `paranoid` alone grants less."""
_HOST_KINDS: frozenset[Kind] = frozenset(("setup", "forge", "approval"))
_SIZES = frozenset(("memory", "disk"))


@dataclass(frozen=True)
class Standing:
    """The policies of one compilation: the file's, the operator's, and what follows from both."""

    file: str
    """Policy the prompt stands under by its own words, or the default."""
    floor: str | None
    """What the operator insists on."""
    workflow: str
    """The stricter of the two."""
    folders: tuple[Path, ...] = ()

    def stricter(self, one: str, other: str) -> str:
        """Return the stricter of two policies, `one` when they are equal."""
        return _stricter(one, other, self.folders)

    def policy(self, name: str) -> SecurityPolicy:
        """Return a policy's values."""
        return load(name, self.folders)

    def effective(self, name: str) -> str:
        """Return the policy a step that names `name` runs under once the operator has spoken."""
        return self.stricter(name, self.floor) if self.floor else name


def standing(front: Read[FrontMatter], options: Options, report: Report) -> Standing:
    """Return the policies of a compilation. Reports a policy that does not exist or cannot be read."""
    folders = options.policy_folders
    floor = options.policy if options.policy and _exists(options.policy, folders, (1, 1, 2), report) else None
    default = options.default_policy
    if not _exists(default, folders, (1, 1, 2), report):
        # The compilation goes on with what is certainly there, to find what else is wrong.
        default, folders = "standard", folders if default != "standard" else ()
    written = front.keys.security_policy
    if written is None or not _exists(written, folders, front.at("security-policy"), report):
        # Nobody wrote a policy: what the operator insists on is simply the policy.
        # A prompt that names no policy has nothing to be tightened.
        return Standing(floor or default, floor, floor or default, folders)
    both = Standing(written, floor, written, folders)
    workflow = both.effective(written)
    if floor and workflow != floor:
        said = f"the prompt's policy {written!r} is stricter than {floor!r} and stays"
        report.add("WM406", said, front.at("security-policy"), severity="note")
    return Standing(written, floor, workflow, folders)


def step_policy(read: Read[StepAttributes], standing: Standing, report: Report) -> tuple[str, str]:
    """Return the policy a step runs under, and the reason where it is looser than the file's.

    Reports an unknown policy, and a looser one without a `reason`.
    """
    written = read.keys.security_policy
    if written is None or not _exists(written, standing.folders, read.at("security-policy"), report):
        return standing.workflow, ""
    # Judged against the file's word, not the operator's: `--policy` must not turn a sound prompt into a faulty one.
    looser = standing.stricter(standing.file, written) != written
    if looser and not read.keys.reason.strip():
        report.add(
            "WM402",
            f"policy {written!r} is looser than the file's {standing.file!r}",
            read.at("security-policy"),
            help="add `- reason: why this step needs it`, which is audited, or name a stricter policy",
        )
    return standing.effective(written), read.keys.reason.strip() if looser else ""


def timeout(read: Read[StepAttributes], kind: Kind, policy: SecurityPolicy, context: Context) -> float:
    """Return a step's wall time in seconds. Reports one above the policy's maximum."""
    written, most = read.keys.timeout_minutes, float(policy.wall_seconds_max)
    # No container, no policy over its time: a person may take days to approve.
    if kind in _HOST_KINDS:
        return written or context.options.default_timeout_seconds
    if written is not None:
        _within(written, most, read.at("timeout-minutes"), policy.name, context.report)
        return written
    if context.front.keys.timeout_minutes is not None:
        return min(context.front.keys.timeout_minutes, most)
    return default_timeout(kind, policy, context.options)


def default_timeout(kind: Kind, policy: SecurityPolicy, options: Options) -> float:
    """Return the wall time of a step for which nobody wrote one, in seconds."""
    if kind == "agent":
        return float(policy.wall_seconds_max)
    # A policy whose own default is below the guide's means it; others follow the operator up to their maximum.
    own = policy.wall_seconds_default
    return min(options.default_timeout_seconds, float(own if own < GUIDE_TIMEOUT else policy.wall_seconds_max))


def check_file_limits(front: Read[FrontMatter], policy: SecurityPolicy, report: Report) -> None:
    """Report a time or size in the front matter that the file's own policy does not grant."""
    if front.keys.timeout_minutes is not None:
        place = front.at("timeout-minutes")
        _within(front.keys.timeout_minutes, float(policy.wall_seconds_max), place, policy.name, report)
    if front.keys.resources:
        _granted(front.keys.resources, front, policy, report)


def resources(read: Read[StepAttributes], policy: SecurityPolicy, context: Context) -> Resources:
    """Return a step's limits: its own, else the file's lowered to the policy. Reports those above the policy."""
    own, inherited = read.keys.resources, context.front.keys.resources
    if own:
        _granted(own, read, policy, context.report)
    if not own and not inherited:
        return _NONE
    values: dict[str, float | None] = {}
    for name in Resources.model_fields:
        value = getattr(own, name) if own else None
        if value is None and inherited is not None:
            value = _lowered(getattr(inherited, name), getattr(policy, name))
        values[name] = value
    return Resources.model_validate(values)


_NONE = Resources()


def check_image(image: str, policy: SecurityPolicy, place: Place, report: Report) -> None:
    """Report an image whose repository the policy does not allow. By its name alone: no engine is asked here."""
    if image and (said := refused_image(policy, image)):
        advice = "name an image of those, a policy that allows this one, or write a policy that extends it"
        report.add("WM411", said, place, help=advice)


def check_environment(names: Iterable[tuple[str, Place]], policy: SecurityPolicy, report: Report) -> None:
    """Report variables of a prompt, each with its place, that the policy does not let through."""
    for name, place in names:
        if refused_variables(policy, (name,)):
            passed = ", ".join(policy.environment or ()) or "none"
            said = f"policy {policy.name!r} does not let the variable {name!r} through; it lets through {passed}"
            advice = "hand the value over as an input (`inputs`, INPUT_<NAME>), or name another policy"
            report.add("WM412", said, place, help=advice)


def _lowered(value: float | None, granted: float | None) -> float | None:
    return min(value, granted) if value is not None and granted is not None else value


def _within(seconds: float, most: float, place: Place, policy: str, report: Report) -> None:
    if seconds > most:
        said = f"{seconds / 60:g} minutes are more than the {most / 60:g} that policy {policy!r} allows"
        report.add("WM403", said, place, help="lower the time, split the step, or name a policy that allows it")


def _granted(asked: ResourceKeys, read: Read[Any], policy: SecurityPolicy, report: Report) -> None:
    for name in Resources.model_fields:
        value, granted = getattr(asked, name), getattr(policy, name)
        if value is not None and granted is not None and value > granted:
            said = f"{name} {_shown(name, value)} is more than the {_shown(name, granted)} of policy {policy.name!r}"
            report.add("WM404", said, read.at("resources", name), help="resources can only lower what a policy grants")


def _shown(name: str, value: float) -> str:
    return show_size(int(value)) if name in _SIZES else f"{value:g}"


def _exists(name: str, folders: Sequence[Path], place: Place, report: Report) -> bool:
    known = available(folders)
    if name not in known:
        advice = did_you_mean(name, known) or f"known: {', '.join(known)}"
        report.add("WM401", f"unknown policy {name!r}", place, help=advice)
        return False
    try:
        load(name, folders)
    except PolicyError as error:
        report.add("WM405", f"policy {name!r} cannot be used: {error}", place)
        return False
    return True


@cache
def _stricter(one: str, other: str, folders: tuple[Path, ...]) -> str:
    return stricter(one, other, folders=folders)
