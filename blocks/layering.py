"""Trees for policies without a writable workspace: declared files in, a layer of results out.

Under `hardened` the worktree is mounted read-only and under `paranoid` there is none, so what such a step makes lies in
`/out/workspace`. It is laid over the input tree as tree objects, never by copying into a directory: a path in it that
is a symlink or a directory replaces what stood there, and nothing is ever followed.
"""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING

from workflowmaster.blocks import handles
from workflowmaster.blocks.objectstore import ObjectStore, WorkspaceError, disk_errors
from workflowmaster.blocks.scanning import Scan
from workflowmaster.blocks.stamps import Known
from workflowmaster.blocks.trees import DIRECTORY, EXECUTABLE, FILE, Entry, is_tree
from workflowmaster.blocks.workspace import Caps, Snapshot, Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LAYER = "workspace"
"""Folder of `/out` whose content is laid over the workspace."""

LARGEST_INPUT = 64 * 1024**2
"""Bytes of one declared input file; larger ones need a policy with a workspace."""


def tree_of(store: Store, commit: str) -> str:
    """Return the id (hex) of a commit's tree."""
    return store._tree(commit).hex()


def overlay(store: Store, commit: str, outward: Path, *, step: str, message: str) -> Snapshot:
    """Commit what lies in `outward/workspace` over the tree of `commit`; without that folder nothing changes."""
    objects, history = store._objects, store._history
    before = objects.bytes_written
    base = store._tree(commit)
    scan = Scan(objects, {}, Caps().total_bytes)
    with disk_errors(str(store.folder)), handles.root(outward) as top:
        try:
            with handles.child(top, LAYER) as fd:
                layer = scan.run(fd, Known())
        except OSError:
            # Not there, or no directory: there is no layer.
            return Snapshot(commit, base.hex(), (), changed=False, bytes_added=0)
        tree = layered(objects, base, layer)
    changed = tree != base
    made = history.commit(tree, [bytes.fromhex(commit)], f"{message}\n\nStep: {step}").hex() if changed else commit
    added = objects.bytes_written - before
    return Snapshot(made, tree.hex(), tuple(sorted(scan.findings)), changed=changed, bytes_added=added)


def layered(objects: ObjectStore, below: bytes, above: bytes) -> bytes:
    """Return the tree that has everything of `above`, and of `below` what `above` does not name."""
    names = dict(objects.tree(below))
    for name, entry in objects.tree(above).items():
        old = names.get(name)
        both = old is not None and is_tree(old) and is_tree(entry)
        names[name] = Entry(DIRECTORY, layered(objects, old.oid, entry.oid)) if both and old else entry
    return objects.write_tree(names)


def read(store: Store, commit: str, globs: Sequence[str]) -> Iterator[tuple[str, bytes, bool]]:
    """Yield (path, content, executable) of the commit's files that match, sorted by path.

    Globs are as in `inputs:`; `*` also matches slashes. Symlinks are left out: they could point anywhere.
    WorkspaceError `inputs` for a glob that matches nothing, and `size` for a file above `LARGEST_INPUT`.
    """
    objects = store._objects
    patterns = {glob: re.compile(translate(glob)) for glob in globs}
    unused = set(globs)
    for path, entry in _files(objects, store._tree(commit), ""):
        hits = {glob for glob, pattern in patterns.items() if pattern.match(path)}
        unused -= hits
        if not hits:
            continue
        if objects.size(entry.oid) > LARGEST_INPUT:
            raise WorkspaceError("size", f"input {path} is larger than {LARGEST_INPUT:,} bytes")
        yield path, objects.read(entry.oid), entry.mode == EXECUTABLE
    if unused:
        raise WorkspaceError("inputs", f"no file of the workspace matches the step's input {', '.join(sorted(unused))}")


def _files(objects: ObjectStore, tree: bytes, prefix: str) -> Iterator[tuple[str, Entry]]:
    for name, entry in sorted(objects.tree(tree).items()):
        path = prefix + name.decode(errors="surrogateescape")
        if is_tree(entry):
            yield from _files(objects, entry.oid, path + "/")
        elif entry.mode in (FILE, EXECUTABLE):
            yield path, entry
