"""Mends what `soundness` has found, and puts a workflow back to a checkpoint.

What is mended is derived from what still holds: the persisted results first, then the records, the snapshot, the
newest good checkpoint. What cannot be derived is refused before anything is changed, and what cannot be trusted is
dropped, so that its step runs again: a second run of a step costs minutes, a wrong result costs trust. Nothing is ever
deleted or written over. Every file that is replaced is moved to `damaged/` first, damaged lines of the journal become
blanks of the same length so that all places in it stay true, and what it has lost is recorded in it again. Each act is
atomic, so that a repair which is killed is finished by the next.
"""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.flows import (
    checkpoints,
    claim,
    folders,
    journal,
    persisted,
    rebuilding,
    snapshots,
    soundness,
    statekeeping,
)
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.flaws import Flaw
from workflowmaster.flows.folders import UnknownWorkflow
from workflowmaster.flows.plan import Noun

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.folding import Fold
    from workflowmaster.flows.rebuilding import Fact
    from workflowmaster.flows.soundness import Look


class Mend(Noun):
    """One thing that was done."""

    what: str
    aside: str = ""
    """Where the file lies now that was there before, relative to the workflow's folder."""


class Repair(Noun):
    """What a repair has found, done and left."""

    found: tuple[Flaw, ...]
    done: tuple[Mend, ...]
    left: tuple[Flaw, ...]
    """What is still wrong: warnings that ask for somebody, or nothing."""


@dataclass
class Bench:
    """A workflow that is being mended."""

    folder: Folder
    done: list[Mend] = field(default_factory=list)

    def aside(self, path: Path, what: str, *, copy: bool = False) -> None:
        """Move a file, or a copy of it, out of the way; nothing where there is none."""
        target = ""
        if path.exists():
            place = self.folder.path / "damaged"
            place.mkdir(mode=0o700, exist_ok=True)
            kept = _free(place / f"{path.name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
            (shutil.copy2 if copy else shutil.move)(path, kept)
            target = str(kept.relative_to(self.folder.path))
        self.done.append(Mend(what=what, aside=target))

    def replace(self, path: Path, body: bytes | str, what: str) -> None:
        """Set a file aside and write another in its place."""
        self.aside(path, what, copy=True)
        write_atomically(path, body)


def repair(folder: Folder) -> Repair:
    """Mend a workflow. NeedsPerson if somebody works on it; UnknownWorkflow, with nothing changed, if it cannot be."""
    with claim.take(folder):
        return repaired(folder)


def repaired(folder: Folder) -> Repair:
    """Mend a workflow whose claim is held."""
    seen = soundness.look(folder, ours=True)
    wrong = [flaw for flaw in seen.found if flaw.severity == "error" or flaw.code == "prompt.differs"]
    if newer := next((flaw for flaw in wrong if flaw.code.endswith(".newer")), None):
        raise UnknownWorkflow(f"{folder.path}: {newer.where} {newer.what}. Nothing was changed")
    bench = Bench(folder)
    if wrong:
        _mend(bench, seen, wrong)
    left = soundness.validate(folder, ours=True) if bench.done else seen.found
    return Repair(found=tuple(seen.found), done=tuple(bench.done), left=tuple(left))


def before_resume(folder: Folder) -> tuple[Mend, ...]:
    """Mend what a resume goes by, and return what was done. The claim is held; results a resume judges itself.

    UnknownWorkflow, with nothing changed, if it cannot be mended.
    """
    seen = soundness.Look(folder)
    soundness.essentials(seen, torn_is_fine=False)
    return repaired(folder).done if seen.found else ()


def restore(folder: Folder, number: int) -> tuple[str, ...]:
    """Put the state back to a checkpoint, and return the steps whose results were dropped: they run again.

    Only what is the same now as it was then stays. UnknownWorkflow if that checkpoint cannot be believed, NeedsPerson
    if somebody works on the workflow.
    """
    with claim.take(folder):
        then = checkpoint(folder, number).state
        # As the folder says it, with all that it refuses to say.
        now = folder.state()
        dropped = tuple(step for step, result in now.results.items() if then.results.get(step) != result)
        bench = Bench(folder)
        if dropped:
            _audit(folder, "state.restored", checkpoint=number, dropped=list(dropped))
            bench.aside(folder.state_file, f"back to checkpoint {number}", copy=True)
            why = f"state restore --checkpoint {number}"
            _record(folder, statekeeping.fold(folder), rebuilding.anew(folder, dict.fromkeys(dropped, why)))
        return dropped


def checkpoint(folder: Folder, number: int) -> checkpoints.Checkpoint:
    """Return a checkpoint. UnknownWorkflow, with those there are, if there is none of that number or it is damaged."""
    path = checkpoints.files(folder).get(number)
    if path is None:
        known = ", ".join(map(str, checkpoints.files(folder))) or "none"
        raise UnknownWorkflow(f"{folder.id} has no checkpoint {number}; it has {known}")
    try:
        return checkpoints.read(path, folder)
    except ValueError as error:
        good = ", ".join(str(one.number) for one in checkpoints.good(folder)) or "none"
        raise UnknownWorkflow(f"{path}: it {error}. Good ones: {good}. Nothing was changed") from error


def _mend(bench: Bench, seen: Look, wrong: list[Flaw]) -> None:
    """Mend file by file: each needs only those before it."""
    folder = bench.folder
    plan = rebuilding.plan(folder) if seen.has("plan.") else None
    record = rebuilding.record(folder) if seen.has("run.") else None
    prompt = rebuilding.prompt(folder) if seen.has("prompt.") else None
    _audit(folder, "state.repaired", flaws=[f"{flaw.code} {flaw.where}" for flaw in wrong])
    if plan:
        bench.replace(folder.plan_file, plan.model_dump_json(), "plan.json: written again")
    if record:
        bench.aside(folder.record, "run.json: written again", copy=True)
        folders.keep(folder.record, record)
    if prompt:
        bench.replace(folder.prompt, prompt, "prompt.md: taken from the prompt's own file")
    _mend_state(bench, soundness.look(folder, ours=True) if plan or record else seen)


def _mend_state(bench: Bench, seen: Look) -> None:
    """Mend results, records, checkpoints and snapshot, by one derivation of the state."""
    folder = bench.folder
    try:
        fold = statekeeping.derived(folder)
    except ValueError as error:
        raise UnknownWorkflow(f"{folder.path}: {error}, and nothing else that is kept says what it held") from error
    rebuilding.settle(fold, seen)
    for path in _bad_results(seen):
        bench.aside(path, f"results/{path.name}: set aside")
    if seen.has("journal.damaged"):
        bench.replace(folder.journal, rebuilding.blanked(folder), "records.jsonl: damaged lines are blank now")
    facts = [*rebuilding.missing(folder, fold), *rebuilding.anew(folder, seen.untrusted)]
    for number, path in _bad_checkpoints(seen):
        bench.aside(path, f"checkpoint {number}: set aside")
    if facts or seen.has("state.", "step.", "status.mandatory", "status.running", "status.times", "journal."):
        bench.aside(folder.state_file, "state.json: derived anew", copy=True)
        _record(folder, fold, facts)
    bench.done += [Mend(what=f"{step}: its result is dropped, it runs again") for step in seen.untrusted]


def _record(folder: Folder, fold: Fold, facts: Iterable[Fact]) -> None:
    """Write facts into the journal, and the snapshot that holds them."""
    with closing(journal.Journal(folder.journal)) as records:
        at = records.size
        for kind, fields in facts:
            records.append(kind, durable=True, **fields)
    fold.take(journal.read(folder.journal, at).entries)
    fold.at = folder.journal.stat().st_size
    snapshots.write(folder, fold.state(), durable=True)


def _bad_results(seen: Look) -> list[Path]:
    names = [flaw.where.split()[0].removeprefix("results/") for flaw in seen.found if flaw.code.startswith("result.")]
    place = seen.state.results_place if seen.state else ""
    return [path for name in dict.fromkeys(names) if (path := persisted.file_of(name, place))]


def _bad_checkpoints(seen: Look) -> list[tuple[int, Path]]:
    bad = {flaw.where.removeprefix("checkpoints/") for flaw in seen.found if flaw.code.startswith("checkpoint.")}
    return [(number, path) for number, path in checkpoints.files(seen.folder).items() if path.name in bad]


def _audit(folder: Folder, event: str, **fields: Any) -> None:
    """Say what is about to be done; where it cannot be said, nothing is done."""
    with closing(AuditLog(folder.audit)) as log:
        log.append(event, **fields)


def _free(path: Path) -> Path:
    """Return a path that nothing has yet."""
    count, free = 1, path
    while free.exists():
        count, free = count + 1, path.with_name(f"{path.name}.{count}")
    return free
