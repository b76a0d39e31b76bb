"""Where a policy's values come from, and who loosened what."""

from __future__ import annotations

import pytest

from workflowmaster import policies
from workflowmaster.policies import PolicyError
from workflowmaster.policies.model import FOLDER

WIDE = "extends: hardened\nreason: the linker takes 3 GB\nmemory: 3g\n"
CHILD = "extends: wide\npids: 100\n"
GRANDCHILD = "extends: child\nreason: and downloads\nnetwork: bridge\n"


@pytest.fixture
def folder(tmp_path):
    for name, text in {"wide": WIDE, "child": CHILD, "grandchild": GRANDCHILD}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def test_a_lineage_goes_from_the_policy_to_the_one_that_stands_alone(folder):
    lineage = policies.lineage_of("grandchild", [folder])
    assert [link.policy.name for link in lineage] == ["grandchild", "child", "wide", "hardened"]
    assert lineage[0].policy == policies.load("grandchild", [folder])
    assert [link.policy.name for link in policies.lineage_of("production")] == ["production", "paranoid"]


def test_each_value_comes_from_the_first_file_that_writes_it(folder):
    origins = policies.origins(policies.lineage_of("grandchild", [folder]))
    assert origins["network"] == f"{folder}/grandchild.yaml:3"
    assert origins["pids"] == f"{folder}/child.yaml:2"
    assert origins["memory"] == f"{folder}/wide.yaml:3"
    assert origins["seccomp"].startswith(f"{FOLDER}/hardened.yaml:")
    assert set(origins) == set(policies.load("hardened").controls)


def test_a_value_that_no_file_writes_is_the_default(tmp_path):
    text = (FOLDER / "minimal.yaml").read_text()
    kept = [line for line in text.splitlines() if not line.startswith(("name:", "environment:"))]
    (tmp_path / "alone.yaml").write_text("\n".join(kept))
    assert policies.origins(policies.lineage_of("alone", [tmp_path]))["environment"] == "default"


@pytest.mark.parametrize("name", [*policies.ORDER, *policies.ALIASES])
def test_no_built_in_policy_loosens_anything(name):
    assert policies.loosened(name) == ()


def test_every_loosening_is_told_with_its_own_reason_the_oldest_first(folder):
    found = policies.loosened("grandchild", [folder])
    told = [(one.policy, one.against, [f.control for f in one.findings], one.reason) for one in found]
    assert told == [
        ("wide", "hardened", ["memory"], "the linker takes 3 GB"),
        ("grandchild", "child", ["network"], "and downloads"),
    ]
    assert [one.path.name for one in found] == ["wide.yaml", "grandchild.yaml"]


def test_standing_alone_is_no_way_around_a_reason(tmp_path):
    """Without `extends` a policy is held against the loosest of all."""
    text = (FOLDER / "minimal.yaml").read_text().replace("name: minimal", "name: mine")
    (tmp_path / "mine.yaml").write_text(text.replace("KILL,", "KILL, SYS_ADMIN,"))
    with pytest.raises(PolicyError) as caught:
        policies.load("mine", [tmp_path])
    assert "capabilities adds capabilities: SYS_ADMIN" in str(caught.value)
    assert str(caught.value).endswith("it grants more than 'minimal'; add `reason:` saying why")
    (tmp_path / "yours.yaml").write_text(
        text.replace("name: mine", "name: yours\nreason: a debugger").replace("KILL,", "KILL, SYS_ADMIN,")
    )
    (found,) = policies.loosened("yours", [tmp_path])
    assert (found.against, found.reason) == ("minimal", "a debugger")


def test_a_circle_names_the_line_that_closes_it(tmp_path):
    (tmp_path / "a.yaml").write_text("description: one\nextends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    with pytest.raises(PolicyError) as caught:
        policies.load("a", [tmp_path])
    assert str(caught.value) == f"{tmp_path}/b.yaml:1: policies extend each other in a circle: a → b → a"
