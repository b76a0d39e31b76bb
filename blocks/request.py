"""What must be known to park a container, and the places that mean the same in every container."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from workflowmaster.policies import SecurityPolicy

EXCHANGE = "/wm"
"""Where a container finds its environment, script, stdin and inputs, read-only."""
OUT = "/out"
"""Where a container leaves named outputs and declared files."""
WORKSPACE = "/workspace"
SCRATCH = "/tmp"  # noqa: S108 - the container's own, in memory
"""The container's scratch directory; also its HOME, and where a step without a workspace starts."""


@dataclass(frozen=True)
class Mount:
    """A directory or file of this host seen inside."""

    source: Path
    target: str
    writable: bool = False

    def spelled(self) -> dict[str, Any]:
        """Spell it as the engine's API does. Not as `source:target`: a path may hold a colon.

        Also, the engine makes a missing source by itself, as root, if it is asked in the short form.
        """
        return {"Type": "bind", "Source": str(self.source), "Target": self.target, "ReadOnly": not self.writable}


@dataclass(frozen=True)
class Volume:
    """A volume of the engine seen inside, in place of a directory that the engine cannot see."""

    source: str
    """The volume's name."""
    target: str
    writable: bool = False

    def spelled(self) -> dict[str, Any]:
        """Spell it as the engine's API does. Without NoCopy, what the image has there would be copied into it."""
        options = {"NoCopy": True}
        mount = {"Type": "volume", "Source": self.source, "Target": self.target, "ReadOnly": not self.writable}
        return {**mount, "VolumeOptions": options}


@dataclass(frozen=True)
class ContainerRequest:
    """Everything that must be known to park a container."""

    name: str
    """Unique per workflow, step and attempt: the engine makes a name once, which fences two owners."""
    image_id: str
    policy: SecurityPolicy
    argv: tuple[str, ...]
    mounts: tuple[Mount | Volume, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = "1000:1000"
    workdir: str = WORKSPACE
    memory: tuple[Volume, ...] = ()
    """Volumes in memory, on an engine whose own tmpfs cannot be bounded as the policy says."""
    secrets: tuple[str, ...] = ()
    """Names of the secrets it gets at its go; their values are not part of a request."""
