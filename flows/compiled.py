"""`compile`: a prompt's reviewable, deployable form, a lock and a small module with a literal `@flow`.

The lock holds what would otherwise be decided at run time: the plan, the image ids and the policies, expanded. It is
what a reviewer reads and what a run of the module obeys. It also holds the prompt's hash, so a prompt that was edited
without compiling again is refused instead of being run as it was. The module is a few lines of data around one call:
no text of the prompt is ever written into code, only into the lock, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import keyword
import re
import shlex
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError

from workflowmaster import policies
from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.blocks.engine import Engine
from workflowmaster.flows.admitting import admit, pin
from workflowmaster.flows.asking import BadOption, Options, plan_of
from workflowmaster.flows.inputs import as_text, convert
from workflowmaster.flows.journey import Fixed, Journey, prepare
from workflowmaster.flows.limiting import effective
from workflowmaster.flows.looking import out
from workflowmaster.flows.plan import Noun, Plan, canonical
from workflowmaster.flows.settings import Settings, load

if TYPE_CHECKING:
    import argparse

LOCK_SCHEMA: Final = "workflowmaster/lock/1"
OTHERS: Final = frozenset({"prefect", "flow", "deliver_locked", "after_the_end"})
"""Names that a module has already."""

MODULE = '''\
"""{title}: compiled by WorkflowMaster; `{lock}` holds the plan. Renew both with: workflowmaster compile"""

from pathlib import Path

from prefect import flow

from workflowmaster.flows.compiled import deliver_locked
from workflowmaster.flows.stopping import after_the_end

LOCK = Path(__file__).with_name({lock!r})


@flow(name={title!r}, flow_run_name="{{workflow_id}}", on_cancellation=[after_the_end])
async def {function}(workspace: str = ".", inputs: dict[str, str] | None = None, workflow_id: str = "new"):
    """Run the locked plan on a workspace; leaves a branch, a patch and a report."""
    return await deliver_locked(LOCK, workspace=workspace, inputs=inputs or {{}}, workflow_id=workflow_id)
'''


class StaleLock(ValueError):
    """A lock that no longer says what the prompt says, or is none; the message has the command that renews it."""


class Lock(Noun):
    """What `compile` writes beside the module."""

    schema_name: Literal["workflowmaster/lock/1"] = LOCK_SCHEMA
    source: str
    """The prompt's path, relative to the lock."""
    sha256: str
    """Of the prompt's bytes."""
    options: Options
    plan: Plan
    workflow_hash: str
    images: dict[str, str]
    """Image reference → id."""
    policies: dict[str, dict[str, Any]]
    """Policy name → all its fields."""
    policy_hashes: dict[str, str]
    seal: str = ""
    """SHA-256 (hex) of all the rest: what was reviewed is what runs."""

    def sealed(self) -> str:
        """Return the seal that belongs to this content."""
        return hashlib.sha256(canonical(self.model_dump(mode="json", exclude={"seal"}))).hexdigest()


def write(given: argparse.Namespace) -> int:
    """Write a prompt's lock and module."""
    from workflowmaster.flows.launching import asked_for

    source, folder = Path(given.file), Path(given.output)
    options = asked_for(given)
    lock = locked(options, load(), folder)
    folder.mkdir(parents=True, exist_ok=True)
    stem = identifier(source.stem)
    lock_path, module_path = folder / f"{stem}.lock.json", folder / f"{stem}.py"
    module = MODULE.format(title=plain(lock.plan.name), lock=lock_path.name, function=stem)
    write_atomically(lock_path, json.dumps(lock.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")
    write_atomically(module_path, module)
    out(f"{lock_path}\n{module_path}")
    out(f"deploy it with: prefect deploy {shlex.quote(f'{module_path}:{stem}')} --name {stem} --pool workflowmaster")
    return 0


def locked(options: Options, settings: Settings, folder: Path) -> Lock:
    """Compile a prompt and expand all that its plan only names."""
    plan = plan_of(options, settings, running=False)
    limits = {step.id: effective(step, settings) for step in plan.tasks if step.in_container}
    used = {name: policies.load(name, settings.own_policies) for name in sorted({p.name for p in limits.values()})}
    source = Path(options.prompt)
    images = pin(plan, Engine())
    admit(plan, limits, images, settings, by="lock")
    lock = Lock(
        source=_relative(source, folder),
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        options=options.model_copy(update={"prompt": source.name, "workspace": "."}),
        plan=plan.model_copy(update={"prompt": plan.prompt.model_copy(update={"path": source.name})}),
        workflow_hash=plan.workflow_hash,
        images=images,
        policies={name: policy.model_dump(mode="json") for name, policy in used.items()},
        policy_hashes={name: policy.hash for name, policy in used.items()},
    )
    return lock.model_copy(update={"seal": lock.sealed()})


def _relative(source: Path, folder: Path) -> str:
    import os

    return os.path.relpath(source.resolve(), folder.resolve())


def identifier(stem: str) -> str:
    """Return a file's stem as a Python name for module and flow that no other module and nothing in ours has."""
    text = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", text).strip("_") or "prompt"
    taken = keyword.iskeyword(name) or name in sys.stdlib_module_names or name in OTHERS
    return f"prompt_{name}" if taken or name[0].isdigit() else name


def plain(text: str) -> str:
    """Return a title that can stand in a docstring and in Prefect's list of flows: one line, no quotes or braces."""
    return " ".join(re.sub(r"[\"'\\{}`\x00-\x1f\x7f/%&<>]", " ", text).split())[:120] or "prompt"


def read(path: Path) -> Lock:
    """Read a lock and hold it against its prompt. StaleLock says which command renews it."""
    renew = f"renew it with: workflowmaster compile PROMPT -o {shlex.quote(str(path.parent))}"
    try:
        lock = Lock.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StaleLock(f"{path} cannot be read as a lock ({type(error).__name__}); {renew}") from error
    source = (path.parent / lock.source).resolve()
    renew = renew.replace("PROMPT", shlex.quote(str(source)))
    if lock.seal != lock.sealed() or lock.plan.workflow_hash != lock.workflow_hash:
        raise StaleLock(f"{path} was edited by hand: its content does not have the hash it claims; {renew}")
    # A deployment may ship the lock without the prompt; then there is nothing to hold it against.
    if source.exists() and hashlib.sha256(source.read_bytes()).hexdigest() != lock.sha256:
        raise StaleLock(f"{path} is stale: {source} has changed since it was compiled; {renew}")
    folders = load().own_policies
    changed = [name for name, digest in lock.policy_hashes.items() if policies.load(name, folders).hash != digest]
    if changed:
        raise StaleLock(f"{path} is stale: policy {', '.join(changed)} has changed since; {renew}")
    return lock


def journey_of(path: Path, *, workspace: str, inputs: dict[str, str]) -> Journey:
    """Prepare a run of a locked plan. StaleLock, or what `prepare` raises."""
    lock = read(path)
    values = {**lock.plan.input_values, **checked(lock.plan, inputs)}
    options = lock.options.model_copy(update={"workspace": str(Path(workspace).resolve()), "inputs": values})
    fixed = Fixed(lock.plan, lock.images, (path.parent / lock.source).resolve())
    return prepare(options, load(), fixed=fixed)


def checked(plan: Plan, given: dict[str, str]) -> dict[str, str]:
    """Return the values given for a plan's inputs, spelt as steps see them. BadOption for one that cannot be meant."""
    specs = {spec.name: spec for spec in plan.inputs}
    values = {}
    for name, text in given.items():
        if name not in specs:
            raise BadOption(f"unknown input {name!r}; known: {', '.join(specs) or 'none'}")
        try:
            value = convert(str(text), specs[name].type)
        except ValueError as error:
            raise BadOption(f"input {name!r} must be {error}, not {text!r}") from error
        if specs[name].enum and value not in specs[name].enum:
            raise BadOption(f"input {name!r} must be one of {', '.join(map(str, specs[name].enum))}, not {text!r}")
        values[name] = as_text(value)
    missing = [name for name, spec in specs.items() if spec.required and name not in {*plan.input_values, *values}]
    if missing:
        raise BadOption(f"input {', '.join(missing)} is required and has no value")
    return values


async def deliver_locked(path: Path, *, workspace: str, inputs: dict[str, str], workflow_id: str) -> Any:
    """Run a locked plan inside the calling flow; the body of every compiled module."""
    import asyncio

    from workflowmaster.flows.delivery import prepared, travel
    from workflowmaster.flows.flowruns import opened
    from workflowmaster.flows.watching import silent

    known = prepared.pop(workflow_id, None)
    if known:
        return await travel(*known)
    journey = await asyncio.to_thread(opened, workflow_id, lambda: journey_of(path, workspace=workspace, inputs=inputs))
    return await travel(journey, silent)
