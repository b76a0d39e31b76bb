"""Which of two policies grants more: one small function per control.

Each function is the standard for its control: the comment above it says which way is stricter, and it returns a
`Finding` where the candidate grants more than the base. One function for every field would be shorter as a table of
comparators, but a finding must say in words what is granted, and the words differ. The accepted cost is a few lines
per control; a test holds that every field has its control.

`looser(a, b) == ()` is a partial order over controls: reflexive, transitive, and antisymmetric up to equal controls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from workflowmaster.policies.values import covers, show_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workflowmaster.policies.model import SecurityPolicy


class Finding(NamedTuple):
    """A control that grants more than it should: its name, why in a few words, and the values."""

    control: str
    reason: str
    detail: str


# Least to most restrictive. A value's place in its tuple is its rank.
RANKS: dict[str, tuple[Any, ...]] = {
    "user": ("workspace", "unique"),
    "no_new_privileges": (False, True),
    "seccomp": ("S0", "S1", "S2", "S3", "S4"),
    "init": (False, True),
    "root_filesystem": ("rw", "ro"),
    "workspace": ("rw", "copy", "overlay", "none"),
    "ipc": ("private", "none"),
    "network": ("bridge", "proxy-any", "proxy-allowlist", "none"),
    "apparmor": ("none", "prefer", "require"),
    "runtime": ("runc", "prefer-gvisor", "gvisor"),
    "image": ("any", "allowed", "pinned", "signed", "product"),
}


def check_user(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Prefer a uid of its own: the files and processes of the user and of other steps are then out of reach."""
    return _ranked("user", candidate, base)


def check_capabilities(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Fewer are stricter, by inclusion: no capability makes up for another."""
    # Not by number: one SYS_ADMIN is worth more than the other forty.
    added = set(candidate.capabilities) - set(base.capabilities)
    return Finding("capabilities", "adds capabilities", ", ".join(sorted(added))) if added else None


def check_no_new_privileges(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """On is stricter: setuid programs stay without effect."""
    return _ranked("no_new_privileges", candidate, base)


def check_seccomp(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Higher tiers are stricter; they are nested by construction (`scripts/make_seccomp.py`)."""
    return _ranked("seccomp", candidate, base)


def check_init(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """On is stricter: without it, dead children stay in the process table and count as pids."""
    return _ranked("init", candidate, base)


def check_root_filesystem(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Read-only is stricter; the container's own layer has no size limit on most engines."""
    return _ranked("root_filesystem", candidate, base)


def check_tmp(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """None is loosest (a folder of the root file system); then smaller, fewer inodes and noexec are stricter."""
    ours, theirs = candidate.tmp, base.tmp
    if theirs is None:
        return None
    if ours is None:
        return Finding("tmp", "is a folder of the root file system", f"instead of {show_size(theirs.size)} in memory")
    wider = [
        *([f"size {show_size(ours.size)} > {show_size(theirs.size)}"] if ours.size > theirs.size else []),
        *(["exec"] if ours.exec and not theirs.exec else []),
        *([f"inodes {ours.inodes or 'unlimited'} > {theirs.inodes}"] if _above(ours.inodes, theirs.inodes) else []),
    ]
    return Finding("tmp", "is wider", ", ".join(wider)) if wider else None


def check_workspace(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Writable, then a copy thrown away, then read-only with results looked at, then none."""
    return _ranked("workspace", candidate, base)


def check_disk(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Less is stricter; none is unbounded."""
    return _sized("disk", candidate, base)


def check_result_cap(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Less is stricter; none is unbounded."""
    return _sized("result_cap", candidate, base)


def check_memory(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Less is stricter."""
    return _sized("memory", candidate, base)


def check_cpus(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Fewer are stricter."""
    return _counted("cpus", candidate, base)


def check_pids(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Fewer are stricter."""
    return _counted("pids", candidate, base)


def check_nofile(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Fewer are stricter."""
    return _counted("nofile", candidate, base)


def check_core(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Less is stricter: a core dump holds what the process knew."""
    return _sized("core", candidate, base)


def check_memlock(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Less is stricter."""
    return _sized("memlock", candidate, base)


def check_shm(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Less is stricter; none comes with `ipc: none` and means there is no `/dev/shm`."""
    ours, theirs = candidate.shm or 0, base.shm or 0
    return Finding("shm", "is larger", f"{show_size(ours)} > {show_size(theirs)}") if ours > theirs else None


def check_ipc(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """None is stricter than private."""
    return _ranked("ipc", candidate, base)


def check_network(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """From the engine's bridge by any public host and named hosts to none."""
    return _ranked("network", candidate, base)


def check_apparmor(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Asking for it is stricter than not asking, insisting on it stricter than asking."""
    return _ranked("apparmor", candidate, base)


def check_runtime(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Asking for gVisor is stricter than not asking, insisting on it stricter than asking."""
    return _ranked("runtime", candidate, base)


def check_wall_seconds_default(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Less is stricter."""
    return _counted("wall_seconds_default", candidate, base)


def check_wall_seconds_max(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Less is stricter."""
    return _counted("wall_seconds_max", candidate, base)


def check_output_cap(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Less is stricter."""
    return _sized("output_cap", candidate, base)


def check_image(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Each word adds a condition to the one before it."""
    return _ranked("image", candidate, base)


def check_images(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Fewer repositories are stricter; none is every repository."""
    return _listed("images", candidate, base)


def check_environment(candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    """Fewer names are stricter; none is every name a prompt declares, an empty list is no name at all."""
    return _listed("environment", candidate, base)


# Collected by name, so that a new control cannot be written and then forgotten in a list.
CHECKS: tuple[Callable[[SecurityPolicy, SecurityPolicy], Finding | None], ...] = tuple(
    check for name, check in sorted(globals().items()) if name.startswith("check_")
)
"""Every control's function."""


def looser(candidate: SecurityPolicy, base: SecurityPolicy) -> tuple[Finding, ...]:
    """Return every control in which `candidate` grants more than `base`; empty when it is at least as strict."""
    return tuple(finding for check in CHECKS if (finding := check(candidate, base)))


def differing(a: SecurityPolicy, b: SecurityPolicy) -> tuple[tuple[str, Any, Any], ...]:
    """Return (control, value in a, value in b) for every control in which the two differ, in the model's order."""
    ours, theirs = a.controls, b.controls
    return tuple((name, ours[name], theirs[name]) for name in ours if ours[name] != theirs[name])


def _ranked(field: str, candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    order, ours, theirs = RANKS[field], getattr(candidate, field), getattr(base, field)
    if order.index(ours) >= order.index(theirs):
        return None
    return Finding(field, "is looser", f"{_word(ours)} instead of {_word(theirs)}")


def _sized(field: str, candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    ours, theirs = getattr(candidate, field), getattr(base, field)
    if not _above(ours, theirs):
        return None
    return Finding(field, "is larger", f"{show_size(ours) if ours is not None else 'unbounded'} > {show_size(theirs)}")


def _counted(field: str, candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    ours, theirs = getattr(candidate, field), getattr(base, field)
    return Finding(field, "is larger", f"{ours:g} > {theirs:g}") if ours > theirs else None


def _listed(field: str, candidate: SecurityPolicy, base: SecurityPolicy) -> Finding | None:
    ours, theirs = getattr(candidate, field), getattr(base, field)
    if theirs is None:
        return None
    if ours is None:
        return Finding(field, "allows every name", f"instead of {_names(theirs)}")
    added = [name for name in ours if not any(covers(known, name) for known in theirs)]
    return Finding(field, "adds names", _names(added)) if added else None


def _above(ours: float | None, theirs: float | None) -> bool:
    """Whether the first bound is the wider one; None is no bound."""
    if theirs is None:
        return False
    return ours is None or ours > theirs


def _word(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "no name"
