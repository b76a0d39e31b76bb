"""The line of proof of one run: prompt → plan → image → attested container → result → commit → pull request.

Each link is a record of the audit log held against the thing itself: the bytes of the prompt that was kept, the plan's
hash computed anew, the result that Prefect persisted, the commit in the private store and in the user's repository, the
text of the pull request. The log comes first: without it the others prove nothing. A thing that is not there (any more)
is said to be missing, which is not the same as being wrong.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pygit2
from pydantic import ValidationError

from workflowmaster.blocks import userrepo
from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.flows import persisted
from workflowmaster.flows.auditfiles import records
from workflowmaster.flows.auditing import judged
from workflowmaster.flows.folders import UnknownWorkflow
from workflowmaster.flows.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.plan import StepResult
    from workflowmaster.flows.state import WorkflowState


@dataclass(frozen=True)
class Link:
    """One link of the line."""

    name: str
    holds: bool | None
    """None where what it would be held against is not there."""
    detail: str


@dataclass
class _Log:
    """What the log says, in the order and under the names that the links ask for."""

    one: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Event → its last record."""
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Step → its last `step.finished`."""
    containers: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: defaultdict(dict))
    """Container → event → record."""
    written: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Kind of publication → its last record."""


def proof(folder: Folder) -> list[Link]:
    """Return the links of a run's line of proof, in order."""
    verdict = judged(folder)
    said = f"{verdict.records} records, {verdict.checkpoints} signed checkpoints" if verdict.holds else verdict.reason
    links = [Link("audit log", verdict.holds, said)]
    if not verdict.holds:
        return links
    log = _read(folder)
    links += [_prompt(folder, log), _plan(folder, log)]
    try:
        state = folder.state()
    except UnknownWorkflow as error:
        return [*links, Link("state", False, str(error))]
    for step, result in state.results.items():
        links += _step(folder, log, step, result, state)
    return [*links, _branch(log, state), _pull_request(log, state)]


def _read(folder: Folder) -> _Log:
    log = _Log()
    for record in records(folder.audit):
        event = record["event"]
        log.one[event] = record
        if event == "step.finished":
            log.steps[record["step"]] = record
        elif event.startswith("container."):
            log.containers[record.get("container") or record.get("container_id", "")][event] = record
        elif event == "forge.written":
            log.written[record["kind"]] = record
    return log


def _prompt(folder: Folder, log: _Log) -> Link:
    wanted = log.one.get("workflow.started", {}).get("prompt_sha256")
    if not folder.prompt.exists() or not wanted:
        return Link("prompt", None, "prompt.md was not kept" if wanted else "the log does not name it")
    found = hashlib.sha256(folder.prompt.read_bytes()).hexdigest()
    return _same("prompt", found, wanted, "prompt.md")


def _plan(folder: Folder, log: _Log) -> Link:
    wanted = log.one.get("workflow.started", {}).get("plan")
    if not wanted:
        return Link("plan", None, "the log does not name it")
    try:
        # As it lies there: a plan that is not the run's own is refused by whoever means to go by it.
        plan = Plan.model_validate_json(folder.plan_file.read_bytes())
    except (ValidationError, FileNotFoundError) as error:
        return Link("plan", None if isinstance(error, FileNotFoundError) else False, "plan.json is gone or damaged")
    link = _same("plan", plan.workflow_hash, wanted, "plan.json")
    named = log.one["workflow.started"]["prompt_sha256"]
    return link if plan.prompt.sha256 == named else Link("plan", False, "plan.json is of another prompt")


def _same(name: str, found: str, wanted: str, what: str) -> Link:
    if found == wanted:
        return Link(name, True, f"{what} is {wanted[:12]}, as the log says")
    return Link(name, False, f"{what} is {found[:12]}, and the log says {wanted[:12]}")


def _step(folder: Folder, log: _Log, step: str, result: StepResult, state: WorkflowState) -> Iterator[Link]:
    for receipt in result.receipts:
        yield _container(f"{step}: container", log.containers.get(receipt.container_id, {}), receipt.image_id, state)
    record = log.steps.get(step)
    if record is None:
        yield Link(f"{step}: result", None, "the log has no end of it")
        return
    told = {name: record.get(name) for name in ("status", "key", "commit")}
    yield _result(f"{step}: result", result, told)
    if result.commit:
        yield _commit(f"{step}: commit", folder, result)


def _container(name: str, known: dict[str, dict[str, Any]], image: str, state: WorkflowState) -> Link:
    started, ended = known.get("container.started"), known.get("container.finished")
    # One that could not wait for its go was read back as it ran, and its end says what was found.
    attested = known.get("container.attested") or (ended and {**ended, "image": ended["image_id"]})
    if not attested or not started:
        missing = "container.started" if attested else "container.attested"
        return Link(name, None, f"the log has no {missing} for it")
    if not attested["image"] == started["image"] == image or image not in state.images.values():
        return Link(name, False, f"it ran {started['image'][:19]}, and the run had pinned {image[:19]}")
    if attested["policy_hash"] != started["policy_hash"]:
        return Link(name, False, "it was attested under other limits than it was started with")
    held = f"{len(attested['enforced'])} controls of {attested['policy']} read back"
    return Link(name, True, f"{started['container'][:12]} of image {image[7:19]}, {held}")


def _result(name: str, result: StepResult, told: dict[str, Any]) -> Link:
    if told != {"status": result.status, "key": result.key, "commit": result.commit}:
        return Link(name, False, "the state says otherwise than the log")
    path = persisted.file_of(result.key)
    if path is None:
        ran_here = result.status == "completed" and bool(result.receipts)
        return Link(
            name, None if ran_here else True, f"{result.status}, as the log says; Prefect keeps no result of it"
        )
    try:
        kept = persisted.read(path)
    except ValueError as error:
        return Link(name, False, f"the result that Prefect persisted {error}")
    # Of a shared result the commit is another workflow's.
    good = kept.step == result.step and (kept.commit == result.commit or kept.workflow != result.workflow)
    return Link(name, good, "log and persisted result agree" if good else "the persisted result names another commit")


def _commit(name: str, folder: Folder, result: StepResult) -> Link:
    found = _looked_up(lambda: pygit2.Repository(str(folder.git_dir)), result.commit)
    if found is None:
        return Link(name, None, f"{result.commit[:12]} is not in the private store")
    return Link(name, True, f"{result.commit[:12]} with tree {str(found.tree_id)[:12]}")


def _looked_up(repository: Callable[[], pygit2.Repository], commit: str) -> pygit2.Commit | None:
    """Return a commit; its name is the hash of all it holds, so finding it proves it."""
    try:
        found = repository().get(commit)
    except (pygit2.GitError, ValueError, KeyError, OSError, WorkspaceError):
        return None
    return found if isinstance(found, pygit2.Commit) else None


def _branch(log: _Log, state: WorkflowState) -> Link:
    record = log.one.get("branch.exported")
    if record is None:
        return Link("branch", None, "no branch was exported")
    if (record["commit"], record["branch"]) != (state.commit, state.branch):
        return Link("branch", False, f"the log says {record['commit'][:12]}, and the state {state.commit[:12]}")

    def repository() -> pygit2.Repository:
        user = userrepo.find(Path(state.workspace))
        if user is None:
            raise KeyError(state.workspace)
        return user.repo

    found = _looked_up(repository, state.commit)
    if found is None:
        return Link("branch", None, f"{state.commit[:12]} is not in {state.workspace}")
    # The files of the branch are those of the run but for what is ignored, so only commit and message can be compared.
    good = f"Workflow: {state.workflow_id}" in found.message
    return Link("branch", good, f"{state.branch} at {state.commit[:12]}, made by {state.workflow_id}")


def _pull_request(log: _Log, state: WorkflowState) -> Link:
    record = log.written.get("pull_request")
    if record is None:
        return Link("pull request", None, "none was published")
    path = Path(record["location"])
    if record["location"] != state.pull_request:
        return Link(
            "pull request", False, f"the log says {record['location']}, the state {state.pull_request or 'none'}"
        )
    if "sha256" not in record:
        return Link("pull request", True, record["location"])
    if not path.exists():
        return Link("pull request", None, f"{path} is gone")
    return _same("pull request", hashlib.sha256(path.read_bytes()).hexdigest(), record["sha256"], path.name)
