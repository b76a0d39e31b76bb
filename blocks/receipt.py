"""What one container did, as a value that can be persisted, shown and learned from."""

from __future__ import annotations

from typing import Literal

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
    memory_limit: int | None = None
    """Bytes of memory it was granted: an attempt after one that ran out of memory may have had more."""
    wall_limit: float | None = None
    """Wall time it was granted."""
    oom_killed: bool = False
    """The engine's flag. A child may have been killed while the step exited 0: read it beside the exit code."""
    timed_out: bool = False
    output_capped: bool = False
    disk_capped: bool = False
    """It was killed because its files grew past their cap; `disk_limit` says which."""
    disk_limit: str = ""
    """The cap on disk that it ran into, in words that follow "it": empty when it ran into none."""
    disk_bound: Literal["", "kernel", "watched"] = ""
    """What held its caps on disk: file systems of that size alone, or a watch as well; empty: it had no caps, or they
    could only be looked at afterwards."""
    disk_peak: int | None = None
    """Bytes that its files had grown by when it was last looked at; None if it ended before anyone looked."""
    queued_seconds: float = 0.0
    start_seconds: float | None = None
    """From asking the engine for the container to its being parked: created, attached, started, read back."""
    parked_seconds: float = 0.0
    """From parked to go."""
    begin_seconds: float | None = None
    """From go to the command's first instruction, as far as it can be seen from outside."""
    seconds: float = 0.0
    """Wall time of the step's own work: from go to exit."""
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    peak_pids: int | None = None
    bytes_out: int = 0
    """Bytes of stdout and stderr that were produced up to the cap."""
    started_at: float = 0.0
    """Unix time of go."""
    network_attempts: int = 0
    """Requests it made to the proxy, whatever came of them."""
    network_refused: int = 0
    """Those that the proxy refused."""
    network_bytes: int = 0
    """Bytes through the proxy, in both directions."""
    network_refused_hosts: tuple[str, ...] = ()
    """The first ten that it was refused, as `host:port`."""
    enforced: tuple[str, ...] = ()
    """Controls that were read back from the kernel as effective."""
    told: tuple[str, ...] = ()
    """Controls for which there is only the engine's or the runtime's word, because the kernel's is out of reach."""
    absent: tuple[str, ...] = ()
    """What the policy prefers and the host does not have: `control: why`."""
    adopted: bool = False
    """Whether its owner died while it ran, or before its outcome was taken in, and another one went on with it."""
    unwatched_seconds: float = 0.0
    """From the former owner's last sign of life to the adoption: as long as it went without one, at most."""
    refused: str = ""
    """The sandbox's own reason for not running or for ending the step; empty when the step's code decided."""
