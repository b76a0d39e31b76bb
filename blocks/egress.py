"""The way out of a container that has none: a proxy for each run, and a forwarder beside each step that may use it.

The hard choice: a step's container keeps `network none`, so it has no route, no names and no neighbours, and what it
may reach comes to it. In its network namespace, and in nothing else of it, a second container from our own image
listens on 127.0.0.1:3128 (socat) and passes on to a unix socket that lies in the proxy's container; there a third
listener (socat again, because squid speaks TCP only) takes it to squid from the loopback address that stands for this
step. So it works for every step image, for an orchestrator that is not root and for an engine elsewhere: nothing is
mounted from the host, entered or executed in the step's container. The accepted cost is a second, small container for
each step that has a list; it starts while the step is parked. What else was tried: `docs/decisions/007-egress.md`.

The sockets lie in an anonymous volume of the proxy's container, which the engine removes with the last container that
uses it, so there is nothing to clean up by name. The proxy's pid 1 is a shell that is told what to do on its stdin and
says on its stdout what squid logs. When the orchestrator is gone, however it went, that stdin ends, and with it the
proxy: nothing is let through that nobody writes down.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks import squid
from workflowmaster.blocks.engine import OURS, SandboxUnavailable
from workflowmaster.blocks.streams import Frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from workflowmaster.blocks.engine import Engine
    from workflowmaster.policies.hosts import Address

ADDRESS = f"127.0.0.1:{squid.PORT}"
"""Where a step finds the proxy: in its own loopback."""

ENVIRONMENT = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), f"http://{ADDRESS}"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1"),
}
"""What makes pip, git, curl, npm and most others use it. Both spellings: curl reads only the small `http_proxy`."""

SUPERVISOR = r"""
while read -r verb name size && [ "$verb" = file ]; do
  case $name in */*) mkdir -p "/tmp/${name%/*}" ;; esac
  head -c "$size" >"/tmp/$name" || exit 1
done
[ "$verb" = start ] || exit 1
squid -N -f /tmp/squid.conf </dev/null & squid=$!
until socat -u OPEN:/dev/null TCP4:127.0.0.1:3128 2>/dev/null; do
  kill -0 "$squid" 2>/dev/null || exit 1
  sleep 0.02
done
echo ready
while read -r verb name address; do
  case $verb in
  open)
    setsid socat "UNIX-LISTEN:/sockets/$name,fork,backlog=128,max-children=200" \
      "TCP4:127.0.0.1:3128,bind=$address" </dev/null >/dev/null 2>&1 &
    eval "pid_$name=$!"
    until [ -S "/sockets/$name" ] || ! kill -0 "$!" 2>/dev/null; do sleep 0.005; done
    echo "opened $name"
    ;;
  close)
    eval "pid=\$pid_$name"
    kill -s TERM -- "-$pid" 2>/dev/null
    wait "$pid"
    rm -f "/sockets/$name"
    {
      while kill -s 0 -- "-$pid" 2>/dev/null; do sleep 0.005; done
      printf 'GET http://end-of-%s.invalid/ HTTP/1.0\r\n\r\n' "$name" | socat -t 5 STDIO TCP4:127.0.0.1:3128
    } >/dev/null 2>&1 </dev/null &
    ;;
  esac
done
"""
"""Pid 1 of the proxy's container.

Each listener is a process group of its own, so `close` ends its connections too. Then a request of our own, which
nobody else can make because it comes from 127.0.0.1, goes through squid: once its line is in the log, all are.
"""

USER = "3128:3128"
STARTED = 30.0
"""Seconds a proxy may take to start; it takes half a second."""
ANSWERED = 10.0
"""Seconds for everything that is a matter of milliseconds."""
COMPLETE = 3.0
"""Seconds to wait for the rest of a step's log."""

_END = re.compile(r"end-of-(\d+)\.invalid")
_HARDENED: dict[str, Any] = {
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "read_only": True,
    "init": True,
    "ipc_mode": "private",
    "log_config": {"Type": "none"},
    # Podman's service may not be able to give the limits it gives by itself.
    "ulimits": [{"Name": "nofile", "Soft": 8192, "Hard": 8192}, {"Name": "core", "Soft": 0, "Hard": 0}],
}


@dataclass(frozen=True)
class ProxyRequest:
    """Everything that must be known to start a proxy."""

    name: str
    image_id: str
    configuration: str
    """Squid's. It travels over stdin: what is secret in it is in no argv, no file of this host, no engine's record."""
    labels: Mapping[str, str]
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Names for the proxy's own hosts file."""


@dataclass(frozen=True)
class Door:
    """One container's way into the proxy."""

    name: str
    """Its socket's."""
    source: str
    """The address it speaks to squid from, which is in each line of the log."""


class Proxy:
    """A running proxy. Its methods may be called from any thread; `told` is called from a thread of its own."""

    def __init__(self, engine: Engine, request: ProxyRequest, told: Callable[[squid.Attempt], None]) -> None:
        self.id = ""
        self._engine, self._request, self._told = engine, request, told
        self._stream: socket.socket | None = None
        self._heard = threading.Condition()
        self._words: set[str] = set()
        """What it has said and nobody has waited for yet."""
        self._over = False
        self._errors: deque[str] = deque(maxlen=8)
        self._count = 0
        self._serials: dict[int, set[int]] = {}
        """List → serials that are in use."""

    def start(self) -> Proxy:
        """Start it and wait until it listens. Raises SandboxUnavailable, and leaves nothing behind."""
        request = self._request
        labels = {f"{OURS}.{key}": value for key, value in request.labels.items()}
        config = {
            "image": request.image_id,
            "command": ["/bin/sh", "-c", SUPERVISOR],
            "entrypoint": "",
            "user": USER,
            "stdin_open": True,
            "labels": labels,
            "volumes": ["/sockets"],
            "healthcheck": {"test": ["NONE"]},
        }
        host = {
            **_HARDENED,
            "network_mode": "bridge",
            "tmpfs": {"/tmp": "rw,nosuid,nodev,noexec,size=64m,mode=1777"},  # noqa: S108 - the container's own
            "mem_limit": "1g",
            "memswap_limit": "1g",
            "pids_limit": 4096,
            "extra_hosts": dict(request.hosts),
        }
        self.id = self._engine.create(request.name, config, host)
        try:
            self._begin()
        except BaseException:
            with contextlib.suppress(SandboxUnavailable):  # the first error is the one that explains
                self.stop()
            raise
        return self

    def _begin(self) -> None:
        self._stream = self._engine.attach(self.id)
        self._engine.start(self.id)
        threading.Thread(target=self._listen, name=self._request.name, daemon=True).start()
        files = {"squid.conf": self._request.configuration, **{f"pages/{n}": t for n, t in squid.pages().items()}}
        for name, text in files.items():
            self._send(f"file {name} {len(text.encode())}\n{text}")
        self._send("start\n")
        if not self._wait("ready", STARTED):
            raise SandboxUnavailable(f"the network proxy did not start: {self.last_words}", reason="network")

    @property
    def alive(self) -> bool:
        """Whether it can still be spoken to."""
        return not self._over

    @property
    def last_words(self) -> str:
        """What it said last on stderr, for an error message."""
        return " | ".join(self._errors) or "it said nothing"

    def open(self, number: int) -> Door:
        """Make a way in for one container under the list of that number. Raises SandboxUnavailable."""
        with self._heard:
            used = self._serials.setdefault(number, set())
            # The lowest that is free: the address plan has room for 4094 containers of a list at a time.
            serial = next((n for n in range(1, squid.MOST + 1) if n not in used), 0)
            if not serial:
                raise SandboxUnavailable(f"more than {squid.MOST} containers use one network list", reason="network")
            used.add(serial)
            self._count += 1
            door = Door(str(self._count), squid.source(number, serial))
        self._send(f"open {door.name} {door.source}\n")
        if not self._wait(f"opened {door.name}", ANSWERED):
            raise SandboxUnavailable(f"the network proxy does not answer: {self.last_words}", reason="network")
        return door

    def close(self, door: Door, seconds: float = COMPLETE) -> bool:
        """Cut a container's connections; return whether everything it did has been told by now."""
        with contextlib.suppress(SandboxUnavailable):  # it is dead, so there is nothing more to come
            self._send(f"close {door.name}\n")
        complete = self._wait(f"end {door.name}", seconds)
        if complete:
            # Only then may another container speak from this address.
            number, serial = squid.place(door.source)
            with self._heard:
                self._serials[number].discard(serial)
        return complete

    def stop(self) -> None:
        """End it and remove its container."""
        if self._stream is not None:
            # `shutdown`, because a thread that sits in recv is not woken by `close`.
            with contextlib.suppress(OSError):
                self._stream.shutdown(socket.SHUT_RDWR)
            self._stream.close()
        if self.id:
            self._engine.remove(self.id)

    def _send(self, text: str) -> None:
        with self._heard:
            try:
                if self._stream is None or self._over:
                    raise BrokenPipeError
                self._stream.sendall(text.encode())
            except OSError as error:
                raise SandboxUnavailable(f"the network proxy is gone: {self.last_words}", reason="network") from error

    def _wait(self, word: str, seconds: float) -> bool:
        with self._heard:
            self._heard.wait_for(lambda: word in self._words or self._over, seconds)
            found = word in self._words
            self._words.discard(word)
            return found

    def _listen(self) -> None:
        """Read until it ends: lines of the log and its answers on stdout, troubles on stderr."""
        frames, rest = Frames(), {1: b"", 2: b""}
        try:
            while self._stream and (data := self._stream.recv(65536)):
                for stream, chunk in frames.feed(data):
                    *lines, rest[stream] = (rest[stream] + chunk).split(b"\n")
                    for line in lines:
                        self._hear(stream, line.decode(errors="replace"))
        except OSError:
            pass  # the connection is torn, which means the same as its end
        with self._heard:
            self._over = True
            self._heard.notify_all()

    def _hear(self, stream: int, line: str) -> None:
        if stream == 2:
            self._errors.append(line.strip())
            return
        found = squid.attempt(line)
        word = line if found is None else ""
        if found and found.source == "127.0.0.1":
            end = _END.fullmatch(found.host)
            word = f"end {end[1]}" if end else ""
        elif found:
            self._told(found)
        if word:
            with self._heard:
                self._words.add(word)
                self._heard.notify_all()


class Forwarder:
    """The listener in one step's loopback: a container of ours in the network namespace of the step's."""

    def __init__(self, engine: Engine, proxy: Proxy, door: Door) -> None:
        self.id = ""
        self._engine, self._proxy, self._door = engine, proxy, door

    def start(self, beside: str, *, name: str, image_id: str, labels: Mapping[str, str]) -> Forwarder:
        """Start it beside the container of that id and wait until it listens. Raises SandboxUnavailable."""
        listen = f"TCP4-LISTEN:{squid.PORT},bind=127.0.0.1,reuseaddr,fork,backlog=128,max-children=200"
        config = {
            "image": image_id,
            # Two -d: it says when it listens, which is what is waited for.
            "command": ["socat", "-d", "-d", listen, f"UNIX-CONNECT:/sockets/{self._door.name}"],
            "entrypoint": "",
            "user": USER,
            "labels": {f"{OURS}.{key}": value for key, value in labels.items()},
            "healthcheck": {"test": ["NONE"]},
        }
        host = {
            **_HARDENED,
            "network_mode": f"container:{beside}",
            "volumes_from": [f"{self._proxy.id}:ro"],
            "mem_limit": "128m",
            "memswap_limit": "128m",
            "pids_limit": 256,
        }
        self.id = self._engine.create(name, config, host)
        try:
            stream = self._engine.attach(self.id)
            with contextlib.closing(stream):
                self._engine.start(self.id)
                _until_it_listens(stream)
        except BaseException:
            with contextlib.suppress(SandboxUnavailable):  # the first error is the one that explains
                self.remove()
            raise
        return self

    def remove(self) -> None:
        """Remove its container."""
        if self.id:
            self._engine.remove(self.id)


def _until_it_listens(stream: socket.socket) -> None:
    frames, said, until = Frames(), b"", time.monotonic() + ANSWERED
    stream.settimeout(ANSWERED)
    try:
        while time.monotonic() < until and (data := stream.recv(65536)):
            said += b"".join(chunk for _, chunk in frames.feed(data))
            if b"listening on" in said:
                return
    except TimeoutError:
        pass
    words = said.decode(errors="replace").strip() or "it said nothing"
    raise SandboxUnavailable(f"the forwarder to the network proxy does not listen: {words}", reason="network")


def own_addresses(engine: Engine) -> tuple[Address, ...]:
    """Return the addresses of the engine's host, on every interface, as far as they can be known from here."""
    if engine.info.local:
        import psutil

        texts = [one.address for some in psutil.net_if_addrs().values() for one in some]
    else:
        # Its interfaces cannot be listed from here; the one that it is known by can be looked up.
        where = re.sub(r"^\w+://(.*@)?|:\d+$|/.*$", "", engine.url)
        try:
            texts = [str(info[4][0]) for info in socket.getaddrinfo(where, None)]
        except OSError:
            texts = []
    found = []
    for text in texts:
        with contextlib.suppress(ValueError):  # a hardware address
            found.append(ipaddress.ip_network(text.partition("%")[0]))
    return tuple(dict.fromkeys(found))
