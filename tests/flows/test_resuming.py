"""What a resume asks to be other than the run has kept: an edited prompt, a step to begin from, and what both change."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.flows import compiler, folders, prompts, resuming
from workflowmaster.flows.asking import BadOption, Options, plan_of
from workflowmaster.flows.diagnostics import PromptError
from workflowmaster.flows.folders import Folder
from workflowmaster.flows.journal import Journal, read
from workflowmaster.flows.journey import Record
from workflowmaster.flows.past import past
from workflowmaster.flows.settings import Settings
from workflowmaster.flows.state import WorkflowState

if TYPE_CHECKING:
    from collections.abc import Callable

ID = "task-20260101-000000-0000000a"
PROMPT = """\
---
inputs:
  who: {type: string, default: ada}
  place: {type: string, default: here}
---
# Four steps

## Steps

### first
```sh
echo one
```

### left
- needs: first
```sh
echo left
```

### right
- needs: first
```sh
echo right
```

### last
- needs: left, right
```sh
echo last
```
"""


@pytest.fixture
def kept(home: Path, tmp_path: Path) -> Callable[..., Folder]:
    """Keep a run of a prompt, as `run` does, without running it."""

    def keep(text: str = PROMPT, **inputs: str) -> Folder:
        source = tmp_path / "prompt.md"
        source.write_text(text)
        asked = Options(prompt=str(source), workspace=str(tmp_path), inputs=inputs)
        plan = plan_of(asked, Settings())
        asked = asked.model_copy(update={"inputs": plan.input_values})
        folder = folders.create(ID)
        record = Record(
            workflow_id=ID,
            options=asked,
            source=str(source),
            workflow_hash=plan.workflow_hash,
            images={"i": "sha256:1"},
        )
        folder.record.write_text(record.model_dump_json())
        folder.plan_file.write_text(plan.model_dump_json())
        folder.prompt.write_text(text)
        folder.state_file.write_text(WorkflowState(workflow_id=ID, plan=plan).model_dump_json())
        return folder

    return keep


def edit(folder: Folder, *changes: tuple[str, str]) -> None:
    source = Path(json.loads(folder.record.read_text())["source"])
    text = source.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    source.write_text(text)


def opened(folder: Folder, **fields: Any) -> Any:
    """A journey as far as `apply` looks at it."""
    record = folders.kept(folder.record, Record).model_copy(update=fields)
    events: list[tuple[str, dict[str, Any]]] = []
    audit = SimpleNamespace(append=lambda event, **told: events.append((event, told)), events=events)
    made = SimpleNamespace(
        folder=folder, record=record, journal=Journal(folder.journal), past=past(folder.journal), audit=audit
    )
    made.claim = SimpleNamespace(must_hold=lambda **_: None)
    return made


def test_a_prompt_that_is_as_it_was_changes_nothing(kept: Callable[..., Folder]) -> None:
    asked = resuming.wish(kept(), Settings())
    assert (asked.edited, asked.difference, asked.again, asked.told) == (None, None, (), ())


@pytest.mark.parametrize(
    ("changes", "new", "changed", "gone"),
    [
        ([("echo left", "echo LEFT")], (), ("left",), ()),
        ([("# Four steps", "# Four steps\n\nA word more.")], (), (), ()),
        ([("### right", "### other"), ("left, right", "left, other")], ("other",), ("last",), ("right",)),
        ([("### last\n- needs: left, right", "### last\n- needs: left")], (), ("last",), ()),
    ],
    ids=["work", "only words", "renamed", "a need less"],
)
def test_an_edited_prompt_is_compared_by_step(
    kept: Callable[..., Folder],
    changes: list[tuple[str, str]],
    new: tuple[str, ...],
    changed: tuple[str, ...],
    gone: tuple[str, ...],
) -> None:
    folder = kept()
    edit(folder, *changes)
    asked = resuming.wish(folder, Settings())
    assert asked.edited is not None
    assert asked.difference is not None
    assert asked.difference.sorts() == {"new": new, "changed": changed, "gone": gone}
    assert f"{len(asked.difference.same)} as before" in asked.told[0]
    assert resuming.wish(folder, Settings(), kept=True).edited is None


def test_what_does_not_compile_is_refused_with_the_way_round_it(
    kept: Callable[..., Folder], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = kept()
    edit(folder, ("- needs: first\n```sh\necho left", "- needs: nobody\n```sh\necho left"))
    with pytest.raises(PromptError, match="nobody"):
        resuming.wish(folder, Settings())
    assert f"hint: workflowmaster resume {ID} --kept" in capsys.readouterr().err
    assert resuming.wish(folder, Settings(), kept=True).edited is None


def test_a_prompt_that_is_gone_is_told_and_the_kept_plan_goes_on(kept: Callable[..., Folder]) -> None:
    folder = kept()
    source = Path(json.loads(folder.record.read_text())["source"])
    source.unlink()
    asked = resuming.wish(folder, Settings())
    assert asked.edited is None
    assert asked.told == (f"{source} is gone: the run goes on by the plan it kept",)


def test_inputs_that_were_given_stay_and_defaults_follow_the_prompt(kept: Callable[..., Folder]) -> None:
    folder = kept(who="grace")
    edit(folder, ("default: ada", "default: bob"), ("default: here", "default: there"))
    assert resuming.wish(folder, Settings()).options.inputs == {"who": "grace", "place": "there"}
    edit(folder, ("  who: {type: string, default: bob}\n", ""))
    assert resuming.wish(folder, Settings()).options.inputs == {"place": "there"}


@pytest.mark.parametrize(
    ("start", "steps"),
    [
        ("first", ("first", "left", "right", "last")),
        ("left", ("left", "last")),
        ("last", ("last",)),
    ],
)
def test_from_a_step_on_means_it_and_all_that_needs_it(
    kept: Callable[..., Folder], start: str, steps: tuple[str, ...]
) -> None:
    folder = kept()
    journey = opened(folder)
    resuming.apply(journey, resuming.wish(folder, Settings(), start=start))
    assert past(folder.journal).generations == dict.fromkeys(steps, 1)
    resuming.apply(journey, resuming.wish(folder, Settings(), start=start))
    # What a crash leaves is on the disk, and a second time is another generation.
    assert past(folder.journal).generations == dict.fromkeys(steps, 2)
    assert [event for event, _ in journey.audit.events] == ["steps.rerun"] * 2


def test_a_step_that_is_none_is_refused_with_the_likely_one(kept: Callable[..., Folder]) -> None:
    with pytest.raises(BadOption, match="--from rihgt: the run has no such step; did you mean 'right'"):
        resuming.wish(kept(), Settings(), start="rihgt")


def test_a_changed_plan_is_kept_recorded_and_takes_the_answers_about_what_changed_away(
    kept: Callable[..., Folder],
) -> None:
    folder = kept()
    before = folder.plan()
    edit(folder, ("echo left", "echo LEFT"))
    journey = opened(folder, approvals={"left": "approved by ada", "right": "approved by ada"})
    asked = resuming.wish(folder, Settings())
    resuming.apply(journey, asked)
    assert asked.edited is not None
    assert folder.plan() == asked.edited
    assert "echo LEFT" in folder.prompt.read_text()
    assert folder.earlier_plan(before.workflow_hash).exists()
    assert journey.record.approvals == {"right": "approved by ada"}
    assert past(folder.journal).approvals == {"left": ""}
    (record,) = read(folder.journal).of("plan")
    assert (record.fields["old"], record.fields["hash"]) == (before.workflow_hash, asked.edited.workflow_hash)
    assert record.fields["changed"] == ["left"]
    assert [event for event, _ in journey.audit.events] == ["plan.changed", "approval.withdrawn"]
    # Resumed once more, there is nothing to tell.
    assert resuming.wish(folder, Settings()).edited is None


NAMES = [f"s{n}" for n in range(6)]


@given(st.lists(st.lists(st.sampled_from(NAMES), max_size=3), min_size=6, max_size=6), st.sampled_from(NAMES))
def test_from_a_step_on_is_closed_under_being_needed(needs: list[list[str]], start: str) -> None:
    text = "# Any\n\n## Steps\n"
    for index, wanted in enumerate(needs):
        earlier = [name for name in dict.fromkeys(wanted) if name < NAMES[index]]
        said = f"- needs: {', '.join(earlier)}\n" if earlier else ""
        text += f"\n### {NAMES[index]}\n{said}```sh\ntrue\n```\n"
    plan = compiler.compile_prompt(prompts.parse(text.encode(), "p.md"), compiler.Options()).plan
    assert plan is not None
    chosen = set(resuming.from_step(plan, start))
    assert start in chosen
    for step in plan.tasks:
        assert (step.id in chosen) == (step.id == start or bool(chosen & set(step.needs)))
