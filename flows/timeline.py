"""The run as a picture: one bar per container over a common time axis.

Up to `MOST_ROWS` steps each step has a row with its name, so nothing needs a pointer. Beyond that nobody reads names:
bars are packed into lanes, one for each thing that ran at the same time, and the picture answers where time went and
how full the machine was. Accepted cost: in lanes only bars that are wide enough carry their step's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from workflowmaster.flows.drawing import fitted, picture, text, text_width
from workflowmaster.flows.elements import Markup, element, joined
from workflowmaster.flows.reading import Bar, Outcome, Row, label, read
from workflowmaster.flows.timeaxis import Axis, make_axis
from workflowmaster.flows.wording import STEP_WORDS, counted, duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.flows.state import WorkflowState

WIDTH: Final = 1000.0
MARGIN: Final = 16.0
TOP: Final = 34.0
MOST_ROWS: Final = 60
LABEL_MOST: Final = 230.0
NOTE_SPACE: Final = 132.0


@dataclass(frozen=True)
class Frame:
    """Where the bars are drawn, and the time axis they share."""

    axis: Axis
    pitch: float
    """Pixels from one row to the next."""
    rows: int
    named: bool = True
    """Whether each row is one step with its name, rather than a lane."""

    @property
    def bottom(self) -> float:
        """The lower end of the last row."""
        return TOP + self.pitch * self.rows

    def middle(self, index: int) -> float:
        """Return the vertical middle of a row."""
        return TOP + self.pitch * (index + 0.5)


def timeline_svg(state: WorkflowState, *, standalone: bool = True) -> str:
    """Return the timeline as an SVG, valid XML.

    A stand-alone one carries its own style on white paper; with `standalone=False` it takes the page's style.
    """
    return timeline(read(state), standalone=standalone)


def timeline(outcome: Outcome, *, standalone: bool = False) -> Markup:
    """Return the timeline of an outcome that was read already."""
    draw = _rows if len(outcome.rows) <= MOST_ROWS else _lanes
    parts, height = draw(outcome)
    return picture(WIDTH, height, parts, title=f"Timeline. {outcome.sentence}", standalone=standalone)


def _rows(outcome: Outcome) -> tuple[Markup, float]:
    rows = outcome.rows
    gutter = min(LABEL_MOST, max(text_width(label(row.step), 12) for row in rows) + 4) if rows else 0.0
    # The space at the right holds the note of a bar that ends last, so notes never need to move.
    left, right = MARGIN + 16 + gutter + 10, WIDTH - MARGIN - NOTE_SPACE
    frame = Frame(_axis(outcome, left, right), 26.0 if len(rows) <= 30 else 20.0, len(rows))
    # Painted from back to front: grid, chain, then the rows over both.
    parts = [_grid(frame), _chain(frame, rows)]
    for index, row in enumerate(rows):
        parts.append(_row(frame, index, row, gutter))
    legend = _legend(outcome, frame, frame.bottom + 30)
    return joined([*parts, legend]), frame.bottom + (46 if legend else 16)


def _axis(outcome: Outcome, left: float, right: float) -> Axis:
    # A person's decision is no work: a wait for one may be folded.
    busy = [(bar.first, bar.end) for row in outcome.rows for bar in row.bars if bar.verdict != "wait"]
    return make_axis(outcome.seconds, busy, left, right)


def _grid(frame: Frame) -> Markup:
    parts: list[Markup] = []
    for fold in frame.axis.folds:
        middle = (fold.left + fold.right) / 2
        words = fitted(duration(fold.end - fold.begin), fold.right - fold.left - 4, 11)
        height = frame.bottom - TOP
        parts.append(element("rect", class_="gap", x=fold.left, y=TOP, width=fold.right - fold.left, height=height))
        parts.append(text(middle, TOP - 12, words, class_="minor", anchor="middle"))
    for tick in frame.axis.ticks():
        parts.append(element("line", class_="grid", x1=tick.x, x2=tick.x, y1=TOP - 6, y2=frame.bottom))
        parts.append(text(tick.x, TOP - 12, tick.label, class_="minor", anchor="middle"))
    first, last = frame.axis.stretches[0].left, frame.axis.stretches[-1].right
    parts.append(element("line", class_="axis", x1=first, x2=last, y1=TOP, y2=TOP))
    return joined(parts)


def _row(frame: Frame, index: int, row: Row, gutter: float) -> Markup:
    y = frame.middle(index)
    # The pointer's tip has the whole name; the picture must be readable without a pointer.
    name = fitted(label(row.step), gutter, 12)
    parts: list[object] = [
        element("title", f"{row.step.id}: {_note(row)}"),
        element("circle", class_=f"mark {row.status}", cx=MARGIN + 4, cy=y, r=3.5),
        text(MARGIN + 16, y + 4, name, class_="strong" if row.critical else None),
    ]
    parts += [_waits(frame.axis, bar, y, frame.pitch - 14) for bar in row.bars]
    parts += [_bar(frame.axis, bar, y, frame.pitch - 14, critical=row.critical) for bar in row.bars]
    end = max((bar.end for bar in row.bars), default=None)
    x = frame.axis.x(end) + 7 if end is not None else frame.axis.stretches[0].left + 2
    note = fitted(_note(row), WIDTH - MARGIN - x, 11)
    return element("g", *parts, text(x, y + 4, note, class_="minor"))


def _waits(axis: Axis, bar: Bar, y: float, height: float) -> Markup:
    """Draw what came before a bar's go; all of a row's first, since one may reach below an earlier bar."""
    go = axis.x(bar.begin)
    parked, queued = axis.x(max(0.0, bar.begin - bar.parked)), axis.x(max(0.0, bar.begin - bar.queued))
    box = _box(parked, go, y, height * 0.55, "bar parked") if bar.parked else None
    line = element("line", class_="queued", x1=queued, x2=go, y1=y, y2=y) if go - queued > 2 else None
    return joined([box, line])


def _bar(axis: Axis, bar: Bar, y: float, height: float, *, critical: bool) -> Markup:
    go, end = axis.x(bar.begin), axis.x(bar.end)
    kinds = ["bar", "host" if bar.purpose == "host" else "", bar.verdict, "critical" if critical else ""]
    tall = height * 0.55 if bar.purpose == "check" else height
    # Two pixels at least: a step of a few milliseconds was there, too.
    return _box(go, max(end, go + 2), y, tall, " ".join(kind for kind in kinds if kind))


def _box(left: float, right: float, y: float, height: float, class_: str) -> Markup:
    # Neighbouring bars of one row stay apart by half a pixel, or two attempts would look like one.
    width = max(1.5, right - left - 0.5)
    return element("rect", class_=class_, x=left, y=y - height / 2, width=width, height=height, rx=min(3.0, width / 2))


def _chain(frame: Frame, rows: tuple[Row, ...]) -> Markup:
    """Join the critical steps by thin lines, from the end of one to the go of the next."""
    chain = sorted(
        ((row.bars[-1].end, row.bars[0].begin, index) for index, row in enumerate(rows) if row.critical),
    )
    parts = []
    for (end, _, above), (_, begin, below) in pairwise(chain):
        x, y, to = frame.axis.x(end), frame.middle(above), frame.middle(below)
        across = frame.axis.x(max(begin, end))
        parts.append(element("path", class_="chain", d=f"M{x:.1f} {y:.1f}V{to:.1f}H{across:.1f}"))
    return joined(parts)


def _note(row: Row) -> str:
    if row.reused:
        return f"reused, {duration(row.seconds or 0)} saved"
    if not row.bars:
        return STEP_WORDS[row.status]
    spent = duration(row.seconds or 0)
    extra = f", {row.attempts} attempts" if row.retried else ""
    return f"{spent}{extra}" if row.status == "completed" else f"{spent}{extra}, {STEP_WORDS[row.status]}"


def _lanes(outcome: Outcome) -> tuple[Markup, float]:
    lanes = _packed(outcome.rows)
    left, right = MARGIN, WIDTH - MARGIN
    # Above two dozen lanes names would not fit anyway, so the lanes may be thin.
    pitch = 22.0 if len(lanes) <= 24 else 12.0
    frame = Frame(_axis(outcome, left + 12, right - 12), pitch, max(1, len(lanes)), named=False)
    parts = [_grid(frame)]
    for index, lane in enumerate(lanes):
        parts += [_lane_bar(frame, index, row, bar) for row, bar in lane]
    y = frame.bottom + 24
    words = f"{counted(len(outcome.rows), 'step')}, at most {len(lanes)} at once{_unseen(outcome)}"
    parts.append(text(left, y, words, class_="minor"))
    return joined([*parts, _legend(outcome, frame, y + 24)]), y + 40


def _unseen(outcome: Outcome) -> str:
    idle = sum(not row.bars for row in outcome.rows)
    return f"; {counted(idle, 'step')} did not run or were reused" if idle else ""


def _packed(rows: Iterable[Row]) -> list[list[tuple[Row, Bar]]]:
    """Put every bar into the first lane that is free; failed and critical ones are not treated differently."""
    lanes: list[list[tuple[Row, Bar]]] = []
    for row, bar in sorted(((one, bar) for one in rows for bar in one.bars), key=lambda item: item[1].begin):
        # The first free lane, not the emptiest: dense lanes show at once how many slots were really used.
        free = next((lane for lane in lanes if lane[-1][1].end <= bar.begin + 1e-6), None)
        if free is None:
            lanes.append([(row, bar)])
        else:
            free.append((row, bar))
    return lanes


def _lane_bar(frame: Frame, index: int, row: Row, bar: Bar) -> Markup:
    y, height = frame.middle(index), frame.pitch - 5
    words = f"{row.step.id}: {duration(bar.end - bar.begin)}, {STEP_WORDS[row.status]}"
    parts: list[object] = [element("title", words), _bar(frame.axis, bar, y, height, critical=row.critical)]
    # A name is written whole or not at all; half a matrix value would name another step.
    room = frame.axis.x(bar.end) - frame.axis.x(bar.begin) - 8
    name = label(row.step)
    if frame.pitch > 16 and text_width(name, 10.5) <= room:
        tone = "bad" if bar.verdict == "bad" else "critical" if row.critical else ""
        parts.append(text(frame.axis.x(bar.begin) + 4, y + 3.5, name, class_=f"inside {tone}".strip()))
    return element("g", *parts)


def _legend(outcome: Outcome, frame: Frame, y: float) -> Markup | None:
    """Explain the marks that can be seen in this picture, and no others."""
    bars = [(row, bar) for row in outcome.rows for bar in row.bars]
    entries = [
        ("bar", "container", any(b.purpose != "host" for _, b in bars)),
        ("bar critical", "critical path", any(r.critical for r, _ in bars)),
        ("bar bad", "failed", any(b.verdict == "bad" for _, b in bars)),
        ("bar host", "on the host", any(b.purpose == "host" and b.verdict == "ok" for _, b in bars)),
        ("bar parked", "container prepared", any(_seen(frame, b, b.parked) for _, b in bars)),
        ("queued", "ready, waiting", any(_seen(frame, b, b.queued) for _, b in bars)),
        ("bar wait", "waiting for a person", any(b.verdict == "wait" for _, b in bars)),
        ("gap", "not to scale", bool(frame.axis.folds)),
    ]
    parts, x = [], MARGIN
    for class_, words, there in entries:
        if there:
            parts += [_sample(class_, x, y), text(x + 22, y, words, class_="minor")]
            x += 22 + text_width(words, 11) + 20
    return joined(parts) if parts else None


def _seen(frame: Frame, bar: Bar, before: float) -> bool:
    """Whether a wait of so many seconds before a bar is more than two pixels wide here."""
    return frame.named and frame.axis.x(bar.begin) - frame.axis.x(bar.begin - before) > 2


def _sample(class_: str, x: float, y: float) -> Markup:
    if class_ == "queued":
        return element("line", class_=class_, x1=x, x2=x + 16, y1=y - 4, y2=y - 4)
    return element("rect", class_=class_, x=x, y=y - 8, width=16.0, height=8.0, rx=2.0)
