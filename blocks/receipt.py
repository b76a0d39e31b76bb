"""What one container did, as a value that can be persisted, shown and learned from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Receipt(BaseModel):
    """The account of one container, from creation to removal. Times are seconds, sizes bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    container_id: str = ""
    container_name: str = ""
    image: str = ""
    """Reference the plan named."""
    image_id: str = ""
    """Id the reference was pinned to."""
    policy: str = ""
    policy_hash: str = ""
    purpose: str = "work"
    """`work` or `check`."""
    command: tuple[str, ...] = ()
    user: str = ""
    exit_code: int | None = None
    signal: int | None = None
    oom_killed: bool = False
    """The engine's flag. A child may have been killed while the step exited 0: read it beside the exit code."""
    timed_out: bool = False
    output_capped: bool = False
    queued_seconds: float = 0.0
    parked_seconds: float = 0.0
    seconds: float = 0.0
    """Wall time of the step's own work: from go to exit."""
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    peak_pids: int | None = None
    bytes_out: int = 0
    """Bytes of stdout and stderr that were produced up to the cap."""
    started_at: float = 0.0
    """Unix time of go."""
    enforced: tuple[str, ...] = ()
    """Controls that were read back as effective."""
    refused: str = ""
    """The sandbox's own reason for not running or for ending the step; empty when the step's code decided."""
