"""Asking a run to stop: by a file for one process, by a flow run's state, and what is done when nobody is there."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.owner import Owner
from workflowmaster.flows import ceasing, claim, folders, snapshots, stopping
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.plan import Plan, PromptRef, Source, Step
from workflowmaster.flows.state import WorkflowState
from workflowmaster.flows.stopping import Asked

if TYPE_CHECKING:
    from pathlib import Path

    from workflowmaster.flows.folders import Folder

ME = Owner.me()
CANCEL, PAUSE = Asked("cancel", "ada"), Asked("pause", "ada")


@pytest.fixture
def folder(home: Path) -> Folder:
    del home
    made = folders.create("task-20261122-140000-0000000a")
    steps = (Step(id="a", name="a", kind="command", source=Source(line=1, end_line=2)),)
    prompt = PromptRef(path="prompt.md", sha256="0" * 64, kind="explicit")
    plan = Plan(name="Stop", prompt=prompt, compiler="1", tasks=steps)
    made.plan_file.write_text(plan.model_dump_json())
    snapshots.write(made, WorkflowState(workflow_id=made.id, plan=plan, running=("a",)))
    return made


def ended(folder: Folder, status: str) -> None:
    """Have the workflow be in another status."""
    snapshots.write(folder, folder.state().model_copy(update={"status": status}))


# --- the file ---


def test_a_request_reaches_the_process_it_is_for_and_no_other(folder: Folder) -> None:
    assert stopping.request(folder, ME) is None
    stopping.ask(folder, PAUSE, ME)
    assert stopping.request(folder, ME) == PAUSE
    for other in (Owner("far", ME.pid, ME.started), Owner(ME.host, 1, ME.started), Owner(ME.host, ME.pid, "x-1")):
        assert stopping.request(folder, other) is None, "a successor is not stopped by what its predecessor was asked"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"verb": "cancel"}', b'"x"', b'{"verb":"explode","by":"x"}', b"\xff"]
)
def test_a_file_that_is_no_request_stops_nobody(folder: Folder, text: bytes) -> None:
    stopping.request_file(folder).write_bytes(text)
    assert stopping.request(folder, ME) is None


def test_a_request_of_an_unknown_kind_stops_nobody(folder: Folder) -> None:
    stopping.ask(folder, Asked("explode", "ada"), ME)  # type: ignore[arg-type]
    assert stopping.request(folder, ME) is None


# --- the server ---


@pytest.mark.parametrize(
    ("kind", "name", "verb"),
    [
        ("CANCELLING", "Cancelling", "cancel"),
        ("CANCELLED", "Aborted", "cancel"),
        ("PAUSED", "Suspended", "pause"),
        ("PAUSED", "Paused", "pause"),
        ("RUNNING", "Running", None),
        ("PENDING", "Pending", None),
        ("SCHEDULED", "Resuming", None),
        ("CRASHED", "Crashed", None),
        ("COMPLETED", "Completed", None),
        ("FAILED", "Failed", None),
    ],
)
def test_what_a_state_asks_for(kind: str, name: str, verb: str | None) -> None:
    from prefect.states import State

    found = stopping.meant(State(type=kind, name=name, message="enough"))
    assert (found.verb if found else None) == verb
    assert found is None or found.by == "the Prefect server (enough)"
    assert stopping.meant(None) is None


def test_the_reason_says_what_and_who() -> None:
    assert (CANCEL.reason, PAUSE.reason) == ("cancelled by ada", "paused by ada")


# --- the watch ---


def journey(folder: Folder) -> Any:
    return SimpleNamespace(id=folder.id, folder=folder, owner=ME, asked=None)


def test_what_is_under_way_is_cancelled_soon_after_somebody_asks(folder: Folder) -> None:
    one, seen = journey(folder), []

    async def work() -> None:
        async def under_way() -> None:
            async with stopping.watched(one):
                asyncio.get_running_loop().call_later(0.1, stopping.ask, folder, CANCEL, ME)
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    seen.append(time.monotonic())
                    raise

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(under_way())

    began = time.monotonic()
    asyncio.run(work())
    assert seen[0] - began < 5
    assert one.asked == CANCEL


def test_what_ends_by_itself_is_watched_no_longer(folder: Folder) -> None:
    one = journey(folder)

    async def work() -> int:
        async with stopping.watched(one):
            await asyncio.sleep(0)
        stopping.ask(folder, CANCEL, ME)
        await asyncio.sleep(3 * stopping.FILE_SECONDS)
        return len(asyncio.all_tasks())

    assert asyncio.run(work()) == 1
    assert one.asked is None


# --- closing what nobody works on ---


def events(folder: Folder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.audit.read_text().splitlines()]


@pytest.mark.docker
@pytest.mark.parametrize("status", ["running", "waiting", "paused"])
def test_what_has_not_ended_is_closed_and_audited(folder: Folder, status: str) -> None:
    ended(folder, status)
    folder.trees.mkdir()
    stopping.ask(folder, CANCEL, ME)
    state = ceasing.close(folder, CANCEL)
    assert (state.status, state.reason, state.running) == ("aborted", "cancelled by ada", ())
    assert folder.state().status == "aborted"
    assert not folder.trees.exists()
    assert not stopping.request_file(folder).exists()
    cancelled, finished = (record for record in events(folder) if record["event"].startswith("workflow."))
    assert (cancelled["event"], cancelled["by"]) == ("workflow.cancelled", "ada")
    assert (finished["event"], finished["status"]) == ("workflow.finished", "aborted")


@pytest.mark.parametrize("status", ["completed", "partial", "failed", "aborted"])
def test_what_has_ended_is_left_as_it_is(folder: Folder, status: str) -> None:
    ended(folder, status)
    before = folder.state_file.read_bytes()
    assert ceasing.close(folder, CANCEL).status == status
    assert (folder.state_file.read_bytes(), folder.audit.exists()) == (before, False)


def test_what_somebody_works_on_is_never_closed(folder: Folder) -> None:
    with claim.take(folder), pytest.raises(NeedsPerson, match="is held by process"):
        ceasing.close(folder, CANCEL)
    assert folder.state().status == "running"


@pytest.mark.docker
def test_prefects_hook_closes_a_cancelled_run_and_nothing_else(folder: Folder) -> None:
    from prefect.states import Cancelled, Cancelling, Crashed, Paused

    run = SimpleNamespace(name=folder.id)
    for state in (Crashed(message="x"), Paused()):
        stopping.after_the_end(flow=None, flow_run=run, state=state)
        assert folder.state().status == "running", "what crashed is resumed, with its containers"
    for name in ("ancient-otter", "../../etc", "new", folder.id[:-1] + "b"):
        stopping.after_the_end(flow=None, flow_run=SimpleNamespace(name=name), state=Cancelled())
    assert folder.state().status == "running"
    stopping.after_the_end(flow=None, flow_run=run, state=Cancelling(message="enough"))
    assert folder.state().reason == "cancelled by the Prefect server (enough)"


def test_the_hook_leaves_a_run_to_a_process_that_still_ends_it(folder: Folder) -> None:
    from prefect.states import Cancelled

    with claim.take(folder):
        stopping.after_the_end(flow=None, flow_run=SimpleNamespace(name=folder.id), state=Cancelled())
    assert folder.state().status == "running"


# --- the commands' answers ---


def test_a_process_that_does_not_hear_is_named_with_what_ends_it(folder: Folder, monkeypatch: Any) -> None:
    monkeypatch.setattr(ceasing, "WITHIN", 0.2)
    with claim.take(folder), pytest.raises(NeedsPerson, match=f"process {ME.pid} on .* was asked to cancel"):
        ceasing._here(folder, CANCEL)
    assert stopping.request(folder, ME) == CANCEL, "it hears of it when it can"


@pytest.mark.parametrize("status", ["completed", "failed", "partial", "aborted"])
@pytest.mark.parametrize("asked", [CANCEL, PAUSE])
def test_what_is_over_cannot_be_stopped(folder: Folder, status: str, asked: Asked) -> None:
    ended(folder, status)
    with pytest.raises(BadOption, match=rf"has ended before \({status}\): there is nothing to {asked.verb}"):
        ceasing._here(folder, asked)


def test_an_orphan_cannot_be_paused(folder: Folder) -> None:
    with pytest.raises(BadOption, match="nobody works on it, so there is nothing to pause"):
        ceasing._here(folder, PAUSE)
