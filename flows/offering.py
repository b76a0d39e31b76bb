"""`run` finds the unfinished run of the same prompt in the same directory, and offers to go on with it.

Only the newest run of a prompt is looked at: an older failure that was followed by a run to the end is history, and
nobody wants to be asked about it for ever. A run is of the same prompt if it was begun from the same file, edited or
not, or from the same bytes. Nothing is ever resumed without being asked for: the original did, and worked on another
prompt than the one it was given.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from workflowmaster.flows import folders
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.claim import claimed
from workflowmaster.flows.folders import UnknownWorkflow
from workflowmaster.flows.journey import Record

if TYPE_CHECKING:
    import argparse

    from workflowmaster.flows.asking import Options
    from workflowmaster.flows.folders import Folder

NEWEST = "the newest"
"""What `--resume` without an id stands for; no workflow's id has a space."""

STEERING = ("policy", "max_parallel", "agent", "include_dirty")
"""Options that a run keeps for as long as it lives."""


def chosen(given: argparse.Namespace, options: Options) -> Folder | None:
    """Return the run to go on with instead of a new one, if any. BadOption for one that cannot be meant."""
    if given.resume:
        return _asked_for(given.resume, options)
    if given.new:
        return None
    found = newest(options)
    if found is None or not _unfinished(found):
        return None
    record = folders.kept(found.record, Record)
    if _others(record, options):
        return None
    if claimed(found):
        sys.stderr.write(f"{found.id} is running this prompt here already; this is another run of it\n")
        return None
    return found if _agreed(found, given) else None


def _agreed(found: Folder, given: argparse.Namespace) -> bool:
    """Ask on a terminal; elsewhere say how to go on with it."""
    how = f"{found.id} of the same prompt has not ended well"
    if given.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        sys.stderr.write(f"{how}; go on with it: workflowmaster resume {found.id}\n")
        return False
    sys.stderr.write(f"{how}. Go on with it? [Y/n] ")
    sys.stderr.flush()
    said = sys.stdin.readline()
    # An end of input is no answer, and the command that was given says: run.
    return bool(said) and said.strip().lower() in ("", "y", "yes")


def _asked_for(name: str, options: Options) -> Folder:
    if name != NEWEST:
        folder = folders.find(name)
        fitting(folder, options)
        return folder
    found = newest(options)
    if found is None:
        raise BadOption(
            f"--resume: no run of {options.prompt} in {options.workspace} is known; `workflowmaster list` has all, and "
            "--resume ID goes on with one of them"
        )
    fitting(found, options)
    return found


def fitting(folder: Folder, options: Options) -> None:
    """Hold a run against what was asked for beside its id. BadOption names what is another one."""
    record = folders.kept(folder.record, Record)
    if not _same_prompt(folder, record, Path(options.prompt)):
        kept = record.source or record.options.prompt
        raise BadOption(f"--resume {folder.id}: that is a run of {kept}, not of {options.prompt}")
    if not _same_place(record, options):
        raise BadOption(
            f"--resume {folder.id}: that run works on {record.options.workspace}, not on {options.workspace}; give it "
            f"with --workspace, or go on with: workflowmaster resume {folder.id}"
        )
    if others := _others(record, options):
        listed = ", ".join(others)
        raise BadOption(f"--resume {folder.id}: {listed}: a run keeps what it was begun with; start anew with --new")


def newest(options: Options) -> Folder | None:
    """Return the newest run of a prompt in a workspace, whatever became of it."""
    # Read as bytes first: a thousand runs of other places must not hold up the start of this one.
    needle = json.dumps(str(Path(options.workspace).resolve()), ensure_ascii=False).encode()
    # By id, which begins with when it was begun: what was touched last may be an old run that was resumed.
    for folder in sorted(folders.everything(), key=lambda folder: folder.id, reverse=True):
        if folder.record.exists() and needle in folder.record.read_bytes():
            try:
                record = folders.kept(folder.record, Record)
                if _same_place(record, options) and _same_prompt(folder, record, Path(options.prompt)):
                    return folder
            except UnknownWorkflow:
                continue  # a damaged one stands in nobody's way
    return None


def _same_place(record: Record, options: Options) -> bool:
    return Path(record.options.workspace).resolve() == Path(options.workspace).resolve()


def _same_prompt(folder: Folder, record: Record, prompt: Path) -> bool:
    if record.source and Path(record.source) == prompt.resolve():
        return True
    if not prompt.is_file() or not folder.prompt.exists():
        return False
    return hashlib.sha256(prompt.read_bytes()).digest() == hashlib.sha256(folder.prompt.read_bytes()).digest()


def _others(record: Record, options: Options) -> list[str]:
    """Return the options that were given now and differ from those the run was begun with."""
    now, then = options.model_dump(), record.options.model_dump()
    found = [f"--{name.replace('_', '-')}" for name in STEERING if now[name] and now[name] != then[name]]
    inputs = [name for name, value in options.inputs.items() if record.options.inputs.get(name) != value]
    return found + [f"--input {name}" for name in inputs]


def _unfinished(folder: Folder) -> bool:
    try:
        return folder.state().status != "completed"
    except UnknownWorkflow:
        return False
