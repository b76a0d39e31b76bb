"""Where everything lies: the state directory and one folder per workflow, private to their owner."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.blocks.output import tail
from workflowmaster.flows import journal, schemas, snapshots, statekeeping
from workflowmaster.flows.plan import Noun, Plan
from workflowmaster.flows.settings import home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from workflowmaster.flows.state import WorkflowState

N = TypeVar("N", bound=Noun)
T = TypeVar("T")

ID = re.compile(r"[a-z0-9][a-z0-9-]{2,79}")
LOG = re.compile(r"(.+)\.(\d+)\.log")
LONGEST_NAME = 100
"""Letters of a step's id that a file's name shows."""


class UnknownWorkflow(LookupError):
    """No workflow has that id, and the message lists what there is; or what is kept of it cannot be read."""


def new_id(now: datetime | None = None) -> str:
    """Make a workflow id: `task-YYYYMMDD-HHMMSS-` and eight hex digits, as the guide has it. Time is UTC."""
    moment = now or datetime.now(UTC)
    return f"task-{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Folder:
    """One workflow's folder."""

    path: Path

    @property
    def id(self) -> str:
        """The workflow's id."""
        return self.path.name

    @property
    def state_file(self) -> Path:
        """`WorkflowState` as JSON."""
        return self.path / "state.json"

    @property
    def record(self) -> Path:
        """What `run` was asked for and pinned: prompt, options, image ids."""
        return self.path / "run.json"

    @property
    def prompt(self) -> Path:
        """The prompt's bytes as they were when the workflow was made."""
        return self.path / "prompt.md"

    @property
    def plan_file(self) -> Path:
        """The plan as JSON."""
        return self.path / "plan.json"

    def plan(self) -> Plan:
        """Read the plan the workflow goes by. UnknownWorkflow if it is damaged, or not the one that was recorded."""
        return _known(self, lambda: statekeeping.plan(self))

    def earlier_plan(self, workflow_hash: str) -> Path:
        """Return where a plan is kept that the run went by until its prompt was edited."""
        return self.path / "plans" / f"{workflow_hash}.json"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.path / "audit.jsonl"

    @property
    def journal(self) -> Path:
        """Small records: attempts, decisions, approvals, keys, results."""
        return self.path / "records.jsonl"

    @property
    def store(self) -> Path:
        """Folder the private git store lies in; its name, the workflow's id, tells apart the pins of several runs."""
        return self.path

    @property
    def git_dir(self) -> Path:
        """Git folder of the private store."""
        return self.store / "store.git"

    @property
    def trees(self) -> Path:
        """Work trees of running steps."""
        return self.path / "trees"

    @property
    def exchange(self) -> Path:
        """What goes into containers and comes out of them, one folder each."""
        return self.path / "exchange"

    def artifacts(self, step: str) -> Path:
        """Return where the files lie that a step handed out."""
        return self.path / "artifacts" / safe(step)

    def log(self, step: str, attempt: int = 1) -> Path:
        """Return the raw log of one attempt of a step."""
        return self.path / "logs" / f"{safe(step)}.{attempt}.log"

    def logs(self, step: str) -> list[Path]:
        """Return the logs of all attempts of a step, in order."""
        found = (self.path / "logs").glob(f"{safe(step)}.*.log")
        own = [path for path in found if path.name.removeprefix(f"{safe(step)}.").removesuffix(".log").isdigit()]
        return sorted(own, key=lambda path: int(path.name.split(".")[-2]))

    def attempts(self, steps: Iterable[str]) -> dict[str, int]:
        """Return how many attempts of each step have a log."""
        counts = Counter(name for name, _ in self._attempts())
        return {step: counts[safe(step)] for step in steps}

    def _attempts(self) -> list[tuple[str, int]]:
        """Read the folder of logs once: asked step by step, a thousand would read a thousand names a thousand times."""
        place = self.path / "logs"
        found = [LOG.fullmatch(path.name) for path in place.iterdir()] if place.is_dir() else []
        return sorted((name[1], int(name[2])) for name in found if name)

    def tails(self, steps: Iterable[str], lines: int) -> dict[str, str]:
        """Return the last lines of each step's last attempt, for those that have a log."""
        last = dict(self._attempts())
        return {step: tail(self.log(step, last[safe(step)]), lines) for step in steps if safe(step) in last}

    @property
    def begun(self) -> bool:
        """Whether anything of the workflow was ever kept: it is more than a folder that is being prepared."""
        journal_size = self.journal.stat().st_size if self.journal.exists() else 0
        return self.state_file.exists() or journal_size > 0 or (self.path / "checkpoints").exists()

    @property
    def known(self) -> bool:
        """Whether there is a workflow: one that began, or one that was killed before, and can still be begun."""
        return self.begun or (self.record.exists() and self.plan_file.exists())

    def state(self) -> WorkflowState:
        """Return the workflow's state: the snapshot, and what was recorded since. UnknownWorkflow if it is lost."""
        return _known(self, lambda: statekeeping.current(self))

    def condition(self) -> tuple[WorkflowState | None, str]:
        """Return the state, None if it is lost, and what is damaged of it, in a sentence with its mend."""
        try:
            found = statekeeping.fold(self)
        except ValueError as error:
            return None, str(_lost(self, str(error)))
        return found.state(), str(_lost(self, found.wrong)) if found.wrong else ""

    def write(self, state: WorkflowState) -> None:
        """Keep how a workflow that nobody works on has ended. The claim must be held."""
        records = journal.Journal(self.journal)
        try:
            records.append("closed", durable=True, **snapshots.closing(state))
        finally:
            records.close()
        snapshots.write(self, self.state(), durable=True)


def _known(folder: Folder, read: Callable[[], T]) -> T:
    """Read something of a workflow. UnknownWorkflow, with what to do, where it is damaged or of a newer version."""
    try:
        return read()
    except ValueError as error:
        raise _lost(folder, str(error)) from error


def kept(path: Path, kind: type[N]) -> N:
    """Read one of a workflow's own files. UnknownWorkflow, with what to do, where it is damaged or gone."""
    folder = Folder(path.parent)
    try:
        return kind.model_validate(schemas.opened(path.read_bytes(), "run"))
    except FileNotFoundError as error:
        raise _lost(folder, f"{path.name} is missing") from error
    except ValidationError as error:
        raise _lost(folder, f"{path.name} is damaged ({snapshots.wrong(error)})") from error
    except ValueError as error:
        raise _lost(folder, f"{path.name} {error}") from error


def keep(path: Path, value: Noun) -> None:
    """Write one of a workflow's own files, atomically and with its checksum; `kept` reads it."""
    write_atomically(path, schemas.sealed(value.model_dump(mode="json"), indent=1))


def _lost(folder: Folder, what: str) -> UnknownWorkflow:
    mend = "" if schemas.is_newer(what) else f"; `workflowmaster state repair {folder.id}` mends what can be"
    return UnknownWorkflow(f"{folder.path}: {what}. Nothing was changed{mend}")


def workflows() -> Path:
    """Return the folder of all workflows."""
    return home() / "workflows"


def create(workflow_id: str) -> Folder:
    """Make a workflow's folder, readable by nobody else."""
    if not ID.fullmatch(workflow_id):
        raise ValueError(f"{workflow_id!r} is no workflow id: use 3 to 80 lower-case letters, digits and dashes")
    path = workflows() / workflow_id
    home().mkdir(parents=True, exist_ok=True, mode=0o700)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for parent in (home(), path.parent, path):
        parent.chmod(0o700)
    return Folder(path)


def find(workflow_id: str) -> Folder:
    """Find a workflow by its id, a unique beginning or ending of it, or `latest`. UnknownWorkflow otherwise."""
    known = everything()
    if workflow_id == "latest" and known:
        return known[0]
    hits = [f for f in known if f.id == workflow_id] or [
        f for f in known if f.id.startswith(workflow_id) or f.id.endswith(workflow_id)
    ]
    if len(hits) == 1:
        return hits[0]
    what = "matches more than one workflow" if hits else "no such workflow"
    shown = ", ".join(f.id for f in (hits or known)[:5]) or "none yet"
    raise UnknownWorkflow(f"{workflow_id}: {what} in {home()}. Known: {shown} (`workflowmaster list`)")


def everything() -> list[Folder]:
    """Return all workflows, the newest first."""
    if not workflows().is_dir():
        return []
    made = filter(lambda folder: folder.known, map(Folder, workflows().iterdir()))
    return sorted(made, key=lambda folder: (folder.path.stat().st_ctime_ns, folder.id), reverse=True)


def safe(step: str) -> str:
    """Spell a step's id as a file name or a part of a container's name; different ids never become the same."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", step)[:LONGEST_NAME]
    if plain == step:
        return plain
    return f"{plain}-{hashlib.sha256(step.encode(errors='surrogatepass')).hexdigest()[:6]}"
