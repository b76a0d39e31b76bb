"""Whether a container that waits for its go is as its policy says. Pure.

The facts are the kernel's; where it does not tell (another machine, a foreign uid's links), the engine's word is taken
and recorded as such, because it only repeats what was asked for. The hard choice is what to do about a control nobody
tells of: it refuses like a weaker one. A promise that cannot be checked is not kept; the cost is that an engine of an
unknown kind runs nothing until somebody has looked at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.controls import CONTROLS
from workflowmaster.blocks.judging import Case
from workflowmaster.blocks.runtime import REPLACED, is_gvisor
from workflowmaster.policies import PolicyError
from workflowmaster.policies.checks import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.blocks.effective import Effective
    from workflowmaster.blocks.engine import EngineInfo
    from workflowmaster.blocks.judging import Control
    from workflowmaster.blocks.request import ContainerRequest
    from workflowmaster.policies import SecurityPolicy


@dataclass(frozen=True)
class Observed:
    """What two sources say of one container."""

    kernel: Effective | None
    """None where the engine does not share our kernel."""
    engine: Effective


@dataclass(frozen=True)
class Attested:
    """The outcome for one container, control by control."""

    enforced: tuple[str, ...] = ()
    """Controls that were read back from the kernel as effective."""
    told: tuple[str, ...] = ()
    """Controls for which there is only the engine's or the runtime's word."""
    absent: tuple[Finding, ...] = ()
    """What the policy prefers and this host does not have."""
    weaker: tuple[Finding, ...] = ()
    """What is weaker than declared: any of these refuses the step."""

    def account(self) -> dict[str, tuple[str, ...]]:
        """Return the fields of a receipt that tell of it."""
        absent = tuple(f"{finding.control}: {finding.detail}" for finding in self.absent)
        return {"enforced": self.enforced, "told": self.told, "absent": absent}


def attest(request: ContainerRequest, observed: Observed, info: EngineInfo) -> Attested:
    """Compare control by control what holds with what the policy declares."""
    found: dict[str, list[Any]] = {"enforced": [], "told": [], "absent": [], "weaker": []}
    # All of them, not up to the first: a person mends an engine once.
    for one in CONTROLS:
        if one.promised(request):
            verdict, entry = _judged(one, request, observed, info)
            found[verdict].append(entry)
    return Attested(**{verdict: tuple(entries) for verdict, entries in found.items()})


def _judged(one: Control, request: ContainerRequest, observed: Observed, info: EngineInfo) -> tuple[str, str | Finding]:
    """Return under which heading of `Attested` a control goes, and its name or finding."""
    if one.name in REPLACED and is_gvisor((observed.kernel or observed.engine).runtime or observed.engine.runtime):
        # The engine would say that it was asked for, which is true, and worth nothing.
        return "absent", Finding(one.name, "is absent", "gVisor answers system calls itself and does not apply it")
    source = next((seen for seen in (observed.kernel, observed.engine) if one.told_by(seen)), None)
    weakness = ("that it can be checked", "nobody tells") if source is None else one.judge(Case(request, source, info))
    if weakness is None:
        return ("enforced" if source is observed.kernel else "told"), one.name
    # Preferred is what depends on the host, so only its lack there excuses a container that goes without.
    declared, seen = weakness
    if one.preferred(request.policy, info):
        return "absent", Finding(one.name, "is absent", f"wanted {declared}, found {seen}")
    return "weaker", Finding(one.name, "is weaker than declared", f"declared {declared}, found {seen}; {one.mend}")


def refuse(request: ContainerRequest, attested: Attested, *, what: str) -> None:
    """Raise PolicyError with every weaker control, saying what was done; nothing happens if there is none."""
    if attested.weaker:
        raise refusal(request.policy, f"{request.name} {what}", attested.weaker)


def refusal(policy: SecurityPolicy, what: str, findings: Iterable[Finding]) -> PolicyError:
    """Return the error that says which controls of a policy are not to be had here."""
    # The findings travel with the error: the audit log wants them as data.
    found = tuple(findings)
    lines = [f"  {one.control} {one.reason}: {one.detail}" for one in found]
    return PolicyError("\n".join([f"policy {policy.name} cannot be kept here, so {what}:", *lines]), found)
