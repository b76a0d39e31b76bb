"""Images and variables, judged by name."""

from __future__ import annotations

import pytest

from workflowmaster import policies
from workflowmaster.policies.admission import refused_image, refused_variables, repository


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
