"""A step's result key: everything that can change its outcome, hashed; and what of it is recorded, for `why`.

Apart from the tasks, because a key must be known where Prefect is not: before a step starts, and where a resume only
looks whether anything is left to do.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Protocol

from workflowmaster.flows.invocation import environment
from workflowmaster.flows.networking import reach_of
from workflowmaster.flows.plan import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.flows.journey import Record
    from workflowmaster.flows.past import Past
    from workflowmaster.flows.plan import Plan, Step, StepResult
    from workflowmaster.flows.settings import Settings
    from workflowmaster.policies import SecurityPolicy

SHOWN = 2_000
"""Bytes up to which a part of a step's key is recorded as it is."""


class Surroundings(Protocol):
    """What of a run decides about its keys."""

    @property
    def id(self) -> str:
        """The workflow's id."""

    @property
    def plan(self) -> Plan:
        """What is done."""

    @property
    def record(self) -> Record:
        """What was asked for, and the ids of the images."""

    @property
    def settings(self) -> Settings:
        """The operator's."""

    @property
    def policies(self) -> Mapping[str, SecurityPolicy]:
        """Step id → the limits it runs under."""

    @property
    def ancestors(self) -> Mapping[str, frozenset[str]]:
        """Step id → the steps before it."""

    @property
    def results(self) -> Mapping[str, StepResult]:
        """Step id → result, of the steps before it at least."""

    @property
    def past(self) -> Past:
        """What earlier parts of the run have recorded."""


def key_of(run: Surroundings, step: Step, parts: Mapping[str, Any], *, shared: bool = True) -> str:
    """Return the key of a step by its parts; with `cache: true` the workflow's id is no part of it.

    `shared=False` gives the key of this workflow alone, for a cached result that cannot be used any more.
    """
    # What somebody wants to run anew must not come back from elsewhere either.
    owner = "shared" if step.cache and shared and "generation" not in parts else run.id
    return f"{owner}-{hashlib.sha256(canonical([step.id, parts])).hexdigest()}"


def key_parts(run: Surroundings, step: Step, tree: str) -> dict[str, Any]:
    """Return everything that can change a step's outcome, by component: plain JSON values."""
    before = {name: run.results[name] for name in run.ancestors[step.id] if name in run.results}
    return {
        "work": step.work and step.work.model_dump(exclude={"line"}),
        "check": step.check and step.check.model_dump(exclude={"line"}),
        "kind": step.kind,
        "policy": run.policies[step.id].hash,
        "image": run.record.images.get(step.image, ""),
        "tree": tree,
        "environment": environment(step, run.plan, run.record.options.inputs, before),
        "secrets": step.secrets,
        "inputs": step.inputs,
        "outputs": step.outputs,
        "artifacts": step.artifacts,
        "git": step.git,
        "agent": run.record.options.agent if step.kind == "agent" else "",
        "timeout": step.timeout_seconds,
        **({"network": str(reach)} if (reach := reach_of(run.policies[step.id], step.network)) else {}),
        **({"generation": count} if (count := run.past.generations.get(step.id, 0)) else {}),
    }


def shown(part: Any) -> Any:
    """Return a part of a key as it is recorded: itself, or its hash where it is long.

    A step's environment holds the outputs of all before it: written out, a thousand steps would take a million lines.
    """
    text = canonical(part)
    if len(text) <= SHOWN:
        return part
    digests = {name: shown(one) for name, one in part.items()} if _many(part) else None
    if digests and len(canonical(digests)) <= 2 * SHOWN:
        return digests
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


def _many(part: Any) -> bool:
    """Whether a part is an environment, of which at least the long values may be hashed one by one."""
    return isinstance(part, dict) and "interpreter" not in part
