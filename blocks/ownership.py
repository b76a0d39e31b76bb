"""Gives back what a container with a uid of its own left in `/out`, where we are not root.

Root can read and remove anybody's files. A user cannot: files of another uid that are closed to others can be neither
read nor removed by him, and `hardened` and `paranoid` run under such a uid on purpose. The engine can: a container of
one command, `chown`, without network, with three capabilities and nothing else mounted, follows no link and hands the
folder over. It costs a container start, and only where such a step left something.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.request import OUT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from workflowmaster.blocks.engine import Engine

SECONDS = 120.0
"""How long handing over may take; a million files take about twenty seconds."""

CAPABILITIES = ("CHOWN", "DAC_READ_SEARCH", "FOWNER")
"""To change owners, to enter directories that are closed to others, and to do both to files of others."""


def needs_handing_over(folder: Path, uid: int) -> bool:
    """Return whether somebody else's uid may have left something here that we could not deal with ourselves."""
    return os.geteuid() not in (0, uid) and any(folder.iterdir())


def hand_over(engine: Engine, image_id: str, folder: Path, *, name: str, labels: Mapping[str, str]) -> None:
    """Make everything in a folder ours. SandboxUnavailable if the engine or the image cannot do it."""
    config = {
        "image": image_id,
        "command": ["chown", "-Rh", f"{os.geteuid()}:{os.getegid()}", OUT],
        "entrypoint": "",
        "user": "0:0",
        "labels": dict(labels),
    }
    host = {
        "binds": [f"{folder}:{OUT}:rw"],
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "cap_add": list(CAPABILITIES),
        "security_opt": ["no-new-privileges:true"],
    }
    container = engine.create(name, config, host)
    try:
        engine.start(container)
        code = engine.wait(container, SECONDS)
    finally:
        engine.remove(container)
    if code != 0:
        ended = "is not done" if code is None else f"ended with {code}"
        raise SandboxUnavailable(
            f"what the step left in {OUT} belongs to another user and could not be taken over: chown {ended}",
            reason="ownership",
        )
