"""The pure decision about a container without an owner, and what a preparation finds and removes."""

from __future__ import annotations

import secrets
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.engine import OURS, Engine
from workflowmaster.blocks.owner import Owner
from workflowmaster.flows import folders
from workflowmaster.flows.adoption import Adopting, adoptable, found
from workflowmaster.flows.going import Going, Moment
from workflowmaster.flows.journal import Journal
from workflowmaster.flows.sparing import HARVEST, resumable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from workflowmaster.flows.folders import Folder

NOW = Moment(wall=2_000_000_000.0, boot=5_000.0, boot_id="b007")
ENDED = "2033-05-18T03:33:10.5Z"
SAY = "from workflowmaster.blocks.owner import Owner; print(repr(Owner.me()))"


def going(**changed: Any) -> Going:
    given: dict[str, Any] = {
        "step": "build",
        "attempt": 2,
        "purpose": "work",
        "key": "w-1",
        "container": "c1",
        "name": "w-build-2",
        "mark": "\x1e0123\x1e",
        "wall": NOW.wall - 10,
        "boot": NOW.boot - 10,
        "boot_id": NOW.boot_id,
        "timeout": 30.0,
        "commit": "abc",
        "tree": "trees/7",
        "exchange": "exchange/w-build-2.1",
        "log": "logs/build.2.log",
    }
    return Going(**{**given, **changed})


def inspected(**state: Any) -> dict[str, Any]:
    """The engine's account of the container of `going`; running, unless told otherwise."""
    return {
        "Id": "c1",
        "Config": {"Labels": {f"{OURS}.step": "build", f"{OURS}.attempt": "2"}},
        "HostConfig": {"LogConfig": {"Type": "local", "Config": {"max-size": "49m"}}},
        "State": {"Running": True, "Status": "running", "Dead": False, "FinishedAt": "0001-01-01T00:00:00Z", **state},
    }


def otherwise(**changed: Any) -> dict[str, Any]:
    return {**inspected(), **changed}


EXITED = inspected(Running=False, Status="exited", FinishedAt=ENDED)

VERDICTS: dict[str, tuple[Going, dict[str, Any] | None, str, str]] = {
    "it works": (going(), inspected(), "adopt", ""),
    "it has ended": (going(), EXITED, "harvest", ""),
    "it is past its wall time": (going(timeout=1.0), inspected(), "adopt", ""),
    "it is paused": (going(), inspected(Paused=True, Status="paused"), "adopt", ""),
    "gone": (going(), None, "abandon", "its container is gone"),
    "never started": (
        going(),
        inspected(Running=False, Status="created"),
        "abandon",
        "it was never started",
    ),
    "under removal": (
        going(),
        inspected(Running=False, Status="removing", FinishedAt=ENDED),
        "abandon",
        "somebody is removing its container",
    ),
    "dead": (going(), inspected(Dead=True, FinishedAt=ENDED), "abandon", "somebody is removing its container"),
    "killed with its engine": (
        going(),
        inspected(Running=False, Status="exited", FinishedAt=ENDED, ExitCode=143),
        "abandon",
        "it was killed while nobody watched",
    ),
    "killed for its memory": (
        going(),
        inspected(Running=False, Status="exited", FinishedAt=ENDED, ExitCode=137, OOMKilled=True),
        "harvest",
        "",
    ),
    "another key": (going(key="w-2"), inspected(), "abandon", "what decides its outcome has changed since its go"),
    "another boot": (going(boot_id="x"), EXITED, "abandon", "the machine was started anew since its go"),
    "unfit": (going(unfit="was given secrets"), inspected(), "abandon", "it was given secrets"),
    "without a log": (
        going(),
        otherwise(HostConfig={"LogConfig": {"Type": "none", "Config": {}}}),
        "abandon",
        "the engine has not kept its output",
    ),
    "somebody else's": (
        going(),
        otherwise(Config={"Labels": None}),
        "abandon",
        "the container of that id is not the one that was sent off",
    ),
    "another attempt": (
        going(attempt=3),
        inspected(),
        "abandon",
        "the container of that id is not the one that was sent off",
    ),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_on_a_container(case: str) -> None:
    record, account, verb, reason = VERDICTS[case]
    assert adoptable(record, "w-1", account, NOW) == (verb, reason)


LABELS = st.fixed_dictionaries(
    {}, optional={f"{OURS}.step": st.sampled_from(["build", "x"]), f"{OURS}.attempt": st.sampled_from(["2", "1"])}
)
STATES = st.fixed_dictionaries(
    {"Running": st.booleans(), "FinishedAt": st.sampled_from([ENDED, "0001-01-01T00:00:00Z", ""])},
    optional={"Dead": st.booleans(), "Status": st.sampled_from(["running", "exited", "removing", "created"])},
)


@given(
    account=st.none()
    | st.builds(lambda labels, state: {**inspected(), "Config": {"Labels": labels}, "State": state}, LABELS, STATES),
    key=st.sampled_from(["w-1", "w-2"]),
    unfit=st.sampled_from(["", "was given secrets"]),
    boot=st.sampled_from([NOW.boot_id, "x"]),
)
def test_what_is_believed_is_whole_and_what_is_not_has_a_reason(
    account: dict[str, Any] | None, key: str, unfit: str, boot: str
) -> None:
    verdict = adoptable(going(unfit=unfit, boot_id=boot), key, account, NOW)
    assert (verdict.verb == "abandon") == bool(verdict.reason)
    if verdict.verb != "abandon":
        assert account is not None
        assert (key, unfit, boot) == ("w-1", "", NOW.boot_id)
        assert account["Config"]["Labels"] == inspected()["Config"]["Labels"]
        assert account["State"]["Running"] == (verdict.verb == "adopt")
        assert verdict.verb == "adopt" or account["State"]["FinishedAt"] == ENDED


def test_what_is_adopted_keeps_its_number_and_the_rest_goes_on_counting() -> None:
    adopting = Adopting(waiting={"build": going()})
    assert adopting.earlier({"build": 2, "other": 3}) == {"build": 1, "other": 3}


# --- on the real engine ---


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
def folder(home: Path) -> Folder:
    """A killed run's folder: two directories that steps worked in, and their exchange folders."""
    made = folders.create(f"task-test-{secrets.token_hex(4)}")
    for name in ("trees/7", "trees/8", "exchange/a.1/out", "exchange/b.2/out", "logs"):
        (made.path / name).mkdir(parents=True)
    made.plan_file.write_text("{}")
    return made


@pytest.fixture
def left(engine: Engine, dead: Owner, folder: Folder) -> Iterator[Callable[..., Going]]:
    """Leave a container behind, with a record of its go or without; return that."""
    made: list[str] = []
    journal = Journal(folder.journal)

    def make(
        step: str = "build", *, owner: Owner = dead, noted: bool = True, command: str = "60", **changed: Any
    ) -> Going:
        name = f"{folder.id}-{step}-2"
        labels = {"workflow": folder.id, "step": step, "attempt": "2", "folder": str(folder.path), **owner.labels()}
        config = {
            "image": "workflowmaster/step:1",
            "command": ["sleep", command],
            "labels": {f"{OURS}.{key}": value for key, value in labels.items()},
        }
        made.append(engine.create(name, config, {"network_mode": "none", "log_config": {"Type": "local"}}))
        engine.start(made[-1])
        now = Moment.now()
        times = {"wall": now.wall, "boot": now.boot, "boot_id": now.boot_id}
        places = {"exchange": "exchange/a.1", "tree": "trees/7"}
        record = going(**{**times, **places, "step": step, "container": made[-1], **changed})
        if noted:
            journal.append("go", **record.model_dump(mode="json", exclude_defaults=True))
        return record

    yield make
    journal.close()
    for one in made:
        engine.remove(one)


def names(engine: Engine, folder: Folder) -> set[str]:
    return {one["Id"] for one in engine.containers(workflow=folder.id)}


def inside(folder: Folder) -> set[str]:
    return {
        str(path.relative_to(folder.path)) for top in ("trees", "exchange") for path in (folder.path / top).glob("*")
    }


@pytest.mark.docker
def test_a_preparation_keeps_what_can_be_adopted_with_its_places_and_nothing_else(
    engine: Engine, folder: Folder, left: Callable[..., Going]
) -> None:
    kept, parked = left(), left("parked", noted=False)
    got = found(folder, engine, {"build"})
    assert got.waiting == {"build": kept}
    assert names(engine, folder) == {kept.container} != {parked.container}
    assert inside(folder) == {"trees/7", "exchange/a.1"}
    assert sorted(got.places(folder)) == [folder.path / "exchange/a.1", folder.path / "trees/7"]


@pytest.mark.docker
@pytest.mark.parametrize(
    ("changed", "steps", "reason"),
    [
        ({"unfit": "was given secrets"}, {"build"}, "it was given secrets"),
        ({}, {"other"}, "its step, or what it worked in, is no more"),
        ({"exchange": "exchange/none"}, {"build"}, "its step, or what it worked in, is no more"),
        ({"boot_id": "x"}, {"build"}, "the machine was started anew since its go"),
    ],
    ids=["unfit", "step-gone", "folder-gone", "restarted"],
)
def test_a_preparation_removes_what_it_cannot_adopt_and_remembers_why(
    changed: dict[str, Any], steps: set[str], reason: str, engine: Engine, folder: Folder, left: Callable[..., Going]
) -> None:
    record = left(**changed)
    got = found(folder, engine, steps)
    assert (got.waiting, got.refused) == ({}, [(record, reason)])
    assert (names(engine, folder), inside(folder)) == (set(), set())


@pytest.mark.docker
def test_what_a_living_process_has_sent_off_is_neither_adopted_nor_removed(
    engine: Engine, folder: Folder, left: Callable[..., Going]
) -> None:
    record = left(owner=Owner.me())
    got = found(folder, engine, {"build"})
    assert got.waiting == {}
    assert names(engine, folder) == {record.container}
    assert got.earlier({"build": 1, "other": 1}) == {"build": 2, "other": 1}, "its name is taken"


# --- what sweeps of others spare ---


def listed(engine: Engine, record: Going) -> dict[str, Any]:
    (one,) = [one for one in engine.containers() if one["Id"] == record.container]
    return one


@pytest.mark.docker
def test_a_sweep_spares_what_works_until_its_wall_time_is_over(engine: Engine, left: Callable[..., Going]) -> None:
    assert resumable(listed(engine, left()))
    assert not resumable(listed(engine, left("late", tree="", boot=Moment.now().boot - 1000)))
    assert not resumable(listed(engine, left("parked", noted=False)))
    assert not resumable(listed(engine, left("unfit", tree="", unfit="was given secrets")))


@pytest.mark.docker
def test_a_sweep_spares_what_has_ended_for_a_day(
    engine: Engine, left: Callable[..., Going], wait_until: Callable[..., Any]
) -> None:
    hour, over = Moment.now().boot - 3600, Moment.now().boot - HARVEST - 60
    young, old = left("young", tree="", command="0", boot=hour), left("old", tree="", command="0", boot=over)
    wait_until(lambda: not any(engine.state(one.container)["Running"] for one in (young, old)))
    assert [resumable(listed(engine, one)) for one in (young, old)] == [True, False]


@pytest.mark.docker
def test_of_a_workflow_that_is_removed_or_over_nothing_is_spared(
    engine: Engine, folder: Folder, left: Callable[..., Going]
) -> None:
    one = listed(engine, left())
    folder.plan_file.unlink()
    assert not resumable(one)
    assert not resumable({**one, "Labels": {}})
