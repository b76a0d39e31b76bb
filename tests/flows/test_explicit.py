"""Explicit prompts: what each thing a writer says becomes in the plan."""

from __future__ import annotations

import pytest

from workflowmaster.flows.compiler import COMPILER, Compilation, Options, compile_prompt
from workflowmaster.flows.plan import Network, Plan, Resources, Retries, Step
from workflowmaster.flows.prompts import parse

WORK = "```bash\ntrue\n```\n"
MIB = 1024**2
BY_DECISION = Retries(max=3, automatic=True)
"""Of a step whose prompt does not say how often."""


def compiled(text: str, **options) -> Compilation:
    return compile_prompt(parse(text.encode(), "p.md"), Options(**options))


def plan(steps: str, front: str = "", **options) -> Plan:
    head = f"---\n{front}\n---\n" if front else ""
    done = compiled(f"{head}# Title\n\nWhat it is for.\n\n## Steps\n\n{steps}", **options)
    assert done.plan, [one.message for one in done.diagnostics]
    return done.plan


def step(attributes: str = "", front: str = "", fence: str = WORK, **options) -> Step:
    return plan(f"### a\n{attributes}\n{fence}", front, **options).step("a")


def test_the_smallest_useful_file():
    made = plan(
        "### lint\n```bash\nruff check src\n```\n\n### test\n- needs: lint\n- timeout-minutes: 10\n```bash\npytest -q\n```\n"
    )
    lint, test = made.tasks
    assert (made.name, made.description, made.compiler) == ("Title", "What it is for.", COMPILER)
    assert (made.prompt.kind, made.policy, made.max_parallel, made.front) == ("explicit", "standard", 3, {})
    assert (lint.id, lint.kind, lint.needs, lint.timeout_seconds) == ("lint", "command", (), 300)
    assert lint.retries == BY_DECISION
    assert (test.needs, test.timeout_seconds) == (("lint",), 600)
    assert (test.work.interpreter, test.work.text, test.work.line) == ("bash", "pytest -q\n", 16)
    assert (test.source.line, test.source.end_line, test.source.section) == (12, 17, "Steps")


@pytest.mark.parametrize(
    ("heading", "step_id", "name"),
    [
        ("build", "build", "build"),
        ("Build the Docs", "build-the-docs", "Build the Docs"),
        ("build: Compile it", "build", "Compile it"),
        ("Build:", "build", "Build"),
        ("`build` *it*", "build-it", "build it"),
        ("Über-Prüfung", "uber-prufung", "Über-Prüfung"),
        ("step_one", "step_one", "step_one"),
        ("1. First", "1-first", "1. First"),
        ("v1.2", "v1-2", "v1.2"),
        ("测试", "step-1", "测试"),
        ("deploy: 部署", "deploy", "部署"),
        ("a" * 100, "a" * 60, "a" * 100),
    ],
)
def test_ids_and_names_come_from_headings(heading, step_id, name):
    (made,) = plan(f"### {heading}\n- if: true\n{WORK}").tasks
    assert (made.id, made.name) == (step_id, name)


@pytest.mark.parametrize(
    ("attributes", "field", "value"),
    [
        ("- needs: b", "needs", ("b",)),
        ("- requires: b, c", "needs", ("b", "c")),
        ("- depends-on: [b, c]", "needs", ("b", "c")),
        ("- dependencies:\n  - b\n  - c", "needs", ("b", "c")),
        ("- Needs: b", "needs", ("b",)),
        ("* needs: b", "needs", ("b",)),
        ("- needs: b\n\n- needs-nothing-else", "needs", ("b",)),
        ("- name: Say it", "name", "Say it"),
        ('- name: "quoted: yes"', "name", "quoted: yes"),
        ("- description: one line", "description", "one line"),
        ("- if: 'true' == \"true\"", "condition", "'true' == \"true\""),
        ('- if: "inputs.x == 1"', "condition", "inputs.x == 1"),
        ("- if: !failure()", "condition", "!failure()"),
        ("- timeout: 90s", "timeout_seconds", 90),
        ("- timeout-minutes: 0.5", "timeout_seconds", 30),
        ("- policy: hardened", "policy", "hardened"),
        ("- image: python:3.12", "image", "python:3.12"),
        ("- container: node@sha256:" + "a" * 64, "image", "node@sha256:" + "a" * 64),
        ('- env: {A: 3.10, B: "no", C: true}', "env", {"A": "3.10", "B": "no", "C": "true"}),
        ("- env:\n    A: 1\n    B: 2", "env", {"A": "1", "B": "2"}),
        ("- secrets: TOKEN", "secrets", ("TOKEN",)),
        ("- inputs: [data/*.csv]", "inputs", ("data/*.csv",)),
        ("- outputs: [changed, made]", "outputs", ("changed", "made")),
        ("- priority: high", "priority", "high"),
        ("- mandatory: false", "mandatory", False),
        ("- continue-on-error: true", "continue_on_error", True),
        ("- continue_on_error: true", "continue_on_error", True),
        ("- approval: required", "approval", True),
        ("- approval: false", "approval", False),
        ("- cache: true", "cache", True),
        ("- on-failure: skip", "on_failure", "skip"),
        ("- on-error: abort", "on_failure", "abort"),
        ("- on-retry: keep", "on_retry", "keep"),
        ("- checkpoint: true", "checkpoint", True),
        ("- idempotency: release-1.2", "idempotency", "release-1.2"),
        ("- budget: {attempts: 3, container-minutes: 2.5}", "budget", {"attempts": 3, "container-minutes": 2.5}),
        ("- git: true", "git", True),
        ("- model: large", "metadata", {"model": "large"}),
        ("- resources: {memory: 512m, cpus: 1, pids: 64, disk: 1g}", "resources",
         Resources(memory=512 * MIB, cpus=1, pids=64, disk=1024 * MIB)),
        ("- network: {}", "network", Network()),
        ("- network:", "network", Network()),
        ("- network: [python, github.com]", "network", Network(allowed=("python", "github.com"))),
        ("- network: {allowed: python, blocked: [x.org]}", "network", Network(allowed=("python",), blocked=("x.org",))),
        ("- retries: 2", "retries", Retries(max=2)),
        ("- retry: {max: 1, backoff: fixed, wait: 10s, on: [transient, oom]}", "retries",
         Retries(max=1, backoff="fixed", wait_seconds=10, on=("transient", "oom"))),
        ("- retries: {wait: 1m}", "retries", Retries(max=3, wait_seconds=60)),
        ("- on-failure: retry", "retries", Retries(max=3)),
    ],
)  # fmt: skip
def test_attributes(attributes, field, value):
    made = plan(f"### b\n{WORK}\n### c\n{WORK}\n### a\n{attributes}\n{WORK}", "inputs: {x: 1}")
    assert getattr(made.step("a"), field) == value


def test_defaults_of_a_step_that_says_nothing():
    made = step()
    assert made == Step(
        id="a",
        name="a",
        kind="command",
        policy="standard",
        image="workflowmaster/step:1",
        work=made.work,
        retries=BY_DECISION,
        source=made.source,
    )


@pytest.mark.parametrize(
    ("front", "field", "value"),
    [
        ("image: python:3.12", "image", "python:3.12"),
        ("container: python:3.12", "image", "python:3.12"),
        ("security-policy: hardened", "policy", "hardened"),
        ("env: {A: x}", "env", {"A": "x"}),
        ("timeout-minutes: 7", "timeout_seconds", 420),
        ("retries: 1", "retries", Retries(max=1)),
        ("on-failure: abort", "on_failure", "abort"),
        ("cache: true", "cache", True),
        ("network: [python]", "network", Network(allowed=("python",))),
        ("resources: {memory: 1g}", "resources", Resources(memory=1024 * MIB)),
    ],
)
def test_front_matter_is_every_steps_default(front, field, value):
    assert getattr(step(front=front), field) == value


@pytest.mark.parametrize(
    ("front", "attributes", "field", "value"),
    [
        ("image: node:1", "- image: rust:2", "image", "rust:2"),
        ("env: {A: 1, B: 1}", "- env: {B: 2}", "env", {"A": "1", "B": "2"}),
        ("timeout: 7", "- timeout: 2", "timeout_seconds", 120),
        ("retries: {max: 3, backoff: fixed}", "- retries: 1", "retries", Retries(max=1, backoff="fixed")),
        ("cache: true", "- cache: false", "cache", False),
        ("network: [python]", "- network: {}", "network", Network()),
        (
            "resources: {memory: 1g, cpus: 2}",
            "- resources: {cpus: 1}",
            "resources",
            Resources(memory=1024 * MIB, cpus=1),
        ),
        ("on-failure: abort", "- on-failure: skip", "on_failure", "skip"),
    ],
)
def test_a_step_overrides_the_front_matter(front, attributes, field, value):
    assert getattr(step(attributes, front), field) == value


@pytest.mark.parametrize(
    ("fence", "kind", "interpreter"),
    [
        ("```bash\nx\n```", "command", "bash"),
        ("```shell command\nx\n```", "command", "bash"),
        ("```SH\nx\n```", "command", "sh"),
        ("~~~python3\nx\n~~~", "command", "python"),
        ("```python code\nx\n```", "command", "python"),
        ("```prompt\nDo it.\n```", "agent", "prompt"),
    ],
)
def test_the_fence_is_the_work(fence, kind, interpreter):
    made = step(fence=fence)
    assert (made.kind, made.work.interpreter) == (kind, interpreter)
    assert made.in_container


def test_an_agents_step_sees_a_repository_and_may_take_the_policys_time():
    made = step(fence="```prompt\nDo it.\n```\n")
    assert made.git
    assert made.timeout_seconds == 1800


@pytest.mark.parametrize("fence", ["```bash check\nx\n```", "```check\nx\n```", '```sh {name="check"}\nx\n```'])
def test_a_check_fence_is_the_steps_test(fence):
    made = step(fence=f"{WORK}\nwords\n\n{fence}\n")
    assert made.work.text == "true\n"
    assert made.check.text == "x\n"


def test_a_check_may_be_an_attribute():
    made = step('- check: test -s out && grep "a: b" out')
    assert (made.check.interpreter, made.check.text, made.check.line) == ("bash", 'test -s out && grep "a: b" out', 8)


@pytest.mark.parametrize("fence", ["```check\ntrue\n```", ""])
def test_a_step_with_nothing_but_a_check_is_one(fence):
    made = step("- check: true" if not fence else "- if: true", fence=fence)
    assert (made.kind, made.check, made.work.text.strip()) == ("check", None, "true")
    assert made.in_container


def test_an_approval_without_work_is_a_pause():
    made = step("- approval: required", fence="")
    assert (made.kind, made.approval, made.work, made.image) == ("approval", True, None, "")
    assert not made.in_container


@pytest.mark.parametrize(
    ("uses", "phase"), [("create-pull-request", "pull_request_creation"), ("create-issue", "issue_creation")]
)
def test_a_forge_step(uses, phase):
    made = step(f"- uses: {uses}\n- approval: required", fence="")
    assert (made.kind, made.phase, made.approval, made.image) == ("forge", phase, True, "")


def test_attributes_in_the_fences_braces():
    made = plan(
        f'### b\n{WORK}\n### a\n```bash {{timeout=2m needs=b if="inputs.x == 1"}}\ntrue\n```\n', "inputs: {x: 1}"
    )
    assert made.step("a").needs == ("b",)
    assert made.step("a").timeout_seconds == 120
    assert made.step("a").condition == "inputs.x == 1"


def test_prose_between_attributes_and_fence_is_for_readers():
    made = step("- timeout: 1\n\nSome words, a list:\n\n- Note: this is prose\n- and this\n\n> a quote\n")
    assert made.timeout_seconds == 60


def test_a_bullet_that_begins_with_a_capital_ends_the_attributes():
    assert step("- timeout: 1\n- Remember: the milk").timeout_seconds == 60


def test_deeper_headings_belong_to_the_step():
    made = plan(f"### a\n#### Why\nwords\n#### How\n{WORK}\n### b\n{WORK}")
    assert [one.id for one in made.tasks] == ["a", "b"]


def test_fences_in_lists_and_quotes_are_not_the_steps():
    made = step("- if: true\n\n1. like so:\n   ```bash\n   rm -rf x\n   ```\n\n> ```bash\n> rm -rf y\n> ```\n")
    assert made.work.text == "true\n"


def test_headings_in_fences_are_no_steps():
    made = plan("### a\n```bash\n### b\n# c\ntrue\n```\n")
    assert [one.id for one in made.tasks] == ["a"]
    assert made.step("a").work.text == "### b\n# c\ntrue\n"


@pytest.mark.parametrize("title", ["## Steps", "## Tasks", "## steps:", "## **Steps**", "Steps\n-----"])
def test_titles_of_the_steps_section(title):
    done = compiled(f"# T\n\n{title}\n\n### a\n{WORK}")
    assert done.plan.prompt.kind == "explicit"


PROSE = [
    "## Steps\n\n### Step 1: Install the tool\n```bash\nmake install\n```\n\n### Step 2: Use it\n```bash\nmake\n```\n",
    "## Steps\n\n1. Do this\n2. Do that\n",
    "## Tasks\n\n### Build the page\n- a header\n- a footer\n\n### Deploy\n```bash\nmake deploy\n```\n",
    "## Implementation steps\n\n### a\n```bash\ntrue\n```\n",
    "## Steps\n\nNothing below.\n",
]


@pytest.mark.parametrize("body", PROSE)
def test_what_only_looks_explicit_is_prose(body):
    assert compiled(f"# T\n\n{body}").plan.prompt.kind == "prose"


def test_numbered_headings_with_an_attribute_are_explicit():
    made = compiled(
        f"# T\n\n## Steps\n\n### Step 1: Build\n{WORK}\n### Step 2: Test\n- needs: step-1-build\n{WORK}"
    ).plan
    assert [one.id for one in made.tasks] == ["step-1-build", "step-2-test"]


def test_tasks_come_in_an_order_that_respects_needs_and_else_the_page():
    made = plan(
        f"### d\n- needs: [b, c]\n{WORK}\n### a\n{WORK}\n### c\n- needs: a\n{WORK}\n### b\n{WORK}\n### e\n{WORK}"
    )
    assert [one.id for one in made.tasks] == ["a", "c", "b", "d", "e"]


def test_front_matter_for_other_parts_is_plain_json():
    front = (
        'on: {schedule: [{cron: "0 6 * * 1", timezone: Europe/Berlin}], workflow_dispatch: }\n'
        "concurrency: release\nstaged: true\nbudget: {minutes: 45, attempts: 8}\n"
        "decisions: assist\ncoach: {apply: never}\ngithub: {base-branch: main}\n"
        'outputs: {create-pull-request: {title-prefix: "[x] ", draft: true, max-patch-size: 1m}, add-comment: }\n'
        "resources: {memory: 1g}\nretries: {max: 2, wait: 10s}\nnetwork: [python]\nsecrets: [TOKEN]\n"
        "kept: [.venv]\ndropped: node_modules\nrequires: [gpu]"
    )
    assert plan(f"### a\n{WORK}", front).front == {
        "on": {"schedule": [{"cron": "0 6 * * 1", "timezone": "Europe/Berlin"}], "workflow_dispatch": None},
        "concurrency": {"group": "release"},
        "staged": True,
        "budget": {"minutes": 45.0, "attempts": 8},
        "decisions": {"mode": "assist"},
        "coach": {"apply": "never"},
        "github": {"base-branch": "main"},
        "outputs": {
            "create-pull-request": {"title-prefix": "[x] ", "draft": True, "max-patch-size": MIB},
            "add-comment": {},
        },
        "resources": {"memory": 1024 * MIB},
        "retries": {"max": 2, "wait": 10.0},
        "network": {"allowed": ["python"]},
        "secrets": ["TOKEN"],
        "kept": [".venv"],
        "dropped": ["node_modules"],
        "requires": ["gpu"],
    }


@pytest.mark.parametrize(
    ("front", "schedule"),
    [
        ("on: {schedule: '@daily'}", [{"cron": "@daily"}]),
        ("on: {schedule: ['@daily', {interval: 2h}]}", [{"cron": "@daily"}, {"interval": 7200.0}]),
        ("on: {schedule: {cron: '* * * * *'}}", [{"cron": "* * * * *"}]),
    ],
)
def test_schedules_may_be_short(front, schedule):
    assert plan(f"### a\n{WORK}", front).front["on"]["schedule"] == schedule


def test_a_trigger_may_be_one_word():
    assert plan(f"### a\n{WORK}", "on: workflow_dispatch").front["on"] == {"workflow_dispatch": {}}


def test_identity_and_metadata():
    made = plan(
        f"### a\n{WORK}", "name: n\ndescription: d\nlabels: [x, y]\nmetadata: {team: t}\ntitle: other\nmodel: m"
    )
    assert (made.name, made.description, made.labels) == ("n", "d", ("x", "y"))
    assert made.metadata == {"title": "other", "model": "m", "team": "t"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("---\ntitle: From the title\n---\n# Heading\n", "From the title"),
        ("Words first.\n\n## Second level\n", "Second level"),
        ("# *Marked* `up`\n", "Marked up"),
        ("# " + "x" * 300 + "\n", "x" * 120),
    ],
)
def test_names_of_prompts_without_one(text, name):
    assert compiled(f"{text}\n## Steps\n\n### a\n{WORK}").plan.name == name


def test_what_stands_around_the_steps():
    done = compiled(
        "# Title\n\nSee #12 and `src/x.py`.\n\n## Steps\n\n### a\nSee #99.\n"
        + WORK
        + "\n## Success criteria\n\n- it works\n- `make test` passes\n"
    )
    assert [(one.kind, one.value, one.line) for one in done.plan.references] == [
        ("issue", "12", 3),
        ("file", "src/x.py", 3),
    ]
    assert [(one.text, one.check) for one in done.plan.criteria] == [("it works", ""), ("make test passes", "")]
    assert (
        done.plan.context
        == "# Title\n\nSee #12 and `src/x.py`.\n\n## Success criteria\n\n- it works\n- `make test` passes"
    )
    assert [one.id for one in done.plan.tasks] == ["a"]


def test_the_plan_does_not_depend_on_where_the_prompt_lies():
    text = f"# T\n\n## Steps\n\n### a\n{WORK}".encode()
    one, other = (compile_prompt(parse(text, path)).plan for path in ("a.md", "/b/c.md"))
    assert one.workflow_hash == other.workflow_hash
    assert one.prompt.path != other.prompt.path
