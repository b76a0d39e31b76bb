"""One run's surroundings: everything that is opened before the first step and closed after the last.

`prepare` does all that can go wrong through bad input, in the order of cost, before Prefect is imported and before
anything is started: a run that cannot work is refused with nothing half-done. What it returns is a context object that
the flow, its tasks and the parking share; it holds handles, not decisions.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.blocks.engine import Engine
from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.workspace import Store, WorkspaceError, remove_tree
from workflowmaster.flows import adoption, evidence, failurerules, folders, steady
from workflowmaster.flows.admitting import admit, pin
from workflowmaster.flows.asking import Options, plan_of
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.audit import insist as insist_on_log
from workflowmaster.flows.claim import Claim, NeedsPerson, take
from workflowmaster.flows.clearing import Clearing
from workflowmaster.flows.deciding import Deciding
from workflowmaster.flows.enforcement import insist
from workflowmaster.flows.folders import Folder
from workflowmaster.flows.journal import Journal
from workflowmaster.flows.keeping import Keeping
from workflowmaster.flows.limiting import effective
from workflowmaster.flows.metering import Meter
from workflowmaster.flows.networking import Networking, need_proxy
from workflowmaster.flows.past import Past, past
from workflowmaster.flows.plan import Decision, Limits, Noun, Plan, StepResult
from workflowmaster.flows.scheduling import ancestors
from workflowmaster.flows.sealing import Sealing
from workflowmaster.flows.secretkeeping import Secrets, resolve
from workflowmaster.flows.sweeping import emptied, remove_own
from workflowmaster.flows.unmet import refuse_unmet
from workflowmaster.flows.vigil import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from workflowmaster.blocks.receipt import Receipt
    from workflowmaster.flows.parking import Parking
    from workflowmaster.flows.settings import Settings
    from workflowmaster.flows.state import WorkflowState
    from workflowmaster.flows.stopping import Asked
    from workflowmaster.policies import SecurityPolicy

STEP_USER = 1000
"""Uid and gid that steps run as when the orchestrator is root: the step image's own user."""

current: ContextVar[Journey] = ContextVar("journey")
"""The run that the code at hand belongs to. Tasks take only a step's id: a plan passed as a parameter would be stored
with every task run, and Prefect draws an edge for each value it has seen as a result before."""


class Record(Noun):
    """A run's own account, beside its state: what it was asked for and what was pinned."""

    schema_version: int = 1
    workflow_id: str
    options: Options
    source: str = ""
    """Where the prompt lies, as an absolute path; empty where a lock was run."""
    workflow_hash: str
    images: dict[str, str]
    """Image reference → id."""
    flow_run_id: str = ""
    api_url: str = ""
    """Server the flow run lives on; empty for the embedded one."""
    approvals: dict[str, str] = {}
    """Step id → who answered and what, once a person has."""


@dataclass(frozen=True)
class Fixed:
    """A plan that was compiled and reviewed before, with the images it was pinned to."""

    plan: Plan
    images: dict[str, str]
    prompt: Path


@dataclass
class Journey:
    """A run in progress. Only the event loop's thread changes `results`, `running`, `reused` and `decisions`."""

    folder: Folder
    record: Record
    plan: Plan
    settings: Settings
    engine: Engine
    store: Store
    audit: AuditLog
    journal: Journal
    """Small records, of which this process is the only writer while it holds the claim."""
    policies: dict[str, SecurityPolicy]
    """Step id → the limits it runs under: its policy, lowered by its own wishes and the operator's settings."""
    user: tuple[int, int]
    claim: Claim
    secrets: Secrets = field(default_factory=Secrets)
    """Values of the secrets that steps name; its text shows none."""
    held: str = ""
    """What held the images' tags to their ids when it began: `lock`, `record`, or nothing."""
    started_at: float = field(default_factory=steady.now)
    results: dict[str, StepResult] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    """Step id → commit it starts from."""
    grown: dict[str, Limits] = field(default_factory=dict)
    """Step id → what its next attempt gets, where a failure or a person has made it more than the step had at first."""
    caps: dict[str, Limits] = field(default_factory=dict)
    """Step id → the most it may grow to, where the server's document of its policy says so."""
    kept: dict[str, str] = field(default_factory=dict)
    """Step id → commit of what its failed attempt left, where `on-retry: keep` starts the next one from it."""
    passed: set[str] = field(default_factory=set)
    """Steps that what needs them may build on: completed, or given up with leave to go on."""
    receipts: dict[str, tuple[Receipt, ...]] = field(default_factory=dict)
    """Step id → what the containers of its failed attempts did."""
    troubled: bool = False
    """Whether the engine failed in a way that may have left something behind, which is looked for at the end."""
    infrastructure: list[str] = field(default_factory=list)
    """Troubles that were not the steps' own."""
    refusals: list[str] = field(default_factory=list)
    """What policies were not kept by the engine, step by step: nothing of those steps ran."""
    limited_tags: frozenset[str] = frozenset()
    """Tags that a concurrency limit of the Prefect server names."""
    past: Past = field(default_factory=Past)
    """What an earlier part of the run has recorded."""
    adopting: adoption.Adopting = field(default_factory=adoption.Adopting)
    """What a dead owner sent off and nobody has asked for yet."""
    attempts: dict[str, int] = field(default_factory=dict)
    """Step id → attempts that an earlier part of the run made, however they ended."""
    exported: str | None = None
    """Tip of the run's branch as an earlier part of the run left it: only from there may the branch be moved."""
    parking: Parking | None = None
    """Containers that were started before the flow was; None where the flow makes its own."""
    begun: bool = False
    """Whether its flow run has taken it over, and will close it."""
    at_begin: Callable[[], object] = lambda: None
    """Called by the flow as its first act: Prefect has set its own signal handlers by then."""
    interrupted: bool = False
    """Whether a signal stopped it."""
    asked: Asked | None = None
    """Who asked it to stop, from outside of this process."""
    crash: Exception | None = None
    """What ended the flow itself, kept because Prefect only hands out its text."""
    owner: Owner = field(default_factory=Owner.me)

    def __post_init__(self) -> None:
        self.git = ThreadPoolExecutor(1, thread_name_prefix="git")
        """All work on the store and the trees: filling directories from several threads is ten times slower."""
        self.threads = ThreadPoolExecutor(256, thread_name_prefix="container")
        self.clearing = Clearing(self.threads)
        self.starts = threading.BoundedSemaphore(max(1, os.cpu_count() or 1))
        """Starts at one time. More than cores only makes all of them slower (measured: 8.7/s at 2, 6.2/s at 8)."""
        self.closing = threading.Event()
        """Set when the run is over, for what goes on in the background."""
        self.network = Networking(self)
        """The way to the hosts that steps may reach."""
        self.keeping = Keeping(self)
        self.health = Watch(self)
        self.deciding = Deciding(self)
        self.budget = Meter(self.plan, self.settings, self.past.ledger, lambda: steady.now() - self.started_at)
        self.steps = {step.id: step for step in self.plan.tasks}
        self.ancestors = ancestors(self.plan.tasks)

    @property
    def id(self) -> str:
        """The workflow's id."""
        return self.folder.id

    @property
    def parallel(self) -> int:
        """Steps that may run at one time."""
        return self.plan.max_parallel

    def state(self, **changes: object) -> WorkflowState:
        """Draw the state as it stands."""
        known = {"seconds": steady.now() - self.started_at, "budget": self.budget.account()}
        return self.keeping.state().model_copy(update={**known, **changes})

    def save(self, state: WorkflowState, *, durable: bool = False) -> None:
        """Keep how this part of the run has ended; of a workflow that was lost it is another's to write."""
        if self.claim.lost:
            return
        self.keeping.end(state, durable=durable)

    def abandon(self) -> None:
        """Close a run that could not begin. Nothing of it stays: no container; of a new one no pin and no folder."""
        new = not self.folder.begun
        if new:
            self.git.submit(self.store.unpin).result()
        self.close()
        if new:
            self.audit.discard()
            remove_tree(self.folder.path)

    def close(self) -> None:
        """Close everything; the folder stays, without the directories that steps worked in."""
        self.closing.set()
        if self.parking:
            self.parking.close()
        self.adopting.close(self)
        self.clearing.close()
        self.threads.shutdown(wait=True)
        self.keeping.close()
        if not self.claim.leaves(self.engine.info.id):
            self.network.close()
        if self.troubled:
            remove_own(self.engine, self.id, self.owner)
        if not self.claim.lost:
            # What cannot be removed now is removed by the next resume, or told by it.
            with contextlib.suppress(WorkspaceError, OSError):
                emptied(self.folder, spare=self.adopting.places(self.folder))
        self.git.submit(self.store.close).result()
        self.git.shutdown()
        self.audit.close()
        self.journal.close()
        self.engine.close()
        self.claim.close()


def prepare(  # noqa: PLR0913 - where a plan may come from, and who holds the workflow
    options: Options,
    settings: Settings,
    *,
    fixed: Fixed | None = None,
    resume: Folder | None = None,
    edited: Plan | None = None,
    claim: Claim | None = None,
) -> Journey:
    """Open everything a run needs, or refuse with the first reason why it cannot work.

    `fixed` is a plan that was locked before; `resume` is the folder of a run to go on with, by its own plan, or by the
    one that its `edited` prompt gives now. A `claim` that is held already is given back if the run cannot begin.
    Raises PromptError, PolicyError, WorkspaceError, NeedsPerson, SandboxUnavailable.
    """
    plan = fixed.plan if fixed else edited or (resume.plan() if resume else plan_of(options, settings))
    engine, held = Engine(), "lock" if fixed else "record" if resume else ""
    known = fixed.images if fixed else _record(resume).images if resume else {}
    limits, images, secrets = admitted(plan, options, settings, engine, (held, known))
    if not (fixed or resume):
        # As the compiler has read them: typed, and with the defaults of those that were not given.
        options = options.model_copy(update={"inputs": plan.input_values})
    folder = resume or Folder(folders.workflows() / folders.new_id())
    with _undone(folder, claim, new=resume is None) as mine:
        sealing, user = Sealing.of(folder.audit, settings), _step_user()
        adopting = adoption.Adopting()
        if resume:
            insist_on_log(folder.audit, sealing)
            # What a killed owner left there is gone on with, or goes.
            adopting = adoption.found(resume, engine, plan.ids)
        else:
            _make(folder, plan, fixed.prompt if fixed else Path(options.prompt))
        record = Record(workflow_id=folder.id, options=options, workflow_hash=plan.workflow_hash, images=images)
        recorded = past(folder.journal)
        record = resumed(resume, record, recorded) if resume else sourced(record, fixed)
        folders.keep(folder.record, record)
        journey = Journey(
            folder=folder,
            record=record,
            plan=plan,
            settings=settings,
            engine=engine,
            audit=AuditLog(folder.audit, sealing),
            journal=Journal(folder.journal),
            policies=limits,
            secrets=secrets,
            held=held,
            user=user,
            claim=mine,
            past=recorded,
            decisions=list(recorded.decisions),
            adopting=adopting,
            attempts=adopting.earlier(recorded.tried(resume.attempts(plan.ids))) if resume else {},
            exported=(resume.state().commit or None) if resume else None,
            # The last thing that can fail, because it leaves a pin in the user's repository.
            store=_store(folder, options, user),
        )
        evidence.asked(journey)
        return journey


def admitted(
    plan: Plan, options: Options, settings: Settings, engine: Engine, held: tuple[str, Mapping[str, str]]
) -> tuple[dict[str, SecurityPolicy], dict[str, str], Secrets]:
    """Return the steps' limits, their images' ids and their secrets; `held` is what holds images, and to which ids.

    Raises what `prepare` does for a plan that cannot be run here.
    """
    _need_agent(plan, options.agent or settings.agent)
    limits = {step.id: effective(step, settings) for step in plan.tasks}
    refuse_unmet(plan, limits)
    if settings.own_failure_rules:
        # A rule that is wrong is told now, and not when something has failed.
        failurerules.load(settings.own_failure_rules)
    images = pin(plan, engine, held[1])
    admit(plan, limits, images, settings, by=held[0])
    secrets = resolve(plan)
    insist(plan, limits, engine)
    need_proxy(plan, limits, engine)
    return limits, images, secrets


def _step_user() -> tuple[int, int]:
    return (STEP_USER, STEP_USER) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


def _store(folder: Folder, options: Options, user: tuple[int, int]) -> Store:
    owner, workspace = user if os.geteuid() == 0 else None, Path(options.workspace).resolve()
    return Store.open(folder.store, workspace, include_dirty=options.include_dirty, owner=owner)


def _make(folder: Folder, plan: Plan, prompt: Path) -> None:
    """Make a run's folder, and keep what it was made from: whatever happens to the prompt, a resume goes by these."""
    # Its claim must be held: a folder that nobody holds and that says nothing is swept away.
    folders.create(folder.id)
    write_atomically(folder.plan_file, plan.model_dump_json())
    if prompt.exists():
        write_atomically(folder.prompt, prompt.read_bytes())


def sourced(record: Record, fixed: Fixed | None) -> Record:
    """Say where the prompt lies, so that a resume sees whether it was edited; of a lock only the lock counts."""
    return record if fixed else record.model_copy(update={"source": str(Path(record.options.prompt).resolve())})


def resumed(folder: Folder, record: Record, known: Past) -> Record:
    """Carry over what an earlier part of the same run knows: its flow run, its pinned images, its approvals."""
    before = _record(folder)
    answers = {**before.approvals, **known.approvals}
    carried: dict[str, object] = {"flow_run_id": before.flow_run_id, "api_url": before.api_url, "source": before.source}
    carried |= {"approvals": {step: answer for step, answer in answers.items() if answer}}
    return record.model_copy(update={**carried, "images": {**record.images, **before.images}})


def _record(folder: Folder) -> Record:
    return folders.kept(folder.record, Record)


def keep(journey: Journey, record: Record) -> None:
    """Make a changed record the run's own."""
    journey.record = record
    folders.keep(journey.folder.record, record)


@contextlib.contextmanager
def _undone(folder: Folder, claim: Claim | None, *, new: bool) -> Iterator[Claim]:
    """Hold the workflow's claim; give it back, and the folder away if it is new, should the preparation fail."""
    try:
        with contextlib.ExitStack() as held:
            yield held.enter_context(claim or take(folder))
            held.pop_all()
    except BaseException:
        if new:
            remove_tree(folder.path)
        raise


def _need_agent(plan: Plan, agent: str) -> None:
    waiting = [step for step in plan.tasks if step.kind == "agent"]
    if waiting and not agent:
        lines = [f"  {step.id}  {step.name}  ({plan.prompt.path}:{step.source.line})" for step in waiting[:12]]
        more = [f"  … and {len(waiting) - 12} more"] if len(waiting) > 12 else []
        raise NeedsPerson(
            "\n".join(
                [
                    f"{plan.prompt.path}: {len(waiting)} steps are work for an agent, and none is configured:",
                    *lines,
                    *more,
                    "Name the command that does them inside the sandbox, with the prompt on its stdin:",
                    f"  workflowmaster run {shlex.quote(plan.prompt.path)} --agent 'COMMAND …'",
                ]
            )
        )
