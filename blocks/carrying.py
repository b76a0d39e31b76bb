"""How a container's folders get to it and back: by bind mounts, or by archive where the engine has another disk.

The choice: everything above here works on directories of this host, and only this file knows whether the container sees
the very same ones. On a remote engine each folder is copied into a volume of the container's own right before go, and
copied back after its end. Sharing one volume between the steps of a chain would save the copying; it would also need a
second way to make and take trees, on the far side, and this way every check of what a step left stays in one place. The
cost is one transfer of the workspace each way per step (measured in docs/engines.md).

An archive cannot be put into a read-only container, nor behind a read-only mount. So the volumes are also mounted,
writable, by a second container that is created and never started: nothing runs in it, and it outlives the step's own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from workflowmaster.blocks.accent import volume_options
from workflowmaster.blocks.archive import END, Bounds, gathered, pack, unpack
from workflowmaster.blocks.arguments import tmpfs
from workflowmaster.blocks.engine import OURS, SandboxUnavailable
from workflowmaster.blocks.request import EXCHANGE, Mount, Volume

if TYPE_CHECKING:
    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.request import ContainerRequest

ROLE = "role"
"""Label of the container that only holds volumes; its value is `files`."""


def labels(request: ContainerRequest) -> dict[str, str]:
    """Return the labels of what a container needs beside itself, by which it is found when its owner has died."""
    return {f"{OURS}.{key}": value for key, value in {**request.labels, ROLE: "files"}.items()}


class Carrier(Protocol):
    """One container's folders. Made for one request, used by one thread at a time."""

    shared: bool
    """Whether the container works on the very directories of this host."""

    def prepare(self) -> ContainerRequest:
        """Make what the container will mount, and return the request that names it. SandboxUnavailable."""
        ...

    def send(self) -> None:
        """Have the folders inside be what they are here; called once, right before go. SandboxUnavailable."""
        ...

    def fetch(self, target: str, size: int) -> tuple[str, ...]:
        """Have the folder here be what it is inside, once the container has ended; return what was left out.

        `target` is where it is mounted, `size` the bytes it may have grown by. SandboxUnavailable, or WorkspaceError
        where what is there cannot be had.
        """
        ...

    def remove(self) -> None:
        """Remove what `prepare` made. The container is gone by now. SandboxUnavailable."""
        ...


def carrier_for(engine: Engine, request: ContainerRequest) -> Carrier:
    """Choose how a request's folders travel on this engine."""
    if not engine.info.local:
        return Copied(engine, request)
    return Remembered(engine, request) if engine.info.flavour == "podman" else Shared(request)


class Shared:
    """Bind mounts: there is nothing to carry."""

    shared = True

    def __init__(self, request: ContainerRequest) -> None:
        self._request = request

    def prepare(self) -> ContainerRequest:
        """Return the request as it is."""
        return self._request

    def send(self) -> None:
        """Do nothing."""

    def fetch(self, target: str, size: int) -> tuple[str, ...]:  # noqa: ARG002 - as the protocol has them
        """Do nothing; nothing is left out."""
        return ()

    def remove(self) -> None:
        """Do nothing."""


class Remembered(Shared):
    """Bind mounts, and volumes in memory where the engine's own tmpfs cannot be bounded as the policy says (Podman)."""

    def __init__(self, engine: Engine, request: ContainerRequest) -> None:
        super().__init__(request)
        self._engine = engine
        self._volumes: list[Volume] = []

    def prepare(self) -> ContainerRequest:
        """Make the volumes."""
        token = secrets.token_hex(4)
        for target, said in tmpfs(self._request).items():
            if options := volume_options(said):
                name = f"{self._request.name}-{token}{target.replace('/', '-')}"
                self._engine.create_volume(name, labels(self._request), options)
                self._volumes.append(Volume(name, target, writable=True))
        return replace(self._request, memory=tuple(self._volumes))

    def remove(self) -> None:
        """Remove the volumes."""
        while self._volumes:
            self._engine.remove_volume(self._volumes[-1].source)
            self._volumes.pop()


class Copied:
    """A volume for each folder, and a container that is never started to reach them by."""

    shared = False

    def __init__(self, engine: Engine, request: ContainerRequest) -> None:
        self._engine, self._request = engine, request
        self._folders: dict[str, Mount] = {}
        self._volumes: dict[str, Volume] = {}
        self._helper = ""

    def prepare(self) -> ContainerRequest:
        """Make the volumes and the container that holds them; on failure nothing is left."""
        # Its own token: a volume that somebody dead left under an equal name would bring old files along.
        token = secrets.token_hex(4)
        for mount in self._request.mounts:
            if not isinstance(mount, Mount) or not mount.source.is_dir():
                raise SandboxUnavailable(
                    f"{mount.source} cannot be mounted at {mount.target}: the engine is on another host, and only "
                    "directories travel there; use an engine of this host",
                    reason="mount",
                )
            name = f"{self._request.name}-{token}{mount.target.replace('/', '-')}"
            self._folders[mount.target] = mount
            self._volumes[mount.target] = Volume(name, mount.target, writable=mount.writable)
        try:
            for volume in self._volumes.values():
                self._engine.create_volume(volume.source, labels(self._request))
            self._helper = self._create_helper()
        except BaseException:
            with contextlib.suppress(SandboxUnavailable):  # the first error is the one that explains
                self.remove()
            raise
        return replace(self._request, mounts=tuple(self._volumes.values()))

    def _create_helper(self) -> str:
        config = {
            "image": self._request.image_id,  # the engine has it, and nothing of it will run
            "command": ["false"],
            "entrypoint": "",
            "labels": labels(self._request),
            "healthcheck": {"test": ["NONE"]},
        }
        mounts = [replace(volume, writable=True).spelled() for volume in self._volumes.values()]
        return self._engine.create(
            f"{self._request.name}-files", config, {"mounts": mounts, "network_mode": "none", "cap_drop": ["ALL"]}
        )

    def send(self) -> None:
        """Send every folder in one archive. It belongs to the container's user, but for `/wm`, which is nobody's."""
        uid, _, gid = self._request.user.partition(":")
        user = int(uid), int(gid or uid)
        packed = (
            pack(mount.source, target.lstrip("/"), (0, 0) if target == EXCHANGE else user)
            for target, mount in self._folders.items()
        )
        # Unpacked at the root, because an archive cannot set the owner of the directory it is unpacked in.
        self._engine.put(self._helper, "/", gathered(chain(*packed, [END])))

    def fetch(self, target: str, size: int) -> tuple[str, ...]:
        """Read a folder back. `size` is what it may have grown by: what was sent comes back as well."""
        folder = self._folders[target].source
        sent = sum(os.lstat(Path(place, name)).st_size for place, _, names in os.walk(folder) for name in names)
        with contextlib.closing(self._engine.get(self._helper, target)) as stream:
            return unpack(stream, folder, PurePosixPath(target).name, Bounds(sent + size))

    def remove(self) -> None:
        """Remove the container and its volumes, as many as can be; the first trouble is raised at the end."""
        trouble: SandboxUnavailable | None = None
        if self._helper:
            self._engine.remove(self._helper)
            self._helper = ""
        for target, volume in list(self._volumes.items()):
            try:
                self._engine.remove_volume(volume.source)
                del self._volumes[target]
            except SandboxUnavailable as error:
                trouble = trouble or error
        if trouble:
            raise trouble
