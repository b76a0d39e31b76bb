"""`docs/policies.md` says what the policies are: no table is behind, no field is left out, and its examples work."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from workflowmaster import policies
from workflowmaster.policies import SecurityPolicy, showing

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "policies.md").read_text()


@pytest.fixture
def make_policy_docs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("make_policy_docs", ROOT / "scripts" / "make_policy_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in ("make_seccomp", "generated"):
        sys.modules.pop(name, None)


def test_the_page_is_what_the_policies_make_it(make_policy_docs):
    assert make_policy_docs.main(["--check"]) == 0


def test_a_changed_value_makes_the_page_stale(make_policy_docs, tmp_path, monkeypatch, capsys):
    page = tmp_path / "policies.md"
    page.write_text(PAGE.replace("| 512m | 64m |", "| 513m | 64m |"))
    monkeypatch.setattr(make_policy_docs, "PAGE", page)
    assert make_policy_docs.main(["--check"]) == 1
    assert capsys.readouterr().out == "policies.md is stale: run `make generated`\n"
    assert make_policy_docs.main([]) == 0
    assert page.read_text() == PAGE


def test_a_lost_marker_is_an_error(make_policy_docs, tmp_path, monkeypatch):
    page = tmp_path / "policies.md"
    page.write_text(PAGE.replace("<!-- /tiers -->", ""))
    monkeypatch.setattr(make_policy_docs, "PAGE", page)
    with pytest.raises(ValueError, match="markers <!-- tiers -->"):
        make_policy_docs.main(["--check"])


def test_every_field_has_a_description():
    assert [name for name, field in SecurityPolicy.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("name", [*policies.ORDER, *policies.ALIASES])
def test_every_policy_is_on_the_page_and_says_what_it_is_for(name):
    assert name in PAGE
    assert policies.load(name).description


def test_the_example_is_refused_without_its_reason_as_the_page_says_and_loads_with_it(tmp_path):
    example = re.search(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / example[1]
    path.write_text(example[2])
    assert policies.load(path.stem, [tmp_path]).memory == 3 * 1024**3
    refused = tmp_path / "without"
    refused.mkdir()
    (refused / path.name).write_text(re.sub("reason:.*", "", example[2]))
    with pytest.raises(policies.PolicyError) as caught:
        policies.load(path.stem, [refused])
    shown = re.search(r"```\n(compiler.yaml:4.*?)```", PAGE, re.DOTALL)[1].strip()
    assert str(caught.value).replace(f"{refused}/", "") == shown


def test_words_are_those_of_a_policy_file():
    paranoid = showing.words(policies.load("paranoid"))
    assert paranoid["tmp"] == "64m noexec, 4096 inodes"
    assert paranoid["shm"] == "none"
    assert showing.words(policies.load("minimal"))["disk"] == "8g"
    assert showing.words(policies.load("minimal"))["result_cap"] == "unbounded"
