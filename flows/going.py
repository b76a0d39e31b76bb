"""Go: the record that binds a container to what it was sent off for, the sending off itself, and the account of it.

A container's labels cannot change, and while it is parked nobody knows yet when its go will come. So one line of the
journal, written right before go, says everything that somebody else would need to go on with it: which attempt of which
step under which key, where its files lie, since when it runs and for how long it may, and the secret mark that its
output will end in. It does not wait for the disk, because it is worthless after a power loss: no container lives then.
It costs a step 0.1 ms; without it every step under way would have to start anew after a crash (`adoption`).

Time is kept as the seconds since boot with the boot's id, because a wall clock can be set back while a step runs.
"""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workflowmaster.blocks.artifacts import Artifact
from workflowmaster.blocks.failure import signal_of
from workflowmaster.blocks.output import Capture
from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.plain import PlainContainer
from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows import evidence, guarding, metering, steady
from workflowmaster.flows.journal import read
from workflowmaster.flows.networking import traffic_of
from workflowmaster.flows.plan import Noun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workflowmaster.blocks.growth import Growth
    from workflowmaster.blocks.reader import Ending
    from workflowmaster.flows.execution import Attempt
    from workflowmaster.flows.journal import Entry
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.parking import Parked


class Outcome(Noun):
    """What an attempt came to, before it is a result."""

    receipts: tuple[Receipt, ...]
    outputs: dict[str, str]
    commit: str
    findings: tuple[str, ...]
    reason: str
    """Why it failed; empty if it did not."""
    cause: str
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class Moment:
    """One moment, by two clocks."""

    wall: float
    """Unix time; whoever may, sets it."""
    boot: float
    """Seconds since the machine was started, its sleep included; nobody sets it."""
    boot_id: str

    @classmethod
    def now(cls) -> Moment:
        """Return the present one."""
        boot = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # where there is none, a sleep is not counted
        return cls(time.time(), time.clock_gettime(boot), _boot_id())


@functools.cache
def _boot_id() -> str:
    return Owner.me().started.partition("-")[0]


class Going(Noun):
    """What is known of a container at its go. Written by `noted`, read by whoever finds it without an owner."""

    step: str
    attempt: int
    purpose: str
    """`work` or `check`."""
    key: str
    container: str
    """The engine's id."""
    name: str
    mark: str
    """The secret its shell was told, in ASCII; the file it stands in is its owner's alone."""
    wall: float
    boot: float
    boot_id: str
    timeout: float
    """Seconds of wall time from go."""
    commit: str
    """Commit it was given."""
    tree: str = ""
    """Directory it works in, within the workflow's folder; empty where it has none."""
    exchange: str
    """Folder of its `/wm` and `/out`, within the workflow's folder."""
    bound: tuple[int, bool] | None = None
    """Size of the file system behind `/out`, and whether programs run from it; None where it is a plain folder."""
    laid: int = 0
    """Bytes of the workspace right before go."""
    log: str
    log_start: int = 0
    """Bytes of the log that came before this container."""
    epoch: int = 0
    unfit: str = ""
    """Why nobody may adopt it; empty where somebody may."""
    start_seconds: float | None = None
    parked_seconds: float = 0.0
    queued_seconds: float = 0.0
    attested: dict[str, tuple[str, ...]] = {}
    """What was read back before go, as a receipt has it."""
    receipts: tuple[Receipt, ...] = ()
    """What the step's failed attempts did before this one."""
    before: Outcome | None = None
    """What the work came to, where this is its check."""

    def elapsed(self, now: Moment) -> float:
        """Return the seconds since go; infinite after a restart of the machine."""
        return now.boot - self.boot if now.boot_id == self.boot_id else float("inf")

    def ended_after(self, finished: float, now: Moment) -> float:
        """Return the seconds from go to an end that another clock has noted as Unix time.

        Where the clock was set meanwhile, its word may be off by as much as it was moved; of what is possible then the
        shortest time is taken, because a step that came to its end in time must not count as late for that.
        """
        moved = (now.wall - now.boot) - (self.wall - self.boot)
        found = [finished - self.wall, finished - self.wall - moved]
        possible = [seconds for seconds in found if 0 <= seconds <= self.elapsed(now)]
        return min(possible, default=min(max(found[0], 0.0), self.elapsed(now)))


def unix_time(text: str) -> float:
    """Return the Unix time that the engine spells so; 0 for its word for never."""
    moment = datetime.fromisoformat(text) if text else None
    return moment.timestamp() if moment and moment.year > 1 else 0.0


def unfit(journey: Journey, parked: Parked) -> str:
    """Return why a container could not be adopted, in words that follow "it"; empty if it can be."""
    request, info = parked.container.request, journey.engine.info
    if request.secrets:
        # Unmasked, it would lie in the engine's log.
        return "was given secrets, so the engine keeps nothing of its output"
    if parked.line:
        return "had its way to the network through its owner's process"
    if not info.local:
        return "ran on another machine, which only its owner could fetch its files from"
    if info.flavour != "docker":
        return f"ran on {info.flavour}, whose log does not keep output byte for byte"
    if isinstance(parked.container, PlainContainer):
        return "ran an image without a shell, so nothing proves that its output is complete"
    return ""


def noted(attempt: Attempt, parked: Parked, purpose: str, *, start: int, before: Outcome | None) -> None:
    """Write down a container that is about to be sent off. OSError if the disk takes no more."""
    journey, container, now = attempt.journey, parked.container, Moment.now()
    top = journey.folder.path
    record = Going(
        step=attempt.step.id,
        attempt=attempt.number,
        purpose=purpose,
        key=journey.keys[attempt.step.id],
        container=container.id,
        name=container.request.name,
        mark=container.mark.decode(),
        wall=now.wall,
        boot=now.boot,
        boot_id=now.boot_id,
        timeout=attempt.step.timeout_seconds,
        commit=before.commit if before else attempt.start,
        tree=str(parked.tree.path.relative_to(top)) if parked.tree else "",
        exchange=str(parked.exchange.folder.relative_to(top)),
        bound=(parked.bound.size, parked.bound.exec) if parked.bound else None,
        laid=parked.laid,
        log=str(journey.folder.log(attempt.step.id, attempt.number).relative_to(top)),
        log_start=start,
        epoch=journey.claim.epoch,
        unfit=unfit(journey, parked),
        start_seconds=container.start_seconds,
        parked_seconds=max(time.monotonic() - container.parked_at, 0.0),
        queued_seconds=max(steady.now() - attempt.queued_at, 0.0),
        attested=container.attested.account(),
        receipts=journey.receipts.get(attempt.step.id, ()),
        before=before,
    )
    journey.journal.append("go", **record.model_dump(mode="json", exclude_defaults=True))


def ended(journey: Journey, parked: Parked) -> None:
    """Write down that nobody need look for a container any more: it is gone, and what it left was taken or refused."""
    if parked.container.gone_at and not journey.claim.lost:
        journey.journal.append("ended", container=parked.container.id)


def open_goings(path: Path) -> list[Going]:
    """Read the records of containers that were sent off, and of whose end or outcome nothing is recorded."""
    found: dict[str, Going] = {}
    for entry in read(path).of("go", "ended", "decision", "result"):
        # One without a key is about no attempt.
        if entry.kind != "decision" or entry.fields.get("key"):
            _take(found, entry)
    return list(found.values())


def _take(found: dict[str, Going], entry: Entry) -> None:
    if entry.kind == "ended":
        found.pop(str(entry.fields.get("container")), None)
        return
    try:
        new = Going.model_validate(entry.fields) if entry.kind == "go" else None
    except ValidationError:
        return  # of another version: nobody here knows enough to go on with it
    step, tree = (new.step, new.tree) if new else (entry.fields.get("step"), "")
    for one in list(found.values()):
        # Its step has an outcome or another attempt, its failure was decided on, or its directory is somebody else's.
        if one.step == step or (tree and one.tree == tree):
            del found[one.container]
    if new:
        found[new.container] = new


async def send(attempt: Attempt, parked: Parked, purpose: str, before: Outcome | None = None) -> Receipt:
    """Say go, read to the end, and give the account. A cancelled run stops the container first.

    `before` is what the work came to whose check this is. Of a container that an earlier owner sent off only the
    reading is left to do.
    """
    journey, step, container = attempt.journey, attempt.step, parked.container
    policy = container.request.policy
    await journey.claim.must_hold()
    if parked.going is None:
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
        evidence.handed_out(journey, step, container.id)
    times = _times(attempt, parked)
    elapsed = parked.going.elapsed(Moment.now()) if parked.going else 0.0
    attempt.step = metering.started(journey, step, attempt.number, container.id, elapsed)
    growth = guarding.watch(journey.engine, parked)
    reading = _reading(attempt, parked, purpose, before)
    work = asyncio.get_running_loop().run_in_executor(journey.threads, reading, growth)
    try:
        ending, size = await asyncio.shield(work)
        journey.budget.ends(container.id, ending.seconds)
    except asyncio.CancelledError:
        # A workflow that was lost to somebody on this engine may have been adopted there with all that runs.
        end = container.leave if journey.claim.leaves(journey.engine.info.id) else container.stop
        stopping = asyncio.get_running_loop().run_in_executor(journey.threads, end)
        # An engine that cannot stop it cannot hide that from the reader either; what counts here is the cancellation.
        await asyncio.gather(stopping, work, return_exceptions=True)
        raise
    finally:
        metering.cut_short(journey, step, attempt.number, container.id)
    account = {**guarding.account(parked, ending, growth), **traffic_of(parked.line).account(), **times}
    receipt = _receipt(parked, ending, purpose).model_copy(update={**account, "bytes_out": size, "image": step.image})
    journey.audit.append("container.finished", step=step.id, **receipt.model_dump(mode="json", exclude={"command"}))
    return receipt


def _reading(
    attempt: Attempt, parked: Parked, purpose: str, before: Outcome | None
) -> Callable[[Growth | None], tuple[Ending, int]]:
    """Return what sends the container off and reads it, in a thread: its end, and the bytes of its output."""
    journey, step, container, going = attempt.journey, attempt.step, parked.container, parked.going
    policy, path = container.request.policy, journey.folder.log(step.id, attempt.number)
    mask, handout = journey.secrets.stream(), journey.secrets.handout(step)
    over = going.log_start if going else None

    def go(growth: Growth | None) -> tuple[Ending, int]:
        with Capture(
            path, cap=policy.output_cap, policy=policy.name, lines=attempt.lines, mask=mask, over=over
        ) as capture:
            if going is None:
                noted(attempt, parked, purpose, start=capture.start, before=before)
            ending = container.run(step.timeout_seconds, capture, growth, handout=handout)
            if ending.timed_out:
                capture.note(f"[workflowmaster: stopped after {step.timeout_seconds:g} s, the step's wall time]")
            if ending.disk_capped and growth:
                capture.note(f"[workflowmaster: stopped, because it {journey.secrets.text(growth.reason)}]")
            for note in traffic_of(parked.line).notes():
                capture.note(journey.secrets.text(note))
            return ending, capture.size

    return go


def _times(attempt: Attempt, parked: Parked) -> dict[str, Any]:
    """Return a receipt's fields about what came before go, and who saw it."""
    going, container, now = parked.going, parked.container, steady.now()
    if going:
        return {
            "started_at": going.wall,
            "start_seconds": going.start_seconds,
            "parked_seconds": going.parked_seconds,
            "queued_seconds": going.queued_seconds,
            "adopted": True,
            "unwatched_seconds": parked.unwatched,
        }
    return {
        "started_at": now,
        "start_seconds": container.start_seconds,
        "parked_seconds": max(time.monotonic() - container.parked_at, 0.0),
        "queued_seconds": max(now - attempt.queued_at, 0.0),
    }


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
        memory_limit=request.policy.memory,
        wall_limit=request.policy.wall_seconds_max,
        oom_killed=ending.oom_killed,
        timed_out=ending.timed_out,
        output_capped=ending.capped,
        seconds=ending.seconds,
        begin_seconds=ending.begin_seconds,
        cpu_seconds=ending.usage.cpu_seconds,
        peak_memory=ending.usage.peak_memory,
        peak_pids=ending.usage.peak_pids,
        refused=ending.error,
        **parked.container.attested.account(),
    )
