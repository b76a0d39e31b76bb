"""Matrices: instances, their ids, values and needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workflowmaster.flows.compiler import compile_prompt
from workflowmaster.flows.prompts import parse

if TYPE_CHECKING:
    from workflowmaster.flows.plan import Plan

WORK = "```bash\ntrue\n```\n"


def plan(steps: str) -> Plan:
    done = compile_prompt(parse(f"# T\n\n## Steps\n\n{steps}".encode(), "p.md"))
    assert done.plan, [one.message for one in done.diagnostics]
    return done.plan


def values(matrix: str) -> list[dict[str, str]]:
    return [step.matrix for step in plan(f"### t\n- matrix: {matrix}\n{WORK}").tasks]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ("{v: [1, 2]}", [{"v": "1"}, {"v": "2"}]),
        ("{v: 3.10}", [{"v": "3.10"}]),
        ("{a: [x, y], b: [1, 2]}", [{"a": a, "b": b} for a in "xy" for b in "12"]),
        ("{v: [true, 'no', 007]}", [{"v": "true"}, {"v": "no"}, {"v": "007"}]),
        ("{v: [1, 2, 3], exclude: [{v: 2}]}", [{"v": "1"}, {"v": "3"}]),
        ("{a: [x, y], b: [1, 2], exclude: [{a: x}]}", [{"a": "y", "b": "1"}, {"a": "y", "b": "2"}]),
        ("{v: [1], include: [{v: 2}]}", [{"v": "1"}, {"v": "2"}]),
        ("{v: [1, 2], include: [{v: 1, extra: slow}]}", [{"v": "1", "extra": "slow"}, {"v": "2"}]),
        ("{v: [1], include: [{v: 1}]}", [{"v": "1"}]),
        ("{include: [{v: 1}, {v: 2, w: 3}]}", [{"v": "1"}, {"v": "2", "w": "3"}]),
        ("{v: [1], include: [{other: x}]}", [{"v": "1"}, {"other": "x"}]),
    ],
)
def test_instances(matrix, expected):
    assert values(matrix) == expected


def test_ids_and_names_name_the_values():
    made = plan(f"### tests: Run them\n- matrix: {{python: [3.11], os: [debian trixie, a/b]}}\n{WORK}")
    assert [(step.id, step.name) for step in made.tasks] == [
        ("tests/3.11-debian-trixie", "Run them (3.11, debian trixie)"),
        ("tests/3.11-a-b", "Run them (3.11, a/b)"),
    ]


def test_values_fill_image_name_and_environment():
    made = plan(
        '### t: On {{ matrix.v }}\n- matrix: {v: [a, b]}\n- image: "node:{{matrix.v}}"\n- env: {V: "<${{ matrix.v }}>", W: w}\n'
        + WORK
    )
    assert [(step.name, step.image, step.env) for step in made.tasks] == [
        ("On a", "node:a", {"V": "<a>", "W": "w"}),
        ("On b", "node:b", {"V": "<b>", "W": "w"}),
    ]


def test_needs_of_a_matrix_are_all_its_instances_or_one():
    made = plan(
        f"### t\n- matrix: {{v: [1, 2]}}\n{WORK}\n### all\n- needs: t\n{WORK}\n### one\n- needs: t/2\n{WORK}"
        f"\n### each\n- matrix: {{w: [x, y]}}\n- needs: [all, t/1]\n{WORK}"
    )
    needs = {step.id: step.needs for step in made.tasks}
    assert needs["all"] == ("t/1", "t/2")
    assert needs["one"] == ("t/2",)
    assert needs["each/x"] == needs["each/y"] == ("all", "t/1")


def test_conditions_may_look_at_one_instance_and_at_their_own_values():
    made = plan(
        f"### t\n- matrix: {{v: [1, 2]}}\n- outputs: [o]\n{WORK}\n### b\n- matrix: {{w: [x]}}\n- needs: t\n"
        f'- if: steps["t/2"].outputs.o == matrix.w\n{WORK}'
    )
    assert made.step("b/x").condition == 'steps["t/2"].outputs.o == matrix.w'


def test_a_thousand_instances_in_order():
    made = plan(f"### t\n- matrix: {{n: [{', '.join(map(str, range(1000)))}]}}\n{WORK}\n### z\n- needs: t\n{WORK}")
    assert [step.id for step in made.tasks] == [*(f"t/{n}" for n in range(1000)), "z"]
    assert len(made.step("z").needs) == 1000
