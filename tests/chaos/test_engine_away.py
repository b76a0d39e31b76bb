"""An engine that is away for some seconds of a run is waited out; one that stays away ends the run, which is resumed.

Each test knows by the audit log when the run waits, and only then goes on: no sleep has to be long enough.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chaoskit import gated
from chaoskit.engines import OwnEngine

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
# Between two attempts

## Steps

### one
- retries: {{max: 1, wait: 4s, backoff: fixed}}
```bash
[ "$WM_ATTEMPT" != 1 ] || exit 1
echo one > one.txt
```

{more}
### last
- needs: one
```bash
echo last > last.txt
```
"""
OTHER = """\
### other
- retries: {max: 1, wait: 4s, backoff: fixed}
```bash
[ "$WM_ATTEMPT" != 1 ] || exit 1
echo other > other.txt
```

"""


@dataclass
class Run:
    """A run on an engine of its own, and what it writes down."""

    line: Any
    running: Any
    wait_until: Callable[..., Any]

    @property
    def folder(self) -> Path | None:
        return next((self.line.home / "workflows").glob("*"), None)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        log = self.folder and self.folder / "audit.jsonl"
        whole = log.read_text().splitlines(keepends=True) if log and log.exists() else []
        found = [json.loads(line) for line in whole if line.endswith("\n")]
        return [event for event in found if event["event"] in kinds]

    def until(self, kind: str, count: int = 1) -> None:
        """Wait until an event is on record so many times."""

        def there() -> bool:
            assert self.running.process.poll() is None, self.running.ended().text
            return len(self.events(kind)) >= count

        self.wait_until(there, 90.0)

    def decided(self) -> list[tuple[str, str, str]]:
        return [(event["step"], event["verb"], event["rule"]) for event in self.events("decision")]


@pytest.fixture
def begin(
    own: OwnEngine,
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> Callable[..., Run]:
    """Start a run on that engine whose first attempts fail by themselves, and return it while they wait to be retried."""

    def begin(more: str = "", **settings: str) -> Run:
        if own.process is None or own.process.poll() is not None:
            own.start()
        named = {f"WORKFLOWMASTER_{name.upper()}": value for name, value in settings.items()}
        line = command_line(PREFECT_API_URL=prefect_server.url, DOCKER_HOST=own.url, **named)
        prompt = prompt_file(PROMPT.format(more=more))
        running = line.start("run", prompt, "--workspace", repository({"a.txt": "a"}).path, "--json")
        run = Run(line, running, wait_until)
        run.until("decision", 1 + bool(more))
        return run

    return begin


def statuses(said: Any) -> dict[str, tuple[str, int]]:
    return {task["id"]: (task["status"], task["attempts"]) for task in said.json["tasks"]}


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_start_waits_for_an_engine_that_is_away_and_costs_no_attempt(
    number: signal.Signals, own: OwnEngine, begin: Callable[..., Run]
) -> None:
    run = begin(circuit_breaker_seconds="0.5")
    own.end(number)
    run.until("engine.away")
    own.start()
    said = run.running.ended(120)
    assert said.code == 0, said.text
    assert statuses(said) == {"one": ("completed", 2), "last": ("completed", 1)}
    assert run.decided() == [("one", "retry", "prompt-retries"), ("one", "continue", "engine-waited")]
    (away,), (back,) = run.events("engine.away"), run.events("engine.back")
    assert "does not answer" in away["reason"]
    assert away["patience"] == 120
    assert back["seconds"] > 0
    assert "the engine is away" in said.err
    assert "the engine is back after" in said.err
    assert "engine-waited" in Path(said.json["report"]).read_text()
    assert own.containers() == []


@pytest.mark.long
def test_an_engine_that_stays_away_ends_the_run_which_is_resumed(own: OwnEngine, begin: Callable[..., Run]) -> None:
    run = begin(OTHER, engine_patience_seconds="2", circuit_breaker_seconds="0.5")
    own.end(signal.SIGKILL)
    said = run.running.ended(120)
    assert said.code == 4, said.text
    assert said.json["status"] == "aborted"
    assert "away for longer than 2 s (engine_patience_seconds)" in said.json["reason"]
    # One step ended the patience. The other has not failed.
    (abort,) = [one for one in run.decided() if one[1] == "abort"]
    assert abort[2] == "circuit-open"
    found = statuses(said)
    assert found.pop(abort[0])[0] == "failed"
    assert "failed" not in [status for status, _ in found.values()]
    breakers = run.line("doctor", "--json").json[-1]
    assert breakers["values"][f"engine {own.url}"]["state"] in ("open", "half-open")

    own.start()
    assert run.folder is not None
    again = run.line("resume", run.folder.name, "--json", "-q")
    assert again.code == 0, again.text
    assert {status for status, _ in statuses(again).values()} == {"completed"}
    assert own.containers() == []
    closed = run.line("doctor", "--json").json[-1]["values"][f"engine {own.url}"]
    assert (closed["state"], closed["failure_count"]) == ("closed", 0)


def test_an_engine_that_dies_under_a_step_and_is_away_costs_it_no_retry(
    own: OwnEngine,
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> None:
    if own.process is None or own.process.poll() is not None:
        own.start()
    settings = {"WORKFLOWMASTER_CIRCUIT_BREAKER_SECONDS": "1", "WORKFLOWMASTER_MAX_RETRY_ATTEMPTS": "1"}
    line = command_line(PREFECT_API_URL=prefect_server.url, DOCKER_HOST=own.url, **settings)
    repo = repository({"a.txt": "a"})
    held = gated.hold(line, repo, prompt_file(gated.prompt()), wait_until, host=own.url)
    run = Run(line, held.running, wait_until)
    own.end(signal.SIGKILL)
    run.until("engine.away")
    own.start()
    said = held.running.ended(180)
    gated.ends_well(repo, said)
    waits = [event for event in run.events("decision") if event["rule"] == "circuit-open"]
    assert [(event["step"], event["verb"], event["factors"]["counts"]) for event in waits] == [("two", "retry", False)]
    assert run.events("engine.back")
    assert own.containers() == []
