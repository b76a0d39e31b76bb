"""The table of what an engine enforces, and what is refused for lack of it before anything starts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks.controls import CONTROLS
from workflowmaster.blocks.engine import Engine
from workflowmaster.blocks.request import SCRATCH, ContainerRequest
from workflowmaster.flows import enforcement
from workflowmaster.flows.enforcement import MEANING, Row, insist, table
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


@pytest.fixture(scope="module")
def rows(engine: Engine) -> dict[str, Row]:
    return {row.control: row for row in table(engine, engine.image_id("workflowmaster/step:1"))}


def test_every_control_that_the_strictest_policy_promises_has_its_row(rows: dict[str, Row]) -> None:
    request = ContainerRequest("n", "sha256:0", policies.load("paranoid"), ("true",), workdir=SCRATCH)
    promised = {one.name for one in CONTROLS if one.promised(request)}
    assert set(rows) == promised | {"user_namespace", "disk_quota", "pidfd"}
    assert {row.verdict for row in rows.values()} <= set(MEANING)


def test_this_engine_keeps_what_it_is_asked_for(rows: dict[str, Row], engine: Engine) -> None:
    assert "weaker" not in Counter(row.verdict for row in rows.values())
    assert rows["seccomp_profile"].verdict == "told"
    assert rows["memory"].verdict == "enforced"
    assert (rows["apparmor"].verdict == "enforced") == ("apparmor" in engine.info.security)
    assert all(row.detail for row in rows.values() if row.verdict == "absent")


def test_the_trial_leaves_nothing_behind(engine: Engine) -> None:
    table(engine, engine.image_id("workflowmaster/step:1"))
    assert engine.containers(workflow="doctor") == []


def test_without_an_image_there_is_what_the_engine_says(engine: Engine) -> None:
    assert [row.control for row in table(engine, None)] == ["user_namespace", "disk_quota", "pidfd"]


def test_what_is_not_enforced_is_a_row_and_no_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes fewer than the container is given: as if the engine had given it more."""
    strict = policies.load("paranoid")

    class Generous(enforcement.Container):
        def _arguments(self, request: ContainerRequest) -> tuple[dict[str, Any], dict[str, Any]]:
            config, host = super()._arguments(request)
            return config, {**host, "pids_limit": strict.pids + 2, "init": False}

    monkeypatch.setattr(enforcement, "Container", Generous)
    found = {row.control: row for row in table(engine, engine.image_id("workflowmaster/step:1"))}
    weaker = {name for name, row in found.items() if row.verdict == "weaker"}
    assert weaker == {"pids", "init"}
    assert "declared 64, found 66" in found["pids"].detail
    assert found["memory"].verdict == "enforced"


def plan_of(*steps: tuple[str, bool]) -> Any:
    source = SimpleNamespace(line=7)
    tasks = [SimpleNamespace(id=name, in_container=boxed, source=source) for name, boxed in steps]
    return SimpleNamespace(tasks=tasks, prompt=SimpleNamespace(path="prompt.md"))


@pytest.mark.parametrize(("boxed", "refused"), [(True, True), (False, False)])
def test_a_policy_that_insists_is_refused_where_the_step_has_a_container(
    boxed: bool, refused: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = SimpleNamespace(info=replace(engine.info, security=("seccomp",)))
    limits = {"a": policies.load("standard"), "b": policies.load("standard").model_copy(update={"apparmor": "require"})}
    plan = plan_of(("a", True), ("b", boxed))
    if not refused:
        insist(plan, limits, bare)  # type: ignore[arg-type]
        return
    with pytest.raises(PolicyError) as caught:
        insist(plan, limits, bare)  # type: ignore[arg-type]
    assert str(caught.value).startswith(
        "policy standard cannot be kept here, so step b (prompt.md:7) cannot run:\n  apparmor"
    )
    assert [finding.control for finding in caught.value.findings] == ["apparmor"]


def test_an_engine_without_seccomp_runs_nothing(engine: Engine) -> None:
    bare = SimpleNamespace(info=replace(engine.info, security=()))
    with pytest.raises(PolicyError, match="seccomp is not to be had"):
        insist(plan_of(("a", True)), {"a": policies.load("minimal")}, bare)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("storage", "verdict"), [("overlay2", "absent"), ("btrfs", "told"), ("zfs", "told"), ("vfs", "absent")]
)
def test_a_quota_of_the_disk_depends_on_the_storage(engine: Engine, storage: str, verdict: str) -> None:
    asked: Callable[..., Any] = lambda: SimpleNamespace(info=replace(engine.info, storage=storage))  # noqa: E731
    rows = {row.control: row.verdict for row in table(asked(), None)}
    assert rows["disk_quota"] == verdict
