"""What is known about a failed attempt when it is decided on, and what speaks against another one. Pure.

The facts are one flat frozen value rather than the journey itself: a decision can then be replayed from its record, a
table test can go through every combination, and nothing in the rules can ask the disk or the clock. What it costs is
that the caller fills two dozen fields.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from workflowmaster.flows.plan import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workflowmaster.flows.plan import Failure, FailureClass, Kind, Priority

Mode = Literal["autonomous", "assist", "off"]
OnFailure = Literal["retry", "skip", "abort", "escalate", "auto"]

TRANSIENT: frozenset[FailureClass] = frozenset({"network", "rate_limit", "sandbox_unavailable"})
"""Classes that pass by themselves, so that meeting one twice says nothing."""

LIMITED: frozenset[FailureClass] = frozenset({"out_of_memory", "timeout"})
"""Classes that more of a limit may mend, and nothing else will."""

UNCLEAR: frozenset[FailureClass] = frozenset({"test_failure", "agent_gave_up", "unknown"})
"""Classes of which the class does not tell whether another attempt would end otherwise."""

NEVER: frozenset[FailureClass] = frozenset({"permission", "policy_refused", "disk", "merge_conflict"})
"""Classes that are not tried again whoever asks for it: what was forbidden or full stays so, and a merge of the same
commits has the same conflicts."""

PERMANENT: frozenset[FailureClass] = NEVER | {"code_error", "missing_resource", "dependency_not_found"}
"""Classes that we do not try again of our own accord. A prompt that asks for it may know of a mirror that lags."""

WORD: dict[FailureClass, str] = {
    **dict.fromkeys(TRANSIENT, "transient"),
    "out_of_memory": "oom",
    "timeout": "timeout",
}
"""Class → the word of `retries: {on: …}` that means it; any other is `failure`."""

NAMED: dict[FailureClass, str] = {
    "network": "a network failure",
    "rate_limit": "a rate limit",
    "out_of_memory": "running out of memory",
    "timeout": "a timeout",
    "disk": "a full disk",
    "permission": "a refused permission",
    "missing_resource": "a missing resource",
    "dependency_not_found": "a dependency that is not found",
    "test_failure": "a test failure",
    "code_error": "an error in the code",
    "merge_conflict": "a merge conflict",
    "policy_refused": "a refusal by policy",
    "sandbox_unavailable": "an unavailable sandbox",
    "agent_gave_up": "an agent that gave up",
    "unknown": "an unknown failure",
}
"""Class → what it is called in a sentence."""

LATE = 0.7
"""Share of a run's steps that have ended, above which one of low priority is skipped (the guide's number)."""

UNWELL = 0.5
"""Health below which a failed step that is not of high priority is skipped (the guide's number)."""

SURE = 0.7
"""Confidence in a class below which nothing is stopped because of it: a guess may cost an attempt, never the run."""

LONGEST_PAUSE = 3900.0
"""Seconds that are waited at most because somebody asked to be left alone: GitHub's limits are reset every hour, and
clocks differ. A longer wait holds a process for nothing; `resume` does it better."""

HOPEFUL = 0.5
"""Chance of success from which a retry is worth an attempt: whoever resumes the run would have to make that attempt
anyway, so from half on it saves more than it costs even if nobody's attention were worth anything."""

HOPELESS = 0.1
"""Chance below which even a step of high priority is not tried again. Far lower than `HOPEFUL`, because a step lost
wrongly stops everything that needs it, and an attempt made in vain costs its own minutes only."""

DOUBT = 1.2816
"""Quantile of the normal distribution that leaves 10 % on one side: a learned chance must clear its threshold even at
the near end of its 80 % interval, so that a few lucky cases move nothing."""


class Chance(Protocol):
    """What history says about another attempt; `analytics.retrychance.Chance` is one."""

    @property
    def probability(self) -> float:
        """Calibrated probability in [0, 1] that the next attempt succeeds."""

    @property
    def cases(self) -> int:
        """How many attempts of the user's own history stand behind it."""


@dataclass(frozen=True)
class Facts:
    """All that a decision about a failed attempt may depend on. Times are seconds, shares lie in [0, 1]."""

    step: str
    kind: Kind
    priority: Priority
    mandatory: bool
    on_failure: OnFailure
    mode: Mode
    attempt: int
    """The attempt that has just failed; the first is 1."""
    most: int
    """Attempts it may have at all; 1 is no retry."""
    stated: bool
    """Whether the prompt itself says how often. Then it decides about retries, and none of our own rules."""
    failure: Failure
    continue_on_error: bool = False
    """Whether the prompt lets the steps that need it run though it failed."""
    retries_on: tuple[str, ...] = ()
    """What the prompt wants tried again (`transient`, `oom`, `timeout`, `failure`); empty means anything."""
    repeated: bool = False
    """An earlier attempt on identical inputs ended with the same fingerprint."""
    growth: Limits | None = None
    """What the next attempt would get; None where nothing can grow."""
    grown: bool = False
    """Whether the attempt that failed had already been given more than its step was at first."""
    progress: float = 0.0
    """Share of the run's steps that have ended."""
    health: float = 1.0
    budget_spent: str = ""
    """Which budget is spent, in words with numbers; empty while none is."""
    breaker: Literal["closed", "half-open", "open"] = "closed"
    """Of the service that the step depends on: the engine, or GitHub for a forge step."""
    breaker_wait: float = 0.0
    """Until the open breaker lets somebody try again."""
    patience: float = 0.0
    """How much longer the run will wait for that service. Must shrink from one wait to the next."""
    dependants: int = 0
    """Steps that need this one, directly or not."""
    chance: Chance | None = None
    """What history says of another attempt; given only where it did better than the rules."""
    delays: Sequence[float] = ()
    """Planned wait before each retry, the first one first."""

    @property
    def cls(self) -> FailureClass:
        """Class of the failure."""
        return self.failure.cls

    @property
    def asked(self) -> bool:
        """Whether the prompt itself says that, and how often, the step is tried again."""
        return self.stated or self.on_failure == "retry"

    @property
    def sure(self) -> bool:
        """Whether the class is more than a guess."""
        return self.failure.confidence >= SURE

    @property
    def permanent(self) -> bool:
        """Whether another attempt would surely end the same. An agent does not write the same code twice."""
        changes = self.kind == "agent" and self.cls not in NEVER
        return self.cls in PERMANENT and self.sure and not changes

    @property
    def limited(self) -> bool:
        """Whether it ran into a limit, confirmed: a process that somebody killed may have had room enough."""
        return self.cls in LIMITED and self.sure

    @property
    def unclear(self) -> bool:
        """Whether nobody can tell by the class if another attempt would end otherwise."""
        return not (self.permanent or self.limited or self.cls in TRANSIENT | NEVER)

    @property
    def room(self) -> Limits | None:
        """What more the next attempt gets; None where no limit was the cause, or nothing can grow."""
        return self.growth if self.limited else None

    @property
    def deterministic(self) -> bool:
        """Whether repetition has shown that the same inputs give the same failure."""
        # With more memory or time the next attempt's inputs are not the same.
        return self.repeated and not (self.cls in TRANSIENT or self.room)

    @property
    def words(self) -> frozenset[str]:
        """What `retries: {on: …}` may call the failure: whoever is killed by nobody knows whom may be tried again."""
        killed = {"transient"} if self.cls == "out_of_memory" and not self.sure else set()
        return frozenset({WORD.get(self.cls, "failure"), *killed})

    @property
    def held_up(self) -> bool:
        """Whether the attempt failed for want of a service that is known to be down."""
        ours = self.cls == "sandbox_unavailable" or (self.kind == "forge" and self.cls == "network")
        return self.breaker == "open" and ours

    @property
    def late(self) -> bool:
        """Whether so much is done that a step of low priority may be left out."""
        return self.progress > LATE

    @property
    def unwell(self) -> bool:
        """Whether the machine is in no state to work on what is not of high priority."""
        return self.health < UNWELL

    def factors(self) -> dict[str, Any]:
        """Return every fact as plain JSON; `recalled` reads it back."""
        known = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        failure = known.pop("failure")
        del known["step"]
        chance = self.chance and {"probability": self.chance.probability, "cases": self.chance.cases}
        return known | {
            "class": failure.cls,
            "confidence": failure.confidence,
            "retry_after": failure.retry_after,
            "retries_on": list(self.retries_on),
            "growth": self.growth and self.growth.model_dump(),
            "chance": chance,
            "delays": list(self.delays),
        }


@dataclass(frozen=True)
class Bar:
    """Something that rules another attempt out."""

    name: str
    why: str
    """A clause that follows "because"."""


def barred(facts: Facts) -> Bar | None:
    """Return the first thing that rules another attempt out; None where one may be made.

    Bounded first: whatever else holds, no attempt follows the last one.
    """
    return next((Bar(name, why) for name, why in _bars(facts) if why), None)


def _bars(facts: Facts) -> Sequence[tuple[str, str]]:
    return (
        ("budget", facts.budget_spent),
        ("never", "such failures are never tried again" if facts.cls in NEVER else ""),
        ("spent", _spent(facts)),
        ("not-listed", _unlisted(facts)),
        ("repeated", "the same failure came twice on the same inputs" if facts.deterministic else ""),
        ("too-long", _too_long(facts)),
    )


def _spent(facts: Facts) -> str:
    if facts.attempt < facts.most:
        return ""
    if facts.most <= 1:
        return "its prompt allows no retry" if facts.asked else "no retry is allowed here"
    return f"attempt {facts.attempt} of {facts.most} was the last"


def _unlisted(facts: Facts) -> str:
    if not facts.retries_on or facts.words.intersection(facts.retries_on):
        return ""
    return f"{' or '.join(sorted(facts.words))} is not among {', '.join(facts.retries_on)}, which its prompt lists"


def _too_long(facts: Facts) -> str:
    asked = facts.failure.retry_after or 0.0
    return f"it was told to wait {asked:.0f} s, and {LONGEST_PAUSE:.0f} is the most" if asked > LONGEST_PAUSE else ""


def bounds(chance: Chance) -> tuple[float, float]:
    """Return both ends of the 80 % interval of a learned chance (Wilson 1927, which holds at 0 and 1 too)."""
    share, count, z = chance.probability, max(chance.cases, 1), DOUBT
    middle = share + z * z / (2 * count)
    # Rounding may put what is under the root a hair below nothing.
    spread = z * (max(share * (1 - share), 0.0) / count + z * z / (4 * count * count)) ** 0.5
    scale = 1 + z * z / count
    return (middle - spread) / scale, (middle + spread) / scale


def hopeful(facts: Facts) -> bool:
    """Whether history makes success of one more attempt likely."""
    return facts.chance is not None and bounds(facts.chance)[0] >= HOPEFUL


def hopeless(facts: Facts) -> bool:
    """Whether history makes success of one more attempt very unlikely."""
    return facts.chance is not None and bounds(facts.chance)[1] <= HOPELESS


@dataclass(frozen=True)
class Recalled:
    """A chance as a record has it."""

    probability: float
    cases: int


def recalled(step: str, failure: Failure, factors: Mapping[str, Any]) -> Facts:
    """Return the facts of a recorded decision. KeyError or TypeError if the record is of another kind."""
    names = {one.name for one in dataclasses.fields(Facts)}
    known = {name: value for name, value in factors.items() if name in names}
    known |= {
        "retries_on": tuple(factors["retries_on"]),
        "growth": Limits(**factors["growth"]) if factors["growth"] else None,
        "chance": Recalled(**factors["chance"]) if factors["chance"] else None,
        "delays": tuple(factors["delays"]),
    }
    return Facts(step=step, failure=failure, **known)
