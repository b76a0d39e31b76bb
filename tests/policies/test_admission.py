"""Images and variables, judged by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster import policies
from workflowmaster.policies.admission import Held, refused_held, refused_image, refused_variables, repository


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("python", "python"),
        ("python:3.12-slim", "python"),
        (" library/python ", "python"),
        ("docker.io/library/python:3.12", "python"),
        ("index.docker.io/library/python@sha256:0123", "python"),
        ("docker.io/team/tools", "team/tools"),
        ("localhost:5000/team/tools:1", "localhost:5000/team/tools"),
        ("localhost:5000/team/tools", "localhost:5000/team/tools"),
        ("example.org/library/python:3", "example.org/library/python"),
        ("sha256:0123456789abcdef", ""),
    ],
)
def test_repository(reference, name):
    assert repository(reference) == name


@pytest.mark.parametrize(
    ("policy", "reference", "allowed"),
    [
        ("minimal", "anything.example.org/at/all:1", True),
        ("minimal", "sha256:0123", True),
        ("standard", "python:3.12", True),
        ("standard", "workflowmaster/step:1", True),
        ("standard", "python2", False),
        ("standard", "evil.example.org/python:3.12", False),
        ("standard", "sha256:0123", False),
        ("hardened", "workflowmaster/step:1", True),
        ("hardened", "python:3.12", False),
        ("paranoid", "workflowmaster", False),
    ],
)
def test_images(policy, reference, allowed):
    refusal = refused_image(policies.load(policy), reference)
    assert (refusal == "") == allowed
    if not allowed:
        assert reference in refusal
        assert "workflowmaster/*" in refusal


def test_an_empty_list_of_images_allows_none(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: standard\nimages: []\n")
    assert refused_image(policies.load("mine", [tmp_path]), "python").endswith("the repositories none")


@pytest.mark.parametrize(
    ("policy", "names", "refused"),
    [
        ("standard", ["ANYTHING", "CI"], ()),
        ("hardened", ["PATH", "TZ", "INPUT_A", "MATRIX_PYTHON", "WM_OUTPUT"], ()),
        ("hardened", ["FOO", "AWS_SECRET", "PATH"], ("AWS_SECRET", "FOO")),
        ("paranoid", ["TZ"], ("TZ",)),
    ],
)
def test_variables(policy, names, refused):
    assert refused_variables(policies.load(policy), names) == refused


def test_an_empty_list_of_variables_lets_nothing_through(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: hardened\nenvironment: []\n")
    assert refused_variables(policies.load("mine", [tmp_path]), ["PATH"]) == ("PATH",)


RULES = ("any", "allowed", "pinned", "signed", "product")
ID = "sha256:" + "a1" * 32


def under(rule: str) -> policies.SecurityPolicy:
    """A policy with that rule for images, and the list of `testing` where the rule takes one."""
    base = policies.load("testing").model_dump() | {"name": "mine", "image": rule}
    return policies.SecurityPolicy.model_validate(base | ({"images": None} if rule == "any" else {}))


@pytest.mark.parametrize(
    ("held", "accepted"),
    [
        (Held(ID), {"any", "allowed"}),
        (Held(ID, "digest"), {"any", "allowed", "pinned"}),
        (Held(ID, "lock"), {"any", "allowed", "pinned"}),
        (Held(ID, "record"), {"any", "allowed", "pinned"}),
        (Held(ID, signed=True), {"any", "allowed", "pinned", "signed"}),
        (Held(ID, signed=True, product=True), set(RULES)),
    ],
)
def test_what_is_known_of_an_image_decides_under_each_rule(held, accepted):
    assert {rule for rule in RULES if not refused_held(under(rule), "python:3.12", held)} == accepted


@given(
    st.builds(Held, st.just(ID), st.sampled_from(["", "digest", "lock", "record"]), st.booleans(), st.booleans()),
    st.sampled_from(["python:3.12", "workflowmaster/step:1", "python@sha256:" + "0" * 64]),
)
def test_a_stricter_rule_lets_nothing_through_that_a_looser_one_refuses(held, reference):
    verdicts = [not refused_held(under(rule), reference, held) for rule in RULES]
    assert verdicts == sorted(verdicts, reverse=True)


@pytest.mark.parametrize(
    ("rule", "reference", "held", "said"),
    [
        ("pinned", "python:3.12", Held(ID), "'python:3.12' (a1a1a1a1a1a1) is a tag that may be moved: write it as python@sha256:"),
        ("pinned", "workflowmaster/step:1", Held(ID), "sign it with `workflowmaster image build`"),
        ("signed", "workflowmaster/step:1", Held(ID, trouble="x.json was changed"), "is not: x.json was changed; build and sign it with"),
        ("signed", "python:3.12", Held(ID, trouble="none"), "leave `image` out, or name another policy"),
        ("product", "workflowmaster/step:1", Held(ID, signed=True), "another recipe than this version's: workflowmaster image build"),
    ],
)  # fmt: skip
def test_a_refusal_names_policy_rule_image_and_mend(rule, reference, held, said):
    refusal = refused_held(under(rule), reference, held)
    assert f"policy 'mine' wants images that are {rule}" in refusal
    assert reference in refusal
    assert said in refusal


def test_steps_get_their_outputs_under_every_built_in_policy():
    """What a plan itself hands over passes every policy that is ours; only an own one may cut it off."""
    names = ["INPUT_A", "MATRIX_B", "STEP_BUILD_MADE", "WM_STEP", "WM_ATTEMPT", "WM_OUTPUT", "HOME", "LANG"]
    for name in (*policies.ORDER, *policies.ALIASES):
        assert refused_variables(policies.load(name), names) == ()
