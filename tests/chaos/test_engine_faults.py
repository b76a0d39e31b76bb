"""A container that is killed or removed under its step, and an engine that is killed: whose fault, and what follows."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaoskit import gated
from chaoskit.engines import OwnEngine

pytestmark = [pytest.mark.docker, pytest.mark.prefect]


@pytest.fixture
def held(
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> Callable[..., gated.Held]:
    """Start a run and return it once its step two waits; on this machine's engine, or the given one."""

    def begin(*, retries: int = 0, engine: OwnEngine | None = None) -> gated.Held:
        if engine and (engine.process is None or engine.process.poll() is not None):
            engine.start()
        env = {"DOCKER_HOST": engine.url} if engine else {}
        line = command_line(PREFECT_API_URL=prefect_server.url, **env)
        text = gated.prompt().replace("- checkpoint: true", f"- retries: {retries}")
        host = engine.url if engine else ""
        return gated.hold(line, repository({"a.txt": "a"}), prompt_file(text), wait_until, host=host)

    return begin


def events(run: gated.Held, kind: str) -> list[dict[str, Any]]:
    lines = (run.folder / "audit.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def tasks(said: Any) -> dict[str, dict[str, Any]]:
    return {task["id"]: task for task in said.json["tasks"]}


def test_a_killed_container_is_the_steps_own_end_and_is_tried_again(held: Callable[..., gated.Held]) -> None:
    run = held(retries=1)
    run.docker("kill", run.container)
    said = run.running.ended(120)
    gated.ends_well(run.repo, said)
    assert tasks(said)["two"]["attempts"] == 2
    (decision,) = events(run, "decision")
    assert (decision["verb"], decision["rule"]) == ("retry", "prompt-retries")
    assert run.ran() == {"one": 1, "two": 2, "three": 1}


@pytest.mark.long
def test_without_a_retry_it_fails_and_is_resumed(
    held: Callable[..., gated.Held], containers: Callable[..., list[str]]
) -> None:
    run = held()
    run.docker("kill", run.container)
    said = run.running.ended(120)
    assert said.code == 1, said.text
    assert tasks(said)["two"]["reason"].startswith("it was killed by SIGKILL (exit 137)")
    assert tasks(said)["three"]["status"] == "blocked"
    assert containers(run.id) == []
    run.resumed()
    assert run.ran() == {"one": 1, "two": 2, "three": 1}


def test_a_removed_container_is_infrastructure_and_is_resumed(
    held: Callable[..., gated.Held], containers: Callable[..., list[str]]
) -> None:
    run = held()
    run.docker("rm", "-f", run.container)
    said = run.running.ended(120)
    assert said.code == 4, said.text
    assert "was removed" in said.json["reason"] or "No such container" in said.json["reason"]
    assert containers(run.id) == []
    run.resumed()
    assert run.ran() == {"one": 1, "two": 2, "three": 1}


# --- an engine of its own, which may die ---


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_an_engine_that_dies_and_comes_back_costs_one_attempt(
    number: signal.Signals, own: OwnEngine, held: Callable[..., gated.Held]
) -> None:
    run = held(retries=1, engine=own)
    own.end(number)
    own.start()
    said = run.running.ended(180)
    gated.ends_well(run.repo, said)
    assert run.ran() == {"one": 1, "two": 2, "three": 1}
    assert own.containers() == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_an_engine_that_stays_away_is_infrastructure_and_the_run_is_resumed(
    number: signal.Signals, own: OwnEngine, held: Callable[..., gated.Held]
) -> None:
    run = held(engine=own)
    own.end(number)
    said = run.running.ended(180)
    assert said.code == 4, said.text
    assert "does not answer" in tasks(said)["two"]["reason"]
    assert "killed by" not in said.text
    own.start()
    run.resumed()
    assert run.ran() == {"one": 1, "two": 2, "three": 1}
    assert own.containers() == []


@pytest.mark.long
def test_both_die_and_the_run_is_resumed(own: OwnEngine, held: Callable[..., gated.Held]) -> None:
    """The power goes: orchestrator and engine at once, and nobody could say a word."""
    run = held(engine=own)
    run.running.interrupt(signal.SIGKILL)
    own.end(signal.SIGKILL)
    run.running.ended(30)
    own.start()
    run.resumed()
    assert run.ran()["one"] == 1
    assert own.containers() == []


def test_the_second_engine_shares_nothing(root: Path) -> None:
    """What these tests start and kill must never be the engine that others work on."""
    source = (root / "tests/chaos/chaoskit/engines.py").read_text()
    assert "--bridge=none" not in source
    for name in ("--data-root", "--exec-root", "--pidfile", "--iptables=false"):
        assert name.removeprefix("--").split("=")[0] in source
    assert subprocess.run(["docker", "info"], capture_output=True).returncode == 0
