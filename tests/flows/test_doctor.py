"""`doctor`: what it finds here, and what it says on machines that lack something."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.breaker import Breaker
from workflowmaster.flows import doctor

if TYPE_CHECKING:
    from pathlib import Path

CHECKS = ["python", "prefect", "settings", "server", "docker", "sandbox", "image", "git", "disk", "health", "breakers"]


def findings(said: Any) -> dict[str, dict[str, str]]:
    return {one["check"]: one for one in said.json}


@pytest.mark.docker
def test_a_machine_that_can_run(bare: Any) -> None:
    before = sorted(bare.home.rglob("*"))
    said = bare("doctor", "--json")
    found = findings(said)
    assert list(found) == CHECKS
    assert said.code == 0, said.text
    assert all(set(one) == {"check", "status", "found", "mend", "table", "values"} for one in said.json)
    assert {one["status"] for one in said.json} <= {"ok", "warning"}
    assert "API" in found["docker"]["found"]
    assert "cgroup v" in found["docker"]["found"]
    assert "controls read back" in found["sandbox"]["found"]
    rows = {row["control"]: row["verdict"] for row in found["sandbox"]["table"]}
    assert {rows[name] for name in ("capabilities", "seccomp", "memory", "network", "other_mounts")} == {"enforced"}
    assert "weaker" not in rows.values()
    assert sorted(bare.home.rglob("*")) == before


@pytest.mark.docker
def test_health_is_a_number_with_its_parts(bare: Any) -> None:
    found = findings(bare("doctor", "--json"))["health"]
    values: Any = found["values"]
    assert {"health", "cpu", "memory", "disk", "engine", "engine_disk"} <= set(values)
    assert all(0 <= value <= 1 for value in values.values())
    assert values["engine"] > 0
    assert found["found"].startswith(f"{values['health']:.2f}: cpu ")


def test_without_an_engine_health_is_nothing_and_says_so(bare: Any) -> None:
    found = findings(bare("doctor", "--json", DOCKER_HOST="unix:///none.sock"))["health"]
    assert (found["status"], found["values"]["health"]) == ("warning", 0)  # type: ignore[index]
    assert "engine (no answer)" in found["mend"]


def test_breakers_are_told_with_what_opened_them(home: Path) -> None:
    assert doctor.check_breakers().status == "ok"
    assert not home.exists()
    github = Breaker("github", threshold=1, seconds=1000)
    github.failed("it answered 502")
    found = doctor.check_breakers()
    assert (found.status, found.found) == ("warning", "engine closed (0 failures), github open (1 failures)")
    assert found.mend.startswith("github: it answered 502; one looks again in ")
    assert found.values["github"]["state"] == "open"


@pytest.mark.docker
def test_it_is_readable_too(bare: Any) -> None:
    lines = bare("doctor").out.splitlines()
    assert [line.split()[1] for line in lines if not line.startswith(" ")] == CHECKS
    assert [line.split(maxsplit=1)[1] for line in lines if line.split()[0] == "memory"] == ["read back from the kernel"]


@pytest.mark.parametrize(
    ("env", "check", "found", "mend"),
    [
        ({"DOCKER_HOST": "unix:///none.sock"}, "docker", "does not answer", "systemctl start docker"),
        ({"DOCKER_HOST": "unix:///none.sock"}, "image", "unknown without an engine", ""),
        (
            {"WORKFLOWMASTER_IMAGE": "workflowmaster/step:none"},
            "image",
            "is not on the engine",
            "workflowmaster image build",
        ),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "server", "does not answer", "prefect server start"),
        ({"WORKFLOWMASTER_IMAGES": "x"}, "settings", "WORKFLOWMASTER_IMAGES: no such setting", "remove that setting"),
    ],
)
def test_what_is_missing_is_an_error_with_its_mend(
    bare: Any, env: dict[str, str], check: str, found: str, mend: str
) -> None:
    said = bare("doctor", "--json", **env)
    assert said.code == 4, said.text
    finding = findings(said)[check]
    assert finding["status"] == "error"
    assert found in finding["found"]
    assert mend in finding["mend"]


@pytest.mark.parametrize(
    ("versions", "status", "mend"),
    [
        ({"prefect": "3.8.8", "fastapi": "0.150.0", "sqlalchemy": "2.0.58"}, "ok", ""),
        ({"prefect": "3.8.8", "fastapi": "0.151.0", "sqlalchemy": "2.0.58"}, "error", "'fastapi>=0.139,<0.151'"),
        ({"prefect": "3.8.8", "fastapi": "0.150.0", "sqlalchemy": "2.1.9"}, "error", "'sqlalchemy>=2.0,<2.1'"),
        ({"prefect": "3.8.7", "fastapi": "0.150.0", "sqlalchemy": "2.0"}, "error", "'prefect>=3.8.8,<4'"),
        ({"prefect": "4.0.0", "fastapi": "0.150.0", "sqlalchemy": "2.0"}, "error", "'prefect>=3.8.8,<4'"),
    ],
)
def test_versions_that_do_not_work_together(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], status: str, mend: str
) -> None:
    monkeypatch.setattr(doctor, "version", versions.__getitem__)
    found = doctor.check_packages()
    assert (found.status, mend in found.mend) == (status, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOWMASTER_HOME", "/proc/wm")
    assert doctor.check_disk().status == "error"


def test_the_disk_is_that_of_the_state_directory(home: Path) -> None:
    found = doctor.check_disk()
    assert found.status in ("ok", "warning")
    assert str(home) in found.found
    assert not home.exists()
