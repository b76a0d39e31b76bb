"""The one place that talks to the Docker Engine.

docker-py's low-level client is used throughout: its high-level objects ask the engine again for what the answer just
said, and each question costs 3 to 10 ms on a step's critical path. Every answer leaves here as a plain value or as
`SandboxUnavailable`, so that nobody else needs docker-py's types, and an engine's trouble can never be mistaken for the
step's own failure.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from docker import APIClient

OURS = "workflowmaster"
"""Label prefix of everything we create."""

CONNECTIONS = 64
"""Connections kept to the engine: more than any number of steps that two dozen cores would run at once."""


class SandboxUnavailable(ConnectionError):
    """The engine or a thing it needs is not there; the step's code is not to blame.

    `reason` is a stable short word: `engine` (it does not answer, or refuses), `permission` (we may not use it),
    `image`, `mount`, `conflict` (the name is taken), `disk` (full), `gone` (somebody removed the container), `parked`
    (it ended before it got its go), `stuck` (it does not die), `ownership` (what it left stays somebody else's).
    """

    def __init__(self, message: str, *, reason: str = "engine") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class EngineInfo:
    """What the engine says of itself and its host."""

    version: str
    api: str
    cpus: int
    memory: int
    """Bytes."""
    cgroup: str
    """`1` or `2`."""
    storage: str
    security: tuple[str, ...]
    """For example `seccomp`, `apparmor`, `userns`, `rootless`."""
    runtimes: tuple[str, ...]
    root: str
    """The engine's data directory on its host."""
    local: bool
    """Reached over a socket of this machine, so bind mounts and pids mean the same on both sides."""


@contextlib.contextmanager
def engine_trouble(what: str) -> Iterator[None]:
    """Turn every way the engine can fail into `SandboxUnavailable` with the remedy."""
    import docker.errors
    import requests.exceptions

    try:
        yield
    except SandboxUnavailable:
        raise  # said already, by a call within this one
    except docker.errors.ImageNotFound as error:
        raise SandboxUnavailable(
            f"{what}: the image is gone from the engine: {_said(error)}", reason="image"
        ) from error
    except docker.errors.APIError as error:
        raise SandboxUnavailable(f"{what}: the engine refused: {_said(error)}", reason=_reason(error)) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise _unreachable(what, error) from error


def _unreachable(what: str, error: Exception) -> SandboxUnavailable:
    if "permission denied" in str(error).lower():
        return SandboxUnavailable(
            f"{what}: this user may not use the Docker Engine ({error}). Join its group (`sudo usermod -aG docker "
            "$USER`, then log in again), or point DOCKER_HOST at an engine of your own",
            reason="permission",
        )
    return SandboxUnavailable(
        f"{what}: the Docker Engine does not answer ({error}). Start it (`sudo systemctl start docker`, or as root "
        "`scripts/engine`), or point DOCKER_HOST at one; `workflowmaster doctor` says what is missing",
    )


def _said(error: Any) -> str:
    return str(getattr(error, "explanation", None) or error).strip()


REASONS = (
    ("no space left", "disk"),
    # Podman answers a taken name with 500, so the status tells less than the words.
    ("is already in use by", "conflict"),
    ("invalid mount config", "mount"),
    ("mount source path", "mount"),
    ("invalid reference format", "image"),
    ("no such container", "gone"),
)
"""What an engine says → the reason it stands for."""


def _reason(error: Any) -> str:
    text = _said(error).lower()
    return next((reason for words, reason in REASONS if words in text), "engine")


class Engine:
    """A connection to one engine, safe to use from several threads; `url` None means what DOCKER_HOST says."""

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._client: APIClient | None = None

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

            options: dict[str, Any] = {"base_url": self._url} if self._url else {**kwargs_from_env()}
            client = docker.APIClient(version="auto", timeout=120, max_pool_size=CONNECTIONS, **options)
            client.ping()
            return client

    @functools.cached_property
    def info(self) -> EngineInfo:
        """Ask the engine once what it is."""
        with engine_trouble("info"):
            said = self.client.info()
        return EngineInfo(
            version=said["ServerVersion"],
            api=str(self.client.api_version),
            cpus=int(said["NCPU"]),
            memory=int(said["MemTotal"]),
            cgroup=str(said.get("CgroupVersion", "1")),
            storage=said["Driver"],
            security=tuple(option.split(",")[0].removeprefix("name=") for option in said.get("SecurityOptions") or ()),
            runtimes=tuple(sorted(said.get("Runtimes") or ())),
            root=said.get("DockerRootDir", ""),
            # A pipe or an ssh tunnel has the same scheme and another host.
            local=self.client.base_url == "http+docker://localhost",
        )

    def image_id(self, reference: str) -> str | None:
        """Resolve a reference to the id of an image the engine has; None if it has none. Never pulls."""
        import docker.errors

        with engine_trouble(f"inspect image {reference}"):
            try:
                return str(self.client.inspect_image(reference)["Id"])  # type: ignore[no-untyped-call]
            except docker.errors.ImageNotFound:
                return None

    def create(self, name: str, config: Mapping[str, Any], host: Mapping[str, Any]) -> str:
        """Create a container and return its id. A taken name is `SandboxUnavailable` with reason `conflict`."""
        with engine_trouble(f"create container {name}"):
            made = self.client.create_host_config(**host)
            return str(self.client.create_container(name=name, host_config=made, **config)["Id"])

    def attach(self, container: str) -> socket.socket:
        """Attach to stdin, stdout and stderr, before the start, so that not a byte is missed. The caller closes it."""
        with engine_trouble("attach"):
            raw: Any = self.client.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            sock: socket.socket = getattr(raw, "_sock", raw)
            if type(sock) is not socket.socket:
                return sock  # TLS: the session cannot leave its object
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

    def state(self, container: str) -> dict[str, Any]:
        """Return the engine's `State` of a container: Pid, ExitCode, OOMKilled, Error and so on."""
        with engine_trouble("inspect"):
            return dict(self.client.inspect_container(container)["State"])

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

    def kill(self, container: str) -> None:
        """Kill the container's whole tree; nothing happens if it has ended already."""
        self._unless_gone("kill", lambda: self.client.kill(container))

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
                # 409: not running (kill), or its removal is already in progress (remove).
                if error.status_code != 409:
                    raise

    def containers(self, **labels: str) -> list[dict[str, Any]]:
        """List our containers, running or not, that carry all these labels (keys without the prefix)."""
        wanted = [f"{OURS}.{key}={value}" for key, value in labels.items()] or [f"{OURS}.workflow"]
        with engine_trouble("list containers"):
            return list(self.client.containers(all=True, filters={"label": wanted}))

    def close(self) -> None:
        """Close the connections. The engine can be used again; it connects anew."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None
