"""Says who is to blame for an end that was no success: the step, its limits, or us and the engine. Pure.

Two kinds of evidence, two tables. How a container ended is judged by facts of its receipt, from the most to the least
certain; what it printed is not looked at, for a step can print anything. What an engine said is judged by its words,
because status codes say less: Docker answers 500 for a full disk and for a capability it does not know, and Podman for
a name that is taken. Recognition is deliberately partial: every row was provoked on a real engine or is quoted from one
(`scripts/capture_messages.py`, `tests/blocks/test_failure.py`), and words that no row knows are an unclassified engine
error. The accepted cost is a retry too many and a sentence too vague, never a step that is blamed for the engine.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from workflowmaster.blocks.receipt import Receipt

Cause = Literal["", "sandbox", "timeout", "output", "disk", "oom", "killed", "failure"]
"""Empty: it succeeded. Otherwise: engine or sandbox, wall time, cap of output or disk, memory, a signal, exit code.
These words decide about retries (`decisions`)."""

Kind = Literal[
    "completed",
    "failed",
    "command not found",
    "not executable",
    "out of memory",
    "child out of memory",
    "timed out",
    "killed",
    "output cap",
    "disk cap",
    "sandbox unavailable",
]
"""The same, finer: for people, statistics and reports."""

NOT_FOUND, NOT_EXECUTABLE, KILLED = 127, 126, 137
"""What a shell answers for a command that is not there, one that it may not run, and one that SIGKILL ended."""


@dataclass(frozen=True)
class Verdict:
    """What an end was. `reason` is one line for people; empty, like `cause`, when the container succeeded."""

    kind: Kind
    cause: Cause
    reason: str


def explain(receipt: Receipt, wall_seconds: float) -> tuple[str, Cause]:
    """Return the reason in one line and the class of failure; both empty when the container succeeded."""
    found = classify(receipt, wall_seconds)
    return found.reason, found.cause


def classify(receipt: Receipt, wall_seconds: float) -> Verdict:
    """Judge how a container ended. `wall_seconds` is the wall time it had."""
    if receipt.refused:
        return Verdict("sandbox unavailable", "sandbox", f"the engine could not run it: {receipt.refused}")
    return _stopped(receipt, wall_seconds) or _exited(receipt)


def _stopped(receipt: Receipt, wall_seconds: float) -> Verdict | None:
    """Recognise what we stopped it for, whatever code it ended with."""
    if receipt.timed_out:
        words = f"it ran longer than {wall_seconds:g} s and was stopped; raise timeout-minutes if it needs more"
        return Verdict("timed out", "timeout", words)
    if receipt.output_capped:
        words = f"it printed more than policy {receipt.policy} keeps and was stopped; write to a file instead"
        return Verdict("output cap", "output", words)
    if receipt.disk_capped:
        words = f"its files grew by more than policy {receipt.policy} allows, and it was stopped; write less"
        return Verdict("disk cap", "disk", words)
    return None


def _exited(receipt: Receipt) -> Verdict:
    """Judge how it ended by itself."""
    code = receipt.exit_code
    if code is None:
        return Verdict("sandbox unavailable", "sandbox", "nobody saw how it ended")
    if code and receipt.oom_killed:
        return _out_of_memory(code, receipt.policy)
    if receipt.signal:
        return Verdict("killed", "killed", f"it was killed by {_signal(receipt.signal)} (exit {code})")
    if code == NOT_FOUND:
        words = f"a command was not found in the image (exit {code}); see its log"
        return Verdict("command not found", "failure", words)
    if code == NOT_EXECUTABLE:
        words = f"a command may not be executed in the image (exit {code}); see its log"
        return Verdict("not executable", "failure", words)
    return Verdict("failed", "failure", f"exit {code}") if code else Verdict("completed", "", "")


def _out_of_memory(code: int, policy: str) -> Verdict:
    """Tell the step that was killed for memory from the one that lost a child to it and then failed."""
    if code == KILLED:
        return Verdict("out of memory", "oom", f"it ran out of memory under policy {policy} (exit {code})")
    words = f"a process of it was killed for memory under policy {policy}, and it failed (exit {code})"
    return Verdict("child out of memory", "oom", words)


def signal_of(exit_code: int) -> int | None:
    """Return the signal that an exit code stands for, by the shells' convention; None if it stands for none."""
    return exit_code - 128 if 128 < exit_code <= 128 + signal.SIGRTMAX else None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# --- what an engine says ---

Reason = Literal[
    "engine",
    "permission",
    "command",
    "image",
    "mount",
    "conflict",
    "disk",
    "gone",
    "network",
    "unsupported",
    "runtime",
    "unclassified",
]
"""Why a sandbox is unavailable, as far as an engine's words tell. `SandboxUnavailable` documents each."""

ROWS: tuple[tuple[str, Reason], ...] = (
    ("no space left on device|disk quota exceeded", "disk"),
    # Podman answers a taken name with 500, so the status tells less than the words.
    ("is already in use by|name is already in use", "conflict"),
    ("exec format error", "image"),
    # Before the command: the engine's init, or the runtime, speaks of the image's own shell.
    (r"\[fatal tini .*fork failed", "unsupported"),
    (r"\[fatal tini .*failed: ", "command"),
    ("executable file .*not found in|stat [^ ]+: no such file or directory: unknown", "command"),
    (r"exec: \"[^\"]*\": (permission denied|is a directory)|open executable: .*permission denied", "command"),
    ("argument list too long", "command"),
    ("invalid mount config|mount source path|error mounting|while mounting volume|mount a directory onto", "mount"),
    (r"statfs .*no such file or directory|no such volume|volume is in use", "mount"),
    ("no such image|image not known|manifest unknown|invalid reference format", "image"),
    ("unable to find user|no matching entries in (passwd|group) file|cannot mkdir", "image"),
    ("address pool|fully subnetted|has active endpoints|invalid subnet|external connectivity", "network"),
    (r"network [^ ]+ not found|network with name .* already exists|no available ipv4 addresses", "network"),
    ("no such container|no container with name|marked for removal|removal of container .* is already in", "gone"),
    ("container [^ ]+ is not running|container not found", "gone"),
    ("range of cpus|minimum memory limit|unknown capability|unknown (or invalid )?runtime", "unsupported"),
    ("--storage-opt", "unsupported"),
    ("--security-opt|seccomp profile|apparmor|looking up logging plugin|custom device|setting rlimit", "unsupported"),
    ("is not in a separate kernel namespace|not supported by (your|the) kernel|cgroup v[12]", "unsupported"),
    ("oci runtime|shim task|runc |crun: |containerd|context deadline exceeded|ttrpc", "runtime"),
    ("shutting down|connection refused|connection aborted|read timed out|cannot connect to the docker", "engine"),
)
"""Words of an engine, as a pattern over its message in lower case → the reason they stand for. The first row wins."""

_COMPILED = tuple((re.compile(pattern), reason) for pattern, reason in ROWS)

ADVICE: dict[Reason, str] = {
    "command": "the image has no such program, or not one that its user may run",
    "disk": "free some space where the engine keeps its data; `docker system df` says what takes it",
    "network": "`workflowmaster clean` removes networks of runs that have died, `docker network prune` all unused ones",
    "unsupported": "this engine cannot do what the policy asks for; `workflowmaster doctor` says what it can",
    "runtime": "the container runtime below the engine failed; see the engine's log",
    "unclassified": "unclassified engine error, which is no fault of the step's; see the engine's log",
}
"""What to do about it, where the engine's words do not say."""

TRANSIENT: frozenset[str] = frozenset({"engine", "parked", "gone", "network", "runtime", "unclassified"})
"""Reasons that may have passed a moment later. The others would only be met again."""


def engine_reason(said: str) -> Reason:
    """Return the reason that an engine's words stand for; `unclassified` for words that nobody knows."""
    text = said.lower()
    return next((reason for pattern, reason in _COMPILED if pattern.search(text)), "unclassified")


MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386", "armv7l": "arm", "armv6l": "arm"}
"""What a kernel calls its machine → what images call it."""

ALSO_RUNS = {"amd64": {"386"}, "arm64": {"arm"}}
"""Machine → the older ones whose programs its kernel mostly runs, too."""


def foreign(image: str, machine: str) -> bool:
    """Return whether an image of that architecture has programs for another machine than the engine's.

    An architecture that either side does not tell is given the benefit of the doubt.
    """
    own = MACHINES.get(machine, machine)
    return bool(image and own) and image != own and image not in ALSO_RUNS.get(own, ())
