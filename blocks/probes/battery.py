"""Runs the probes of this folder one by one and prints how each ended, one line of JSON for each.

The hard choice: a probe and what is said of it (its group, what it tries, the controls that should stop it) stand in
one place, as a decorated function, and the very same modules are imported by the host, which reads the table, and by
the container, which runs them. Two lists would drift apart. The accepted cost: nothing here may import what the image
does not have, which is everything but the standard library.

Each probe runs in a child of its own, in a session of its own, with a limit of time: one that crashes, hangs or is
killed harms no other. What it raises says how it ended: nothing, and the hostile operation succeeded.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GROUPS = (
    "files",
    "programs",
    "mounts",
    "namespaces",
    "capabilities",
    "calls",
    "devices",
    "sockets",
    "interfaces",
    "secrecy",
    "resources",
)
"""The modules of this folder that hold probes, which is also how the table is ordered."""

PACKAGE = "workflowmaster.blocks.probes"

FACTS, NAMES = "/wm/outside.json", "/wm/names"
"""Where a container finds what there is outside (`Outside` as JSON), and the names of the probes to run, one a line."""

JUDGED_OUTSIDE = ("output", "time")
"""Lanes whose probes cannot tell how they end: how much arrives, or when it stops, is seen by the host."""

ALWAYS = "always"
"""The control of what no policy can grant, because the sandbox gives it to all."""


class Absent(RuntimeError):
    """What a probe needs is not there: on this kernel, this machine or in this image. It proves nothing then."""


@dataclass(frozen=True)
class Outside:
    """What is to be had outside the container, for probes that reach for it."""

    token: str
    """A text that is nowhere but where the fields below say."""
    secret: str
    """File of the host that holds the token; the folder has a socket `socket` as well."""
    pid: int
    """A process of the host whose environment holds the token."""
    mark: str
    """A word of its command line."""
    hostname: str
    address: str
    """One of the host's own addresses, as its neighbours see it; empty if it has none."""
    port: int
    """Where the host listens on all its addresses."""
    loopback_port: int
    """Where it listens on 127.0.0.1 only."""
    abstract: str
    """Name of a UNIX socket of the host that lies in no folder."""
    memory: int
    """Bytes of the host's memory that are free."""
    disk: int
    """Bytes of its disk that are free."""
    watched: tuple[str, ...]
    """Names of the probes that should be stopped: what they leave must lie there until whoever watches has looked."""


Work = Callable[[Outside], None]
Sized = Callable[[Outside, int], None]


@dataclass(frozen=True)
class Probe:
    """One hostile operation, and which controls should stop it."""

    name: str
    group: str
    tries: str
    """What it tries, in words that follow "tries to"."""
    blocked_by: tuple[str, ...]
    """Controls as `seccomp >= S2`; any one that holds promises that it is stopped. None: it is granted everywhere."""
    work: Work
    seconds: float = 20.0
    """A probe that is not done by then proves nothing."""
    lane: str = ""
    """Probes of one lane share a container. The main one is nameless; another is for what may take it along."""
    measure: int = 0
    """How much it takes, where it comes in several sizes."""


REGISTRY: dict[str, Probe] = {}
"""Every probe by its name, once its module is imported."""


def probe(*blocked_by: str, seconds: float = 20.0, lane: str = "") -> Callable[[Work], Work]:
    """Register a function as a probe: its name is the probe's, its docstring says what it tries."""

    def register(work: Work) -> Work:
        name, group = work.__name__.replace("_", "-"), work.__module__.rpartition(".")[2]
        REGISTRY[name] = Probe(name, group, _tries(work), blocked_by, work, seconds, lane)
        return work

    return register


def sizes(
    amounts: Mapping[int, Sequence[str]], *, unit: str = "", seconds: float = 20.0, lane: str = ""
) -> Callable[[Sized], Sized]:
    """Register a function once for each amount → the controls that should stop that much."""

    def register(work: Sized) -> Sized:
        group = work.__module__.rpartition(".")[2]
        for amount, controls in amounts.items():
            name = f"{work.__name__.replace('_', '-')}-{amount}{unit}"
            tries = _tries(work).replace("{amount}", f"{amount:,}")
            bound = _bound(work, amount)
            REGISTRY[name] = Probe(name, group, tries, tuple(controls), bound, seconds, lane, amount)
        return work

    return register


def _tries(work: Callable[..., None]) -> str:
    first = (work.__doc__ or "").partition("\n")[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _bound(work: Sized, amount: int) -> Work:
    return lambda outside: work(outside, amount)


def load() -> dict[str, Probe]:
    """Import every group and return all probes, in the table's order."""
    for group in GROUPS:
        importlib.import_module(f"{PACKAGE}.{group}")
    return REGISTRY


def attempt(one: Probe, outside: Outside) -> dict[str, Any]:
    """Run one probe in a child and return how it ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(one, outside, write)
    os.close(write)
    said = _hear(read, time.monotonic() + one.seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        # Once more by its own number: it may have been too early for its session.
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return {"name": one.name, **(json.loads(said) if said.endswith(b"}") else _silent(status, one.seconds, bool(said)))}


def _silent(status: int, seconds: float, late: bool) -> dict[str, str]:
    """Judge a child that said nothing: it was killed, by us or by what guards the container."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if late:
        return {"outcome": "late", "detail": f"not done within {seconds:g} s"}
    return {"outcome": "refused", "detail": f"killed by {signal.Signals(number).name}" if number else "it vanished"}


def _hear(pipe: int, until: float) -> bytes:
    """Read what the child says; a single byte if it is late."""
    said = b""
    with os.fdopen(pipe, "rb", buffering=0) as file:
        while not said.endswith(b"}"):
            if not select.select([file], [], [], max(0.0, until - time.monotonic()))[0]:
                return b"?"
            more = file.read(65536)
            if not more:
                break
            said += more
    return said


def _child(one: Probe, outside: Outside, pipe: int) -> None:
    """Do the work and say how it ended; never returns."""
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        with contextlib.suppress(OSError):
            # When memory runs out it is the probe that dies, not whoever writes down what became of it.
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        said = json.dumps(_outcome(one, outside))
        os.write(pipe, said.encode())
    finally:
        os._exit(0)


def _outcome(one: Probe, outside: Outside) -> dict[str, str]:
    try:
        one.work(outside)
    except Absent as error:
        return {"outcome": "absent", "detail": str(error)}
    except OSError as error:
        return {"outcome": "refused", "detail": error.strerror or str(error)}
    except MemoryError:
        return {"outcome": "refused", "detail": "Cannot allocate memory"}
    # A probe's own mistake must look like one, and not like a sandbox that holds.
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told to the host, which stops there
        return {"outcome": "mistake", "detail": f"{type(error).__name__}: {error}"}
    return {"outcome": "done", "detail": ""}


def main() -> None:
    """Run the probes that the host names. Each is told first, so that it is known what took the container along."""
    outside = Outside(**json.loads(Path(FACTS).read_text(encoding="utf-8")))
    probes = load()
    for name in Path(NAMES).read_text(encoding="utf-8").split():
        print(json.dumps({"name": name, "outcome": "begun", "detail": ""}), flush=True)
        if probes[name].lane in JUDGED_OUTSIDE:
            probes[name].work(outside)
        else:
            print(json.dumps(attempt(probes[name], outside)), flush=True)
