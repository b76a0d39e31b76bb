"""Prose prompts: which tasks they become. One fixture for each way real prompts are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflowmaster.flows.compiler import Compilation, Options, compile_prompt
from workflowmaster.flows.plan import Plan, Retries
from workflowmaster.flows.prompts import parse, read
from workflowmaster.flows.skeleton import SKELETON

FIXTURES = Path(__file__).parents[1] / "fixtures" / "prompts"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.md"))

TABLE = {
    "1": ("setup", "initialization", "high", 3, (), "minimal"),
    "2": ("issue_creation", "issue_creation", "high", 2, ("1",), "minimal"),
    "3": ("branch_management", "branch_management", "high", 2, ("2",), "standard"),
    "4": ("research_planning", "research_planning", "high", 15, ("3",), "development"),
    "5": ("implementation", "implementation", "high", 45, ("4",), "development"),
    "6": ("testing", "testing", "high", 30, ("5",), "testing"),
    "7": ("documentation", "documentation", "medium", 20, ("5",), "minimal"),
    "8": ("pull_request", "pull_request_creation", "high", 10, ("6", "7"), "minimal"),
    "9": ("code_review", "review", "high", 15, ("8",), "minimal"),
}
"""The guide's default template."""

CHILDREN = {
    "bare-labels": ["5.1 agent 7", "6.1 agent 6", "6.2 agent 8"],
    "bug-report": ["6.1 check 12"],
    "task-list": ["5.1 agent 4", "5.2 agent 8", "5.3 agent 9", "5.4 agent 10", "6.1 agent 14", "7.1 agent 13"],
    "bold-labels": ["5.1 agent 14", "6.1 agent 15"],
    "broken-fences": [],
    "bulleted-requirements": ["5.1 agent 18", "5.2 agent 19"],
    "continue-phases": [
        "4.1 agent 13", "5.1 agent 14", "9.1 agent 16", "9.2 agent 21", "9.3 agent 24", "9.4 agent 28",
    ],
    "finnish": [],
    "german": ["5.1 agent 7", "5.2 agent 8"],
    "many-requests": [
        "4.1 agent 12", "4.2 agent 15", "5.1 agent 21", "5.2 agent 23", "5.3 agent 27", "5.4 agent 28",
    ],
    "nested-requirements": ["5.1 agent 7", "5.2 agent 11", "5.3 agent 14", "6.1 agent 19"],
    "numbered-steps": [
        "4.1 agent 32", "5.1 command 38", "5.2 command 45", "5.3 agent 53", "6.1 command 60", "7.1 agent 65",
        "9.1 agent 83", "9.2 agent 88",
    ],
    "outline-and-phases": [
        "5.1 agent 17", "5.2 agent 18", "5.3 agent 21", "5.4 agent 22", "6.1 agent 29", "6.2 check 35", "7.1 agent 30",
    ],
    "parallel": [
        "5.1 agent 5", "5.2 agent 6", "5.3 agent 10", "5.4 agent 11", "5.5 agent 12", "5.6 agent 16",
    ],
    "phases-with-commands": [
        "4.1 agent 13", "4.2 agent 14", "5.1 command 16", "5.2 agent 22", "5.3 agent 30", "5.4 agent 33",
        "6.1 agent 37", "6.2 agent 38", "6.3 command 53",
    ],
    "resume-review": ["9.1 agent 11", "9.2 agent 12", "9.3 agent 13", "9.4 agent 14"],
    "script-in-fence": ["5.1 agent 39", "6.1 agent 40", "7.1 agent 41"],
    "words-only": [],
}  # fmt: skip
"""The steps a careful reader finds: id, kind, line."""

MAPPED = {
    "bold-labels": {"3": [12], "8": [16]},
    "continue-phases": {"8": [15]},
    "nested-requirements": {"3": [25], "8": [25]},
    "numbered-steps": {"2": [18], "3": [27], "8": [70, 78]},
    "outline-and-phases": {"2": [26], "3": [27], "8": [31]},
}
"""Lines that retell a task of the skeleton."""


def compiled(name: str, **options) -> Compilation:
    done = compile_prompt(read(FIXTURES / f"{name}.md"), Options(**options))
    assert done.plan, [one.message for one in done.diagnostics]
    return done


def plan(name: str, **options) -> Plan:
    made = compiled(name, **options).plan
    assert made
    return made


def of(text: str) -> Plan:
    made = compile_prompt(parse(text.encode(), "p.md")).plan
    assert made
    return made


def test_every_fixture_has_its_table():
    assert set(NAMES) == set(CHILDREN)


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_a_careful_reader_finds(name):
    tasks = [step for step in plan(name).tasks if "." in step.id]
    assert sorted(f"{step.id} {step.kind} {step.source.line}" for step in tasks) == sorted(CHILDREN[name])


@pytest.mark.parametrize("name", NAMES)
def test_lines_that_retell_a_task_are_joined_to_it(name):
    found: dict[str, list[int]] = {}
    for one in compiled(name).explained:
        if one.became in TABLE and "retells" in one.rule:
            found.setdefault(one.became, []).append(one.line)
    assert found == MAPPED.get(name, {})


@pytest.mark.parametrize("name", NAMES)
def test_the_nine_tasks_always_stand(name):
    made = plan(name)
    assert made.prompt.kind == "prose"
    for task_id, (task_name, phase, priority, minutes, needs, _) in TABLE.items():
        step = made.step(task_id)
        own = tuple(one.id for one in made.tasks if one.id.startswith(f"{task_id}."))
        assert (step.name, step.phase, step.priority, step.estimated_minutes) == (task_name, phase, priority, minutes)
        assert set(step.needs) == {*needs, *own}
        assert step.children == own
        assert step.mandatory


@pytest.mark.parametrize("name", NAMES)
def test_kinds_of_the_nine_tasks(name):
    made = plan(name)
    for task in SKELETON:
        step = made.step(task.id)
        assert step.kind == ("check" if step.children else task.kind)
        assert (step.work is not None) == (step.kind == "agent")
        assert bool(step.image) == step.in_container


@pytest.mark.parametrize("name", NAMES)
def test_children_are_like_their_task(name):
    made = plan(name)
    for task_id in TABLE:
        parent = made.step(task_id)
        for child_id in parent.children:
            child = made.step(child_id)
            # What an agent writes under `testing` would be thrown away with its copy of the workspace.
            writes = child.kind == "agent" and parent.policy == "testing"
            policy = made.policy if writes else parent.policy
            assert (child.phase, child.priority, child.policy) == (parent.phase, parent.priority, policy)
            assert child.work is not None
            assert child.image == "workflowmaster/step:1"
            assert child.git is (child.kind == "agent")
            assert child.retries == Retries(max=3, automatic=True)


@pytest.mark.parametrize(
    ("workflow", "expected"),
    [
        ("standard", ["standard"] * 5 + ["testing"] + ["standard"] * 3),
        (
            "minimal",
            [
                "minimal",
                "minimal",
                "standard",
                "development",
                "development",
                "testing",
                "minimal",
                "minimal",
                "minimal",
            ],
        ),
        ("hardened", ["hardened"] * 9),
    ],
)
def test_a_task_runs_under_the_stricter_of_both_policies(workflow, expected):
    made = plan("words-only", policy=workflow)
    assert [made.step(task).policy for task in TABLE] == expected


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("german", {"5.1": ("4",), "5.2": ("5.1",)}),
        ("continue-phases", {"9.1": ("8",), "9.2": ("9.1",), "4.1": ("3",)}),
        (
            "parallel",
            {
                "5.1": ("4",), "5.2": ("5.1",), "5.3": ("5.2",), "5.4": ("5.2",), "5.5": ("5.2", "5.3"),
                "5.6": ("5.2", "5.4", "5.3", "5.5"),
            },
        ),
        ("task-list", {"5.2": ("5.1",), "5.3": ("5.1",), "5.4": ("5.2", "5.3")}),
        ("outline-and-phases", {"6.1": ("5",), "6.2": ("6.1",), "7.1": ("5",), "5.3": ("5.2",)}),
        ("phases-with-commands", {"6.3": ("6.2",)}),
    ],
)  # fmt: skip
def test_what_waits_for_what(name, needs):
    made = plan(name)
    assert {step_id: made.step(step_id).needs for step_id in needs} == needs


def test_names_details_and_text_of_a_found_step():
    step = plan("nested-requirements").step("5.1")
    assert (step.name, step.description) == ("Add Load Criteria", "to the harbor master:")
    assert step.details == ("weight of the ship", "draught at low tide")
    assert (step.source.line, step.source.end_line, step.source.section) == (7, 9, "Requirements to Implement:")
    assert step.estimated_minutes == 15


def test_marks_of_task_lists_are_no_part_of_a_name():
    made = plan("task-list")
    assert [made.step(one).name for one in made.step("5").children] == [
        "Create the shelves per the building plan",
        "Rope model in src/rope.py",
        "Knot model in src/knot.py",
        "Store service",
    ]


def test_what_a_task_is_told_stands_in_its_details():
    made = plan("outline-and-phases")
    assert made.step("2").details == ("Create Issue",)
    assert made.step("2").description == '"39 failing tests"'
    assert made.step("2").source.line == 26
    assert made.step("8").description == "describe the changes"


def test_an_agents_brief_needs_nothing_beside_it():
    brief = plan("nested-requirements").step("5.2").work.text
    assert brief.startswith("# Your step: Add Pile-up Detection\n")
    assert "2. **Add Pile-up Detection**:\n   - ships that wait longer than a day" in brief
    assert "Task: Teach the harbor master to see overload" in brief
    assert "## The whole task is done when\n\n- Overload is seen in every plan\n- No false alarms" in brief
    assert "the harbor master lets ships pile up" in brief
    assert "weight of the ship" not in brief


def test_a_task_without_steps_is_one_agent_step_with_the_whole_prompt():
    made = plan("words-only")
    work = made.step("5").work
    assert work.interpreter == "prompt"
    assert "Create and change the files it needs" in work.text
    assert "The lamps on the pier flicker. Find out why and mend it, please." in work.text
    assert made.name == "The lamps on the pier flicker. Find out why and mend it, please."


def test_quotations_stay_in_the_brief_and_become_nothing_else():
    made = compiled("broken-fences")
    assert "2. Add weights to all crates" in made.plan.step("5").work.text
    assert [(one.code, one.severity) for one in made.diagnostics] == [
        ("WM501", "note"),
        ("WM506", "note"),
        ("WM111", "note"),
        ("WM110", "warning"),
    ]


@pytest.mark.parametrize(
    ("name", "step_id", "text", "approval"),
    [
        ("phases-with-commands", "5.1", "mkdir -p papers/bills\nmkdir -p papers/letters  # if needed\n", False),
        ("phases-with-commands", "6.3", "make index\npython tools/find_lost.py --all\n", False),
        ("numbered-steps", "5.2", "make wind\n\nmake check\n", False),
        ("numbered-steps", "6.1", "python -m pytest tests/ -v\n", False),
        (
            "numbered-steps",
            "5.1",
            "# the maker's own installer\ncurl -LsSf https://clocks.acme.dev/install.sh | sh\n",
            True,
        ),
        ("outline-and-phases", "6.2", "python -m pytest -q\n", False),
    ],
)
def test_commands_are_taken_as_they_stand(name, step_id, text, approval):
    step = plan(name).step(step_id)
    assert (step.work.interpreter, step.work.text, step.approval) == ("bash", text, approval)


def test_a_command_points_at_its_lines():
    work = plan("phases-with-commands").step("5.1").work
    lines = (FIXTURES / "phases-with-commands.md").read_text().splitlines()
    assert lines[work.line - 1] == "mkdir -p papers/bills"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs_that_the_table_does_not_name(name):
    runs = [step.id for step in plan(name).tasks if step.work and step.work.interpreter != "prompt"]
    assert sorted(runs) == sorted(row.split()[0] for row in CHILDREN[name] if row.split()[1] != "agent")


def test_what_was_not_run_is_said_with_the_reason():
    notes = [(one.line, one.message) for one in compiled("phases-with-commands").diagnostics if one.code == "WM504"]
    assert notes == [
        (23, "this fence is shown to the agent and not run: it calls itself an example (# Example commands (adjust)")
    ]
    (found,) = [one for one in compiled("numbered-steps").diagnostics if one.code == "WM503"]
    assert (found.line, found.severity) == (40, "warning")
    assert "runs a script from the network" in found.message


@pytest.mark.parametrize(
    ("name", "criteria"),
    [
        (
            "bulleted-requirements",
            [("Labels are printed", 31, ""), ("The weight is on them, also for large crates", 32, "")],
        ),
        (
            "outline-and-phases",
            [("All tests pass or skip for a reason", 34, ""), ("CI is green after python -m pytest -q", 35, "6.2")],
        ),
        ("phases-with-commands", [("Hall is empty", 48, ""), ("Git history kept", 49, "")]),
        ("numbered-steps", [("The clock ticks", 94, "")]),
        (
            "nested-requirements",
            [("Overload is seen in every plan", 22, ""), ("No false alarms for small ships", 23, "")],
        ),
        ("broken-fences", []),
    ],
)
def test_success_criteria(name, criteria):
    assert [(one.text, one.line, one.check) for one in plan(name).criteria] == criteria


@pytest.mark.parametrize(
    ("name", "references"),
    [
        ("resume-review", [("pull_request", "41", 1), ("url", "https://github.com/acme/harbor/pull/41", 7)]),
        (
            "continue-phases",
            [("pull_request", "77", 1), ("issue", "70", 6), ("branch", "feature/issue-70-crane-registration", 7)],
        ),
        (
            "nested-requirements",
            [("issue", "104", 3), ("file", "harbor/master.py", 18), ("branch", "enhancement/issue-104-overload", 25)],
        ),
        ("bulleted-requirements", [("issue", "125", 3)]),
        ("bold-labels", [("prompt", "implement-night-shift.md", 9)]),
    ],
)
def test_references(name, references):
    assert [(one.kind, one.value, one.line) for one in plan(name).references] == references


@pytest.mark.parametrize("name", NAMES)
def test_only_prompts_that_continue_something_begin_later(name):
    assert plan(name).resume_phase == ("review" if name in ("resume-review", "continue-phases") else "")


def test_front_matter_of_a_tracker_is_kept():
    made = compiled("bulleted-requirements")
    assert made.plan.metadata == {
        "title": "Labels for crates",
        "issue_number": 125,
        "created_by": "somebody",
        "date": "2025-01-08",
    }
    assert made.plan.name == "Labels for crates"
    assert made.plan.description == "Crates get labels"


def test_a_misspelt_key_of_ours_is_an_error_in_prose_too_and_a_foreign_one_is_not():
    done = compile_prompt(parse(b"---\nsecurty-policy: x\nestimated_hours: 3\n---\n# T\n\nDo it.\n", "p.md"))
    assert [(one.code, one.line) for one in done.diagnostics if one.severity == "error"] == [("WM201", 2)]


def test_front_matter_applies_to_prose():
    made = of(
        "---\nimage: python:3.12\nenv: {A: x}\ntimeout: 5\nretries: {max: 1, backoff: fixed}\non-failure: abort\n"
        "network: [python]\nresources: {memory: 512m}\ncache: true\n---\n# T\n\n## Tasks\n\n- Build it\n- Test it\n"
    )
    for step in (made.step("5.1"), made.step("6.1")):
        assert (step.image, step.env, step.timeout_seconds, step.on_failure) == (
            "python:3.12",
            {"A": "x"},
            300,
            "abort",
        )
        assert (step.retries, step.cache, step.network.allowed) == (Retries(max=1, backoff="fixed"), True, ("python",))
        assert step.resources.memory == 512 * 1024**2


def test_a_review_before_other_work_stands_first():
    made = of("# T\n\n## Implementation steps\n\n1. Build it\n2. Create PR\n3. Roll out slowly\n")
    assert [made.step(one).name for one in made.step("9").children] == ["Code review", "Roll out slowly"]


def test_a_review_alone_is_the_task_itself():
    made = of("# T\n\n## Implementation steps\n\n1. Build it\n2. Create PR\n3. **Code review**: be strict\n")
    assert made.step("9").children == ()
    assert "be strict" in made.step("9").work.text


def test_nothing_goes_back_before_the_review():
    made = of(
        "# T\n\n## Steps\n\n1. Build it\n2. Code review\n3. Fix what it found\n4. Push again\n5. Investigate slow tests\n"
    )
    assert [made.step(one).name for one in made.step("9").children] == [
        "Code review",
        "Fix what it found",
        "Push again",
        "Investigate slow tests",
    ]


def test_what_is_investigated_after_building_belongs_to_the_building():
    made = of("# T\n\n## Steps\n\n1. Analyze the crane\n2. Build a crane\n3. Analyze the rope\n")
    assert [step.id for step in made.tasks if "." in step.id] == ["4.1", "5.1", "5.2"]


def test_words_that_make_steps_wait_for_each_other_are_an_error():
    done = compile_prompt(parse(b"# T\n\n## Steps\n\n1. Build a, after step 2\n2. Build b, after step 1\n", "p.md"))
    (found,) = [one for one in done.diagnostics if one.severity == "error"]
    assert done.plan is None
    assert found.code == "WM508"
    assert "5.1 (Build a, after step 2) -> 5.2 (Build b, after step 1) -> 5.1" in found.message


def test_an_order_in_words_wins_over_the_page():
    made = of("# T\n\n## Steps\n\n1. Build the roof, after step 2\n2. Build the walls\n")
    assert made.step("5.2").needs == ("4",)
    assert made.step("5.1").needs == ("5.2",)


def test_a_wait_for_nothing_is_dropped_and_said():
    done = compile_prompt(parse(b"# T\n\n## Steps\n\n1. Build it once step 7 is done\n2. Test it\n", "p.md"))
    assert [(one.code, one.line) for one in done.diagnostics if one.severity == "warning"] == [("WM509", 5)]
    assert done.plan.step("5.1").needs == ("4",)


def test_a_long_prompt_is_cut_in_briefs_and_whole_in_the_plan():
    filler = "\n".join(f"Line {number} of the background." for number in range(2000))
    made = of(f"# T\n\n{filler}\n\n## Tasks\n\n1. Build it\n2. Paint it\n")
    brief = made.step("5.1").work.text
    assert len(brief) < 20_000
    assert "more lines of the prompt are left out here]" in brief
    assert "Line 1999 of the background." in made.context
    assert "Build it" not in made.context


def test_more_things_than_anybody_would_follow_are_one_step():
    bullets = "\n".join(f"- Build thing {number}" for number in range(401))
    done = compile_prompt(parse(f"# T\n\n## Tasks\n\n{bullets}\n".encode(), "p.md"))
    assert [one.code for one in done.diagnostics if one.severity == "warning"] == ["WM502"]
    assert [step.id for step in done.plan.tasks] == list(TABLE)


def test_four_hundred_steps_are_steps():
    bullets = "\n".join(f"- Build thing {number}" for number in range(400))
    assert len(of(f"# T\n\n## Tasks\n\n{bullets}\n").step("5").children) == 400


def test_many_criteria_are_counted_in_a_brief():
    bullets = "\n".join(f"- criterion {number}" for number in range(100))
    made = of(f"# T\n\n## Tasks\n\n1. Build it\n\n## Success criteria\n\n{bullets}\n")
    assert "- criterion 59\n- … and 40 more in the prompt" in made.step("5.1").work.text
    assert len(made.criteria) == 100


@pytest.mark.parametrize("name", NAMES)
def test_every_heading_is_explained_once(name):
    done = compiled(name)
    lines = (FIXTURES / f"{name}.md").read_text().splitlines()
    starts = [one.line for one in done.explained]
    assert starts == sorted(starts)
    for number, line in enumerate(lines, 1):
        inside = any(one.line < number <= one.end_line for one in done.explained if one.became != "context")
        if line.startswith("## ") and not inside:
            assert number in starts, line
