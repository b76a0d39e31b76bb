"""How secrets come into a container: as lines on its shell's stdin, right behind the go line, and nowhere else.

A value must not be on a disk of this host, in an argv, a label or the engine's configuration. Standard input is the one
way in that leaves no trace: the shell that waits there reads pairs of lines up to an empty one and writes each value
into a memory file system of the container's own. Every byte that is no letter or digit travels as an octal escape, so
NUL, line breaks and bytes that are no text come through any shell's `read` and `printf`. The accepted cost is time: a
shell reads its stdin byte by byte, 4 ms for each kilobyte of a binary value; a token's cost cannot be measured.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRETS = "/run/secrets"
"""Where a container finds its secrets, one file each, readable by its user alone."""

LARGEST = 48 * 1024
"""Bytes of one secret, as on GitHub: more is data, not a secret."""

ROOM = 64 * 1024
"""Bytes that a memory file system takes for one small file and its name, rounded up generously."""

RECEIVE = (
    'while IFS= read -r wm_name || exit 125; [ "$wm_name" ]; do IFS= read -r wm_value || exit 125; case $wm_name in '
    '=*) wm_value=$(printf %bx "$wm_value"); export "${wm_name#=}=${wm_value%x}";; '
    f'*) (umask 077; printf %b "$wm_value" >"{SECRETS}/$wm_name") || exit 125;; '
    "esac; done; unset wm_name wm_value; "
)
"""What the shell does between its go line and the environment; a name with `=` before it is a variable's.

The `x` keeps `$(…)` from taking line breaks off a value's end. A pipe that closes halfway ends the container with 125:
a step must not begin with some of its secrets.
"""

_PLAIN = (string.ascii_letters + string.digits).encode()
# A digit behind an escape is safe: no shell reads more than three after the zero.
_SPELLED = [b"%c" % byte if b"%c" % byte in _PLAIN else b"\\0%03o" % byte for byte in range(256)]


@dataclass(frozen=True)
class Handout:
    """The secrets of one container. Its text shows names only."""

    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Name in `/run/secrets` → value."""
    variables: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Environment variable → value, without NUL bytes."""

    def __repr__(self) -> str:
        return f"Handout(files={sorted(self.files)}, variables={sorted(self.variables)})"

    def lines(self) -> bytes:
        """Return what follows the go line; nothing at all where there are no secrets, as nobody reads it then."""
        if not self.files:
            return b""
        named = [*self.files.items(), *((f"={name}", value) for name, value in self.variables.items())]
        return b"".join(b"%s\n%s\n" % (name.encode(), escaped(value)) for name, value in named) + b"\n"


NOTHING = Handout()
"""What a container without secrets gets."""


def escaped(value: bytes) -> bytes:
    """Spell a value for `printf %b` in any POSIX shell: letters and digits, and an octal escape for all else."""
    return b"".join(map(_SPELLED.__getitem__, value))


def tmpfs(user: str, count: int) -> dict[str, str]:
    """Return the engine's option for the memory file system of `count` secrets, for a user such as `1000:1000`."""
    uid, _, gid = user.partition(":")
    owner = f"uid={uid},gid={gid or uid},"
    return {SECRETS: f"rw,noexec,nosuid,nodev,{owner}size={count * ROOM},nr_inodes={count + 8},mode=0700"}
