"""Where each task of a run stands, what it waits for, and when it is tried again. No clock and nothing outside in it.

One model behind every view: the terminal, the artifact `tasks` on the Prefect page and the command `tasks`. A live view
tells it what happens, with the time by whatever clock it has; afterwards it is made from a state. The hard choice is
that a task which came back from an earlier part of the run, or from another run, is `reused` here and not `completed`:
who watches wants to know what was done now. The cost is that two words mean a success.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from workflowmaster.flows.skeleton import SKELETON
from workflowmaster.flows.wording import GLYPHS, STEP_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workflowmaster.flows.plan import Decision, Plan, Step, StepResult
    from workflowmaster.flows.state import WorkflowState

Place = Literal["pending", "in_progress", "completed", "failed", "skipped", "blocked", "waiting", "reused"]
"""How a task stands."""

ORDER: Final[tuple[Place, ...]] = (
    "completed",
    "reused",
    "failed",
    "skipped",
    "blocked",
    "waiting",
    "in_progress",
    "pending",
)
"""In which order counts are told."""
WORDS: Final[Mapping[str, str]] = {"reused": "reused"} | dict(STEP_WORDS.items())
SIGNS: Final[Mapping[str, str]] = {"reused": "↺"} | dict(GLYPHS.items())
"""Always shown beside the word."""
BETWEEN: Final = ("↻", "retrying")
"""Sign and word of a task that waits for its next attempt."""
OPEN: Final[frozenset[Place]] = frozenset({"pending", "in_progress"})
GOOD: Final[frozenset[Place]] = frozenset({"completed", "reused"})
MOST_CAUSES: Final = 8
"""Causes of a blocked task that are looked for; a step may need a thousand others."""


@dataclass(frozen=True)
class Task:
    """One task at one moment."""

    id: str
    place: Place = "pending"
    attempt: int = 0
    """The one under way, or the last; 0 before the first."""
    since: float = 0.0
    """When it came to stand so, by the teller's clock, in seconds."""
    seconds: float = 0.0
    """What its last attempt took; 0 while it has not ended."""
    reason: str = ""
    """Why it failed, waits or was left out; of one between two attempts, why the last one failed."""
    due: float | None = None
    """When the next attempt begins, by the teller's clock, while it waits for that."""
    decision: Decision | None = None
    """The last one about it."""

    @property
    def between(self) -> bool:
        """Whether an attempt has failed and the next one has not begun."""
        return self.due is not None

    @property
    def why(self) -> str:
        """Why the last attempt failed or the task stands so, without the name of the rule that decided."""
        rule, _, sentence = self.reason.partition(": ")
        return sentence if self.between and sentence and " " not in rule else self.reason


class Tracker:
    """All tasks of a run. Tell it what happens by `started`, `decided` and `finished`; not safe between threads."""

    def __init__(self, plan: Plan) -> None:
        self._steps: dict[str, Step] = {step.id: step for step in plan.tasks}
        self._tasks = {step.id: Task(step.id) for step in plan.tasks}
        self._counts: Counter[Place] = Counter({"pending": len(self._tasks)})
        self.ended: dict[str, None] = {}
        """Ids of the tasks that have come to an end, in the order in which they did."""
        self.changes = 0
        """How often something has changed: a view is stale where it has seen fewer."""

    @classmethod
    def of(cls, state: WorkflowState, now: float) -> Tracker:
        """Return how the tasks of a run stand by its state, which may be of any age. Times are Unix times."""
        made = cls(state.plan)
        last = {decision.step: decision for decision in state.decisions}
        for step in state.plan.tasks:
            decision, result = last.get(step.id), state.result(step.id)
            if decision:
                made._put(replace(made[step.id], decision=decision))
            if result:
                made.finished(result, result.started_at + result.seconds, reused=step.id in state.reused)
            elif step.id in state.running:
                made.started(step.id, 1 + (decision.attempt if decision else 0), decision.at if decision else 0.0)
                if decision and decision.verb == "retry" and decision.at + decision.wait_seconds > now:
                    made._put(replace(made[step.id], attempt=decision.attempt))
                    made.decided(decision, decision.at)
        return made

    # --- what happens ---

    def started(self, step: str, attempt: int, at: float) -> None:
        """Take in that an attempt, counted from 1, has begun."""
        self._put(
            replace(self._task(step), place="in_progress", attempt=attempt, since=at, due=None, seconds=0.0, reason="")
        )

    def decided(self, decision: Decision, at: float) -> None:
        """Take in a decision about a failed attempt; until the next one begins its task is between attempts."""
        task = self._task(decision.step)
        again = decision.verb == "retry"
        self._put(
            replace(
                task,
                decision=decision,
                due=at + decision.wait_seconds if again else None,
                reason=decision.reason if again else task.reason,
                since=at if again else task.since,
            )
        )

    def finished(self, result: StepResult, at: float, *, reused: bool | None = None) -> None:
        """Take in a task's end. It was reused if that is said, or else if it completed and had not begun."""
        task = self._task(result.step)
        if reused is None:
            reused = result.status == "completed" and task.place == "pending"
        place: Place = "reused" if reused and result.status == "completed" else result.status
        tried = result.attempts if place in ("completed", "failed", "reused") or result.receipts else 0
        ended = replace(task, place=place, attempt=tried, since=at, due=None)
        self._put(replace(ended, seconds=result.seconds, reason=result.reason))

    def _put(self, task: Task) -> None:
        before = self._tasks.get(task.id)
        self._counts[before.place if before else task.place] -= before is not None
        self._counts[task.place] += 1
        self._tasks[task.id] = task
        # A step that is tried anew is at the end of those that have ended once it has ended again.
        self.ended.pop(task.id, None)
        if task.place not in OPEN:
            self.ended[task.id] = None
        self.changes += 1

    def _task(self, step: str) -> Task:
        return self._tasks.get(step) or Task(step)

    # --- how it stands ---

    @property
    def total(self) -> int:
        """Number of tasks."""
        return len(self._tasks)

    def __getitem__(self, step: str) -> Task:
        """Return one task. KeyError if there is none of that id."""
        return self._tasks[step]

    def tasks(self) -> tuple[Task, ...]:
        """Return all tasks, in the plan's order."""
        return tuple(self._tasks.values())

    def under_way(self) -> tuple[Task, ...]:
        """Return the tasks that work or wait for their next attempt, the longest first."""
        found = (task for task in self._tasks.values() if task.place == "in_progress")
        return tuple(sorted(found, key=lambda task: task.since)) if self._counts["in_progress"] else ()

    def counts(self) -> Mapping[Place, int]:
        """Return how many tasks stand how, in the order of `ORDER`, without zeros; together they are all tasks."""
        return {place: self._counts[place] for place in ORDER if self._counts[place] > 0}

    def summary(self) -> str:
        """Return the counts in words: `3 completed, 1 running, 1 retrying, 2 pending`; `none` without a task."""
        between = sum(task.between for task in self.under_way())
        found = []
        for place, count in self.counts().items():
            retrying = between if place == "in_progress" else 0
            found += [f"{count - retrying} {WORDS[place]}"] if count > retrying else []
            found += [f"{retrying} {BETWEEN[1]}"] if retrying else []
        return ", ".join(found) or "none"

    def progress(self) -> str:
        """Return how far each phase is, done of all: `testing 0/1, review 0/1`; empty where there is only one."""
        return ", ".join(f"{name.replace('_', ' ')} {good}/{all_}" for name, (good, all_) in self._shares())

    def _shares(self) -> Iterable[tuple[str, tuple[int, int]]]:
        return ((name, done(places)) for name, places in self.phases().items())

    def behind(self, step: str) -> tuple[str, ...]:
        """Return what a task is held up by: of a pending one its open needs, of a blocked one the first causes."""
        task = self._task(step)
        if task.place == "pending":
            return tuple(need for need in self._needs(step) if self._place(need) not in GOOD)
        if task.place in ("blocked", "skipped", "waiting"):
            return self._causes(step)
        return ()

    def _causes(self, step: str) -> tuple[str, ...]:
        """Return the tasks further up that are in the way and that nothing else is in the way of."""
        found: dict[str, None] = {}
        seen, queue = {step}, [*reversed(self._needs(step))]
        while queue and len(found) < MOST_CAUSES:
            name = queue.pop()
            if name in seen or self._place(name) in GOOD | OPEN:
                continue
            seen.add(name)
            further = [need for need in self._needs(name) if self._place(need) not in GOOD | OPEN]
            # What failed, or asks a person itself, is a cause whatever stands before it.
            if self._place(name) == "failed" or not further:
                found[name] = None
            queue += reversed(further if self._place(name) != "failed" else [])
        return tuple(found)

    def _needs(self, step: str) -> tuple[str, ...]:
        known = self._steps.get(step)
        return known.needs if known else ()

    def _place(self, step: str) -> Place:
        return self._task(step).place

    def phases(self) -> dict[str, Mapping[Place, int]]:
        """Return the counts of each phase that has tasks, in the order of the nine; empty where all are of one."""
        found: dict[str, Counter[Place]] = {task.phase: Counter() for task in SKELETON}
        for task in self._tasks.values():
            if step := self._steps.get(task.id):
                found[step.phase][task.place] += 1
        known: dict[str, Mapping[Place, int]] = {}
        known |= {phase: _ordered(counts) for phase, counts in found.items() if counts}
        return known if len(known) > 1 else {}


def place_of(task: Task) -> tuple[str, str]:
    """Return the sign and the word of how a task stands."""
    return BETWEEN if task.between else (SIGNS[task.place], WORDS[task.place])


def _ordered(counts: Mapping[Place, int]) -> dict[Place, int]:
    return {place: counts[place] for place in ORDER if counts.get(place)}


def done(places: Mapping[Place, int]) -> tuple[int, int]:
    """Return how many of some tasks went well, and how many there are."""
    return sum(places.get(place, 0) for place in GOOD), sum(places.values())


def worth_showing(ended: Iterable[Task], room: int) -> list[Task]:
    """Return at most `room` ended tasks in their order: failures first get half of the room, the latest the rest."""
    # A failure that has scrolled away is the one thing a person would have to ask for again.
    known = list(ended)
    failed = [n for n, task in enumerate(known) if task.place == "failed"]
    chosen = set(failed[len(failed) - min(len(failed), room // 2) :])
    latest = [n for n in range(len(known)) if n not in chosen]
    chosen.update(latest[max(0, len(latest) - room + len(chosen)) :] if room > len(chosen) else [])
    return [known[n] for n in sorted(chosen)]
