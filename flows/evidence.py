"""What a run writes into its audit log at the stations of its way: which fields say what an auditor will ask.

Kept apart from the code that does the work, so that the question "what is written down, and may it be" has one place.
No value of an input, a variable or a secret is ever among it: names, hashes and ids are.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflowmaster.blocks.container import Container
    from workflowmaster.blocks.forge import Reference
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Step
    from workflowmaster.flows.settings import Settings


def asked(journey: Journey) -> None:
    """Write down what is to be run, before a container is made for it."""
    plan, record = journey.plan, journey.record
    journey.audit.append(
        "plan.compiled",
        prompt_sha256=plan.prompt.sha256,
        plan=plan.workflow_hash,
        compiler=plan.compiler,
        steps=len(plan.tasks),
        inputs=sorted(plan.input_values),
        base=journey.store.base,
        images=record.images,
    )
    journey.audit.append("settings.effective", settings=configured(journey.settings))


def configured(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from their defaults; a command only as its hash, for people put tokens there."""
    found = settings.model_dump(mode="json", exclude_defaults=True)
    if agent := found.get("agent"):
        found["agent"] = f"sha256:{hashlib.sha256(str(agent).encode()).hexdigest()}"
    return found


def applied(journey: Journey) -> None:
    """Write down which limits hold for which steps, once the server's documents are taken into account."""
    groups: dict[tuple[str, str], list[str]] = {}
    for step in journey.plan.tasks:
        policy = journey.policies[step.id]
        if step.in_container:
            groups.setdefault((policy.name, policy.hash), []).append(step.id)
    for (name, digest), steps in groups.items():
        journey.audit.append("policy.applied", policy=name, policy_hash=digest, steps=steps)


def parked(journey: Journey, step: Step, container: Container, purpose: str) -> None:
    """Write down a container that waits for its go, and what of its limits was read back from the kernel."""
    request = container.request
    about = {"step": step.id, "attempt": int(request.labels["attempt"]), "purpose": purpose, "container": container.id}
    journey.audit.append("container.created", **about, name=request.name, image=request.image_id)
    found = container.attested.account()
    if any(found.values()):
        # One that cannot wait for its go is read back as it runs: `container.finished` says what was found.
        said = {"policy": request.policy.name, "policy_hash": request.policy.hash, **found}
        journey.audit.append("container.attested", **about, image=request.image_id, **said)


def removed(journey: Journey, container: Container) -> None:
    """Write down that a container is gone, and whether it had ever been given its go."""
    step = container.request.labels.get("step", "")
    journey.audit.append("container.removed", step=step, container=container.id, used=container.begun)


def handed_out(journey: Journey, step: Step, container: str) -> None:
    """Write down which secrets a container is given, by name."""
    if step.secrets:
        known = {"secrets": step.secrets, "variables": sorted(step.secret_env)}
        journey.audit.append("secret.used", step=step.id, container=container, **known)


def published(journey: Journey, made: Reference) -> None:
    """Write down what was published; of a file its hash too, so that it can be held against the log."""
    path = Path(made.location)
    known = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}
    journey.audit.append("forge.written", kind=made.kind, location=made.location, created=made.created, **known)
