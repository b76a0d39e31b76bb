"""Policies of steps and what they may ask for, with and without the operator's word."""

from __future__ import annotations

import pytest

from workflowmaster.flows.compiler import Compilation, Options, compile_prompt
from workflowmaster.flows.prompts import parse

WORK = "```bash\ntrue\n```\n"
MIB = 1024**2


def compiled(attributes: str = "", front: str = "", fence: str = WORK, **options) -> Compilation:
    head = f"---\n{front}\n---\n" if front else ""
    text = f"{head}# T\n\n## Steps\n\n### a\n{attributes}\n{fence}"
    return compile_prompt(parse(text.encode(), "p.md"), Options(**options))


def step(*args, **options):
    done = compiled(*args, **options)
    assert done.plan, [one.message for one in done.diagnostics]
    return done.plan.tasks[0]


@pytest.mark.parametrize(
    ("front", "attribute", "operator", "default", "workflow", "effective"),
    [
        (None, None, None, "standard", "standard", "standard"),
        (None, None, None, "development", "development", "development"),
        (None, None, "minimal", "standard", "minimal", "minimal"),
        (None, None, "paranoid", "standard", "paranoid", "paranoid"),
        ("development", None, None, "standard", "development", "development"),
        ("development", None, "hardened", "standard", "hardened", "hardened"),
        ("hardened", None, "minimal", "standard", "hardened", "hardened"),
        ("standard", "hardened", None, "standard", "standard", "hardened"),
        ("standard", "hardened", "paranoid", "standard", "paranoid", "paranoid"),
        ("standard", "paranoid", "hardened", "standard", "hardened", "paranoid"),
        (None, "testing", "minimal", "standard", "minimal", "testing"),
        ("production", None, None, "standard", "production", "production"),
    ],
)
def test_the_operator_only_tightens_what_a_prompt_says(front, attribute, operator, default, workflow, effective):
    done = compiled(
        f"- policy: {attribute}" if attribute else "",
        f"policy: {front}" if front else "",
        policy=operator,
        default_policy=default,
    )
    assert done.plan.policy == workflow
    assert done.plan.tasks[0].policy == effective


def test_a_looser_operator_is_told_that_the_prompt_stays():
    done = compiled(front="policy: hardened", policy="minimal")
    assert [(one.code, one.severity) for one in done.diagnostics] == [("WM406", "note")]


def test_a_looser_step_gives_its_reason():
    made = step("- policy: development\n- reason: needs the network", "policy: hardened")
    assert (made.policy, made.policy_reason) == ("development", "needs the network")


def test_a_reason_loosens_nothing_the_operator_insists_on():
    made = step("- policy: development\n- reason: needs the network", "policy: hardened", policy="paranoid")
    assert (made.policy, made.policy_reason) == ("paranoid", "needs the network")


def test_a_reason_for_nothing_is_not_kept():
    assert step("- policy: hardened\n- reason: because").policy_reason == ""


def test_a_policy_that_the_operator_names_must_exist():
    done = compiled(policy="hardned")
    assert [(one.code, one.help) for one in done.diagnostics] == [("WM401", "did you mean 'hardened'?")]
    assert done.plan is None


def test_policies_of_the_users_own(tmp_path):
    (tmp_path / "office.yaml").write_text("extends: standard\ndescription: ours\nmemory: 1g\n")
    done = compiled("- resources: {memory: 1500m}", "policy: office", policy_folders=(tmp_path,))
    assert [one.code for one in done.diagnostics] == ["WM404"]
    assert step("", "policy: office", policy_folders=(tmp_path,)).policy == "office"


def test_a_broken_policy_of_the_users_own_says_what_is_broken(tmp_path):
    (tmp_path / "office.yaml").write_text("extends: standard\nmemry: 1g\n")
    (found,) = compiled("", "policy: office", policy_folders=(tmp_path,)).diagnostics
    assert found.code == "WM405"
    assert "memry" in found.message


@pytest.mark.parametrize(
    ("attributes", "front", "fence", "options", "seconds"),
    [
        ("", "", WORK, {}, 300),
        ("", "", WORK, {"default_timeout_seconds": 60}, 60),
        ("", "", WORK, {"default_timeout_seconds": 9999}, 1800),
        ("- policy: paranoid", "", WORK, {}, 120),
        ("- policy: paranoid", "", WORK, {"default_timeout_seconds": 60}, 60),
        ("- policy: paranoid\n- timeout: 5", "", WORK, {}, 300),
        ("", "timeout: 20", WORK, {}, 1200),
        ("- policy: hardened", "timeout: 20", WORK, {}, 600),
        ("- timeout: 1", "timeout: 20", WORK, {}, 60),
        ("", "", "```prompt\nx\n```\n", {}, 1800),
        ("- policy: hardened", "", "```prompt\nx\n```\n", {}, 600),
        ("- approval: required", "", "", {}, 300),
        ("- approval: required\n- timeout: 24h", "", "", {}, 86400),
    ],
)
def test_wall_time(attributes, front, fence, options, seconds):
    assert step(attributes, front, fence, **options).timeout_seconds == seconds


def test_what_the_file_asks_for_is_lowered_to_each_steps_policy():
    made = step("- policy: hardened", "resources: {memory: 2g, cpus: 2, pids: 100}")
    assert (made.resources.memory, made.resources.cpus, made.resources.pids) == (1024 * MIB, 1, 100)


@pytest.mark.parametrize(
    ("attributes", "options", "most", "notes"),
    [
        ("", {}, 0, []),
        ("- retries: 3", {}, 3, []),
        ("- retries: 5", {}, 3, ["WM319"]),
        ("- retries: 5", {"max_retries": 5}, 5, []),
        ("- retries: 0", {}, 0, []),
        ("- on-failure: retry", {"max_retries": 1}, 1, []),
        ("- retries: 1", {"max_retries": 0}, 0, ["WM319"]),
    ],
)
def test_retries_are_capped_by_the_operator(attributes, options, most, notes):
    done = compiled(attributes, **options)
    assert done.plan.tasks[0].retries.max == most
    assert [one.code for one in done.diagnostics] == notes


def test_backoff_is_the_operators_where_a_step_does_not_say():
    assert step("- retries: 1", backoff="linear").retries.backoff == "linear"
    assert step("- retries: {max: 1, backoff: fixed}", backoff="linear").retries.backoff == "fixed"


@pytest.mark.parametrize(
    ("front", "given", "parallel"),
    [("", None, 3), ("max-parallel: 8", None, 8), ("", 2, 2), ("max-parallel: 8", 2, 2), ("max-parallel: 1", 2, 1)],
)
def test_parallelism_is_the_lower_of_both(front, given, parallel):
    assert compiled("", front, max_parallel=given).plan.max_parallel == parallel


def test_the_default_image_is_the_operators():
    assert step(default_image="mine:2").image == "mine:2"
