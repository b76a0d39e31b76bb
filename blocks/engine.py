"""The one place that talks to the Docker Engine.

docker-py's low-level client is used throughout: its high-level objects ask the engine again for what the answer just
said, and each question costs 3 to 10 ms on a step's critical path. Every answer leaves here as a plain value or as
`SandboxUnavailable`, so that nobody else needs docker-py's types, and an engine's trouble can never be mistaken for the
step's own failure.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.engineinfo import NEWEST_API, EngineInfo, common_version
from workflowmaster.blocks.failure import MACHINES, foreign
from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.trouble import SandboxUnavailable, engine_trouble
from workflowmaster.blocks.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from docker import APIClient

OURS = "workflowmaster"
"""Label prefix of everything we create."""

EMULATORS = Path("/proc/sys/fs/binfmt_misc")
"""Where the kernel lists programs of other machines that it hands to an emulator."""

ARCHIVE_CHUNK = 1 << 18
"""Bytes of an archive taken at once."""

PING_SECONDS = 5.0
"""How long an engine may take to say that it is there. One that works takes milliseconds, on a busy machine tenths."""

CONNECTIONS = 64
"""Connections kept to the engine: more than any number of steps that two dozen cores would run at once."""


def _wanted(labels: Mapping[str, str]) -> list[str]:
    """Return the filter for what carries all these labels of ours; for what is ours at all, if there are none."""
    return [f"{OURS}.{key}={value}" for key, value in labels.items()] or [f"{OURS}.workflow"]


class Engine:
    """A connection to one engine, safe to use from several threads; `url` None means what DOCKER_HOST says."""

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._client: APIClient | None = None
        self._tunnel: Tunnel | None = None
        self._images: dict[str, dict[str, Any]] = {}

    @property
    def url(self) -> str:
        """The address it is reached at; empty for the engine of this machine."""
        return self._url or os.environ.get("DOCKER_HOST", "")

    @property
    def client(self) -> APIClient:
        """The low-level client, connected on first use."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> APIClient:
        with engine_trouble("connect"):
            import docker
            from docker.utils import kwargs_from_env

            options: dict[str, Any] = {"timeout": 120, "max_pool_size": CONNECTIONS}
            if self.url.startswith("ssh://"):
                self._tunnel = self._tunnel or Tunnel(self.url)
                options["base_url"] = f"unix://{self._tunnel.socket}"
            else:
                # With its certificates, which the environment names for any address.
                options |= kwargs_from_env(environment={**os.environ, "DOCKER_HOST": self.url})
            client = docker.APIClient(version=NEWEST_API, **options)
            speaks = common_version(client.version(api_version=False))
            if speaks != NEWEST_API:
                client.close()
                client = docker.APIClient(version=speaks, **options)
            return client

    @functools.cached_property
    def info(self) -> EngineInfo:
        """Ask the engine once what it is."""
        with engine_trouble("info"):
            said, version = self.client.info(), self.client.version()
        # A pipe or an ssh tunnel has the same scheme and another host.
        local = self.client.base_url == "http+docker://localhost" and self._tunnel is None
        return EngineInfo.read(said, version, api=str(self.client.api_version), local=local)

    def image_id(self, reference: str) -> str | None:
        """Resolve a reference to the id of an image the engine has; None if it has none. Never pulls."""
        import docker.errors

        with engine_trouble(f"inspect image {reference}"):
            try:
                return str(self.client.inspect_image(reference)["Id"])  # type: ignore[no-untyped-call]
            except docker.errors.ImageNotFound:
                return None

    def declared_volumes(self, image_id: str) -> tuple[str, ...]:
        """Return the paths that an image declares as volumes, sorted."""
        return tuple(sorted(self._config_of(image_id).get("Volumes") or ()))

    def declared_variables(self, image_id: str) -> tuple[str, ...]:
        """Return the names of the environment variables that an image sets, sorted."""
        return tuple(sorted(line.partition("=")[0] for line in self._config_of(image_id).get("Env") or ()))

    def declared_labels(self, image_id: str) -> dict[str, str]:
        """Return the labels of an image."""
        return dict(self._config_of(image_id).get("Labels") or {})

    def _config_of(self, image_id: str) -> dict[str, Any]:
        """Return an image's configuration."""
        return dict(self._inspected(image_id).get("Config") or {})

    def _inspected(self, image_id: str) -> dict[str, Any]:
        """Return what the engine says of an image. Asked once for each id: it never changes."""
        if image_id not in self._images:
            with engine_trouble(f"inspect image {image_id}"):
                self._images[image_id] = dict(self.client.inspect_image(image_id))  # type: ignore[no-untyped-call]
        return self._images[image_id]

    def must_run(self, image_id: str, reference: str) -> None:
        """Refuse an image for another machine, before anything of it is started. SandboxUnavailable naming both.

        Not where the host may emulate that machine, and not where we cannot see whether it does: the runtime will say.
        """
        built_for = str(self._inspected(image_id).get("Architecture") or "")
        info = self.info
        seen = info.local and info.kernel == os.uname().release
        if seen and foreign(built_for, info.machine) and not any(EMULATORS.glob("qemu-*")):
            own = MACHINES.get(info.machine, info.machine)
            raise SandboxUnavailable(
                f"image {reference} is built for {built_for} and the engine's machine is {own}, so its programs would "
                f"end in exec format error: get it for linux/{own}, or install qemu-user-static",
                reason="image",
            )

    def create(self, name: str, config: Mapping[str, Any], host: Mapping[str, Any]) -> str:
        """Create a container and return its id. A taken name is `SandboxUnavailable` with reason `conflict`.

        What docker-py has no word for stands in `host` in the engine's own, which begin with a capital.
        """
        with engine_trouble(f"create container {name}"):
            made = self.client.create_host_config(**{word: host[word] for word in host if word[0].islower()})
            made.update({word: host[word] for word in host if word[0].isupper()})
            return str(self.client.create_container(name=name, host_config=made, **config)["Id"])

    def attach(self, container: str) -> socket.socket:
        """Attach to stdin, stdout and stderr, before the start, so that not a byte is missed. The caller closes it."""
        with engine_trouble("attach"):
            raw: Any = self.client.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            sock: socket.socket = getattr(raw, "_sock", raw)
            if type(sock) is not socket.socket:
                return sock  # TLS: the session cannot leave its object
            if sock.family != socket.AF_UNIX:
                # A step may be silent for longer than a router on the way remembers.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # docker-py ties socket and response into a circle that only the garbage collector opens, and a closed
            # socket in it stays open. So we take a descriptor of our own and close theirs.
            own = sock.dup()
            own.settimeout(None)
            raw._response.close()  # noqa: SLF001 - docker-py keeps it there and has no other name for it
            return own

    def start(self, container: str) -> None:
        """Start a created container."""
        with engine_trouble("start"):
            self.client.start(container)

    def inspect(self, container: str) -> dict[str, Any]:
        """Return all that the engine says of a container; most of it repeats what it was asked for."""
        with engine_trouble("inspect"):
            return dict(self.client.inspect_container(container))

    def state(self, container: str) -> dict[str, Any]:
        """Return the engine's `State` of a container: Pid, ExitCode, OOMKilled, Error and so on."""
        return dict(self.inspect(container)["State"])

    def owner(self, container: str) -> Owner | None:
        """Return who made a container of ours; None for one that is not ours or says nothing of it."""
        with engine_trouble("inspect"):
            return Owner.from_labels(self.client.inspect_container(container)["Config"]["Labels"] or {}, OURS)

    def answers(self) -> bool:
        """Whether the engine answers now."""
        return self.ping() is not None

    def ping(self, seconds: float = PING_SECONDS) -> float | None:
        """Return how long the engine takes to answer, in seconds; None if it does not within that time."""
        begun = time.perf_counter()
        with contextlib.suppress(SandboxUnavailable), engine_trouble("ping"):
            # Not docker-py's own `ping`, which would wait for two minutes for an engine that hangs.
            answer = self.client.get(f"{self.client.base_url}/_ping", timeout=seconds)
            return time.perf_counter() - begun if answer.ok else None
        return None

    def must_accept(self) -> None:
        """Raise SandboxUnavailable if it takes no new connections: an engine that is being stopped serves the old ones.

        Only then does it stop its containers, so whoever sees one end by a signal can know whose signal it was.
        """
        fresh = Engine(self._url)
        try:
            fresh.client.ping()
        finally:
            fresh.close()

    def wait(self, container: str, seconds: float) -> int | None:
        """Wait for the container's end and return its exit code; None if it still runs after `seconds`."""
        import requests.exceptions

        with engine_trouble("wait"):
            try:
                return int(self.client.wait(container, timeout=seconds)["StatusCode"])  # type: ignore[arg-type]
            except (requests.exceptions.ConnectionError, requests.exceptions.Timeout):
                # docker-py says the same of a wait that takes too long and of a lost connection.
                state = self.client.inspect_container(container)["State"]
                return None if state["Running"] else int(state["ExitCode"])

    def kill(self, container: str, signal: str = "SIGKILL") -> None:
        """Kill the container's whole tree, or send pid 1 another signal; nothing happens if it has ended already."""
        self._unless_gone("kill", lambda: self.client.kill(container, signal))

    def remove(self, container: str) -> None:
        """Remove a container, running or not, with its anonymous volumes; nothing happens if it is gone."""
        self._unless_gone("remove", lambda: self.client.remove_container(container, force=True, v=True))

    def _unless_gone(self, what: str, call: Callable[[], Any]) -> None:
        import docker.errors

        with engine_trouble(what):
            try:
                call()
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                # 409: not running (kill), or its removal is already in progress (remove). Podman says 500 and why.
                if error.status_code != 409 and "can only kill running containers" not in str(error):
                    raise

    def containers(self, **labels: str) -> list[dict[str, Any]]:
        """List our containers, running or not, that carry all these labels (keys without the prefix)."""
        with engine_trouble("list containers"):
            return list(self.client.containers(all=True, filters={"label": _wanted(labels)}))

    def networks(self, **labels: str) -> list[dict[str, Any]]:
        """List our networks that carry all these labels (keys without the prefix)."""
        with engine_trouble("list networks"):
            return list(self.client.networks(filters={"label": _wanted(labels)}))

    def remove_network(self, network: str) -> None:
        """Remove a network; nothing happens if it is gone. SandboxUnavailable while a container is on it."""
        import docker.errors

        with engine_trouble(f"remove network {network}"), contextlib.suppress(docker.errors.NotFound):
            self.client.remove_network(network)

    def create_volume(self, name: str, labels: Mapping[str, str], options: Mapping[str, str] | None = None) -> None:
        """Create an empty volume; `options` are the local driver's, as for `mount`."""
        with engine_trouble(f"create volume {name}"):
            self.client.create_volume(name, labels=dict(labels), driver_opts=dict(options or {}))

    def volumes(self, **labels: str) -> list[dict[str, Any]]:
        """List our volumes that carry all these labels (keys without the prefix)."""
        with engine_trouble("list volumes"):
            return list(self.client.volumes(filters={"label": _wanted(labels)})["Volumes"] or ())

    def remove_volume(self, name: str) -> None:
        """Remove a volume; nothing happens if it is gone. SandboxUnavailable while a container has it."""
        import docker.errors

        with engine_trouble(f"remove volume {name}"), contextlib.suppress(docker.errors.NotFound):
            self.client.remove_volume(name)

    def put(self, container: str, path: str, archive: Iterator[bytes]) -> None:
        """Unpack a tar stream in a directory of a container, which need not run. Its mounts are there."""
        with engine_trouble(f"send files to {path}"):
            self.client.put_archive(container, path, archive)

    def get(self, container: str, path: str) -> Generator[bytes, None, None]:
        """Yield a directory of a container as a tar stream under its own name. Close it when it is not read on."""
        return self._stream(f"fetch files from {path}", container, "archive", {"path": path})

    def logs(self, container: str, *, follow: bool) -> Generator[bytes, None, None]:
        """Yield what its log driver has kept of both streams, in the engine's frames: one an entry, a time before it.

        `follow` waits for more until it has ended. Close it when it is not read on.
        """
        asked = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow)}
        return self._stream("read its log", container, "logs", asked)

    def _stream(self, what: str, container: str, part: str, asked: Mapping[str, Any]) -> Generator[bytes, None, None]:
        import docker.errors
        import requests.exceptions

        client = self.client
        place = f"{client.base_url}/v{client.api_version}/containers/{container}/{part}"
        # A step may say nothing for longer than any answer may take.
        patience = (client.timeout, None) if asked.get("follow") else client.timeout
        # docker-py's own call keeps the answer to itself. One that is neither read to its end nor closed keeps the
        # engine writing, and the container's volumes in use, for as long as we live.
        with (
            engine_trouble(what),
            client.get(place, params=asked, stream=True, timeout=patience) as answer,
        ):
            try:
                answer.raise_for_status()
            except requests.exceptions.HTTPError as error:
                raise docker.errors.create_api_error_from_http_exception(error) from error
            yield from answer.iter_content(ARCHIVE_CHUNK)

    def has(self, container: str, path: str) -> bool:
        """Return whether a container has a file of that name; it need not run."""
        import docker.errors

        with engine_trouble(f"look for {path}"):
            try:
                stream, _ = self.client.get_archive(container, path)
            except docker.errors.NotFound:
                return False
            stream.close()
            return True

    def layers(self, container: str) -> list[str]:
        """Return where a container's own files lie on the engine's host: its layer first, then its volumes.

        Empty if its storage keeps no folder of what is changed.
        """
        with engine_trouble("inspect"):
            said = self.client.inspect_container(container)
        upper = ((said.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
        volumes = [mount["Source"] for mount in said.get("Mounts") or () if mount["Type"] == "volume"]
        return [upper, *volumes] if upper else []

    def written(self, container: str) -> int:
        """Return the bytes of a container's own files, as the engine counts them: it walks all of them to answer."""
        with engine_trouble("list containers"):
            found = self.client.containers(all=True, size=True, filters={"id": container})
        return int(found[0].get("SizeRw") or 0) if found else 0

    def close(self) -> None:
        """Close the connections. The engine can be used again; it connects anew."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None
            if self._tunnel is not None:
                self._tunnel.close()
                self._tunnel = None


__all__ = ["OURS", "Engine", "EngineInfo", "SandboxUnavailable", "engine_trouble"]
