"""Who asks for a part of the host is told why there is none, by whatever word they ask."""

from __future__ import annotations

import pytest

from workflowmaster import policies
from workflowmaster.policies import PolicyError, SecurityPolicy, host_access, is_unmistakable
from workflowmaster.policies.hostaccess import HOST_ACCESS, UNMISTAKABLE


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("mounts", "no path of this host"),
        ("Volumes", "no path of this host"),
        ("docker_socket", "the engine's socket"),
        ("docker", "the engine's socket"),
        ("privileged", "no step is ever privileged"),
        ("cap_add", "`capabilities`"),
        ("devices", "no device"),
        ("host network", "namespace"),
        ("security-opt", "by its policy alone"),
    ],
)
def test_each_word_has_its_answer(word: str, said: str) -> None:
    assert said in host_access(word)


@pytest.mark.parametrize("word", ["memory", "image", "network", "", "mountain"])
def test_other_words_have_none(word: str) -> None:
    assert host_access(word) == ""
    assert not is_unmistakable(word)


def test_no_field_of_a_policy_is_taken_for_a_request_it_grants() -> None:
    """A word that is a field is refused only in prompts: in a policy file the field itself is read first."""
    assert set(HOST_ACCESS) & set(SecurityPolicy.model_fields) == {"capabilities", "seccomp", "apparmor"}
    assert set(HOST_ACCESS) > UNMISTAKABLE


@pytest.mark.parametrize("line", ["mounts: [/var/run/docker.sock]", "privileged: true", "volumes: {/etc: /etc}"])
def test_a_policy_cannot_grant_it_either(tmp_path, line: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: minimal\nreason: because\n{line}\n")
    with pytest.raises(PolicyError) as caught:
        policies.load("mine", [tmp_path])
    word = line.partition(":")[0]
    assert str(caught.value) == f"{tmp_path}/mine.yaml:3: {word} cannot be granted: {host_access(word)}"
