"""Whether a finished run still stands, so that a resume of it has nothing to do.

The long way would end where it began: a server, Prefect's import, a flow run whose every step comes back. So the same
questions are asked first, of the same witnesses and without starting anything: is each step's key what it would be now,
does the result that Prefect persisted under it hold, is its commit there, and does the branch stand where it was left?
One doubt, and the long way is taken, which says what it is about and runs what is missing.

What no witness here can tell is whether the run was killed after its last word, with containers left to remove and its
flow run left open. So whoever has seen a run to its very end says so (`seal`), and only such a one stands.

The price is that a server is not asked: policies that its documents have tightened since make nothing run again that
has finished. `resume --from` does.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pygit2

from workflowmaster.blocks import userrepo
from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.blocks.engine import Engine
from workflowmaster.flows import folders, past, soundness
from workflowmaster.flows.journey import Record, admitted
from workflowmaster.flows.keying import key_of, key_parts
from workflowmaster.flows.scheduling import ancestors
from workflowmaster.flows.state import FINISHED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.past import Past
    from workflowmaster.flows.plan import Plan, Step, StepResult
    from workflowmaster.flows.resuming import Wish
    from workflowmaster.flows.settings import Settings
    from workflowmaster.flows.state import WorkflowState
    from workflowmaster.policies import SecurityPolicy


@dataclass(frozen=True)
class Standing:
    """A run that nobody works on, as far as its keys go by it; see `keying.Surroundings`."""

    id: str
    plan: Plan
    record: Record
    settings: Settings
    policies: Mapping[str, SecurityPolicy]
    past: Past
    results: Mapping[str, StepResult]
    ancestors: Mapping[str, frozenset[str]]


def finished(asked: Wish, settings: Settings) -> WorkflowState | None:
    """Return the state of a run that is done and stands; None where a resume has, or may have, something to do.

    The claim is held. Raises what `prepare` does where the plan could not be run here any more.
    """
    if asked.edited or asked.again or not _sealed(asked.folder):
        return None
    seen = soundness.look(asked.folder, ours=True)
    state = seen.state
    if state is None or seen.found or state.status != "completed" or not asked.folder.report.exists():
        return None
    if any(state.step_status(step.id) not in FINISHED for step in state.plan.tasks) or not _branch_stands(
        asked.folder, state
    ):
        return None
    run, store = _standing(asked.folder, state, settings), pygit2.Repository(str(asked.folder.git_dir))
    steps = [step for step in state.plan.tasks if state.step_status(step.id) == "completed"]
    stands = all(_key_stands(run, step, store) for step in steps)
    return state.model_copy(update={"reused": tuple(state.results)}) if stands else None


def seal(folder: Folder) -> None:
    """Say that a run has come to its very end: nothing of it runs, and its flow run has its final state."""
    with contextlib.suppress(OSError):  # without it a resume only takes longer
        write_atomically(_seal(folder), _digest(folder))


def _sealed(folder: Folder) -> bool:
    """Whether the last part of a run was seen to its very end, and nothing has happened since."""
    try:
        return _seal(folder).read_text() == _digest(folder)
    except OSError:
        return False


def _seal(folder: Folder) -> Path:
    return folder.path / "sealed"


def _digest(folder: Folder) -> str:
    return hashlib.sha256(folder.state_file.read_bytes()).hexdigest()


def _standing(folder: Folder, state: WorkflowState, settings: Settings) -> Standing:
    record = folders.kept(folder.record, Record)
    limits, images, _ = admitted(state.plan, record.options, settings, Engine(), ("record", record.images))
    return Standing(
        id=folder.id,
        plan=state.plan,
        record=record.model_copy(update={"images": images}),
        settings=settings,
        policies=limits,
        past=past.past(folder.journal),
        results=state.results,
        ancestors=ancestors(state.plan.tasks),
    )


def _key_stands(run: Standing, step: Step, store: pygit2.Repository) -> bool:
    """Whether a finished step would have the key now that its result was persisted under."""
    result = run.results[step.id]
    commit = store.get(result.input_commit)
    if not isinstance(commit, pygit2.Commit):
        return False
    return result.key == key_of(run, step, key_parts(run, step, str(commit.tree_id)))


def _branch_stands(folder: Folder, state: WorkflowState) -> bool:
    """Whether the branch is where the run left it; whoever has moved or deleted it may want it back."""
    if not state.branch:
        return True
    user = userrepo.find(Path(state.workspace))
    repository = user.repo if user else pygit2.Repository(str(folder.git_dir))
    found = repository.references.get(f"refs/heads/{state.branch}")
    return found is not None and str(found.target) == state.commit
