"""What one types in a checkout: the Makefile, CI's script, and the set-up in a copy that has nothing yet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()


def make(*arguments: str) -> str:
    """Run make as a newcomer does, also where this test is itself run by make."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", *arguments], cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    return done.stdout


def test_help_lists_every_target():
    said = make("help")
    assert [line.split()[0] for line in said.splitlines()] == TARGETS
    assert all(len(line.split()) > 1 for line in said.splitlines())


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_target_calls_is_there(target):
    for script in re.findall(r"scripts/\w+(?:\.py)?", make("-n", target)):
        assert os.access(ROOT / script, os.X_OK), script


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/engine", "scripts/common.sh", ".ci/run"])
def test_the_shell_scripts_parse(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_ci_runs_what_a_newcomer_types():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.splitlines()[-1] == "exec make test"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_copy_with_nothing_sets_itself_up_and_then_has_nothing_to_do(tmp_path):
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "build", "*.egg-info", "__pycache__"))
    environment = {**os.environ, "HOME": str(tmp_path)}

    def setup() -> float:
        start = time.monotonic()
        subprocess.run(["scripts/setup", "--python"], cwd=copy, env=environment, check=True)
        return time.monotonic() - start

    setup()
    version = subprocess.run(
        [copy / ".venv/bin/workflowmaster", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.strip()
    assert setup() < 2
