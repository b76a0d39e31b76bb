"""The commands `cancel` and `pause`, and the closing of a workflow that nobody works on any more.

Both commands ask and then wait to see it happen, because what people want to know is that the containers are gone. A
run of this machine is asked by a file; one whose folder is not here by the state of its flow run, on the server that is
configured. A workflow that has no living owner can only be closed, which `cancel` does itself, under the claim.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.flows import claim, folders, serving, stopping
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.folders import Folder, UnknownWorkflow
from workflowmaster.flows.looking import out
from workflowmaster.flows.stopping import EVENTS, Asked

if TYPE_CHECKING:
    import argparse

    from prefect.client.schemas.objects import State

    from workflowmaster.blocks.owner import Owner
    from workflowmaster.flows.state import WorkflowState
    from workflowmaster.flows.stopping import Verb

WITHIN: Final = 30.0
"""Seconds to wait for a run to stop: its containers are gone after five, and what it has made is kept after that."""
OPEN: Final = frozenset({"running", "waiting", "paused"})
"""Statuses of a workflow that has not ended."""


def cancel(given: argparse.Namespace) -> int:
    """Stop a run for good; its finished steps stay, and `resume` can still go on from them."""
    return _stop(given, "cancel")


def pause(given: argparse.Namespace) -> int:
    """Stop a run until `resume`; what was under way starts again from its input."""
    return _stop(given, "pause")


def _stop(given: argparse.Namespace, verb: Verb) -> int:
    asked = Asked(verb, f"{getpass.getuser()} on the command line")
    try:
        folder = folders.find(given.id)
    except UnknownWorkflow:
        if not serving.api_url() or given.id == "latest":
            raise
        answer = _elsewhere(given.id, asked)
    else:
        answer = _here(folder, asked)
    if given.json:
        out(json.dumps(answer))
    else:
        sys.stderr.write(f"{answer['workflow_id']}: {answer['reason'] or answer['status']}\n")
    return 0


def _here(folder: Folder, asked: Asked) -> dict[str, Any]:
    """Stop a workflow of this state directory, whether anybody works on it or not."""
    if holder := claim.holder_of(folder):
        state = _asked_for(folder, asked, holder.owner)
    elif folder.state().status not in OPEN:
        raise _over(folder.state(), asked)
    elif asked.verb == "pause":
        raise BadOption(
            f"{folder.id}: nobody works on it, so there is nothing to pause. `workflowmaster resume {folder.id}` goes "
            f"on, `workflowmaster cancel {folder.id}` closes it"
        )
    else:
        state = close(folder, asked)
        _close_row(state)
    return _answer(state)


def _asked_for(folder: Folder, asked: Asked, owner: Owner) -> WorkflowState:
    """Ask the process that works on it, and wait until it has stopped."""
    stopping.ask(folder, asked, owner)
    until = time.monotonic() + WITHIN
    while claim.holder_of(folder):
        if time.monotonic() > until:
            place = owner.host.partition("/")[0]
            raise NeedsPerson(
                f"{folder.id}: process {owner.pid} on {place} was asked to {asked.verb} and has not stopped within "
                f"{WITHIN:.0f} s. It will when it can (is it itself stopped?); `kill {owner.pid}` ends it for good"
            )
        time.sleep(claim.POLL)
    state = folder.state()
    if state.status == "running":
        return close(folder, asked)  # it was killed before it could do so
    if state.status != ("aborted" if asked.verb == "cancel" else "paused"):
        raise _over(state, asked)  # it has ended by itself just then
    return state


def _over(state: WorkflowState, asked: Asked) -> BadOption:
    return BadOption(f"{state.workflow_id} has ended before ({state.status}): there is nothing to {asked.verb}")


def close(folder: Folder, asked: Asked) -> WorkflowState:
    """End a workflow that nobody works on: remove its containers, and say who wanted it. NeedsPerson if somebody does.

    A workflow that has ended is left as it is.
    """
    from workflowmaster.blocks.engine import Engine, SandboxUnavailable
    from workflowmaster.flows.audit import AuditLog
    from workflowmaster.flows.sweeping import emptied, sweep

    with claim.take(folder):
        state = folder.state()
        if state.status not in OPEN:
            return state
        try:
            sweep(Engine(), workflow=folder.id)
        except SandboxUnavailable as error:
            # Without an engine no container runs; what it has kept is swept when it is back.
            sys.stderr.write(f"{folder.id}: its containers could not be looked for: {error}\n")
        emptied(folder)
        ended = state.model_copy(update={"status": "aborted", "reason": asked.reason, "running": ()})
        audit = AuditLog(folder.audit)
        try:
            audit.append(EVENTS[asked.verb], by=asked.by)
            audit.append("workflow.finished", status=ended.status, reason=ended.reason)
        finally:
            audit.close()
        folder.write(ended)
        stopping.request_file(folder).unlink(missing_ok=True)
    return ended


def _answer(state: WorkflowState) -> dict[str, Any]:
    done = sum(result.status == "completed" for result in state.results.values())
    known = {"workflow_id": state.workflow_id, "status": state.status, "reason": state.reason}
    return {**known, "completed": done, "tasks": len(state.plan.tasks)}


# --- on the server ---


def _close_row(state: WorkflowState) -> None:
    """Say on the server, the configured one or our own, that the run is over: nobody else will."""
    if not state.flow_run_id:
        return
    with serving.server() as own:
        if own:
            own.wait_ready()
        from workflowmaster.flows import taskrows

        with serving.trouble():
            from prefect.states import Cancelled

            ended: State[Any] = Cancelled(name="Aborted", message=state.reason)
            asyncio.run(taskrows.end_run(state.flow_run_id, ended))


def _elsewhere(workflow: str, asked: Asked) -> dict[str, Any]:
    """Stop a run whose folder is on another machine, through its flow run."""
    with serving.server(), serving.trouble():
        from workflowmaster.flows import taskrows

        status, reason = asyncio.run(taskrows.ask_run(workflow, asked, seconds=WITHIN))
    return {"workflow_id": workflow, "status": status, "reason": reason}
