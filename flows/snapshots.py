"""`state.json`: one snapshot of a workflow's state, and how much of the journal it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.flows import schemas
from workflowmaster.flows.folding import KEPT
from workflowmaster.flows.state import WorkflowState

if TYPE_CHECKING:
    from workflowmaster.flows.folders import Folder


def read(folder: Folder) -> WorkflowState:
    """Read `state.json` as it is. ValueError if it cannot be believed, FileNotFoundError if there is none."""
    return stated(schemas.opened(folder.state_file.read_bytes(), "state"), folder)


def write(folder: Folder, state: WorkflowState, *, durable: bool = False) -> int:
    """Replace `state.json`, atomically, and return its size in bytes."""
    body = schemas.sealed(state.model_dump(mode="json")).encode()
    write_atomically(folder.state_file, body, durable=durable)
    return len(body)


def closing(state: WorkflowState) -> dict[str, Any]:
    """Return what is recorded of a state when a part of the run has ended with it."""
    budget = state.budget.model_dump(mode="json") if state.budget else None
    return {"budget": budget, **{name: getattr(state, name) for name in ("status", "reason", "seconds", *KEPT)}}


def stated(raw: dict[str, Any], folder: Folder) -> WorkflowState:
    """Return values of today's form as a state. ValueError if they are none, or another workflow's."""
    try:
        state = WorkflowState.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"is damaged ({wrong(error)})") from error
    if state.workflow_id != folder.id:
        raise ValueError(f"belongs to {state.workflow_id}")
    return state


def wrong(error: ValidationError) -> str:
    """Return the first thing that is wrong with some values, with its place in them."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
