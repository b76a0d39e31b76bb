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
        ("", {}, 3, []),
        ("", {"max_retries": 1}, 1, []),
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
    assert done.plan.tasks[0].retries.automatic == (attributes == "")
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


def test_a_matrix_over_one_bad_image_is_one_mistake_each():
    done = compiled("- matrix: {v: [1, 2, 1.0]}\n- image: 'postgres:{{ matrix.v }}'")
    assert [one.message.split("'")[3] for one in done.diagnostics] == ["postgres:1", "postgres:2", "postgres:1.0"]


def test_an_operators_image_must_be_allowed_too_and_the_policy_is_pointed_at():
    done = compiled("- policy: hardened", default_image="corp/step:3")
    assert [(one.code, one.line, one.column) for one in done.diagnostics] == [("WM411", 6, 11)]


def test_an_image_that_is_not_known_yet_is_judged_when_it_is():
    front = 'inputs: {v: {required: true}}\nimage: "{{ inputs.v }}"'
    assert [one.code for one in compiled(front=front).diagnostics] == ["WM312"]
    assert [one.code for one in compiled(front=front, inputs={"v": "postgres:16"}).diagnostics] == ["WM411"]


@pytest.mark.parametrize("fence", ["- approval: required\n", "- uses: create-issue\n"])
def test_what_runs_on_the_host_has_no_image_and_no_variables(fence):
    made = compiled(fence, "policy: hardened\nenv: {CI: 1}", fence="")
    assert [one.code for one in made.diagnostics] == []


def test_an_own_policy_decides_over_images_and_variables(tmp_path):
    (tmp_path / "office.yaml").write_text(
        "extends: standard\nreason: our registry\nimages: [corp/*]\nenvironment: [CI, 'INPUT_*']\n"
    )
    good = "- image: corp/python:3\n- env: {CI: 1}"
    assert step(good, "policy: office", policy_folders=(tmp_path,)).policy == "office"
    bad = compiled("- image: python:3\n- env: {CID: 1}", "policy: office", policy_folders=(tmp_path,))
    assert sorted(one.code for one in bad.diagnostics) == ["WM411", "WM412"]


def test_the_operators_tighter_policy_judges_what_the_prompt_declares():
    """Dropping a variable in silence would leave a step to fail for a reason nobody sees."""
    assert [one.code for one in compiled("- env: {CI: 1}", policy="hardened").diagnostics] == ["WM412"]


def test_prose_is_judged_alike():
    text = "---\nimage: postgres:16\nmounts: [/etc]\nenv: {CI: 1}\nsecurity-policy: hardened\n---\n# Do\n\n1. Write a\n2. Test a\n"
    done = compile_prompt(parse(text.encode(), "p.md"), Options())
    errors = {(one.code, one.line) for one in done.diagnostics if one.severity == "error"}
    assert errors == {("WM411", 2), ("WM412", 4), ("WM413", 3)}


def test_a_word_of_the_writers_tracker_is_no_request_in_prose():
    text = "---\ndocker: yes\ndevice: phone\n---\n# Do\n\n1. Write a\n"
    done = compile_prompt(parse(text.encode(), "p.md"), Options())
    assert done.plan
    assert done.plan.metadata == {"docker": "yes", "device": "phone"}


def test_the_default_image_is_the_operators():
    assert step(default_image="debian:12").image == "debian:12"
