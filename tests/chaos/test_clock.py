"""A clock that is set by an hour in the middle of a run: nothing is stopped early, lives on, or ends in the past."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaoskit import gated

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

HOUR = 3600
BEHIND = pytest.param(-HOUR, id="back")
AHEAD = pytest.param(HOUR, id="forward", marks=pytest.mark.long)
FOLDER = Path(__file__).parent / "chaoskit/clock"

DEAF = """\
# Too long

## Steps

### two
- timeout: 4s
- retries: 0
```bash
echo ran; sleep 120
```
"""


@pytest.fixture
def line(command_line: Callable[..., Any], prefect_server: Any, tmp_path: Path) -> Any:
    """A user whose clock is off by what `tmp_path/clock` says."""
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    clock = {"CHAOS_CLOCK": str(tmp_path / "clock"), "PYTHONPATH": path}
    return command_line(PREFECT_API_URL=prefect_server.url, **clock)


@pytest.fixture
def held(
    line: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], wait_until: Callable[..., Any]
) -> Callable[..., gated.Held]:
    def begin(text: str = "") -> gated.Held:
        return gated.hold(line, repository({"a.txt": "a"}), prompt_file(text or gated.prompt()), wait_until)

    return begin


def is_sane(run: gated.Held) -> None:
    """Hold that every duration could have been, that the log of what happened is in order, and that all is drawn."""
    state = json.loads((run.folder / "state.json").read_text())
    assert 0 <= state["seconds"] < 300
    for result in state["results"].values():
        assert 0 <= result["seconds"] < 300, result["step"]
        for receipt in result["receipts"]:
            times = [receipt[name] for name in receipt if name.endswith("seconds") and receipt[name] is not None]
            assert all(0 <= one < 300 for one in times), receipt
    numbers = [json.loads(text)["seq"] for text in (run.folder / "audit.jsonl").read_text().splitlines()]
    assert numbers == list(range(len(numbers)))
    for words in (("audit", "verify"), ("report",), ("stats",), ("state", "validate")):
        said = run.line(*words, run.id)
        assert said.code == 0, (words, said.text)
    assert "<svg" in (run.folder / "report.html").read_text()


@pytest.mark.parametrize("seconds", [BEHIND, AHEAD])
@pytest.mark.long
def test_it_jumps_while_a_step_works(seconds: int, held: Callable[..., gated.Held], tmp_path: Path) -> None:
    run = held()
    (tmp_path / "clock").write_text(str(seconds))
    run.go()
    said = run.running.ended(120)
    gated.ends_well(run.repo, said)
    is_sane(run)
    assert run.ran() == {"one": 1, "two": 1, "three": 1}


@pytest.mark.parametrize("seconds", [BEHIND, AHEAD])
def test_a_wall_time_lasts_as_long_as_it_says(seconds: int, held: Callable[..., gated.Held], tmp_path: Path) -> None:
    run = held(DEAF)
    (tmp_path / "clock").write_text(str(seconds))
    said = run.running.ended(90)
    assert said.code == 1, said.text
    (task,) = said.json["tasks"]
    assert task["timed_out"]
    (receipt,) = json.loads((run.folder / "state.json").read_text())["results"]["two"]["receipts"]
    assert 4 <= receipt["seconds"] < 30
    is_sane(run)


@pytest.mark.parametrize("seconds", [BEHIND, AHEAD])
def test_a_run_that_was_killed_is_resumed_by_another_clock(
    seconds: int, held: Callable[..., gated.Held], tmp_path: Path, containers: Callable[..., list[str]]
) -> None:
    run = held()
    run.running.process.kill()
    run.running.ended(30)
    (tmp_path / "clock").write_text(str(seconds))
    if containers(run.id):
        run.go()  # one that is adopted goes on
    run.resumed()
    assert run.ran()["one"] == 1
    is_sane(run)
