"""`DockerSandbox`: a security policy as a Prefect block, and a job that runs one command under it.

One document per policy is saved by `workflowmaster init`, so that operators see and edit their limits where they see
their runs. A document can tighten its policy freely. One that grants more than the policy of its name is refused until
it says why: a promise that anyone could void with a click in a form would be none.
"""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Any

from prefect.blocks.abstract import JobBlock, JobRun
from prefect.blocks.core import Block
from prefect.utilities.asyncutils import run_sync_in_worker_thread
from pydantic import ConfigDict, Field

from workflowmaster import policies
from workflowmaster.blocks.container import EXCHANGE, SCRATCH, Container, ContainerRequest, Ending
from workflowmaster.blocks.engine import Engine, SandboxUnavailable
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.output import Capture
from workflowmaster.blocks.owner import Owner
from workflowmaster.policies import PolicyError, SecurityPolicy

DOCUMENTATION = "https://github.com/workflowmaster/workflowmaster/blob/main/docs/policies.md"


class DockerHost(Block):
    """The Docker Engine that runs the containers.

    Attributes:
        url: Address as in DOCKER_HOST, for example `unix:///var/run/docker.sock`; empty for the worker's own.
    """

    _block_type_name = "Docker Host (WorkflowMaster)"
    _block_type_slug = "workflowmaster-docker-host"
    model_config = ConfigDict(extra="forbid")

    url: str = Field(default="", description="Address as in DOCKER_HOST; empty for the worker's own engine.")

    def engine(self) -> Engine:
        """Return a connection to it."""
        return Engine(self.url or None)


class DockerSandbox(JobBlock):
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
    _block_type_slug = "docker-sandbox"
    _description = "Runs a command in a container of its own, under a named security policy."
    model_config = ConfigDict(extra="forbid")

    policy: str = Field(default="standard", description="Name of the policy this document stands for.")
    limits: dict[str, Any] = Field(default_factory=dict, description="Fields of the policy that are changed here.")
    reason: str = Field(default="", description="Why it grants more than the policy of that name; audited.")
    host: DockerHost = Field(default_factory=DockerHost)
    image: str = Field(default="workflowmaster/step:1", description="Image for trigger; never pulled.")
    command: list[str] = Field(default_factory=list, description="Command for trigger.")
    timeout_seconds: float | None = Field(default=None, description="Wall time for trigger.")

    def effective(self) -> SecurityPolicy:
        """Return the limits that hold. PolicyError for a bad field, or for a looser one without a reason."""
        base = policies.load(self.policy)
        try:
            changed = SecurityPolicy.model_validate({**base.model_dump(), **self.limits, "reason": self.reason})
        except ValueError as error:
            raise PolicyError(f"block docker-sandbox/{self.policy}: {error}") from error
        looser = policies.looser(changed, base)
        if looser and not self.reason.strip():
            details = "; ".join(f"{finding.control}: {finding.detail}" for finding in looser)
            raise PolicyError(
                f"block docker-sandbox/{self.policy} grants more than policy {self.policy} ({details}) and gives no "
                "reason: fill in its field `reason`, or take the change back"
            )
        return changed

    async def trigger(self) -> SandboxRun:
        """Start the command and return its run. Raises SandboxUnavailable or PolicyError."""
        return await run_sync_in_worker_thread(self._start)

    def _start(self) -> SandboxRun:
        policy, engine = self.effective(), self.host.engine()
        image_id = engine.image_id(self.image)
        if image_id is None:
            raise SandboxUnavailable(
                f"the engine has no image {self.image}, and it is never pulled here", reason="image"
            )
        folder = Path(tempfile.mkdtemp(prefix="workflowmaster-"))
        exchange = Exchange(folder / "exchange").make((1000, 1000))
        request = ContainerRequest(
            name=f"workflowmaster-sandbox-{secrets.token_hex(6)}",
            image_id=image_id,
            policy=policy,
            argv=tuple(self.command),
            mounts=exchange.mounts,
            labels={"workflow": "sandbox", **Owner.me().labels()},
            workdir=EXCHANGE,
        )
        exchange.write({"HOME": SCRATCH, "WM_OUTPUT": "/out/outputs"}, {})
        seconds = min(self.timeout_seconds or policy.wall_seconds_default, policy.wall_seconds_max)
        return SandboxRun(Container(engine, request).park(), exchange, folder / "log", seconds)


class SandboxRun(JobRun[str]):
    """One run of a `DockerSandbox`: wait for it, then fetch what it printed."""

    def __init__(self, container: Container, exchange: Exchange, log: Path, seconds: float) -> None:
        self._container, self._exchange, self._log, self._seconds = container, exchange, log, seconds
        self.ending: Ending | None = None

    async def wait_for_completion(self) -> None:
        """Run to the end. RuntimeError if the command failed; the container is removed either way."""
        self.ending = await run_sync_in_worker_thread(self._run)
        if self.ending.exit_code or self.ending.timed_out or self.ending.capped:
            raise RuntimeError(
                f"the command ended with exit code {self.ending.exit_code}; fetch_result() has its output"
            )

    def _run(self) -> Ending:
        policy = self._container.request.policy
        try:
            with Capture(self._log, cap=policy.output_cap, policy=policy.name) as capture:
                return self._container.run(self._seconds, capture)
        finally:
            self._container.remove()

    async def fetch_result(self) -> str:
        """Return what it printed, stdout and stderr as they came."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""
