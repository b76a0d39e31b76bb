"""What to do about a failed attempt: facts in, a `Decision` with its reason out. Pure.

One table, read from the top, and the first row whose condition holds decides. A table rather than a score: a person who
is woken by a decision must be able to say which row it was and which fact would have changed it. What it costs is that
the order matters, so here is why it is this one:

1. **Who decides.** With mode `off` everything is a person's, even what would be obvious.
2. **What stops us all.** A spent budget, and a service that is known to be down. Waiting for that one comes before
   every rule about attempts, because it is no attempt.
3. **Another attempt for a reason**: the prompt asks for it, it passes by itself, or there is more memory or time. The
   prompt's `on-failure` stands below these: it says what a failed step means, and a step that may still succeed has
   not failed.
4. **What the prompt says** about failure, by `on-failure` or `continue-on-error`. It is above our own judgement, and
   so above mode `assist`: it was written by a person.
5. **Our own judgement**, by the guide's rules: high priority is tried again while it may; low priority is left out
   late; what is not of high priority is left out on a machine that is unwell; medium goes on; the rest is a person's.
   What was learned stands inside this part only, and only about failures whose class tells nothing.

No retry is ever decided that `barred` rules out, whatever a row says, save the wait for a service, which `patience`
bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workflowmaster.flows import backoff
from workflowmaster.flows.facts import (
    NAMED,
    TRANSIENT,
    Chance,
    Facts,
    barred,
    bounds,
    hopeful,
    hopeless,
)
from workflowmaster.flows.plan import Decision, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


__all__ = ["RULES", "Chance", "Facts", "Rule", "decide", "rule_for"]

Verb = Literal["continue", "retry", "skip", "abort", "escalate"]


@dataclass(frozen=True)
class Rule:
    """One row of the table."""

    name: str
    verb: Verb
    when: Callable[[Facts], bool]
    words: str
    """`when`, as the documentation has it."""
    why: Callable[[Facts], str]
    """The sentence that follows the rule's name, with the values that made it hold."""


RULES: tuple[Rule, ...] = (
    Rule(
        "not-autonomous",
        "escalate",
        lambda f: f.mode == "off",
        "the mode is `off`",
        lambda f: f"nothing is decided without a person in mode off; {_failed(f)}",
    ),
    Rule(
        "budget-spent",
        "abort",
        lambda f: bool(f.budget_spent),
        "a budget is spent",
        lambda f: f"{f.budget_spent}; resume the run with a larger budget to go on",
    ),
    Rule(
        "circuit-open",
        "retry",
        lambda f: f.held_up and _pause(f) <= f.patience and not _told_never(f),
        "the service it depends on is down, patience lasts, and the prompt does not forbid retries",
        lambda f: f"{_service(f)} is down, so it waits {_pause(f):.0f} s of {f.patience:.0f} s; no attempt is counted",
    ),
    Rule(
        "circuit-open",
        "abort",
        lambda f: f.held_up and _pause(f) > f.patience,
        "the service it depends on is down, and patience is at an end",
        lambda f: (
            f"{_service(f)} is down for {_pause(f):.0f} s more at least, and patience lasts for {f.patience:.0f} s"
        ),
    ),
    Rule(
        "prompt-retries",
        "retry",
        lambda f: f.asked and not barred(f),
        "the prompt asks for retries (`retries`, or `on-failure: retry`), and nothing bars one",
        lambda f: f"its prompt asks for it, and {_failed(f)} is attempt {f.attempt} of {f.most}",
    ),
    Rule(
        "transient",
        "retry",
        lambda f: f.cls in TRANSIENT and not f.asked and not barred(f),
        "the class passes by itself (network, rate limit, sandbox unavailable), and nothing bars a retry",
        lambda f: f"{_failed(f)} passes by itself; it was attempt {f.attempt} of {f.most}",
    ),
    Rule(
        "more-room",
        "retry",
        lambda f: bool(f.room) and not f.asked and f.mode != "assist" and not barred(f),
        "it surely ran out of memory or time, more can be given, the mode is `autonomous`, and nothing bars a retry",
        lambda f: f"{_failed(f)} in attempt {f.attempt} of {f.most}, and the next gets {_room(f.room)}",
    ),
    Rule(
        "prompt-skips",
        "skip",
        lambda f: f.on_failure == "skip",
        "`on-failure: skip`",
        lambda f: f"its on-failure says so; {_final(f)}; {_dependants(f)}",
    ),
    Rule(
        "prompt-aborts",
        "abort",
        lambda f: f.on_failure == "abort",
        "`on-failure: abort`",
        lambda f: f"its on-failure says so; {_final(f)}",
    ),
    Rule(
        "prompt-escalates",
        "escalate",
        lambda f: f.on_failure == "escalate",
        "`on-failure: escalate`",
        lambda f: f"its on-failure says so; {_final(f)}",
    ),
    Rule(
        "prompt-goes-on",
        "continue",
        lambda f: f.continue_on_error,
        "`continue-on-error: true`",
        lambda f: f"its continue-on-error says so; {_final(f)}",
    ),
    Rule(
        "assist",
        "escalate",
        lambda f: f.mode == "assist",
        "the mode is `assist`",
        lambda f: f"in mode assist a person says what is done about {_failed(f)}; {_possible(f)}",
    ),
    Rule(
        "learned-hopeless",
        "escalate",
        lambda f: f.priority == "high" and f.unclear and not barred(f) and hopeless(f),
        "high priority, an unclear class, and history says that a retry fails",
        lambda f: f"{_learned(f)}, so {_failed(f)} is not tried again",
    ),
    Rule(
        "high-priority",
        "retry",
        lambda f: f.priority == "high" and f.unclear and not barred(f),
        "high priority, an unclear class, and nothing bars a retry",
        lambda f: (
            f"a step of high priority is tried again while it may; {_failed(f)} in attempt {f.attempt} of {f.most}"
        ),
    ),
    Rule(
        "mandatory-permanent",
        "abort",
        lambda f: f.priority == "high" and f.mandatory and f.permanent,
        "high priority, mandatory, and a permanent class",
        lambda f: f"the run cannot complete without this step; {_final(f)}",
    ),
    Rule(
        "refused-by-policy",
        "continue",
        lambda f: f.priority != "high" and f.cls == "policy_refused",
        "not high priority, and its policy refused it",
        lambda _: "a refusal is a failure and is never passed over; steps that do not need it go on",
    ),
    Rule(
        "low-and-late",
        "skip",
        lambda f: f.priority == "low" and f.late,
        "low priority, and more than 70 % of the steps have ended",
        lambda f: f"low priority, and {f.progress:.3g} of the run is done; {_final(f)}; {_dependants(f)}",
    ),
    Rule(
        "unwell",
        "skip",
        lambda f: f.priority != "high" and f.unwell,
        "not high priority, and health is below 0.5",
        lambda f: f"health is {f.health:.3g}, and its priority is {f.priority}; {_final(f)}; {_dependants(f)}",
    ),
    Rule(
        "learned-retry",
        "retry",
        lambda f: f.unclear and f.attempt == 1 and not barred(f) and hopeful(f),
        "an unclear class, the first attempt, and history says that a retry succeeds",
        lambda f: f"{_learned(f)}, and {_failed(f)} was the first of {f.most} attempts",
    ),
    Rule(
        "still-too-small",
        "escalate",
        lambda f: f.priority != "low" and f.mandatory and f.limited and f.grown,
        "mandatory, not low priority, and what it was given more of was not enough",
        lambda f: f"it had been given more already; {_final(f)}",
    ),
    Rule(
        "medium-goes-on",
        "continue",
        lambda f: f.priority == "medium",
        "medium priority",
        lambda f: f"{_final(f)}; steps that do not need it go on",
    ),
    Rule(
        "low-in-the-way",
        "escalate",
        lambda f: f.priority == "low" and f.mandatory and f.dependants > 0,
        "low priority, mandatory, early, and other steps need it",
        lambda f: f"{_needed(f)} and cannot run without it, though its priority is low; {_final(f)}",
    ),
    Rule(
        "low-goes-on",
        "continue",
        lambda f: f.priority == "low",
        "low priority",
        lambda f: f"{_final(f)}; low priority is no reason to ask anybody",
    ),
    Rule(
        "otherwise",
        "escalate",
        lambda _: True,
        "nothing above",
        lambda f: f"its priority is {f.priority}, so a person is asked; {_final(f)}",
    ),
)


def rule_for(facts: Facts, rules: Sequence[Rule] = RULES) -> Rule:
    """Return the first row of the table that holds; the last one always does."""
    return next(rule for rule in rules if rule.when(facts))


def decide(facts: Facts, rules: Sequence[Rule] = RULES) -> Decision:
    """Return what is to be done about a failed attempt. Total; `at` is left to whoever records it."""
    rule = rule_for(facts, rules)
    told: dict[str, Any] = {}
    if rule.verb == "retry":
        told = {"counts": rule.name != "circuit-open"}
    elif rule.verb == "skip":
        told = {"dependants_run": _dependants_run(facts)}
    bar = barred(facts)
    return Decision(
        step=facts.step,
        verb=rule.verb,
        reason=f"{rule.name}: {rule.why(facts)}",
        factors={**facts.factors(), "barred": bar.name if bar else "", **told},
        rule=rule.name,
        failure=facts.failure,
        wait_seconds=_wait(facts) if rule.verb == "retry" else 0.0,
        limits=facts.room if rule.verb == "retry" else None,
        attempt=facts.attempt,
    )


def _wait(facts: Facts) -> float:
    """Return the seconds before the next attempt: as planned, longer where asked, and not into an open breaker."""
    if facts.held_up:
        return _pause(facts)
    planned = facts.delays[min(facts.attempt, len(facts.delays)) - 1] if facts.delays else 0.0
    held = facts.breaker_wait if facts.breaker == "open" else 0.0
    return backoff.wait(max(planned, held), facts.failure.retry_after)


def _pause(facts: Facts) -> float:
    """Return the seconds until a service that is down may be asked again."""
    return backoff.wait(facts.breaker_wait, facts.failure.retry_after)


def _told_never(facts: Facts) -> bool:
    """Whether the prompt says `retries: 0`: then not even what was cut off by the engine is begun again."""
    return facts.stated and facts.most <= 1


def _dependants_run(facts: Facts) -> bool:
    """Whether what needs a skipped step runs on the step's own input.

    Where the prompt says `on-failure: skip`, it says that the rest can do without. Where we skip, only a step that is
    not mandatory is known to be one that the rest can do without.
    """
    return facts.on_failure == "skip" or not facts.mandatory


# --- the sentences ---


def _failed(facts: Facts) -> str:
    return NAMED[facts.cls]


def _final(facts: Facts) -> str:
    """Say what failed, and why it is not tried again."""
    bar = barred(facts)
    if bar:
        return f"{_failed(facts)} is final, because {bar.why}"
    if facts.limited:
        return f"{_failed(facts)} is final, because nothing more is given without a person"
    if facts.permanent:
        return f"{_failed(facts)} is final, because another attempt would end the same"
    return f"{_failed(facts)} is final, because nobody asks for retries and nothing says that one would help"


def _possible(facts: Facts) -> str:
    """Say whether another attempt could be made."""
    bar = barred(facts)
    more = f", with {_room(facts.room)}" if facts.room else ""
    return f"another attempt is ruled out, because {bar.why}" if bar else f"another attempt may be made{more}"


def _service(facts: Facts) -> str:
    return "GitHub" if facts.kind == "forge" else "the engine"


def _room(limits: Limits | None) -> str:
    known = limits or Limits()
    memory = f"{known.memory / 2**20:.0f} MiB" if known.memory is not None else ""
    return " and ".join(
        part for part in (memory, f"{known.seconds:.0f} s" if known.seconds is not None else "") if part
    )


def _needed(facts: Facts) -> str:
    return f"{facts.dependants} step{' needs' if facts.dependants == 1 else 's need'} it"


def _dependants(facts: Facts) -> str:
    if not facts.dependants:
        return "no step needs it"
    one = facts.dependants == 1
    if _dependants_run(facts):
        return f"{_needed(facts)} and {'runs' if one else 'run'} on what it started from"
    return f"{_needed(facts)} and {'is' if one else 'are'} skipped with it"


def _learned(facts: Facts) -> str:
    if facts.chance is None:
        return "nothing was learned"
    low, high = bounds(facts.chance)
    between = f"{low:.2f} to {high:.2f}"
    share, count = facts.chance.probability, facts.chance.cases
    return f"retries of such failures succeed with probability {share:.2f} ({between}, {count} cases)"
