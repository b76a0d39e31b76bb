"""A run that stands still in the middle of a step for as long as a fault takes, and how it must end afterwards.

The step waits for a file in its own container, which only the engine can put there: so a fault hits a known moment, and
no sleep has to be long enough. What a step leaves depends on nothing but its input.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT = """\
# Held in the middle

## Steps

### one
```bash
echo ran; echo one > one.txt
```

### two
- needs: one
- checkpoint: true
```bash
echo ran
until [ -e /tmp/go ] || [ "$WM_ATTEMPT" != 1 ]; do sleep 0.02; done
head -c {made} /dev/zero | tr '\\0' x > two.txt
head -c {printed} /dev/zero | tr '\\0' y
```

### three
- needs: two
```bash
echo ran; wc -c < two.txt > three.txt
```
"""


def prompt(*, made: int = 10, printed: int = 10) -> str:
    """Return the prompt's text; step two leaves a file of `made` bytes, and prints `printed`."""
    return PROMPT.format(made=made, printed=printed)


def files(*, made: int = 10) -> dict[str, str]:
    """What the branch holds in the end, whatever happened on the way."""
    return {"a.txt": "a", "one.txt": "one", "two.txt": "x" * made, "three.txt": str(made)}


@dataclass
class Held:
    """A run whose step two works and waits."""

    line: Any
    repo: Any
    running: Any
    id: str
    host: str = ""
    """Address of the engine; empty for this machine's."""

    @property
    def folder(self) -> Path:
        return self.line.home / "workflows" / self.id

    @property
    def container(self) -> str:
        return f"{self.id}-two-1"

    def docker(self, *words: str) -> None:
        subprocess.run(["docker", *(["-H", self.host] if self.host else []), *words], check=True, capture_output=True)

    def go(self) -> None:
        """Let step two go on."""
        self.docker("exec", self.container, "touch", "/tmp/go")

    def ran(self) -> dict[str, int]:
        """Step → how often its command ran: each attempt that came to it said so in a log of its own."""
        return ran(self.folder)

    def resumed(self, *, made: int = 10) -> Any:
        """Resume, and hold that it ends as an undisturbed run does, with its log of what happened whole."""
        said = self.line("resume", self.id, "--json", "-q")
        assert said.code == 0, said.text
        ends_well(self.repo, said, made=made)
        verified = self.line("audit", "verify", self.id)
        assert verified.code == 0, verified.text
        return said


def ran(folder: Path) -> dict[str, int]:
    """Step → how often its command ran, by the logs of a workflow's folder."""
    names = [path.name.split(".")[0] for path in (folder / "logs").iterdir() if path.read_bytes().startswith(b"ran\n")]
    return {name: names.count(name) for name in sorted(set(names))}


def hold(line: Any, repo: Any, prompt_file: Path, wait_until: Callable[..., Any], *, host: str = "") -> Held:
    """Start a run and return it once its step two waits."""
    known = set((line.home / "workflows").glob("*"))
    running = line.start("run", prompt_file, "--workspace", repo.path, "--json", "-q")

    def works() -> str:
        assert running.process.poll() is None, running.ended().text
        logs = list((line.home / "workflows").glob("*/logs/two.1.log"))
        new = [log for log in logs if log.parents[1] not in known and log.read_text() == "ran\n"]
        return new[0].parents[1].name if new else ""

    return Held(line, repo, running, wait_until(works, 90.0), host)


def ends_well(repo: Any, said: Any, *, made: int = 10) -> None:
    """Hold that a run has made what an undisturbed one makes."""
    assert said.code == 0, said.text
    found = json.loads(said.out)
    assert repo.files(found["commit"]) == files(made=made)
    assert {task["status"] for task in found["tasks"]} == {"completed"}


def says_clearly(said: Any, *words: str) -> None:
    """Hold that a run which could not go on says why in a sentence, with how to go on, and without a traceback."""
    assert said.code == 4, (said.code, said.text)
    assert "Traceback" not in said.text, said.text
    (line,) = [line for line in said.err.splitlines() if line.strip()]
    assert line.startswith("error: "), said.err
    for word in words:
        assert word in line, (word, line)
