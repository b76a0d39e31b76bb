"""How much of what `.gitignore` leaves out travels between steps.

A virtual environment or a module folder must reach the next step, or it would be installed again each time; a cache
that grows without end must not. Whole ignored folders are kept or dropped, largest first, because half of
`node_modules` is worse than none. The check costs nothing until the worktree as a whole is above the cap.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workflowmaster.blocks.ignore import EVERYTHING, Rules, rules_from
from workflowmaster.blocks.trees import Listing, is_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflowmaster.blocks.objectstore import ObjectStore
    from workflowmaster.blocks.stamps import Node


@dataclass(frozen=True)
class Caps:
    """Limits of one snapshot."""

    ignored_bytes: int = 2 << 30
    """Bytes of ignored files that may travel to the next step."""
    total_bytes: int = 16 << 30
    """Bytes that files may grow by in one step before it fails; a sparse file counts with its full length."""
    kept: tuple[str, ...] = ()
    """Globs, as in `.gitignore`, of ignored paths that the cap never drops."""
    dropped: tuple[str, ...] = ()
    """Globs of ignored paths that never travel."""


DEFAULT_CAPS = Caps()


@dataclass(frozen=True, slots=True)
class _Part:
    """One ignored path whose parent is not ignored."""

    path: bytes
    size: int
    directory: bool


@dataclass(frozen=True, slots=True)
class Left:
    """What a snapshot's directory holds, for deciding what of it travels."""

    store: ObjectStore
    root: Node
    rules: Rules
    """Ignore rules above the root."""
    project: bytes
    """Tree of the workflow's base: what it holds is part of the project and never dropped."""


def over_caps(left: Left, caps: Caps, total_bytes: int) -> dict[bytes, str]:
    """Return the ignored paths that do not travel, each with the reason."""
    # The whole worktree is no larger than the cap, so its ignored part is not either: the usual case costs nothing.
    if not caps.dropped and total_bytes <= caps.ignored_bytes:
        return {}
    walk = _Walk(left.store, _globs(caps.dropped))
    parts = list(walk.parts(left.root, left.rules, b"", left.store.tree(left.project)))
    kept = _globs(caps.kept)
    # What the globs drop makes room before the cap does.
    gone = dict.fromkeys(walk.dropped, "matches `dropped`")
    room = caps.ignored_bytes - sum(p.size for p in parts)
    # Path as the second key: which of two equal folders goes must not depend on the order of the disk.
    for part in sorted(parts, key=lambda p: (-p.size, p.path)):
        if room < 0 and not kept.ignores(part.path, directory=part.directory):
            gone[part.path] = f"ignored, and above the cap of {caps.ignored_bytes} bytes"
            room += part.size
    return gone


def _globs(patterns: tuple[str, ...]) -> Rules:
    return rules_from(["\n".join(patterns).encode()])


@dataclass(slots=True)
class _Walk:
    store: ObjectStore
    globs: Rules
    dropped: list[bytes] = field(default_factory=list)

    def parts(self, node: Node, rules: Rules, prefix: bytes, project: Listing) -> Iterator[_Part]:
        """Yield the topmost ignored paths below a directory; note those that the globs drop."""
        own = node.files.get(".gitignore")
        rules = rules.below(prefix.rstrip(b"/"), self.store.read(own.entry.oid) if own is not None else None)
        for name, stamp in node.files.items():
            raw = os.fsencode(name)
            # What the base holds is tracked, and git ignores nothing that is tracked.
            if raw not in project and rules.ignores(prefix + raw, directory=False):
                yield from self._part(prefix + raw, stamp.key[1], directory=False)
        for name, below in node.dirs.items():
            path = prefix + os.fsencode(name)
            there = project.get(os.fsencode(name))
            ignored = rules.ignores(path, directory=True)
            # Only a folder without any tracked file can go as a whole.
            if ignored and there is None:
                yield from self._part(path, self._size(below, path + b"/"), directory=True)
            else:
                listing = self.store.tree(there.oid) if is_tree(there) and there is not None else {}
                yield from self.parts(below, EVERYTHING if ignored else rules, path + b"/", listing)

    def _part(self, path: bytes, size: int, *, directory: bool) -> Iterator[_Part]:
        if self.globs.ignores(path, directory=directory):
            self.dropped.append(path)
        else:
            yield _Part(path, size, directory)

    def _size(self, node: Node, prefix: bytes) -> int:
        """Return the bytes in an ignored folder, without what the globs drop inside it."""
        total = 0
        for name, stamp in node.files.items():
            total += sum(p.size for p in self._part(prefix + os.fsencode(name), stamp.key[1], directory=False))
        for name, below in node.dirs.items():
            path = prefix + os.fsencode(name)
            if self.globs.ignores(path, directory=True):
                self.dropped.append(path)
            else:
                total += self._size(below, path + b"/")
        return total
