"""A step between whom and our kernel stands another: gVisor, as a runtime of a real engine.

`scripts/engines start` sets one up (a second dockerd with Debian's runsc); where none answers the tests are skipped.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import Engine
from workflowmaster.policies.model import GVISOR_MIN_PIDS

SOCKET = Path(os.environ.get("WORKFLOWMASTER_ENGINES", "/var/tmp/workflowmaster-engines")) / "gvisor/docker.sock"
pytestmark = pytest.mark.skipif(not SOCKET.exists(), reason=f"no engine with gVisor at {SOCKET}: scripts/engines start")

PARANOID = policies.load("paranoid")


@pytest.fixture(scope="module")
def gvisor() -> Iterator[Engine]:
    made = Engine(f"unix://{SOCKET}")
    yield made
    made.close()


@pytest.fixture
def there(sh: Callable[..., Any], gvisor: Engine) -> Iterator[Callable[..., Any]]:
    """Make containers on that engine that run a script, by default under `paranoid`."""
    made: list[tuple[Any, Container, Container]] = []
    workflow = f"test-gvisor-{secrets.token_hex(4)}"

    def make(script: str, policy: Any = PARANOID) -> Any:
        box = sh(script, policy=policy, labels={"workflow": workflow})
        made.append((box, Container(gvisor, box.container.request), box.container))
        box.container = made[-1][1]
        return box

    yield make
    for box, container, local in made:
        container.remove()
        box.container = local
    assert gvisor.containers(workflow=workflow) == []


def test_the_engine_says_that_it_has_it(gvisor: Engine) -> None:
    assert gvisor.info.gvisor == "runsc"


def test_a_paranoid_step_runs_on_a_kernel_of_its_own(there: Callable[..., Any], gvisor: Engine) -> None:
    box = there("uname -r; dmesg | head -1; cat $F; echo out=1 >$WM_OUTPUT; touch /wm/x /etc/x; exit 3").park()
    inspected = gvisor.client.inspect_container(box.container.id)["HostConfig"]
    assert (inspected["Runtime"], inspected["PidsLimit"]) == ("runsc", GVISOR_MIN_PIDS)
    assert "runtime" in {*box.container.attested.enforced, *box.container.attested.told}
    assert box.container.attested.weaker == ()
    (box.exchange.inward / "given").write_text("given\n")
    ended = box.go(F="/wm/given", WM_OUTPUT="/out/outputs")
    release, boots, given, *refused = box.output.decode().splitlines()
    assert release != os.uname().release
    assert "Starting gVisor" in boots
    assert given == "given"
    assert len(refused) == 2
    assert ended.exit_code == 3
    assert box.exchange.outputs() == {"out": "1"}


def test_a_policy_that_does_not_ask_gets_the_usual_runtime(there: Callable[..., Any]) -> None:
    box = there("uname -r", policies.load("hardened")).park()
    assert box.go().exit_code == 0
    assert box.output.decode().strip() == os.uname().release


def test_insisting_is_granted_here(there: Callable[..., Any]) -> None:
    box = there("dmesg | head -1", PARANOID.model_copy(update={"runtime": "gvisor"})).park()
    assert box.go().exit_code == 0
    assert b"gVisor" in box.output


def test_too_much_memory_ends_the_whole_sandbox(there: Callable[..., Any]) -> None:
    ended = there("python3 -c 'b = bytearray(10**9)'; echo alive").park().go()
    assert (ended.exit_code, ended.oom_killed) == (137, True)


def test_the_wall_time_holds(there: Callable[..., Any]) -> None:
    ended = there("sleep 60").park().go(seconds=1.0)
    assert ended.timed_out
    assert ended.seconds < 30


def test_a_storm_of_processes_ends_at_a_limit(there: Callable[..., Any]) -> None:
    box = there("i=0; while [ $i -lt 600 ]; do sleep 5 & i=$((i+1)); done; echo all").park()
    ended = box.go(seconds=60)
    assert ended.exit_code != 0 or b"all" not in box.output


def test_there_is_no_network(there: Callable[..., Any]) -> None:
    box = there("python3 -c 'import socket; socket.create_connection((\"192.0.2.1\", 80), 2)'").park()
    assert box.go().exit_code == 1
    assert any(words in box.output for words in (b"unreachable", b"No route to host", b"timed out"))
