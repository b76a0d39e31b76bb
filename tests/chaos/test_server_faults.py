"""A Prefect server that is killed, locked, overloaded or cut off under a run: ridden out, or told and resumed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chaoskit import gated
from chaoskit.proxy import Fault, Proxy, none

from workflowmaster.flows.embedded import EmbeddedServer

pytestmark = [pytest.mark.docker, pytest.mark.prefect]


@dataclass
class OwnServer:
    """A server on a database of its own, which may be killed and started again behind the same address."""

    home: Path
    proxy: Proxy
    server: EmbeddedServer

    def kill(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)
        os.waitpid(self.server.pid, 0)
        self.proxy.down()

    def again(self) -> None:
        self.server = EmbeddedServer(self.home).start()
        self.proxy.up(self.server.wait_ready())

    def locked(self) -> sqlite3.Connection:
        """Return a connection that has locked the database for everybody else."""
        holder = sqlite3.connect(self.home / "prefect/prefect.db", timeout=30, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        return holder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, ready_database: Callable[[Path], None]) -> Iterator[OwnServer]:
    place = tmp_path_factory.mktemp("own-server")
    ready_database(place)
    server = EmbeddedServer(place).start()
    made = OwnServer(place, Proxy(server.wait_ready()), server)
    yield made
    made.proxy.down()
    made.server.stop()


@pytest.fixture
def held(
    own: OwnServer,
    command_line: Callable[..., Any],
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> Callable[[], gated.Held]:
    own.proxy.fault = none
    own.proxy.counts.clear()
    line = command_line(PREFECT_API_URL=own.proxy.url)
    return lambda: gated.hold(line, repository({"a.txt": "a"}), prompt_file(gated.prompt()), wait_until)


def comes_through(run: gated.Held, said: Any) -> None:
    """Hold that the run came to its end, or says why not and is resumed to the same."""
    assert "Traceback" not in said.text, said.text
    assert "prefect._internal" not in said.err, said.err
    if said.code == 0:
        gated.ends_well(run.repo, said)
    else:
        gated.says_clearly(said, "the Prefect server", f"workflowmaster resume {run.id}")
        run.resumed()
    assert run.ran() == {"one": 1, "two": 1, "three": 1}


@pytest.mark.parametrize("away", [0.0, pytest.param(10.0, marks=pytest.mark.long)])
def test_killed_and_started_again(away: float, own: OwnServer, held: Callable[[], gated.Held]) -> None:
    run = held()
    own.kill()
    run.go()
    time.sleep(away)
    own.again()
    comes_through(run, run.running.ended(120))


@pytest.mark.long
def test_killed_and_away_for_good(
    own: OwnServer, held: Callable[[], gated.Held], containers: Callable[..., list[str]]
) -> None:
    run = held()
    own.kill()
    run.go()
    said = run.running.ended(240)
    own.again()
    gated.says_clearly(said, "the Prefect server", f"workflowmaster resume {run.id}")
    assert containers(run.id) == []
    run.resumed()


@pytest.mark.parametrize("seconds", [3, pytest.param(25, marks=pytest.mark.long)])
def test_a_locked_database(seconds: float, own: OwnServer, held: Callable[[], gated.Held]) -> None:
    run = held()
    with closing(own.locked()) as holder:
        run.go()
        time.sleep(seconds)
        holder.execute("ROLLBACK")
    comes_through(run, run.running.ended(180))


def every(share: float, *faults: str, seed: int = 1) -> Fault:
    chance = random.Random(seed)

    def fault(_method: str, _path: str, _number: int) -> str:
        return chance.choice(faults) if chance.random() < share else ""

    return fault


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(every(0.3, "503", "429"), id="busy"),
        pytest.param(every(0.2, "reset"), id="reset", marks=pytest.mark.long),
        pytest.param(every(0.2, "torn"), id="torn", marks=pytest.mark.long),
        pytest.param(every(1.0, "503"), id="always-busy", marks=pytest.mark.long),
        pytest.param(every(1.0, "reset"), id="always-reset", marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(900)
def test_a_server_that_refuses_now_and_then(fault: Fault, own: OwnServer, held: Callable[[], gated.Held]) -> None:
    run = held()
    own.proxy.fault = fault
    run.go()
    said = run.running.ended(600)
    own.proxy.fault = none
    assert sum(own.proxy.counts.values()) > own.proxy.counts[""], "no request met the fault"
    comes_through(run, said)
