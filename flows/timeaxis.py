"""The time axis: seconds to pixels, with round ticks and long idle stretches folded.

A run of ten seconds that waited three hours for an approval would otherwise be two slivers and a void. A stretch in
which nothing worked, much longer than all the work together, is drawn with a fixed width and says how long it was.
Accepted cost: lengths can be compared only on one side of such a fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workflowmaster.flows.drawing import text_width
from workflowmaster.flows.wording import DAY, HOUR, MINUTE, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS: Final = (
    *(base * 10.0**power for power in (-2, -1, 0) for base in (1, 2, 5)),
    *(10.0, 15.0, 30.0, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE),
    *(HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 30 * DAY),
)
FOLD_WIDTH: Final = 90.0
FOLD_AFTER: Final = 30.0
"""Seconds; shorter idle stretches are never folded."""
FOLD_TIMES: Final = 2.0
"""An idle stretch is folded when it is this many times longer than all work."""
TICK_SPACE: Final = 58.0
"""Pixels between ticks at least."""


@dataclass(frozen=True)
class Stretch:
    """A part of the axis: seconds `begin` to `end` on pixels `left` to `right`."""

    begin: float
    end: float
    left: float
    right: float
    folded: bool = False

    def x(self, seconds: float) -> float:
        """Return the pixel of a moment, held inside the stretch."""
        # Held inside, so that a bar from a damaged record ends at the edge and not outside the picture.
        length = self.end - self.begin
        share = (seconds - self.begin) / length if length > 0 else 0.0
        return self.left + (self.right - self.left) * min(1.0, max(0.0, share))


@dataclass(frozen=True)
class Tick:
    """A labelled moment."""

    x: float
    label: str
    seconds: float


@dataclass(frozen=True)
class Axis:
    """All stretches, left to right."""

    stretches: tuple[Stretch, ...]

    def x(self, seconds: float) -> float:
        """Return the pixel of a moment in seconds from the start."""
        for stretch in self.stretches:
            if seconds <= stretch.end:
                return stretch.x(seconds)
        return self.stretches[-1].right

    @property
    def folds(self) -> tuple[Stretch, ...]:
        """The stretches that are not to scale."""
        return tuple(s for s in self.stretches if s.folded)

    def ticks(self) -> list[Tick]:
        """Return ticks at round times whose labels do not touch each other or a fold's label."""
        shown = [s for s in self.stretches if not s.folded]
        seconds = sum(s.end - s.begin for s in shown)
        pixels = sum(s.right - s.left for s in shown)
        step = tick_step(seconds, int(pixels / TICK_SPACE))
        ticks = [tick for stretch in shown for tick in _ticks(stretch, step)]
        kept: list[Tick] = []
        for tick in ticks:
            half = text_width(tick.label, 11) / 2 + 3
            # The two labels' own widths count: at two days a label is three times as wide as at two seconds.
            clear = not kept or tick.x - half > kept[-1].x + text_width(kept[-1].label, 11) / 2 + 3
            if clear and all(tick.x + half < f.left or tick.x - half > f.right for f in self.folds):
                kept.append(tick)
        return kept


def make_axis(total: float, busy: Sequence[tuple[float, float]], left: float, right: float) -> Axis:
    """Return the axis for `total` seconds on pixels `left` to `right`.

    `busy` are the intervals (begin, end) in which something worked; only gaps between them are folded.
    """
    # A run that took no measurable time still needs an axis that can be divided by.
    total = max(total, 0.01)
    gaps = _long_gaps(total, busy)
    work = total - sum(end - begin for begin, end in gaps)
    scale = (right - left - FOLD_WIDTH * len(gaps)) / max(work, 0.01)
    stretches: list[Stretch] = []
    at, x = 0.0, left
    for begin, end in [*gaps, (total, total)]:
        stretches.append(Stretch(at, begin, x, x + (begin - at) * scale))
        x = stretches[-1].right
        # The last pair only closes the axis and folds nothing.
        if end > begin:
            stretches.append(Stretch(begin, end, x, x + FOLD_WIDTH, folded=True))
            x += FOLD_WIDTH
        at = end
    return Axis(tuple(stretches))


def tick_step(seconds: float, most: int) -> float:
    """Return the smallest round step that needs at most `most` ticks for so many seconds."""
    wanted = seconds / max(1, most)
    return next((step for step in STEPS if step >= wanted), STEPS[-1])


def tick_label(seconds: float, step: float) -> str:
    """Return a moment's label: `0`, `0.5 s`, `1:30`, `2:05 h`, `3 d`."""
    if seconds == 0:
        return "0"
    if step < 1:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + " s"
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds // 60:.0f}:{seconds % 60:02.0f} min"
    if seconds < 2 * DAY or step < HOUR:
        return f"{seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f} h"
    return duration(seconds)


def _ticks(stretch: Stretch, step: float) -> list[Tick]:
    # Ticks fall on multiples of the step counted from the start, also behind a fold.
    first = int(stretch.begin / step + 0.999)
    moments = (n * step for n in range(first, int(stretch.end / step + 1e-6) + 1))
    return [Tick(stretch.x(moment), tick_label(moment, step), moment) for moment in moments]


def _long_gaps(total: float, busy: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    gaps: list[tuple[float, float]] = []
    reached = 0.0
    for begin, end in sorted(busy):
        if begin > reached:
            gaps.append((reached, begin))
        reached = max(reached, end)
    if reached < total:
        gaps.append((reached, total))
    idle = sum(end - begin for begin, end in gaps)
    least = max(FOLD_AFTER, FOLD_TIMES * (total - idle))
    # At most four folds fit beside the work; without any work there is nothing to compare idleness with.
    return [gap for gap in gaps if gap[1] - gap[0] > least][:4] if busy else []
