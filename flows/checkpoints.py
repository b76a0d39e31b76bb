"""Checkpoints: whole states, kept at milestones, each a file of its own that needs no other to be read.

They could have been differences, a hundredth of the size. But a checkpoint is for the day on which something else is
damaged, and a chain of differences is as good as its worst link. So each is complete, compressed, and carries its
version and the SHA-256 of its content; ten are kept. A damaged one is passed over by everything that looks for a good
one, and told by `state validate`.
"""

from __future__ import annotations

import gzip
import re
import zlib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.flows import schemas, snapshots
from workflowmaster.flows.plan import Noun
from workflowmaster.flows.state import WorkflowState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from workflowmaster.flows.folders import Folder

KEPT = 10
"""Newest checkpoints that stay."""

NAME = re.compile(r"(\d{4,})-(.+)\.json\.gz")


class Checkpoint(Noun):
    """A workflow's state as it was when a milestone was reached."""

    schema_version: int = 1
    number: int
    """Counts from 1 through all parts of the run."""
    name: str
    """The milestone's, or the id of the step that is marked `checkpoint: true`."""
    step: str
    """Step that ended last before it; empty at a run's end."""
    made_at: float
    """Unix time, seconds."""
    record: dict[str, Any] = {}
    """Content of `run.json`: what the run was asked for, for the day that file is lost."""
    state: WorkflowState

    @property
    def done(self) -> int:
        """How many steps had completed."""
        return sum(result.status == "completed" for result in self.state.results.values())


def place(folder: Folder) -> Path:
    """Return the folder that a workflow's checkpoints lie in."""
    return folder.path / "checkpoints"


def files(folder: Folder) -> dict[int, Path]:
    """Return the checkpoints' files by number, the newest last, whatever is in them."""
    found = place(folder).iterdir() if place(folder).is_dir() else ()
    numbered = {int(match[1]): path for path in found if (match := NAME.fullmatch(path.name))}
    return dict(sorted(numbered.items()))


def write(folder: Folder, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, so that it is on the disk as a whole or not at all, and remove those that are too many."""
    place(folder).mkdir(mode=0o700, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", checkpoint.name)[:80]
    path = place(folder) / f"{checkpoint.number:04}-{name}.json.gz"
    text = schemas.sealed(checkpoint.model_dump(mode="json"))
    # No time in it: equal states make equal files.
    write_atomically(path, gzip.compress(text.encode(), mtime=0))
    for old in list(files(folder).values())[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def read(path: Path, folder: Folder) -> Checkpoint:
    """Read one. ValueError, in one clause, if it cannot be believed; FileNotFoundError if it is gone."""
    try:
        raw = schemas.opened(gzip.decompress(path.read_bytes()), "checkpoint")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"cannot be decompressed ({error})") from error
    state = raw.pop("state", None)
    if not isinstance(state, dict):
        raise ValueError("holds no state")  # noqa: TRY004 - the file's fault
    # Its state has a version of its own, and no checksum within the checkpoint's.
    whole = snapshots.stated(schemas.migrate(state, "state"), folder)
    try:
        found = Checkpoint.model_validate({**raw, "state": whole})
    except ValidationError as error:
        raise ValueError(f"is damaged ({snapshots.wrong(error)})") from error
    if not path.name.startswith(f"{found.number:04}-"):
        raise ValueError(f"is checkpoint {found.number}, under another name")
    return found


def good(folder: Folder) -> Iterator[Checkpoint]:
    """Yield the checkpoints that can be believed, the newest first."""
    for path in reversed(files(folder).values()):
        try:
            yield read(path, folder)
        except (ValueError, FileNotFoundError):
            continue  # `state validate` names it
