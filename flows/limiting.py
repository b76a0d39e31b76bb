"""Which limits a step runs under: at first, and once a decision has given its next attempt more.

What an attempt gets more of is memory and wall time, never anything that protects: both are a matter of cost, and the
policy's own grant stays their cap. The hard choice is to leave the larger limits out of the result's key. A key is what
the user asked for, and he asked for the step to be done; with the growth in it, a run that was killed after the step
had completed would not find the result under the key that it computes anew. The accepted cost: a result does not say by
its key how much it took; its receipt does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from workflowmaster import policies
from workflowmaster.flows.networking import granted
from workflowmaster.flows.plan import Limits

if TYPE_CHECKING:
    from workflowmaster.flows.plan import Step
    from workflowmaster.flows.settings import Settings
    from workflowmaster.policies import SecurityPolicy

N = TypeVar("N", int, float)


def effective(step: Step, settings: Settings, base: SecurityPolicy | None = None) -> SecurityPolicy:
    """Return the limits a step runs under. A setting above the policy's grant changes nothing: it can only lower."""
    policy = base or policies.load(step.policy, settings.own_policies)
    wanted = step.resources
    return policies.lower(
        granted(policy, step.network),
        memory=min([policy.memory, *_given(wanted.memory, _ceiling(settings))]),
        cpus=min([policy.cpus, *_given(wanted.cpus, settings.max_cpu_cores)]),
        pids=wanted.pids,
        disk=wanted.disk,
        wall_seconds=step.timeout_seconds if step.in_container else None,
    )


def caps(step: Step, settings: Settings, base: SecurityPolicy | None = None) -> Limits:
    """Return the most that a step's attempts may grow to: its policy's grant, lowered by the operator's settings."""
    policy = base or policies.load(step.policy, settings.own_policies)
    return Limits(memory=min([policy.memory, *_given(_ceiling(settings))]), seconds=float(policy.wall_seconds_max))


def first(step: Step, policy: SecurityPolicy) -> Limits:
    """Return what a step's first attempt gets. `policy` is the one it runs under."""
    return Limits(memory=policy.memory, seconds=step.timeout_seconds)


def within(wanted: Limits, start: Limits, most: Limits) -> Limits:
    """Return what is granted of a wish: nothing above the caps, and nothing below what the step had at first."""
    return Limits(
        memory=_between(wanted.memory, start.memory, most.memory),
        seconds=_between(wanted.seconds, start.seconds, most.seconds),
    )


def larger(policy: SecurityPolicy, more: Limits | None) -> SecurityPolicy:
    """Return a step's policy with the limits that its next attempt gets; itself where there are none."""
    if more is None:
        return policy
    changed: dict[str, float] = {}
    if more.memory is not None:
        changed["memory"] = more.memory
    if more.seconds is not None:
        changed |= {"wall_seconds_default": more.seconds, "wall_seconds_max": more.seconds}
    return type(policy).model_validate({**policy.model_dump(), **changed})


def longer(step: Step, more: Limits | None) -> Step:
    """Return a step with the wall time that its next attempt gets; itself where it stays the same."""
    if more is None or more.seconds in (None, step.timeout_seconds):
        return step
    return step.model_copy(update={"timeout_seconds": more.seconds})


def _between(wanted: N | None, least: N | None, most: N | None) -> N | None:
    if wanted is None:
        return None
    granted = wanted if most is None else min(wanted, most)
    return granted if least is None else max(granted, least)


def _ceiling(settings: Settings) -> int | None:
    return None if settings.max_memory_mb is None else settings.max_memory_mb * 2**20


def _given(*wishes: N | None) -> list[N]:
    return [wish for wish in wishes if wish is not None]
