"""Which steps run when something changed: the edited one and those that see a difference, for graphs nobody drew.

The keys are the real ones; what a step makes of its input is a function written down here, so that what should run can
be computed a second time without any key: by running everything.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows.past import Finished, Past
from workflowmaster.flows.plan import Plan, PromptRef, Source, Step, StepResult
from workflowmaster.flows.reuse import differs
from workflowmaster.flows.scheduling import ancestors
from workflowmaster.flows.steps import key_parts, result_key, shown
from workflowmaster.policies import load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ID = "task-20260101-000000-0000000a"
PLACE = Source(line=1, end_line=1)
STANDARD = load("standard")


def step(name: str, *needs: str, text: str = "say", **fields: Any) -> Step:
    work = {"interpreter": "sh", "text": text, "line": 1}
    body = {"id": name, "name": name, "kind": "command", "needs": needs, "work": work, "source": PLACE, **fields}
    return Step.model_validate(body)


def journey(*steps: Step, past: Past | None = None) -> Any:
    """A run as far as keys look at it."""
    prompt = PromptRef(path="p.md", sha256="0", kind="explicit")
    return SimpleNamespace(
        id=ID,
        plan=Plan(name="p", compiler="1", tasks=steps, prompt=prompt),
        record=SimpleNamespace(images={}, options=SimpleNamespace(inputs={}, agent="")),
        policies={one.id: STANDARD for one in steps},
        ancestors=ancestors(steps),
        results={},
        past=past or Past(),
        journal=SimpleNamespace(append=lambda *_, **__: None),
    )


def made(tree: frozenset[str], text: str, name: str) -> tuple[frozenset[str], dict[str, str]]:
    """What a step does: `say x # comment` leaves a file with x; `tell x` gives an output; `see` shows all it sees."""
    verb, _, rest = text.partition("#")[0].strip().partition(" ")
    if verb == "tell":
        return tree, {"word": rest}
    if verb == "see":
        rest = digest(tree)
    return frozenset({*(file for file in tree if not file.startswith(f"{name}=")), f"{name}={rest}"}), {}


def digest(tree: frozenset[str]) -> str:
    return hashlib.sha1("\n".join(sorted(tree)).encode(), usedforsecurity=False).hexdigest()


def worked(
    steps: list[Step], kept: Mapping[str, tuple[frozenset[str], dict[str, str]]], past: Past | None = None
) -> tuple[set[str], dict[str, tuple[frozenset[str], dict[str, str]]], dict[str, Any]]:
    """Go through a run: what has a result under its key comes back. Returns what ran, the results, and what was seen."""
    run, ran, results, seen = journey(*steps, past=past), set(), {}, {}
    trees: dict[str, frozenset[str]] = {}
    for one in steps:
        tree = frozenset().union(*(trees[need] for need in one.needs))
        words = {name: run.results[name].outputs for name in run.ancestors[one.id]}
        seen[one.id] = tree, words, one.work.text if one.work else ""
        key = result_key(run, one, digest(tree))
        if key not in kept:
            ran.add(one.id)
        trees[one.id], outputs = results[key] = kept.get(key) or made(tree, str(one.work and one.work.text), one.id)
        run.results[one.id] = StepResult(step=one.id, status="completed", key=key, outputs=outputs)
    return ran, results, seen


TEXTS = st.sampled_from(["say one", "say two", "say one # a comment", "tell one", "tell two", "see"])


@st.composite
def graphs(draw: Callable[..., Any]) -> list[Step]:
    steps: list[Step] = []
    for index in range(draw(st.integers(1, 7))):
        earlier = [one.id for one in steps]
        needs = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
        steps.append(step(f"s{index}", *needs, text=draw(TEXTS)))
    return steps


@given(graphs(), st.data())
def test_exactly_the_edited_step_and_what_sees_a_difference_run_again(steps: list[Step], data: st.DataObject) -> None:
    first, kept, before = worked(steps, {})
    assert first == {one.id for one in steps}
    assert worked(steps, kept)[0] == set()
    place = data.draw(st.integers(0, len(steps) - 1))
    edited = [*steps]
    edited[place] = step(steps[place].id, *steps[place].needs, text=data.draw(TEXTS))
    ran, _, _ = worked(edited, kept)
    # Everything done once more without any key tells what each step would see.
    _, _, after = worked(edited, {})
    assert ran == {name for name in after if after[name] != before[name]}


@given(graphs(), st.data())
def test_a_generation_runs_a_step_again_and_only_it_where_it_does_the_same(
    steps: list[Step], data: st.DataObject
) -> None:
    _, kept, _ = worked(steps, {})
    name = data.draw(st.sampled_from([one.id for one in steps]))
    assert worked(steps, kept, Past(generations={name: 1}))[0] == {name}


CHANGES: dict[str, dict[str, Any]] = {
    "work": {"text": "say other"},
    "check": {"check": {"interpreter": "sh", "text": "true", "line": 3}},
    "timeout": {"timeout_seconds": 7.0},
    "environment": {"env": {"A": "b"}},
    "secrets": {"secrets": ("token",)},
    "inputs": {"inputs": ("a.txt",)},
    "outputs": {"outputs": ("n",)},
    "artifacts": {"artifacts": ("*.log",)},
    "git": {"git": True},
}


@pytest.mark.parametrize("component", CHANGES)
def test_each_part_of_a_step_is_one_component_of_its_key(component: str) -> None:
    old = key_parts(journey(step("a")), step("a"), "t")
    changed = step("a", **CHANGES[component])
    new = key_parts(journey(changed), changed, "t")
    assert {name for name in new if new[name] != old[name]} == {component}


def test_a_step_that_moves_in_its_file_keeps_its_key() -> None:
    moved = step("a").model_copy(update={"source": Source(line=99, end_line=120), "name": "Another title"})
    assert result_key(journey(step("a")), step("a"), "t") == result_key(journey(moved), moved, "t")


def test_what_is_shared_is_run_anew_by_its_own_workflow() -> None:
    shared = step("a", cache=True)
    assert result_key(journey(shared), shared, "t").startswith("shared-")
    assert result_key(journey(shared, past=Past(generations={"a": 1})), shared, "t").startswith(ID)


def test_a_long_environment_is_recorded_by_variable() -> None:
    long = "x" * 5000
    part = shown({"SHORT": "a", "LONG": long})
    assert part["SHORT"] == "a"
    assert part["LONG"].startswith("sha256:")
    assert shown({"interpreter": "sh", "text": long}).startswith("sha256:")
    assert str(shown({f"V{n}": long for n in range(500)})).startswith("sha256:")


def test_a_key_that_stays_is_only_named_again() -> None:
    run, written = journey(step("a")), []
    run.journal = SimpleNamespace(append=lambda kind, **fields: written.append(set(fields)))
    for _ in range(2):
        result_key(run, step("a"), "t")
    assert written == [{"step", "key", "parts"}, {"step", "key"}]


# --- what was persisted against what was recorded ---

OWN = {"step": "a", "status": "completed", "key": f"{ID}-k", "workflow": ID, "commit": "c0", "input_commit": "b0"}


@pytest.mark.parametrize(
    ("persisted", "recorded", "wrong"),
    [
        ({}, {}, ""),
        ({"commit": "c1"}, {}, "it is not what was recorded: commit"),
        ({"outputs": {"n": "1"}, "exit_code": 0}, {}, "it is not what was recorded: exit_code, outputs"),
        ({"step": "b"}, {}, "it is the result of step b"),
        ({"key": f"{ID}-l"}, {}, "it is the result of step a"),
        # Another workflow's tree was taken over as a commit of our own.
        ({"workflow": "task-other", "commit": "e0", "input_commit": "d0"}, {"workflow": "task-other"}, ""),
    ],
)
def test_a_persisted_result_must_be_the_recorded_one(
    persisted: dict[str, Any], recorded: dict[str, Any], wrong: str
) -> None:
    found = StepResult.model_validate({**OWN, **persisted})
    known = StepResult.model_validate({**OWN, **recorded}).model_dump(mode="json")
    assert differs(found, step("a"), Finished(f"{ID}-k", known, "", ""), own=ID) == wrong
