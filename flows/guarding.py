"""Who holds a step to its caps on disk: the kernel where it can, a watch where it must.

Three places of a step lie on disk: its workspace, `/out`, and, where the root file system is writable, its container's
own layer. `/out` alone can be given a size (`bounded`). Where it is all that can be written, the kernel's limit is the
whole answer and nothing has to watch; everything else is watched while the step runs, and looked at again afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from workflowmaster.blocks import bounded, overseeing
from workflowmaster.blocks.growth import Growth, Place, laid_size, size_of
from workflowmaster.blocks.request import OUT, WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workflowmaster.blocks.bounded import Bound
    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.reader import Ending
    from workflowmaster.blocks.receipt import Receipt
    from workflowmaster.blocks.workspace import Store
    from workflowmaster.flows.parking import Parked

WRITTEN = ("rw", "copy")
"""Ways in which a policy hands out a workspace that can be written."""


def laid(store: Store, directory: Path) -> int:
    """Return the bytes that a directory takes right after it was laid; called in the store's thread, before go."""
    known = store._known.get(directory)  # noqa: SLF001 - what the store remembers is all that spares us a walk
    if known is None:
        return size_of(directory)
    return laid_size(known.root) + (size_of(directory / ".git") if known.throwaway else 0)


def watch(engine: Engine, parked: Parked) -> Growth | None:
    """Return the watch over a container that is about to go; None where there is nothing to be watched."""
    return overseeing.watch(engine, parked.container, _places(parked) if engine.info.local else ())


def _places(parked: Parked) -> Sequence[Place]:
    policy = parked.container.request.policy
    outward = Place(OUT, parked.exchange.outward, cap=None if parked.bound else policy.result_cap)
    if parked.tree and policy.workspace in WRITTEN:
        return Place(WORKSPACE, parked.tree.path, parked.laid), outward
    # Alone it needs nobody who watches what the kernel holds already.
    return () if parked.bound and policy.root_filesystem == "ro" else (outward,)


def account(parked: Parked, ending: Ending, growth: Growth | None) -> dict[str, str | bool | int | None]:
    """Return what a receipt says of the caps on disk."""
    return {
        "disk_capped": ending.disk_capped,
        "disk_limit": (growth.reason if growth else "") or _filled(parked.bound, parked.exchange.outward),
        "disk_bound": _bound(parked, growth),
        "disk_peak": growth.peak if growth and growth.walks else None,
    }


def told(reason: str, receipt: Receipt) -> str:
    """Complete the reason of a failure by the cap on disk that the step ran into, if it did: it explains the rest."""
    return f"{reason} (it {receipt.disk_limit})" if receipt.disk_limit else reason


def _filled(bound: Bound | None, outward: Path) -> str:
    full = bound is not None and bounded.is_full(outward)
    return f"filled {OUT}, a file system of {bound.size:,} bytes" if bound and full else ""


def _bound(parked: Parked, growth: Growth | None) -> Literal["", "kernel", "watched"]:
    if growth:
        return "watched"
    return "kernel" if parked.bound else ""
