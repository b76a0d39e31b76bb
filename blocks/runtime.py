"""Which runtime and which confinement a policy gets on an engine. Pure.

Decided in one place, because three ask: the arguments of a container, its attestation, and whoever must refuse a policy
that insists before anything is started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.policies.checks import Finding
from workflowmaster.policies.model import GVISOR_MIN_PIDS

if TYPE_CHECKING:
    from workflowmaster.blocks.engine import EngineInfo
    from workflowmaster.policies import SecurityPolicy

REPLACED = frozenset({"no_new_privileges", "seccomp", "seccomp_profile"})
"""Controls that gVisor does not apply: it answers system calls itself, as a kernel of its own with its own rights."""

PROFILE = "docker-default"
"""The AppArmor profile that the engine itself makes and loads."""


def is_gvisor(runtime: str | None) -> bool:
    """Whether a runtime's name is gVisor's; operators add variants such as `runsc-kvm`."""
    return runtime is not None and ("runsc" in runtime or "gvisor" in runtime)


def runtime_for(policy: SecurityPolicy, info: EngineInfo) -> str | None:
    """Return the runtime to ask for; None for the engine's own."""
    return info.gvisor if policy.runtime != "runc" else None


def confinement_for(policy: SecurityPolicy, info: EngineInfo) -> str | None:
    """Return the AppArmor profile to ask for; None where the policy does not ask or the host has none."""
    # Asked for on a host without AppArmor it is accepted silently, which would look like protection.
    return PROFILE if policy.apparmor != "none" and "apparmor" in info.security else None


def pids_granted(policy: SecurityPolicy, *, gvisor: bool) -> int:
    """Return how many processes and threads are granted: gVisor's own count as well."""
    return max(policy.pids, GVISOR_MIN_PIDS) if gvisor else policy.pids


def lacking(policy: SecurityPolicy, info: EngineInfo) -> tuple[Finding, ...]:
    """Return what a policy insists on and the engine says it does not have: no container need be tried."""
    found = []
    if "seccomp" not in info.security:
        found.append(Finding("seccomp", "is not to be had", "the engine has none; use a kernel and an engine with it"))
    if policy.apparmor == "require" and "apparmor" not in info.security:
        found.append(Finding("apparmor", "is not to be had", "the host has none; use another, or `apparmor: prefer`"))
    if policy.runtime == "gvisor" and info.gvisor is None:
        detail = "the engine has no runtime runsc; add it, or use `runtime: prefer-gvisor`"
        found.append(Finding("runtime", "is not to be had", detail))
    return tuple(found)
