"""What a person sees while a workflow runs, on stderr only: stdout belongs to results.

On a terminal one table is redrawn in place: what runs, what ended last, and the counts; never more lines than the
terminal has. Anywhere else (a file, CI, `docker logs`) each change is one line with its time. Choice: events only
change a dictionary, and the picture is made by rich's refresh thread four times a second, so a thousand short steps
cost no more than a few long ones. Accepted cost: a step shorter than a quarter of a second may never be seen running.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Final, Self

from workflowmaster.flows.plaintext import one_line, plain
from workflowmaster.flows.tracker import OPEN, SIGNS, WORDS, Tracker, place_of, worth_showing
from workflowmaster.flows.wording import counted, duration, listed, next_attempt

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

    from workflowmaster.flows.plan import Decision, Plan, StepResult
    from workflowmaster.flows.tracker import Place, Task

REFRESH_PER_SECOND: Final = 4
OTHER_LINES: Final = 4
"""Lines of the terminal that the rows may not take: head, counts, and room for the shell's prompt."""
STYLES: Final[dict[Place, str]] = {
    "completed": "green",
    "reused": "green",
    "failed": "bold red",
    "waiting": "yellow",
    "in_progress": "cyan",
    "skipped": "dim",
    "blocked": "dim",
    "pending": "dim",
}


FIXED: Final = {"state": 11, "try": 3, "time": 11}
"""Widths of the columns that are never shortened."""


_Row = tuple[str, str, str, str, float, str]
"""Sign and word, their style, the step's id, the attempt, seconds, and the note."""


class Progress:
    """Live progress of one workflow. Thread-safe; every method may be called from any thread."""

    def __init__(
        self,
        plan: Plan,
        *,
        stream: IO[str] | None = None,
        live: bool | None = None,
        quiet: bool = False,
        show_logs: bool = False,
    ) -> None:
        self._names = {step.id: step.name if step.name != step.id else "" for step in plan.tasks}
        self._policies = {step.id: step.policy if step.in_container else "host" for step in plan.tasks}
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self.show_logs = show_logs
        self._lock = threading.Lock()
        self._tracker = Tracker(plan)
        self._began = time.monotonic()
        wanted = _can_redraw(self._stream) if live is None else live
        self._live: Live | None = self._start() if wanted and not quiet else None

    def step_started(self, step_id: str, attempt: int = 1) -> None:
        """Say that a step began an attempt, counted from 1."""
        with self._lock:
            self._tracker.started(step_id, attempt, time.monotonic())
        tries = f"attempt {attempt}, " if attempt > 1 else ""
        self._line("in_progress", step_id, f"({tries}{self._policies.get(step_id, '')})")

    def step_decided(self, decision: Decision) -> None:
        """Say what was decided about a failed attempt, and when the next one begins."""
        with self._lock:
            self._tracker.decided(decision, time.monotonic())
        what = f"{decision.verb} {next_attempt(decision)}" if decision.verb == "retry" else decision.verb
        if not self._quiet:
            self._say(f"→ decided   {one_line(decision.step, 60)}: {what}; {one_line(decision.reason, 200)}")

    def step_log(self, step_id: str, line: str) -> None:
        """Show a line of a step's output; nothing unless `show_logs` is set."""
        if self.show_logs and not self._quiet:
            self._say(f"{one_line(step_id, 30)} | {plain(line).rstrip()[:400]}")

    def step_finished(self, result: StepResult) -> None:
        """Say how a step ended."""
        with self._lock:
            self._tracker.finished(result, time.monotonic())
            place = self._tracker[result.step].place
        reason = f": {one_line(result.reason, 160)}" if result.reason else ""
        self._line(place, result.step, f"in {duration(result.seconds)}{reason}")

    def note(self, text: str) -> None:
        """Show a message of our own, such as a decision, above the table."""
        if not self._quiet:
            self._say(one_line(text, 400))

    def close(self) -> None:
        """Leave the last picture standing and give the terminal back; may be called again."""
        # Taken away first, so that a late event of another thread writes a line instead of a dead table.
        live, self._live = self._live, None
        if live is not None:
            live.refresh()
            live.stop()
            self._quiet = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, place: Place, step_id: str, more: str) -> None:
        if self._live is None and not self._quiet:
            self._say(f"{SIGNS[place]} {WORDS[place]:9} {self._label(step_id)} {more}")

    def _label(self, step_id: str) -> str:
        return one_line(f"{step_id}  {self._names.get(step_id, '')}", 70)

    def _say(self, text: str) -> None:
        live = self._live
        if live is not None:
            # Markup off: brackets in a step's output are not rich's to interpret.
            live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        self._stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self._stream.flush()

    def _start(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        # Whether this is a terminal was decided above; rich would ask the stream once more.
        console = Console(file=self._stream, force_terminal=True)
        live = Live(
            get_renderable=lambda: self._picture(console),
            console=console,
            refresh_per_second=REFRESH_PER_SECOND,
            # What others print to stdout must stay there: it may be the result in JSON.
            redirect_stdout=False,
            redirect_stderr=self._stream is sys.stderr,
        )
        live.start()
        return live

    def _picture(self, console: Console) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
        rows, counts = self._rows(max(1, console.size.height - OTHER_LINES))
        _columns(table, console.size.width, max((len(row[-1]) for row in rows), default=0))
        for sign, style, step_id, attempt, seconds, note in rows:
            shown = Text(self._label(step_id)), attempt, duration(seconds), Text(note, style="dim")
            table.add_row(Text(sign, style=style), *shown)
        return Group(table, *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in counts))

    def _rows(self, most: int) -> tuple[list[_Row], list[str]]:
        """Return at most `most` rows: what ended last, then what is under way; and the lines of counts."""
        now = time.monotonic()
        with self._lock:
            counts = self._counts(now)
            most -= len(counts) - 1
            under_way = self._tracker.under_way()
            ended = worth_showing(map(self._tracker.__getitem__, self._tracker.ended), max(0, most - len(under_way)))
            rows = [self._row(task, now) for task in (*ended, *under_way)]
        return rows[-max(1, most) :], counts

    def _row(self, task: Task, now: float) -> _Row:
        sign, word = place_of(task)
        style = STYLES["waiting"] if task.between else STYLES[task.place]
        seconds = now - task.since if task.place in OPEN else task.seconds
        return f"{sign} {word}", style, task.id, str(task.attempt or ""), seconds, self._note(task, now)

    def _note(self, task: Task, now: float) -> str:
        """Return what a person should know of a step besides its place."""
        if task.due is not None:
            return f"again in {duration(max(0.0, task.due - now))}: {one_line(task.why, 160)}"
        if task.place == "blocked":
            return f"by {listed([one_line(name, 40) for name in self._tracker.behind(task.id)])}"
        return one_line(task.reason, 160) or self._policies.get(task.id, "")

    def _counts(self, now: float) -> list[str]:
        """Return the line of counts, and one of the phases where there are several."""
        tracker = self._tracker
        line = f"{counted(tracker.total, 'step')}: {tracker.summary()}; {duration(now - self._began)}"
        return [line, f"phases: {phases}"] if (phases := tracker.progress()) else [line]


def _columns(table: Table, width: int, longest: int) -> None:
    """Give a table its columns. `longest` is the longest note: it gets what it needs up to the larger half."""
    # Left to rich, a long note would shorten all columns alike, and every word of the table with them.
    room = width - sum(FIXED.values()) - 2 * (len(FIXED) + 2)
    note = min(max(10, longest), max(10, room * 3 // 5))
    widths = FIXED | {"step": max(10, room - note), "note": note}
    for name in ("state", "step", "try", "time", "note"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=widths[name])
    for right in (table.columns[2], table.columns[3]):
        right.justify = "right"


def _can_redraw(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
