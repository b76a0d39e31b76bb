"""An engine on another host by ssh: its socket, brought here by `ssh -L`.

docker-py's own way wants a Python ssh library, or starts one ssh process per connection, which costs a handshake per
parallel call. One tunnel carries all of them, and what is at this end is an ordinary socket, so streams, timeouts and
half-closed connections are the kernel's and OpenSSH's business. The cost: the far side must allow the forwarding of
sockets (sshd's default), and nobody is asked for a password: keys, agent and `~/.ssh/config` must suffice.

The far command is `cat` on a pipe of ours. It ends when this process ends, however that happens, and the tunnel with
it; then the parked containers lose their stdin and end too. A bare `ssh -N` would keep them for ever.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

SECONDS = 30.0
"""How long the way may take to open."""

SOCKET = "/var/run/docker.sock"
"""Where the engine listens over there, unless the address says `ssh://host/its/socket`."""

OPTIONS = ("BatchMode=yes", "ExitOnForwardFailure=yes", "ServerAliveInterval=15", "ServerAliveCountMax=4")


def command(url: str, here: Path) -> list[str]:
    """Spell the tunnel. ConnectionError for an address without a host, or with what ssh would take for an option."""
    parts = urlsplit(url)
    if not parts.hostname or parts.hostname.startswith("-") or (parts.username or "").startswith("-"):
        raise ConnectionError(f"{url!r} is no address of an engine; expected ssh://user@host, or ssh://user@host:22")
    if parts.password:
        raise ConnectionError("an ssh address with a password is refused: everybody can read it; use a key")
    options = [word for option in OPTIONS for word in ("-o", option)]
    whom = [*(["-l", parts.username] if parts.username else []), *(["-p", str(parts.port)] if parts.port else [])]
    there = parts.path.rstrip("/") or SOCKET
    return ["ssh", "-T", *options, *whom, "-L", f"{here}:{there}", "--", parts.hostname, "cat"]


class Tunnel:
    """One open way. It opens when it is made and is closed by `close`, or by the end of this process."""

    def __init__(self, url: str) -> None:
        """Open it. ConnectionError with ssh's own words if it cannot be had."""
        self._folder = Path(tempfile.mkdtemp(prefix="wm-ssh-"))
        self.socket = self._folder / "docker.sock"
        self._said = (self._folder / "said").open("w+b")
        try:
            # A session of its own: Ctrl-C at the terminal must not cut the way by which the containers are stopped.
            self._process = subprocess.Popen(
                command(url, self.socket),
                stdin=subprocess.PIPE,
                stdout=self._said,
                stderr=self._said,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            self._tidy()
            raise ConnectionError(f"{url} needs the program ssh, and there is none on PATH") from error
        except BaseException:
            self._tidy()
            raise
        self._wait(url)

    def _wait(self, url: str) -> None:
        until = time.monotonic() + SECONDS
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                self._said.seek(0)
                words = self._said.read().decode(errors="replace").strip() or "it takes too long"
                self.close()
                raise ConnectionError(f"no way to {url}: {words}")
            time.sleep(0.01)

    def close(self) -> None:
        """Close it, and with it every connection that goes through it."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        self._tidy()

    def _tidy(self) -> None:
        self._said.close()
        shutil.rmtree(self._folder, ignore_errors=True)
