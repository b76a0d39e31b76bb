"""Why a step ran, came back or did not run: said from the records, and the change that made it run named old → new."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import keychanges, reasons
from workflowmaster.flows.journal import Journal, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflowmaster.flows.reasons import Reason

ID = "task-20260101-000000-0000000a"
Make = SimpleNamespace
PARTS = {"work": {"interpreter": "sh", "text": "echo one"}, "policy": "11" * 32, "tree": "aa" * 20, "timeout": 300.0}


@pytest.fixture
def told(tmp_path: Path, make: Make) -> Callable[..., Reason]:
    """Write records about step `b`, which needs `a`, and ask for its reason."""

    def ask(*records: tuple[str, dict[str, Any]], step: str = "b", **fields: Any) -> Reason:
        journal = Journal(tmp_path / "records.jsonl")
        for kind, body in records:
            journal.append(kind, **body)  # type: ignore[arg-type]
        journal.close()
        plan = make.plan(make.step("a"), make.step("b", "a"), make.step("c", "b"))
        known = {"living": False, "aborted": "", **fields}
        run = reasons.Run(id=ID, plan=plan, trails=reasons.trails(read(journal.path).entries), **known)
        keys = run.trails[step].keys if step in run.trails else []
        changed = (
            keychanges.changes(keys[-2]["parts"], keys[-1]["parts"], texts={}, files=lambda *_: ("M a.txt (from a)",))
            if len(keys) > 1
            else []
        )
        return reasons.reason(run, plan.step(step), changed)

    return ask


def keys(step: str, key: str, **parts: Any) -> tuple[str, dict[str, Any]]:
    return "keys", {"step": step, "key": key, "parts": {**PARTS, **parts}}


def result(step: str, status: str = "completed", key: str = "k1", **fields: Any) -> tuple[str, dict[str, Any]]:
    more = {name: fields.pop(name) for name in ("reused", "refused") if name in fields}
    body = {"step": step, "status": status, "key": key, "workflow": ID, "commit": "c0" * 20, **fields}
    return "result", {"step": step, "result": body, **more}


def decision(step: str, attempt: int, verb: str, reason: str) -> tuple[str, dict[str, Any]]:
    return "decision", {
        "step": step,
        "verb": verb,
        "reason": reason,
        "key": "k1",
        "factors": {"attempt": attempt, "failure": f"exit code {attempt}"},
    }


CASES: dict[str, tuple[list[tuple[str, dict[str, Any]]], dict[str, Any], str, str]] = {
    "never begun": ([], {}, "pending", "it needs a, which has not ended"),
    "its turn comes": ([result("a")], {"living": True}, "pending", "its turn has not come"),
    "under way": ([keys("b", "k1")], {"living": True}, "running", "it has not ended"),
    "killed": ([keys("b", "k1")], {}, "interrupted", f"workflowmaster resume {ID}"),
    "first time": ([keys("b", "k1"), result("b")], {}, "ran", "it had no result yet"),
    "came back": ([keys("b", "k1"), result("b")], {"reused": frozenset({"b"})}, "reused", "its result was there"),
    "came back by Prefect": ([keys("b", "k1"), result("b", reused=True)], {}, "reused", "its result was there"),
    "made elsewhere": (
        [keys("b", "shared-1"), result("b", key="shared-1", workflow="task-other")],
        {},
        "reused",
        "workflow task-other had done the same",
    ),
    "adopted": (
        [keys("b", "k1"), result("b", receipts=[{"container_id": "c", "policy": "standard", "adopted": True}])],
        {},
        "adopted",
        "outlived the process",
    ),
    "abandoned": (
        [
            keys("b", "k1"),
            ("go", {"step": "b", "container": "c0", "attempt": 1}),
            ("ended", {"container": "c0", "reason": "its deadline had passed"}),
            result("b"),
        ],
        {},
        "ran",
        "could not be taken over: its deadline had passed",
    ),
    "after a failure": (
        [keys("b", "k1"), result("b", "failed", reason="exit code 3"), result("b")],
        {},
        "ran again",
        "it had not completed before: exit code 3",
    ),
    "made to": (
        [keys("b", "k1"), result("b"), ("rerun", {"steps": ["b"], "generation": 1, "why": "resume --from a"}),
         keys("b", "k2", generation=1), result("b", key="k2")],
        {},
        "ran again",
        "resume --from a",
    ),
    "refused": ([keys("b", "k1"), result("b", "failed", refused=True, reason="no seccomp")], {}, "refused", "no seccomp"),
    "condition": (
        [result("b", "skipped", reason="its condition is not met: failure()")], {}, "skipped", "failure()"
    ),
    "blocked": (
        [result("a", "failed", reason="exit code 9"), result("b", "blocked", reason="it needs a, which is failed")],
        {},
        "blocked",
        "the cause is a: exit code 9",
    ),
    "aborted": ([result("a", "failed")], {"aborted": "step a failed"}, "aborted", "before its turn: step a failed"),
    "tried again": (
        [keys("b", "k1"), result("b", "failed", reason="exit code 3"), ("keys", {"step": "b", "key": "k1"})],
        {"living": True, "running": frozenset({"b"})},
        "running",
        "it has not ended",
    ),
    "named again": (
        [keys("b", "k1"), result("b"), ("keys", {"step": "b", "key": "k1"})],
        {"reused": frozenset({"b"})},
        "reused",
        "its result was there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_way_a_step_can_be_is_named_with_its_reason(name: str, told: Callable[..., Reason]) -> None:
    records, fields, verdict, because = CASES[name]
    found = told(*records, **fields)
    assert found.verdict == verdict
    assert because in found.because


def test_the_cause_is_followed_to_the_step_that_is_it(told: Callable[..., Reason]) -> None:
    found = told(
        result("a", "skipped", reason="its condition is not met: inputs.deploy"),
        result("b", "skipped", reason="it needs a, which is skipped"),
        result("c", "skipped", reason="it needs b, which is skipped"),
        step="c",
    )
    assert found.verdict == "skipped"
    assert found.because == "it needs b, which is skipped; the cause is a: its condition is not met: inputs.deploy"


def test_every_attempt_and_its_decision_is_told(told: Callable[..., Reason]) -> None:
    found = told(
        keys("b", "k1"),
        decision("b", 1, "retry", "attempts-left: 1 of 2 retries"),
        decision("b", 2, "continue", "retries-spent: no attempt is left"),
        result("b", "failed", reason="exit code 2", attempts=2),
    )
    assert found.attempts == 2
    assert [(one.attempt, one.verb, one.failure) for one in found.decisions] == [
        (1, "retry", "exit code 1"),
        (2, "continue", "exit code 2"),
    ]


@pytest.mark.parametrize(
    ("parts", "component", "detail"),
    [
        ({"work": {"interpreter": "sh", "text": "echo two"}}, "work", ("@@ -1 +1 @@", "-echo one", "+echo two")),
        ({"policy": "22" * 32}, "policy", ()),
        ({"tree": "bb" * 20}, "tree", ("M a.txt (from a)",)),
        ({"timeout": 60.0}, "timeout", ()),
    ],
)
def test_the_component_that_changed_is_named_old_and_new(
    parts: dict[str, Any], component: str, detail: tuple[str, ...], told: Callable[..., Reason]
) -> None:
    found = told(keys("b", "k1"), result("b"), keys("b", "k2", **parts), result("b", key="k2"))
    assert found.verdict == "ran again"
    (change,) = found.changes
    assert (change["component"], change["old"], change["new"]) == (component, PARTS[component], parts[component])
    assert tuple(change["detail"]) == detail


def changed(old: dict[str, Any], new: dict[str, Any], **texts: str) -> list[keychanges.Change]:
    return keychanges.changes(old, new, texts=texts, files=lambda *_: ())


def test_variables_are_named_one_by_one() -> None:
    (change,) = changed(
        {"environment": {"HOME": "/tmp", "INPUT_WHO": "ada", "GONE": "x"}},
        {"environment": {"HOME": "/tmp", "INPUT_WHO": "bob", "STEP_A_N": "3"}},
    )
    assert change.detail == ("GONE: x → nothing", "INPUT_WHO: ada → bob", "STEP_A_N: nothing → 3")


def test_a_long_script_is_looked_up_by_its_hash_among_the_plans(make: Make) -> None:
    long = "\n".join(f"echo {n}" for n in range(400))
    one, two = (make.plan(make.step("a", script=text)) for text in (long, long.replace("echo 7\n", "echo seven\n")))
    known = keychanges.texts([one, two])
    old, new = known
    (change,) = keychanges.changes({"work": old}, {"work": new}, texts=known, files=lambda *_: ())
    assert "-echo 7" in change.detail
    assert "+echo seven" in change.detail
    (lost,) = keychanges.changes({"work": "sha256:00"}, {"work": new}, texts=known, files=lambda *_: ())
    assert lost.detail == ("its text is no longer known",)


def test_what_one_key_has_and_the_other_lacks_is_a_change_too() -> None:
    (more,) = changed({}, {"network": "pypi.org"})
    (less,) = changed({"network": "pypi.org"}, {})
    assert str(more) == "the hosts it may reach (network): nothing → pypi.org"
    assert str(less) == "the hosts it may reach (network): pypi.org → nothing"
    assert changed(PARTS, dict(PARTS)) == []
