"""The commands that read policies: built-in ones, a user's own, and those that cannot be used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.policies.model import FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMPILER = "description: Compiles.\nextends: hardened\nreason: The linker takes 3 GB.\nmemory: 3g\npids: 100\n"


@pytest.fixture(scope="module")
def own(command_line: Callable[..., Any]) -> Any:
    """A command line with a policy of the user's own, and one that extends it from another folder."""
    line = command_line()
    (line.home / "policies").mkdir()
    (line.home / "policies/compiler.yaml").write_text(COMPILER)
    shared = line.home.parent / "shared"
    shared.mkdir()
    (shared / "linker.yaml").write_text("description: Links.\nextends: compiler\ncpus: 0.5\n")
    line.env["WORKFLOWMASTER_POLICY_FOLDERS"] = str(shared)
    return line


def test_policies_are_listed_shown_and_compared(bare: Any) -> None:
    assert list(bare("policy", "list", "--json").json) == list(policies.available())
    shown = bare("policy", "show", "hardened", "--json").json
    assert shown == policies.load("hardened").model_dump(mode="json")
    rows = bare("policy", "diff", "standard", "hardened", "--json").json
    fields = {row["field"]: (row["standard"], row["hardened"]) for row in rows}
    assert fields["workspace"] == ("rw", "overlay")
    assert bare("policy", "diff", "standard", "standard").out == "they grant the same\n"


def test_json_may_be_asked_for_before_or_after_the_second_word(bare: Any) -> None:
    assert bare("policy", "--json", "list").json == bare("policy", "list", "--json").json


def test_own_policies_are_known_everywhere(own: Any) -> None:
    listed = own("policy", "list", "--json").json
    assert list(listed) == [*policies.available(), "compiler", "linker"]
    assert listed["linker"] == "Links."
    shown = own("policy", "show", "linker", "--json").json
    assert (shown["memory"], shown["pids"], shown["cpus"], shown["extends"]) == (3 * 1024**3, 100, 0.5, "compiler")
    changed = {
        row["field"]: (row["hardened"], row["linker"])
        for row in own("policy", "diff", "hardened", "linker", "--json").json
    }
    assert changed == {"memory": (1024**3, 3 * 1024**3), "pids": (256, 100), "cpus": (1.0, 0.5)}


@pytest.mark.docker
def test_effective_says_where_each_value_comes_from_and_what_becomes_of_it(own: Any) -> None:
    told = own("policy", "show", "linker", "--effective", "--json", WORKFLOWMASTER_MAX_MEMORY_MB="512").json
    assert told["extends"] == ["compiler", "hardened"]
    origins = {name: control["from"].rsplit("/", 1)[1] for name, control in told["controls"].items()}
    assert (origins["cpus"], origins["memory"]) == ("linker.yaml:3", "compiler.yaml:4")
    assert set(origins) == set(policies.load("hardened").controls)
    assert told["controls"]["network"]["from"].startswith(str(FOLDER))
    assert told["controls"]["memory"]["value"] == 3 * 1024**3
    assert told["lowered_by_settings"] == {"memory": 512 * 1024**2}
    asked = {
        name: told["engine"][name] for name in ("mem_limit", "pids_limit", "nano_cpus", "read_only", "network_mode")
    }
    assert asked == {
        "mem_limit": 512 * 1024**2,
        "pids_limit": 100,
        "nano_cpus": 500_000_000,
        "read_only": True,
        "network_mode": "none",
    }
    (loosened,) = told["loosened"]
    assert (loosened["policy"], loosened["against"], loosened["reason"]) == (
        "compiler",
        "hardened",
        "The linker takes 3 GB.",
    )


@pytest.mark.docker
def test_effective_for_people_names_files_reasons_and_the_engines_words(own: Any) -> None:
    said = own("policy", "show", "linker", "--effective", WORKFLOWMASTER_MAX_CPU_CORES="0.25")
    assert said.code == 0, said.text
    assert said.out.startswith("linker extends compiler extends hardened\n")
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert any(line.startswith("cpus 0.5 (settings: 0.25) [") for line in lines)
    assert "because: The linker takes 3 GB." in lines
    assert "mem_limit 3221225472" in lines
    assert max(map(len, said.out.splitlines())) < 300


def test_without_an_engine_the_values_are_shown_all_the_same(own: Any) -> None:
    said = own("policy", "show", "linker", "--effective", "--json", DOCKER_HOST="unix:///none.sock")
    assert said.code == 0
    assert said.json["engine"] == {}
    assert len(said.json["controls"]) == len(policies.load("hardened").controls)
    assert "does not answer" in said.err


BROKEN = {
    "typo": ("extends: hardened\nmemroy: 2g\n", "typo.yaml:2: unknown field memroy; did you mean 'memory'?"),
    "word": ("extends: hardened\nnetwork: brigde\n", "word.yaml:2: network: 'brigde' is none of"),
    "quiet": ("extends: hardened\nmemory: 2g\n", "quiet.yaml:2: memory is larger: 2g > 1g"),
    "orphan": ("description: x\nextends: hardned\n", "orphan.yaml:2: extends 'hardned', which does not exist; did you mean 'hardened'?"),
    "circle": ("extends: circle\n", "circle.yaml:1: policies extend each other in a circle: circle → circle"),
    "mounts": ("extends: hardened\nmounts: [/var/run/docker.sock]\n", "mounts.yaml:2: mounts cannot be granted: no path of this host"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_policy_is_one_error_with_its_place_and_exit_code_2(
    command_line: Callable[..., Any], prompt_file: Callable[..., Path], name: str
) -> None:
    line, (text, message) = command_line(), BROKEN[name]
    (line.home / "policies").mkdir()
    (line.home / f"policies/{name}.yaml").write_text(text)
    shown = line("policy", "show", name)
    assert (shown.code, shown.out) == (2, "")
    assert message in shown.err
    prompt = prompt_file(f"---\npolicy: {name}\n---\n# T\n\n## Steps\n\n### a\n```bash\ntrue\n```\n")
    checked = line("check", prompt, "--json")
    assert checked.code == 2
    (found,) = checked.json
    assert (found["code"], found["line"], found["column"]) == ("WM405", 2, 9)
    assert message in found["message"]


@pytest.mark.parametrize("text", ["", "---\npolicy: standard\n---\n", "---\npolicy: hardened\n---\n"])
def test_a_file_that_hides_a_built_in_policy_is_refused_wherever_that_is_used(
    command_line: Callable[..., Any], prompt_file: Callable[..., Path], text: str
) -> None:
    line = command_line()
    (line.home / "policies").mkdir()
    (line.home / "policies/standard.yaml").write_text("extends: minimal\n")
    checked = line("check", prompt_file(f"{text}# T\n\n## Steps\n\n### a\n```bash\ntrue\n```\n"), "--json")
    assert checked.code == 2
    assert {one["code"] for one in checked.json} == {"WM405"}
    assert "'standard' is a built-in policy and cannot be replaced; use another name" in checked.err
    assert line("policy", "show", "standard").code == 2


def test_a_broken_policy_does_not_hide_the_others(command_line: Callable[..., Any]) -> None:
    line = command_line()
    (line.home / "policies").mkdir()
    (line.home / "policies/good.yaml").write_text("description: fine\nextends: hardened\n")
    (line.home / "policies/bad.yaml").write_text("extends: nothing\n")
    said = line("policy", "list")
    assert said.code == 2
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in said.out.splitlines()}
    assert rows["good"] == "fine"
    assert rows["bad"].startswith("cannot be used: ")
    assert said.err.count("bad.yaml:1: extends 'nothing'") == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["show"], 2, "the following arguments are required: NAME"),
        (["diff", "standard"], 2, "the following arguments are required: NAME"),
        (["list", "standard"], 2, "unrecognized arguments: standard"),
        (["show", "hardned"], 2, "no policy 'hardned'; did you mean 'hardened'?"),
        (["show", "../standard"], 2, "no policy '../standard'"),
        (["diff", "standard", "nope"], 2, "no policy 'nope'"),
        (["probe"], 2, "the following arguments are required: NAME"),
    ],
)
def test_policies_that_cannot_be_shown(bare: Any, words: list[str], code: int, message: str) -> None:
    said = bare("policy", *words)
    assert (said.code, said.out) == (code, "")
    assert message in said.err


@pytest.mark.docker
@pytest.mark.prefect
def test_a_run_under_a_loosened_policy_is_audited_with_its_reason(
    own: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    text = "---\npolicy: linker\n---\n# Link\n\n## Steps\n\n### link\n```sh\ncat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max\n```\n"
    done = own.run(prompt_file(text), repository().path)
    assert done.code == 0, done.text
    folder = own.folder(done.json["workflow_id"])
    assert (folder / "logs/link.1.log").read_text() == f"{3 * 1024**3}\n"
    records = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    (loosened,) = [record for record in records if record["event"] == "policy.loosened"]
    assert {name: loosened[name] for name in ("policy", "by", "against", "controls", "reason")} == {
        "policy": "linker",
        "by": "compiler",
        "against": "hardened",
        "controls": {"memory": "3g > 1g"},
        "reason": "The linker takes 3 GB.",
    }
    (pinned,) = [record for record in records if record["event"] == "image.pinned"]
    assert pinned["key"]
    assert own("audit", "verify", done.json["workflow_id"]).code == 0
