"""The proxy and its forwarders on a real engine: what gets through, what does not, what is told, what is left."""

from __future__ import annotations

import contextlib
import http.server
import json
import secrets
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from workflowmaster.blocks import egress, squid
from workflowmaster.blocks.engine import Engine, SandboxUnavailable
from workflowmaster.blocks.imagebuild import PROXY, build
from workflowmaster.blocks.owner import Owner
from workflowmaster.policies.hosts import Exceptions, Reach

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

BODY = b"x" * 5000
GATEWAY = "host.docker.internal"

# Asks for each URL, without ever raising, and says what came of it and how long it took.
ASK = """
import json, sys, time, urllib.request
for url in sys.argv[1:]:
    began = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            said = [answer.status, answer.read().decode(errors="replace")]
    except Exception as error:
        said = [getattr(error, "code", 0), error.read().decode() if hasattr(error, "read") else str(error)]
    print(json.dumps([url, *said, time.monotonic() - began]))
"""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_args: object) -> None:
        """Keep the test's output free of it."""


@dataclass
class Site:
    """A server on this host."""

    port: int
    seen: list[tuple[str, dict[str, str]]]

    def url(self, host: str = GATEWAY, path: str = "/") -> str:
        return f"http://{host}:{self.port}{path}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Site(server.server_port, server.seen)  # type: ignore[attr-defined]
    server.shutdown()


@dataclass
class World:
    """One proxy with two lists, and a container under each."""

    engine: Engine
    proxy: egress.Proxy
    name: str
    labels: dict[str, str]
    steps: dict[int, str]
    doors: dict[int, egress.Door]
    told: list[squid.Attempt] = field(default_factory=list)

    def execute(self, number: int, *command: str, **env: str) -> str:
        given = [word for name, value in {**egress.ENVIRONMENT, **env}.items() for word in ("-e", f"{name}={value}")]
        words = ["docker", "exec", *given, self.steps[number], *command]
        return subprocess.run(words, capture_output=True, text=True, timeout=90, check=False).stdout

    def ask(self, number: int, *urls: str, **env: str) -> dict[str, tuple[int, str, float]]:
        lines = self.execute(number, "python3", "-c", ASK, *urls, **env).splitlines()
        return {url: (code, body, seconds) for url, code, body, seconds in map(json.loads, lines)}

    def step(self, number: int) -> None:
        """Start a container without any network, and give it its way out."""
        config = {"image": "workflowmaster/step:1", "command": ["sleep", "600"], "labels": self.our_labels}
        self.steps[number] = self.engine.create(f"{self.name}-{number}", config, {"network_mode": "none", "init": True})
        self.engine.start(self.steps[number])
        self.doors[number] = self.proxy.open(number)
        egress.Forwarder(self.engine, self.proxy, self.doors[number]).start(
            self.steps[number], name=f"{self.name}-{number}-net", image_id=image(self.engine), labels=self.labels
        )

    @property
    def our_labels(self) -> dict[str, str]:
        return {f"workflowmaster.{key}": value for key, value in self.labels.items()}


def image(engine: Engine) -> str:
    build(PROXY)
    found = engine.image_id(PROXY.reference)
    assert found
    return found


def volumes() -> set[str]:
    done = subprocess.run(["docker", "volume", "ls", "-q"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def configuration(site: Site, engine: Engine) -> str:
    inside = Reach.of(
        [f"{GATEWAY}:{site.port}", f"private.example:{site.port}", "meta.example", "loop.example", "*.sub.example"],
        ["no.sub.example"],
    )
    return squid.configuration(
        [inside, Reach.of(["*"], ["blocked.example"])],
        exceptions=Exceptions.of([GATEWAY, "loop.example"]),
        own=egress.own_addresses(engine),
    )


HOSTS = {
    GATEWAY: "host-gateway",
    # Public names as an attacker would set them up.
    "private.example": "host-gateway",
    "meta.example": "169.254.169.254",
    "loop.example": "127.0.0.1",
    "a.sub.example": "192.168.1.1",
}


@contextlib.contextmanager
def world(site: Site) -> Iterator[World]:
    engine, name = Engine(), f"test-egress-{secrets.token_hex(4)}"
    labels = {"workflow": name, **Owner.me().labels()}
    told: list[squid.Attempt] = []
    request = egress.ProxyRequest(f"{name}-proxy", image(engine), configuration(site, engine), labels, HOSTS)
    made = World(engine, egress.Proxy(engine, request, told.append).start(), name, labels, {}, {}, told)
    try:
        yield made
    finally:
        made.proxy.stop()
        for one in engine.containers(workflow=name):
            engine.remove(one["Id"])
        engine.close()


@pytest.fixture(scope="module")
def two(site: Site) -> Iterator[World]:
    with world(site) as made:
        made.step(1)
        made.step(2)
        yield made


def test_a_named_host_is_reached(two, site):
    answer = two.ask(1, site.url(path="/page"))
    assert answer[site.url(path="/page")][:2] == (200, BODY.decode())


def test_nothing_of_the_proxy_travels_on(two, site):
    two.ask(1, site.url(path="/headers"))
    (headers,) = [headers for path, headers in site.seen if path == "/headers"]
    assert {name.lower() for name in headers} & {"via", "x-forwarded-for", "forwarded", "x-cache"} == set()


@pytest.mark.parametrize(
    ("number", "url", "word"),
    [
        (1, "http://evil.example/", "evil.example is not among the hosts"),
        (1, f"http://{GATEWAY}/", f"port 80 of {GATEWAY} is not open"),
        (1, "http://no.sub.example/", "blocked by `network: blocked`"),
        (1, "http://sub.example/", "is not among the hosts"),
        # A name that is allowed and points inside; one of them even excepted by name, which never opens loopback.
        (1, "http://private.example:{port}/", "an address inside"),
        (1, "http://meta.example/", "an address inside"),
        (1, "http://loop.example/", "an address inside"),
        (1, "http://a.sub.example/", "an address inside"),
        (2, "http://a.sub.example/", "an address inside"),
        (2, "http://meta.example/latest/meta-data/", "an address inside"),
        (2, "http://blocked.example/", "blocked by `network: blocked`"),
        # Addresses in every spelling.
        (2, "http://8.8.8.8/", "is not among the hosts"),
        (2, "http://169.254.169.254/", "is not among the hosts"),
        (2, "http://127.0.0.1:3128/", "is not among the hosts"),
        (2, "http://2130706433/", "is not among the hosts"),
        (2, "http://0x7f.1/", "is not among the hosts"),
        (2, "http://127.1/", "is not among the hosts"),
        (2, "http://[::1]/", "is not among the hosts"),
        (2, "http://[::ffff:127.0.0.1]/", "is not among the hosts"),
        (2, "http://example.org:22/", "port 22 of example.org is not open"),
    ],
)
def test_what_is_refused_and_why(two, site, number, url, word):
    url = url.format(port=site.port)
    # Without this, urllib would not ask the proxy for addresses of the loopback at all.
    code, body, seconds = two.ask(number, url, no_proxy="", NO_PROXY="")[url]
    assert (code, word in body) == (403, True), body
    assert body.startswith("Refused by WorkflowMaster's proxy")
    assert seconds < 1


def test_a_refusal_of_https_is_one_of_the_tunnel(two):
    said = two.ask(1, "https://evil.example/")["https://evil.example/"]
    assert "403" in said[1]
    assert said[2] < 1


def test_a_public_host_is_let_through_whatever_comes_of_it(two):
    before = len(two.told)
    code, body, _ = two.ask(2, "http://nowhere.invalid/")["http://nowhere.invalid/"]
    assert code in (502, 503)
    assert body.startswith("WorkflowMaster's proxy (squid) let this through, but ")
    assert all(attempt.allowed for attempt in two.told[before:])


def test_without_the_proxy_there_is_no_way_and_no_wait(two, site):
    """No names, no routes, no gateway: each fails at once."""
    script = (
        "import socket,time\n"
        f"for what in (('example.org', 80), ('172.17.0.1', {site.port}), ('{GATEWAY}', 80), ('8.8.8.8', 53)):\n"
        " t=time.monotonic()\n"
        " try: socket.create_connection(what, timeout=30); print('reached', what)\n"
        " except OSError: print('no', time.monotonic() - t < 1)\n"
    )
    assert two.execute(1, "python3", "-c", script).splitlines() == ["no True"] * 4
    assert two.execute(1, "cat", "/proc/net/route").splitlines()[1:] == []


def test_the_socket_is_nowhere_in_the_steps_container(two):
    assert two.execute(1, "find", "/", "-xdev", "-type", "s").split() == []
    assert "sockets" not in two.execute(1, "cat", "/proc/mounts")
    # What listens is the forwarder alone, and it speaks to one list only.
    assert two.execute(1, "sh", "-c", "ls /sockets 2>&1; ps -e | grep -c socat").split()[-1] == "0"


def test_no_word_to_the_proxy_changes_who_speaks(two, site):
    """A client can say anything to the proxy, but not from where it says it."""
    script = (
        "import socket\n"
        "for line in ('X-Forwarded-For: 127.0.32.1', 'Forwarded: for=127.0.32.1', 'X-Client-IP: 127.0.32.1'):\n"
        " s=socket.create_connection(('127.0.0.1', 3128), timeout=5)\n"
        " s.sendall(f'GET http://nowhere.invalid/ HTTP/1.0\\r\\n{line}\\r\\n\\r\\n'.encode())\n"
        " print(s.recv(100).split()[1].decode())\n"
        "s=socket.create_connection(('127.0.0.1', 3128), timeout=5)\n"
        "s.sendall(b'PROXY TCP4 127.0.32.1 127.0.0.1 1 3128\\r\\nGET http://nowhere.invalid/ HTTP/1.0\\r\\n\\r\\n')\n"
        "print(s.recv(100).split()[1].decode())\n"
        "s=socket.create_connection(('127.0.0.1', 3128), timeout=5)\n"
        "s.sendall(b'GET http://end-of-2.invalid/ HTTP/1.0\\r\\n\\r\\n')\n"
        "print(s.recv(100).split()[1].decode())\n"
    )
    assert two.execute(1, "python3", "-c", script).split() == ["403", "403", "403", "400", "403"]


def test_the_list_of_one_is_not_the_others(two, site):
    """The second may go to any public host and not to this one; the first only to this one."""
    assert two.ask(2, site.url())[site.url()][0] == 403
    assert two.ask(1, site.url())[site.url()][0] == 200


def test_the_manager_of_squid_is_out_of_reach(two):
    urls = ("http://127.0.0.1:3128/squid-internal-mgr/info", "http://workflowmaster:3128/squid-internal-mgr/info")
    for number in (1, 2):
        answers = two.ask(number, *urls, no_proxy="", NO_PROXY="")
        assert all("Connection information" not in body for _, body, _ in answers.values()), answers


def test_what_the_containers_may_do(two):
    """Neither the proxy nor a forwarder has a capability, a mount of this host, or a file system it can write to."""
    for name in (f"{two.name}-proxy", f"{two.name}-1-net"):
        found = two.engine.inspect(name)
        host = found["HostConfig"]
        assert (host["CapDrop"], host["ReadonlyRootfs"], host["Privileged"]) == (["ALL"], True, False)
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["Binds"] is None
        assert [mount["Type"] for mount in found["Mounts"]] == ["volume"]
        assert found["Config"]["User"] == egress.USER
        assert host["PidsLimit"]
        assert host["Memory"]
    assert two.engine.inspect(f"{two.name}-1-net")["Mounts"][0]["RW"] is False
    assert two.engine.inspect(f"{two.name}-1-net")["HostConfig"]["NetworkMode"] == f"container:{two.steps[1]}"


def test_every_attempt_is_told_before_the_door_is_shut(site):
    """Also those that were under way, and in the right number: the mark goes through the proxy behind them."""
    with world(site) as one:
        one.step(1)
        for round_ in range(3):
            count = 20 * (round_ + 1)
            urls = [site.url(path=f"/{n}") for n in range(count)]
            before = len(one.told)
            one.ask(1, *urls)
            assert one.proxy.close(one.doors[1])
            assert len(one.told) == before + count
            assert {attempt.source for attempt in one.told[before:]} == {one.doors[1].source}
            assert sum(attempt.received for attempt in one.told[before:]) > count * len(BODY)
            # The address is free again, the socket has another name: a late word of the old one is nobody's.
            again = one.proxy.open(1)
            assert again.source == one.doors[1].source
            one.engine.remove(f"{one.name}-1-net")
            egress.Forwarder(one.engine, one.proxy, again).start(
                one.steps[1], name=f"{one.name}-1-net", image_id=image(one.engine), labels=one.labels
            )
            one.doors[1] = again


def test_a_connection_under_way_is_cut_and_told(site):
    with socket.create_server(("0.0.0.0", 0)) as silent, world(site) as one:
        port = silent.getsockname()[1]
        configured = Reach.of([f"{GATEWAY}:{port}"])
        request = egress.ProxyRequest(
            f"{one.name}-other",
            image(one.engine),
            squid.configuration([configured], exceptions=Exceptions.of([GATEWAY])),
            one.labels,
            {GATEWAY: "host-gateway"},
        )
        told: list[squid.Attempt] = []
        one.proxy.stop()
        one.proxy = egress.Proxy(one.engine, request, told.append).start()
        one.step(1)
        script = (
            "import socket; s=socket.create_connection(('127.0.0.1', 3128))\n"
            f"s.sendall(b'CONNECT {GATEWAY}:{port} HTTP/1.0\\r\\n\\r\\n'); print(s.recv(50)); s.sendall(b'y'*1000)\n"
            "import time; time.sleep(60)"
        )
        subprocess.run(["docker", "exec", "-d", one.steps[1], "python3", "-c", script], check=True)
        there, _ = silent.accept()
        with there:
            assert there.recv(1000, socket.MSG_WAITALL) == b"y" * 1000
            assert one.proxy.close(one.doors[1])
            (attempt,) = told
            assert (attempt.method, attempt.port, attempt.allowed) == ("CONNECT", port, True)
            assert attempt.sent >= 1000
            assert there.recv(1) == b""


def test_nothing_is_left(site):
    before = volumes()
    with world(site) as one:
        one.step(1)
        name = one.name
        assert volumes() - before
    assert Engine().containers(workflow=name) == []
    # Other tests may make volumes meanwhile; ours has no name, only an id.
    assert not [volume for volume in volumes() - before if len(volume) == 64]


def test_when_the_orchestrator_is_gone_so_is_the_proxy(site, wait_until):
    with world(site) as one:
        one.step(1)
        assert one.ask(1, site.url())[site.url()][0] == 200
        # What the kernel does to a killed process's connections.
        one.proxy._stream.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not one.engine.state(one.proxy.id)["Running"])
        assert one.ask(1, site.url())[site.url()][0] == 0
        assert not one.proxy.alive
        with pytest.raises(SandboxUnavailable, match="the network proxy is gone"):
            one.proxy.open(1)


def test_a_configuration_that_squid_refuses_is_quoted():
    engine, name = Engine(), f"test-egress-{secrets.token_hex(4)}"
    request = egress.ProxyRequest(name, image(engine), "no_such_word\n", {"workflow": name})
    with pytest.raises(SandboxUnavailable, match=r"did not start:.*no_such_word") as refused:
        egress.Proxy(engine, request, print).start()
    assert refused.value.reason == "network"
    assert engine.containers(workflow=name) == []


def test_what_it_costs(site, record_property):
    """Not a benchmark: on a loaded machine only that it stays far from what a person would notice."""
    began = time.monotonic()
    with world(site) as one:
        record_property("proxy_seconds", time.monotonic() - began)
        assert time.monotonic() - began < 15
        began = time.monotonic()
        one.step(1)
        record_property("step_and_forwarder_seconds", time.monotonic() - began)
        assert time.monotonic() - began < 10
