"""Which images a run may use: each reference becomes an id, and the id is held against the policies of its steps.

The id is taken once and kept in the run's record or the lock. Everything after goes by it: the container is created by
id, a resume looks for the id and not for the name, and a tag that somebody moves in between changes nothing.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from workflowmaster import policies
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.signing import Trust, held
from workflowmaster.flows.settings import home
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.blocks.engine import Engine
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Plan
    from workflowmaster.flows.settings import Settings
    from workflowmaster.policies import Held, SecurityPolicy


def trust(settings: Settings) -> Trust:
    """Return the signed manifests and keys that hold for this user."""
    return Trust(home() / "images", settings.trusted_image_keys)


def pin(plan: Plan, engine: Engine, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the id of every image the plan names: the known one, else what the engine has under that name now.

    Raises SandboxUnavailable naming what is missing and the mend, and what `Engine.must_run` raises.
    """
    found, missing = {}, []
    for reference in sorted({step.image for step in plan.tasks if step.in_container}):
        image_id = (known or {}).get(reference) or engine.image_id(reference)
        # A known id is asked for as well: what was pinned may have been removed since.
        if image_id and (not known or engine.image_id(image_id)):
            engine.must_run(image_id, reference)
            found[reference] = image_id
        elif image_id:
            raise SandboxUnavailable(_gone(reference, image_id), reason="image")
        else:
            missing.append(reference)
    if missing:
        raise SandboxUnavailable(_missing(missing), reason="image")
    return found


def identified(engine: Engine, reference: str) -> str:
    """Return the id of an image that a person names. SandboxUnavailable with the mend if the engine has none."""
    found = engine.image_id(reference)
    if found is None:
        raise SandboxUnavailable(_missing([reference]), reason="image")
    return found


def _gone(reference: str, image_id: str) -> str:
    return (
        f"{reference} was pinned to {image_id}, and the engine no longer has that image: load it again (docker load), "
        "or pin anew: start a new run, or for a lock workflowmaster compile"
    )


def _missing(references: list[str]) -> str:
    ours = [reference for reference in references if policies.is_ours(reference)]
    pulls = [f"docker pull {shlex.quote(reference)}" for reference in references if reference not in ours]
    how = " and ".join([*(["workflowmaster image build"] if ours else []), *pulls])
    return f"the engine has no image {', '.join(references)}, and a run never pulls: {how} first"


def admit(
    plan: Plan, limits: Mapping[str, SecurityPolicy], images: Mapping[str, str], settings: Settings, *, by: str = ""
) -> None:
    """Hold every image against the policies of the steps that use it. PolicyError names all that are refused.

    `limits` is by step id; steps it does not have are left out. `by` says what holds tags to their ids here: `lock`,
    `record`, or nothing.
    """
    judge = trust(settings)
    # A plan of a thousand steps has a handful of images, and each verdict costs a signature check.
    known: dict[str, Held] = {}
    refused: dict[str, str] = {}
    for step in plan.tasks:
        policy = limits.get(step.id)
        if policy is None or not step.in_container:
            continue
        # By name once more: a lock or a record is a file, and the rules may have become stricter since it was written.
        said = policies.refused_image(policy, step.image)
        if not said and policy.image not in ("any", "allowed"):
            if step.image not in known:
                known[step.image] = held(step.image, images[step.image], judge, by)
            said = policies.refused_held(policy, step.image, known[step.image])
        if said:
            refused.setdefault(said, f"  {plan.prompt.path}:{step.source.line}: step {step.id}: {said}")
    # All at once, and each reason once: a matrix of a hundred would say the same a hundred times.
    if refused:
        raise PolicyError("\n".join(["an image is refused by a policy:", *refused.values()]))


def tell(journey: Journey) -> None:
    """Write down, before anything starts, who granted more than built-in policies do, and who signed the images."""
    folders = journey.settings.own_policies
    for name in sorted({step.policy for step in journey.plan.tasks if step.in_container}):
        for one in policies.loosened(name, folders):
            journey.audit.append(
                "policy.loosened",
                policy=name,
                by=one.policy,
                against=one.against,
                controls={finding.control: finding.detail for finding in one.findings},
                reason=one.reason,
                file=str(one.path),
            )
    if {limits.image for limits in journey.policies.values()} & {"pinned", "signed", "product"}:
        judge = trust(journey.settings)
        for reference, image_id in journey.record.images.items():
            verdict = judge.verdict(image_id)
            journey.audit.append("image.pinned", image=reference, id=image_id, held_by=journey.held, key=verdict.key)
