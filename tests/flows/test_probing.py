"""`policy probe`: that every policy keeps what it promises, and that a promise broken is told."""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import Engine, SandboxUnavailable
from workflowmaster.blocks.probes import battery
from workflowmaster.blocks.probing import Lane, ProbeReport, Proving
from workflowmaster.blocks.promises import Outcome, Verdict
from workflowmaster.flows import probing

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "workflowmaster/step:1"

pytestmark = pytest.mark.timeout(900)  # the reports are made in the first test's set-up, on however busy a machine

STRICTER_BY_HOST = {"run-from-out"}
"""Granted everywhere, and stopped where the host can bound /out: it is then as noexec as /tmp."""


@pytest.fixture(scope="module")
def reports() -> dict[str, ProbeReport]:
    """What all probes say of the six policies, measured by one unrestricted container."""
    engine = Engine()
    image_id = engine.image_id(IMAGE)
    assert image_id, f"{IMAGE} is not built: workflowmaster image build"
    with Proving(engine, image_id, probing.watch) as proving:
        made = {name: proving.report(policies.load(name)) for name in policies.ORDER}
    engine.close()
    return made


def void(reports: dict[str, ProbeReport]) -> set[str]:
    """Probes that proved nothing in some policy."""
    return {name for report in reports.values() for name in report.having("void")}


@pytest.mark.docker
@pytest.mark.parametrize("name", policies.ORDER)
def test_a_policy_keeps_every_promise(reports: dict[str, ProbeReport], name: str) -> None:
    assert reports[name].having("broken") == ()
    assert len(reports[name].having("blocked")) >= 60
    assert set(reports[name].having("stricter")) <= STRICTER_BY_HOST


@pytest.mark.docker
def test_hardly_any_probe_is_void(reports: dict[str, ProbeReport]) -> None:
    for report in reports.values():
        assert len(report.probes) - len(report.having("void")) >= 180
        assert [one for one in report.probes if "the probe itself failed" in one.detail] == []
    # A lane that is judged by the host can be void for no kernel's reason.
    assert not {"outlive", "print-much-66m"} & void(reports)


@pytest.mark.docker
@pytest.mark.parametrize(("looser", "stricter"), list(pairwise(policies.ORDER)))
def test_a_stricter_policy_stops_all_that_a_looser_one_stops_and_more(
    reports: dict[str, ProbeReport], looser: str, stricter: str
) -> None:
    proving = {one.name for one in reports[looser].probes} - void(reports) - STRICTER_BY_HOST
    stopped = [set(reports[name].having("blocked")) & proving for name in (looser, stricter)]
    assert stopped[0] < stopped[1]


@pytest.mark.docker
def test_what_is_open_even_to_the_strictest_is_known(reports: dict[str, ProbeReport]) -> None:
    """Each of these is argued for in docs/probes.md or in the probe's own words; a new one must be, too."""
    assert set(reports["paranoid"].having("open")) | STRICTER_BY_HOST == {
        "absolute-symlink",
        "climb-out",
        "command-line",
        "count-neighbours",
        "file-handle",
        "host-paths",
        "machine-load",
        "neighbours-memory",
        "own-loopback",
        "own-terminal",
        "run-from-out",
        "script-on-tmp",
        "writable-code",
        "write-out",
    }


@pytest.mark.docker
def test_a_probe_that_takes_its_container_along_was_stopped_and_the_next_go_on(home: Path) -> None:
    engine = Engine()
    image_id = engine.image_id(IMAGE)
    assert image_id
    policy = policies.load("minimal").model_copy(update={"disk": 64 << 20})
    with Proving(engine, image_id, probing.watch) as proving:
        probes = [proving.probes[name] for name in ("fill-out-70m", "fill-out-520m", "write-out")]
        found = Lane(proving, policy, Container, probes).run()
        assert len(list(proving.folder.glob("*/in"))) == 3
    stopped = Outcome("refused", "its container was stopped for what its files grew by")
    assert found == {"fill-out-70m": stopped, "fill-out-520m": stopped, "write-out": Outcome("done")}
    engine.close()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Three probes instead of all, for the command's own sake."""
    names = ("write-out", "mount-memory", "fill-out-8300m")
    chosen = {name: battery.load()[name] for name in names}
    monkeypatch.setattr(battery, "load", lambda: chosen)


def given(name: str = "minimal", *, as_json: bool = True, image: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(name=name, json=as_json, image=image)


@pytest.mark.docker
def test_the_command_prints_json_and_ends_with_zero(few: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert probing.probe(given("paranoid")) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["policy"] == "paranoid"
    assert said["counts"] == {"blocked": 2, "open": 1, "broken": 0, "stricter": 0, "guest": 0, "void": 0}
    assert said["broken"] == []
    assert [row["name"] for row in said["probes"]] == ["write-out", "mount-memory", "fill-out-8300m"]


@pytest.mark.docker
def test_a_broken_promise_ends_with_five(
    few: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "watch", lambda _engine, _placed: None)
    assert probing.probe(given(as_json=False)) == 5
    said = capsys.readouterr()
    assert said.out == ""
    assert "NOT BLOCKED ALTHOUGH PROMISED: fill-out-8300m" in said.err
    assert "mount-memory" in said.err


def test_an_image_that_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(SandboxUnavailable, match=r"no image example\.org/none:1") as error:
        probing.probe(given(image="example.org/none:1"))
    assert error.value.reason == "image"


def test_the_command_line_knows_it(bare: Any) -> None:
    said = bare("policy", "probe", "parnoid")
    assert (said.code, said.out) == (5, "")
    assert "paranoid" in said.err


@pytest.mark.parametrize(
    ("verdict", "promised_by", "detail", "because"),
    [
        ("blocked", ("seccomp >= S2",), "Operation not permitted", "seccomp >= S2"),
        ("broken", ("seccomp >= S2", "always"), "", "seccomp >= S2, always"),
        ("open", (), "", "no control of this policy is against it"),
        ("stricter", (), "Permission denied", "Permission denied"),
        ("void", ("always",), "no such device", "no such device"),
    ],
)
def test_what_a_verdict_rests_on(verdict: Any, promised_by: tuple[str, ...], detail: str, because: str) -> None:
    one = Verdict(name="p", group="files", tries="x", verdict=verdict, promised_by=promised_by, detail=detail)
    assert probing.because(one) == because
    report = ProbeReport(policy="p", policy_hash="h", image_id="i", seconds=1.25, probes=(one,))
    assert ("NOT BLOCKED" in probing.summary(report)) == (verdict == "broken")
    assert probing.public(report)["counts"][verdict] == 1
