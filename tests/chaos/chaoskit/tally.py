"""Who ran, told by nobody who could be torn apart: a listener for the steps' own knocks, and the engine's events."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

HEARD = b"heard\n"
TIMEOUT = 10.0
"""Seconds a knock may take to be said."""


class Ran(NamedTuple):
    """One time that a step's own code began."""

    container: str
    """First twelve digits of its id."""
    step: str
    attempt: str
    """Its number; `check` for the step's check."""


class Tally:
    """Listens on the engine's bridge, and writes down each knock before it is answered."""

    def __init__(self) -> None:
        form = "{{(index .IPAM.Config 0).Gateway}}"
        asked = ["docker", "network", "inspect", "-f", form, "bridge"]
        gateway = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        self._server = socket.create_server((gateway, 0), backlog=64)
        self.address = f"{gateway}/{self._server.getsockname()[1]}"
        self.runs: list[Ran] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):  # closed at the end of the session
            while True:
                threading.Thread(target=self._hear, args=(self._server.accept()[0],), daemon=True).start()

    def _hear(self, caller: socket.socket) -> None:
        with caller, suppress(OSError, ValueError):
            caller.settimeout(TIMEOUT)
            words = caller.makefile().readline().split()
            self.runs.append(Ran(*words))
            caller.sendall(HEARD)

    def close(self) -> None:
        self._server.close()


@dataclass
class Life:
    """What the engine saw of one container."""

    name: str
    workflow: str
    step: str
    exits: list[int] = field(default_factory=list)
    started: bool = False
    gone: bool = False


class Events:
    """Follows the engine's events about our containers: it cannot miss one, and no orchestrator can take one back."""

    def __init__(self) -> None:
        wanted = ["--filter", "type=container", "--filter", "label=workflowmaster.workflow"]
        # From before now on: the engine replays what happens while the follower starts.
        words = ["docker", "events", "--format", "{{json .}}", "--since", str(int(time.time())), *wanted]
        self._follower = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.lives: dict[str, Life] = {}
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        for line in self._follower.stdout or ():
            self._note(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        known = event["Actor"]["Attributes"]
        names = (known["name"], known["workflowmaster.workflow"], known.get("workflowmaster.step", ""))
        life = self.lives.setdefault(event["Actor"]["ID"][:12], Life(*names))
        if event["Action"] == "start":
            life.started = True
        elif event["Action"] == "die":
            life.exits.append(int(known["exitCode"]))
        elif event["Action"] == "destroy":
            life.gone = True

    def of(self, workflow: str) -> dict[str, Life]:
        """Return a workflow's containers, by the first twelve digits of their ids."""
        return {short: life for short, life in list(self.lives.items()) if life.workflow == workflow}

    def close(self) -> None:
        self._follower.terminate()
        self._follower.wait()


def began(tally: Tally, events: Events, workflow: str) -> Counter[str]:
    """Step → how often its own code began in a workflow; its check is `left check`, the step that cannot knock is told
    by the containers that ended well."""
    lives = events.of(workflow)
    counted = Counter(
        run.step if run.attempt != "check" else f"{run.step} check"
        for run in list(tally.runs)
        if run.container in lives
    )
    ended_well = [life.step for life in lives.values() if life.step == "sealed" and 0 in life.exits]
    return counted + Counter(ended_well)
