"""The shell of a few lines that is pid 1 of a parked container, and the file it reads its environment from."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from workflowmaster.blocks.handout import RECEIVE

if TYPE_CHECKING:
    from collections.abc import Mapping

_GO = 'IFS= read -r wm_go && set -- "$wm_go" "$@" && unset wm_go TINI_KILL_PROCESS_GROUP && '
_RUN = (
    ". /wm/env && { "
    'trap : TERM; printf "%s\\n" "$1" >&2; (shift; exec "$@" </wm/stdin 2>&1); set -- "$1" $?; '
    'printf "%s\\n" "$1" >&2; '
)
_ACCOUNT = (
    'IFS=" "; m=-1; c=-1; p=-1; o=-1; { cd /sys/fs/cgroup; '
    "if [ -r memory.events ]; then read -r m <memory.peak; read -r p <pids.peak; read -r k v <cpu.stat; "
    "c=$((v * 1000)); f=memory.events; "
    "else read -r m <memory/memory.max_usage_in_bytes; read -r p <pids/pids.peak; read -r c <cpuacct/cpuacct.usage; "
    'f=memory/memory.oom_control; fi; while read -r k v; do [ "$k" = oom_kill ] && o=$v; done <"$f"; } 2>/dev/null; '
)
_END = 'printf "%s%03d%020d%020d%020d%020d" "$1" "$2" "$m" "$c" "$p" "$o"; exit "$2"; }; exit 125'
WRAPPER = _GO + _RUN + _ACCOUNT + _END
"""What a parked container runs. Closing its stdin without a go line ends it with 125 and nothing of the user's run.

The mark lives in `$1`, because any name could also be a variable of the step's environment, which is read after it. The
command is started by `exec` in a subshell, so that `exit` or `cd` as a command is a program that does not exist. Its
stdout and stderr share one pipe: in two, the engine mixes up what came first, and a person reads an error by its place.

SIGTERM reaches the step by the engine's init, which passes signals on to its child's whole process group if it is asked
to by TINI_KILL_PROCESS_GROUP. The trap is ours alone, because a subshell gives traps up: the command gets the signal as
any program does, and the shell lives to say what became of it. While it is parked it has no trap, and ends.

The marks on stderr end their lines, because the engine's log keeps nothing of a line before its end: so the first one
stands there before all output, and whoever adopts the container can tell that nothing of its beginning is lost.

Last it reads its own cgroup, as far as it sees one: the host's files for it may be gone before a busy orchestrator has
looked (3 % of the containers on a loaded machine), and those of an engine elsewhere are never there to look at.
"""

CODE_DIGITS, FIGURE_DIGITS = 3, 20
FIGURES = 4
"""After its last mark the shell says the exit code, then bytes of peak memory, nanoseconds of processor time, most
processes and memory kills; -1 is what it could not read."""

WITH_SECRETS = _GO + RECEIVE + _RUN + _ACCOUNT + _END
"""The same for a container with secrets, which follow the go line; the environment comes last, so it can use them."""

LONGEST_VALUE = 128 * 1024 - 1
"""Bytes of `NAME=value`: with one more, Linux refuses to start any program (MAX_ARG_STRLEN)."""

LONGEST_ENVIRONMENT = 1024 * 1024
"""Bytes of all of them: half of what Linux takes together with the arguments, under the usual 8 MiB stack limit."""


def environment_file(values: Mapping[str, str]) -> str:
    """Spell an environment as shell assignments that survive any value.

    Raises ValueError for what no environment can carry: a name that is no identifier, a NUL byte, too much text.
    """
    total = 0
    for name, value in values.items():
        if not name.isidentifier() or not name.isascii() or name == "OPTIND":  # the shell takes only numbers in it
            raise ValueError(f"{name!r} cannot be an environment variable: use letters, digits and _")
        if "\0" in value:
            raise ValueError(f"the value of {name} has a NUL byte, which an environment variable cannot carry")
        size = len(name) + 1 + len(value.encode(errors="surrogateescape"))
        if size > LONGEST_VALUE:
            raise ValueError(
                f"{name} has {size:,} bytes and an environment variable may have {LONGEST_VALUE:,}; "
                "pass large values in a file of the workspace"
            )
        total += size + 1
    if total > LONGEST_ENVIRONMENT:
        raise ValueError(
            f"the environment has {total:,} bytes and may have {LONGEST_ENVIRONMENT:,}; "
            "pass large values in files of the workspace"
        )
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(values.items()))
