"""Prose as parts, and the items of the best source of steps."""

from __future__ import annotations

import pytest

from workflowmaster.flows.criteria import commands_of_tests, find_criteria
from workflowmaster.flows.outline import parse, sections
from workflowmaster.flows.placing import place, stray_items
from workflowmaster.flows.sections import Part, is_quotation, parts_of
from workflowmaster.flows.stepitems import find_items, shortened


def root(text: str) -> Part:
    return parts_of(sections(parse(text), text.count("\n") + 1))


def kinds(text: str) -> list[tuple[str, str]]:
    return [(part.title, part.kind) for part in root(text).walk() if part.title]


def names(text: str) -> list[str]:
    return [item.name for item in find_items(root(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Test plan of steps\n\n## Steps\n", [("Test plan of steps", "context"), ("Steps", "steps")]),
        ("## Title\n\n### Tasks\n", [("Title", "context"), ("Tasks", "steps")]),
        ("## Overview\n\n## Tasks\n", [("Overview", "context"), ("Tasks", "steps")]),
        ("# T\n\n## Requirements\n\n### Colours\n", [("T", "context"), ("Requirements", "requirements"), ("Colours", "requirements")]),
        ("# T\n\n## Colours\n\n### Red\n", [("T", "context"), ("Colours", "notes"), ("Red", "notes")]),
        ("# T\n\n## Phase 1: Tests\n", [("T", "context"), ("Phase 1: Tests", "plan")]),
        ("# T\n\n## Background\n\n### Phase 1: done\n", [("T", "context"), ("Background", "context"), ("Phase 1: done", "context")]),
        ("# T\n\n## Success criteria\n\n### Core requirements\n", [("T", "context"), ("Success criteria", "success"), ("Core requirements", "success")]),
        ("# T\n\n**Requirements**:\n- a\n\n**Notes:**\n- b\n", [("T", "context"), ("Requirements", "requirements"), ("Notes", "notes")]),
        ("# T\n\nTasks:\n1. a\n\nwords\n\n1. b\n", [("T", "context"), ("Tasks", "steps")]),
        ("# T\n\n**Task**: do it\n- a\n", [("T", "context")]),
        ("# T\n\n**Requirements**:\n\nwords\n", [("T", "context")]),
    ],
)  # fmt: skip
def test_kinds_of_parts(text, expected):
    assert kinds(text) == expected


def test_a_label_names_its_list_and_no_more():
    part = root("# T\n\n**Tasks**:\n1. a\n\n```sh\nx\n```\n\nOther words.\n\n1. b\n").parts[0]
    label = part.parts[0]
    assert [block.kind for block in label.blocks] == ["list", "fence"]
    assert [block.kind for block in part.blocks] == ["paragraph", "list"]
    assert (label.line, label.end_line) == (3, 8)


@pytest.mark.parametrize(
    ("fence", "quoted"),
    [
        ("```markdown\n# Title\n```", True),
        ("```md\nwords\n```", False),
        ("```\n# Title\n\n## Part\n```", True),
        ("```\n# comment\nls\n```", False),
        ("```bash\n# Title\n## x\n```", False),
        ("```\ntree/   # here\n```", False),
    ],
)
def test_quotations(fence, quoted):
    assert is_quotation(parse(fence)[0]) is quoted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the rank of the sources
        ("# T\n\n## Requirements\n1. Need it\n\n## Plan\n1. Plan it\n\n## Steps\n1. Do it\n", ["Do it"]),
        ("# T\n\n## Requirements\n1. Need it\n\n## Plan\n1. Draw it\n", ["Draw it"]),
        ("# T\n\n## Requirements\n1. Need it\n- bullet\n", ["Need it"]),
        ("# T\n\n## Requirements\n- Make one\n- Make two\n", ["Make one", "Make two"]),
        ("# T\n\n## Plan\n1. Draw it\n\n### Phase 1: Build\n- x\n", ["Build"]),
        ("# T\n\n## Analysis\n1. It is broken\n\n## Notes\n1. Really\n", []),
        # what a source must hold to be one
        ("# T\n\n## Steps\nwords only\n\n## Requirements\n1. Need it\n", ["Need it"]),
        ("# T\n\n## Steps\n1. Done\n2. N/A\n\n## Requirements\n1. Need it\n", ["Need it"]),
        ("# T\n\n## Requirements\n- All must be preserved\n- No change\n", []),
        # shapes of items
        ("# T\n\n## Steps\n- [ ] Make one\n- [x] Make two\n", ["Make one"]),
        ("# T\n\n## Steps\n\n### Backend\n- table\n\n### Frontend\n- page\n", ["Backend", "Frontend"]),
        (
            "# T\n\n## Steps\n\n### Phase 1: One\n1. Make a\n2. Make b\n\n### Phase 2: Two\n- x\n",
            ["Make a", "Make b", "Two"],
        ),
        ("# T\n\n## Phase 1: One\n\n### Step 1.1: Make a\n\n### Step 1.2: Make b\n", ["Make a", "Make b"]),
        (
            "# T\n\n## Phase 1: One\n\n#### Deliverables\n1. A thing\n\n#### Tasks\n- Make a\n- Make b\n",
            ["Make a", "Make b"],
        ),
        ("# T\n\n## Phase 1: One\n\n### Files to fix\n1. **a.py** (two)\n2. **b.py** (one)\n", ["a.py", "b.py"]),
        ("# T\n\n## Phase 1: One\n\n### Update the index:\n- x\n\n### Notes\n- y\n", ["Update the index"]),
        ("# T\n\n## Phase 1: One\nDo it.\n\n**Checklist**:\n- [ ] all well\n", ["One"]),
        ("# T\n\n## Steps\n1. **Lead**: rest\n2. A sentence.\n3.\n", ["Lead", "A sentence"]),
        ("# T\n\n## Steps\n\nFirst:\n\n1. Make a\n\nThen:\n\n1. Make b\n", ["Make a", "Make b"]),
        ("# T\n\n## Steps\n\n**First**:\n1. Make a\n\nThen:\n\n1. Make b\n", ["Make a", "Make b"]),
        # quotations and other people's words
        ("# T\n\n## Steps\n> 1. Quoted\n\n```\n1. Fenced\n```\n", []),
        ("# T\n\n```markdown\n# Q\n\n## Steps\n1. Quoted\n```\n", []),
        # an outline of how to work is filled from the phases
        (
            "# T\n\n## Plan\n\n### Phase 1: A\n1. Fix a\n2. Fix b\n\n## Steps\n1. Create issue\n2. Create branch\n3. Fix\n4. Create PR\n",
            ["Fix a", "Fix b", "Create issue", "Create branch", "Create PR"],
        ),
        (
            "# T\n\n## Requirements\n1. Fix a\n2. Fix b\n\n## Steps\n1. Create issue\n2. Create branch\n3. Fix\n4. Create PR\n",
            ["Create issue", "Create branch", "Fix", "Create PR"],
        ),
    ],
)
def test_items(text, expected):
    assert names(text) == expected


def test_an_item_knows_where_it_stands():
    (item,) = find_items(
        root(
            "# T\n\n## Steps\n\n### Phase 2: Do\n\n1. Words\n\n2. **Make** it\n   - one\n     - two\n   ```sh\n   x\n   ```\n"
        )
    )[1:]
    assert (item.number, item.phase, item.section, item.line, item.end_line) == ("2", "2", "Phase 2: Do", 9, 14)
    assert item.details == ("one", "  two")
    assert [block.kind for block in item.blocks] == ["list", "fence"]


def test_items_take_their_meaning_from_themselves_then_from_the_heading():
    found = find_items(
        root(
            "# T\n\n## Steps\n\n### Phase 1: Testing\n1. The weights\n2. Fix the scale\n\n### Phase 2: Work\n1. The ropes\n"
        )
    )
    assert [item.meaning for item in found] == ["tests", "implementation", "unknown"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("  two\nlines: ", "two lines"), ("x" * 200, "x" * 89 + "…"), ("ends.", "ends")],
)
def test_names_are_one_short_line(text, name):
    assert shortened(text) == name


def placed(text: str, requests: int = 0) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    found = find_items(root(text))
    done = place(found, stray_items(root(text), found), requests)
    return tuple(
        {task: [item.name for item in some] for task, some in part.items()} for part in (done.children, done.mapped)
    )


def test_items_are_sorted_into_the_nine_tasks():
    children, mapped = placed(
        "# T\n\n## Steps\n1. Initial setup\n2. Create issue\n3. Create branch\n4. Study the code\n5. Build it\n6. Test it\n"
        "7. Document it\n8. Create PR\n9. Code review\n10. Address review feedback\n"
    )
    assert mapped == {"1": ["Initial setup"], "2": ["Create issue"], "3": ["Create branch"], "8": ["Create PR"]}
    assert children == {
        "4": ["Study the code"],
        "5": ["Build it"],
        "6": ["Test it"],
        "7": ["Document it"],
        "9": ["Code review", "Address review feedback"],
    }


def test_a_prompt_about_many_requests_speaks_of_its_subject():
    text = "# T\n\n## Steps\n1. Code review of each\n2. Push what is left\n"
    assert placed(text, 2)[0] == {"9": ["Code review of each", "Push what is left"]}
    assert placed(text, 3) == ({"5": ["Code review of each", "Push what is left"]}, {})


def test_a_baseline_is_taken_before_anything_changes():
    assert placed("# T\n\n## Steps\n1. Capture current test results as baseline\n2. Build it\n")[0] == {
        "4": ["Capture current test results as baseline"],
        "5": ["Build it"],
    }


def test_stray_sentences_and_tests_among_files():
    children, mapped = placed(
        "# T\n\n## Requirements\n1. Make it\n\n## Files\n- **Code**: `x.py`\n- **Tests**: Write tests for x\n\n"
        "Create branch `b` and submit PR to close #1.\n\n## Notes\nDo not create branches yourself.\n"
    )
    assert children == {"5": ["Make it"], "6": ["Write tests for x"]}
    assert mapped == {"3": ["Create branch `b`"], "8": ["submit PR to close #1"]}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("- one\n- two\n", [("one", ""), ("two", "")]),
        ("1. one\n2. **two**: three\n", [("one", ""), ("two: three", "")]),
        ("- [ ] open\n- [x] ticked\n", [("open", ""), ("ticked", "")]),
        ("✅ one\n✅ two\nand more\n", [("one", ""), ("two and more", "")]),
        ("It just works.\n", [("It just works.", "")]),
        ("- one\n\nSome words after it.\n", [("one", "")]),
        ("It works:\n\n- one\n", [("one", "")]),
        ("- `make test` passes\n", [("make test passes", "make test")]),
        ("- `x.py` is there, `make a b` too\n", [("x.py is there, make a b too", "make a b")]),
        ("- one\n- one\n", [("one", "")]),
    ],
)
def test_criteria(body, expected):
    found = find_criteria(root(f"# T\n\n## Success criteria\n\n{body}"))
    assert [(one.text, one.command) for one in found] == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("- `make test`\n", [["make test"]]),
        ("- Run `make test`.\n", [["make test"]]),
        ("- `make test` - all of them\n", [["make test"]]),
        ("1. **After**:\n   - `make a b`\n   - `make c d` (slow)\n", [["make a b", "make c d"]]),
        ("- look at `make test` closely\n", []),
        ("1. **After**:\n   - `make a b`\n   - and look\n", []),
        ("- `x.py`\n", []),
        ("words\n", []),
    ],
)
def test_commands_of_test_sections(body, expected):
    assert [commands for *_, commands in commands_of_tests(root(f"# T\n\n## Testing\n\n{body}"))] == expected
