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
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final, Self

from workflowmaster.flows.plaintext import one_line, plain
from workflowmaster.flows.wording import GLYPHS, STEP_WORDS, counted, duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from workflowmaster.flows.plan import Plan, StepResult, StepStatus

REFRESH_PER_SECOND: Final = 4
OTHER_LINES: Final = 4
"""Lines of the terminal that the rows may not take: head, counts, and room for the shell's prompt."""
STYLES: Final[dict[StepStatus, str]] = {
    "completed": "green",
    "failed": "bold red",
    "waiting": "yellow",
    "in_progress": "cyan",
    "skipped": "dim",
    "blocked": "dim",
    "pending": "dim",
}


@dataclass
class Running:
    """A step that is working now."""

    attempt: int
    since: float
    """Monotonic time of its start, in seconds."""


@dataclass
class Board:
    """What is known at this moment; changed under the lock of `Progress`."""

    running: OrderedDict[str, Running] = field(default_factory=OrderedDict)
    finished: OrderedDict[str, StepResult] = field(default_factory=OrderedDict)
    """In the order in which they ended."""

    def counts(self, total: int) -> Counter[str]:
        """Return how many of `total` steps stand how; `pending` is the rest."""
        counts: Counter[str] = Counter(result.status for result in self.finished.values())
        counts["in_progress"] = len(self.running)
        counts["pending"] = max(0, total - len(self.running) - len(self.finished))
        return counts


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
        self._board = Board()
        self._began = time.monotonic()
        wanted = _can_redraw(self._stream) if live is None else live
        self._live: Live | None = self._start() if wanted and not quiet else None

    def step_started(self, step_id: str, attempt: int = 1) -> None:
        """Say that a step began an attempt, counted from 1."""
        with self._lock:
            self._board.running[step_id] = Running(attempt, time.monotonic())
            # A retried step is running again and must not be counted twice.
            self._board.finished.pop(step_id, None)
        tries = f"attempt {attempt}, " if attempt > 1 else ""
        self._line("in_progress", step_id, f"({tries}{self._policies.get(step_id, '')})")

    def step_log(self, step_id: str, line: str) -> None:
        """Show a line of a step's output; nothing unless `show_logs` is set."""
        if self.show_logs and not self._quiet:
            self._say(f"{one_line(step_id, 30)} | {plain(line).rstrip()[:400]}")

    def step_finished(self, result: StepResult) -> None:
        """Say how a step ended."""
        with self._lock:
            self._board.running.pop(result.step, None)
            self._board.finished[result.step] = result
        reason = f": {one_line(result.reason, 160)}" if result.reason else ""
        self._line(result.status, result.step, f"in {duration(result.seconds)}{reason}")

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

    def _line(self, status: StepStatus, step_id: str, more: str) -> None:
        if self._live is None and not self._quiet:
            self._say(f"{GLYPHS[status]} {STEP_WORDS[status]:9} {self._label(step_id)} {more}")

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
        table.add_column("state", no_wrap=True)
        table.add_column("step", no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column("try", justify="right", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("policy", no_wrap=True)
        rows, counts = self._rows(max(1, console.size.height - OTHER_LINES))
        for status, step_id, attempt, seconds in rows:
            state = Text(f"{GLYPHS[status]} {STEP_WORDS[status]}", style=STYLES[status])
            policy = Text(self._policies.get(step_id, ""), style="dim")
            table.add_row(state, Text(self._label(step_id)), str(attempt), duration(seconds), policy)
        return Group(table, Text(counts, style="dim", no_wrap=True, overflow="ellipsis"))

    def _rows(self, most: int) -> tuple[list[tuple[StepStatus, str, int, float]], str]:
        """Return at most `most` rows: what ended last, then what runs; and the line of counts."""
        now = time.monotonic()
        with self._lock:
            running = [(name, run.attempt, now - run.since) for name, run in self._board.running.items()]
            ended = _worth_showing(list(self._board.finished.values()), max(0, most - len(running)))
            counts = self._board.counts(len(self._names))
        rows: list[tuple[StepStatus, str, int, float]] = [(r.status, r.step, r.attempts, r.seconds) for r in ended]
        rows += [("in_progress", name, attempt, seconds) for name, attempt, seconds in running]
        return rows[-most:], self._counts(counts, now)

    def _counts(self, counts: Counter[str], now: float) -> str:
        order: tuple[StepStatus, ...] = (
            "completed",
            "failed",
            "skipped",
            "blocked",
            "waiting",
            "in_progress",
            "pending",
        )
        found = ", ".join(f"{counts[status]} {STEP_WORDS[status]}" for status in order if counts[status])
        return f"{counted(len(self._names), 'step')}: {found or 'none'}; {duration(now - self._began)}"


def _worth_showing(ended: list[StepResult], room: int) -> list[StepResult]:
    """Return at most `room` results in the order they ended: failures first get half of it, the latest the rest."""
    # A failure that has scrolled away is the one thing a person would have to ask for again.
    failed = [n for n, result in enumerate(ended) if result.status == "failed"]
    chosen = set(failed[len(failed) - min(len(failed), room // 2) :])
    latest = [n for n in range(len(ended)) if n not in chosen]
    chosen.update(latest[max(0, len(latest) - room + len(chosen)) :] if room > len(chosen) else [])
    return [ended[n] for n in sorted(chosen)]


def _can_redraw(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
