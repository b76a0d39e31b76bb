"""The words of a policy file as values: sizes, capabilities and lists of names.

A list of names may end a name in `*`, and nowhere else. Full globs would read as nicely, but whether one glob covers
another cannot be decided by looking at two strings, and policies must be comparable.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_BY_NUMBER = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)

CAPABILITY_NUMBERS = {name: number for number, name in enumerate(_BY_NUMBER)}
"""Capability → its bit in the kernel's sets (linux/capability.h)."""

CAPABILITIES = frozenset(_BY_NUMBER)
"""Linux's capabilities (capabilities(7)), without their prefix."""

# As Docker and Kubernetes users write them; `b` and `ib` are noise that people add.
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(value: object) -> object:
    """Return the bytes that `512m` or `1.5g` stands for; None and whole numbers pass.

    Raises ValueError for anything else, a negative number and a boolean included.
    """
    # YAML reads `yes` as true, and to Python true is the number 1.
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    found = _SIZE.fullmatch(str(value).strip())
    if isinstance(value, bool) or not found:
        raise ValueError(f"{value!r} is no size: write bytes, or a number with k, m, g or t, such as 512m")
    return int(float(found[1]) * 1024 ** _POWER[found[2].lower()])


def show_size(value: int | None) -> str:
    """Return a size as a policy file would write it: `512m`; `-` for none."""
    if value is None:
        return "-"
    for suffix, power in (("t", 4), ("g", 3), ("m", 2), ("k", 1)):
        # Only exact multiples: a rounded limit in an error message sends people looking for the wrong number.
        if value and value % 1024**power == 0:
            return f"{value // 1024**power}{suffix}"
    return str(value)


def capability(value: object) -> str:
    """Return a capability's name without prefix, upper case. Raises ValueError for one Linux does not have."""
    name = str(value).upper().removeprefix("CAP_")
    if name not in CAPABILITIES:
        raise ValueError(f"{value!r} is no Linux capability{did_you_mean(name, CAPABILITIES)}")
    return name


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names once each, sorted."""
    return tuple(sorted(set(names)))


def covers(pattern: str, name: str) -> bool:
    """Whether `pattern` stands for everything that `name` (itself a name or a pattern) stands for."""
    if not pattern.endswith("*"):
        return pattern == name
    return name.startswith(pattern[:-1])


def widest(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names sorted, without those that another one covers: equal lists then are equal tuples.

    Raises ValueError for an empty name and for a `*` that is not at the end.
    """
    for name in names:
        if not name or "*" in name[:-1]:
            raise ValueError(f"{name!r}: a name, or the start of one with a `*` at the end")
    # Dropping what another covers keeps the order antisymmetric: [A*, AB] and [A*] grant the same.
    once = distinct(names)
    return tuple(name for name in once if not any(covers(other, name) for other in once if other != name))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the closest known word, or nothing when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
