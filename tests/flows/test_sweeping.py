"""Only the proven dead are swept up after, on the real engine."""

from __future__ import annotations

import secrets
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.engine import OURS, Engine
from workflowmaster.blocks.owner import Owner
from workflowmaster.flows.sweeping import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.docker

SAY = "from workflowmaster.blocks.owner import Owner; print(repr(Owner.me()))"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


@pytest.fixture(scope="module")
def dead() -> Owner:
    """A process of this host that has ended."""
    done = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True, check=True)
    owner: Owner = eval(done.stdout, {"Owner": Owner})
    return owner


@pytest.fixture
def left(engine: Engine) -> Iterator[Callable[..., str]]:
    """Leave a container with these labels behind, running or not; return its name."""
    made: list[str] = []

    def make(workflow: str, labels: dict[str, str], *, started: bool = False) -> str:
        name = f"{workflow}-{len(made)}"
        config: dict[str, Any] = {
            "image": "workflowmaster/step:1",
            "command": ["sleep", "60"],
            "labels": {f"{OURS}.{key}": value for key, value in {"workflow": workflow, **labels}.items()},
        }
        made.append(engine.create(name, config, {"network_mode": "none"}))
        if started:
            engine.start(made[-1])
        return name

    yield make
    for one in made:
        engine.remove(one)


def test_only_containers_of_the_proven_dead_are_removed(engine: Engine, dead: Owner, left: Callable[..., str]) -> None:
    workflow = f"test-sweep-{secrets.token_hex(4)}"
    gone = left(workflow, dead.labels())
    running = left(workflow, dead.labels(), started=True)
    kept = [
        left(workflow, Owner.me().labels()),
        left(workflow, replace(dead, host="elsewhere/0/0").labels()),
        left(workflow, {}),
        left(workflow, {**dead.labels(), "owner-pid": "none"}),
    ]
    other = left(f"{workflow}-other", dead.labels())
    assert sorted(sweep(engine, workflow=workflow)) == sorted([gone, running])
    assert sorted(one["Names"][0].lstrip("/") for one in engine.containers(workflow=workflow)) == sorted(kept)
    assert sweep(engine, workflow=workflow) == []
    assert sweep(engine, workflow=f"{workflow}-other") == [other]
