"""What a sweep leaves alone although its owner is dead: containers that a resume of their workflow could go on with.

A sweeping run knows nothing of the workflow a container belongs to, and may have another state directory. So the
container names its workflow's folder in a label, and what lies there decides: a record of its go, under a workflow that
has not ended. Not for ever: nobody stops a step without an owner at its wall time, so soon after it a sweep does. What
has ended by itself only takes room on the disk, and is kept for a day.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks import deadline
from workflowmaster.blocks.engine import OURS
from workflowmaster.flows.claim import claimed
from workflowmaster.flows.folders import Folder, UnknownWorkflow
from workflowmaster.flows.going import Moment, open_goings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.flows.going import Going

LABEL = "folder"
"""Label, without our prefix, that names the folder of a container's workflow."""

HARVEST = 86_400.0
"""Seconds after its wall time for which a container is kept that has ended by itself."""

ENDED = ("completed", "aborted")
"""Statuses of a workflow that nobody will go on with."""


def resumable(container: Mapping[str, Any]) -> bool:
    """Return whether a container, as the engine lists it, is one that a resume may still want."""
    labels = container.get("Labels") or {}
    place = labels.get(f"{OURS}.{LABEL}", "")
    if not place:
        return False
    folder = Folder(Path(place))
    try:
        records = [one for one in open_goings(folder.journal) if one.container == container["Id"]]
        return any(_wanted(folder, one, running=container.get("State") == "running") for one in records)
    except OSError:
        # Another user's: what lies there cannot be read from here, so the label's own word has to do.
        return time.time() < (deadline.of(labels, OURS) or 0.0)


def _wanted(folder: Folder, record: Going, *, running: bool) -> bool:
    if record.unfit or not _goes_on(folder):
        return False
    most = record.timeout + (deadline.MARGIN if running else HARVEST)
    return record.elapsed(Moment.now()) < most or claimed(folder)


def _goes_on(folder: Folder) -> bool:
    """Whether a workflow is neither over nor removed."""
    if not folder.plan_file.exists():
        return False
    try:
        return folder.state().status not in ENDED
    except UnknownWorkflow:
        return True  # not written yet, or to be repaired
