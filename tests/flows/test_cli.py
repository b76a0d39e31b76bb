"""The command line as other programs rely on it: exit codes, JSON on stdout alone, and what is never imported."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import cli

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = "# Say hello\n\n## Steps\n\n### hello\n- retries: 2\n```bash\necho hello\n```\n\n### agent\n- needs: hello\n```prompt\nThink.\n```\n"
BAD = "# Bad\n\n## Steps\n\n### one\n- neds: two\n```bash\ntrue\n```\n"

HEAVY = ("prefect", "docker", "pandas", "sklearn", "pygit2", "rich", "requests")
"""What `--help`, `check` and `plan --json` may not import: Prefect alone takes three quarters of a second."""

COMMANDS = "check plan compile schema run resume approve list logs report stats audit policy image init doctor clean ui"

TASK_KEYS = {
    "id",
    "name",
    "kind",
    "phase",
    "needs",
    "priority",
    "policy",
    "image",
    "timeout_seconds",
    "max_retries",
    "source",
}


@pytest.fixture
def good(prompt_file: Callable[..., Path]) -> Path:
    return prompt_file(GOOD, "good.md")


@pytest.fixture
def bad(prompt_file: Callable[..., Path]) -> Path:
    return prompt_file(BAD, "bad.md")


def test_every_command_is_listed_and_explains_itself(bare: Any) -> None:
    said = bare("--help")
    assert (said.code, said.err) == (0, "")
    for command in COMMANDS.split():
        assert f"\n    {command} " in said.out
    assert "exit codes:" in said.out
    assert "130 interrupted" in said.out


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_commands_work_can_be_found(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The grammar names functions as text, so that they are imported late; a wrong name must not wait for a user."""
    import importlib

    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: workflowmaster {command}")
    for found in works(subcommands(cli.parser())[command]):
        module, _, name = found.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {name: one for a in parser._actions if isinstance(a.choices, dict) for name, one in a.choices.items()}


def works(parser: argparse.ArgumentParser) -> list[str]:
    """Where the work of a command is, or that of each of the commands below it."""
    below = subcommands(parser).values()
    return [found for one in below for found in works(one)] if below else [parser.get_default("does")]


@pytest.mark.parametrize("name", ["workflowmaster", "wm"])
def test_both_names_say_their_version(name: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name(name), "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == version("workflowmaster") + "\n"


@pytest.mark.parametrize("words", [(), ("fly",), ("run",), ("policy", "dance"), ("logs", "x", "--attempt", "one")])
def test_what_cannot_be_understood_ends_with_2_and_the_usage(bare: Any, words: tuple[str, ...]) -> None:
    said = bare(*words)
    assert (said.code, said.out) == (2, "")
    assert "usage: workflowmaster" in said.err


@pytest.mark.parametrize(
    "words", [("--help",), ("check", "GOOD"), ("check", "BAD", "--json"), ("plan", "GOOD", "--json")]
)
def test_looking_imports_nothing_heavy(bare: Any, good: Path, bad: Path, words: tuple[str, ...]) -> None:
    given = [{"GOOD": str(good), "BAD": str(bad)}.get(word, word) for word in words]
    code = f"import sys; from workflowmaster.flows.cli import main\ntry: main({given!r})\nexcept SystemExit: pass\nprint(sorted(sys.modules), file=sys.stderr)"
    env = {"PATH": "/usr/bin:/bin", "WORKFLOWMASTER_HOME": str(bare.home), "HOME": str(bare.user_home)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    loaded = {name.split(".")[0] for name in eval(done.stderr.splitlines()[-1])}
    assert loaded & set(HEAVY) == set()


def test_check_says_nothing_but_a_summary_about_a_good_file(bare: Any, good: Path) -> None:
    said = bare("check", good, "--json")
    assert said.code == 0
    assert [one["severity"] for one in said.json] == ["note"]
    assert said.err.splitlines()[-1] == "1 checked: 0 errors, 1 warnings and notes"


def test_check_names_the_place_and_the_likely_word(bare: Any, good: Path, bad: Path) -> None:
    said = bare("check", good, bad, "--json")
    assert said.code == 2
    (error,) = [one for one in said.json if one["severity"] == "error"]
    assert set(error) == {"code", "severity", "file", "line", "column", "message", "help"}
    assert (error["file"], error["line"]) == (str(bad), 6)
    assert "did you mean" in error["help"]
    assert "'needs'" in error["help"] or "`needs`" in error["help"] or "needs" in error["help"]
    assert f"--> {bad}:6:" in said.err


def test_check_without_json_prints_nothing_on_stdout(bare: Any, bad: Path) -> None:
    said = bare("check", bad)
    assert (said.code, said.out) == (2, "")


def test_a_plan_has_every_promised_key(bare: Any, good: Path) -> None:
    said = bare("plan", good, "--json")
    assert said.code == 0
    plan = said.json
    assert {"schema", "name", "workflow_hash", "prompt", "tasks", "diagnostics"} <= set(plan)
    assert plan["schema"] == "workflowmaster/plan/1"
    assert plan["prompt"]["path"] == str(good)
    assert (plan["prompt"]["kind"], len(plan["prompt"]["sha256"])) == ("explicit", 64)
    assert [task["kind"] for task in plan["tasks"]] == ["command", "agent"]
    assert all(set(task) >= TASK_KEYS for task in plan["tasks"])
    hello = plan["tasks"][0]
    assert (hello["max_retries"], hello["policy"], hello["source"]["line"]) == (2, "standard", 5)


def test_the_same_bytes_give_the_same_plan(bare: Any, good: Path, prompt_file: Callable[..., Path]) -> None:
    other = prompt_file(GOOD, "elsewhere.md")
    first, again, moved = bare("plan", good, "--json"), bare("plan", good, "--json"), bare("plan", other, "--json")
    assert first.out == again.out
    assert first.json["workflow_hash"] == moved.json["workflow_hash"]
    assert first.json["workflow_hash"] != bare("plan", good, "--json", "--policy", "hardened").json["workflow_hash"]


def test_a_plan_for_people_is_a_table_and_starts_nothing(
    bare: Any, good: Path, snapshot_of: Callable[..., dict[str, Any]]
) -> None:
    before = snapshot_of(bare.home)
    said = bare("plan", good)
    assert said.code == 0
    told = "2 tasks, 2 in containers, at most 3 at a time. 1 need an agent (--agent 'CMD …')."
    assert told in " ".join(said.out.split())
    assert snapshot_of(bare.home) == before


@pytest.mark.parametrize("what", ["prompt", "plan"])
def test_schemas_are_schemas(bare: Any, what: str) -> None:
    import jsonschema

    found = bare("schema", what).json
    jsonschema.Draft202012Validator.check_schema(found)


def test_a_plan_holds_to_its_schema(bare: Any, good: Path) -> None:
    import jsonschema

    from workflowmaster.flows import compiler, prompts

    plan = compiler.compile_prompt(prompts.read(good)).plan
    assert plan
    jsonschema.validate(plan.model_dump(mode="json"), bare("schema", "plan").json)


def test_a_reader_that_goes_away_is_no_error(bare: Any, good: Path) -> None:
    command = f"{Path(sys.executable).with_name('wm')} schema prompt | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


def test_looking_writes_nothing_anywhere(bare: Any, good: Path, snapshot_of: Callable[..., dict[str, Any]]) -> None:
    places = (good.parent, bare.home, bare.user_home, bare.cwd)
    before = [snapshot_of(place) for place in places]
    for words in (("check", good), ("plan", good), ("list",), ("stats",), ("policy", "list"), ("schema", "plan")):
        assert bare(*words).code == 0
    assert [snapshot_of(place) for place in places] == before


def test_errors_are_json_too_where_it_is_asked_for(bare: Any, bad: Path) -> None:
    said = bare("plan", bad, "--json")
    assert said.code == 2
    answer = said.json
    assert set(answer) == {"error", "exit_code", "diagnostics"}
    assert answer["exit_code"] == 2
    assert answer["diagnostics"][0]["line"] == 6
    json.dumps(answer)
