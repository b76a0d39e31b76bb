"""The commands that keep house."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMAGE = "workflowmaster/step:1"


@pytest.fixture
def create() -> Iterator[Callable[..., str]]:
    """Create containers that carry our labels, as some owner's."""
    made: list[str] = []

    def one(name: str, owner: Owner | None) -> str:
        labels = {"workflow": "test-clean", **(owner.labels() if owner else {})}
        words = [word for key, value in labels.items() for word in ("--label", f"workflowmaster.{key}={value}")]
        command = ["docker", "create", "--name", f"wm-test-{os.getpid()}-{name}", *words, IMAGE, "true"]
        made.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        return f"wm-test-{os.getpid()}-{name}"

    yield one
    subprocess.run(["docker", "rm", "-f", *made], capture_output=True, check=False)


def dead() -> Owner:
    """A process that has certainly ended, with the start time that it had."""
    child = subprocess.Popen(["sleep", "60"])
    owner = Owner.me()
    from workflowmaster.blocks import owner as module

    known = Owner(owner.host, child.pid, module._started(child.pid))
    child.kill()
    child.wait()
    return known


@pytest.mark.docker
def test_clean_removes_what_belongs_to_the_dead_and_nothing_else(
    bare: Any, create: Callable[..., str], containers: Callable[..., list[str]]
) -> None:
    gone = dead()
    orphan, reused_pid = create("orphan", gone), create("reused", Owner(gone.host, os.getpid(), gone.started))
    kept = {
        create("mine", Owner.me()),
        create("elsewhere", Owner(f"not-{socket.gethostname()}", gone.pid, gone.started)),
        create("nobodys", None),
    }
    removed = set(bare("clean", "--json").json["removed"])
    assert {orphan, reused_pid} <= removed
    assert set(containers("test-clean")) == kept
    assert bare("clean").out.endswith(" removed\n")


def test_the_ui_of_a_configured_server_is_its_own(bare: Any) -> None:
    said = bare("ui", PREFECT_API_URL="http://server.example:4200/api")
    assert (said.code, said.out) == (0, "a Prefect server is configured: open http://server.example:4200\n")
