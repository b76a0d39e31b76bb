"""A tree that another workflow made, taken over into this one's store.

The objects are copied and not looked up over there: the other workflow may be thrown away at any time. Its commit is
not taken, because that would bring its history, and so its base, into this workflow's branch; only the tree is, as a
commit on top of what the step here starts from.
"""

# ruff: noqa: SLF001 - a part of `Store`, kept apart because each reads better alone

from __future__ import annotations

from typing import TYPE_CHECKING

import pygit2

from workflowmaster.blocks import export as exporting
from workflowmaster.blocks.objectstore import ObjectStore
from workflowmaster.blocks.refusal import WorkspaceError, disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from workflowmaster.blocks.workspace import Store


def borrow(store: Store, lender: Path, commit: str, onto: str) -> str | None:
    """Return a commit of ours on top of `onto` that has the tree of another store's commit.

    `lender` is that store's folder. None if it, or what it made, is gone. WorkspaceError `disk`.
    """
    git_dir = lender / "store.git"
    if not (git_dir / "HEAD").exists():
        return None
    theirs = ObjectStore.create(git_dir, alternate=None)
    try:
        made = theirs.repo.get(pygit2.Oid(hex=commit))
        if not isinstance(made, pygit2.Commit):
            return None
        tree, known = made.tree_id.raw, store._tree(onto)
        if tree == known:
            return onto
        try:
            found = exporting.objects_above(theirs, tree, [])
        except WorkspaceError:
            return None  # the repository it borrowed from has changed since
        with disk_errors(str(store.folder)):
            exporting.write_objects(theirs, found, store._objects.objects)
            return store._history.commit(tree, [bytes.fromhex(onto)], made.message).hex()
    finally:
        theirs.repo.free()
