"""The documentation says everything, and what it shows works."""

from __future__ import annotations

import argparse
import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from workflowmaster.flows import cli, compiler, prompts
from workflowmaster.flows.settings import Settings

ROOT = Path(__file__).parent.parent
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def subcommands() -> dict[str, argparse.ArgumentParser]:
    actions = [a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(actions[0].choices)


def actions(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options and arguments of a command and of the commands below it."""
    below = [a for a in command._actions if isinstance(a, argparse._SubParsersAction)]
    return [*command._actions, *(found for one in below for part in one.choices.values() for found in actions(part))]


@pytest.mark.parametrize("name", sorted(subcommands()))
def test_every_command_and_option_is_documented(name):
    page = text("docs/commands.md")
    section = re.search(rf"^### {name}$(.*?)(?=^##)", page + "\n## end", re.DOTALL | re.MULTILINE)
    assert section, f"docs/commands.md has no heading for {name}"
    options = {o for a in actions(subcommands()[name]) for o in a.option_strings if o.startswith("--")} - {"--help"}
    shared = {
        "--quiet",
        "--verbose",
        "--json",
        "--follow",
        "--output",
        "--policy",
        "--input",
        "--max-parallel",
        "--agent",
    }
    assert {o for o in options - shared if o not in section[1]} == set()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name):
    assert f"| `{name}` |" in text("docs/settings.md")


def test_no_setting_is_documented_that_does_not_exist():
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", text("docs/settings.md"), re.MULTILINE))
    assert documented == set(Settings.model_fields)


def test_exit_codes_are_those_of_the_help():
    page = text("docs/commands.md")
    for code in re.findall(r"\b(\d+) [a-z]", cli.EPILOG):
        assert f"| {code} |" in page


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_commands_in_the_documentation_are_understood():
    """Each `wm …` line of a shell fence parses; placeholders in capitals are taken as they are."""
    for path in DOCS:
        for fence in re.findall(r"```(?:bash|sh|console)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            for line in fence.splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words and words[0] in ("wm", "workflowmaster"):
                    cli.parser().parse_args([word for word in words[1:] if word not in ("|", ">", "jq")])


def test_nothing_names_where_it_was_made():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    forbidden = re.compile(r"/work/|\.\./shared|farm-(bench|studio)|\.library")
    ours = [ROOT / name for name in tracked.splitlines() if not name.endswith((".png", ".json"))]
    hits = [
        str(p) for p in ours if p.exists() and p != Path(__file__) and forbidden.search(p.read_text(errors="replace"))
    ]
    assert hits == []


@pytest.mark.parametrize("name", ["--help", "run --help", "check --help"])
def test_help_is_printed(name):
    done = subprocess.run(
        [sys.executable, "-m", "workflowmaster.flows.cli", *name.split()], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "usage: workflowmaster" in done.stdout


def prompts_of_the_readme() -> list[str]:
    return re.findall(r"^````markdown\n(.*?)^````$", text("README.md"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(prompts_of_the_readme())))
def test_prompts_in_the_readme_compile_without_a_word(number):
    prompt = prompts.parse(prompts_of_the_readme()[number].encode(), "README.md")
    done = compiler.compile_prompt(prompt)
    assert done.diagnostics == ()
    assert done.plan
    assert done.plan.prompt.kind == "explicit"


def test_the_readme_has_a_prompt():
    assert prompts_of_the_readme()


@pytest.mark.docker
def test_python_in_the_documentation_runs(tmp_path, monkeypatch, signed_images):
    signed_images(tmp_path)
    monkeypatch.setenv("WORKFLOWMASTER_HOME", str(tmp_path))
    fences = re.findall(r"```python\n(.*?)```", text("docs/prefect.md"), re.DOTALL)
    names: dict[str, object] = {}
    for fence in fences:
        exec(compile(fence, "docs/prefect.md", "exec"), names)
    hello = names["hello"]
    assert callable(hello)
    assert asyncio.run(hello()) == "hello\n"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.md")), ids=lambda path: path.name)
def test_examples_have_no_errors(path):
    found = compiler.compile_prompt(prompts.read(path)).diagnostics
    assert [one.code for one in found if one.severity != "note"] == []
