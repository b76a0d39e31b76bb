"""What a container may do, as one frozen value.

The hard choice: a policy is a flat vector of controls, each over a small ordered set, instead of a list of engine
flags. Flags cannot be compared; a vector can, so "stricter" is a fact that is computed (`checks.py`) and six names can
be proved to be ordered. The accepted cost: the sandbox must translate every field to the engine, and a flag that no
field stands for cannot be asked for.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from workflowmaster.policies.values import capability, distinct, parse_size, widest

if TYPE_CHECKING:
    from workflowmaster.policies.checks import Finding

FOLDER = Path(__file__).parent
"""Where the built-in policies and the seccomp profiles lie."""

Size = Annotated[int, BeforeValidator(parse_size)]
"""Bytes; in YAML a number, or one with the suffix k, m, g or t (powers of 1024)."""

Names = Annotated[tuple[str, ...], AfterValidator(widest)]
"""Names, sorted; a trailing `*` stands for any ending, and what it covers is dropped."""

Capabilities = Annotated[tuple[Annotated[str, BeforeValidator(capability)], ...], AfterValidator(distinct)]
"""Linux capabilities without the CAP_ prefix, sorted."""

Tier = Literal["S0", "S1", "S2", "S3", "S4"]

GVISOR_MIN_PIDS = 256
"""Under gVisor the sandbox's own threads count as well: a lower `pids` would kill it, not the step."""


class PolicyError(ValueError):
    """A policy that does not exist, does not parse, grants more than it may, or cannot be kept.

    `findings` names the controls, where it is about a container or an engine.
    """

    def __init__(self, message: str, findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings


class Tmp(BaseModel):
    """The `/tmp` of a container, in memory: what lies there counts as memory of the container."""

    # The descriptions are read back into docs/policies.md and the JSON schema, so they are written once.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    size: Size = Field(gt=0)
    """Bytes."""
    exec: bool
    """Whether programs may be run from it."""
    inodes: int | None = Field(default=None, ge=16)
    """How many files it may hold; none: as many as fit."""


class SecurityPolicy(BaseModel):
    """What a container under this name may do and use. Frozen; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")
    """Lower case, as in `--policy NAME` and `security-policy: NAME`."""
    description: str = ""
    """What it is for, in one line."""
    extends: str | None = None
    """The policy it was made from; none: it stands alone."""
    reason: str = ""
    """Why it grants more than the policy it extends; needed when it does, and audited."""

    # Who the code is, and what the kernel lets it ask for.
    user: Literal["workspace", "unique"]
    """Whom the code runs as: the owner of the workspace (never uid 0), or a uid no other container has."""
    capabilities: Capabilities
    """The bounding set: capabilities a process in the container could ever gain."""
    no_new_privileges: bool
    """Whether setuid programs are kept from raising privileges."""
    seccomp: Tier
    """Which system calls exist, from Docker's default (`S0`) to the shortest list (`S4`)."""
    init: bool
    """Whether pid 1 is a small init that reaps orphans and passes signals on."""

    # What it may change on disk. Container layers and bind mounts have no size of their own on most engines, which is
    # why growth is a control here and not a mount option.
    root_filesystem: Literal["rw", "ro"]
    """Whether the image's files can be changed (in the container's own layer)."""
    tmp: Tmp | None
    """The in-memory `/tmp`; none: a folder of the root file system."""
    workspace: Literal["rw", "copy", "overlay", "none"]
    """The working tree: writable; writable and thrown away; read-only with `/out/workspace` laid over it afterwards;
    or none, with declared files in and out."""
    disk: Size | None = Field(default=None, gt=0)
    """Bytes by which everything the step may write to disk (workspace, `/out`) may grow; none: unbounded."""
    result_cap: Size | None = Field(default=None, gt=0)
    """Bytes that `/out` may hold; none: unbounded."""

    # How much of the machine it may take.
    memory: Size = Field(ge=6 * 1024**2)
    """Bytes of memory and swap together; past it the kernel kills. 6m is the least an engine takes."""
    cpus: float = Field(ge=0.01, le=1024)
    """Cores' worth of time; clipped to the host's count."""
    pids: int = Field(ge=4)
    """Processes and threads at one time."""
    nofile: int = Field(ge=64)
    """Open files per process."""
    core: Size = Field(ge=0)
    """Bytes of a core dump."""
    memlock: Size = Field(ge=0)
    """Bytes that may be locked in memory."""
    shm: Size | None = Field(default=None, gt=0)
    """Bytes of `/dev/shm`; none only where `ipc` is none."""
    ipc: Literal["private", "none"]
    """System V and POSIX shared memory: the container's own, or no `/dev/shm` at all."""

    # Whom it may talk to, and what stands between it and the host's kernel.
    network: Literal["bridge", "proxy-any", "proxy-allowlist", "none"]
    """The engine's bridge; a proxy to every public host; a proxy to the hosts a step names; or loopback only."""
    apparmor: Literal["none", "prefer", "require"]
    """AppArmor's confinement of the container: not asked for; wherever the host has it (its absence is recorded); or
    refused where the host has none."""
    runtime: Literal["runc", "prefer-gvisor", "gvisor"]
    """The engine's usual runtime; gVisor where the engine has it (its absence is recorded); or refused without it."""

    # How long, and how loudly.
    wall_seconds_default: float = Field(gt=0)
    """Seconds a step may run when it names no time of its own."""
    wall_seconds_max: float = Field(gt=0)
    """Seconds a step may ask for."""
    output_cap: Size = Field(ge=1024)
    """Bytes of stdout and stderr together that are kept before the step is ended."""

    # What it is made of and told.
    image: Literal["any", "allowed", "pinned", "signed", "product"]
    """Any image on this host; one of `images`; that and held by id; that and in a signed manifest; that and built by
    `workflowmaster image build`."""
    images: Names | None = None
    """Repositories `image` allows, as `python` or `example.org/team/*`; none: every repository."""
    environment: Names | None = None
    """Variables a step may be given; none: those that its prompt declares. An empty list lets nothing through.
    The host's own environment is never passed on."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Refuse combinations whose words contradict each other."""
        # Each of these would otherwise make one policy look stricter than it is, and void the order.
        if self.root_filesystem == "ro" and self.tmp is None:
            raise ValueError("a read-only root_filesystem needs a tmp: nothing else would be writable")
        if (self.shm is None) != (self.ipc == "none"):
            raise ValueError("shm is a size where ipc is private, and left out where ipc is none")
        if self.wall_seconds_default > self.wall_seconds_max:
            raise ValueError("wall_seconds_default is above wall_seconds_max")
        if self.image == "any" and self.images is not None:
            raise ValueError("images has no effect while image is any: say allowed")
        return self

    @property
    def controls(self) -> dict[str, Any]:
        """Every field that is enforced, as plain JSON values: all but the name and the prose."""
        return self.model_dump(mode="json", exclude={"name", "description", "extends", "reason"})

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the controls and of the seccomp profile: equal hashes enforce the same."""
        body = json.dumps(self.controls, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{body}\n{seccomp_text(self)}".encode()).hexdigest()


def seccomp_text(policy: SecurityPolicy) -> str:
    """Return the JSON text of the policy's seccomp profile, as `security_opt=["seccomp=" + text]` wants it."""
    return _profile(policy.seccomp)


@cache
def _profile(tier: str) -> str:
    # Compact, because the engine gets the text again with every container.
    text = (FOLDER / "seccomp" / f"{tier}.json").read_text(encoding="utf-8")
    return json.dumps(json.loads(text), separators=(",", ":"))
