"""What must be true once a torn workflow has come to its end: everything is there, once, and nothing is left."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaoskit import subject
from chaoskit.arena import until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chaoskit.arena import Arena

SERVER_SECONDS = 60.0
"""How long a temporary server may take to end after its owner: it writes what it was sent first."""
UNKNOWN = ("invalid choice", "unrecognized arguments")
"""How the command line says that it does not know a command (yet)."""


@dataclass(frozen=True)
class Outcome:
    """What a run leaves that may not depend on how it came to its end."""

    statuses: dict[str, str]
    outputs: dict[str, dict[str, str]]
    commits: dict[str, str]
    """Step → its commit in the private store: a function of the plan alone."""
    tree: str
    """Tree of the user's branch."""
    log: tuple[str, ...]
    """Subjects, authors, dates and trees of the branch's commits."""


def outcome(arena: Arena, workflow: str) -> Outcome:
    """Read what a workflow has left, from its state and from the user's repository."""
    results = json.loads((arena.folder(workflow) / "state.json").read_text())["results"]
    branch = f"workflowmaster/{workflow}"
    log = arena.git("log", "--format=%s|%an|%ad|%cd|%T", "--date=raw", branch)
    return Outcome(
        statuses={name: one["status"] for name, one in results.items()},
        outputs={name: {k: v for k, v in one["outputs"].items() if workflow not in v} for name, one in results.items()},
        commits={name: one["commit"] for name, one in results.items()},
        tree=arena.git("rev-parse", f"{branch}^{{tree}}"),
        log=tuple(log.splitlines()),
    )


def wrong(arena: Arena, workflow: str, good: Outcome) -> list[str]:
    """Return everything that is not as it must be after a workflow that was torn and resumed, in words."""
    found = []
    try:
        now = outcome(arena, workflow)
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        found.append(f"its outcome cannot be read: {error!r}")
    else:
        pairs = [
            (name, getattr(now, name), getattr(good, name))
            for name in ("statuses", "outputs", "commits", "tree", "log")
        ]
        found += [f"{name} differ: {is_} instead of {was}" for name, is_, was in pairs if is_ != was]
    return [*found, *left(arena, workflow), *unsound(arena, workflow)]


def left(arena: Arena, workflow: str) -> list[str]:
    """Return what is left of a workflow that nobody works on any more."""
    folder = arena.folder(workflow)
    found = [
        f"{kind} left: {names}" for kind in ("container", "network", "volume") if (names := _engines(kind, workflow))
    ]
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found += [f"mount left: {place}" for place in mounts if place.startswith(str(folder))]
    loops = [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    found += [f"loop device left: {file}" for file in loops if file.startswith(str(folder))]
    names = os.listdir(folder) if folder.is_dir() else []
    found += [f"folder left: {name}" for name in names if name in ("trees", "exchange") or name.startswith(".swept")]
    found += [f"half-written file left: {name}" for name in names if name.startswith(".") and "swept" not in name]
    found += [f"lock held: {path}" for path in _locks(arena, workflow) if _held(path)]
    pins = arena.git("for-each-ref", "--format=%(refname)", f"refs/workflowmaster/{workflow}")
    found += [f"pin left: {pins}"] if pins else []
    found += [f"temporary server left: pid {pid}" for pid in servers(arena, SERVER_SECONDS)]
    return found


def unsound(arena: Arena, workflow: str, **env: str) -> list[str]:
    """Return what the product itself says is wrong: each command that people look with must answer, and with 0."""
    answers = arena.several(
        ("audit", "verify", workflow),
        ("state", "validate", workflow),
        ("orphans", "--json"),
        ("list", "--json"),
        ("report", workflow),
        **env,
    )
    found = []
    for answer in answers:
        if answer["code"] and not any(word in answer["err"] for word in UNKNOWN):
            found.append(f"{' '.join(answer['words'])} says {answer['code']}: {answer['out']}{answer['err']}")
        elif answer["words"][0] in ("orphans", "list") and not answer["code"]:
            found += _told(answer, workflow)
    return found


def _told(answer: Mapping[str, Any], workflow: str) -> list[str]:
    """Hold that a finished workflow is listed as such, and is no orphan."""
    listed = json.loads(answer["out"])
    ids = {one.get("workflow_id", one.get("id")): one for one in listed}
    if answer["words"][0] == "orphans":
        return [f"it counts as an orphan: {ids[workflow]}"] if workflow in ids else []
    return [] if ids.get(workflow, {}).get("status") == "completed" else [f"list says {ids.get(workflow)}"]


def ran_twice(arena: Arena, workflow: str, before: Mapping[str, int], persisted: set[str]) -> list[str]:
    """Return the steps that ran again although their result was persisted when `before` was counted."""
    now = arena.began(workflow)
    again = {step: (before.get(step, 0), now[step]) for step in persisted if now[step] > before.get(step, 0)}
    return [f"{step} ran again after its result was persisted: {was} → {now}" for step, (was, now) in again.items()]


def too_few(arena: Arena, workflow: str) -> list[str]:
    """Return the steps that never ran and yet are said to have."""
    now = arena.began(workflow)
    return [f"{step} never ran" for step in (*subject.COUNTED, "sealed", "left check") if not now[step]]


def _engines(kind: str, workflow: str) -> list[str]:
    words = {"container": ["ps", "-a", "--format", "{{.Names}}"]}.get(kind, [kind, "ls", "-q"])
    form = ["docker", *words, "--filter", f"label=workflowmaster.workflow={workflow}"]
    asked = lambda: not subprocess.run(form, capture_output=True, text=True, check=True).stdout.split()  # noqa: E731
    # A removal that was begun goes on in the engine when the one who asked for it has ended.
    until(asked, 10.0)
    return subprocess.run(form, capture_output=True, text=True, check=True).stdout.split()


def _locks(arena: Arena, workflow: str) -> list[Path]:
    inside = [arena.folder(workflow) / "claim", *arena.folder(workflow).glob("*.lock")]
    return [path for path in (*inside, *(arena.home / "claims").glob(f"{workflow}*")) if path.exists()]


def _held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def servers(arena: Arena, seconds: float = 0.0) -> list[int]:
    """Return temporary Prefect servers of this state directory that still run after so many seconds."""
    mark = f"WORKFLOWMASTER_HOME={arena.home}".encode()

    def running() -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if b"workflowmaster.flows.embedded" in (place / "cmdline").read_bytes():
                    found += [int(place.name)] if mark in (place / "environ").read_bytes().split(b"\0") else []
            except OSError:
                continue  # ended meanwhile
        return found

    until(lambda: not running(), seconds)
    return running()
