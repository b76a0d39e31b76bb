"""Removes containers whose owner is proven dead, and no others."""

from __future__ import annotations

from workflowmaster.blocks.engine import OURS, Engine
from workflowmaster.blocks.owner import Owner


def sweep(engine: Engine, **labels: str) -> list[str]:
    """Remove our containers that carry these labels and whose owner no longer runs; return their names.

    An owner on another host is never judged, so its containers stay.
    """
    removed = []
    for container in engine.containers(**labels):
        owner = Owner.from_labels(container.get("Labels") or {}, OURS)
        if owner and owner.proven_dead():
            engine.remove(container["Id"])
            # One whose removal was interrupted has no name any more.
            removed.append((container.get("Names") or [container["Id"][:12]])[0].lstrip("/"))
    return removed
