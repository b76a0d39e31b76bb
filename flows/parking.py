"""Containers for the steps that come next, started while the present ones still work.

The plan knows what follows, so the next steps' own containers are created and started ahead and wait for their go. A
container is parked for one attempt of one step, with its limits, and is never given to another; one that is not needed
after all is removed. Directories follow the same thought: a step that continues a chain gets its predecessor's, so that
nothing has to be copied, and all others are filled with the nearest known tree while they wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workflowmaster.blocks import bounded, deadline
from workflowmaster.blocks.egress import ENVIRONMENT
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.plain import container_for
from workflowmaster.blocks.request import OUT, SCRATCH, WORKSPACE, ContainerRequest, Mount
from workflowmaster.flows import evidence
from workflowmaster.flows.folders import safe
from workflowmaster.flows.invocation import argv
from workflowmaster.flows.limiting import larger
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from workflowmaster.blocks.bounded import Bound
    from workflowmaster.blocks.container import Container
    from workflowmaster.flows.going import Going
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.networking import Line
    from workflowmaster.flows.plan import Step
    from workflowmaster.policies import SecurityPolicy

AHEAD = 3
"""Containers parked beyond those that may run at a time. Three are enough for steps that work for half a second."""

MOST = 16
"""Containers parked at all; each idle one holds about 16 MB."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Tree:
    """A directory that one running step at a time works in."""

    path: Path
    commit: str = ""
    """Commit it is known to hold; empty once code of a step may have changed it."""
    line: list[str] = field(default_factory=list)
    """Steps it is promised to, in the order in which they will work: each needs the one before it."""


@dataclass
class Parked:
    """One attempt's container, its folders and its tree."""

    container: Container
    exchange: Exchange
    tree: Tree | None
    bound: Bound | None = None
    """The size that the kernel holds `/out` to; None where nobody does."""
    laid: int = 0
    """Bytes that the workspace takes right before go."""
    left_out: tuple[str, ...] = ()
    """What a remote engine's container left and could not travel, one line each."""
    line: Line | None = None
    """Its way to the network; None where it has none, or the engine's bridge."""
    going: Going | None = None
    """What was recorded at its go, where that was another owner's; None for one of our own."""
    unwatched: float = 0.0
    """Seconds it went without an owner, at most."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that its programs need to find what is beside it."""
        return ENVIRONMENT if self.line else {}

    def remove(self) -> None:
        """Remove the container and what stands beside it, whatever state they are in. Raises SandboxUnavailable."""
        try:
            if self.line and not self.container.left:
                self.line.remove()
        finally:
            self.container.remove()

    def fetch(self, target: str, size: int) -> None:
        """Have a folder of the ended container on this disk, where the engine has another. See `Container.fetch`."""
        self.left_out += self.container.fetch(target, size)


@dataclass
class Trees:
    """Hands out directories, reusing those that are free."""

    folder: Path
    free: list[Tree] = field(default_factory=list)
    held: dict[str, Tree] = field(default_factory=dict)
    made: int = 0

    @classmethod
    def after(cls, journey: Journey) -> Trees:
        """Return those of a run; what its steps work in that it may adopt is taken, and its number not given again."""
        made = cls(journey.folder.trees)
        for name, record in journey.adopting.waiting.items():
            if record.tree:
                made.held[name] = Tree(journey.folder.path / record.tree, line=[name])
                made.made = max(made.made, int(made.held[name].path.name))
        return made

    def reserve(self, step: Step) -> Tree:
        """Give a step its directory: its own already, that of the step it continues, a free one or a new one."""
        if step.id in self.held:
            return self.held[step.id]
        tree = self._inherited(step) or (self.free.pop() if self.free else self._new())
        tree.line.append(step.id)
        self.held[step.id] = tree
        return tree

    def _inherited(self, step: Step) -> Tree | None:
        tree = self.held.get(step.needs[0]) if step.needs else None
        return tree if tree and tree.line[-1] == step.needs[0] else None

    def _new(self) -> Tree:
        self.made += 1
        path = self.folder / str(self.made)
        path.mkdir(parents=True)
        return Tree(path)

    def release(self, step_id: str) -> None:
        """Take a step's directory back; it stays with those that are next in its line, if there are any."""
        tree = self.held.pop(step_id, None)
        if tree is None:
            return
        tree.line.remove(step_id)
        if not tree.line:
            self.free.append(tree)


class Parking:
    """The containers that wait. Its methods belong to one thread; the starting itself happens in others.

    It needs no event loop, so that the first containers can be started while Prefect is still being imported.
    """

    def __init__(self, journey: Journey) -> None:
        self.journey = journey
        self.trees = Trees.after(journey)
        self.enabled = True
        self._waiting: dict[str, Future[Parked]] = {}
        self._under: dict[str, SecurityPolicy] = {}
        self._made = 0
        self.limit = min(journey.parallel + AHEAD, MOST)

    def ahead(self, steps: Iterable[Step]) -> None:
        """Park for these steps, the most urgent first, as far as there is room."""
        for step in steps:
            if not self.enabled or len(self._waiting) >= self.limit:
                return
            taken = (self._waiting, self.journey.running, self.journey.adopting.waiting)
            if step.in_container and not any(step.id in one for one in taken):
                self._under[step.id] = self.policy(step)
                self._waiting[step.id] = self.park(step, self._first(step), "work")

    def policy(self, step: Step) -> SecurityPolicy:
        """Return what a step's next attempt runs under: the step's limits, and what a decision has added to them."""
        return larger(self.journey.policies[step.id], self.journey.grown.get(step.id))

    def _first(self, step: Step) -> int:
        """Return the number of the first attempt that this part of the run makes."""
        return self.journey.attempts.get(step.id, 0) + 1

    async def take(self, step: Step, attempt: int) -> Parked:
        """Hand out the step's container: the one that waits, or a fresh one. SandboxUnavailable, PolicyError."""
        waiting = self._waiting.pop(step.id, None) if attempt == self._first(step) else None
        if waiting is not None:
            try:
                parked = await self.arrived(waiting)
            except SandboxUnavailable as error:
                log.warning("parking a container for %s failed, starting it anew: %s", step.id, error)
            except PolicyError:
                # Refused by the limits that hold, it is refused for good. The server may have others since.
                if self._under.get(step.id) == self.policy(step):
                    raise
            else:
                request = parked.container.request
                fits = request.policy == self.policy(step)
                if fits and deadline.in_time(request.labels, step.timeout_seconds):
                    return parked
                # The server's document of the policy came after this one was parked, and its limits are not those; or
                # it has waited for so long that its label would no longer be true.
                await asyncio.to_thread(parked.remove)
                await asyncio.to_thread(bounded.release, parked.exchange.folder)
        return await self.fresh(step, attempt, "work")

    async def fresh(self, step: Step, attempt: int, purpose: str) -> Parked:
        """Start a container that is wanted at once."""
        return await self.arrived(self.park(step, attempt, purpose))

    async def arrived(self, starting: Future[Parked]) -> Parked:
        """Wait for a container that is being started. Raises SandboxUnavailable; PolicyError if it is too weak."""
        try:
            return await asyncio.shield(asyncio.wrap_future(starting))
        except asyncio.CancelledError:
            # The thread cannot be interrupted, and what it makes must not be left behind.
            self.discard(starting)
            raise

    def park(self, step: Step, attempt: int, purpose: str) -> Future[Parked]:
        """Begin to create, start and park a container for one attempt, in a thread."""
        journey = self.journey
        policy = self.policy(step)
        tree = self.trees.reserve(step) if policy.workspace != "none" else None
        name = self._name(step, attempt, purpose)
        user = container_user(journey, policy.user)
        # Of one that is started anew the first folder may still be on its way out.
        self._made += 1
        exchange = Exchange(journey.folder.exchange / f"{name}.{self._made}")
        request = self.request(step, attempt, purpose, exchange, tree)

        def start() -> Parked:
            bound = bounded.bound_of(policy, local=journey.engine.info.local)
            exchange.make(user, bound)
            try:
                with journey.starts:
                    container = container_for(journey.engine, request).park()
                _written_down(journey, step, container, purpose)
                if bound:
                    _confirmed(journey, container, exchange)
                line = connected(journey, step, container)
            except BaseException:
                bounded.release(exchange.folder)
                raise
            return Parked(container, exchange, tree, bound=bound, line=line)

        return journey.threads.submit(start)

    def _name(self, step: Step, attempt: int, purpose: str) -> str:
        words = [self.journey.id, safe(step.id), str(attempt), *([purpose] if purpose != "work" else [])]
        return "-".join(words)

    def request(
        self, step: Step, attempt: int, purpose: str, exchange: Exchange, tree: Tree | None
    ) -> ContainerRequest:
        """Return what is asked of the engine for one attempt."""
        journey = self.journey
        policy = self.policy(step)
        user = container_user(journey, policy.user)
        mounts = list(exchange.mounts)
        if tree:
            mounts.append(Mount(tree.path, WORKSPACE, writable=policy.workspace in ("rw", "copy")))
        return ContainerRequest(
            name=self._name(step, attempt, purpose),
            image_id=journey.record.images[step.image],
            policy=policy,
            argv=argv(step, purpose, journey.record.options.agent or journey.settings.agent),
            mounts=tuple(mounts),
            labels={
                "workflow": journey.id,
                "step": step.id,
                "attempt": str(attempt),
                **journey.owner.labels(),
                **deadline.labels(step.timeout_seconds),
                # For whoever sweeps, with whatever state directory: what runs there may be adopted.
                "folder": str(journey.folder.path),
            },
            user=f"{user[0]}:{user[1]}",
            workdir=WORKSPACE if tree else SCRATCH,
            secrets=step.secrets,
        )

    def discard(self, starting: Future[Parked]) -> None:
        """Remove a container that is not wanted after all, as soon as it has started, and not in the loop's thread."""
        if starting.done():
            self.journey.threads.submit(self._remove, starting)
        else:
            starting.add_done_callback(self._remove)

    def drop(self, step_ids: Sequence[str]) -> None:
        """Remove the containers of steps that will not run."""
        for step_id in step_ids:
            if waiting := self._waiting.pop(step_id, None):
                self.discard(waiting)
            self.trees.release(step_id)

    def close(self) -> None:
        """Remove everything that still waits; whoever closes the threads waits for that."""
        self.drop(list(self._waiting))

    def _remove(self, done: Future[Parked]) -> None:
        """Remove a container nobody wants."""
        if done.cancelled() or done.exception() is not None:
            return
        try:
            done.result().remove()
            evidence.removed(self.journey, done.result().container)
            bounded.release(done.result().exchange.folder)
        except (SandboxUnavailable, OSError) as error:
            self.journey.troubled = True
            log.warning("%s is left behind: %s", done.result().container.request.name, error)


def _written_down(journey: Journey, step: Step, container: Container, purpose: str) -> None:
    """Have a parked container in the audit log; remove it otherwise. OSError."""
    try:
        evidence.parked(journey, step, container, purpose)
    except BaseException:
        container.remove()
        raise


def _confirmed(journey: Journey, container: Container, exchange: Exchange) -> None:
    """Make sure that a parked container's `/out` is the bounded one; remove it otherwise. SandboxUnavailable."""
    try:
        # One that has ended already can write nothing, and its reader tells why it ended; a plain one begins at go.
        if container.pidfd >= 0 or (container.id and journey.engine.state(container.id).get("Running")):
            bounded.confirm(container.pidfd, exchange.outward, OUT, container.pids())
    except BaseException:
        container.remove()
        raise


def connected(journey: Journey, step: Step, container: Container) -> Line | None:
    """Give a parked container its way to the network. Raises SandboxUnavailable, and the container is gone then."""
    try:
        return journey.network.connect(step, container.request.policy, container.request.name, container.id)
    except BaseException:
        with contextlib.suppress(SandboxUnavailable):  # the first error is the one that explains
            container.remove()
        raise


def container_user(journey: Journey, kind: str) -> tuple[int, int]:
    """Return the uid and gid a container runs as; never 0.

    `unique` is a uid of its own per run, above those that distributions and directory services give to people.
    """
    if kind == "workspace":
        return journey.user
    number = 200_000 + int(hashlib.sha256(journey.id.encode()).hexdigest()[:8], 16) % 60_000
    return number, number
