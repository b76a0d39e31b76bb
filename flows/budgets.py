"""What a run may use, what it has used, and whether that is all of it. Pure.

Four things are counted: minutes in which the run was at work, attempts of steps in containers, minutes of containers,
and money that the steps say they have spent. The hard choice is to count by name and not to add up: each container,
each attempt and each part of the run is entered under its own, from whatever record tells of it, and the sum is drawn
when somebody asks. A result that comes back, a record that is read twice and a container that two owners have watched
then cost what they cost once, in whatever order they are met. Adding up would be quicker and wrong after a crash. The
accepted cost is a sum over all containers at each question, which is asked a few times a second at most.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workflowmaster.flows.journal import Entry
    from workflowmaster.flows.plan import Account
    from workflowmaster.flows.settings import Settings

LIMITS: Final = ("minutes", "attempts", "container-minutes", "usd")
"""What a budget may limit, in the order in which it is said."""

TIMES: Final = frozenset({"minutes", "container-minutes"})
"""Those that run out while steps work, so that what works is stopped. The others only let nothing more begin."""

LOW: Final = 0.8
"""Share of a limit at which people are warned."""

OUTPUT: Final = "usd"
"""Output of a step that says what it has cost."""

SIGNS: Final = frozenset({"keys", "go", "decision", "result", "spent"})
"""Records that only a run at work writes. Others, such as an answer, may come when nobody works on it."""


@dataclass(frozen=True)
class Spent:
    """What was used: of a run, or of one step in all parts of its run."""

    minutes: float = 0.0
    """A run's: those in which a process worked on it. A step's: those of its containers."""
    attempts: int = 0
    """Those whose container got its go."""
    container_minutes: float = 0.0
    """From go to exit, summed over all containers, checks included."""
    usd: float = 0.0

    def named(self) -> dict[str, float]:
        """Return the same by the names of the limits."""
        values = (self.minutes, self.attempts, self.container_minutes, self.usd)
        return dict(zip(LIMITS, values, strict=True))


@dataclass(frozen=True)
class Budget:
    """Limits by name, of those in `LIMITS`; what is not named is not limited."""

    limits: Mapping[str, float]

    def over(self, spent: Spent) -> tuple[str, ...]:
        """Return the limits that are reached. Nothing used reaches none, so that `usd: 0` allows what costs nothing."""
        return tuple(name for name, share in self.shares(spent).items() if share >= 1)

    def shares(self, spent: Spent) -> dict[str, float]:
        """Return for each limit the part of it that is used: 0.0 for nothing, 1.0 and more for all."""
        used = spent.named()
        return {name: share(used[name], self.limits[name]) for name in LIMITS if name in self.limits}

    def said(self, spent: Spent, names: Iterable[str]) -> str:
        """Return `0.5 of 0.5 minutes, 3 of 8 attempts` for these limits."""
        used = spent.named()
        return ", ".join(f"{number(used[name])} of {number(self.limits[name])} {name}" for name in names)


def share(used: float, limit: float) -> float:
    """Return the part of a limit that is used."""
    # Of a limit of 0 there is no part; anything is more than all of it.
    if limit > 0:
        return max(used, 0.0) / limit
    return math.inf if used > 0 else 0.0


def number(value: float) -> str:
    """Return a figure as people read it: whole where it is, else with so many digits that 0.0504 is not 0.05."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def cost(outputs: Mapping[str, str]) -> tuple[float, str]:
    """Return what a step says that it has cost, and what is wrong with that; what cannot be is counted as 0."""
    text = outputs.get(OUTPUT)
    if text is None:
        return 0.0, ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # `nan` and `inf` are numbers to Python, and either would spoil every sum after it.
    if math.isfinite(value) and value >= 0:
        return value, ""
    return 0.0, f"output {OUTPUT}={text[:40]}: no amount of money (a number, 0 or more); counted as 0"


def line(account: Account | None) -> str:
    """Return what a run has used of its budget, such as `3 of 45 minutes, build: 2 of 2 attempts`."""
    limits = account.limit if account else {}
    used = account.spent if account else {}
    words = {name: name.rpartition(":") for name in limits}
    return ", ".join(
        f"{f'{step}: ' if step else ''}{number(used.get(name, 0.0))} of {number(limits[name])} {limit}"
        for name, (step, _, limit) in words.items()
    )


def command(workflow_id: str, account: Account) -> str:
    """Return what to type to go on with a run that its budget has stopped: with twice as much of what it lacks."""
    wanted: dict[str, list[str]] = {}
    for name in account.over:
        step_id, _, limit = name.rpartition(":")
        used, given = account.spent.get(name, 0.0), account.limit.get(name, 0.0)
        # A budget of 0 cannot be doubled, and twice one that was far overrun might be spent already.
        value = 2 * given if used < 1.5 * given else math.ceil(200 * used) / 100
        wanted.setdefault(f"{step_id}:" if step_id else "", []).append(f"{limit}={value:g}")
    words = [f"--budget {shlex.quote(step + ','.join(limits))}" for step, limits in wanted.items()]
    return " ".join(["workflowmaster resume", shlex.quote(workflow_id), *words])


def least(*limits: Mapping[str, float]) -> dict[str, float]:
    """Return the lowest of several limits under each name."""
    return {name: min(one[name] for one in limits if name in one) for name in LIMITS if any(name in n for n in limits)}


def ceiling(settings: Settings) -> dict[str, float]:
    """Return the operator's limits for every run, by name."""
    found = {name: getattr(settings, f"budget_{name.replace('-', '_')}") for name in LIMITS}
    return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Grant:
    """A limit that somebody at a command line gave to a run, or to one of its steps."""

    value: float
    written: float | None
    """What the prompt said at that time: where it says something else by now, that is the later word."""


def effective(written: Mapping[str, float], grants: Mapping[str, Grant]) -> dict[str, float]:
    """Return the limits that hold: the prompt's, or what was given since it was written so."""
    later = {name: grant.value for name, grant in grants.items() if grant.written == written.get(name)}
    return {**written, **later}


@dataclass(frozen=True)
class Use:
    """One container's use."""

    step: str
    seconds: float


@dataclass
class Ledger:
    """Everything that a run has used, entry by entry. Entering something twice changes nothing."""

    own: str = ""
    """The workflow's id: what another one has done, and this one only takes over, cost this one nothing."""
    used: dict[str, Use] = field(default_factory=dict)
    """Container id → what it used, as its receipt says."""
    guessed: dict[str, Use] = field(default_factory=dict)
    """Container id → what it used at least, where its owner died before it could be told."""
    tried: set[tuple[str, int]] = field(default_factory=set)
    """Step and attempt."""
    costs: dict[tuple[str, int], float] = field(default_factory=dict)
    grants: dict[str, dict[str, Grant]] = field(default_factory=dict)
    """Step id, or nothing for the run → limit → what was given last."""
    parts: list[float] = field(default_factory=list)
    """Seconds that each part of the run worked, the last one last."""
    _began: float | None = None
    _sign: float = 0.0
    _going: dict[str, tuple[str, float, float]] = field(default_factory=dict)

    def take(self, entry: Entry) -> None:
        """Enter what a record tells."""
        fields = entry.fields
        if entry.kind == "begun":
            self.settle()
            self._began = self._sign = entry.at
            self.parts.append(0.0)
        elif entry.kind == "closed":
            self._sign = entry.at
            self.settle(float(fields.get("seconds") or 0.0))
        elif entry.kind == "budget" and "limits" in fields:
            was = fields.get("written", {})
            given = {name: Grant(value, was.get(name)) for name, value in fields["limits"].items()}
            self.grants.setdefault(fields.get("step", ""), {}).update(given)
        elif entry.kind in SIGNS:
            self._alive(entry)

    def _alive(self, entry: Entry) -> None:
        """Enter what a run at work has told, and that it was alive then."""
        fields = entry.fields
        if self._began is not None:
            self._sign = max(self._sign, entry.at)
            # A tick is by the steady clock; the time of a record is by one that somebody may have set.
            ticked = float(fields.get("worked", 0.0))
            self.parts[-1] = max(self.parts[-1], ticked or self._sign - self._began)
        if entry.kind == "go":
            self._goes(fields, entry.at)
        elif entry.kind == "result":
            self.result(fields["result"])
        elif entry.kind == "spent" and "step" in fields:
            self.attempt(fields["step"], fields["attempt"], fields["containers"], fields["usd"])

    def _goes(self, fields: Mapping[str, Any], at: float) -> None:
        step = fields["step"]
        self.tried.add((step, fields["attempt"]))
        self._going[fields["container"]] = (step, at, float(fields.get("timeout", math.inf)))
        for receipt in (*fields.get("receipts", ()), *(fields.get("before") or {}).get("receipts", ())):
            self.used[receipt["container_id"]] = Use(step, max(receipt.get("seconds", 0.0), 0.0))

    def settle(self, seconds: float | None = None) -> Ledger:
        """Close the last part of the run, after so many seconds if it said so, and return the ledger.

        Of containers whose end nobody has seen it is known how long they were seen at work.
        """
        if self._began is not None and seconds is not None:
            self.parts[-1] = max(seconds, 0.0)
        for container, (step, at, most) in self._going.items():
            self.guessed[container] = Use(step, min(max(self._sign - at, 0.0), most))
        self._going.clear()
        self._began = None
        return self

    def result(self, result: Mapping[str, Any]) -> None:
        """Enter a step's result, as JSON."""
        # Without receipts nothing ran: a step of the host, or one that was skipped.
        if result.get("workflow", "") not in ("", self.own) or not result.get("receipts"):
            return
        step, attempt = result["step"], result.get("attempts", 1)
        seconds = {one["container_id"]: one.get("seconds", 0.0) for one in result["receipts"]}
        self.attempt(step, attempt, seconds, cost(result.get("outputs", {}))[0])

    def attempt(self, step: str, attempt: int, containers: Mapping[str, float], usd: float) -> None:
        """Enter one attempt: the seconds of its containers (and of those of attempts before it), and its cost."""
        self.tried.add((step, attempt))
        for container, seconds in containers.items():
            self.used[container] = Use(step, max(seconds, 0.0))
        if usd:
            self.costs[step, attempt] = usd

    @property
    def seconds(self) -> float:
        """Seconds in which somebody worked on the run."""
        return math.fsum(self.parts)

    def spent(self, step: str = "", *, worked: float = 0.0, running: Mapping[str, Use] | None = None) -> Spent:
        """Return what a step, or the whole run, has used.

        `worked` are the seconds of a part that is not in here yet, `running` what its containers use; of those, what
        is in here does not count.
        """
        uses = {**self.guessed, **self.used, **(running or {})}
        own = [use.seconds for use in uses.values() if step in ("", use.step)]
        minutes = math.fsum(own) / 60
        return Spent(
            minutes=minutes if step else (self.seconds + worked) / 60,
            attempts=sum(step in ("", name) for name, _ in self.tried),
            container_minutes=minutes,
            usd=math.fsum(amount for (name, _), amount in self.costs.items() if step in ("", name)),
        )
