"""`--budget`: other limits than the prompt's, from somebody at the command line; checked before anything starts.

What is given replaces the prompt's limit of that name, up or down, until the prompt itself says something else: the
later word counts. It is a record of the run and not an option of it, because it is an answer to how far the run has
come: 30 minutes are enough or not, depending on how many are gone. The operator's ceiling holds for it as for a prompt.
"""

from __future__ import annotations

import getpass
import math
import re
from typing import TYPE_CHECKING, Final

from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.budgets import LIMITS, OUTPUT, Ledger, number
from workflowmaster.flows.diagnostics import did_you_mean
from workflowmaster.flows.metering import Meter, further
from workflowmaster.flows.past import past

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Plan
    from workflowmaster.flows.settings import Settings

Wanted = dict[str, dict[str, float]]
"""Step id, or nothing for the run → limit → value."""

FORM: Final = "[STEP:]LIMIT=NUMBER,…"
# Stricter than Python, to whom `inf`, `1_0` and `1e9` are numbers too.
_NUMBER = re.compile(r"\d+(\.\d+)?")


def wanted(texts: Iterable[str]) -> Wanted:
    """Read what `--budget` was given: `minutes=30,usd=5`, or `build:attempts=4` for a step. BadOption."""
    found: Wanted = {}
    for text in texts:
        step_id, _, pairs = text.rpartition(":")
        for pair in pairs.split(","):
            name, _, value = pair.strip().partition("=")
            if name not in LIMITS:
                advice = did_you_mean(name, LIMITS) or f"limits are {', '.join(LIMITS)}"
                raise BadOption(f"--budget {text}: expected {FORM}; {advice}")
            found.setdefault(step_id, {})[name] = _value(text, name, value)
    return found


def _value(text: str, name: str, value: str) -> float:
    least = 0.0 if name == OUTPUT else math.ulp(0.0)
    if not _NUMBER.fullmatch(value) or float(value) < least or (name == "attempts" and not value.isdecimal()):
        kind = "a whole number above 0" if name == "attempts" else "0 or more" if name == OUTPUT else "a number above 0"
        raise BadOption(f"--budget {text}: {name} is {kind}, and not {value or 'nothing'}")
    return float(value)


def admit(given: Wanted, plan: Plan, settings: Settings, ledger: Ledger | None = None) -> None:
    """Hold that these limits are ones that a run can go on with. BadOption where it could not get any further.

    `ledger` is what it has used; nothing, where it is a new one.
    """
    meter = Meter(plan, settings, ledger or Ledger(), lambda: 0.0)
    for step_id, limits in given.items():
        if step_id and step_id not in plan.ids:
            advice = did_you_mean(step_id, sorted(plan.ids)) or f"its steps are {', '.join(sorted(plan.ids)[:12])}"
            raise BadOption(f"--budget {step_id}:…: {plan.name} has no step {step_id!r}; {advice}")
        used = meter.spent(step_id).named()
        for name, value in limits.items():
            asked, whose = f"--budget {name}={number(value)}", f"step {step_id}" if step_id else "the run"
            if 0 < used[name] >= value:
                raise BadOption(f"{asked}: {whose} has used {number(used[name])} {name} already; give more than that")
            if not step_id and value > meter.ceiling.get(name, math.inf):
                key = f"budget_{name.replace('-', '_')}"
                raise BadOption(f"{asked}: the operator's setting {key} allows {number(meter.ceiling[name])}")


def unaffordable(folder: Folder, edited: Plan | None, settings: Settings, given: Wanted) -> str:
    """Return why a run that was stopped for its budget would stop again at once; empty if it would not.

    `edited` is the plan of an edited prompt. BadOption for limits that are used up already.
    """
    state, plan = folder.state(), edited or folder.plan()
    if given:
        admit(given, plan, settings, past(folder.journal).ledger)
    if state.status != "paused" or not state.budget or not state.budget.over:
        return ""
    meter = Meter(plan, settings, past(folder.journal).ledger, lambda: 0.0)
    for step_id, limits in given.items():
        meter.grant(step_id, limits)
    steps = [name.rpartition(":")[0] for name in state.budget.over]
    said = [meter.over(step or None) for step in steps if step in ("", *plan.ids)]
    return f"{said[0]}. {further(folder.id, meter, state.budget.over)}" if said and said[0] else ""


def apply(journey: Journey, given: Wanted) -> None:
    """Make these limits the run's own; they are written down as its first act (`rationing.begin`)."""
    for step_id, limits in given.items():
        journey.budget.grant(step_id, limits, by=getpass.getuser())
