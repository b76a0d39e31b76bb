"""One place to tear runs apart in: a user with a state directory and a repository, and the command line under a fuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaoskit.tally import Events, Tally, began

DRIVER = Path(__file__).with_name("driver.py")
LONGEST = 180.0
"""Seconds one command may take before it counts as hanging."""
KILLED = -9


@dataclass(frozen=True)
class Kill:
    """At which passage of which boundary the process dies."""

    boundary: str = ""
    at: int = 1

    def __str__(self) -> str:
        return f"{self.boundary} #{self.at}"


NONE = Kill()


@dataclass(frozen=True)
class Said:
    """What one torn or whole command left behind."""

    code: int
    out: str
    err: str
    passed: tuple[str, ...] = ()
    """Boundaries it passed, in order."""

    @property
    def killed(self) -> bool:
        """Whether the drawn boundary was reached."""
        return bool(self.passed) and self.passed[-1] == "KILLED"

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Arena:
    """A user, their repository and their prompt; every run in it is one of the same plan and must end alike."""

    home: Path
    """WORKFLOWMASTER_HOME."""
    place: Path
    """Where traces go, and the user's HOME and working directory are."""
    repo: Path
    prompt: Path
    tally: Tally
    events: Events
    env: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    def environment(self, **more: str) -> dict[str, str]:
        foreign = ("WORKFLOWMASTER_", "PREFECT_", "GIT_", "XDG_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        own = {"GIT_CONFIG_NOSYSTEM": "1", "WORKFLOWMASTER_HOME": str(self.home), "HOME": str(self.place / "home")}
        return {**kept, **own, **self.env, **more}

    def start(
        self, *words: str | Path, trace: Path | None = None, kill: Kill = NONE, **env: str
    ) -> subprocess.Popen[str]:
        """Start a command; with a trace it is under the fuse."""
        fuse = [str(trace or "-"), kill.boundary, str(kill.at)]
        return subprocess.Popen(
            [sys.executable, "-P", str(DRIVER), *fuse, *map(str, words)],
            cwd=self.place,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def __call__(self, *words: str | Path, kill: Kill = NONE, traced: bool = True, **env: str) -> Said:
        """Run a command to its end, or to its kill."""
        self._count += 1
        trace = self.place / f"trace.{self._count}" if traced else None
        process = self.start(*words, trace=trace, kill=kill, **env)
        try:
            out, err = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{words} hung for {LONGEST:g} s:\n{out}\n{err}") from None
        passed = tuple(trace.read_text().splitlines()) if trace and trace.exists() else ()
        return Said(process.returncode, out, err, passed)

    def run(self, kill: Kill = NONE, **env: str) -> Said:
        return self("run", self.prompt, "--workspace", self.repo, "--json", "-q", kill=kill, **env)

    def resume(self, workflow: str, kill: Kill = NONE, **env: str) -> Said:
        return self("resume", workflow, "--json", "-q", kill=kill, **env)

    def several(self, *commands: tuple[str, ...], **env: str) -> list[dict[str, Any]]:
        """Run several short commands in one process; return each one's `words`, `code`, `out` and `err`."""
        words = [word for command in commands for word in (*command, "--then")]
        said = self(*words, traced=False, **env)
        lines = said.out.splitlines()
        assert len(lines) >= len(commands), f"looking ended with {said.code}: {said.err}"
        return [json.loads(line) for line in lines[: len(commands)]]

    @property
    def workflows(self) -> set[str]:
        """Ids of all workflows that have a folder."""
        place = self.home / "workflows"
        return {path.name for path in place.iterdir()} if place.is_dir() else set()

    def folder(self, workflow: str) -> Path:
        return self.home / "workflows" / workflow

    def began(self, workflow: str) -> Counter[str]:
        """Step → how often its own code began, as the steps themselves and the engine say."""
        return began(self.tally, self.events, workflow)

    def persisted(self, workflow: str) -> set[str]:
        """Steps with a whole persisted result: those that may never run again."""
        found = set()
        for line in _lines(self.folder(workflow) / "records.jsonl"):
            known = json.loads(line[9:]) if line.endswith("}") else {}
            if known.get("kind") == "keys" and whole(self.home / "results" / known["key"]):
                found.add(known["step"])
        return found

    def git(self, *words: str) -> str:
        form = ["git", "-c", "safe.directory=*", "-C", str(self.repo), *words]
        return subprocess.run(form, capture_output=True, text=True, check=True, env=self.environment()).stdout.strip()


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def whole(result: Path) -> bool:
    """Whether a result file is all there."""
    try:
        return "result" in json.loads(result.read_bytes())
    except (OSError, ValueError):
        return False


def until(look: Any, seconds: float = 30.0) -> Any:
    """Return the first true answer of `look`; the last one when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
