"""Which caps on disk the kernel holds, which are watched, and what a receipt says of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks.bounded import Bound
from workflowmaster.blocks.cgroup import Usage
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.overseeing import LAYER
from workflowmaster.blocks.reader import Ending
from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows import guarding
from workflowmaster.flows.parking import Parked, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflowmaster.blocks.growth import Growth

ENDED = Ending(0, Usage(), 1.0, timed_out=False, capped=False, oom_killed=False)


@pytest.fixture
def engine() -> Any:
    """What is asked of an engine here: where it is. The layers are the block tests' affair."""
    return SimpleNamespace(
        info=SimpleNamespace(local=True),
        layers=lambda _: [],
        written=lambda _: 4096,
    )


@pytest.fixture
def parked(tmp_path: Path) -> Callable[..., Parked]:
    """Make what would be parked under a policy."""

    def make(name: str, *, bound: bool = False, **changed: Any) -> Parked:
        policy = policies.load(name).model_copy(update=changed)
        exchange = Exchange(tmp_path / "x")
        exchange.outward.mkdir(parents=True, exist_ok=True)
        tree = Tree(tmp_path / "tree") if policy.workspace != "none" else None
        (tmp_path / "tree").mkdir(exist_ok=True)
        container: Any = SimpleNamespace(request=SimpleNamespace(policy=policy), id="c", pids=list)
        return Parked(container, exchange, tree, bound=Bound(1 << 20) if bound else None, laid=5)

    return make


def watched(growth: Growth | None) -> list[tuple[str, int, int | None]]:
    return [] if growth is None else [(place.name, place.before, place.cap) for place in growth.places]


WORK, OUT = ("/workspace", 5, None), ("/out", 0, None)


@pytest.mark.parametrize(
    ("policy", "bound", "places"),
    [
        ("minimal", False, [WORK, OUT]),
        ("standard", False, [WORK, OUT]),
        ("testing", True, [WORK, OUT]),
        ("testing", False, [WORK, ("/out", 0, 2 << 30)]),
        ("hardened", True, []),
        ("hardened", False, [("/out", 0, 512 << 20)]),
        ("paranoid", True, []),
        ("paranoid", False, [("/out", 0, 64 << 20)]),
    ],
)
def test_what_the_kernel_does_not_hold_is_watched(
    engine: Any, parked: Callable[..., Parked], policy: str, bound: bool, places: list[Any]
) -> None:
    growth = guarding.watch(engine, parked(policy, bound=bound))
    assert watched(growth) == places
    assert growth is None or growth.cap == policies.load(policy).disk


def test_a_policy_without_caps_is_not_watched(engine: Any, parked: Callable[..., Parked]) -> None:
    assert guarding.watch(engine, parked("minimal", disk=None)) is None


def test_on_another_machine_only_the_engine_can_tell(engine: Any, parked: Callable[..., Parked]) -> None:
    engine.info.local = False
    assert guarding.watch(engine, parked("standard")) is None
    growth = guarding.watch(engine, parked("minimal"))
    assert growth is not None
    assert (watched(growth), growth.told()) == ([], 4096)


def test_a_writable_root_is_looked_at_once_the_container_runs(
    engine: Any, parked: Callable[..., Parked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    engine.layers = lambda _: [str(tmp_path / "tree"), str(tmp_path / "x")]
    growth = guarding.watch(engine, parked("minimal"))
    assert growth is not None
    growth.look()
    assert [name for name, _, _ in watched(growth)] == ["/workspace", "/out", LAYER, LAYER]
    assert growth.told() == 0, "who sees it himself need not ask"


def test_a_layer_that_cannot_be_seen_is_told(engine: Any, parked: Callable[..., Parked]) -> None:
    engine.layers = lambda _: ["/nonexistent/upper"]
    growth = guarding.watch(engine, parked("minimal"))
    assert growth is not None
    assert growth.look().grown >= 4096


def test_the_receipt_says_who_held_the_caps_and_which_was_hit(engine: Any, parked: Callable[..., Parked]) -> None:
    held = parked("hardened", bound=True)
    account = guarding.account(held, ENDED, None)
    assert (account["disk_bound"], account["disk_capped"], account["disk_peak"]) == ("kernel", False, None)
    loose = parked("standard")
    growth = guarding.watch(engine, loose)
    assert growth is not None
    growth.reason, growth.walks, growth.peak = "let its files grow by more than 9 bytes", 1, 10
    account = guarding.account(loose, replace(ENDED, disk_capped=True), growth)
    assert account == {
        "disk_capped": True,
        "disk_limit": "let its files grow by more than 9 bytes",
        "disk_bound": "watched",
        "disk_peak": 10,
    }
    assert Receipt(**account).disk_capped
    nobody = parked("minimal", disk=None)
    assert guarding.account(nobody, ENDED, None)["disk_bound"] == ""


def test_the_reason_of_a_failure_names_the_cap_it_ran_into() -> None:
    full = Receipt(exit_code=1, disk_limit="filled /out, a file system of 10 bytes")
    assert guarding.told("exit 1", full) == "exit 1 (it filled /out, a file system of 10 bytes)"
    assert guarding.told("exit 1", Receipt(exit_code=1)) == "exit 1"
