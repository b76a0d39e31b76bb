"""How long audit logs are kept: whole files go, and their checkpoints stay.

A chain cannot lose its middle, so only whole files are dropped, the oldest first, each when it has not been written
to for `audit_retention_days`; of a run that has ended, all of them. What stands for them afterwards is small and
signed: the checkpoint of the last epoch in them, which names their number and the last one's hash, and a statement of
which files went. Where nothing is signed (`audit_enabled` off), nothing could stand for them, and nothing is dropped.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from workflowmaster.flows import folders
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.auditfiles import frames, is_plain, next_name, rotated
from workflowmaster.flows.auditkeys import AuditBroken
from workflowmaster.flows.claim import NeedsPerson, take
from workflowmaster.flows.sealing import Dropped, Sealing, dropped, dropped_path, write_signed

if TYPE_CHECKING:
    from pathlib import Path

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.settings import Settings

DAY: Final = 86_400.0


def drop_all(settings: Settings) -> tuple[list[str], list[str]]:
    """Drop what is past its time in all workflows; return the files, and one line for each that could not be judged."""
    gone, trouble = [], []
    for folder in folders.everything():
        try:
            gone += [f"{folder.id}/{name}" for name in drop(folder, settings)]
        except NeedsPerson:
            continue  # under way; there is no hurry
        except (AuditBroken, OSError, ValueError) as error:
            trouble.append(f"the audit log of {folder.id} is not dropped: {error}")
    return gone, trouble


def drop(folder: Folder, settings: Settings) -> tuple[str, ...]:
    """Drop the files of one log that are past their time, and return their names. NeedsPerson while it is worked on.

    AuditBroken for a log whose keys are not as they were left: what does not hold is not tidied away.
    """
    log, how = folder.audit, Sealing.of(folder.audit, settings)
    limit = time.time() - settings.audit_retention_days * DAY
    if not how.enabled or is_plain(log) or not _due(folder, limit):
        return ()
    with take(folder):
        old = _oldest(log, limit)
        whole = folder.state().status != "running" and _older(log, limit)
        writer = AuditLog(log, how)
        try:
            # Its record is the last of an epoch, and so everything up to here is under a checkpoint.
            writer.append("audit.dropped", files=[path.name for path in [*old, *([log] if whole else [])]])
        finally:
            writer.close()
        if whole:
            put_away = next_name(log)
            log.rename(put_away)
            old = rotated(log)
        known = dropped(log)
        names = (*(known.files if known else ()), *(path.name for path in old))
        statement = Dropped(workflow=folder.id, files=names, epoch=_last_epoch(old[-1]), at=round(time.time(), 3))
        # First the word, then the deed: killed in between, the files are skipped, and the next time they go.
        write_signed(dropped_path(log), statement, how)
        for path in old:
            path.unlink()
    return tuple(path.name for path in old)


def _due(folder: Folder, limit: float) -> bool:
    return bool(_oldest(folder.audit, limit)) or (folder.state().status != "running" and _older(folder.audit, limit))


def _oldest(log: Path, limit: float) -> list[Path]:
    """Return the full files before the first one that is still to be kept."""
    found = []
    for path in rotated(log):
        if not _older(path, limit):
            break
        found.append(path)
    return found


def _older(path: Path, limit: float) -> bool:
    return path.exists() and path.stat().st_mtime < limit


def _last_epoch(path: Path) -> int:
    return max((one.epoch for _, one in frames(path) if one), default=-1)
