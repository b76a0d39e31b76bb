"""Security policies: what a container may do, as data that can be read, compared and proved.

The built-in files each spell out every control, although four of them differ in a handful: a reader of `standard.yaml`
must not need `minimal.yaml` beside it to know what a step may do. Only users' policies and the four names of the
original system use `extends`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from pydantic import ValidationError

from workflowmaster.policies.admission import Held, is_ours, refused_held, refused_image, refused_variables
from workflowmaster.policies.checks import Finding, differing, looser
from workflowmaster.policies.hostaccess import host_access, is_unmistakable
from workflowmaster.policies.lineage import Link, Loosening, loosenings, origins
from workflowmaster.policies.model import FOLDER, PolicyError, SecurityPolicy, Tmp, seccomp_text
from workflowmaster.policies.reading import Written, build, read
from workflowmaster.policies.values import did_you_mean, parse_size, show_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "ALIASES",
    "ORDER",
    "Finding",
    "Held",
    "Link",
    "Loosening",
    "PolicyError",
    "SecurityPolicy",
    "Tmp",
    "Wanted",
    "available",
    "differing",
    "host_access",
    "is_ours",
    "is_unmistakable",
    "limits",
    "lineage_of",
    "load",
    "loosened",
    "looser",
    "lower",
    "names",
    "origins",
    "parse_size",
    "refused_held",
    "refused_image",
    "refused_variables",
    "seccomp_text",
    "show_size",
    "stricter",
]

ORDER = ("minimal", "development", "standard", "testing", "hardened", "paranoid")
"""The six, from the loosest to the strictest. `checks.looser` proves it in the tests."""

ALIASES = ("production", "cicd", "sandbox", "demo")
"""Names of the original system; each extends one of the six and grants no more."""


class Wanted(TypedDict, total=False):
    """Limits a step or an operator asks for. Sizes are bytes; None asks for nothing."""

    memory: int | None
    cpus: float | None
    pids: int | None
    disk: int | None
    output_cap: int | None
    wall_seconds: float | None
    """The step's own time: it may be above the policy's default, never above its maximum."""


def names() -> tuple[str, ...]:
    """Return the six built-in names, least restrictive first."""
    return ORDER


def available(folders: Sequence[Path] = ()) -> tuple[str, ...]:
    """Return every name `load` knows: the six, the four of the original, then those in the folders, sorted."""
    # A file that hides a built-in name is left out here, and refused by name when somebody asks for it.
    own = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    return (*ORDER, *ALIASES, *sorted(own - {*ORDER, *ALIASES}))


def load(name: str, folders: Sequence[Path] = ()) -> SecurityPolicy:
    """Return the policy of that name: a built-in one, or `NAME.yaml` of the first folder that has it.

    PolicyError: no such name, a file with a mistake in it, a name that hides a built-in one, or a policy that grants
    more than the one it extends (the loosest, if it extends none) and gives no `reason:`.
    """
    return _load(name, tuple(folders))[0].policy


def lineage_of(name: str, folders: Sequence[Path] = ()) -> tuple[Link, ...]:
    """Return the policy of that name and those it extends, one after the other. PolicyError as `load`."""
    return _load(name, tuple(folders))


def loosened(name: str, folders: Sequence[Path] = ()) -> tuple[Loosening, ...]:
    """Return where the policy, or one it extends, grants more than it did before, with the reason given for it."""
    return loosenings(lineage_of(name, folders), load(ORDER[0]))


def limits(name: str) -> SecurityPolicy:
    """Return the built-in policy of that name."""
    return load(name)


def stricter(a: str, b: str, *, folders: Sequence[Path] = ()) -> str:
    """Return the name of the stricter policy, `a` when they are equal.

    The six by their order; others by their controls. Where neither is stricter in everything, the one whose built-in
    ancestor is, and then `b`.
    """
    ours, theirs = load(a, folders), load(b, folders)
    if not looser(ours, theirs):
        return a
    if not looser(theirs, ours):
        return b
    return a if _rank(ours, folders) > _rank(theirs, folders) else b


def lower(policy: SecurityPolicy, **wanted: Unpack[Wanted]) -> SecurityPolicy:
    """Return the policy with lower limits. PolicyError where one is above what the policy grants, or unusably low."""
    asked: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    for name, value in asked.items():
        # A time above the default is no loosening: the default is for steps that name none.
        granted = getattr(policy, "wall_seconds_max" if name == "wall_seconds" else name)
        if granted is not None and value > granted:
            raise PolicyError(
                f"{name} {_show(name, value)} is above the {_show(name, granted)} of policy {policy.name!r}; "
                f"ask for less, or for a policy that grants it",
            )
    if "wall_seconds" in asked:
        asked["wall_seconds_default"] = asked["wall_seconds_max"] = asked.pop("wall_seconds")
    if not asked:
        return policy
    try:
        return SecurityPolicy.model_validate({**policy.model_dump(), **asked})
    except ValidationError as error:
        said = "; ".join(f"{detail['loc'][0]} {detail['input']}: {detail['msg']}" for detail in error.errors())
        raise PolicyError(f"policy {policy.name!r} cannot be lowered so far: {said}") from error


@cache
def _load(name: str, folders: tuple[Path, ...], below: tuple[str, ...] = ()) -> tuple[Link, ...]:
    written = read(_find(name, folders))
    if written.values.get("name", name) != name:
        raise PolicyError(f"{written.at('name')}: name is {written.values['name']!r}, but the file is {name}.yaml")
    parent_name = written.values.get("extends")
    if parent_name is None:
        policy = build(written, {"name": name})
        # What stands alone is held against the loosest: leaving `extends` out must not be the way around a reason.
        if name != ORDER[0]:
            _refuse_unreasoned(written, policy, load(ORDER[0]))
        return (Link(policy, written),)
    lineage = _parent(written, str(parent_name), folders, (*below, name))
    parent = lineage[0].policy
    # The parent's reason was for the parent: a child that loosens further must find its own.
    inherited = parent.model_dump(exclude={"description", "reason"})
    policy = build(written, {**inherited, "name": name})
    _refuse_unreasoned(written, policy, parent)
    return (Link(policy, written), *lineage)


def _parent(written: Written, name: str, folders: tuple[Path, ...], below: tuple[str, ...]) -> tuple[Link, ...]:
    if name in below:
        circle = " → ".join((*below, name))
        raise PolicyError(f"{written.at('extends')}: policies extend each other in a circle: {circle}")
    known = available(folders)
    if name not in known:
        raise PolicyError(f"{written.at('extends')}: extends {name!r}, which does not exist{did_you_mean(name, known)}")
    return _load(name, folders, below)


def _find(name: str, folders: tuple[Path, ...]) -> Path:
    # By listing, not by joining: a name out of a prompt must not become a path.
    own = [path for folder in folders for path in sorted(folder.glob("*.yaml")) if path.stem == name]
    if name in (*ORDER, *ALIASES):
        if own:
            raise PolicyError(f"{own[0]}: {name!r} is a built-in policy and cannot be replaced; use another name")
        return FOLDER / f"{name}.yaml"
    if not own:
        known = available(folders)
        raise PolicyError(f"no policy {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    return own[0]


def _refuse_unreasoned(written: Written, policy: SecurityPolicy, parent: SecurityPolicy) -> None:
    findings = looser(policy, parent)
    if not findings or policy.reason.strip():
        return
    said = "\n".join(f"{written.at(f.control)}: {f.control} {f.reason}: {f.detail}" for f in findings)
    raise PolicyError(f"{said}\n{written.path}: it grants more than {parent.name!r}; add `reason:` saying why")


def _rank(policy: SecurityPolicy, folders: Sequence[Path]) -> int:
    # A policy that stands alone has no place in the order; ranking it below all makes the known one win.
    while policy.name not in ORDER:
        if policy.extends is None:
            return -1
        policy = load(policy.extends, folders)
    return ORDER.index(policy.name)


def _show(name: str, value: float) -> str:
    return show_size(int(value)) if name in ("memory", "disk", "output_cap") else f"{value:g}"
