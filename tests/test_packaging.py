"""What is shipped: a wheel made from an sdist holds every data file, and works in an empty environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = ("*.yaml", "*.css", "*.html", "seccomp/*.json", "images/**/*", "*.ipynb", "py.typed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that is built from the sdist of this checkout."""
    place = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--sdist", "-o", place, ROOT], check=True, capture_output=True
    )
    shutil.unpack_archive(next(place.glob("*.tar.gz")), place / "source")
    source = next((place / "source").iterdir())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", place, source],
        check=True,
        capture_output=True,
    )
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("room", ["flows", "blocks", "policies", "analytics"])
def test_the_wheel_has_every_module_and_data_file(names, room):
    files = {path for pattern in ("**/*.py", *DATA) for path in (ROOT / room).glob(pattern) if path.is_file()}
    wanted = {f"workflowmaster/{path.relative_to(ROOT)}" for path in files if "__pycache__" not in path.parts}
    assert wanted <= names


def test_the_wheel_has_nothing_else(names):
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"workflowmaster"}
    assert not {name for name in names if "tests" in name}


def test_the_wheel_names_its_commands_and_blocks(wheel):
    with zipfile.ZipFile(wheel) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(entry).decode()
    assert "workflowmaster = workflowmaster.flows.cli:main" in text
    assert "wm = workflowmaster.flows.cli:main" in text
    assert "[prefect.collections]" in text


@pytest.mark.long
@pytest.mark.timeout(900)
def test_it_installs_and_runs_in_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / "bin"
    subprocess.run([scripts / "pip", "install", "--quiet", wheel], check=True, capture_output=True)
    prompt = tmp_path / "hello.md"
    prompt.write_text("# Hello\n\n## Steps\n\n### greet\n```bash\necho hello\n```\n")
    clean = {"PATH": f"{scripts}:/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    plan = subprocess.run(
        ["wm", "plan", prompt, "--json"], cwd=tmp_path, env=clean, check=True, capture_output=True, text=True
    )
    assert [task["id"] for task in json.loads(plan.stdout)["tasks"]] == ["greet"]
    host = {key: value for key, value in os.environ.items() if key == "DOCKER_HOST"}
    (tmp_path / "work").mkdir()
    run = subprocess.run(
        ["wm", "run", prompt, "--workspace", tmp_path / "work", "--json"],
        cwd=tmp_path,
        env=clean | host,
        capture_output=True,
        text=True,
    )
    assert json.loads(run.stdout)["status"] == "completed", run.stderr
