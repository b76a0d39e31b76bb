"""What a policy promises about a hostile operation, and whether the promise is kept. Pure.

The hard choice: a promise is not a table of policies and outcomes but a comparison with one field of the policy, so
that it also holds for policies that users write. Every comparison grants less as its field becomes stricter, and none
says "not": what a policy promises, each stricter one promises too, by construction. The accepted cost is that a promise
which needs two fields at once cannot be said; several that each suffice can.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from workflowmaster.blocks.probes.battery import ALWAYS
from workflowmaster.policies.checks import RANKS
from workflowmaster.policies.values import parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflowmaster.blocks.probes.battery import Probe
    from workflowmaster.policies import SecurityPolicy

CONTROL = re.compile(r"(?P<field>[a-z_]+(\.[a-z_]+)?) (?P<how>>=|<=|==|without) (?P<value>\S+)")

Word = Literal["blocked", "open", "broken", "stricter", "guest", "void"]
"""Stopped, as promised; succeeded, as granted; succeeded although it was promised that it would not; stopped although
it was granted; succeeded in a kernel of the container's own, where it reaches no host; or proves nothing."""

GUESTS = frozenset({"mounts", "namespaces", "capabilities", "calls", "interfaces"})
"""Groups that gVisor answers by itself: it may grant them as freely as a machine of one's own would."""


class Outcome(NamedTuple):
    """How one probe ended in one container."""

    kind: Literal["done", "refused", "absent", "late", "mistake"]
    """The operation succeeded; was stopped; lacks what it needs; took too long; or the probe itself has a fault."""
    detail: str = ""


class Verdict(BaseModel):
    """What one probe says of one policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    group: str
    tries: str
    verdict: Word
    promised_by: tuple[str, ...]
    """The policy's controls that promise to stop it; none: it is granted."""
    detail: str
    """What stopped it, or why it proves nothing."""


def judge(one: Probe, policy: SecurityPolicy, got: Outcome, reference: Outcome, *, gvisor: bool = False) -> Verdict:
    """Compare how a probe ended under a policy with what the policy promises, and with an unrestricted container."""
    promised = promises(one.blocked_by, policy)
    word, detail = _word(got, reference, bool(promised))
    if word == "broken" and gvisor and one.group in GUESTS:
        word, detail = "guest", "granted by a kernel of its own"
    return Verdict(name=one.name, group=one.group, tries=one.tries, verdict=word, promised_by=promised, detail=detail)


def _word(got: Outcome, reference: Outcome, promised: bool) -> tuple[Word, str]:
    if "mistake" in (got.kind, reference.kind):
        return "void", f"the probe itself failed: {(got if got.kind == 'mistake' else reference).detail}"
    if reference.kind != "done":
        return "void", f"not even an unrestricted container can: {reference.detail}"
    if got.kind == "late":
        # A machine that is too busy must not look like a sandbox that holds.
        return "void", got.detail
    # What is there outside and not inside was kept away, which is a way of stopping it.
    if got.kind == "done":
        return ("broken" if promised else "open"), ""
    return ("blocked" if promised else "stricter"), got.detail


def promises(controls: Sequence[str], policy: SecurityPolicy) -> tuple[str, ...]:
    """Return the controls that hold for a policy. ValueError for one that makes no sense."""
    return tuple(control for control in controls if holds(control, policy))


def holds(control: str, policy: SecurityPolicy) -> bool:
    """Whether a policy has at least what a control says. ValueError for a control that makes no sense."""
    if control == ALWAYS:
        return True
    found = CONTROL.fullmatch(control)
    if found is None:
        raise ValueError(f"{control!r} is no control: expected FIELD >= WORD, FIELD <= SIZE, FIELD == on or false")
    return _compared(found["how"], found["field"], found["value"], _field(policy, found["field"]))


def _field(policy: SecurityPolicy, name: str) -> Any:
    value: Any = policy
    for part in name.split("."):
        # No `/tmp` of its own has no bound of its own either.
        value = None if value is None else getattr(value, part)
    return value


def _compared(how: str, field: str, wanted: str, value: Any) -> bool:
    if how == "without":
        return wanted not in value
    if how == "==":
        return value is {"true": True, "false": False}[wanted]
    if how == ">=":
        order = RANKS[field]
        return order.index(value) >= order.index(wanted)
    return value is not None and value <= parse_size(wanted)
