"""Who is proven dead, and who is not: real processes, one of them a corpse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from workflowmaster.blocks.owner import Owner, here

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "workflowmaster"
SAY = "from workflowmaster.blocks.owner import Owner; import sys; print(repr(Owner.me()), flush=True); sys.stdin.read()"


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], Owner]]:
    process = subprocess.Popen([sys.executable, "-c", SAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    owner = eval(process.stdout.readline(), {"Owner": Owner})
    yield process, owner
    process.kill()
    process.communicate()


def labels(owner: Owner) -> dict[str, str]:
    return {f"{PREFIX}.{key}": value for key, value in owner.labels().items()}


def test_who_lives_is_not_dead(other: tuple[subprocess.Popen[str], Owner]) -> None:
    assert not Owner.me().proven_dead()
    assert not other[1].proven_dead()


def test_a_corpse_that_nobody_has_fetched_is_dead(other: tuple[subprocess.Popen[str], Owner]) -> None:
    process, owner = other
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now, and stays one
    assert owner.proven_dead()
    process.communicate()
    assert owner.proven_dead()


def test_one_that_is_stopped_lives(other: tuple[subprocess.Popen[str], Owner]) -> None:
    process, owner = other
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert not owner.proven_dead()
    process.send_signal(signal.SIGCONT)


def test_a_pid_that_was_given_out_again_is_told_by_its_start() -> None:
    me = Owner.me()
    boot, _, ticks = me.started.partition("-")
    assert replace(me, started=f"{boot}-{int(ticks) - 1}").proven_dead()
    assert replace(me, started=f"00000000-{ticks}").proven_dead(), "before a reboot"


@pytest.mark.parametrize("part", [0, 1, 2])
def test_another_host_is_never_judged(part: int) -> None:
    """Another name, another machine of the same name, or another container on this one."""
    parts = here().split("/")
    parts[part] = "other"
    assert not Owner("/".join(parts), 2**22 - 1, "00000000-1").proven_dead()


def test_a_number_no_process_can_have_is_dead() -> None:
    assert Owner(here(), 2**40, "00000000-1").proven_dead()


def test_a_name_with_parentheses_and_spaces_does_not_confuse(other: tuple[subprocess.Popen[str], Owner]) -> None:
    script = "import ctypes; ctypes.CDLL(None).prctl(15, b') R 1 (x', 0, 0, 0)\n" + SAY
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        owner = eval(process.stdout.readline(), {"Owner": Owner})
        assert owner.started.partition("-")[2].isdigit()
        assert not owner.proven_dead()
        process.communicate()


def test_a_process_that_proc_hides_from_us_is_not_dead() -> None:
    """With hidepid another user's process has no file to see; a kill without a signal still finds it.

    Run as root it becomes another user first and asks about pid 1; what /proc shows is taken from it by hand.
    """
    code = (
        "import os\n"
        "from workflowmaster.blocks import owner\n"
        "if os.geteuid() == 0: os.setresuid(65533, 65533, 65533)\n"
        "owner._started = lambda pid: ''\n"
        "print(owner.Owner(owner.here(), 1, 'x').proven_dead(), owner.Owner(owner.here(), 2**22 - 1, 'x').proven_dead())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_labels_name_an_owner_and_come_back() -> None:
    me = Owner.me()
    assert Owner.from_labels(labels(me), PREFIX) == me
    assert all(isinstance(value, str) for value in labels(me).values())


@pytest.mark.parametrize(
    "broken", [{"owner-pid": "x"}, {"owner-pid": "²"}, {"owner-pid": "-1"}, {"owner-host": ""}, {"owner-started": ""}]
)
def test_labels_that_are_not_ours_name_nobody(broken: dict[str, str]) -> None:
    given = labels(Owner.me()) | {f"{PREFIX}.{key}": value for key, value in broken.items()}
    assert Owner.from_labels(given, PREFIX) is None
    assert Owner.from_labels({}, PREFIX) is None
