"""How well the machine, the engine, the server and the run itself are, as one number with its parts.

A part is 1 while all is well and falls from a knee on: slack above a knee is worth nothing, so a healthy machine has
exactly 1, however many parts are looked at. The hard choice is that the number is the product of the parts. A mean
hides the one that is dead behind six that are not, and a minimum cannot tell one weak part from four. With the product
one part at 0 makes the whole 0, every further weakness shows, and no part can make up for another. The cost: a part
must not fall to 0 unless nothing can work without it. So each has a `least`, to which it can take the whole by itself:
a processor that everybody wants makes steps slow and no step fail, and takes it to 0.55, above the half at which
decisions begin to give steps up.

Low health lowers how many steps run at a time, before it costs steps. The way back is harder than the way down, or a
machine at the limit would be told both every few seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workflowmaster.blocks.vitals import SILENT, Room, Vitals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from workflowmaster.blocks.breaker import State

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Knee:
    """How a measurement becomes a part: 1 up to `well`, `least` from `ill` on, and between them evenly by ratio.

    By ratio, because a second more means much to an answer that took one, and nothing to one that took ten.
    """

    well: float
    ill: float
    least: float = 0.0
    silent: float | None = None
    """What an answer that did not come makes of the part; None where it is `least`."""

    def part(self, measured: float) -> float:
        """Return the part for a measurement: in [`least`, 1], or `silent`."""
        if measured == SILENT and self.silent is not None:
            return self.silent
        way = math.log(self.ill) - math.log(self.well)
        done = (min(math.log(max(measured, 1e-9)), 99.0) - math.log(self.well)) / way
        return 1 - (1 - self.least) * min(max(done, 0.0), 1.0)


LOAD = Knee(well=2, ill=10, least=0.55)
"""Programs that want each processor. Two keep it busy; ten times as many make a step ten times as slow."""
ENGINE = Knee(well=0.25, ill=5, least=0.2, silent=0.0)
"""Seconds of an engine's answer. A quiet one takes two milliseconds. Without it nothing can start."""
SERVER = Knee(well=0.5, ill=5, least=0.5, silent=0.2)
"""Seconds of a Prefect server's answer. Steps that run do so without it, and Prefect tries for a while."""

MEMORY = ((0.10, 2 * GIB), (0.02, 256 * MIB))
"""Available memory at which all is well, and at which the next step will be killed for it: the smaller of a share of
the machine's and a size, because a large machine may use nearly all of its own."""
DISK = ((0.10, 2 * GIB), (0.01, 100 * MIB))
"""The same for free space where results, logs and trees go."""
ENGINE_DISK = ((0.10, 5 * GIB), (0.01, 200 * MIB))
"""The same where the engine writes what containers write."""

RECENT = 16
"""Ended attempts that the part `failures` looks back on."""
FEWEST = 8
"""Attempts it pretends to have seen at least: one failure of one attempt is no failure rate of 100 %."""
OWN, OURS = 0.5, 1.0
"""What a failure weighs that was the step's own, and one that may come from too little of something: a time limit, the
memory, the engine. Steps that fail by themselves alone can so take the whole to a half and not below."""
SHORT_OF = frozenset({"sandbox", "timeout", "oom", "killed"})
"""Causes of the second kind."""

BREAKER: Mapping[State, float] = {"closed": 1.0, "half-open": 0.5, "open": 0.0}
"""What the engine's part is at most, by its breaker."""

FULL = 0.7
"""Health from which on as many steps run as may; below it fewer, in proportion."""
MARGIN = 0.1
"""How much better than needed it must be before more run again."""


@dataclass(frozen=True)
class Health:
    """The number, what it is made of, and what was measured, in words."""

    value: float
    """In [0, 1]: the product of the parts."""
    parts: dict[str, float] = field(default_factory=dict)
    """Part → its value in [0, 1]. One that cannot be measured here is not there, and takes nothing away."""
    words: dict[str, str] = field(default_factory=dict)
    """Part → what was measured, for people."""

    @property
    def low(self) -> list[str]:
        """Parts that are below 1, the worst first."""
        return sorted((name for name, part in self.parts.items() if part < 1), key=lambda name: self.parts[name])

    def without(self, *names: str) -> float:
        """Return what the number would be were these parts as well as can be."""
        return math.prod(part for one, part in self.parts.items() if one not in names)

    def __str__(self) -> str:
        """Say the number and what makes it low: `health 0.42: memory (180 MiB free), cpu (load 7.5 a core)`."""
        told = ", ".join(f"{name} ({self.words.get(name) or f'{self.parts[name]:.2f}'})" for name in self.low)
        return f"health {self.value:.2f}" + (f": {told}" if told else "")


def health(vitals: Vitals, *, ended: Sequence[float] = (), breaker: State = "closed") -> Health:
    """Judge a look at everything. `ended` are the weights of the run's last attempts, 0 for each that completed."""
    engine = None if vitals.engine is None else min(ENGINE.part(vitals.engine), BREAKER[breaker])
    found: dict[str, tuple[float | None, str]] = {
        "cpu": (_part(LOAD, vitals.load), f"load {vitals.load or 0:.1f} a core"),
        "memory": _room(vitals.memory, MEMORY),
        "disk": _room(vitals.disk, DISK),
        "engine_disk": _room(vitals.engine_disk, ENGINE_DISK),
        "engine": (engine if engine is not None or breaker == "closed" else BREAKER[breaker], _said(vitals, breaker)),
        "server": (_part(SERVER, vitals.server), _answered(vitals.server)),
        "failures": (failures(ended) if ended else None, f"{sum(map(bool, ended))} of the last {len(ended)} attempts"),
    }
    parts = {name: part for name, (part, _) in found.items() if part is not None}
    return Health(math.prod(parts.values()), parts, {name: found[name][1] for name in parts})


def failures(ended: Sequence[float]) -> float:
    """Return the part for how the last attempts have ended, by their weights."""
    last = ended[-RECENT:]
    return 1 - min(sum(last) / max(len(last), FEWEST), 1.0)


def _part(knee: Knee, measured: float | None) -> float | None:
    return None if measured is None else knee.part(measured)


def _room(room: Room | None, bounds: tuple[tuple[float, int], tuple[float, int]]) -> tuple[float | None, str]:
    if room is None or room.total <= 0:
        return None, ""
    well, ill = (min(share * room.total, size) for share, size in bounds)
    return Knee(well, ill).part(room.free), f"{_size(room.free)} free"


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def _answered(seconds: float | None) -> str:
    return "no answer" if seconds == SILENT else f"answers in {(seconds or 0) * 1000:.0f} ms"


def _said(vitals: Vitals, breaker: State) -> str:
    return _answered(vitals.engine) if breaker == "closed" else f"its breaker is {breaker}"


def steadied(looks: Sequence[Vitals]) -> Vitals:
    """Return the middle of the last looks, part by part; of two the better. One slow answer is no illness."""
    return Vitals(
        load=_middle(look.load for look in looks),
        memory=_middle_room(look.memory for look in looks),
        disk=_middle_room(look.disk for look in looks),
        engine_disk=_middle_room(look.engine_disk for look in looks),
        engine=_middle(look.engine for look in looks),
        server=_middle(look.server for look in looks),
    )


def _middle(values: Iterable[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[(len(known) - 1) // 2] if known else None


def _middle_room(rooms: Iterable[Room | None]) -> Room | None:
    known = sorted((room for room in rooms if room is not None), key=lambda room: room.free)
    return known[len(known) // 2] if known else None


def wanted(value: float, limit: int) -> int:
    """Return how many of `limit` steps may run at a time at this health: all from `FULL` on, never less than one."""
    return max(1, min(limit, math.ceil(limit * value / FULL)))


def parallel(value: float, limit: int, before: int) -> int:
    """Return how many steps may run at a time, where it were `before` until now: down at once, up with a margin."""
    return max(min(before, wanted(value, limit)), wanted(value - MARGIN, limit))
