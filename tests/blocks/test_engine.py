"""The connection to an engine, and every way it can fail: a reason that a program can act on, words that a person can."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import http.server
import io
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import Engine, SandboxUnavailable, engine_trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

docker = pytest.mark.docker

# What engines said: Docker 20.10.24 unless another is named.
NAME_TAKEN = 'Conflict. The container name "/wf-a-1" is already in use by container "5bd0c4". You have to remove (or rename) that container to be able to reuse that name.'
NAME_TAKEN_PODMAN_4_3 = 'creating container storage: the container name "wf-a-1" is already in use by 0c1bd7. You have to remove that container to be able to reuse that name: that name is already in use'
NO_SOURCE = 'invalid mount config for type "bind": bind source path does not exist: /no/such'
DISK_FULL = "mkdir /var/lib/docker/overlay2/4be1-init: no space left on device"
BAD_REFERENCE = "invalid reference format: repository name must be lowercase"
NO_CONTAINER = "No such container: 5bd0c4"
OTHER = "failed to create shim task: OCI runtime create failed"

CONNECTING = """
import os, sys
from workflowmaster.blocks.engine import Engine, SandboxUnavailable
import docker
os.setresuid(65533, 65533, 65533)
try:
    Engine(sys.argv[1]).info
except SandboxUnavailable as error:
    print(error.reason, error)
"""


@pytest.mark.parametrize(
    ("status", "said", "reason"),
    [
        (409, NAME_TAKEN, "conflict"),
        (500, NAME_TAKEN_PODMAN_4_3, "conflict"),
        (400, NO_SOURCE, "mount"),
        (500, DISK_FULL, "disk"),
        (400, BAD_REFERENCE, "image"),
        (404, NO_CONTAINER, "gone"),
        (500, OTHER, "runtime"),
        (500, "words that nobody has ever seen", "unclassified"),
    ],
)
def test_what_the_engine_says_becomes_a_reason(status: int, said: str, reason: str) -> None:
    import docker.errors
    import requests

    response = requests.Response()
    response.status_code = status
    with pytest.raises(SandboxUnavailable) as caught, engine_trouble("create container x"):
        raise docker.errors.APIError("Server Error", response=response, explanation=said)
    assert caught.value.reason == reason
    assert said in str(caught.value)
    assert str(caught.value).startswith("create container x: ")


def test_an_error_of_ours_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), engine_trouble("inspect"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "url", ["unix:///no/such/docker.sock", "tcp://127.0.0.1:1", "no-such-scheme://x", "tcp://no-such-host.invalid:2375"]
)
def test_no_engine_is_said_with_the_mend(url: str) -> None:
    with pytest.raises(SandboxUnavailable, match="DOCKER_HOST") as caught:
        _ = Engine(url).info
    assert caught.value.reason == "engine"
    assert "workflowmaster doctor" in str(caught.value)


def test_the_environment_names_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/dead.sock")
    with pytest.raises(SandboxUnavailable) as caught:
        Engine().create("x", {}, {})
    assert caught.value.reason == "engine"


def test_a_socket_we_may_not_use_is_another_thing_than_none(tmp_path: Path) -> None:
    """As for a user outside the group `docker`. Run as root it becomes another user first."""
    path = short_folder(tmp_path) / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0)
        code = CONNECTING if os.geteuid() == 0 else CONNECTING.replace("os.setresuid(65533, 65533, 65533)", "")
        done = subprocess.run(
            [sys.executable, "-c", code, f"unix://{path}"], capture_output=True, text=True, check=True
        )
    assert done.stdout.startswith("permission connect: ")
    assert "usermod -aG docker" in done.stdout


def short_folder(tmp_path: Path) -> Path:
    """A folder that others may enter and whose path fits into a socket's address."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    return tmp_path


class NotAnEngine(http.server.BaseHTTPRequestHandler):
    """Some other web server that happens to listen there."""

    def do_GET(self) -> None:
        body = b"<html>hello</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_something_else_that_answers_is_no_engine() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotAnEngine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(SandboxUnavailable):
            _ = Engine(f"tcp://127.0.0.1:{server.server_port}").info
        server.shutdown()


@docker
def test_it_says_what_it_is(engine: Engine) -> None:
    info = engine.info
    assert info.cpus >= 1
    assert info.memory > 1 << 28
    assert info.cgroup in ("1", "2")
    assert info.local
    assert "runc" in info.runtimes
    assert not any("=" in option or "," in option for option in info.security)
    assert engine.info is info


@docker
def test_an_image_it_has_and_some_it_has_not(engine: Engine, image_id: str) -> None:
    assert engine.image_id(image_id) == image_id
    assert image_id.startswith("sha256:")
    assert engine.image_id("wm-test/not-there:1") is None
    before = {one["Id"] for one in engine.client.images()}
    assert engine.image_id("debian:no-such-tag") is None
    assert {one["Id"] for one in engine.client.images()} == before, "nothing is ever pulled"
    with pytest.raises(SandboxUnavailable) as caught:
        engine.image_id("UPPER CASE")
    assert caught.value.reason == "image"


@docker
def test_it_lists_ours_by_label_and_no_others(engine: Engine, box: Callable[..., Any]) -> None:
    one, two = (
        box("true", labels={"workflow": "test-x1", "step": "a"}),
        box("true", labels={"workflow": "test-x2", "step": "a"}),
    )
    for made in (one, two):
        made.park()
    assert [c["Id"] for c in engine.containers(workflow="test-x1", step="a")] == [one.container.id]
    assert engine.containers(workflow="test-x1", step="b") == []
    assert {one.container.id, two.container.id} <= {c["Id"] for c in engine.containers()}
    assert all("workflowmaster.workflow" in c["Labels"] for c in engine.containers())


@docker
def test_waiting_has_a_limit(engine: Engine, box: Callable[..., Any]) -> None:
    made = box("true").park()
    assert engine.wait(made.container.id, 0.2) is None
    engine.kill(made.container.id)
    assert engine.wait(made.container.id, 10) == 137
    engine.kill(made.container.id)
    engine.remove(made.container.id)
    engine.remove(made.container.id)
    for ask in (engine.state, lambda container: engine.wait(container, 1), engine.start, engine.attach):
        with pytest.raises(SandboxUnavailable) as caught:
            ask(made.container.id)
        assert caught.value.reason == "gone"


@docker
def test_it_serves_several_threads_and_connects_anew(image_id: str) -> None:
    own = Engine()
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(own.image_id, [image_id] * 40)) == {image_id}
    own.close()
    assert own.image_id(image_id) == image_id
    own.close()
    own.close()


# --- an engine behind TLS: another socket, no pidfd ---


@contextlib.contextmanager
def tls_front(folder: Path) -> Iterator[int]:
    """Put TLS with client certificates before the real engine, as a remote engine has it. Yields the port."""
    certificates(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server, context), daemon=True).start()
        yield server.getsockname()[1]


def accept(server: socket.socket, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError):  # closed at the end of the test
        while True:
            threading.Thread(target=forward, args=(server.accept()[0], context), daemon=True).start()


def forward(client: socket.socket, context: ssl.SSLContext) -> None:
    import select

    with contextlib.suppress(OSError), context.wrap_socket(client, server_side=True) as outer:
        inner = socket.socket(socket.AF_UNIX)
        inner.connect("/var/run/docker.sock")
        while True:
            ready = [outer] if outer.pending() else select.select([outer, inner], [], [])[0]
            for source, target in ((outer, inner), (inner, outer)):
                if source in ready:
                    data = source.recv(1 << 16)
                    if not data:
                        inner.close()
                        return
                    target.sendall(data)


def certificates(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.pem").write_bytes(pem)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@docker
def test_an_engine_behind_tls_runs_a_step(
    sh: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_front(tmp_path) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests prefers them to the engine's own authority
            monkeypatch.delenv(name, raising=False)
        remote = Engine()
        assert not remote.info.local
        made = sh("head -c 3000000 /dev/zero; echo end >&2; exit 9")
        made.container = Container(remote, made.container.request)
        ending = made.park().go(20)
        made.container.remove()
        remote.close()
    assert (ending.exit_code, ending.timed_out) == (9, False)
    assert sorted((made.output.count(b"\0"), made.output.count(b"end\n"))) == [1, 3_000_000]
    assert made.container.pidfd == -1
    assert ending.usage.peak_memory > 0  # said by its own shell


# --- images that cannot run here ---


def tarred(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def loaded() -> Iterator[Callable[..., str]]:
    """Load an image of these files, for a machine; return its reference. `docker import` would say it is for ours."""
    made: list[str] = []

    def one(machine: str, files: dict[str, bytes]) -> str:
        layer, name = tarred(files), f"wm-test-{os.getpid()}:{len(made)}"
        roots = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
        config = json.dumps({"architecture": machine, "os": "linux", "config": {}, "rootfs": roots}).encode()
        manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
        image = tarred({"config.json": config, "layer.tar": layer, "manifest.json": manifest})
        subprocess.run(["docker", "load"], input=image, check=True, capture_output=True)
        made.append(name)
        return name

    yield one
    subprocess.run(["docker", "rmi", "-f", *made], check=False, capture_output=True)


@docker
def test_an_image_for_another_machine_is_refused_before_it_is_started(
    engine: Engine, loaded: Callable[..., str], image_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other, own = ("arm64", "amd64") if engine.info.machine == "x86_64" else ("amd64", "arm64")
    reference = loaded(other, {"etc/none": b""})
    found = engine.image_id(reference)
    assert found
    monkeypatch.setattr("workflowmaster.blocks.engine.EMULATORS", tmp_path)
    with pytest.raises(SandboxUnavailable, match=f"{reference} is built for {other} .* machine is {own}") as caught:
        engine.must_run(found, reference)
    assert caught.value.reason == "image"
    (tmp_path / "qemu-other").touch()
    engine.must_run(found, reference)  # for all we know, it is emulated
    engine.must_run(image_id, "workflowmaster/step:1")


@docker
def test_a_shell_for_no_machine_is_the_images_fault_and_not_the_steps(
    box: Callable[..., Any], engine: Engine, loaded: Callable[..., str]
) -> None:
    own = {"x86_64": "amd64", "aarch64": "arm64"}[engine.info.machine]
    reference = loaded(own, {"bin/sh": b"no program of any machine\n\0\1"})
    made = box("true", image_id=engine.image_id(reference))
    with pytest.raises(SandboxUnavailable, match=r"(?i)exec format error") as caught:
        made.park().go()
    assert caught.value.reason == "image"
