"""Only the proven dead are swept up after, on the real engine."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.engine import OURS, Engine
from workflowmaster.blocks.owner import Owner
from workflowmaster.flows import claim, folders
from workflowmaster.flows.sweeping import remove_own, sweep, sweep_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from workflowmaster.flows.folders import Folder

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
    assert sorted(sweep(engine, workflow=workflow).containers) == sorted([gone, running])
    assert sorted(one["Names"][0].lstrip("/") for one in engine.containers(workflow=workflow)) == sorted(kept)
    assert sweep(engine, workflow=workflow).removed == []
    assert sweep(engine, workflow=f"{workflow}-other").removed == [other]


# --- folders ---


@pytest.fixture
def forgotten(home: Path) -> Folder:
    """The folder of a run that was killed while its steps worked."""
    made = folders.create(f"task-test-{secrets.token_hex(4)}")
    for name in ("trees/1/src", "exchange/a.1/out", "logs"):
        (made.path / name).mkdir(parents=True)
    (made.path / "trees/1/src/x.py").write_text("x")
    return made


def inside(folder: Folder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


def test_working_folders_of_a_run_that_nobody_holds_go_and_the_rest_stays(engine: Engine, forgotten: Folder) -> None:
    (forgotten.path / ".swept-0a1b2c3d").mkdir()  # whoever swept before was killed, too
    swept = sweep_all(engine)
    assert swept.folders == [forgotten.id]
    assert inside(forgotten) == {"logs"}
    assert sweep_all(engine).folders == []


def test_a_run_under_way_keeps_its_folders(engine: Engine, forgotten: Folder) -> None:
    with claim.take(forgotten):
        assert sweep_all(engine).folders == []
    assert inside(forgotten) == {"trees", "exchange", "logs"}


def test_folders_stay_while_a_container_of_their_run_is_there(
    engine: Engine, forgotten: Folder, left: Callable[..., str]
) -> None:
    left(forgotten.id, Owner("elsewhere/0/0", 1, "x-1").labels())
    assert sweep_all(engine).folders == []
    assert "trees" in inside(forgotten)


def test_a_run_that_is_over_does_not_wait_for_its_sweep(
    engine: Engine, dead: Owner, forgotten: Folder, left: Callable[..., str]
) -> None:
    name = left(f"test-sweep-{secrets.token_hex(4)}", dead.labels())
    swept = sweep_all(engine, stop=lambda: True)
    assert name not in swept.removed
    assert "trees" in inside(forgotten)
    assert name in sweep(engine, workflow=name.rpartition("-")[0]).containers


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_what_a_killed_run_left_mounted_is_unmounted_before_its_folder_goes(engine: Engine, forgotten: Folder) -> None:
    place = forgotten.exchange / "a.1/out"
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    (place / "file").write_text("in memory")
    swept = sweep_all(engine)
    assert (swept.mounts, swept.folders, swept.trouble) == ([str(place.resolve())], [forgotten.id], [])
    assert not place.exists()


def test_what_this_run_lost_with_its_engine_is_removed_at_its_end_and_no_others(
    engine: Engine, left: Callable[..., str]
) -> None:
    workflow = f"test-sweep-{secrets.token_hex(4)}"
    left(workflow, Owner.me().labels(), started=True)
    others = left(workflow, replace(Owner.me(), pid=1).labels())
    remove_own(engine, workflow, Owner.me())
    assert [one["Names"][0].lstrip("/") for one in engine.containers(workflow=workflow)] == [others]


def test_a_folder_whose_making_was_cut_short_is_removed_and_one_that_says_anything_is_not(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOWMASTER_HOME", str(tmp_path))
    cut, held, said = (folders.create(f"task-cut-{n}") for n in range(3))
    for one in (cut, held, said):
        one.plan_file.write_text("{}")
    said.audit.write_text("")
    with claim.take(held):
        swept = sweep_all(engine)
    assert cut.id in swept.folders
    assert [one.path.exists() for one in (cut, held, said)] == [False, True, True]
