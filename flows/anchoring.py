"""Copies of checkpoints where the writer of a log cannot take them back.

Whoever has the run's own rights can replace a log together with its keys and its checkpoints by an older copy of all of
them, and everything in it is true. Only somebody who remembers the newer checkpoint can tell: an *anchor*. Each keeps
signed hashes and nothing else, so it may be public.

- The folder of the seed gets every checkpoint, always: it lies outside the workflow's folder, and where `audit_seeds`
  says, on another disk or another user's.
- `audit_anchors` names further ones: `folder:/path`, or `module:Class` of an installed package.
- At the end of a run, the branch's tip gets a git note, and the flow run an artifact in Prefect.

An anchor that fails is told, in Prefect's log and in the audit log, and fails no run: a run that stops because its
witness sleeps would teach people to have no witness.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.blocks.refusal import WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.sealing import Sealing
    from workflowmaster.flows.state import WorkflowState

FOLDER = "folder:"

log = logging.getLogger(__name__)


class Anchor(Protocol):
    """Somewhere a copy of a checkpoint is kept. A class of one's own takes no arguments."""

    def keep(self, workflow: str, epoch: int, checkpoint: bytes) -> None:
        """Keep a checkpoint; again with the same bytes it changes nothing. OSError or ValueError if it cannot."""
        ...

    def kept(self, workflow: str) -> dict[int, bytes]:
        """Return the checkpoints that are kept of a workflow, by epoch. OSError or ValueError if it cannot tell."""
        ...


class FolderAnchor:
    """Keeps checkpoints as files in a folder, one folder for each workflow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, workflow: str, epoch: int, checkpoint: bytes) -> None:
        """Write the checkpoint, never over another one: FileExistsError."""
        path = self.folder / workflow / f"{epoch:06}.json"
        if path.exists():
            if path.read_bytes() != checkpoint:
                raise FileExistsError(f"{path} is another checkpoint of the same epoch; it stays as it is")
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, checkpoint)

    def kept(self, workflow: str) -> dict[int, bytes]:
        """Read the checkpoints of a workflow."""
        found = (self.folder / workflow).glob("??????.json")
        return {int(path.stem): path.read_bytes() for path in found if path.stem.isdigit()}


def made(spec: str) -> Anchor:
    """Return the anchor that a word of `audit_anchors` names. ValueError if there is no such class in a package.

    Only what is installed beside the interpreter is imported: a module in the directory somebody works in, which may be
    a repository with a file of that name, must never be.
    """
    if spec.startswith(FOLDER):
        return FolderAnchor(Path(spec.removeprefix(FOLDER)).expanduser())
    module, _, name = spec.partition(":")
    # Looked up without running anything of it: the first part alone decides where the rest comes from.
    found = importlib.util.find_spec(module.partition(".")[0])
    origin = Path(found.origin).resolve() if found and found.origin else None
    places = [Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")]
    if origin is None or not any(place in origin.parents for place in places):
        raise ValueError(f"audit_anchors: {spec!r}: {module} is no package installed in {places[0]}")
    try:
        return cast("Anchor", getattr(importlib.import_module(module), name)())
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"audit_anchors: {spec!r}: {error}") from error


def keep(sealing: Sealing, workflow: str, epoch: int, checkpoint: bytes) -> Iterator[tuple[str, str]]:
    """Copy a checkpoint to every anchor; yield (anchor, why) for each that failed."""
    for name in names(sealing):
        try:
            made(name).keep(workflow, epoch, checkpoint)
        except (OSError, ValueError) as error:
            yield name, str(error)


def names(sealing: Sealing) -> tuple[str, ...]:
    """Return the anchors of a workflow's log as `audit_anchors` spells them; the seed's folder is the first."""
    return f"{FOLDER}{sealing.seeds.parent}", *sealing.anchors


async def at_the_end(journey: Journey, state: WorkflowState) -> None:
    """Copy the last checkpoint to where a run leaves traces: a git note on its branch, an artifact of its flow run."""
    from workflowmaster.blocks import notes
    from workflowmaster.flows.execution import in_git
    from workflowmaster.flows.sealing import checkpoints

    found = sorted(checkpoints(journey.folder.audit).glob("??????.json"))
    if not journey.settings.audit_enabled or not found:
        return
    text = found[-1].read_text("utf-8")
    epoch = int(found[-1].stem)
    if state.commit:
        try:
            await in_git(journey, lambda: notes.write(Path(state.workspace), state.commit, text))
        except (WorkspaceError, OSError) as error:
            _failed(journey, notes.REF, epoch, error)
    await _to_prefect(journey, text, epoch)


async def _to_prefect(journey: Journey, text: str, epoch: int) -> None:
    from httpx import HTTPError
    from prefect.artifacts import acreate_markdown_artifact
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is None:
        return
    body = f"Signed checkpoint {epoch} of the audit log of `{journey.id}`:\n\n```json\n{text}```\n"
    try:
        await acreate_markdown_artifact(key="audit", markdown=body, description=f"audit checkpoint {epoch}")
    except (HTTPError, OSError) as error:
        _failed(journey, "prefect", epoch, error)


def _failed(journey: Journey, anchor: str, epoch: int, error: Exception) -> None:
    log.warning("the audit log's checkpoint is not kept by %s: %s", anchor, error)
    journey.audit.append("anchor.failed", anchor=anchor, checkpoint=epoch, reason=journey.secrets.text(str(error)))
