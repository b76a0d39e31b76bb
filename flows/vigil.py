"""Watches over a run's surroundings: looks at them in the background, and says how well they are.

A look is taken by a thread every few seconds, because the engine may take its time to answer and nobody's step may wait
for that. The first one comes a second after the run began: most of what it costs is psutil's import, and a run that is
over by then has asked nobody anything. Until there was a look, all is taken to be well.

An outage of the engine is the run's, not a step's: it begins with the first failure that anybody met, it ends with the
first start that succeeds, and what is left of the patience with it is the same for everybody.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from workflowmaster.blocks import vitals
from workflowmaster.blocks.home import home
from workflowmaster.flows import breakers, serving, steady
from workflowmaster.flows.health import OURS, OWN, RECENT, SHORT_OF, Health, health, parallel, steadied
from workflowmaster.flows.plan import Decision

if TYPE_CHECKING:
    from concurrent.futures import Future

    from workflowmaster.blocks.breaker import Breaker, State
    from workflowmaster.blocks.vitals import Vitals
    from workflowmaster.flows.journey import Journey

FIRST_SECONDS = 1.0
"""From the beginning of a run to the first look."""
SECONDS = 5.0
"""Between two looks. One costs 2 ms of processor time, so all of them 0.04 % of one processor."""
LOOKS = 3
"""Looks of which the middle one counts."""

log = logging.getLogger(__name__)


class Service(NamedTuple):
    """How the service that a step depends on is doing."""

    state: State
    wait: float
    """Seconds until its open breaker lets somebody try."""
    patience: float
    """Seconds that the run would still wait for it."""


class Watch:
    """What is known of a run's surroundings. Its methods belong to the event loop's thread."""

    def __init__(self, journey: Journey) -> None:
        self._journey, self._settings = journey, journey.settings
        self.engine: Breaker = breakers.of("engine", self._settings, at=journey.engine.url)
        self.github: Breaker = breakers.of("github", self._settings)
        self._looks: deque[Vitals] = deque(maxlen=LOOKS)
        self._ended: deque[float] = deque(maxlen=RECENT)
        self._sampling: Future[None] | None = None
        self._room = 0
        """How many steps might run at a time when that was asked last; 0 before the first time."""
        self._away: float | None = None
        """Since when the engine is away, by the steady clock."""
        self.gave_up = False
        """Whether the engine was away for longer than the run would wait."""

    # --- the number ---

    def now(self) -> Health:
        """Return the number with its parts, by the last looks."""
        looks = list(self._looks)
        known = steadied(looks) if looks else vitals.Vitals()
        return health(known, ended=tuple(self._ended), breaker=self.engine.state)

    def value(self) -> float:
        """Return the number alone, in [0, 1]."""
        return self.now().value

    def ended(self, cause: str) -> None:
        """Hear how an attempt has ended: its failure's cause, as `blocks.failure` has it; empty if it completed."""
        self._ended.append(0.0 if not cause else OURS if cause in SHORT_OF else OWN)

    # --- how much may run ---

    def parallel(self, limit: int) -> int:
        """Return how many of `limit` steps may run at one time now: at least one, and all on a healthy machine.

        The first call begins the watch. What has changed is noted for people and written into the audit log.
        """
        self._begin()
        before = min(self._room or limit, limit)
        found = self.now()
        room = parallel(found.value, limit, before)
        self._room = room
        if room != before:
            self._tell(found, room, limit, worse=room < before)
        return room

    @property
    def patrol(self) -> float | None:
        """Seconds after which to ask `parallel` again although no step has ended; None while all may run."""
        return SECONDS if self._room and self._room < self._journey.parallel else None

    def _tell(self, found: Health, room: int, limit: int, *, worse: bool) -> None:
        if not worse and room < limit:
            return  # on its way back
        self._journey.claim.tell(f"{found}; {room} of {limit} steps at one time" if worse else f"{found}; all is well")
        parts = {name: round(part, 3) for name, part in found.parts.items()}
        about = {"health": round(found.value, 3), "parts": parts, "low": found.low, "parallel": room, "limit": limit}
        self._journey.audit.append("health.low" if worse else "health.back", **about)

    def _begin(self) -> None:
        if self._sampling is None:
            # A thread of the run's own, so that closing the run waits for a look that is under way.
            self._sampling = self._journey.threads.submit(self._patrol)

    def _patrol(self) -> None:
        """Look now and again until the run is over. In a thread."""
        closing, seconds = self._journey.closing, FIRST_SECONDS
        while not closing.wait(seconds):
            seconds = SECONDS
            self._looks.append(self.look())

    def look(self) -> Vitals:
        """Take one look at everything."""
        return vitals.measure(self._journey.engine, state=home(), server=serving.api_url())

    # --- the engine ---

    def service(self, kind: str = "command") -> Service:
        """Return how the service of a step of this kind is doing: GitHub for `forge`, otherwise the engine."""
        breaker = self.github if kind == "forge" else self.engine
        patience = self._settings.engine_patience_seconds
        # GitHub says itself how long it wants to be left alone, and that may be an hour.
        left = self.patience if breaker is self.engine else max(patience, breaker.wait)
        return Service(breaker.state, breaker.wait, left)

    def facts(self, kind: str) -> dict[str, Any]:
        """Return what decisions about a failed step of this kind ask about its surroundings."""
        state, wait, patience = self.service(kind)
        told = {"breaker": state, "breaker_wait": round(wait, 1), "patience": round(patience, 1)}
        # A breaker that is not closed is a fact of its own. Counted as ill health too, it would have steps given up and
        # the run completed without them: measured, with `retries: 0` and an engine that was stopped.
        # A busy processor lowers how many steps run. No step fails by it, so it must not have one given up.
        left_out = ("cpu",) if self.engine.state == "closed" else ("cpu", "engine")
        value = self.now().without(*left_out)
        return {"health": round(value, 3), **told}

    @property
    def patience(self) -> float:
        """Seconds that the run still waits for its engine."""
        whole = self._settings.engine_patience_seconds
        return whole if self._away is None else max(whole - (time.monotonic() - self._away), 0.0)

    def engine_away(self, why: str) -> bool:
        """Hear that the engine is away; return whether that is news."""
        if self._away is not None:
            return False
        self._away = time.monotonic()
        whole = self._settings.engine_patience_seconds
        self._journey.claim.tell(f"the engine is away ({why}); waiting for it up to {whole:g} s")
        self._journey.audit.append("engine.away", reason=why, patience=whole)
        return True

    def engine_back(self, step: str, attempt: int) -> None:
        """Hear that a container was started for a step: whatever was wrong with the engine is over."""
        with contextlib.suppress(OSError):
            self.engine.succeeded()
        if self._away is None:
            return
        seconds = round(time.monotonic() - self._away, 1)
        self._away, self.gave_up = None, False
        self._journey.claim.tell(f"the engine is back after {seconds:g} s")
        self._journey.audit.append("engine.back", seconds=seconds)
        self._decided(step, attempt, seconds)

    def _decided(self, step: str, attempt: int, seconds: float) -> None:
        """Record that an outage was waited out. It names no failure, and no key: it is about no attempt."""
        journey, why = self._journey, self.engine.kept.why
        reason = f"engine-waited: the engine was away for {seconds:g} s ({why}); no attempt was counted for it"
        factors = {"seconds": seconds, "counts": False, **self.facts("command")}
        known: dict[str, Any] = {"rule": "engine-waited", "attempt": attempt, "at": steady.now()}
        decision = Decision(step=step, verb="continue", reason=reason, factors=factors, **known)
        journey.decisions.append(decision)
        journey.journal.append("decision", **decision.model_dump(mode="json"), counted=False)
        journey.audit.append("decision", **decision.model_dump(mode="json"))
