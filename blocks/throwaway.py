"""A repository that a step may do with as it likes: one commit, copies of the objects, gone before the snapshot.

Coding agents ask git what they changed, and some refuse to work without a repository. They must not get ours: its
alternates lead to the user's objects, and its refs to other steps. So the tree is packed into a fresh `.git` in the
worktree. The cost is the pack, once per tree; what the step commits there is lost, its files are not.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pygit2

from workflowmaster.blocks import handles
from workflowmaster.blocks.history import AUTHOR
from workflowmaster.blocks.trees import EMPTY_TREE

if TYPE_CHECKING:
    from pathlib import Path

    from workflowmaster.blocks.objectstore import ObjectStore

_CONFIG = f"""[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
[user]
\tname = {AUTHOR[0]}
\temail = {AUTHOR[1]}
[gc]
\tauto = 0
"""
_BRANCH = "refs/heads/main"


def make_repository(store: ObjectStore, tree: bytes, directory: Path, owner: tuple[int, int] | None) -> None:
    """Put a `.git` with one commit of `tree` into a directory that has none."""
    with handles.root(directory) as fd:
        handles.remove(fd, ".git")
    git_dir = directory / ".git"
    for folder in ("objects/pack", "objects/info", "refs/heads", "refs/tags", "info"):
        (git_dir / folder).mkdir(parents=True)
    (git_dir / "HEAD").write_text(f"ref: {_BRANCH}\n")
    (git_dir / "config").write_text(_CONFIG)
    commit = _commit(store, tree)
    builder = pygit2.PackBuilder(store.repo)
    builder.add_recur(pygit2.Oid(raw=tree))
    builder.add(pygit2.Oid(raw=commit))
    builder.write(str(git_dir / "objects/pack"))
    (git_dir / _BRANCH).write_text(commit.hex() + "\n")
    _write_index(store, tree, git_dir)
    if owner is not None:
        _give(git_dir, owner)


def _commit(store: ObjectStore, tree: bytes) -> bytes:
    signed = f"{AUTHOR[0]} <{AUTHOR[1]}> 0 +0000"
    text = f"tree {tree.hex()}\nauthor {signed}\ncommitter {signed}\n\nThe workspace as this step found it\n"
    return store.write("commit", text.encode())


def _write_index(store: ObjectStore, tree: bytes, git_dir: Path) -> None:
    if tree == EMPTY_TREE:
        return
    index = pygit2.Index(str(git_dir / "index"))
    index.read_tree(store.tree_object(tree))
    index.write()


def _give(folder: Path, owner: tuple[int, int]) -> None:
    os.chown(folder, *owner)
    for path in folder.rglob("*"):
        os.chown(path, *owner, follow_symlinks=False)
