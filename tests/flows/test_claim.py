"""The claim on one machine: real processes that race, are killed and are stopped, and what people are told."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.trouble import SandboxUnavailable
from workflowmaster.flows import claim, folders
from workflowmaster.flows.claim import Holder, NeedsPerson
from workflowmaster.flows.folders import Folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RACERS = 8
FORK = multiprocessing.get_context("fork")
HOLD = """
import sys
from workflowmaster.flows import claim, folders
held = claim.take(folders.Folder(folders.workflows() / sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
LOOK = """
import sys
from workflowmaster.flows import claim, folders
with claim.aside(folders.Folder(folders.workflows() / sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(home: Path) -> Folder:
    return folders.create("task-claimed")


@pytest.fixture
def holding(folder: Folder) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Have another process hold the workflow."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str = HOLD) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", code, folder.id]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refusal(folder: Folder, **how: Any) -> str:
    with pytest.raises(NeedsPerson) as caught:
        claim.take(folder, **how)
    return str(caught.value)


# --- who is told ---


def test_the_refusal_says_who_holds_it_since_when_and_what_to_do(folder: Folder, holding: Any) -> None:
    began = time.time()
    process = holding()
    text = refusal(folder)
    host = os.uname().nodename
    assert text.startswith(f"task-claimed is held by process {process.pid} on {host} since 20")
    assert "UTC" in text
    assert text.endswith(
        ". Wait until it ends (`--wait` waits for that), or stop it there: only one process works on a workflow"
    )
    holder = claim.holder_of(folder)
    assert holder
    assert (holder.owner.pid, holder.owner.host, holder.released) == (process.pid, Owner.me().host, False)
    assert began - 1 < holder.since < time.time()


def test_the_lock_file_says_what_is_documented(folder: Folder) -> None:
    with claim.take(folder):
        said = json.loads(claim.lock_file(folder).read_text())
    me = Owner.me()
    assert {name: said[name] for name in ("host", "pid", "started")} == {
        "host": me.host,
        "pid": me.pid,
        "started": me.started,
    }
    assert set(said) == {"host", "pid", "started", "since", "epoch", "command", "released"}
    assert claim.lock_file(folder) == folder.path.parent.parent / "claims/task-claimed.lock"
    assert claim.lock_file(folder).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/usr/bin/workflowmaster", "run", "secret.md", "--input", "token=hunter2"], "workflowmaster run"),
        (["/opt/wm", "--version"], "wm"),
        (["x" * 200], "x" * 80),
    ],
)
def test_the_command_is_told_without_its_arguments(
    words: list[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", words)
    assert Holder.me().command == command


def test_a_dead_holder_is_never_told_as_a_living_one(folder: Folder, holding: Any) -> None:
    first = holding()
    first.kill()
    first.wait()
    assert Holder.read(claim.lock_file(folder).read_bytes())  # its text is there still
    assert claim.holder_of(folder) is None
    holding(LOOK)  # holds the lock, and does not say who it is
    assert "is held by another process." in refusal(folder)
    assert claim.claimed(folder)


def test_a_holder_that_has_given_it_back_is_not_told_either(folder: Folder, holding: Any) -> None:
    claim.take(folder).close()
    assert not claim.claimed(folder)
    holding(LOOK)
    assert "is held by another process." in refusal(folder)  # and not by us, who are alive


@given(
    st.binary(max_size=200) | st.builds(lambda said: json.dumps(said).encode(), st.dictionaries(st.text(), st.none()))
)
def test_whatever_a_lock_file_says_can_be_read(text: bytes) -> None:
    assert Holder.read(text) is None


@given(
    st.builds(
        Holder,
        st.builds(Owner, st.text(), st.integers(), st.text()),
        st.floats(allow_nan=False),
        st.integers(),
        st.text(),
        st.booleans(),
    )
)
def test_a_holder_is_read_as_it_was_written(holder: Holder) -> None:
    assert Holder.read(holder.text()) == holder


# --- who gets it ---


def race(folder: Folder, barrier: Any, answers: Any, over: Any) -> None:
    barrier.wait(30)
    try:
        held = claim.take(folder)
    except NeedsPerson as error:
        answers.put((os.getpid(), str(error)))
    else:
        answers.put((os.getpid(), ""))
        over.wait(30)
        held.close()


@pytest.mark.parametrize("round_", range(6))
def test_of_eight_racers_one_wins_and_all_others_name_it(folder: Folder, round_: int) -> None:
    barrier, answers, over = FORK.Barrier(RACERS), FORK.Queue(), FORK.Event()
    racers = [FORK.Process(target=race, args=(folder, barrier, answers, over)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    said = dict(answers.get(timeout=30) for _ in racers)
    over.set()
    for racer in racers:
        racer.join(30)
    (winner,) = [pid for pid, text in said.items() if not text]
    assert all(f" process {winner} on " in text for text in said.values() if text)


def test_a_killed_holder_is_followed_within_a_second(folder: Folder, holding: Any) -> None:
    process = holding()
    process.kill()
    began = time.monotonic()
    with claim.take(folder, wait=10) as held:
        assert time.monotonic() - began < 1
        assert held.former
        assert held.former.owner.pid == process.pid


def test_a_stopped_holder_keeps_it(folder: Folder, holding: Any) -> None:
    process = holding()
    process.send_signal(signal.SIGSTOP)
    assert f" process {process.pid} on " in refusal(folder, wait=1.5)
    process.send_signal(signal.SIGCONT)
    process.communicate("")
    claim.take(folder).close()


def test_waiting_ends_when_the_holder_does_and_says_what_it_waits_for(folder: Folder, holding: Any) -> None:
    process = holding()
    told: list[str] = []
    threading.Timer(0.4, process.terminate).start()
    began = time.monotonic()
    with claim.take(folder, wait=math.inf, tell=told.append):
        assert 0.35 < time.monotonic() - began < 10
    (line,) = told
    assert f"process {process.pid}" in line
    assert line.endswith("; waiting until it ends")


def test_waiting_has_the_end_that_was_asked_for(folder: Folder, holding: Any) -> None:
    holding()
    began, told = time.monotonic(), []
    refusal(folder, wait=0.5, tell=told.append)
    assert 0.5 <= time.monotonic() - began < 3
    assert told[0].endswith("waiting 1 s for it")


def test_those_who_only_look_never_get_in_the_way(folder: Folder) -> None:
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            claim.claimed(folder)

    lookers = [threading.Thread(target=look) for _ in range(4)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(100):
            claim.take(folder).close()
    finally:
        over.set()
        for looker in lookers:
            looker.join()


def test_a_claim_is_fresh_until_the_workflow_has_a_state(folder: Folder) -> None:
    with claim.take(folder) as held:
        assert held.fresh
    folder.state_file.write_text("{}")
    with claim.take(folder) as held:
        assert not held.fresh


def test_a_claim_without_a_server_holds_nothing_up(folder: Folder) -> None:
    with claim.take(folder) as held:
        assert (held.epoch, held.lost) == (0, "")
        steps = held.must_hold(look=True)
        with pytest.raises(StopIteration):
            steps.send(None)


def test_closing_twice_does_not_close_what_somebody_else_has_opened(folder: Folder) -> None:
    held = claim.take(folder)
    number = held._handle
    held.close()
    other = os.open("/dev/null", os.O_RDONLY)
    assert other == number
    held.close()
    os.fstat(other)
    os.close(other)


# --- the files ---


def test_lock_files_go_with_their_workflows(folder: Folder, home: Path) -> None:
    kept, gone, held = folder, folders.create("task-gone"), folders.create("task-held")
    claim.take(kept).close()
    claim.take(gone).close()
    gone.path.rmdir()
    with claim.take(held):
        held.path.rmdir()
        assert claim.tidy() == ["task-gone"]
    assert {path.name for path in (home / "claims").iterdir()} == {"task-claimed.lock", "task-held.lock"}


def test_a_lock_on_a_file_that_was_tidied_away_counts_for_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file goes between the opening and the locking: a second taker would lock another file of that name."""
    flock, removed = fcntl.flock, []

    def slow(handle: int, kind: int) -> None:
        if not removed:
            removed.append(claim.lock_file(folder).unlink())
        flock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", slow)
    with claim.take(folder) as held:
        assert os.path.samestat(os.fstat(held._handle), claim.lock_file(folder).stat())
        assert " is held by " in refusal(folder)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_clear_error(
    number: int, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", cannot)
    for attempt in (claim.take, claim.claimed):
        claim.lock_file(folder).parent.mkdir(exist_ok=True)
        claim.lock_file(folder).touch()
        with pytest.raises(SandboxUnavailable, match="the file system cannot lock files") as caught:
            attempt(folder)
        assert "WORKFLOWMASTER_HOME" in str(caught.value)


def test_a_full_disk_takes_no_claim_and_leaves_no_lock(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="no space left"):
            claim.take(folder)
    claim.take(folder).close()
