"""`why`: each step's reason, and where a step ran again the components of its key that changed, old → new."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

import pygit2

from workflowmaster.blocks import export
from workflowmaster.blocks.objectstore import ObjectStore, WorkspaceError
from workflowmaster.flows import folders, journal, keychanges
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.claim import claimed
from workflowmaster.flows.diagnostics import did_you_mean
from workflowmaster.flows.looking import out
from workflowmaster.flows.plan import Plan
from workflowmaster.flows.reasons import Run, Trail, reason, trails
from workflowmaster.flows.scheduling import ancestors

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from workflowmaster.flows.folders import Folder
    from workflowmaster.flows.journal import Records
    from workflowmaster.flows.keychanges import Change
    from workflowmaster.flows.plan import Step
    from workflowmaster.flows.reasons import Reason

MOST_FILES = 5
"""Changed files that are named."""


def why(given: argparse.Namespace) -> int:
    """Say why steps ran, came back, or did not run."""
    folder = folders.find(given.id)
    found = reasons(folder, given.step)
    edits = [entry.fields for entry in journal.read(folder.journal).of("plan")]
    if given.json:
        steps = [one.model_dump(mode="json") for one in found]
        out(json.dumps({"workflow_id": folder.id, "plans": edits, "steps": steps}))
        return 0
    for edit in [] if given.step else edits:
        out(_edit(edit))
    for one in found:
        out("\n".join(_lines(one)))
    return 0


def reasons(folder: Folder, step_id: str | None = None) -> list[Reason]:
    """Return the reason of one step or of all, in the plan's order. BadOption for a step that the run has not."""
    plan, state = folder.plan(), folder.state()
    chosen = [step for step in plan.tasks if step_id in (None, step.id)]
    if not chosen:
        ids = [step.id for step in plan.tasks]
        known = did_you_mean(str(step_id), ids) or f"its steps are {', '.join(ids[:12])}{' …' if len(ids) > 12 else ''}"
        raise BadOption(f"{folder.id} has no step {step_id!r}; {known}")
    known_records = journal.read(folder.journal)
    aborted = state.reason if state.status == "aborted" else ""
    by_step = trails(known_records.entries)
    living = claimed(folder)
    running = frozenset(state.running) if living else frozenset()
    run = Run(folder.id, plan, by_step, living, aborted, running, frozenset(state.reused))
    with _Trees(folder, plan, known_records) as trees:
        return [reason(run, step, _changed(folder, run, step, trees)) for step in chosen]


def _changed(folder: Folder, run: Run, step: Step, trees: _Trees) -> list[Change]:
    """Compare a step's last two keys, if it ever had two."""
    keys = run.trails.get(step.id, Trail()).keys
    if len(keys) < 2:
        return []
    old, new = keys[-2]["parts"], keys[-1]["parts"]
    return keychanges.changes(
        old, new, texts=_texts(folder, run.plan, old, new), files=lambda a, b: trees.differ(step, a, b)
    )


def _texts(folder: Folder, plan: Plan, *parts: dict[str, Any]) -> dict[str, str]:
    """Return the scripts of all plans of the run, where a key has only a script's hash."""
    if not any(isinstance(part.get(name), str) for part in parts for name in ("work", "check")):
        return {}
    earlier = sorted(folder.earlier_plan("x").parent.glob("*.json"))
    return keychanges.texts([plan, *(Plan.model_validate_json(path.read_bytes()) for path in earlier)])


class _Trees:
    """Tells what differs between two input trees, and which steps made the difference."""

    def __init__(self, folder: Folder, plan: Plan, records: Records) -> None:
        self.folder, self._before = folder, ancestors(plan.tasks)
        self._order = [step.id for step in plan.tasks]
        self._results = {entry.fields["step"]: entry.fields["result"] for entry in records.of("result")}
        self._touched: dict[str, frozenset[str]] = {}
        self._store: ObjectStore | None = None

    def __enter__(self) -> Self:
        if (self.folder.git_dir / "HEAD").exists():
            self._store = ObjectStore.create(self.folder.git_dir, alternate=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._store:
            self._store.repo.free()

    def differ(self, step: Step, old: str, new: str) -> tuple[str, ...]:
        """Name the first files that differ, each with the last step before this one that changed it."""
        store = self._store
        if store is None:
            return ("its trees are gone",)
        try:
            found = export.changes(store, bytes.fromhex(old), bytes.fromhex(new))
        except (WorkspaceError, KeyError, ValueError):
            return ("its trees are gone",)
        more = [f"… {len(found) - MOST_FILES} files more"] if len(found) > MOST_FILES else []
        return (*(f"{one.status} {one.path}{self._from(step, one.path)}" for one in found[:MOST_FILES]), *more)

    def _from(self, step: Step, path: str) -> str:
        makers = (name for name in reversed(self._order) if name in self._before[step.id])
        maker = next((name for name in makers if path in self._paths(name)), "")
        return f" (from {maker})" if maker else ""

    def _paths(self, name: str) -> frozenset[str]:
        if name not in self._touched:
            self._touched[name] = frozenset(self._changed_by(name))
        return self._touched[name]

    def _changed_by(self, name: str) -> Iterator[str]:
        result, store = self._results.get(name), self._store
        if not (store and result and result["commit"] and result["commit"] != result["input_commit"]):
            return
        try:
            ends = [_tree(store, result[end]) for end in ("input_commit", "commit")]
            yield from (one.path for one in export.changes(store, *ends))
        except (WorkspaceError, KeyError, ValueError):
            return


def _tree(store: ObjectStore, commit: str) -> bytes:
    """Return the tree of a commit. KeyError if the store has no such commit."""
    found = store.repo[commit]
    if not isinstance(found, pygit2.Commit):
        raise KeyError(commit)
    return found.tree_id.raw


def _edit(fields: dict[str, Any]) -> str:
    parts = [f"{sort} {', '.join(fields[sort])}" for sort in ("new", "changed", "gone") if fields.get(sort)]
    old, new = str(fields.get("old", "")), str(fields.get("hash", ""))
    return f"the prompt was edited: plan {old[:12]} → {new[:12]}; {'; '.join(parts) or 'no step differs'}"


def _lines(one: Reason) -> list[str]:
    lines = [f"{one.step}  {one.verdict}: {one.because}"]
    lines += [f"    attempt {each.attempt}: {each.verb}, {each.reason} ({each.failure})" for each in one.decisions]
    for change in map(keychanges.Change.model_validate, one.changes):
        lines.append(f"    {change}")
        lines += [f"      {line}" for line in change.detail if len(change.detail) > 1]
    return lines
