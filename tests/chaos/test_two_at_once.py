"""Two orchestrators want one workflow: exactly one works, however they meet, and the one that lost it stops.

The prompt is the torn one with a step that works for a while, so that who comes second surely comes meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chaoskit import aftermath, subject
from chaoskit.aftermath import Outcome, outcome
from chaoskit.arena import DRIVER, Arena, Kill, until

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PAUSE = 4.0
"""Seconds that `left` works: longer than a second orchestrator takes to come to the claim."""
HELD = 3
"""Exit code of who may not have the workflow."""
LEASE = 6.0
"""Seconds after which a silent holder has lost a workflow, in these tests."""


@pytest.fixture(scope="module")
def slow(make_arena: Callable[..., Arena], prefect_server: Any, tally: Any) -> Arena:
    env = {"PREFECT_API_URL": prefect_server.url, "WORKFLOWMASTER_CLAIM_LEASE_SECONDS": f"{LEASE:g}"}
    return make_arena(subject.prompt(tally.address, pause=PAUSE), **env)


@pytest.fixture(scope="module")
def good(slow: Arena) -> Outcome:
    said = slow.run()
    assert said.code == 0, said.err
    return outcome(slow, said.json["workflow_id"])


def begun(arena: Arena, step: str = "left") -> tuple[subprocess.Popen[str], str]:
    """Start a run and return it with its workflow once a step of it works."""
    known = arena.workflows
    process = arena.start("run", arena.prompt, "--workspace", arena.repo, "--json", "-q")

    def working() -> str:
        assert process.poll() is None, process.communicate()
        return next((one for one in arena.workflows - known if arena.began(one)[step]), "")

    return process, until(working, 60.0)


def ended(process: subprocess.Popen[str], seconds: float = 120.0) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def test_of_two_resumes_at_the_same_moment_one_works(slow: Arena, good: Outcome) -> None:
    known = slow.workflows
    assert slow.run(Kill("engine.go after", 1)).killed
    (workflow,) = slow.workflows - known
    both = [slow.start("resume", workflow, "--json", "-q") for _ in range(2)]
    told = sorted((ended(one) for one in both), key=lambda one: one[0])
    assert [code for code, _, _ in told] == [0, HELD], told
    assert f"{workflow} is held by process" in told[1][2]
    assert json.loads(told[0][1])["status"] == "completed"
    assert aftermath.wrong(slow, workflow, good) == []
    assert all(slow.began(workflow)[step] == 1 for step in ("left", "left check", "sealed", "join", "last"))


def test_a_resume_of_a_run_that_lives_is_refused_and_disturbs_nothing(slow: Arena, good: Outcome) -> None:
    process, workflow = begun(slow)
    second = slow.resume(workflow)
    assert second.code == HELD, second.err
    assert f"held by process {process.pid} " in second.err
    assert ended(process)[0] == 0
    assert aftermath.wrong(slow, workflow, good) == []
    assert slow.began(workflow)["left"] == 1


@pytest.mark.long
def test_a_stopped_orchestrator_keeps_its_claim_on_its_own_host(slow: Arena, good: Outcome) -> None:
    process, workflow = begun(slow)
    process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(LEASE * 1.5)  # the lease is what this is about: it must have passed
        second = slow.resume(workflow)
    finally:
        process.send_signal(signal.SIGCONT)
    assert second.code == HELD, second.err
    assert ended(process)[0] == 0
    assert aftermath.wrong(slow, workflow, good) == []
    assert all(slow.began(workflow)[step] == 1 for step in ("seed", "left", "join", "last"))


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="another host's name needs root")
def test_who_was_stopped_for_longer_than_the_lease_loses_to_another_host_and_notices(
    slow: Arena, good: Outcome, tmp_path: Path
) -> None:
    process, workflow = begun(slow)
    process.send_signal(signal.SIGSTOP)
    try:
        # What another machine has of it: a copy of the records and results, and the same server, engine and repository.
        shutil.copytree(slow.home, tmp_path / "state", symlinks=True)
        elsewhere = replace(slow, home=tmp_path / "state")
        taker = on_another_host(elsewhere, "resume", workflow, "--wait", f"{LEASE * 6:g}", "--json", "-q")
        code, out, err = ended(taker)
    finally:
        process.send_signal(signal.SIGCONT)
    assert code == 0, err
    assert json.loads(out)["status"] == "completed"
    # The old owner wakes up, and must find out before it sends off or publishes anything.
    old, _, words = ended(process)
    assert old == HELD, words
    assert outcome(elsewhere, workflow) == good
    ran = slow.began(workflow)
    assert all(ran[step] == 1 for step in ("seed", "join", "last")), ran
    assert aftermath.left(elsewhere, workflow) == []
    assert aftermath.unsound(elsewhere, workflow) == []


def on_another_host(arena: Arena, *words: str) -> subprocess.Popen[str]:
    """Start a command on a host of another name: whoever is not of its host it can neither lock out nor prove dead.

    Mounts and processes stay this host's, because its engine is: the size of `/out` is held by a mount of ours.
    """
    inner = [sys.executable, "-P", str(DRIVER), "-", "", "1", *words]
    form = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh", *inner]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(form, cwd=arena.place, env=arena.environment(), text=True, **pipes)
