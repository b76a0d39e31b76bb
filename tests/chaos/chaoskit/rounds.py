"""One round: a run is killed, resumed, perhaps killed again, and at last resumed to its end; then everything is looked at."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaoskit import aftermath
from chaoskit.arena import KILLED, until

if TYPE_CHECKING:
    from chaoskit.aftermath import Outcome
    from chaoskit.arena import Arena, Said
    from chaoskit.lots import Round

NOT_BEGUN = 2
"""Exit code of a resume that knows no such workflow: it was killed before it had anything to go on with."""


@dataclass
class Told:
    """What became of a round."""

    round: Round
    hits: list[str] = field(default_factory=list)
    """Boundaries at which a process of it really died."""
    faults: list[str] = field(default_factory=list)
    workflow: str = ""
    repeated: Counter[str] = field(default_factory=Counter)
    """Steps that ran more than once before their result was persisted."""
    adopted: int = 0
    """Containers that were there at a kill, without a result yet, and whose step did not run again."""
    seconds: float = 0.0

    def __str__(self) -> str:
        how = "; ".join(self.faults) or "good"
        again = f", ran again: {dict(self.repeated)}" if self.repeated else ""
        return f"{self.round} [{self.workflow}] {self.seconds:.1f} s, adopted {self.adopted}{again}: {how}"


@dataclass
class _Moment:
    """What was so when a process had died."""

    persisted: set[str]
    before: Counter[str]
    there: set[str]
    """Containers of the workflow that the engine had, running or ended."""
    knocks: int


def play(arena: Arena, drawn: Round, good: Outcome) -> Told:
    """Play one round and return what was wrong with it."""
    told, began = Told(drawn), time.monotonic()
    known = arena.workflows
    first = _torn(told, arena.run(drawn.kills[0]))
    made = arena.workflows - known
    told.workflow = min(made, default="")
    if first.killed and told.workflow:
        _resumed(arena, told, good)
    elif first.killed:
        # Nothing had been made yet, so there is nothing to go on with and nothing to be left.
        told.faults += _anew(arena, good)
    elif first.code:
        told.faults.append(f"not killed, and ended with {first.code}: {first.err}")
    told.seconds = time.monotonic() - began
    return told


def _torn(told: Told, said: Said) -> Said:
    if said.killed:
        told.hits.append(said.passed[-2])
    elif said.code == KILLED:
        told.faults.append(f"killed by somebody else after {said.passed[-1:]}")
    return said


def _resumed(arena: Arena, told: Told, good: Outcome) -> None:
    """Resume until the end, torn apart as drawn, and look at what must be true."""
    workflow, moments = told.workflow, [_moment(arena, told.workflow)]
    for kill in told.round.kills[1:]:
        said = _torn(told, arena.resume(workflow, kill))
        if said.killed:
            moments.append(_moment(arena, workflow))
    last = arena.resume(workflow)
    if last.code == NOT_BEGUN and not any(moment.persisted or moment.before for moment in moments):
        told.faults += _forgotten(arena, workflow) + _anew(arena, good)
        return
    if last.code:
        told.faults.append(f"the last resume ended with {last.code}: {last.err[-1500:]}")
    told.faults += aftermath.wrong(arena, workflow, good)
    told.faults += aftermath.too_few(arena, workflow)
    for moment in moments:
        told.faults += aftermath.ran_twice(arena, workflow, moment.before, moment.persisted)
        told.faults += _not_adopted(arena, told, moment)
    now = arena.began(workflow)
    told.repeated = Counter({step: count - 1 for step, count in now.items() if count > 1 + (step == "right")})


def _moment(arena: Arena, workflow: str) -> _Moment:
    persisted = arena.persisted(workflow)
    if "sealed" in persisted:
        until(lambda: arena.began(workflow)["sealed"], 5.0)  # the engine's events travel
    form = ["docker", "ps", "-aq", "--filter", f"label=workflowmaster.workflow={workflow}"]
    there = set(subprocess.run(form, capture_output=True, text=True, check=True).stdout.split())
    return _Moment(persisted, arena.began(workflow), there, len(arena.tally.runs))


def _not_adopted(arena: Arena, told: Told, moment: _Moment) -> list[str]:
    """Return the steps that ran again although a container in which they ended well was there at the kill."""
    lives, runs, found = arena.events.of(told.workflow), list(arena.tally.runs), []
    for run in runs:
        life = lives.get(run.container)
        if life is None or run.container not in moment.there or run.attempt == "check" or life.exits[:1] != [0]:
            continue
        if run.step in moment.persisted:
            continue  # its container was only not removed yet
        later = runs[moment.knocks :]
        same = [o for o in later if (o.step, o.container in lives) == (run.step, True) and o.container != run.container]
        if any(one.attempt != "check" for one in same):
            found.append(f"{run.step} ran again although its container {life.name} was there and ended well")
        else:
            told.adopted += 1
    return found


def _forgotten(arena: Arena, workflow: str) -> list[str]:
    """Hold that a run which had not begun leaves nothing once somebody cleans up."""
    (answer,) = arena.several(("clean", "--json"))
    found = [f"clean says {answer['code']}: {answer['err']}"] if answer["code"] else []
    return [f"not begun: {fault}" for fault in found + aftermath.left(arena, workflow)]


def _anew(arena: Arena, good: Outcome) -> list[str]:
    """Run again what could not be resumed."""
    said = arena.run()
    if said.code:
        return [f"the run anew ended with {said.code}: {said.err[-1500:]}"]
    return aftermath.wrong(arena, said.json["workflow_id"], good)
