"""Every way a container can end, on the real engine, told in both ways: by pidfd and marks, and by the engine's word."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.output import Capture
from workflowmaster.blocks.reader import STOP_GRACE

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.docker

SMALL = policies.lower(policies.load("standard"), memory=64 * 1024**2, pids=64)
HUNGRY = "python3 -c 'b = bytearray(300_000_000)'"
MEGABYTES = "python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(256)) * 4096 * 20)'"
ASKED = "exec 2>/dev/null; trap"
LATE = {"timed_out": True}
FORGED = "\\036" + "0" * 32 + "\\036"


@dataclass(frozen=True)
class Case:
    """A script, and how it ends."""

    name: str
    script: str | tuple[str, ...]
    code: int = 0
    output: bytes | None = b""
    """None where it differs from run to run; a hash where it is long."""
    ending: dict[str, Any] = field(default_factory=dict)
    seconds: float = 30
    policy: Any = SMALL

    def __str__(self) -> str:
        return self.name


CASES = (
    Case("nothing", "true"),
    *(Case(f"exit {code}", f"exit {code}", code) for code in (1, 125, 128, 255)),
    Case("killed by a signal", "kill -TERM $$", 143, None),
    Case("killed hard", "echo a; kill -KILL $$", 137, None),
    Case("its shell killed", "echo a; kill -KILL $PPID; exit 3", 137, None),
    Case("its shell killed after half a mark", r"printf 'a\036'; kill -KILL $PPID; sleep 9", 137, b"a\x1e"),
    Case("no such command", ("no-such-command", "x"), 127, None),
    Case("not executable", ("/etc/passwd",), 126, None),
    Case("a builtin is no program", ("exit", "3"), 127, None),
    Case("out of memory", HUNGRY, 137, None, {"oom_killed": True}),
    Case("a child out of memory", f"{HUNGRY} 2>/dev/null; echo survived", 0, None, {"oom_killed": True}),
    Case("too long", "echo a; exec sleep 60", 143, b"a\nTerminated\n", {"timed_out": True}, seconds=1),
    Case("last words", f"{ASKED} 'echo bye; exit 3' TERM; echo a; sleep 60", 3, b"a\nbye\n", LATE, seconds=1),
    Case("an exit code of its own", f"{ASKED} 'exit 0' TERM; echo a; sleep 60", 0, b"a\n", LATE, seconds=1),
    Case("deaf", f"{ASKED} '' TERM; echo a; sleep 60", 137, b"a\n", LATE, seconds=1),
    Case(
        "a daemon that is deaf", f"(trap '' TERM; setsid sleep 60) & {ASKED} 'exit 4' TERM; sleep 60", 4, b"", LATE, 1
    ),
    Case("it hears nothing of our arrangements", 'echo "$TINI_KILL_PROCESS_GROUP"; trap', 0, b"\n"),
    Case("a daemon that keeps stdout open", "setsid sleep 60 & echo a", 0, b"a\n"),
    Case("a daemon that goes on printing", "(while :; do echo tick; done) & sleep 0.2; exit 3", 3, None),
    Case("20 MB", MEGABYTES, 0, hashlib.sha256(bytes(range(256)) * 4096 * 20).digest()),
    Case("no newline at the end", "printf abc", 0, b"abc"),
    Case("record separators", r"printf 'a\036b\036'; printf '\036' >&2", 0, b"a\x1eb\x1e\x1e"),
    Case("what looks like a mark", f"printf '{FORGED}000'; exit 4", 4, b"\x1e" + b"0" * 32 + b"\x1e000"),
    Case("a mark's beginning at the end", f"printf '{FORGED[:-4]}'", 0, b"\x1e" + b"0" * 32),
    Case("stdout closed", "echo a; exec 1>&-; exec 2>&-; exit 5", 5, b"a\n"),
    Case("stderr only", "echo e >&2", 0, b"e\n"),
    Case("stderr after stdout was closed", "echo a; exec 1>&-; echo e >&2", 0, b"a\ne\n"),
    Case("empty stdin", "cat; cat; echo end", 0, b"end\n"),
)


def brief(output: bytes) -> bytes:
    return hashlib.sha256(output).digest() if len(output) > 1_000_000 else output


@pytest.mark.parametrize("way", ["pidfd", "engine"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_ways_tell_the_same_end(box: Callable[..., Any], case: Case, way: str) -> None:
    argv = ("sh", "-c", case.script) if isinstance(case.script, str) else case.script
    made = box(*argv, policy=case.policy).park(way)
    began = time.monotonic()
    ending = made.go(case.seconds)
    facts = {"exit_code": case.code, "timed_out": False, "capped": False, "oom_killed": False, "error": ""}
    found = {name: getattr(ending, name) for name in facts}
    assert found == {**facts, **case.ending}
    assert time.monotonic() - began < case.seconds + 8
    assert 0 < ending.seconds < case.seconds + 5
    output = bytes(made.output)
    assert not re.search(rb"\x1e[0-9a-f]{32}", output.replace(b"\x1e" + b"0" * 32, b"")), "our mark is no output"
    if case.output is not None:
        assert brief(output) == case.output


@pytest.mark.parametrize("way", ["pidfd", "engine"])
@pytest.mark.parametrize(("trap", "grace"), [("'exit 0'", False), ("''", True)], ids=["polite", "deaf"])
def test_the_grace_is_given_to_those_who_need_it_and_no_longer(
    sh: Callable[..., Any], way: str, trap: str, *, grace: bool
) -> None:
    ending = sh(f"{ASKED} {trap} TERM; echo a; sleep 60", policy=SMALL).park(way).go(1)
    assert ending.timed_out
    least = 1 + STOP_GRACE * grace
    assert least <= ending.seconds < least + 2


def test_a_container_is_stopped_from_another_thread_as_at_its_wall_time(sh: Callable[..., Any]) -> None:
    made = sh(f"{ASKED} 'echo bye; exit 3' TERM; echo up; sleep 60", policy=SMALL).park()

    def stop(data: bytes) -> bool:
        if data.startswith(b"up"):
            threading.Thread(target=made.container.stop).start()
        return made.take(data)

    ending = made.go(60, stop)
    assert (ending.exit_code, ending.timed_out, bytes(made.output)) == (3, False, b"up\nbye\n")
    assert made.container.begun
    made.container.stop()  # it has ended: nothing happens


def test_one_that_waits_for_its_go_ends_when_it_is_stopped(sh: Callable[..., Any], engine: Any) -> None:
    made = sh("true").park()
    made.container.terminate()
    assert engine.wait(made.container.id, 10) == 143
    assert not made.container.begun


def test_what_is_still_running_is_killed_with_the_rest(sh: Callable[..., Any]) -> None:
    """Processes that left the session and forked twice are still in the pid namespace, and die with it."""
    tree = "setsid sh -c 'setsid sleep 300 & setsid sleep 300' & setsid setsid sleep 300 & echo up; sleep 300"
    made = sh(tree, policy=SMALL).park()
    members: list[int] = []

    def look(data: bytes) -> bool:
        procs = made.container.cgroup.paths["" if made.container.cgroup.unified else "pids"] / "cgroup.procs"
        while len(members) < 7:  # init, two shells of ours, one of the step's, and three sleeps at least
            members[:] = [int(pid) for pid in procs.read_text().split()]
        return made.take(data)

    ending = made.go(1, look)
    assert ending.timed_out
    assert 1.0 <= ending.seconds < 2.0
    assert [pid for pid in members if made.container.id in cgroup_of(pid)] == []


def cgroup_of(pid: int) -> str:
    """Return the cgroup of a living process; empty for none, and for a corpse that nobody has taken note of yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return "" if state in "ZX" else Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def test_both_streams_keep_their_order(sh: Callable[..., Any]) -> None:
    """As fast as a program can write, two thousand times: what came first stands first."""
    made = sh("i=0; while [ $i -lt 2000 ]; do echo out $i; echo err $i >&2; i=$((i + 1)); done", policy=SMALL).park()
    assert made.go().exit_code == 0
    assert made.output.decode() == "".join(f"out {i}\nerr {i}\n" for i in range(2000))


@pytest.mark.parametrize("way", ["pidfd", "engine"])
def test_200_megabytes_are_cut_at_the_cap_and_the_container_is_stopped(
    sh: Callable[..., Any], tmp_path: Path, way: str
) -> None:
    made = sh("yes 0123456789abcde | head -c 200000000; echo never; sleep 60", policy=SMALL).park(way)
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    before, began = peak_memory(), time.monotonic()
    with Capture(tmp_path / "log", cap=1_000_000, policy="standard") as capture:
        ending = made.go(60, capture)
    assert (ending.capped, ending.timed_out, ending.exit_code) == (True, False, 137)
    assert time.monotonic() - began < 8
    assert peak_memory() - before < 20_000_000
    text = (tmp_path / "log").read_bytes()
    assert text[:1_000_000] == b"0123456789abcde\n" * 62_500
    assert text[1_000_000:].count(b"\n") == 1
    assert b"output cut at 1,000,000 bytes, the cap of policy standard" in text[1_000_000:]


def peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def test_a_step_that_is_stopped_for_its_output_has_not_run_too_long(sh: Callable[..., Any]) -> None:
    """The kill takes its time, and the wall time may pass meanwhile; the first cause is the one to tell."""
    made = sh("echo a; sleep 60", policy=SMALL).park("engine")

    def slow(_: bytes) -> bool:
        time.sleep(1.2)  # until after the wall time
        return False

    ending = made.go(1, slow)
    assert (ending.capped, ending.timed_out) == (True, False)


def test_a_fork_bomb_stays_inside(sh: Callable[..., Any]) -> None:
    bomb = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
    limits = policies.lower(SMALL, pids=48, cpus=0.5)
    ending = sh(f"python3 -c '{bomb}'", policy=limits).park().go(1.5)
    assert ending.timed_out
    assert (ending.usage.peak_pids or 48) == 48
    assert os.waitpid(os.spawnlp(os.P_NOWAIT, "true", "true"), 0)[1] == 0, "this host can still start processes"


@pytest.mark.parametrize("way", ["pidfd", "engine"])
def test_kill_from_another_thread(sh: Callable[..., Any], way: str) -> None:
    made = sh("echo up; sleep 60", policy=SMALL).park(way)

    def kill(data: bytes) -> bool:
        threading.Thread(target=made.container.kill).start()
        return made.take(data)

    ending = made.go(60, kill)
    assert (ending.exit_code, ending.timed_out, ending.capped) == (137, False, False)
    assert ending.seconds < 10
    made.container.kill()  # it has ended: nothing happens


@pytest.mark.parametrize(
    ("script", "seconds", "code", "timed_out"), [("sleep 1; exit 7", 30, 7, False), ("sleep 60", 1, 143, True)]
)
def test_a_torn_connection_loses_output_but_neither_the_end_nor_the_wall_time(
    sh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, script: str, seconds: float, code: int, timed_out: bool
) -> None:
    monkeypatch.setattr("workflowmaster.blocks.reader.SETTLE", 0.5)
    made = sh(f"echo up; {script}", policy=SMALL).park("engine")

    def tear(data: bytes) -> bool:
        made.container.stream.shutdown(2)
        return made.take(data)

    ending = made.go(seconds, tear)
    assert (ending.exit_code, ending.timed_out) == (code, timed_out)


def test_a_container_that_somebody_removed(sh: Callable[..., Any], engine: Any) -> None:
    made = sh("echo up; sleep 60", policy=SMALL).park("engine")

    def remove(data: bytes) -> bool:
        engine.remove(made.container.id)
        return made.take(data)

    with pytest.raises(SandboxUnavailable) as caught:
        made.go(60, remove)
    assert caught.value.reason == "gone"


def test_one_that_does_not_die_is_an_error_and_no_hanging_run(
    sh: Callable[..., Any], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen process cannot be killed on cgroup v1; here the engine pauses the container before its time is up."""
    monkeypatch.setattr("workflowmaster.blocks.reader.GRACE", 1.0)
    made = sh("echo up; sleep 60", policy=SMALL).park("engine")
    for signal in ("terminate", "kill"):
        monkeypatch.setattr(made.container, signal, lambda: None)

    def pause(data: bytes) -> bool:
        threading.Thread(target=engine.client.pause, args=(made.container.id,)).start()
        return made.take(data)

    with pytest.raises(SandboxUnavailable, match="not dead") as caught:
        made.go(1, pause)
    assert caught.value.reason == "stuck"


def test_a_sink_that_fails_ends_the_reading(sh: Callable[..., Any]) -> None:
    """A full disk, for example. Whoever reads removes the container, as after any end."""
    made = sh("echo up; sleep 60", policy=SMALL).park()

    def full(_: bytes) -> bool:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        made.go(60, full)


def test_a_reading_needs_a_parked_container(sh: Callable[..., Any]) -> None:
    made = sh("true")
    with pytest.raises(RuntimeError, match="before park"):
        made.go()


def test_what_it_used_is_told_by_its_shell_where_the_host_cannot_tell(sh: Callable[..., Any]) -> None:
    """As on an engine elsewhere, or where the engine has removed the cgroup before anybody looked."""
    made = sh("python3 -c 'b = bytearray(60_000_000)'; sh -c 'exit 3'").park("engine")
    ending = made.go()
    assert ending.exit_code == 3
    assert 60_000_000 < ending.usage.peak_memory < 400_000_000
    assert 0.005 < ending.usage.cpu_seconds < 20
    assert ending.usage.oom_kills == 0


def test_a_child_that_was_killed_for_memory_is_told_by_the_shell_too(sh: Callable[..., Any]) -> None:
    made = sh("python3 -c 'b = bytearray(200_000_000)'; true", policy=SMALL).park("engine")
    ending = made.go()
    assert (ending.exit_code, ending.oom_killed) == (0, True)
    assert ending.usage.oom_kills >= 1
