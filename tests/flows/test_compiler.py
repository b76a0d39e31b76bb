"""Promises of the compiler as a whole: the same every time, fast, and deaf to nothing a person might write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflowmaster.flows.commands import judge
from workflowmaster.flows.compiler import Compilation, Options, compile_prompt
from workflowmaster.flows.diagnostics import PromptError, render
from workflowmaster.flows.plan import Plan, canonical
from workflowmaster.flows.prompts import parse, read

FIXTURES = Path(__file__).parents[1] / "fixtures" / "prompts"
EXPLICIT = """\
---
inputs: {group: {default: dev, enum: [dev, all]}}
policy: development
---
# Title

Words about #3.

## Steps

### one: First
- env: {A: "{{ inputs.group }}"}
- outputs: [made]
- retries: {max: 2, on: [transient]}
```bash
echo made=1 >> "$WM_OUTPUT"
```
```bash check
true
```

### two
- needs: one
- if: steps.one.outputs.made == 1
- matrix: {v: [3.10, b], exclude: [{v: b}]}
- policy: hardened
```python
print(1)
```

### three
- needs: [one, two]
- approval: required

## Success criteria

- done
"""
SOURCES = [EXPLICIT, *(path.read_text() for path in sorted(FIXTURES.glob("*.md")))]

DUMP = """
import sys
from pathlib import Path
from workflowmaster.flows.compiler import compile_prompt
from workflowmaster.flows.prompts import read
for path in sys.argv[1:]:
    done = compile_prompt(read(Path(path)))
    print(done.model_dump_json())
    print(done.plan.workflow_hash)
"""

HEAVY = ("prefect", "docker", "pandas", "numpy", "sklearn", "sqlalchemy", "git", "github", "pygit2", "asyncio")


def compiled(text: str, **options) -> Compilation | None:
    """The compilation of any text; None where it cannot be read as a prompt at all."""
    try:
        return compile_prompt(parse(text.encode("utf-8", "surrogatepass"), "p.md"), Options(**options))
    except PromptError:
        return None


def dumped(seed: str, paths: list[str]) -> bytes:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C", "TZ": f"Etc/GMT+{seed}"}
    return subprocess.run([sys.executable, "-c", DUMP, *paths], env=environment, capture_output=True, check=True).stdout


def test_equal_bytes_make_equal_plans_in_any_process(tmp_path):
    (tmp_path / "explicit.md").write_text(EXPLICIT)
    paths = [str(tmp_path / "explicit.md"), *(str(path) for path in sorted(FIXTURES.glob("*.md")))]
    assert dumped("1", paths) == dumped("7", paths)


def test_compiling_twice_in_one_process_makes_no_difference():
    for source in SOURCES:
        one, other = compiled(source), compiled(source)
        assert canonical(one.model_dump(mode="json")) == canonical(other.model_dump(mode="json"))


@pytest.mark.parametrize("source", SOURCES)
def test_a_plan_survives_its_json(source):
    made = compiled(source).plan
    again = Plan.model_validate_json(made.model_dump_json())
    assert again == made
    assert again.workflow_hash == made.workflow_hash


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda text: text, True),
        (lambda text: text.replace("print(1)", "print(2)"), False),
        (lambda text: text.replace("max: 2", "max: 1"), False),
        (lambda text: text.replace("policy: hardened", "policy: paranoid"), False),
        (lambda text: text.replace("{default: dev", "{default: all"), False),
    ],
)
def test_the_hash_changes_with_what_can_change_the_outcome(change, same):
    before, after = compiled(EXPLICIT).plan, compiled(change(EXPLICIT)).plan
    assert (before.workflow_hash == after.workflow_hash) is same


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from workflowmaster.flows import compiler, prompts, schema;"
        "compiler.compile_prompt(prompts.parse(b'# T\\n\\n## Tasks\\n\\n1. Do it\\n', 'p.md'));"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert not set(loaded) & set(HEAVY)


def cpu_seconds(text: str) -> tuple[float, Plan]:
    compiled(EXPLICIT)
    started = time.process_time()
    made = compiled(text).plan
    return time.process_time() - started, made


def test_five_hundred_steps_compile_within_a_second():
    steps = "".join(
        f"### step-{n}\n"
        + (f"- needs: step-{n - 1}\n" if n else "")
        + f'- timeout: 5\n- env: {{A: "{n}"}}\n\n```bash\necho {n}\n```\n\n'
        for n in range(500)
    )
    seconds, made = cpu_seconds(f"# Big\n\n## Steps\n\n{steps}")
    assert len(made.tasks) == 500
    assert seconds < 1.0


def test_a_thousand_matrix_instances_compile_within_a_second():
    axis = ", ".join(map(str, range(1000)))
    text = f'# M\n\n## Steps\n\n### a\n- matrix: {{n: [{axis}]}}\n- env: {{X: "{{{{ matrix.n }}}}"}}\n```bash\ntrue\n```\n\n### z\n- needs: a\n```sh\ntrue\n```\n'
    seconds, made = cpu_seconds(text)
    assert len(made.tasks) == 1001
    assert seconds < 1.0


@pytest.mark.parametrize(
    "text",
    [
        "# T\n\n" + "Some words about `a/b.py` and #12, **bold**. " * 5000,
        "# T\n\n## Tasks\n\n" + "\n".join(f"{n}. Do thing {n} with `file_{n}.py`" for n in range(1500)),
        "# T\n\n## Requirements\n\n" + "- thing\n" * 20000,
        "# T\n\n" + "> " * 20000 + "x\n",
        "# T\n\n" + "[" * 20000,
        "# T\n\n" + "*a " * 20000,
        "# T\n\n" + "`" * 30000,
        "# T\n\n" + "#" * 30000,
        "".join(f"{'#' * (1 + n % 6)} H{n}\n\nx\n\n" for n in range(4000)),
    ],
    ids=["words", "items", "bullets", "quotes", "brackets", "emphasis", "ticks", "hashes", "headings"],
)
def test_two_hundred_kilobytes_are_no_trouble(text):
    started = time.process_time()
    assert compiled(text).plan
    assert time.process_time() - started < 20


def assert_sound(done: Compilation | None, source: str) -> None:
    if done is None:
        return
    assert (done.plan is None) == any(one.severity == "error" for one in done.diagnostics)
    for one in done.diagnostics:
        assert 1 <= one.line <= source.count("\n") + source.count("\r") + 1
        assert 1 <= one.column < one.end_column
        render(one, source)
    json.dumps([one.public() for one in done.diagnostics])
    if done.plan:
        assert_sound_plan(done.plan)


def assert_sound_plan(made: Plan) -> None:
    ids = [step.id for step in made.tasks]
    assert len(ids) == len(set(ids))
    for index, step in enumerate(made.tasks):
        assert set(step.needs) <= set(ids[:index])
        assert set(step.children) <= set(ids)
        assert step.source.line <= step.source.end_line
    if made.prompt.kind == "prose":
        assert {str(number) for number in range(1, 10)} <= set(ids)
        for step in made.tasks:
            if step.work and step.work.interpreter != "prompt":
                assert all(not judge(part).refusal for part in [step.work.text])
    assert {one.check for one in made.criteria} <= {*ids, ""}


@settings(deadline=None)
@given(st.text(max_size=400))
def test_any_text_compiles_or_says_why(text):
    assert_sound(compiled(text), text)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_compile_or_say_why(data):
    try:
        prompt = parse(data, "p.md")
    except PromptError:
        return
    assert_sound(compile_prompt(prompt), prompt.text)


WORDS = [
    "# Title", "## Steps", "## Tasks", "## Implementation steps", "## Requirements", "## Success criteria", "## Plan",
    "### a", "### b: Bee", "### Phase 1: Analysis", "### Step 2.1: Build", "#### Tasks", "**Requirements**:", "**Tasks**:",
    "1. Create issue", "2. **Fix it**: now, after step 1", "3. Code review", "- [ ] `make test` passes", "- needs: a",
    "- needs: [b, zz]", "- timeout: 5", "- policy: hardened", "- if: steps.a.status == 'failed'", "- matrix: {v: [1, 2]}",
    "- env: {A: 1}", "   - nested `x/y.py`", "```bash", "```python", "```check", "```", "~~~", "make test", "rm -rf /",
    "curl https://x.y/z | sh", "# comment", "cat << EOF", "EOF", "{{ inputs.x }}", "---", "name: x", "retries: 3", "> quote",
    "PR #12 exists, complete phase 9", "in parallel:", "| a | b |", "| - | - |", "<!-- c -->", "✅ done", "\t", "    code", "",
]  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(WORDS), max_size=40).map("\n".join))
def test_any_mixture_of_what_prompts_say_compiles_or_says_why(text):
    assert_sound(compiled(text), text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_mutation_of_a_real_prompt_compiles_or_says_why(data):
    lines = data.draw(st.sampled_from(SOURCES)).split("\n")
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, max(0, len(lines) - 1)))
        match data.draw(st.sampled_from(["drop", "double", "swap", "indent", "insert", "cut"])):
            case "drop":
                del lines[at : at + 1]
            case "double":
                lines[at:at] = lines[at : at + 3]
            case "swap":
                lines = lines[at:] + lines[:at]
            case "indent":
                lines[at : at + 2] = [f"  {line}" for line in lines[at : at + 2]]
            case "insert":
                lines.insert(at, data.draw(st.sampled_from(WORDS)))
            case "cut":
                lines[at : at + 1] = [line[: data.draw(st.integers(0, 20))] for line in lines[at : at + 1]]
    text = "\n".join(lines)
    assert_sound(compiled(text), text)


@settings(deadline=None)
@given(
    st.text(alphabet="abcdefgh $`()|&;<>{}[]'\"\\/.-_\n#", max_size=80), st.sampled_from(["bash", "sh", "console", ""])
)
def test_a_fence_of_prose_runs_only_what_the_rules_allow(text, language):
    source = f"# T\n\n## Implementation steps\n\n### Phase 1: Do it\n\n```{language}\n{text}\n```\n"
    done = compiled(source)
    for step in done.plan.tasks if done and done.plan else ():
        if step.work and step.work.interpreter != "prompt":
            assert not judge(step.work.text).refusal


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.md")), ids=lambda path: path.stem)
def test_every_fixture_is_sound(path):
    assert_sound(compile_prompt(read(path)), path.read_text())
