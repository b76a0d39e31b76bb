"""`DockerSandbox`: a security policy as a Prefect block, and a job that runs one command under it.

One document per policy is saved by `workflowmaster init`, so that operators see and edit their limits where they see
their runs. A document can tighten its policy freely. One that grants more than the policy of its name is refused until
it says why: a promise that anyone could void with a click in a form would be none.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.blocks.abstract import JobBlock, JobRun
from prefect.blocks.core import Block
from prefect.utilities.asyncutils import run_sync_in_worker_thread
from pydantic import ConfigDict, Field, ValidationError, model_validator

from workflowmaster import policies
from workflowmaster.blocks import deadline
from workflowmaster.blocks.engine import OURS, Engine, SandboxUnavailable
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.failure import explain, signal_of
from workflowmaster.blocks.growth import Place
from workflowmaster.blocks.home import home
from workflowmaster.blocks.output import Capture
from workflowmaster.blocks.overseeing import watch
from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.ownership import hand_over, needs_handing_over
from workflowmaster.blocks.plain import container_for
from workflowmaster.blocks.receipt import Receipt
from workflowmaster.blocks.request import OUT, SCRATCH, ContainerRequest
from workflowmaster.blocks.signing import Trust, held
from workflowmaster.policies import PolicyError, SecurityPolicy
from workflowmaster.policies.values import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflowmaster.blocks.container import Container
    from workflowmaster.blocks.reader import Ending

TYPE = "docker-sandbox"
"""Slug of the block's type: a document is `docker-sandbox/NAME`."""

DOCUMENTATION = "https://github.com/workflowmaster/workflowmaster/blob/main/docs/policies.md"


PREFECTS_OWN = ("block_type_slug", "_block_document_id", "_block_document_name", "_is_anonymous")
"""What Prefect writes into the values of a block that is part of another."""


def _without_prefects_own(cls: type[Block], values: Any) -> Any:
    """Let `extra="forbid"` mean the operator's mistakes, and not Prefect's own keys; a foreign block stays refused."""
    own = cls.get_block_type_slug()
    if not isinstance(values, dict) or values.get("block_type_slug", own) != own:
        return values
    return {name: value for name, value in values.items() if name not in PREFECTS_OWN}


class DockerHost(Block):
    """The Docker Engine that runs the containers.

    Attributes:
        url: Address as in DOCKER_HOST, for example `unix:///var/run/docker.sock`; empty for the worker's own.
    """

    _block_type_name = "Docker Host (WorkflowMaster)"
    _block_type_slug = "workflowmaster-docker-host"
    model_config = ConfigDict(extra="forbid")

    url: str = Field(default="", description="Address as in DOCKER_HOST; empty for the worker's own engine.")

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, values: Any) -> Any:
        return _without_prefects_own(cls, values)

    def engine(self) -> Engine:
        """Return a connection to it."""
        return Engine(self.url or None)


class DockerSandbox(JobBlock):  # type: ignore[type-arg] # a parameter would make it another model, with another slug
    """Runs a command in a container of its own, under a named security policy.

    Attributes:
        policy: Name of the policy this document stands for.
        limits: Fields of the policy that this document changes.
        reason: Why it grants more than the policy of that name; needed when it does, and audited.
        host: The engine.
        image: Image reference for `trigger`; it must be on the engine.
        command: Command for `trigger`.
        timeout_seconds: Wall time for `trigger`; the policy's default when it is left out.
    """

    _block_type_name = "Docker Sandbox"
    _block_type_slug = TYPE
    _description = "Runs a command in a container of its own, under a named security policy."
    model_config = ConfigDict(extra="forbid")

    policy: str = Field(default="standard", description="Name of the policy this document stands for.")
    limits: dict[str, Any] = Field(default_factory=dict, description="Fields of the policy that are changed here.")
    reason: str = Field(default="", description="Why it grants more than the policy of that name; audited.")
    host: DockerHost = Field(default_factory=DockerHost)
    image: str = Field(default="workflowmaster/step:1", description="Image for trigger; never pulled.")
    command: list[str] = Field(default_factory=list, description="Command for trigger.")
    timeout_seconds: float | None = Field(default=None, gt=0, description="Wall time for trigger.")

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, values: Any) -> Any:
        return _without_prefects_own(cls, values)

    def effective(self, folders: Sequence[Path] = ()) -> SecurityPolicy:
        """Return the limits that hold. PolicyError for a bad field, or for a looser one without a reason.

        `folders` are those of the user's own policies.
        """
        base = policies.load(self.policy, folders)
        if not self.limits:
            return base
        changed = self._changed(base)
        looser = policies.looser(changed, base)
        if looser and not self.reason.strip():
            details = "; ".join(f"{finding.control}: {finding.detail}" for finding in looser)
            raise PolicyError(
                f"block {TYPE}/{self.policy} grants more than policy {self.policy} ({details}) and gives no reason: "
                "fill in its field `reason`, or take the change back"
            )
        return changed

    def _changed(self, base: SecurityPolicy) -> SecurityPolicy:
        for name in self.limits:
            # A document must not change whose name its limits go by: the audit log has that name.
            if name not in base.controls:
                advice = did_you_mean(name, base.controls)
                raise PolicyError(f"block {TYPE}/{self.policy}: limits.{name} is no control of a policy{advice}")
        try:
            return SecurityPolicy.model_validate({**base.model_dump(), **self.limits, "reason": self.reason})
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'limits'}: {one['msg']}" for one in error.errors())
            raise PolicyError(f"block {TYPE}/{self.policy}: {said}") from error

    async def trigger(self) -> SandboxRun:
        """Start the command and return its run. SandboxUnavailable, PolicyError; ValueError without a command."""
        return await run_sync_in_worker_thread(self._start)

    def _admit(self, policy: SecurityPolicy, image_id: str) -> None:
        """Hold the image against the policy. PolicyError with the rule and the mend."""
        said = policies.refused_image(policy, self.image)
        if not said and policy.image not in ("any", "allowed"):
            said = policies.refused_held(policy, self.image, held(self.image, image_id, Trust(home() / "images")))
        if said:
            raise PolicyError(f"block {TYPE}/{self.policy}: {said}")

    def _start(self) -> SandboxRun:
        if not self.command:
            raise ValueError(f"block {TYPE}/{self.policy} has no command to run: fill in its field `command`")
        policy, engine = self.effective(), self.host.engine()
        image_id = engine.image_id(self.image)
        if image_id is None:
            raise SandboxUnavailable(
                f"the engine has no image {self.image}, and it is never pulled here", reason="image"
            )
        self._admit(policy, image_id)
        folder = Path(tempfile.mkdtemp(prefix="workflowmaster-"))
        try:
            user = _user(policy)
            exchange = Exchange(folder / "exchange").make(user)
            request = ContainerRequest(
                name=f"workflowmaster-sandbox-{secrets.token_hex(6)}",
                image_id=image_id,
                policy=policy,
                argv=tuple(self.command),
                mounts=exchange.mounts,
                labels={"workflow": "sandbox", **Owner.me().labels(), **deadline.labels(policy.wall_seconds_max)},
                user=f"{user[0]}:{user[1]}",
                workdir=SCRATCH,
            )
            exchange.write({"HOME": SCRATCH, "WM_OUTPUT": f"{OUT}/outputs"}, {})
            seconds = min(self.timeout_seconds or policy.wall_seconds_default, policy.wall_seconds_max)
            return SandboxRun(container_for(engine, request).park(), folder, seconds, engine)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _user(policy: SecurityPolicy) -> tuple[int, int]:
    """Return uid and gid for a container: never 0."""
    if policy.user == "workspace" and os.geteuid():
        return os.geteuid(), os.getegid()
    number = 200_000 + secrets.randbelow(60_000) if policy.user == "unique" else 1000
    return number, number


class SandboxRun(JobRun[str]):
    """One run of a `DockerSandbox`: it goes on in a thread of its own, and removes its container at the end."""

    def __init__(self, container: Container, folder: Path, seconds: float, engine: Engine) -> None:
        self._container, self._log, self._seconds, self._engine = container, folder / "log", seconds, engine
        self.ending: Ending | None = None
        # Watched and never mounted: no sweep knows of this folder.
        out = Place(OUT, folder / "exchange/out", cap=container.request.policy.result_cap)
        self._growth = watch(engine, container, [out] if engine.info.local else [])
        # Not a daemon: a process that exits waits for its container, at most its wall time, instead of leaving it.
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=container.request.name)
        self._done = thread.submit(self._run)
        thread.shutdown(wait=False)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def _run(self) -> Ending:
        policy = self._container.request.policy
        try:
            with Capture(self._log, cap=policy.output_cap, policy=policy.name) as capture:
                return self._container.run(self._seconds, capture, self._growth)
        finally:
            self._container.remove()
            self._take_over()

    def _take_over(self) -> None:
        """Make what a uid of its own left behind ours, or the folder could never be removed."""
        request = self._container.request
        outward = self._log.parent / "exchange/out"
        if self._container.shares_files and needs_handing_over(outward, int(request.user.partition(":")[0])):
            labels = {f"{OURS}.{key}": value for key, value in request.labels.items()}
            hand_over(self._engine, request.image_id, outward, name=f"{request.name}-own", labels=labels)

    async def wait_for_completion(self) -> None:  # type: ignore[override] # Prefect's own annotation is a slip
        """Wait for the end. RuntimeError saying why if the command failed; SandboxUnavailable if it could not run."""
        self.ending = await asyncio.shield(asyncio.wrap_future(self._done))
        policy = self._container.request.policy.name
        receipt = Receipt(
            policy=policy,
            exit_code=self.ending.exit_code,
            signal=signal_of(self.ending.exit_code),
            oom_killed=self.ending.oom_killed,
            timed_out=self.ending.timed_out,
            output_capped=self.ending.capped,
            disk_capped=self.ending.disk_capped,
        )
        reason, _ = explain(receipt, self._seconds)
        if reason:
            raise RuntimeError(f"the command failed under policy {policy}: {reason}; fetch_result() has its output")

    async def fetch_result(self) -> str:
        """Return what it printed so far, stdout and stderr as they came."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""
