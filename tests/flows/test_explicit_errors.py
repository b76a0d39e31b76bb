"""Every mistake an explicit prompt can hold: its code, its place, and what to do.

One row a mistake. `«` marks where the finding must point; the mark is taken out before the prompt is compiled.
"""

from __future__ import annotations

import pytest

from workflowmaster.flows.compiler import Options, compile_prompt
from workflowmaster.flows.prompts import parse

MARK = "«"
WORK = "```bash\ntrue\n```\n"


def prompt(steps: str, front: str = "") -> str:
    return (f"---\n{front}\n---\n" if front else "") + f"# T\n\n## Steps\n\n{steps}"


def findings(text: str, **options):
    done = compile_prompt(parse(text.replace(MARK, "").encode(), "p.md"), Options(**options))
    assert (done.plan is None) == any(one.severity == "error" for one in done.diagnostics)
    return [one for one in done.diagnostics if one.code != "WM506"]


def place(text: str) -> tuple[int, int]:
    before = text[: text.index(MARK)]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


ERRORS = [
    # structure
    ("WM201", prompt(f"### a\n{WORK}", f"{MARK}securty-policy: standard"), "did you mean 'security-policy'?"),
    ("WM201", prompt(f"### a\n{WORK}", f"retries: {{max: 1, {MARK}backof: fixed}}"), "did you mean 'backoff'?"),
    ("WM201", prompt(f"### a\n{WORK}", f"outputs: {{{MARK}create-pr: {{}}}}"), "create-pull-request"),
    ("WM201", prompt(f"### a\n{WORK}", f"{MARK}needs: b"), "known in a step"),
    ("WM202", prompt(f"### a\n- {MARK}neds: b\n{WORK}"), "did you mean 'needs'?"),
    ("WM202", prompt(f"### a\n- approval: required\n- {MARK}Neds: b\n{WORK}"), "did you mean 'needs'?"),
    ("WM202", prompt(f"### a\n- {MARK}max-parallel: 2\n- if: true\n{WORK}"), "known in the front matter"),
    ("WM203", prompt(f"### a\n- policy: standard\n- {MARK}security-policy: standard\n{WORK}"), ""),
    ("WM204", prompt(f"### build\n{WORK}\n### b\n- needs: {MARK}buidl\n{WORK}"), "did you mean 'build'?"),
    ("WM204", prompt(f"### build\n{WORK}\n### b\n- needs: [build, {MARK}lint]\n{WORK}"), "steps defined in this file: build, b"),
    ("WM204", prompt(f"### build\n{WORK}\n### b\n- needs: build, {MARK}lint\n{WORK}"), ""),
    ("WM204", prompt(f"### t\n- matrix: {{v: [1, 2]}}\n{WORK}\n### b\n- needs: {MARK}t/3\n{WORK}"), "did you mean 't/"),
    ("WM205", prompt(f"### a\n- needs: {MARK}b\n{WORK}\n### b\n- needs: c\n{WORK}\n### c\n- needs: a\n{WORK}"), "a in line 6"),
    ("WM205", prompt(f"### a\n- needs: {MARK}a\n{WORK}"), ""),
    ("WM206", prompt(f"### a b\n{WORK}\n### {MARK}A-B\n- if: true\n{WORK}"), "slug of its heading"),
    ("WM207", prompt(f"### a\n{WORK}\n### {MARK}b\n- needs: a\n"), "approval: required"),
    ("WM208", prompt(f"### a\n{WORK}{MARK}{WORK}"), "call one `check`"),
    ("WM208", prompt(f"### a\n- uses: {MARK}create-issue\n{WORK}"), "two steps"),
    ("WM209", prompt(f"### a\n- if: true\n{MARK}```bahs\ntrue\n```\n"), "did you mean 'bash'?"),
    ("WM209", prompt(f"### a\n- if: true\n{MARK}```\ntrue\n```\n"), "bash, sh, python, prompt"),
    ("WM209", prompt(f"### a\n{WORK}{MARK}```ruby check\ntrue\n```\n"), "```bash check"),
    ("WM210", prompt(f"### a\n```bash\necho {MARK}{{{{ inputs.x }}}}\n```\n"), "$INPUT_NAME"),
    ("WM210", prompt(f"### a\n```python\nprint('{MARK}{{{{name}}}}')\n```\n"), ""),
    ("WM210", prompt(f"### a\n```sh\necho {MARK}${{{{ matrix.x }}}}\n```\n"), ""),
    ("WM211", prompt(f"### a-b\n{WORK}\n### {MARK}a_b\n{WORK}"), "rename"),
    ("WM211", prompt(f"### {MARK}t\n- matrix: {{v: [x.1, X.1]}}\n{WORK}"), ""),
    ("WM211", prompt(f"### t\n- matrix: {MARK}{{v: [a b, a-b]}}\n{WORK}"), "respell"),
    ("WM211", prompt(f"### t\n- matrix: {MARK}{{a-b: [1], a_b: [2]}}\n{WORK}"), ""),
    ("WM211", prompt(f"### a\n- outputs: {MARK}[x-y, x_y]\n{WORK}"), ""),
    ("WM211", prompt(f"### a\n{WORK}", f"inputs:\n  a-b: x\n  {MARK}a_b: y"), "rename"),
    ("WM212", prompt(f"### a\nWords first.\n- {MARK}needs: b\n{WORK}\n### b\n{WORK}"), "right below"),
    ("WM213", prompt(f"### a\n{MARK}```bash\n\n```\n"), ""),
    ("WM213", prompt(f"### a\n{WORK}{MARK}```check\n```\n"), ""),
    ("WM216", prompt(f"### a\n{WORK}```check\ntrue\n```\n{MARK}```bash check\ntrue\n```\n"), "one fence"),
    ("WM216", prompt(f"### a\n- check: {MARK}true\n{WORK}```check\ntrue\n```\n"), "keep one"),
    ("WM219", prompt(f"### a\n{WORK}\n{MARK}## Tasks\n\n### b\n{WORK}"), "one section"),
    # reading of attributes
    ("WM106", prompt(f"### a\n- needs: [b\n{MARK}{WORK}"), ""),
    ("WM108", prompt(f"### a\n- retries: 1\n- {MARK}retries: 2\n{WORK}"), "keep one"),
    ("WM108", prompt(f"### a\n- env: {{A: x, {MARK}A: y}}\n{WORK}"), "keep one"),
    ("WM114", prompt(f"### a\n- needs: {MARK}&x [b]\n{WORK}"), "write the value out"),
    # values
    ("WM301", prompt(f"### a\n- {MARK}needs:\n{WORK}"), "remove the line"),
    ("WM301", prompt(f"### a\n- cache: {MARK}maybe\n{WORK}"), ""),
    ("WM301", prompt(f"### a\n- retries: {MARK}lots\n{WORK}"), ""),
    ("WM301", prompt(f"### a\n- env: {MARK}[A]\n{WORK}"), ""),
    ("WM301", prompt(f"### a\n- env: {{A: {MARK}[x]}}\n{WORK}"), ""),
    ("WM301", prompt(f"### a\n{WORK}", f"labels: [a, {MARK}[b]]"), ""),
    ("WM301", prompt(f"### a\n{WORK}", f"concurrency: {MARK}{{}}"), ""),
    ("WM302", prompt(f"### a\n- timeout-minutes: {MARK}soon\n{WORK}"), ""),
    ("WM302", prompt(f"### a\n- retries: {{max: 1, wait: {MARK}5}}\n{WORK}"), ""),
    ("WM303", prompt(f"### a\n- resources: {{memory: {MARK}lots}}\n{WORK}"), ""),
    ("WM304", prompt(f"### a\n- priority: {MARK}hgih\n{WORK}"), "did you mean 'high'?"),
    ("WM304", prompt(f"### a\n- on-failure: {MARK}explode\n{WORK}"), "retry, skip, abort, escalate, auto"),
    ("WM304", prompt(f"### a\n- approval: {MARK}maybe\n{WORK}"), ""),
    ("WM304", prompt(f"### a\n{WORK}", f"inputs: {{x: {{type: {MARK}strin}}}}"), "did you mean 'string'?"),
    ("WM304", prompt(f"### a\n- retries: {{on: [{MARK}sometimes]}}\n{WORK}"), "transient"),
    ("WM305", prompt(f"### a\n- retries: {MARK}99\n{WORK}"), ""),
    ("WM305", prompt(f"### a\n{WORK}", f"max-parallel: {MARK}0"), ""),
    ("WM305", prompt(f"### a\n- resources: {{cpus: {MARK}0}}\n{WORK}"), ""),
    ("WM306", prompt(f"### a\n- env: {{{MARK}1A: x}}\n{WORK}"), "no digit first"),
    ("WM306", prompt(f"### a\n{WORK}", f"env: {{{MARK}A-B: x}}"), ""),
    ("WM307", prompt(f"### a\n- env: {{{MARK}WM_OUTPUT: x}}\n{WORK}"), "another name"),
    ("WM308", prompt(f"### a\n- if: inputs.x {MARK}= 1\n{WORK}"), "== to compare"),
    ("WM308", prompt(f"### a\n- if: 'true or{MARK}'\n{WORK}"), "text in quotes"),
    ("WM309", prompt(f"### a\n{WORK}\n### b\n- needs: a\n- if: {MARK}steps.aa.status == 'failed'\n{WORK}"), "did you mean 'a'?"),
    ("WM309", prompt(f"### a\n{WORK}\n### b\n- if: {MARK}steps.a.status == 'failed'\n{WORK}"), "needs: a"),
    ("WM309", prompt(f"### a\n- outputs: [made]\n{WORK}\n### b\n- needs: a\n- if: true and {MARK}steps.a.outputs.mad\n{WORK}"), "'made'"),
    ("WM309", prompt(f"### a\n- matrix: {{v: [1, 2]}}\n{WORK}\n### b\n- needs: a\n- if: {MARK}steps.a.status\n{WORK}"), 'steps["a/1"]'),
    ("WM309", prompt(f"### a\n- if: {MARK}inputs.gruop\n{WORK}", "inputs: {group: x}"), "did you mean 'group'?"),
    ("WM309", prompt(f"### a\n- matrix: {{python: [1]}}\n- if: {MARK}matrix.pyton\n{WORK}"), "did you mean 'python'?"),
    ("WM310", prompt(f'### a\n- env: {{A: {MARK}"{{{{ inputs.gruop }}}}"}}\n{WORK}', "inputs: {group: x}"), "did you mean 'group'?"),
    ("WM310", prompt(f'### a\n- image: {MARK}"x:{{{{ secrets.y }}}}"\n{WORK}'), "none is defined"),
    ("WM311", prompt(f"### a\n- reason: {MARK}for {{{{ inputs.x }}}}\n{WORK}", "inputs: {x: a}"), "only image"),
    ("WM313", prompt(f"### a\n{WORK}", f"inputs: {{n: {{type: integer, default: {MARK}many}}}}"), ""),
    ("WM313", prompt(f"### a\n{WORK}", f"inputs: {{b: {{type: boolean, enum: [true, {MARK}perhaps]}}}}"), ""),
    ("WM314", prompt(f"### a\n{WORK}", f"inputs: {{g: {{default: {MARK}rutime, enum: [runtime, dev]}}}}"), "did you mean 'runtime'?"),
    ("WM316", prompt(f"### a\n- matrix: {MARK}{{}}\n{WORK}"), ""),
    ("WM316", prompt(f"### a\n- matrix: {{v: {MARK}[]}}\n{WORK}"), "v: [a, b]"),
    ("WM316", prompt(f"### a\n- matrix: {{v: {MARK}[[1]]}}\n{WORK}"), ""),
    ("WM316", prompt(f"### a\n- matrix: {MARK}{{v: [1], exclude: [{{v: 1}}]}}\n{WORK}"), "exclude less"),
    ("WM316", prompt(f"### a\n- matrix: {{v: [1], include: {MARK}x}}\n{WORK}"), "include"),
    ("WM317", prompt(f"### a\n{WORK}", f"on: {{schedule: [{{cron: {MARK}1 2 3}}]}}"), ""),
    ("WM318", prompt(f"### a\n- outputs: [ok, {MARK}2nd]\n{WORK}"), ""),
    ("WM318", prompt(f"### a\n- matrix: {{{MARK}1st: [a]}}\n{WORK}"), ""),
    ("WM318", prompt(f"### a\n- secrets: [{MARK}s3cr=t]\n{WORK}"), "not its value"),
    ("WM318", prompt(f"### a\n{WORK}", f"inputs: {{{MARK}1: x}}"), ""),
    ("WM320", prompt(f"### a\n- inputs: [{MARK}/etc/passwd]\n{WORK}"), "below the workspace"),
    ("WM320", prompt(f"### a\n- inputs: [data/x, {MARK}../y]\n{WORK}"), ""),
    ("WM321", prompt(f"### a\n- secrets: [{MARK}TOKN]\n{WORK}", "secrets: [TOKEN]"), "did you mean 'TOKEN'?"),
    ("WM322", prompt(f"### a\n- image: {MARK}'a b'\n{WORK}"), "name:tag"),
    ("WM322", prompt(f"### a\n{WORK}", f"image: {MARK}-x"), ""),
    ("WM323", prompt(f"### a\n- network: [{MARK}http://x]\n{WORK}"), "*.example.org"),
    ("WM323", prompt(f"### a\n- network: [python, {MARK}nod]\n{WORK}"), "did you mean 'node'?"),
    ("WM323", prompt(f"### a\n- network: {{allowed: [x.org, {MARK}https://y.org/z]}}\n{WORK}"), "host alone: y.org"),
    ("WM323", prompt(f"### a\n{WORK}", f"network: {{blocked: [{MARK}a/b]}}"), ""),
    # policy
    ("WM407", prompt(f"### a\n- policy: hardened\n- {MARK}network: [python]\n{WORK}"), "no network"),
    ("WM407", prompt(f"### a\n{WORK}", f"security-policy: testing\n{MARK}network: [python]"), "no network"),
    ("WM408", prompt(f"### a\n- {MARK}network: ['*']\n{WORK}"), "development"),
    ("WM401", prompt(f"### a\n- policy: {MARK}hardend\n{WORK}"), "did you mean 'hardened'?"),
    ("WM401", prompt(f"### a\n{WORK}", f"security-policy: {MARK}open"), "known: minimal"),
    ("WM402", prompt(f"### a\n- policy: {MARK}minimal\n{WORK}"), "reason"),
    ("WM402", prompt(f"### a\n- policy: {MARK}standard\n{WORK}", "policy: paranoid"), "audited"),
    ("WM403", prompt(f"### a\n- timeout: {MARK}2h\n{WORK}"), "lower the time"),
    ("WM403", prompt(f"### a\n- policy: paranoid\n- timeout: {MARK}6\n{WORK}"), ""),
    ("WM403", prompt(f"### a\n{WORK}", f"timeout-minutes: {MARK}600"), ""),
    ("WM404", prompt(f"### a\n- resources: {{memory: {MARK}16g}}\n{WORK}"), "only lower"),
    ("WM404", prompt(f"### a\n- policy: paranoid\n- resources: {{cpus: {MARK}1}}\n{WORK}"), ""),
    ("WM404", prompt(f"### a\n{WORK}", f"resources: {{pids: {MARK}100000}}"), ""),
    ("WM411", prompt(f"### a\n- image: {MARK}evil.example.org/python:3\n{WORK}"), "it allows the repositories alpine"),
    ("WM411", prompt(f"### a\n{WORK}", f"image: {MARK}postgres:16"), "a policy that allows this one"),
    ("WM411", prompt(f"### a\n- policy: {MARK}hardened\n- if: true\n{WORK}".replace(MARK, ""), f"image: {MARK}python:3.12"), "workflowmaster/*"),
    ("WM411", prompt(f"### a\n- matrix: {{v: [1]}}\n- image: {MARK}'postgres:{{{{ matrix.v }}}}'\n{WORK}"), "'postgres:1'"),
    ("WM412", prompt(f"### a\n- policy: hardened\n- env: {{{MARK}AWS_PROFILE: x}}\n{WORK}"), "INPUT_<NAME>"),
    ("WM412", prompt(f"### a\n- policy: paranoid\n{WORK}", f"env: {{LANG: C, {MARK}TZ: UTC}}"), "it lets through HOME"),
    ("WM413", prompt(f"### a\n- {MARK}mounts: [/var/run/docker.sock]\n{WORK}"), "no path of this host is ever mounted"),
    ("WM413", prompt(f"### a\n- {MARK}volumes:\n    - /etc:/etc\n{WORK}"), "no path of this host is ever mounted"),
    ("WM413", prompt(f"### a\n{WORK}", f"{MARK}docker_socket: true"), "owns this machine"),
    ("WM413", prompt(f"### a\n- {MARK}privileged: true\n{WORK}"), "ever privileged"),
    ("WM413", prompt(f"### a\n- resources: {{memory: 1g, {MARK}devices: [/dev/kvm]}}\n{WORK}"), "no device"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "text", "advice"), ERRORS, ids=[f"{code}-{index}" for index, (code, *_) in enumerate(ERRORS)]
)
def test_a_mistake_is_found_where_it_is(code, text, advice):
    found = [one for one in findings(text) if one.severity == "error"]
    assert [(one.code, one.line, one.column) for one in found] == [(code, *place(text))]
    assert advice in f"{found[0].help} {found[0].message}"


WARNINGS = [
    ("WM214", "note", prompt(f"### a\n{WORK}", f"{MARK}model: gpt"), "does not change the run"),
    ("WM214", "note", prompt(f"### a\n- {MARK}tools: [x]\n{WORK}"), ""),
    ("WM217", "warning", prompt(f"### a\n{WORK}{MARK}```json\n{{}}\n```\n"), "only shown"),
    ("WM210", "warning", prompt(f"### a\n```prompt\nUse {MARK}{{{{ inputs.x }}}}\n```\n"), "not filled in"),
    ("WM218", "note", prompt(f"### {MARK}测试\n- if: true\n{WORK}"), "step-1"),
    ("WM312", "warning", prompt(f"### a\n{WORK}", f"inputs: {{{MARK}x: {{required: true}}}}"), "--input x="),
    ("WM319", "note", prompt(f"### a\n- retries: {MARK}9\n{WORK}"), "max_retry_attempts"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "severity", "text", "advice"), WARNINGS, ids=[row[0] for row in WARNINGS])
def test_a_warning_or_note_does_not_stop_a_plan(code, severity, text, advice):
    (found,) = findings(text)
    assert (found.code, found.severity, (found.line, found.column)) == (code, severity, place(text))
    assert advice in f"{found.message} {found.help}"


def test_all_mistakes_are_said_at_once():
    text = prompt(
        "### a\n- needs: [b, x]\n- timeout: soon\n- policy: opne\n```bahs\n```\n### b\n- needs: a\n- bogus: 1\n- if: (\n"
        + WORK,
        "nam: x\nretries: {max: no}",
    )
    assert [one.code for one in findings(text)] == [
        "WM201", "WM301", "WM205", "WM204", "WM302", "WM401", "WM209", "WM202", "WM308",
    ]  # fmt: skip


def test_a_missing_input_is_an_error_only_before_a_run():
    text = prompt(f"### a\n{WORK}", "inputs: {x: {required: true}}")
    assert [one.severity for one in findings(text)] == ["warning"]
    assert [(one.code, one.severity) for one in findings(text, require_inputs=True)] == [("WM312", "error")]
    assert findings(text, require_inputs=True, inputs={"x": "1"}) == []


@pytest.mark.parametrize(
    ("inputs", "code", "said"),
    [
        ({"gruop": "x"}, "WM315", "did you mean 'group'?"),
        ({"group": "x"}, "WM314", "it is one of runtime, dev"),
        ({"count": "x"}, "WM313", "must be a whole number"),
        ({"draft": "maybe"}, "WM313", "must be true or false"),
        ({"ratio": "x"}, "WM313", "must be a number"),
    ],
)
def test_given_inputs_are_checked(inputs, code, said):
    front = (
        "inputs:\n  group: {enum: [runtime, dev], default: dev}\n  count: {type: integer}\n"
        "  draft: {type: boolean}\n  ratio: {type: number}"
    )
    (found,) = findings(prompt(f"### a\n{WORK}", front), inputs=inputs)
    assert found.code == code
    assert said in f"{found.message} {found.help}"


def test_a_matrix_that_is_too_large():
    axes = ", ".join(f"a{index}: [{', '.join(map(str, range(30)))}]" for index in range(3))
    (found,) = findings(prompt(f"### a\n- matrix: {{{axes}}}\n{WORK}"))
    assert (found.code, "27000 instances" in found.message) == ("WM316", True)


def test_more_dependencies_than_a_plan_may_have():
    axis = f"{{v: [{', '.join(map(str, range(500)))}]}}"
    text = prompt(f"### a\n- matrix: {axis}\n{WORK}\n### b\n- matrix: {axis}\n- needs: a\n{WORK}")
    (found,) = findings(text)
    assert (found.code, "250000" in found.message) == ("WM220", True)
