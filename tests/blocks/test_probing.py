"""The probes themselves: what is promised about them, how they are judged, and that none can harm another."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster import policies
from workflowmaster.blocks import probing
from workflowmaster.blocks.arguments import create_arguments
from workflowmaster.blocks.bystander import AWAY, VARIABLE, Bystander
from workflowmaster.blocks.engine import EngineInfo, SandboxUnavailable
from workflowmaster.blocks.probes import battery
from workflowmaster.blocks.probes.battery import ALWAYS, Absent, Outside, Probe
from workflowmaster.blocks.probes.kernel import call, reached
from workflowmaster.blocks.probing import Lines, Proving
from workflowmaster.blocks.promises import Outcome, holds, judge, promises
from workflowmaster.blocks.request import ContainerRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workflowmaster.blocks.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
PROBES = battery.load()
NOWHERE = Outside(
    token="t",
    secret="/nowhere",
    pid=1,
    mark="none",
    hostname="h",
    address="",
    port=1,
    loopback_port=1,
    abstract="a",
    memory=0,
    disk=0,
    watched=(),
)

spec = importlib.util.spec_from_file_location("make_probe_docs", ROOT / "scripts" / "make_probe_docs.py")
make_probe_docs = importlib.util.module_from_spec(spec)
sys.path.append(str(ROOT / "scripts"))  # where a script finds its neighbours
spec.loader.exec_module(make_probe_docs)
sys.path.pop()


# What is promised.


def test_there_are_many_probes_of_every_kind() -> None:
    assert len(PROBES) >= 200
    assert {one.group for one in PROBES.values()} == set(battery.GROUPS)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) and one.tries for name, one in PROBES.items())


def test_what_a_policy_promises_each_stricter_one_promises_too() -> None:
    for one in PROBES.values():
        held = [bool(promises(one.blocked_by, policies.load(name))) for name in policies.ORDER]
        assert held == sorted(held), one.name


@pytest.mark.parametrize(
    ("control", "first"),
    [
        (ALWAYS, "minimal"),
        ("seccomp >= S0", "minimal"),
        ("seccomp >= S2", "standard"),
        ("network >= proxy-any", "development"),
        ("root_filesystem >= ro", "standard"),
        ("workspace >= none", "paranoid"),
        ("no_new_privileges == true", "minimal"),
        ("tmp.exec == false", "hardened"),
        ("tmp.size <= 1g", "development"),
        ("tmp.inodes <= 8192", "hardened"),
        ("memory <= 1g", "hardened"),
        ("pids <= 64", "paranoid"),
        ("result_cap <= 2g", "testing"),
        ("capabilities without SYS_ADMIN", "minimal"),
        ("capabilities without CHOWN", "development"),
    ],
)
def test_from_which_policy_on_a_control_holds(control: str, first: str) -> None:
    holding = [name for name in policies.ORDER if holds(control, policies.load(name))]
    assert holding == list(policies.ORDER[policies.ORDER.index(first) :])


@pytest.mark.parametrize("control", ["", "seccomp", "seccomp > S1", "memory<=1g", "seccomp >= S1 or S2"])
def test_a_control_that_makes_no_sense_is_an_error(control: str) -> None:
    with pytest.raises(ValueError, match="is no control"):
        holds(control, policies.load("minimal"))


@pytest.mark.parametrize("control", ["colour >= blue", "tmp.colour <= 1"])
def test_a_control_of_no_field_is_an_error(control: str) -> None:
    with pytest.raises(AttributeError):
        holds(control, policies.load("standard"))


@given(low=st.integers(6 << 20, 1 << 36), high=st.integers(6 << 20, 1 << 36), bound=st.integers(1, 1 << 36))
def test_a_smaller_limit_promises_no_less(low: int, high: int, bound: int) -> None:
    base = policies.load("minimal")
    small, large = (base.model_copy(update={"memory": size}) for size in sorted((low, high)))
    control = f"memory <= {bound}"
    assert holds(control, small) >= holds(control, large)


def test_no_bound_promises_nothing() -> None:
    minimal = policies.load("minimal")
    assert minimal.result_cap is None
    assert minimal.tmp is None
    assert not holds("result_cap <= 1000g", minimal)
    assert not holds("tmp.size <= 1000g", minimal)
    assert not holds("tmp.exec == false", minimal)


DONE, REFUSED = Outcome("done"), Outcome("refused", "Operation not permitted")


@pytest.mark.parametrize(
    ("got", "reference", "blocked_by", "verdict", "detail"),
    [
        (REFUSED, DONE, (ALWAYS,), "blocked", "Operation not permitted"),
        (DONE, DONE, (), "open", ""),
        (DONE, DONE, (ALWAYS,), "broken", ""),
        (REFUSED, DONE, (), "stricter", "Operation not permitted"),
        # What is there outside and not inside was kept away.
        (Outcome("absent", "no device"), DONE, (ALWAYS,), "blocked", "no device"),
        (REFUSED, REFUSED, (ALWAYS,), "void", "not even an unrestricted container can: Operation not permitted"),
        (DONE, REFUSED, (ALWAYS,), "void", "not even an unrestricted container can: Operation not permitted"),
        (DONE, Outcome("late", "not done"), (), "void", "not even an unrestricted container can: not done"),
        (Outcome("late", "not done within 20 s"), DONE, (ALWAYS,), "void", "not done within 20 s"),
        (Outcome("mistake", "KeyError: 1"), DONE, (ALWAYS,), "void", "the probe itself failed: KeyError: 1"),
        (REFUSED, Outcome("mistake", "KeyError: 1"), (), "void", "the probe itself failed: KeyError: 1"),
    ],
)
def test_what_a_probe_says(
    got: Outcome, reference: Outcome, blocked_by: tuple[str, ...], verdict: str, detail: str
) -> None:
    one = Probe("p", "files", "do harm", blocked_by, lambda _: None)
    said = judge(one, policies.load("minimal"), got, reference)
    assert (said.verdict, said.detail, said.promised_by) == (verdict, detail, blocked_by)


@pytest.mark.parametrize(("group", "verdict"), [("calls", "guest"), ("secrecy", "broken"), ("resources", "broken")])
def test_a_kernel_of_its_own_may_grant_what_reaches_no_host(group: str, verdict: str) -> None:
    one, policy = Probe("p", group, "do harm", (ALWAYS,), lambda _: None), policies.load("paranoid")
    assert judge(one, policy, DONE, DONE, gvisor=True).verdict == verdict
    assert judge(one, policy, DONE, DONE).verdict == "broken"
    assert judge(one, policy, REFUSED, DONE, gvisor=True).verdict == "blocked"


def test_only_controls_that_hold_are_named() -> None:
    one = Probe("p", "files", "do harm", ("seccomp >= S4", "pids <= 4096"), lambda _: None)
    assert judge(one, policies.load("minimal"), REFUSED, DONE).promised_by == ("pids <= 4096",)


def test_the_page_lists_every_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = ROOT / "docs" / "probes.md"
    assert make_probe_docs.main(["--check"]) == 0
    stale = tmp_path / "probes.md"
    stale.write_text(page.read_text().replace("`outlive`", "`outlove`"))
    monkeypatch.setattr(make_probe_docs, "PAGE", stale)
    assert make_probe_docs.main(["--check"]) == 1
    assert capsys.readouterr().out == "probes.md is stale: run `make generated`\n"
    assert make_probe_docs.main([]) == 0
    assert stale.read_text() == page.read_text()
    stale.write_text("no table")
    with pytest.raises(ValueError, match="markers"):
        make_probe_docs.main([])


@pytest.mark.parametrize(("name", "limit"), [("testing", None), ("hardened", 0), ("paranoid", 0)])
def test_where_queues_are_taken_away_files_cannot_be_queues(name: str, limit: int | None) -> None:
    request = ContainerRequest("n", "sha256:0", policies.load(name), ("true",))
    info = EngineInfo("20", "1.41", 2, 8 << 30, "1", "overlay2", ("seccomp",), ("runc",), "/", local=True)
    limits = {one["Name"]: one["Hard"] for one in create_arguments(request, info)[1]["ulimits"]}
    assert limits.get("msgqueue") == limit


# How one probe is run.


def hang(_: Outside) -> None:
    while True:
        time.sleep(1)


def die(_: Outside) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_: Outside) -> None:
    os._exit(3)


def refuse(_: Outside) -> None:
    raise PermissionError(1, "Operation not permitted")


def miss(_: Outside) -> None:
    raise Absent("no such thing here")


def fail(_: Outside) -> None:
    raise KeyError("oops")


def starve(_: Outside) -> None:
    raise MemoryError


def shout(_: Outside) -> None:
    os.write(1, b'{"name": "forged", "outcome": "done", "detail": ""}\n')


@pytest.mark.parametrize(
    ("work", "outcome", "detail"),
    [
        (lambda _: None, "done", ""),
        (shout, "done", ""),
        (refuse, "refused", "Operation not permitted"),
        (miss, "absent", "no such thing here"),
        (fail, "mistake", "KeyError: 'oops'"),
        (starve, "refused", "Cannot allocate memory"),
        (hang, "late", "not done within 0.5 s"),
        (die, "refused", "killed by SIGKILL"),
        (leave, "refused", "it vanished"),
    ],
)
def test_however_a_probe_ends_it_is_told(
    work: Callable[[Outside], None], outcome: str, detail: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = battery.attempt(Probe("p", "files", "x", (), work, seconds=0.5 if work is hang else 20.0), NOWHERE)
    assert said == {"name": "p", "outcome": outcome, "detail": detail}
    # Nothing that a probe prints can pass for an outcome.
    assert capfd.readouterr().out == ""


def test_what_a_probe_started_goes_with_it(tmp_path: Path) -> None:
    def spawn(_: Outside) -> None:
        child = os.fork()
        if child == 0:
            hang(_)
        (tmp_path / "pid").write_text(str(child))

    battery.attempt(Probe("p", "files", "x", (), spawn), NOWHERE)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < deadline


def test_only_the_errors_that_are_named_are_success() -> None:
    with reached(2):
        raise FileNotFoundError(2, "no file")
    with pytest.raises(PermissionError), reached(2):
        raise PermissionError(1, "no")


def test_a_call_says_what_the_kernel_said(monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(call("memfd_create", b"test", 0))
    with pytest.raises(OSError, match="Bad file descriptor"):
        call("pidfd_getfd", -1, 0, 0)
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    with pytest.raises(Absent, match="pdp11"):
        call("memfd_create", b"test", 0)


def test_lines_are_put_together_however_they_are_cut() -> None:
    text = b'{"name": "a", "outcome": "begun", "detail": ""}\nsh: python3: not found\n'
    text += b'{"name": "a", "outcome": "refused", "detail": "no"}\n{"name": "b", "outcome": "begun", "detail": ""}\n'
    for size in (1, 7, len(text)):
        lines = Lines()
        for at in range(0, len(text), size):
            assert lines(text[at : at + size])
        assert (lines.begun, lines.outcomes) == ("b", {"a": Outcome("refused", "no")})
        assert lines.other == "sh: python3: not found\n"


def test_the_host_has_something_to_hide_and_takes_it_away(tmp_path: Path) -> None:
    with Bystander(tmp_path / "host") as bystander:
        facts = bystander.facts
        assert Path(facts.secret).read_text() == facts.token == os.environ[VARIABLE]
        deadline = time.monotonic() + 10
        while facts.mark.encode() not in Path(f"/proc/{facts.pid}/cmdline").read_bytes():
            assert time.monotonic() < deadline
        assert facts.token.encode() in Path(f"/proc/{facts.pid}/environ").read_bytes()
        assert (tmp_path / "host/socket").is_socket()
        assert facts.address != AWAY
    assert VARIABLE not in os.environ
    assert not Path(f"/proc/{facts.pid}").exists()


# In real containers.


@pytest.fixture
def few(engine: Engine, image_id: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Proving]]:
    """Probe with these probes only, and with no watch over what files grow by."""
    opened: list[Proving] = []

    def make(*names: str) -> Proving:
        made = Proving(engine, image_id, lambda _engine, _placed: None).__enter__()
        made.probes = {name: PROBES[name] for name in names}
        opened.append(made)
        return made

    yield make
    for one in opened:
        one.__exit__(None, None, None)
        assert not one.folder.exists()
    assert VARIABLE not in os.environ


@pytest.mark.docker
def test_a_promise_that_is_not_kept_is_found(few: Callable[..., Proving]) -> None:
    """Without the watch that a step has, nothing keeps `minimal` to its eight gigabytes."""
    proving = few("fill-out-8300m", "fill-out-70m", "mount-memory")
    report = proving.report(policies.load("minimal"))
    assert {one.name: one.verdict for one in report.probes} == {
        "fill-out-8300m": "broken",
        "fill-out-70m": "open",
        "mount-memory": "blocked",
    }
    assert report.having("broken") == ("fill-out-8300m",)


@pytest.mark.docker
def test_an_image_without_python_is_named(few: Callable[..., Proving], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PYTHON", "no-such-python")
    with pytest.raises(SandboxUnavailable, match="the image needs python3") as error:
        few("write-out").report(policies.load("minimal"))
    assert error.value.reason == "image"


@pytest.mark.docker
def test_the_unrestricted_container_is_asked_once(few: Callable[..., Proving]) -> None:
    proving = few("write-out", "write-exchange")
    first = proving.unrestricted
    assert first == {"write-out": DONE, "write-exchange": DONE}
    report = proving.report(policies.load("paranoid"))
    assert proving.unrestricted is first
    assert [one.verdict for one in report.probes] == ["open", "blocked"]
    assert report.policy_hash == policies.load("paranoid").hash
    assert json.loads(report.model_dump_json())["image_id"] == proving.image_id


@pytest.mark.docker
def test_a_setuid_program_is_left_for_those_who_are_judged(few: Callable[..., Proving]) -> None:
    """The one probe that needs two containers: only an unrestricted one can make what the other must not profit from."""
    proving = few("setuid-program")
    strict, loose = policies.load("minimal"), policies.load("minimal").model_copy(update={"no_new_privileges": False})
    verdicts = [proving.report(policy).probes[0].verdict for policy in (strict, loose)]
    # Without the control it works, so it is the control that stops it.
    assert verdicts == ["blocked", "open"]


def test_facts_survive_their_way_in() -> None:
    assert Outside(**json.loads(json.dumps(dataclasses.asdict(NOWHERE)))).port == NOWHERE.port
