"""One attempt of one step: its tree laid, its container sent off, its end judged, its tree taken in.

A step is a function from tree to tree, so every attempt starts from the step's input commit, whatever an earlier
attempt left behind, unless the prompt says `on-retry: keep`; and only an attempt that succeeded becomes the step's
commit. Who is to blame for an end is decided here once: `StepFailed` is the step's own doing, `SandboxUnavailable` is
ours or the engine's.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from workflowmaster.blocks import layering
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.failure import explain
from workflowmaster.blocks.request import WORKSPACE
from workflowmaster.blocks.screening import CODE as SECRET
from workflowmaster.blocks.workspace import Caps, WorkspaceError, prepare, remove_tree
from workflowmaster.flows import adoption, collecting, evidence, going, guarding, invocation, metering, steady, worked
from workflowmaster.flows.anew import once_more
from workflowmaster.flows.budgets import cost
from workflowmaster.flows.going import Outcome
from workflowmaster.flows.plan import Step, StepResult, StepStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.parking import Parked, Parking, Tree

T = TypeVar("T")

log = logging.getLogger(__name__)


class StepFailed(RuntimeError):
    """The step's own work failed; `result` is its account and `cause` the failure's class."""

    def __init__(self, result: StepResult, cause: str, left: str = "") -> None:
        super().__init__(result.reason)
        self.result = result
        self.cause = cause
        self.left = left
        """Commit of what it left behind, where that was taken in."""


@dataclass
class Attempt:
    """One attempt in the making."""

    journey: Journey
    parking: Parking
    step: Step
    number: int
    lines: Callable[[str], None]
    """Called with each line of output, from a thread."""
    queued_at: float
    carried: bool = False
    """Whether its work was done before this process was there."""

    @property
    def commit(self) -> str:
        """Commit the step starts from, and the parent of what it makes."""
        return self.journey.inputs[self.step.id]

    @property
    def start(self) -> str:
        """Commit whose tree the attempt finds: the step's input, or under `on-retry: keep` what the last one left."""
        return self.journey.kept.get(self.step.id, self.commit)


async def run(attempt: Attempt) -> StepResult:
    """Run the step's work and its check. Raises StepFailed, SandboxUnavailable or WorkspaceError."""
    journey, step = attempt.journey, attempt.step
    started, outcome = await _tried(attempt)
    result = StepResult(
        step=step.id,
        status="failed" if outcome.reason else "completed",
        workflow=journey.id,
        key=journey.keys[step.id],
        attempts=attempt.number,
        exit_code=outcome.receipts[-1].exit_code,
        seconds=_seconds(attempt, outcome, started),
        reason=outcome.reason,
        input_commit=attempt.commit,
        commit=attempt.commit if outcome.reason and not step.continue_on_error else outcome.commit,
        outputs=outcome.outputs,
        artifacts=outcome.artifacts,
        receipts=(*journey.receipts.get(step.id, ()), *outcome.receipts),
        findings=outcome.findings,
        log=str(journey.folder.log(step.id, attempt.number).relative_to(journey.folder.path)),
        started_at=started,
        epoch=journey.claim.epoch,
    )
    if outcome.reason:
        journey.receipts[step.id] = result.receipts
        metering.failed(journey, result)
        raise StepFailed(result, outcome.cause, outcome.commit)
    return result


def _seconds(attempt: Attempt, outcome: Outcome, started: float) -> float:
    """Return how long an attempt took; how long one was left alone after it had ended is no part of it."""
    alone = attempt.carried or any(receipt.adopted for receipt in outcome.receipts)
    return sum(receipt.seconds for receipt in outcome.receipts) if alone else steady.now() - started


async def _tried(attempt: Attempt) -> tuple[float, Outcome]:
    """Go on with what an earlier owner sent off; where nothing of it is there, or can be trusted, begin."""
    if done := await in_git(attempt.journey, lambda: worked.take(attempt)):
        try:
            return done.started, await _concluded(attempt, done.outcome)
        except SandboxUnavailable as error:
            log.warning("the check of %s could not be run, so the step starts anew: %s", attempt.step.id, error)
    parked = await adoption.take(attempt)
    if parked and parked.going:
        before = parked.going.before
        try:
            outcome = await (_check(attempt, parked, before) if before else _do(attempt, parked))
        except SandboxUnavailable as error:
            await adoption.give_up(attempt, parked.going, str(error))
        else:
            return parked.going.wall, outcome
    return await once_more(attempt, _once)


async def _concluded(attempt: Attempt, outcome: Outcome) -> Outcome:
    """Do what is left after work that an earlier owner has done: its check, if it has one."""
    attempt.carried = True
    if not attempt.step.check:
        return outcome
    return await _check(attempt, await attempt.parking.fresh(attempt.step, attempt.number, "check"), outcome)


async def _once(attempt: Attempt, held: list[Parked]) -> tuple[float, Outcome]:
    """Take a container, add it to `held`, and do the step in it; return when that began, and what came of it."""
    parked = await attempt.parking.take(attempt.step, attempt.number)
    held.append(parked)
    started = steady.now()
    return started, await _do(attempt, parked)


async def _do(attempt: Attempt, parked: Parked) -> Outcome:
    """Do the step's work, and let its check judge what came of it. The check's container starts with the work."""
    if not attempt.step.check:
        return _noted(attempt, parked, await _work(attempt, parked))
    try:
        checking = attempt.parking.park(attempt.step, attempt.number, "check")
    except BaseException:
        _leave(attempt.journey, parked)
        raise
    outcome: Outcome | None = None
    try:
        outcome = _noted(attempt, parked, await _work(attempt, parked))
    finally:
        if outcome is None or outcome.reason:
            attempt.parking.discard(checking)
    return outcome if outcome.reason else await _check(attempt, await attempt.parking.arrived(checking), outcome)


def _noted(attempt: Attempt, parked: Parked, outcome: Outcome) -> Outcome:
    """Write down what the work came to: from here on nobody need do it again."""
    worked.note(attempt, parked.container.id, outcome.receipts[-1].started_at, outcome)
    return outcome


async def _work(attempt: Attempt, parked: Parked) -> Outcome:
    """Do the step's work in its container, and take in what it left."""
    journey, step = attempt.journey, attempt.step
    try:
        if parked.going is None:
            await _fill(attempt, parked)
        receipt = await going.send(attempt, parked, "work")
        outputs, taken, fault = await asyncio.get_running_loop().run_in_executor(
            journey.threads, collecting.take_out, journey, parked, step
        )
        reason, cause = explain(receipt, step.timeout_seconds)
        reason = journey.budget.told(step.id, reason, receipt)
        reason, cause = (guarding.told(reason, receipt), cause) if reason else (fault, "failure" if fault else "")
        # What grew past its cap is not kept, even where a failure may be: it would be refused for that very size.
        wanted = step.continue_on_error or step.on_retry == "keep"
        keep = not reason or (wanted and not receipt.disk_capped)
        commit, findings = await _take_in(attempt, parked, keep=keep)
    except WorkspaceError as error:
        if error.code != SECRET:
            raise _hidden(journey, error) from None
        # The step's own doing, and nothing it left is believed: neither its files nor its outputs.
        nothing: dict[str, Any] = {"outputs": {}, "commit": attempt.commit, "findings": ()}
        return Outcome(receipts=(receipt,), reason=str(error), cause="failure", **nothing)
    finally:
        _leave(journey, parked)
    strange = [fault for fault in (cost(outputs)[1],) if fault]
    findings = collecting.few(map(journey.secrets.text, (*parked.left_out, *taken.findings, *strange, *findings)))
    return Outcome(
        receipts=(receipt,),
        outputs=outputs,
        commit=commit,
        findings=findings,
        reason=journey.secrets.text(reason),
        cause=cause,
        artifacts=taken.artifacts,
    )


def _hidden(journey: Journey, error: WorkspaceError) -> WorkspaceError:
    """Return an error without the secrets in it: it may name a file, and a step chooses its files' names."""
    text = journey.secrets.text(str(error))
    if text == str(error):
        return error
    return WorkspaceError(error.code, text, files=tuple(map(journey.secrets.text, error.files)))


async def _fill(attempt: Attempt, parked: Parked) -> None:
    """Lay the input tree, and complete what the container finds in `/wm`."""
    journey, step = attempt.journey, attempt.step
    before = {name: journey.results[name] for name in journey.ancestors[step.id] if name in journey.results}
    values = invocation.environment(step, journey.plan, journey.record.options.inputs, before)
    values |= {"WM_STEP": step.id, "WM_ATTEMPT": str(attempt.number)}
    values = parked.environment | invocation.passed(values, parked.container.request.policy)

    def fill() -> None:
        if parked.tree:
            lay(journey, parked.tree, attempt.start)
            if step.git:
                journey.store.throwaway_git(parked.tree.path)
            parked.laid = guarding.laid(journey.store, parked.tree.path)
            journey.store.release(parked.tree.path)
        _place_inputs(attempt, parked, attempt.start)
        parked.exchange.write(values, invocation.files(step, "work"))

    await in_git(journey, fill)


def _place_inputs(attempt: Attempt, parked: Parked, commit: str) -> None:
    """Give the container the files its step declares, as they are in a commit."""
    if attempt.step.inputs:
        for name, data, executable in layering.read(attempt.journey.store, commit, attempt.step.inputs):
            parked.exchange.place(name, data, executable=executable)


async def _take_in(attempt: Attempt, parked: Parked, *, keep: bool) -> tuple[str, tuple[str, ...]]:
    """Turn what the step left into a commit. Under a policy that throws its copy away, the input commit remains."""
    journey, step, commit = attempt.journey, attempt.step, attempt.commit
    policy = parked.container.request.policy
    way = policy.workspace
    caps = Caps(total_bytes=policy.disk or Caps().total_bytes)
    if keep and way == "rw" and parked.tree:
        await asyncio.get_running_loop().run_in_executor(journey.threads, parked.fetch, WORKSPACE, caps.total_bytes)

    def take() -> tuple[str, tuple[str, ...]]:
        if not keep or way == "copy":
            return commit, ()
        message = step.name if step.name == step.id else f"{step.id}: {step.name}"
        if way != "rw" or not parked.tree:
            outward, cap = parked.exchange.outward, collecting.most_out(parked)
            taken = layering.overlay(journey.store, attempt.start, outward, step=step.id, message=message, cap=cap)
            if parked.tree:
                parked.tree.commit = attempt.start  # it was mounted read-only
            made = taken.commit if attempt.start == commit else layering.replanted(journey.store, taken.commit, commit)
            return made, taken.findings
        taken = journey.store.snapshot(
            parked.tree.path,
            parents=[commit],
            step=step.id,
            message=message,
            caps=caps,
            screen=journey.secrets.screen(step),
        )
        parked.tree.commit = taken.commit
        return taken.commit, taken.findings

    return await in_git(journey, take)


async def _check(attempt: Attempt, parked: Parked, outcome: Outcome) -> Outcome:
    """Let the step's check, in a container of its own, judge a copy of the tree that the work left."""
    journey, step, commit = attempt.journey, attempt.step, outcome.commit

    def fill() -> None:
        if parked.tree:
            lay(journey, parked.tree, commit)
            parked.laid = guarding.laid(journey.store, parked.tree.path)
            parked.tree.commit = ""
        _place_inputs(attempt, parked, commit)
        values = invocation.environment(step, journey.plan, journey.record.options.inputs, {})
        values |= {"WM_STEP": step.id}
        values = parked.environment | invocation.passed(values, parked.container.request.policy)
        parked.exchange.write(values, invocation.files(step, "check"))

    try:
        if parked.going is None:
            await in_git(journey, fill)
        receipt = await going.send(attempt, parked, "check", outcome)
    finally:
        _leave(journey, parked)
    reason, cause = explain(receipt, step.timeout_seconds)
    reason = journey.budget.told(step.id, reason, receipt)
    judged = {"reason": reason and f"its check failed: {reason}", "cause": cause}
    return outcome.model_copy(update={"receipts": (*outcome.receipts, receipt), **judged})


def lay(journey: Journey, tree: Tree, commit: str) -> None:
    """Make a step's directory hold a commit. From here on it counts as unknown until it is taken in again.

    Only where nothing has run since we last knew its content does the difference of the trees suffice.
    """
    if tree.commit:
        journey.store.switch(tree.path, tree.commit, commit)
    else:
        prepare(tree.path, *journey.user)
        journey.store.lay(commit, tree.path)
    tree.commit = ""


def _leave(journey: Journey, parked: Parked) -> None:
    """Remove the container and its folders in the background, a moment later: nobody waits for that."""

    def remove() -> None:
        try:
            parked.remove()
            if not parked.container.left:
                evidence.removed(journey, parked.container)
                remove_tree(parked.exchange.folder)
                going.ended(journey, parked)
        except (SandboxUnavailable, WorkspaceError, OSError) as error:
            # The step's outcome stands; what could not be removed is tried again at the end, or by the next run.
            journey.troubled = True
            log.warning("%s left something behind: %s", parked.container.request.name, error)

    journey.clearing.later(remove)


async def in_git(journey: Journey, work: Callable[[], T]) -> T:
    """Do work on the store in its one thread."""
    return await asyncio.get_running_loop().run_in_executor(journey.git, work)


def host_result(journey: Journey, step: Step, *, status: StepStatus = "completed", **fields: Any) -> StepResult:
    """Return the result of a step that ran on the host, or not at all; its tree is its input tree."""
    commit = journey.inputs.get(step.id, journey.store.base)
    known = {"key": journey.keys.get(step.id, ""), "input_commit": commit, "commit": commit, "started_at": steady.now()}
    return StepResult(step=step.id, status=status, epoch=journey.claim.epoch, **{**known, **fields})


__all__ = ["Attempt", "SandboxUnavailable", "StepFailed", "WorkspaceError", "host_result", "in_git", "run"]
