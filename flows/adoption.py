"""What runs without an owner is taken over by the next one: adopted while it works, harvested once it has ended.

The hard choice is when to believe a container that nobody watched. It is believed where a record says that it was sent
off for this very attempt under the key that the step has now, and where its whole output and its end can still be had;
then the step goes on as if nothing had happened. In every other case it is removed, with the reason told, and the step
starts clean from its input commit: that is always right and only costs the time. So what is wrong with a container is
never the step's failure.

Adopting changes nothing about a container; its labels go on to name its first owner. Whose it is now says the
workflow's claim, and other runs leave alone what a resume could take over (`sparing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from workflowmaster.blocks.attestation import Attested
from workflowmaster.blocks.bounded import Bound
from workflowmaster.blocks.engine import OURS, SandboxUnavailable
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.failure import signal_of
from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.rejoining import Gone, Rejoined
from workflowmaster.flows.anew import BACK_SECONDS
from workflowmaster.flows.going import Going, Moment, open_goings, unix_time
from workflowmaster.flows.parking import Parked
from workflowmaster.flows.sweeping import emptied, sweep
from workflowmaster.flows.worked import Worked, open_work
from workflowmaster.policies.checks import Finding
from workflowmaster.policies.values import parse_size

if TYPE_CHECKING:
    from collections.abc import Container as Names
    from collections.abc import Mapping
    from pathlib import Path

    from workflowmaster.blocks.engine import Engine
    from workflowmaster.flows.execution import Attempt
    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.journey import Journey

KILLS = (signal.SIGTERM, signal.SIGKILL)
"""What an engine, or a person, ends a container with."""

LOG_DRIVER = "local"
"""The engine's log that gives back output byte for byte."""


class Verdict(NamedTuple):
    """What is to be done about a container without an owner."""

    verb: Literal["adopt", "harvest", "abandon"]
    reason: str = ""
    """Why it is abandoned."""


def adoptable(record: Going, key: str, inspected: Mapping[str, Any] | None, now: Moment) -> Verdict:
    """Decide about a container by its record, the step's key, the engine's account (None: it is gone) and the time."""
    if reason := _past_hope(record, key, now) or _wrong(record, inspected):
        return Verdict("abandon", reason)
    return Verdict("adopt" if inspected and inspected["State"]["Running"] else "harvest")


def _past_hope(record: Going, key: str, now: Moment) -> str:
    """Say why nothing the engine could tell would help."""
    if record.unfit:
        return f"it {record.unfit}"
    if record.boot_id != now.boot_id:
        # What it wrote may never have reached the disk.
        return "the machine was started anew since its go"
    return "" if record.key == key else "what decides its outcome has changed since its go"


def _wrong(record: Going, inspected: Mapping[str, Any] | None) -> str:
    """Say what is wrong with a container by the engine's account of it."""
    if inspected is None:
        return "its container is gone"
    labels, state = inspected["Config"]["Labels"] or {}, inspected["State"]
    said = [inspected["Id"], labels.get(f"{OURS}.step"), labels.get(f"{OURS}.attempt")]
    faults = {
        "the container of that id is not the one that was sent off": (
            said != [record.container, record.step, str(record.attempt)]
        ),
        "the engine has not kept its output": inspected["HostConfig"]["LogConfig"]["Type"] != LOG_DRIVER,
        "somebody is removing its container": bool(state.get("Dead")) or state.get("Status") == "removing",
        # An engine that is stopped or dies takes its containers along, and the step is not to blame.
        "it was killed while nobody watched": (
            not state["Running"] and not state.get("OOMKilled") and signal_of(state.get("ExitCode", 0)) in KILLS
        ),
        "it was never started": not (state["Running"] or unix_time(state.get("FinishedAt", ""))),
    }
    return next((reason for reason, found in faults.items() if found), "")


@dataclass
class Adopting:
    """What a run that goes on may take over. Its methods belong to whoever prepares the run, then to its loop."""

    waiting: dict[str, Going] = field(default_factory=dict)
    """Step id → the record of its container."""
    seen: float = 0.0
    """Unix time of the former owner's last sign of life."""
    refused: list[tuple[Going, str]] = field(default_factory=list)
    """What was removed before the run began, and why."""
    done: dict[str, Worked] = field(default_factory=dict)
    """Step id → what its work came to, where only its check or its result is missing."""
    others: dict[str, int] = field(default_factory=dict)
    """Step id → the latest attempt that has a container of an owner who cannot be judged from here."""

    def places(self, folder: Folder) -> list[Path]:
        """Return the directories that they work in and exchange files by."""
        found = [folder.path / one.exchange for one in self.waiting.values()]
        return [*found, *(folder.path / one.tree for one in self.waiting.values() if one.tree)]

    def earlier(self, attempts: dict[str, int]) -> dict[str, int]:
        """Return how many attempts came before the next one: what is adopted keeps its number, no name comes twice."""
        counts = {step: max(count, self.others.get(step, 0)) for step, count in attempts.items()}
        kept = {step: one.attempt - 1 for step, one in self.done.items()}
        return counts | kept | {step: one.attempt - 1 for step, one in self.waiting.items()}

    def tell(self, journey: Journey) -> None:
        """Write down what cannot be gone on with, once the run has begun."""
        for record, reason in self.refused:
            _abandoned(journey, record, reason)
        self.refused.clear()

    def close(self, journey: Journey) -> None:
        """Remove what no step of this run has asked for; where the run could not go on, it waits for the next one."""
        if not journey.begun or journey.claim.lost or journey.crash:
            return
        for step in list(self.waiting):
            record = self.waiting.pop(step)
            with contextlib.suppress(SandboxUnavailable):  # the next resume finds it again
                journey.engine.remove(record.container)
                _abandoned(journey, record, "the run ended without asking for it")


def found(folder: Folder, engine: Engine, steps: Names[str]) -> Adopting:
    """Look what a workflow's dead owners left that can be gone on with, and remove everything else. Its claim is held.

    Raises SandboxUnavailable and, if something cannot be removed, WorkspaceError.
    """
    adopting = Adopting(seen=_last_sign(folder))
    listed = engine.containers(workflow=folder.id)
    now, theirs = Moment.now(), {one["Id"] for one in listed if _orphaned(one)}
    for one in listed:
        step, attempt = (one["Labels"].get(f"{OURS}.{name}", "") for name in ("step", "attempt"))
        if one["Id"] not in theirs and attempt.isdecimal():
            adopting.others[step] = max(adopting.others.get(step, 0), int(attempt))
    adopting.done = {step: one for step, one in open_work(folder.journal).items() if step in steps}
    over = {one.container for one in adopting.done.values()}
    for record in open_goings(folder.journal):
        if record.container in over:
            continue  # all it left was taken in
        inspected = _inspected(engine, record) if record.container in theirs else None
        verdict = adoptable(record, record.key, inspected, now)
        if verdict.verb != "abandon" and record.step in steps and (folder.path / record.exchange).is_dir():
            adopting.waiting[record.step] = record
        else:
            adopting.refused.append((record, verdict.reason or "its step, or what it worked in, is no more"))
    keep = {one.container for one in adopting.waiting.values()}
    sweep(engine, spare=lambda one: one["Id"] in keep, workflow=folder.id)
    emptied(folder, spare=adopting.places(folder))
    return adopting


def _orphaned(container: Mapping[str, Any]) -> bool:
    """Whether the owner of a container, as the engine lists it, is proven dead."""
    owner = Owner.from_labels(container.get("Labels") or {}, OURS)
    return owner is not None and owner.proven_dead()


def _last_sign(folder: Folder) -> float:
    """Return when the former owner last wrote something; the claim's file is our own by now."""
    files = [folder.journal, folder.audit, folder.state_file, *(folder.path / "logs").glob("*.log")]
    return max((path.stat().st_mtime for path in files if path.exists()), default=0.0)


def _inspected(engine: Engine, record: Going) -> dict[str, Any] | None:
    try:
        return engine.inspect(record.container)
    except SandboxUnavailable as error:
        if error.reason != "gone":
            raise
        return None


async def take(attempt: Attempt) -> Parked | None:
    """Take over what an earlier owner sent off for this step; None where there is nothing, or it was given up."""
    journey = attempt.journey
    record = journey.adopting.waiting.pop(attempt.step.id, None)
    if record is None:
        return None
    try:
        parked = await asyncio.to_thread(_rejoined, attempt, record)
    except SandboxUnavailable as error:
        await give_up(attempt, record, str(error))
        return None
    if isinstance(parked, Verdict):
        await give_up(attempt, record, parked.reason)
        return None
    journey.receipts[record.step] = record.receipts
    if attempt.step.git and parked.tree and record.purpose == "work":
        journey.store.expect_throwaway(parked.tree.path)
    return parked


def _rejoined(attempt: Attempt, record: Going) -> Parked | Verdict:
    """Take hold of a container again, or say why not. Raises SandboxUnavailable."""
    journey, now = attempt.journey, Moment.now()
    inspected = _inspected(journey.engine, record)
    verdict = adoptable(record, journey.keys[record.step], inspected, now)
    if verdict.verb == "abandon" or inspected is None:
        return verdict
    state, words = inspected["State"], inspected["Config"]["Cmd"]
    room = inspected["HostConfig"]["LogConfig"]["Config"].get("max-size")
    finished = unix_time(state.get("FinishedAt", ""))
    gone = Gone(
        id=record.container,
        mark=record.mark.encode(),
        elapsed=record.elapsed(now),
        attested=_attested(record.attested),
        over=record.ended_after(finished, now) if verdict.verb == "harvest" else None,
        room=int(str(parse_size(room))) if room else None,
    )
    exchange, tree = Exchange(journey.folder.path / record.exchange), attempt.parking.trees.held.get(record.step)
    request = attempt.parking.request(attempt.step, record.attempt, record.purpose, exchange, tree)
    # What was really started, whatever is configured now: everything behind the shell and its script.
    request = replace(request, argv=tuple(words[4:]), name=record.name)
    last = gone.elapsed if gone.over is None else gone.over
    parked = Parked(
        Rejoined(journey.engine, request, gone).park(),
        exchange,
        tree,
        bound=Bound(*record.bound) if record.bound else None,
        laid=record.laid,
        going=record,
        unwatched=min(max(min(now.wall, record.wall + last) - journey.adopting.seen, 0.0), last),
    )
    told = {"left": round(max(record.timeout - last, 0.0), 3), "unwatched": round(parked.unwatched, 3)}
    journey.audit.append(f"container.{verdict.verb}ed", **_about(record), **told)
    return parked


def _attested(account: Mapping[str, tuple[str, ...]]) -> Attested:
    """Read back what a receipt says of controls."""
    absent = (text.partition(": ") for text in account.get("absent", ()))
    return Attested(
        enforced=account.get("enforced", ()),
        told=account.get("told", ()),
        absent=tuple(Finding(control, "is absent", detail) for control, _, detail in absent),
    )


async def give_up(attempt: Attempt, record: Going, reason: str) -> None:
    """Remove a container that cannot be gone on with, and count its attempt: the next one starts clean.

    An engine that is away gets the time to come back; what it keeps then is never met again, nor is its directory.
    """
    journey, step = attempt.journey, attempt.step
    until = time.monotonic() + BACK_SECONDS
    while not await asyncio.to_thread(journey.engine.answers) and time.monotonic() < until:  # noqa: ASYNC110 - as `anew`
        await asyncio.sleep(0.25)
    try:
        await asyncio.to_thread(journey.engine.remove, record.container)
    except SandboxUnavailable:
        journey.troubled = True
        attempt.parking.trees.held.pop(step.id, None)
    _abandoned(journey, record, reason)
    attempt.number = record.attempt + 1
    journey.attempts[step.id] = journey.attempts.get(step.id, 0) + 1


def _abandoned(journey: Journey, record: Going, reason: str) -> None:
    journey.journal.append("ended", container=record.container, reason=reason)
    journey.audit.append("container.abandoned", **_about(record), reason=journey.secrets.text(reason))


def _about(record: Going) -> dict[str, Any]:
    return {"step": record.step, "attempt": record.attempt, "purpose": record.purpose, "container": record.container}
