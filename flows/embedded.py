"""A Prefect server of our own for runs without one: SQLite in the state directory, gone when its owner is.

Prefect can start a temporary server itself, but that one outlives a killed owner for ever, prints tracebacks when it
is stopped, and starts only when the first request is made. Ours reads a pipe whose other end only the owner holds: the
kernel closes it however the owner ends, `kill -9` included, and the server then shuts down in order, so that the last
task states, which travel as events, reach the database. The port is bound by the owner, so there is no race for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

from workflowmaster.blocks.engine import SandboxUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    import uvicorn

READY_SECONDS = 90.0
"""How long a start may take: the first one creates the database, which took 11 s on a slow machine."""

LAST_WORDS_SECONDS = 20.0
"""How long an orphaned server may take to write what it was sent, before it ends regardless."""


def environment(home: Path) -> dict[str, str]:
    """Return Prefect's settings for a run without a server: all files under `home`, nothing reported anywhere."""
    folder = home / "prefect"
    return {
        "PREFECT_HOME": str(folder),
        "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    }


class EmbeddedServer:
    """A server child process. `start` returns at once; `wait_ready` blocks until it answers."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> EmbeddedServer:
        """Start the child; its output goes to `prefect/server.log` in the state directory."""
        folder = self._home / "prefect"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        child = {**os.environ, **environment(self._home), "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
        child |= {"PREFECT__SERVER_FINAL": "1", "PREFECT_LOGGING_SERVER_LEVEL": "WARNING"}
        child.pop("PREFECT_API_URL", None)
        # Secrets are for this process alone, and a process's environment is readable for as long as it lives.
        child = {name: value for name, value in child.items() if not name.startswith("WORKFLOWMASTER_SECRET_")}
        number = self._listener.fileno()
        with (folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workflowmaster.flows.embedded", str(number)],
                stdin=subprocess.PIPE,  # never written to: its closing is the signal
                stdout=log,
                stderr=log,
                env=child,
                pass_fds=(number,),
                start_new_session=True,  # Ctrl-C on the terminal is for the owner alone
            )
        # Ours is closed, or a server that died would leave clients waiting in our backlog instead of being refused.
        self._listener.close()
        return self

    def wait_ready(self, seconds: float = READY_SECONDS) -> str:
        """Wait until the server answers and return its URL. Raises SandboxUnavailable with the log's place."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            with contextlib.suppress(URLError, OSError), urlopen(f"{self.url}/health", timeout=seconds) as answer:  # noqa: S310
                if answer.status == 200:
                    return self.url
            time.sleep(0.02)
        log = self._home / "prefect" / "server.log"
        raise SandboxUnavailable(
            f"the temporary Prefect server did not start within {seconds:.0f} s: see the end of {log}; "
            "`workflowmaster doctor` checks the versions it needs",
            reason="prefect",
        )

    @property
    def pid(self) -> int:
        """The child's pid; 0 before the start."""
        return self._process.pid if self._process else 0

    def stop(self, *, wait: bool = False) -> None:
        """Tell the server to finish. It ends by itself, when all it was sent is stored; `wait` waits for that."""
        if self._process is None:
            return
        if self._process.stdin:
            self._process.stdin.close()
        if wait:
            self._process.wait()
        else:
            # Reaped by init once we have ended; saying so keeps Popen from warning about it.
            self._process.returncode = self._process.returncode or 0


def serve(number: int) -> None:
    """Run the server on an inherited, listening socket until stdin is closed."""
    import uvicorn
    from prefect.server.api.server import create_app

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = uvicorn.Config(create_app(), log_level="error", lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    threading.Thread(target=_until_orphaned, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=number)])


def _until_orphaned(server: uvicorn.Server) -> None:
    with contextlib.suppress(OSError):
        os.read(0, 1)
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    before: dict[str, dict[str, int]] = {}
    # Task states lie in the server's queues for up to seconds; its services store what they hold when they are
    # stopped, but not what they have not yet taken. Two equal looks half a second apart: nothing more is coming.
    while time.monotonic() < deadline and (now := _traffic()) != before:
        before = now
        time.sleep(0.5)
    server.should_exit = True
    time.sleep(LAST_WORDS_SECONDS)
    os._exit(1)


def _traffic() -> dict[str, dict[str, int]]:
    from prefect.server.utilities.messaging.memory import METRICS

    return {topic: dict(counts) for topic, counts in METRICS.items()}


def drain_client(seconds: float = 10.0) -> None:
    """Send what Prefect's client still holds back, events and logs, before the server is told to finish."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=seconds, at_exit=False)
    EventsWorker.drain_all(timeout=seconds, at_exit=False)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
