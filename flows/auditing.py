"""The command `audit`: what a run's log says, whether it holds, and the line of proof from prompt to pull request."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.flows import durations, folders
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.auditevents import about
from workflowmaster.flows.auditfiles import records
from workflowmaster.flows.claim import claimed
from workflowmaster.flows.folders import UnknownWorkflow
from workflowmaster.flows.sealing import Sealing
from workflowmaster.flows.verifying import Verdict, examine
from workflowmaster.flows.wording import counted, moment

if TYPE_CHECKING:
    import argparse

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.state import WorkflowState

BROKEN = 7
_FRAME: Final = ("seq", "epoch", "ts", "pid", "event", "seal", "prev", "hash", "mac")
_DAYS: Final = re.compile(r"(\d{1,5})\s*d")


def show(given: argparse.Namespace) -> int:
    """Print a run's records, all or those that are asked for; a record that cannot be read ends it with exit code 7."""
    log = folders.find(given.id).audit
    since = moment_of(given.since) if given.since else 0.0
    try:
        for record in records(log):
            if record["ts"] >= since and (not given.type or fnmatchcase(record["event"], given.type)):
                print(json.dumps(record) if given.json else _line(record))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return BROKEN
    return 0


def moment_of(text: str) -> float:
    """Return the Unix time that `--since` means: a date and time, or so long ago. BadOption for anything else."""
    if days := _DAYS.fullmatch(text):
        return time.time() - int(days[1]) * 86400
    try:
        return time.time() - durations.seconds(text)
    except ValueError:
        pass
    try:
        # Without a zone it is the reader's own, as everything that is shown to him.
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError as error:
        raise BadOption(
            f"--since {text}: write a time such as 2026-11-22T14:30, or how long ago: 30m, 2h, 3d"
        ) from error


def _line(record: dict[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key not in _FRAME}
    sign = {"info": " ", "notice": " ", "warning": "!", "alert": "‼"}[about(record["event"]).severity]
    return f"{record['seq']:>5}  {moment(record['ts'])} {sign}{record['event']:<20}  {json.dumps(rest)}"


def verify(given: argparse.Namespace) -> int:
    """Check a run's log; exit code 7 and the first bad record if it does not hold."""
    folder = folders.find(given.id)
    verdict = judged(folder)
    if given.json:
        print(json.dumps(verdict.public()))
    if not verdict.holds:
        sys.stderr.write(f"error: {verdict.reason}\n")
        return BROKEN
    if not given.json:
        print("\n".join(_told(verdict)))
    return 0


def judged(folder: Folder) -> Verdict:
    """Examine the log of a workflow, with what its state and its branch say about it."""
    how = Sealing.of(folder.audit)
    # In this order: a run that ends in between has its last word in the log before its state says so.
    over = not claimed(folder)
    try:
        state = folder.state()
    except UnknownWorkflow as error:
        # The log is there for when the rest is not; only whether it has an end, and which branch, nobody says.
        verdict = examine(folder.audit, how)
        return replace(verdict, anchors={**verdict.anchors, "git note": f"cannot be asked: {error}"})
    note, said = _note(state) if how.enabled and state.commit else ("", "")
    verdict = examine(folder.audit, how, ended=over and state.status != "running", note=note or None)
    return replace(verdict, anchors={**verdict.anchors, "git note": said}) if said else verdict


def _note(state: WorkflowState) -> tuple[str, str]:
    """Return the note on the run's branch, or why there is none to be held against the log."""
    from workflowmaster.blocks import notes

    try:
        note = notes.read(Path(state.workspace), state.commit)
    except (WorkspaceError, OSError) as error:
        return "", f"cannot be asked: {error}"
    return note or "", "" if note else "none on the branch's commit"


def _told(verdict: Verdict) -> list[str]:
    if verdict.format == 1:
        return [f"{counted(verdict.records, 'record')} hold (old format: a chain without keys or checkpoints)"]
    end = "" if verdict.finished else "; the run has no end yet, or was killed"
    lines = [f"{counted(verdict.records, 'record')} hold, {counted(verdict.checkpoints, 'signed checkpoint')}{end}"]
    if verdict.dropped:
        lines.append(
            f"{counted(verdict.dropped, 'record')} were dropped by retention; a signed checkpoint stands for them"
        )
    if verdict.unsigned:
        lines.append(f"{counted(verdict.unsigned, 'epoch')} without a checkpoint: signing was off")
    if verdict.pending:
        lines.append(f"{counted(verdict.pending, 'checkpoint')} not signed yet: `resume` signs what a killed run left")
    if verdict.torn_bytes:
        lines.append(f"half a record of {verdict.torn_bytes} bytes at the end, as a killed writer leaves it")
    return [*lines, *(f"anchor {name}: {said}" for name, said in verdict.anchors.items())]


def prove(given: argparse.Namespace) -> int:
    """Print the line of proof of a run, link by link; exit code 7 if one does not hold."""
    from workflowmaster.flows.proving import proof

    folder = folders.find(given.id)
    links = proof(folder)
    holds = all(link.holds is not False for link in links)
    complete = all(link.holds for link in links)
    if given.json:
        shown = [{"link": link.name, "holds": link.holds, "detail": link.detail} for link in links]
        print(json.dumps({"workflow_id": folder.id, "holds": holds, "complete": complete, "links": shown}))
    else:
        signs = {True: "holds", False: "BROKEN", None: "missing"}
        print("\n".join(f"{signs[link.holds]:<8} {link.name:<24} {link.detail}" for link in links))
    return 0 if holds else BROKEN
