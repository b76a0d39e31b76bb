"""Makes a workflow's state out of its records, one after the other.

The run itself draws its state this way too, instead of from its own variables: what a person sees while it works, what
a snapshot holds and what is found again after a crash then cannot differ, because one function made all of them. It
costs the run a second look at each of its records. Applying a record twice changes nothing, so a reader who does not
know exactly where a snapshot ends may begin too early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflowmaster.flows import schemas
from workflowmaster.flows.plan import Account, Decision, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workflowmaster.flows.journal import Entry
    from workflowmaster.flows.plan import Plan
    from workflowmaster.flows.state import WorkflowState

KEPT = ("branch", "commit", "pull_request", "report")
"""What one part of a run leaves stays true when a later part makes nothing in its place."""


class Fold:
    """A state in the making. It starts from a snapshot, or from an empty state, and takes records in."""

    def __init__(self, base: WorkflowState, reload: Callable[[], Plan]) -> None:
        self._base = base
        self._reload = reload
        """Reads the plan, where a part of the run began to go by another one."""
        self._changes: dict[str, Any] = {}
        self.wrong = ""
        """Why the snapshot could not be believed, where it was not."""
        self.at = base.journal_at
        """Bytes of the journal that were taken in."""
        self.results = dict(base.results)
        self.running = dict.fromkeys(base.running)
        self.reused = dict.fromkeys(base.reused)
        self.decisions = list(base.decisions)
        self.generations = dict(base.generations)
        self.keys = {step: result.key for step, result in base.results.items()}
        """Step → key of its latest attempt, which is the name of its persisted result."""
        self.anew: set[str] = set()
        """Steps that must run again and have not begun to."""

    @property
    def ids(self) -> frozenset[str]:
        """Ids of the plan's steps."""
        return frozenset(step.id for step in self._now("plan").tasks)

    def take(self, entries: Iterable[Entry], *, until: int | None = None) -> Fold:
        """Take records in, in order, up to a byte of the journal. ValueError for one of a newer version."""
        kinds: dict[str, Callable[[Entry], None]] = {
            "keys": self._keys,
            "result": self._result,
            "rerun": self._rerun,
            "decision": self._decision,
            "claim": self._claim,
            "begun": self._begun,
            "closed": self._closed,
        }
        for entry in entries:
            if until is not None and entry.end > until:
                break
            if entry.kind in kinds:
                kinds[entry.kind](entry)
            self._age(entry.at)
            self.at = entry.end
        return self

    def recall(self, entries: Iterable[Entry]) -> Fold:
        """Learn from records that the base holds already which key each step has, and which steps must run anew."""
        for entry in entries:
            if entry.kind == "rerun":
                self.anew |= set(entry.fields["steps"])
            elif entry.kind in ("keys", "result"):
                self.anew.discard(entry.fields["step"])
                if key := entry.fields.get("key") or entry.fields.get("result", {}).get("key"):
                    self.keys[entry.fields["step"]] = key
        for step in self.anew:
            self.keys.pop(step, None)
        return self

    def trust(self, result: StepResult) -> bool:
        """Take in a persisted result, which wins over what the records say of the same key. Returns whether it did.

        It does not where the step is to run anew, or has another key by now.
        """
        step, known = result.step, self.results.get(result.step)
        if step not in self.ids or step in self.anew or self.keys.get(step, result.key) != result.key:
            return False
        if known and known.key == result.key and known.status == result.status == "completed":
            return False
        self._settle(result)
        return True

    def drop(self, step: str) -> None:
        """Forget a step's result, so that it runs again."""
        self.results.pop(step, None)
        self.reused.pop(step, None)

    def correct(self, **changes: Any) -> None:
        """Set fields that were found to be wrong."""
        self._changes |= changes

    def state(self) -> WorkflowState:
        """Return the state as it stands."""
        ids = self.ids
        results = {step: result for step, result in self.results.items() if step in ids}
        issue = next((r.outputs["issue"] for r in results.values() if "issue" in r.outputs), "")
        return self._base.model_copy(
            update={
                "results": results,
                "running": tuple(step for step in self.running if step in ids),
                "reused": tuple(step for step in self.reused if step in results),
                "decisions": tuple(self.decisions),
                "generations": {step: count for step, count in self.generations.items() if step in ids},
                "issue": issue or self._base.issue,
                **self._changes,
                "journal_at": self.at,
            }
        )

    def _now(self, field: str) -> Any:
        return self._changes.get(field, getattr(self._base, field))

    def _age(self, at: float) -> None:
        began = self._now("started_at")
        if self._now("status") == "running" and began:
            # A clock that was put back must not make a run younger than nothing.
            self._changes["seconds"] = max(0.0, at - began)

    def _keys(self, entry: Entry) -> None:
        """Take in that a step is about to run, or to come back: another key's result is no longer its own."""
        step, key = entry.fields["step"], entry.fields["key"]
        known = self.results.get(step)
        self.keys[step] = key
        self.anew.discard(step)
        if known and known.status == "completed" and known.key == key:
            # It comes back, and says no more; if it does not hold, a `rerun` follows.
            self.reused[step] = None
        else:
            self.drop(step)
            self.running[step] = None

    def _result(self, entry: Entry) -> None:
        given = entry.fields["result"]
        schemas.readable(given, 1, "the result of a step")
        result = StepResult.model_validate(given)
        self._settle(result)
        self.anew.discard(result.step)
        if entry.fields["reused"]:
            self.reused[result.step] = None
        else:
            self.reused.pop(result.step, None)

    def _settle(self, result: StepResult) -> None:
        self.results[result.step] = result
        self.running.pop(result.step, None)
        if result.key:
            self.keys[result.step] = result.key

    def _rerun(self, entry: Entry) -> None:
        for step in entry.fields["steps"]:
            self.drop(step)
            self.keys.pop(step, None)
            self.running.pop(step, None)
            self.anew.add(step)
            self.generations[step] = max(entry.fields["generation"], self.generations.get(step, 0))
        if self._now("status") != "running" and entry.fields["steps"]:
            self._changes |= {"status": "partial", "reason": f"to run again: {', '.join(entry.fields['steps'])}"}

    def _decision(self, entry: Entry) -> None:
        # A record has its own time, which is the decision's; one of an older version has fewer fields.
        known = {name: entry.fields[name] for name in Decision.model_fields if name in entry.fields}
        decision = Decision.model_validate({**known, "at": entry.at})
        if decision not in self.decisions:
            self.decisions.append(decision)

    def _claim(self, entry: Entry) -> None:
        del entry
        self.running.clear()

    def _begun(self, entry: Entry) -> None:
        """Take in that a part of the run begins: it re-uses nothing yet, and what earlier parts left still stands."""
        fields = entry.fields
        if fields["plan_hash"] != self._now("plan_hash"):
            self._changes["plan"] = self._reload()
        self.running.clear()
        self.reused.clear()
        known = {name: value for name, value in fields.items() if name in type(self._base).model_fields}
        self._changes |= {**known, "status": "running", "reason": "", "seconds": 0.0}

    def _closed(self, entry: Entry) -> None:
        self.running.clear()
        kept = {name: entry.fields[name] or self._now(name) for name in KEPT}
        self._changes |= {"status": entry.fields["status"], "reason": entry.fields["reason"], **kept}
        self._changes["seconds"] = entry.fields["seconds"]
        if budget := entry.fields.get("budget"):
            self._changes["budget"] = Account.model_validate(budget)
