"""One attempt of one step: its tree laid, its container sent off, its end judged, its tree taken in.

A step is a function from tree to tree, so every attempt starts from the step's input commit, whatever an earlier
attempt left behind, and only an attempt that succeeded becomes a commit. Who is to blame for an end is decided here
once: `StepFailed` is the step's own doing, `SandboxUnavailable` is ours or the engine's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from workflowmaster.blocks import layering
from workflowmaster.blocks.engine import OURS, SandboxUnavailable
from workflowmaster.blocks.exchange import BadOutputs
from workflowmaster.blocks.failure import explain, signal_of
from workflowmaster.blocks.output import Capture
from workflowmaster.blocks.ownership import hand_over, needs_handing_over
from workflowmaster.blocks.receipt import Receipt
from workflowmaster.blocks.workspace import Caps, WorkspaceError, prepare, remove_tree
from workflowmaster.flows import invocation
from workflowmaster.flows.plan import Step, StepResult, StepStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from workflowmaster.blocks.reader import Ending
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.parking import Parked, Parking, Tree

T = TypeVar("T")

log = logging.getLogger(__name__)


class StepFailed(RuntimeError):
    """The step's own work failed; `result` is its account and `cause` the failure's class."""

    def __init__(self, result: StepResult, cause: str) -> None:
        super().__init__(result.reason)
        self.result = result
        self.cause = cause


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

    @property
    def commit(self) -> str:
        """Commit the attempt starts from."""
        return self.journey.inputs[self.step.id]


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to, before it is a result."""

    receipts: tuple[Receipt, ...]
    outputs: dict[str, str]
    commit: str
    findings: tuple[str, ...]
    reason: str
    """Why it failed; empty if it did not."""
    cause: str


async def run(attempt: Attempt) -> StepResult:
    """Run the step's work and its check. Raises StepFailed, SandboxUnavailable or WorkspaceError."""
    journey, step = attempt.journey, attempt.step
    parked = await attempt.parking.take(step, attempt.number)
    started = time.time()
    outcome = await _with_check(attempt, parked) if step.check else await _work(attempt, parked)
    result = StepResult(
        step=step.id,
        status="failed" if outcome.reason else "completed",
        workflow=journey.id,
        key=journey.keys[step.id],
        attempts=attempt.number,
        exit_code=outcome.receipts[-1].exit_code,
        seconds=time.time() - started,
        reason=outcome.reason,
        input_commit=attempt.commit,
        commit=attempt.commit if outcome.reason and not step.continue_on_error else outcome.commit,
        outputs=outcome.outputs,
        receipts=(*journey.receipts.get(step.id, ()), *outcome.receipts),
        findings=outcome.findings,
        log=str(journey.folder.log(step.id, attempt.number).relative_to(journey.folder.path)),
        started_at=started,
    )
    if outcome.reason:
        journey.receipts[step.id] = result.receipts
        raise StepFailed(result, outcome.cause)
    return result


async def _with_check(attempt: Attempt, parked: Parked) -> Outcome:
    """Do the step's work, and let its check judge what came of it. The check's container starts with the work."""
    try:
        checking = attempt.parking.park(attempt.step, attempt.number, "check")
    except BaseException:
        _leave(attempt.journey, parked)
        raise
    outcome: Outcome | None = None
    try:
        outcome = await _work(attempt, parked)
    finally:
        if outcome is None or outcome.reason:
            attempt.parking.discard(checking)
    if outcome.reason:
        return outcome
    receipt = await _check(attempt, checking, outcome.commit)
    reason, cause = explain(receipt, attempt.step.timeout_seconds)
    reason = reason and f"its check failed: {reason}"
    return replace(outcome, receipts=(*outcome.receipts, receipt), reason=reason, cause=cause)


async def _work(attempt: Attempt, parked: Parked) -> Outcome:
    """Do the step's work in its container, and take in what it left."""
    journey, step = attempt.journey, attempt.step
    try:
        await _fill(attempt, parked)
        receipt = await _send(attempt, parked, "work")
        outputs, fault = await asyncio.get_running_loop().run_in_executor(
            journey.threads, _take_out, journey, parked, step
        )
        reason, cause = explain(receipt, step.timeout_seconds)
        reason, cause = (reason, cause) if reason else (fault, "failure" if fault else "")
        commit, findings = await _take_in(attempt, parked, keep=not reason or step.continue_on_error)
    finally:
        _leave(journey, parked)
    return Outcome((receipt,), outputs, commit, findings, reason, cause)


async def _fill(attempt: Attempt, parked: Parked) -> None:
    """Lay the input tree, and complete what the container finds in `/wm`."""
    journey, step = attempt.journey, attempt.step
    before = {name: journey.results[name] for name in journey.ancestors[step.id] if name in journey.results}
    values = invocation.environment(step, journey.plan, journey.record.options.inputs, before)
    values |= {"WM_STEP": step.id, "WM_ATTEMPT": str(attempt.number)}

    def fill() -> None:
        if parked.tree:
            lay(journey, parked.tree, attempt.commit)
            if step.git:
                journey.store.throwaway_git(parked.tree.path)
            journey.store.release(parked.tree.path)
        _place_inputs(attempt, parked, attempt.commit)
        parked.exchange.write(values, invocation.files(step, "work"))

    await in_git(journey, fill)


def _place_inputs(attempt: Attempt, parked: Parked, commit: str) -> None:
    """Give the container the files its step declares, as they are in a commit."""
    if attempt.step.inputs:
        for name, data, executable in layering.read(attempt.journey.store, commit, attempt.step.inputs):
            parked.exchange.place(name, data, executable=executable)


async def _send(attempt: Attempt, parked: Parked, purpose: str) -> Receipt:
    """Say go, read to the end, and give the account. A cancelled run kills the container first."""
    journey, step, container = attempt.journey, attempt.step, parked.container
    policy = container.request.policy
    path = journey.folder.log(step.id, attempt.number)
    journey.audit.append(
        "container.started",
        step=step.id,
        attempt=attempt.number,
        purpose=purpose,
        container=container.id,
        image=container.request.image_id,
        policy=policy.name,
        policy_hash=policy.hash,
    )
    parked_for, began = time.monotonic() - container.parked_at, time.time()

    def go() -> tuple[Ending, int]:
        with Capture(path, cap=policy.output_cap, policy=policy.name, lines=attempt.lines) as capture:
            ending = container.run(step.timeout_seconds, capture)
            if ending.timed_out:
                capture.note(f"[workflowmaster: stopped after {step.timeout_seconds:g} s, the step's wall time]")
            return ending, capture.size

    work = asyncio.get_running_loop().run_in_executor(journey.threads, go)
    try:
        ending, size = await asyncio.shield(work)
    except asyncio.CancelledError:
        killing = asyncio.get_running_loop().run_in_executor(journey.threads, container.kill)
        # An engine that cannot kill it cannot hide that from the reader either; what counts here is the cancellation.
        await asyncio.gather(killing, work, return_exceptions=True)
        raise
    receipt = _receipt(parked, ending, purpose).model_copy(
        update={
            "bytes_out": size,
            "started_at": began,
            "parked_seconds": max(parked_for, 0.0),
            "queued_seconds": max(began - attempt.queued_at, 0.0),
        }
    )
    journey.audit.append("container.finished", step=step.id, **receipt.model_dump(mode="json", exclude={"command"}))
    return receipt


def _receipt(parked: Parked, ending: Ending, purpose: str) -> Receipt:
    request = parked.container.request
    return Receipt(
        container_id=parked.container.id,
        container_name=request.name,
        image_id=request.image_id,
        policy=request.policy.name,
        policy_hash=request.policy.hash,
        purpose=purpose,
        command=request.argv,
        user=request.user,
        exit_code=ending.exit_code,
        signal=signal_of(ending.exit_code),
        oom_killed=ending.oom_killed,
        timed_out=ending.timed_out,
        output_capped=ending.capped,
        seconds=ending.seconds,
        cpu_seconds=ending.usage.cpu_seconds,
        peak_memory=ending.usage.peak_memory,
        peak_pids=ending.usage.peak_pids,
        refused=ending.error,
    )


def _hand_over(journey: Journey, parked: Parked) -> None:
    """Make what a container under another uid left behind ours, or it could be neither read nor removed."""
    request = parked.container.request
    if needs_handing_over(parked.exchange.outward, int(request.user.partition(":")[0])):
        labels = {f"{OURS}.{key}": value for key, value in request.labels.items()}
        outward, name = parked.exchange.outward, f"{request.name}-own"
        hand_over(journey.engine, request.image_id, outward, name=name, labels=labels)


def _take_out(journey: Journey, parked: Parked, step: Step) -> tuple[dict[str, str], str]:
    """Return the step's named outputs and, if they cannot be used, why."""
    _hand_over(journey, parked)
    try:
        found = parked.exchange.outputs()
    except BadOutputs as error:
        return {}, str(error)
    missing = [name for name in step.outputs if name not in found]
    return found, f"it did not write {', '.join(missing)} to $WM_OUTPUT, as its outputs promise" if missing else ""


async def _take_in(attempt: Attempt, parked: Parked, *, keep: bool) -> tuple[str, tuple[str, ...]]:
    """Turn what the step left into a commit. Under a policy that throws its copy away, the input commit remains."""
    journey, step, commit = attempt.journey, attempt.step, attempt.commit
    policy = parked.container.request.policy
    way = policy.workspace

    def take() -> tuple[str, tuple[str, ...]]:
        if not keep or way == "copy":
            return commit, ()
        message = step.name if step.name == step.id else f"{step.id}: {step.name}"
        if way != "rw" or not parked.tree:
            outward, cap = parked.exchange.outward, min(filter(None, (policy.result_cap, policy.disk)), default=None)
            taken = layering.overlay(journey.store, commit, outward, step=step.id, message=message, cap=cap)
            if parked.tree:
                parked.tree.commit = commit  # it was mounted read-only
            return taken.commit, taken.findings
        caps = Caps(total_bytes=policy.disk or Caps().total_bytes)
        taken = journey.store.snapshot(parked.tree.path, parents=[commit], step=step.id, message=message, caps=caps)
        parked.tree.commit = taken.commit
        return taken.commit, taken.findings

    return await in_git(journey, take)


async def _check(attempt: Attempt, checking: Future[Parked], commit: str) -> Receipt:
    """Run the step's check in a container of its own, on a copy of the tree that the work left."""
    journey, step = attempt.journey, attempt.step
    parked = await attempt.parking.arrived(checking)

    def fill() -> None:
        if parked.tree:
            lay(journey, parked.tree, commit)
            parked.tree.commit = ""
        _place_inputs(attempt, parked, commit)
        values = invocation.environment(step, journey.plan, journey.record.options.inputs, {})
        parked.exchange.write({**values, "WM_STEP": step.id}, invocation.files(step, "check"))

    try:
        await in_git(journey, fill)
        return await _send(attempt, parked, "check")
    finally:
        _leave(journey, parked)


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
    """Remove the container and its folders in the background: nobody waits for that."""

    def remove() -> None:
        try:
            parked.container.remove()
            remove_tree(parked.exchange.folder)
        except (SandboxUnavailable, WorkspaceError, OSError) as error:
            # The step's outcome stands; what could not be removed is swept up by the next run or by `clean`.
            log.warning("%s left something behind: %s", parked.container.request.name, error)

    journey.threads.submit(remove)


async def in_git(journey: Journey, work: Callable[[], T]) -> T:
    """Do work on the store in its one thread."""
    return await asyncio.get_running_loop().run_in_executor(journey.git, work)


def host_result(journey: Journey, step: Step, *, status: StepStatus = "completed", **fields: Any) -> StepResult:
    """Return the result of a step that ran on the host, or not at all; its tree is its input tree."""
    commit = journey.inputs.get(step.id, journey.store.base)
    known = {"key": journey.keys.get(step.id, ""), "input_commit": commit, "commit": commit, "started_at": time.time()}
    return StepResult(step=step.id, status=status, **{**known, **fields})


__all__ = ["Attempt", "SandboxUnavailable", "StepFailed", "WorkspaceError", "host_result", "in_git", "run"]
