"""Decides about the failed attempts of a run: gathers what is known, asks the pure rules, writes down what they say.

The hard choice is who decides, because two could: Prefect asks a task's condition after an attempt that is not its
last, and of the last one it asks nobody. So the decision is made here, inside the attempt, while its exception is still
on its way: every failed attempt then has exactly one, before anything is done about it, and Prefect's condition, the
scheduler's next task run, the gates and the report only read it. The accepted cost: an attempt that Prefect itself
fails, before or after our code, is decided on by the scheduler, which has to ask whether anybody has.

A decision is a record before it is a deed. What a resume needs to go on as if nothing had happened stands in that
record: how often it was tried, what it was given, what it left, and until when it was to wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.output import end
from workflowmaster.blocks.workspace import WorkspaceError
from workflowmaster.flows import backoff, diskspace, enlarging, failurerules, learned, limiting, obeying, steady
from workflowmaster.flows.decisions import Facts, decide
from workflowmaster.flows.execution import StepFailed
from workflowmaster.flows.past import Trial
from workflowmaster.flows.plan import Decision
from workflowmaster.flows.understanding import Evidence, understand
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from pathlib import Path

    from workflowmaster.flows.facts import Mode
    from workflowmaster.flows.failurerules import Rules
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Failure, Limits, Step

TAIL = 64 * 1024
"""Bytes at the end of an attempt's log that are read: what ended it stands there."""


class Attempted(NamedTuple):
    """A failed attempt."""

    step: Step
    number: int
    """Counted over all parts of the run."""
    error: Exception
    final: bool = False
    """Whether no attempt can follow, whatever the rules say."""


class Deciding:
    """The decisions of one run. Its methods belong to the event loop's thread."""

    def __init__(self, journey: Journey) -> None:
        self.journey = journey
        self._rules: Rules | None = None
        self.last: dict[str, Decision] = {}
        """Step id → what was decided last in this part of the run."""
        self.failed: Counter[str] = Counter()
        """Key → failed attempts of this part of the run that count against the step's retries."""
        for step_id, trials in journey.past.trials.items():
            if trials[-1].key == journey.past.keyed.get(step_id):
                self._take_up(step_id, trials[-1])

    # --- what earlier attempts have left ---

    def begin(self, step: Step) -> float:
        """Take up what failed attempts under the step's key have left; return the seconds that are still to wait."""
        journey, key = self.journey, self._key(step)
        trials = journey.past.trials.get(step.id, [])
        trial = next((one for one in reversed(trials) if one.key == key), None)
        if trial is None and trials:
            # It belongs to what the step was then.
            journey.kept.pop(step.id, None)
            journey.grown.pop(step.id, None)
        elif trial:
            self._take_up(step.id, trial)
        if given := obeying.granted(journey).get(step.id):
            least, most = limiting.first(step, journey.policies[step.id]), self._caps(step)
            journey.grown[step.id] = limiting.within(given, least, most)
        return self.rest(trial.decision) if trial and journey.past.spent(step.id, key) else 0.0

    def _take_up(self, step_id: str, trial: Trial) -> None:
        if trial.next:
            self.journey.grown[step_id] = trial.next
        if trial.left:
            self.journey.kept[step_id] = trial.left

    @staticmethod
    def rest(decision: Decision) -> float:
        """Return the seconds left of a decision's wait; a clock that was put back makes it no longer."""
        left = decision.at + decision.wait_seconds - steady.now()
        return min(max(left, 0.0), decision.wait_seconds) if decision.verb == "retry" else 0.0

    # --- how often, and when ---

    def most(self, step: Step) -> int:
        """Return the attempts that a step may have."""
        return 1 + min(step.retries.max, self.journey.settings.max_retry_attempts)

    def counted(self, step: Step) -> int:
        """Return the failed attempts that count, in all parts of the run since the step last came to an end."""
        key = self._key(step)
        return min(self.journey.past.spent(step.id, key) + self.failed[key], self.most(step) - 1)

    def delays(self, step: Step) -> list[float]:
        """Return the wait before each retry, in seconds: always the same ones for a step of this workflow."""
        return backoff.delays(step.retries, self.most(step) - 1, seed=f"{self.journey.id}/{step.id}")

    def planned(self, step: Step) -> bool:
        """Whether the last decision is to retry after the very wait that Prefect was told of in advance."""
        decision, delays, done = self.last[step.id], self.delays(step), self.counted(step)
        counts = decision.factors.get("counts", True)
        return decision.verb == "retry" and counts and done > 0 and decision.wait_seconds == delays[done - 1]

    def _key(self, step: Step) -> str:
        # A step whose inputs cannot be merged never gets a key.
        return self.journey.keys.get(step.id, f"{step.id}?")

    # --- deciding ---

    async def about(self, step: Step, number: int, error: Exception, *, final: bool = False) -> Decision:
        """Decide about a failed attempt, and write that down.

        `number` counts over all parts of the run. `final` says that no further attempt of the step could help.
        """
        attempted = Attempted(step, number, error, final)
        failure = await asyncio.to_thread(self._understood, attempted)
        decision = decide(self._facts(attempted, failure))
        return self._written(attempted, decision.model_copy(update={"attempt": number, "at": steady.now()}))

    def _understood(self, attempted: Attempted) -> Failure:
        """Say what went wrong, from how it ended and what it printed last."""
        journey = self.journey
        evidence = self._evidence(attempted, tail(journey.folder.log(attempted.step.id, attempted.number)))
        # Read when something has failed for the first time: most runs never ask.
        self._rules = self._rules or failurerules.load(journey.settings.own_failure_rules)
        return understand(evidence, self._rules, learned.model(journey.settings))

    def _evidence(self, attempted: Attempted, text: str) -> Evidence:
        step, error = attempted.step, attempted.error
        cause, trouble = blame(error)
        code = error.result.exit_code if isinstance(error, StepFailed) else None
        said = self.journey.secrets.text(str(error))
        return Evidence(cause=cause, reason=said, exit_code=code, text=text, kind=step.kind, trouble=trouble)

    def _facts(self, attempted: Attempted, failure: Failure) -> Facts:
        """Gather everything that the rules ask for."""
        journey, step = self.journey, attempted.step
        left = {one.id for one in journey.plan.tasks if one.id not in journey.results}
        return Facts(
            step=step.id,
            kind=step.kind,
            priority=step.priority,
            mandatory=step.mandatory,
            on_failure=step.on_failure,
            mode=self.mode,
            attempt=self.counted(step) + 1,
            most=self.counted(step) + 1 if attempted.final else self.most(step),
            stated=not step.retries.automatic,
            failure=failure,
            continue_on_error=step.continue_on_error,
            retries_on=step.retries.on,
            repeated=self._repeated(step, failure),
            growth=self._growth(attempted, failure),
            grown=step.id in journey.grown,
            progress=1 - len(left) / len(journey.plan.tasks),
            budget_spent=journey.budget.over(step.id),
            dependants=sum(step.id in journey.ancestors[one] for one in left),
            chance=learned.chance(journey.settings, failure, self._context(attempted)),
            delays=self.delays(step),
            **journey.health.facts(step.kind),
        )

    @property
    def mode(self) -> Mode:
        """How far failures are decided on without a person: the operator's word before the prompt's."""
        written: Mode = self.journey.plan.front.get("decisions", {}).get("mode", "autonomous")
        return written if self.journey.settings.autonomous_mode else "off"

    def _context(self, attempted: Attempted) -> learned.Context:
        step = attempted.step
        return learned.Context(
            kind=step.kind,
            priority=step.priority,
            policy=step.policy,
            image=step.image,
            attempt=self.counted(step) + 1,
        )

    def _repeated(self, step: Step, failure: Failure) -> bool:
        """Whether an attempt on the same inputs, under the same limits, has failed the same way before."""
        this = self._trial(step, Decision(step=step.id, verb="continue", reason="", failure=failure), "")
        return any(one.decision.failure and one.same == this.same for one in self.journey.past.trials.get(step.id, ()))

    def _growth(self, attempted: Attempted, failure: Failure) -> Limits | None:
        """Return what the next attempt would get that this one had not; None where nothing can grow."""
        step, error = attempted.step, attempted.error
        if not (isinstance(error, StepFailed) and error.result.receipts):
            return None
        receipt, grown = error.result.receipts[-1], self.journey.grown.get(step.id)
        first = limiting.first(step, self.journey.policies[step.id])
        had = first.model_copy(update=grown.model_dump(exclude_none=True)) if grown else first
        return enlarging.larger(
            failure.cls,
            current=had,
            peak_memory=receipt.peak_memory,
            used=receipt.seconds,
            caps=self._caps(step),
            grown=grown,
        )

    def _caps(self, step: Step) -> Limits:
        return self.journey.caps.get(step.id) or limiting.caps(step, self.journey.settings)

    # --- writing down ---

    def _trial(self, step: Step, decision: Decision, left: str) -> Trial:
        journey = self.journey
        start = journey.kept.get(step.id) or journey.inputs.get(step.id, "")
        return Trial(self._key(step), decision, journey.grown.get(step.id), start, left)

    def _written(self, attempted: Attempted, decision: Decision) -> Decision:
        """Keep a decision with the run and in the audit log, and make it count."""
        journey, step = self.journey, attempted.step
        left = attempted.error.left if isinstance(attempted.error, StepFailed) else ""
        trial = self._trial(step, decision, left if step.on_retry == "keep" else "")
        journey.decisions.append(decision)
        said = decision.model_dump(mode="json")
        had = trial.had.model_dump() if trial.had else None
        about: dict[str, Any] = {"key": trial.key, "had": had, "start": trial.start, "left": trial.left}
        journey.journal.append("decision", **said, **about, counted=decision.factors.get("counts", True))
        journey.audit.append("decision", **said)
        journey.past.trials.setdefault(step.id, []).append(trial)
        self.last[step.id] = decision
        self._take_up(step.id, trial)
        if decision.verb == "retry":
            journey.budget.reserve(step.id)
            self.failed[trial.key] += bool(decision.factors.get("counts", True))
        return decision


def blame(error: Exception) -> tuple[str, str]:
    """Return the cause of a failure as `Evidence` has it, and the engine's short word where it was the sandbox."""
    if isinstance(error, StepFailed):
        return error.cause, ""
    if isinstance(error, SandboxUnavailable):
        return "sandbox", error.reason
    if isinstance(error, PolicyError):
        return "policy", ""
    if isinstance(error, OSError) and diskspace.is_full(error):
        return "sandbox", "disk"
    if isinstance(error, WorkspaceError) and error.code in ("conflict", "disk"):
        return ("conflict", "") if error.code == "conflict" else ("sandbox", "disk")
    return "workspace", ""


def tail(log: Path, size: int = TAIL) -> str:
    """Return the end of an attempt's log, from a whole line on; empty where it has none."""
    text, cut = end(log, size)
    return text.partition("\n")[2] if cut else text


__all__ = ["Attempted", "Deciding", "blame", "tail"]
