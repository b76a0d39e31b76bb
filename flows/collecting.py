"""What a step hands out besides its tree: its named outputs, and the files of `/out/artifacts` into the run's folder.

Artifacts are taken whether or not the step succeeded, because the report of a test run that failed is the one people
want. What a step declares is a promise, as its outputs are: a success that lacks a promised file is no success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflowmaster.blocks import artifacts
from workflowmaster.blocks.bounded import smallest
from workflowmaster.blocks.engine import OURS
from workflowmaster.blocks.exchange import BadOutputs
from workflowmaster.blocks.ownership import hand_over, needs_handing_over
from workflowmaster.blocks.request import OUT
from workflowmaster.blocks.workspace import Caps
from workflowmaster.flows.folders import Folder, workflows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflowmaster.blocks.artifacts import Taken
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.parking import Parked
    from workflowmaster.flows.plan import Step, StepResult

MOST_FINDINGS = 100
"""Lines of one result that say what was left out. A step can leave a hundred thousand odd names, and a result is
persisted, shown and sent."""


def _hand_over(journey: Journey, parked: Parked) -> None:
    """Make what a container under another uid left behind ours, or it could be neither read nor removed."""
    request = parked.container.request
    if not parked.container.shares_files:
        return  # what comes back by archive is ours
    if needs_handing_over(parked.exchange.outward, int(request.user.partition(":")[0])):
        labels = {f"{OURS}.{key}": value for key, value in request.labels.items()}
        outward, name = parked.exchange.outward, f"{request.name}-own"
        hand_over(journey.engine, request.image_id, outward, name=name, labels=labels)


def take_out(journey: Journey, parked: Parked, step: Step) -> tuple[dict[str, str], Taken, str]:
    """Return the step's named outputs, its artifacts and, if they cannot be used, why.

    SandboxUnavailable or WorkspaceError if what it left cannot be had at all.
    """
    _hand_over(journey, parked)
    most = most_out(parked) or Caps().total_bytes
    parked.fetch(OUT, most)
    if screen := journey.secrets.screen(step):
        screen.folder(parked.exchange.outward, OUT, most)
    taken = _collect(journey.folder, parked, step)
    try:
        found = parked.exchange.outputs()
    except BadOutputs as error:
        return {}, taken, str(error)
    missing = [name for name in step.outputs if name not in found]
    fault = f"it did not write {', '.join(missing)} to $WM_OUTPUT, as its outputs promise" if missing else ""
    return found, taken, fault or _broken_promise(taken.missing)


def most_out(parked: Parked) -> int | None:
    """Return the bytes that its `/out` may hold."""
    policy = parked.container.request.policy
    return smallest(policy.result_cap, policy.disk)


def _collect(folder: Folder, parked: Parked, step: Step) -> Taken:
    """Copy a step's artifacts to the run's folder, in place of those of an earlier attempt. WorkspaceError `disk`."""
    place = folder.artifacts(step.id)
    return artifacts.take(parked.exchange.outward, place, cap=most_out(parked), wanted=step.artifacts)


def _broken_promise(missing: Iterable[str]) -> str:
    """Say which declared artifacts are not there; empty if all are."""
    names = ", ".join(missing)
    return f"it left no {names} in /out/artifacts, as its artifacts promise" if names else ""


def few(findings: Iterable[str]) -> tuple[str, ...]:
    """Return the findings that a result keeps, and how many there are besides."""
    lines = tuple(findings)
    more = len(lines) - MOST_FINDINGS
    return (*lines[:MOST_FINDINGS], f"… and {more:,} more findings") if more > 0 else lines


def listed(result: StepResult, workflow_id: str) -> list[dict[str, Any]]:
    """Return a result's artifacts for other programs: absolute path, name, size in bytes and SHA-256."""
    # A cached result's files lie in the folder of the workflow that did the work.
    top = Folder(workflows() / (result.workflow or workflow_id)).artifacts(result.step)
    return [{"path": str(top / one.name), **one.model_dump(mode="json")} for one in result.artifacts]
