"""Trees for policies without a writable workspace: declared files in, a layer of results out.

Under `hardened` the worktree is mounted read-only and under `paranoid` there is none, so what such a step makes lies in
`/out/workspace`. It is laid over the input tree as tree objects, never by copying into a directory: a path in it that
is a symlink or a directory replaces what stood there, and nothing is ever followed.
"""

# ruff: noqa: SLF001 - the other half of `Store`, kept apart because each reads better alone
from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pygit2

from workflowmaster.blocks import handles
from workflowmaster.blocks.globs import MalformedGlobError, compile_glob
from workflowmaster.blocks.refusal import WorkspaceError, disk_errors
from workflowmaster.blocks.scanning import Scan
from workflowmaster.blocks.stamps import Known
from workflowmaster.blocks.trees import DIRECTORY, EXECUTABLE, FILE, Entry, is_tree, show
from workflowmaster.blocks.workspace import Caps, Snapshot, Store

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from workflowmaster.blocks.objectstore import ObjectStore

LAYER = "workspace"
"""Folder of `/out` whose content is laid over the workspace."""

MOST_INPUTS = (10_000, 1024**3)
"""Files that one step's inputs may be, and bytes that they may have in sum: each is copied for each attempt."""

LARGEST_INPUT = 64 * 1024**2
"""Bytes of one declared input file; larger ones need a policy with a workspace."""


def tree_of(store: Store, commit: str) -> str:
    """Return the id (hex) of a commit's tree."""
    return store._tree(commit).hex()


def overlay(  # noqa: PLR0913 - one commit needs all of it
    store: Store, commit: str, outward: Path, *, step: str, message: str, cap: int | None = None
) -> Snapshot:
    """Commit what lies in `outward/workspace` over the tree of `commit`; without that folder nothing changes.

    A layer can add and replace; it has no way to say that a file is gone. WorkspaceError `size` if its files have more
    than `cap` bytes, and as `Store.snapshot` has it otherwise.
    """
    objects = store._objects
    before, base = objects.bytes_written, store._tree(commit)
    tree, findings = _layer(objects, base, outward, cap, str(store.folder))
    changed = tree != base
    text = f"{message}\n\nStep: {step}"
    made = store._history.commit(tree, [bytes.fromhex(commit)], text).hex() if changed else commit
    return Snapshot(made, tree.hex(), findings, changed=changed, bytes_added=objects.bytes_written - before)


def replanted(store: Store, commit: str, parent: str) -> str:
    """Return a commit with the tree and the words of one, on top of another; `parent` itself if the trees are equal."""
    tree = store._tree(commit)
    if tree == store._tree(parent):
        return parent
    found = store._objects.repo[commit]
    message = found.message if isinstance(found, pygit2.Commit) else ""
    return store._history.commit(tree, [bytes.fromhex(parent)], message).hex()


def _layer(
    objects: ObjectStore, base: bytes, outward: Path, cap: int | None, where: str
) -> tuple[bytes, tuple[str, ...]]:
    """Return the tree with the layer on it, and what was left out of that."""
    most = Caps().total_bytes
    scan = Scan(objects, {}, most if cap is None else min(cap, most))
    with disk_errors(where), handles.root(outward) as top:
        try:
            fd = handles.open_directory(top, LAYER)
        except FileNotFoundError:
            return base, ()
        except OSError as error:
            return base, (f"/out/{LAYER}: left out, it is no directory ({error.strerror})",)
        try:
            return layered(objects, base, scan.run(fd, Known())), tuple(sorted(scan.findings))
        finally:
            os.close(fd)


def layered(objects: ObjectStore, below: bytes, above: bytes) -> bytes:
    """Return the tree that has everything of `above`, and of `below` what `above` does not name."""
    names = dict(objects.tree(below))
    for name, entry in objects.tree(above).items():
        old = names.get(name)
        both = old is not None and is_tree(old) and is_tree(entry)
        names[name] = Entry(DIRECTORY, layered(objects, old.oid, entry.oid)) if both and old else entry
    return objects.write_tree(names)


def read(store: Store, commit: str, globs: Sequence[str]) -> Iterator[tuple[str, bytes, bool]]:
    """Yield (path, content, executable) of the commit's files that match, in the tree's order.

    A glob is a path from the workspace's top: `*` and `?` stop at slashes, `**` does not, and a directory stands for
    all that is in it. Symlinks are left out: they could point anywhere. WorkspaceError `inputs` for a glob that is
    malformed or matches nothing, and `size` for a file above `LARGEST_INPUT` or for more than `MOST_INPUTS`.
    """
    objects = store._objects
    patterns = {glob: _compiled(glob) for glob in globs}
    unused, files, size = set(globs), 0, 0
    for path, entry, hits in _files(objects, store._tree(commit), patterns):
        unused -= hits
        name = os.fsdecode(path)
        if objects.size(entry.oid) > LARGEST_INPUT:
            raise WorkspaceError("size", f"input {show(path)} is larger than {LARGEST_INPUT:,} bytes")
        files, size = files + 1, size + objects.size(entry.oid)
        if files > MOST_INPUTS[0] or size > MOST_INPUTS[1]:
            most = f"{MOST_INPUTS[0]:,} files or {MOST_INPUTS[1]:,} bytes"
            raise WorkspaceError("size", f"the step's inputs are more than {most} (the last one: {show(path)})")
        yield name, objects.read(entry.oid), entry.mode == EXECUTABLE
    if unused:
        raise WorkspaceError("inputs", f"no file of the workspace matches the step's input {', '.join(sorted(unused))}")


def _compiled(glob: str) -> re.Pattern[bytes]:
    try:
        return compile_glob(os.fsencode(glob.removeprefix("./").rstrip("/")))
    except MalformedGlobError as error:
        raise WorkspaceError("inputs", f"the step's input {glob!r} has an open bracket or backslash") from error


def _files(
    objects: ObjectStore,
    tree: bytes,
    patterns: Mapping[str, re.Pattern[bytes]],
    prefix: bytes = b"",
    inside: frozenset[str] = frozenset(),
) -> Iterator[tuple[bytes, Entry, frozenset[str]]]:
    """Yield the regular files that globs match, and which ones; `inside` are those that match a directory above."""
    for name, entry in sorted(objects.tree(tree).items()):
        path = prefix + name
        hits = inside | {glob for glob, pattern in patterns.items() if pattern.fullmatch(path)}
        if is_tree(entry):
            yield from _files(objects, entry.oid, patterns, path + b"/", hits)
        elif hits and entry.mode in (FILE, EXECUTABLE):
            yield path, entry, hits
