"""Removes what runs have left behind whose owner is proven dead, and nothing else.

A killed orchestrator cleans up nothing, so others do it for it: each run when it begins, in the background, and
`workflowmaster clean`. What makes that safe is proof. Everything we create in an engine carries its owner's host, pid
and start time, and only a process of this host can be proven dead (`owner`); a folder is nobody's when its workflow's
claim, a lock of the kernel's, is free. What cannot be proven stays and is told: an owner on another host may be alive
for all we know, even if its container is past its deadline. So two runs never touch each other's.

Temporary Prefect servers need no sweeping: they end by themselves when their owner does (`embedded`).
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workflowmaster.blocks import bounded, deadline
from workflowmaster.blocks.atomic import half_written
from workflowmaster.blocks.engine import OURS, Engine, SandboxUnavailable
from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.workspace import WorkspaceError, remove_tree
from workflowmaster.flows import folders, sparing
from workflowmaster.flows.claim import NeedsPerson, aside
from workflowmaster.flows.folders import Folder
from workflowmaster.flows.stopping import request_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from workflowmaster.flows.journey import Journey

ASIDE = ".swept-"
"""Prefix of a folder that is being removed: renamed under the claim, which takes no time, and removed without it."""

log = logging.getLogger(__name__)


@dataclass
class Swept:
    """What one sweep removed, and what it could not."""

    containers: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """Workflows whose working folders were removed; their logs, reports and results stay."""
    overdue: list[str] = field(default_factory=list)
    """Containers past their deadline whose owner cannot be judged from here: a person may remove them."""
    kept: list[str] = field(default_factory=list)
    """Containers without an owner that a resume can go on with: they work until their wall time is over."""
    trouble: list[str] = field(default_factory=list)
    """What should have been removed and could not be."""

    @property
    def removed(self) -> list[str]:
        """Everything that was removed, by name."""
        return [*self.containers, *self.networks, *self.volumes, *self.mounts, *self.folders]


def sweep(
    engine: Engine,
    *,
    stop: Callable[[], bool] = bool,
    spare: Callable[[dict[str, Any]], bool] = lambda _: False,
    **labels: str,
) -> Swept:
    """Remove our containers, networks and volumes that carry these labels and whose owner no longer runs.

    In this order, for a network or volume that a container uses cannot be removed. `stop` is asked before each one;
    its answer True ends the sweep. `spare` says of an orphaned container whether it stays.
    """
    swept = Swept()
    found = engine.containers(**labels)
    swept.overdue = [_name(one) for one in found if _overdue(one)]
    for one in _orphans(found, stop):
        if spare(one):
            swept.kept.append(_name(one))
            continue
        _remove(swept, swept.containers, _name(one), lambda one=one: engine.remove(one["Id"]))  # type: ignore[misc]
    for one in _orphans(engine.networks(**labels), stop):
        _remove(swept, swept.networks, one["Name"], lambda one=one: engine.remove_network(one["Id"]))  # type: ignore[misc]
    for one in _orphans(engine.volumes(**labels), stop):
        _remove(swept, swept.volumes, one["Name"], lambda one=one: engine.remove_volume(one["Name"]))  # type: ignore[misc]
    return swept


def sweep_all(engine: Engine, *, stop: Callable[[], bool] = bool) -> Swept:
    """Sweep the engine, and then the state directory: what is mounted there, and folders that no run works in."""
    swept = sweep(engine, stop=stop, spare=sparing.resumable)
    places = sorted(folders.workflows().iterdir()) if folders.workflows().is_dir() else []
    tidied = [folder for folder in map(Folder, places) if _left(folder) or _unborn(folder)]
    held = {one["Labels"].get(f"{OURS}.workflow") for one in engine.containers()} if tidied else ()
    for folder in tidied:
        if folder.id not in held and not stop():
            _tidy(folder, swept)
    return swept


def remove_own(engine: Engine, workflow: str, owner: Owner) -> None:
    """Remove what is left of a workflow by an owner who is done with it, and may live.

    It is this process, where an engine that was away kept something; or a machine that has lost the workflow to us.
    """
    try:
        for one in engine.containers(workflow=workflow):
            if Owner.from_labels(one.get("Labels") or {}, OURS) == owner:
                engine.remove(one["Id"])
        for one in engine.volumes(workflow=workflow):
            if Owner.from_labels(one.get("Labels") or {}, OURS) == owner:
                engine.remove_volume(one["Name"])
    except SandboxUnavailable as error:
        log.warning("%s has left containers behind: %s", workflow, error)


def at_start(journey: Journey) -> None:
    """Sweep for a run that begins, in one of its threads: quietly, and no longer than the run itself lasts."""
    try:
        swept = sweep_all(journey.engine, stop=journey.closing.is_set)
    except SandboxUnavailable as error:
        log.info("nothing was swept: %s", error)
        return
    for line in swept.trouble:
        log.warning("%s", line)
    if swept.removed:
        kinds = ("containers", "networks", "volumes", "mounts", "folders")
        journey.audit.append("swept", **{kind: getattr(swept, kind) for kind in kinds})


def emptied(folder: Folder, *, spare: Collection[Path] = ()) -> list[Path]:
    """Remove the directories that a workflow's steps worked in; return what was mounted there. The claim must be held.

    Files that a killed owner had not finished go too; directories in `spare` stay as they are. Raises WorkspaceError if
    something cannot be removed.
    """
    released: list[Path] = []
    for place in _left(folder):
        inside = [path for path in spare if place in path.parents]
        for one in (path for path in place.iterdir() if path not in inside) if inside else (place,):
            # Unmounted first, or removing would go into a file system that a container may have filled.
            released += bounded.release(one)
            remove_tree(one)
    for path, name in half_written(folder.path).items():
        # All but a request to stop are written under the claim, so whoever began these is dead.
        if name != request_file(folder).name:
            path.unlink(missing_ok=True)
    return released


def _left(folder: Folder) -> list[Path]:
    # One listing and no more: there may be a thousand workflows, and each run looks at them all.
    places = (folder.trees.name, folder.exchange.name)
    names = os.listdir(folder.path) if folder.path.is_dir() else []  # noqa: PTH208 - names are what is compared
    return [folder.path / name for name in sorted(names) if name in places or name.startswith(ASIDE)]


def _unborn(folder: Folder) -> bool:
    """Whether a run was killed while it made its folder: there is not yet what a resume needs, nor any evidence."""
    return not (folder.known or folder.audit.exists() or (folder.path / "logs").exists())


def _tidy(folder: Folder, swept: Swept) -> None:
    """Remove a workflow's working folders unless somebody works on it."""
    try:
        with aside(folder):
            swept.mounts += map(str, bounded.release(folder.path))
            if _unborn(folder):
                remove_tree(folder.path)
            for place in _left(folder):
                place.rename(folder.path / f"{ASIDE}{secrets.token_hex(4)}")
        for place in _left(folder):
            if place.name.startswith(ASIDE):
                remove_tree(place)
    except NeedsPerson:
        return  # a run that is under way
    except (WorkspaceError, OSError) as error:
        swept.trouble.append(f"{folder.path} is not tidied: {error}")
    else:
        swept.folders.append(folder.id)


def _orphans(found: Iterable[dict[str, Any]], stop: Callable[[], bool]) -> Iterable[dict[str, Any]]:
    for one in found:
        owner = Owner.from_labels(one.get("Labels") or {}, OURS)
        if owner and owner.proven_dead():
            if stop():
                return
            yield one


def _overdue(container: dict[str, Any]) -> bool:
    labels = container.get("Labels") or {}
    owner, until = Owner.from_labels(labels, OURS), deadline.of(labels, OURS)
    return until is not None and until < time.time() and owner is not None and owner.elsewhere()


def _remove(swept: Swept, into: list[str], name: str, work: Callable[[], None]) -> None:
    """Remove one thing; what cannot be removed must not keep the others."""
    try:
        work()
    except SandboxUnavailable as error:
        swept.trouble.append(f"{name} is left behind: {error}")
    else:
        into.append(name)


def _name(container: dict[str, Any]) -> str:
    # One whose removal was interrupted has no name any more.
    return str((container.get("Names") or [container["Id"][:12]])[0]).lstrip("/")
