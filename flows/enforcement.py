"""What this engine can enforce, control by control: asked before a run, and shown by `doctor`.

Only a container shows what an engine really does: what it says of itself tells which words it understands, and an old
kernel or a missing controller makes less of them. So the table is the attestation of one throw-away container under the
strictest policy, whose command never runs; the price is its start, 0.3 s. Without an image there is what it says.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workflowmaster import policies
from workflowmaster.blocks.attestation import refusal
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.request import SCRATCH, ContainerRequest
from workflowmaster.blocks.runtime import lacking
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.blocks.attestation import Attested
    from workflowmaster.blocks.engine import Engine, EngineInfo
    from workflowmaster.flows.plan import Plan
    from workflowmaster.policies import SecurityPolicy

Verdict = Literal["enforced", "told", "absent", "weaker"]

MEANING: Mapping[Verdict, str] = {
    "enforced": "read back from the kernel",
    "told": "the engine's word only",
    "absent": "not to be had here",
    "weaker": "NOT ENFORCED: refuses every policy that promises it",
}
"""What each verdict says to a person."""

USER = 1000


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    control: str
    verdict: Verdict
    detail: str = ""


def insist(plan: Plan, limits: Mapping[str, SecurityPolicy], engine: Engine) -> None:
    """Refuse a plan whose policies insist on what the engine does not have. PolicyError, before anything starts."""
    for step in plan.tasks:
        if step.in_container and (missing := lacking(limits[step.id], engine.info)):
            raise refusal(
                limits[step.id], f"step {step.id} ({plan.prompt.path}:{step.source.line}) cannot run", missing
            )


def table(engine: Engine, image_id: str | None) -> tuple[Row, ...]:
    """Return what this engine enforces. Raises SandboxUnavailable.

    `image_id` is any image with a shell; without one only what the engine says of itself is known.
    """
    tried = _rows(_try(engine, image_id)) if image_id else ()
    return (*tried, *_of_the_engine(engine.info))


def _try(engine: Engine, image_id: str) -> Attested:
    with tempfile.TemporaryDirectory(prefix="workflowmaster-") as folder:
        request = ContainerRequest(
            name=f"workflowmaster-doctor-{secrets.token_hex(6)}",
            image_id=image_id,
            policy=policies.load("paranoid"),
            argv=("true",),
            mounts=Exchange(Path(folder) / "exchange").make((USER, USER)).mounts,
            labels={"workflow": "doctor", **Owner.me().labels()},
            user=f"{USER}:{USER}",
            workdir=SCRATCH,
        )
        container = Container(engine, request)
        try:
            return container.park().attested
        except PolicyError:
            return container.attested
        finally:
            container.remove()


def _rows(attested: Attested) -> tuple[Row, ...]:
    return (
        *(Row(name, "enforced") for name in attested.enforced),
        *(Row(name, "told") for name in attested.told),
        *(Row(finding.control, "absent", finding.detail) for finding in attested.absent),
        *(Row(finding.control, "weaker", finding.detail) for finding in attested.weaker),
    )


def _of_the_engine(info: EngineInfo) -> tuple[Row, ...]:
    """Return what no container can show: it is a property of the host, and decides how something is done."""
    quota = info.storage in ("btrfs", "zfs")
    pidfd = info.local and hasattr(os, "pidfd_open")
    return (
        Row("user_namespace", "told" if "userns" in info.security else "absent", "uids of containers are the host's"),
        Row("disk_quota", "told" if quota else "absent", "" if quota else f"{info.storage}: growth is watched instead"),
        Row("pidfd", "enforced" if pidfd else "absent", "" if pidfd else "ends are told by the engine, 25 ms later"),
    )
