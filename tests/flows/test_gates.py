"""Whether a step may run, and what its end means for the rest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows import gates
from workflowmaster.flows.past import Past
from workflowmaster.flows.plan import Decision, Plan, PromptRef, Source, Step, StepResult
from workflowmaster.flows.scheduling import ReadyQueue, ancestors

if TYPE_CHECKING:
    from collections.abc import Callable

PLACE = Source(line=1, end_line=1)


def step(name: str, *needs: str, kind: str = "command", **fields: Any) -> Step:
    body = {"id": name, "name": name, "kind": kind, "needs": needs, "source": PLACE, **fields}
    return Step.model_validate(body)


def journey(*steps: Step, approvals: dict[str, str] | None = None, inputs: dict[str, str] | None = None) -> Any:
    """A run as far as gates look at it: what has ended, what was answered, what was asked for."""
    plan = Plan(name="p", compiler="1", tasks=steps, prompt=PromptRef(path="p.md", sha256="0", kind="explicit"))
    record = SimpleNamespace(approvals=approvals or {}, options=SimpleNamespace(inputs=inputs or {}))
    return SimpleNamespace(
        id="task-1",
        plan=plan,
        record=record,
        past=Past(),
        results={},
        passed=set(),
        inputs={},
        keys={},
        ancestors=ancestors(steps),
        store=SimpleNamespace(base="c0ffee"),
        claim=SimpleNamespace(epoch=1),
        deciding=SimpleNamespace(last={}),
    )


def end(run: Any, one: Step, status: str, **outputs: str) -> StepResult:
    """Let a step end, as the scheduler does."""
    result = StepResult.model_validate(
        {
            "step": one.id,
            "status": status,
            "key": "",
            "reason": "exit 1" if status == "failed" else "",
            "outputs": outputs,
        }
    )
    run.results[one.id] = gates.after(one, result, run)
    settled: StepResult = run.results[one.id]
    return settled


@pytest.mark.parametrize(
    ("statuses", "condition", "verdict"),
    [
        (["completed", "completed"], "", None),
        (["completed", "failed"], "", ("blocked", "it needs b, which is failed")),
        (["blocked", "failed"], "", ("blocked", "it needs a, which is blocked; b, which is failed")),
        (["completed", "skipped"], "", ("skipped", "it needs b, which is skipped")),
        (["skipped", "failed"], "", ("blocked", "it needs a, which is skipped; b, which is failed")),
        (["waiting", "completed"], "", ("waiting", "it needs a, which is waiting")),
        (["waiting", "skipped"], "", ("waiting", "it needs a, which is waiting; b, which is skipped")),
        (["waiting", "failed"], "", ("blocked", "it needs a, which is waiting; b, which is failed")),
        (["completed", "failed"], "always()", None),
        (["completed", "failed"], "failure()", None),
        (["completed", "completed"], "failure()", ("skipped", "its condition is not met: failure()")),
        (["completed", "failed"], "success()", ("blocked", "it needs b, which is failed")),
        (["completed", "completed"], 'steps.a.status == "completed"', None),
        (["completed", "completed"], "false", ("skipped", "its condition is not met: false")),
        (["completed", "failed"], 'steps.a.status == "completed"', ("blocked", "it needs b, which is failed")),
    ],
)
def test_what_its_needs_and_its_condition_mean(
    statuses: list[str], condition: str, verdict: tuple[str, str] | None
) -> None:
    first, second, third = step("a"), step("b"), step("c", "a", "b", condition=condition)
    run = journey(first, second, third)
    for one, status in zip((first, second), statuses, strict=True):
        end(run, one, status)
    found = gates.before(third, run)
    assert (found and (found.status, found.reason)) == verdict


def test_a_condition_sees_outputs_inputs_and_the_matrix() -> None:
    first = step("a")
    wants = 'steps.a.outputs.changed == "3" and inputs.mode == "fast" and matrix.python == "3.12"'
    second = step("b", "a", condition=wants, matrix={"python": "3.12"})
    run = journey(first, second, inputs={"mode": "fast"})
    end(run, first, "completed", changed="3")
    assert gates.before(second, run) is None
    assert gates.before(second.model_copy(update={"matrix": {"python": "3.11"}}), run).status == "skipped"


def test_many_needs_in_the_way_are_counted() -> None:
    many = [step(f"s{n}") for n in range(5)]
    last = step("last", *(one.id for one in many))
    run = journey(*many, last)
    for one in many:
        end(run, one, "failed")
    listed = "it needs s0, which is failed; s1, which is failed; s2, which is failed and 2 more"
    assert gates.before(last, run).reason == listed


@pytest.mark.parametrize(
    ("fields", "status", "passes"),
    [
        ({}, "failed", False),
        ({"continue_on_error": True}, "failed", True),
        ({"on_failure": "skip"}, "skipped", True),
        ({"on_failure": "escalate"}, "waiting", False),
        ({"on_failure": "abort"}, "failed", False),
        ({"on_failure": "auto"}, "failed", False),
    ],
)
def test_what_a_failure_becomes(fields: dict[str, Any], status: str, passes: bool) -> None:
    one = step("a", **fields)
    run = journey(one)
    result = end(run, one, "failed")
    assert (result.status, "a" in run.passed) == (status, passes)
    assert bool(gates.aborts(one, result, run)) == (fields.get("on_failure") == "abort")


@pytest.mark.parametrize(
    ("decided", "status", "passes", "said"),
    [
        ({"verb": "continue", "rule": "medium-goes-on"}, "failed", False, "exit 1"),
        (
            {"verb": "skip", "rule": "low-and-late", "factors": {"dependants_run": True}},
            "skipped",
            True,
            "given up, as the rule low-and-late says: exit 1",
        ),
        (
            {"verb": "skip", "rule": "unwell", "factors": {"dependants_run": False}},
            "skipped",
            False,
            "given up, as the rule unwell says: exit 1",
        ),
        (
            {"verb": "skip", "rule": "prompt-skips", "factors": {"dependants_run": True}},
            "skipped",
            True,
            "given up, as its on-failure says: exit 1",
        ),
        ({"verb": "escalate", "rule": "otherwise"}, "waiting", False, "it failed and asks for a person: exit 1"),
        ({"verb": "abort", "rule": "mandatory-permanent"}, "failed", False, "exit 1"),
    ],
)
def test_what_was_decided_is_obeyed(decided: dict[str, Any], status: str, passes: bool, said: str) -> None:
    one = step("a")
    run = journey(one)
    run.deciding.last["a"] = Decision(step="a", reason=f"{decided['rule']}: why", **decided)
    result = end(run, one, "failed")
    assert (result.status, "a" in run.passed, result.reason) == (status, passes, said)
    stop = "step a failed: exit 1 (mandatory-permanent: why)" if decided["verb"] == "abort" else ""
    assert gates.aborts(one, result, run) == stop


@pytest.mark.parametrize(
    ("fields", "rule", "waived"),
    [
        ({}, "unwell", True),
        ({"priority": "low"}, "low-and-late", False),
        ({"mandatory": False}, "unwell", False),
        ({"on_failure": "skip"}, "prompt-skips", False),
    ],
)
def test_what_a_rule_of_ours_gives_up_is_waived_unless_somebody_said_that_it_may(
    fields: dict[str, Any], rule: str, waived: bool
) -> None:
    one = step("a", **fields)
    run = journey(one)
    run.deciding.last["a"] = Decision(step="a", verb="skip", reason=f"{rule}: so", rule=rule)
    assert (end(run, one, "failed").status, run.results["a"].waived) == ("skipped", waived)


def test_a_spent_budget_stops_the_run_in_its_own_way() -> None:
    one = step("a")
    run = journey(one)
    run.deciding.last["a"] = Decision(step="a", verb="abort", reason="budget-spent: why", rule="budget-spent")
    assert gates.aborts(one, end(run, one, "failed"), run) == ""


@pytest.mark.parametrize("fields", [{"approval": True}, {"kind": "approval"}])
@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (None, ("waiting", "a person must approve this: workflowmaster approve task-1 --step b")),
        ("denied by ada", ("failed", "denied by ada")),
        ("approved by ada", None),
    ],
)
def test_a_step_waits_for_its_approval(
    fields: dict[str, Any], answer: str | None, verdict: tuple[str, str] | None
) -> None:
    first, second = step("a"), step("b", "a", **fields)
    run = journey(first, second, approvals={"b": answer} if answer else {})
    end(run, first, "completed")
    found = gates.before(second, run)
    assert (found and (found.status, found.reason)) == verdict


def test_nobody_is_asked_about_a_step_that_will_not_run() -> None:
    first = step("a")
    run = journey(first, step("b", "a", approval=True), step("c", "a", approval=True, condition="false"))
    end(run, first, "completed")
    assert gates.before(run.plan.tasks[2], run).status == "skipped"
    run.results.clear()
    run.passed.clear()
    end(run, first, "failed")
    assert gates.before(run.plan.tasks[1], run).status == "blocked"


def test_an_escalated_step_that_is_denied_has_failed() -> None:
    one = step("a", on_failure="escalate")
    assert end(journey(one, approvals={"a": "approved by ada"}), one, "failed").status == "waiting"
    assert end(journey(one, approvals={"a": "denied by ada"}), one, "failed").status == "failed"


@st.composite
def fated(draw: Callable[..., Any]) -> list[tuple[Step, str]]:
    """An acyclic graph in which it is known beforehand how each step ends, if it runs."""
    made = []
    for index in range(draw(st.integers(1, 10))):
        names = [f"s{n}" for n in range(index)]
        needs = draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
        fields = {
            "condition": draw(st.sampled_from(["", "", "always()", "failure()", "false"])),
            "on_failure": draw(st.sampled_from(["auto", "skip", "escalate"])),
            "continue_on_error": draw(st.booleans()),
            "approval": draw(st.sampled_from([False, False, True])),
        }
        made.append((step(f"s{index}", *needs, **fields), draw(st.sampled_from(["completed", "failed"]))))
    return made


@given(fated())
def test_every_step_of_any_graph_ends_somehow_and_nothing_runs_on_a_failure(fates: list[tuple[Step, str]]) -> None:
    run = journey(*(one for one, _ in fates))
    fate = {one.id: status for one, status in fates}
    queue, ran = ReadyQueue([one for one, _ in fates]), set[str]()
    while queue:
        one = queue.take()
        verdict = gates.before(one, run)
        if verdict is None:
            ran.add(one.id)
            end(run, one, fate[one.id])
        else:
            run.results[one.id] = gates.after(one, verdict, run)
        queue.end(one.id)
    assert set(run.results) == set(fate)
    for one, _ in fates:
        if one.id in ran and one.condition in ("", "false"):
            assert set(one.needs) <= run.passed
        if run.results[one.id].status in ("blocked", "skipped", "waiting") and one.id not in ran:
            assert one.id not in run.passed
