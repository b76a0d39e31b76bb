"""A watch over one container: where it writes besides the folders it was given, and what nobody's walk would see.

`growth` knows directories; this knows containers. A writable root file system and an image's own volumes lie in folders
of the engine's, which root on its host can see and others must ask the engine for. Asking is slow (the engine walks as
well), so it happens only when a walk is due.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.blocks.growth import Growth, Place, unnamed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflowmaster.blocks.container import Container
    from workflowmaster.blocks.engine import Engine

LAYER = "the container's own file system"


def watch(engine: Engine, container: Container, places: Sequence[Place]) -> Growth | None:
    """Return the watch over a container that is about to go; None where there is nothing to be watched.

    `places` are the folders of this host that it may write; on an engine elsewhere there are none.
    """
    policy = container.request.policy
    uncapped = policy.disk is None and policy.result_cap is None
    if uncapped or (policy.root_filesystem == "ro" and not places):
        return None
    layer = _Layer(engine, container) if policy.root_filesystem == "rw" else None
    devices = frozenset(place.path.stat().st_dev for place in places)
    return Growth(
        places,
        policy.disk,
        late=layer.places if layer else None,
        told=layer.told if layer else int,
        held=lambda: unnamed(container.pids(), devices),
    )


class _Layer:
    """The files of a container's own, seen by ourselves or told by its engine."""

    def __init__(self, engine: Engine, container: Container) -> None:
        self._engine, self._container = engine, container
        self._seen = False

    def places(self) -> Sequence[Place]:
        """Return the folders they lie in, if they can be seen from here. SandboxUnavailable."""
        if os.geteuid() or not self._engine.info.local:
            return ()
        # An image's own volumes are writable too, and lie beside its layer.
        folders = [Path(folder) for folder in self._engine.layers(self._container.id)]
        self._seen = bool(folders) and all(folder.is_dir() for folder in folders)
        return [Place(LAYER, folder) for folder in folders] if self._seen else ()

    def told(self) -> int:
        """Return their bytes by the engine's word, where we do not see them. SandboxUnavailable."""
        return 0 if self._seen else self._engine.written(self._container.id)
