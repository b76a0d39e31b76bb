"""A repository that a step may do with as it likes: one commit, copies of the objects, gone before the snapshot.

Coding agents ask git what they changed, and some refuse to work without a repository. They must not get ours: its
alternates lead to the user's objects, and its refs to other steps. So the tree is packed into a fresh `.git` in the
worktree. The cost is the pack, once per tree; what the step commits there is lost, its files are not.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pygit2

from workflowmaster.blocks import handles
from workflowmaster.blocks.export import copy_large, objects_above
from workflowmaster.blocks.history import AUTHOR
from workflowmaster.blocks.objectstore import object_id
from workflowmaster.blocks.packfile import PackWriter
from workflowmaster.blocks.trees import EMPTY_TREE

if TYPE_CHECKING:
    from pathlib import Path

    from workflowmaster.blocks.objectstore import Kind, ObjectStore

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


@dataclass(frozen=True, slots=True)
class Throwaway:
    """What every throw-away repository of one workflow starts from."""

    store: ObjectStore
    base: bytes
    """Tree of the workflow's base; its objects are packed once and copied from then on."""
    cache: Path
    """Folder for them."""
    owner: tuple[int, int] | None

    def put(self, tree: bytes, directory: Path) -> None:
        """Put a `.git` with one commit of `tree` into a directory, in the place of any other."""
        # By descriptor, for a step may have left anything under that name; what follows is ours alone.
        with handles.root(directory) as fd:
            handles.remove(fd, ".git")
        git_dir = directory / ".git"
        for folder in ("refs/heads", "refs/tags", "info"):
            (git_dir / folder).mkdir(parents=True)
        (git_dir / "HEAD").write_text(f"ref: {_BRANCH}\n")
        (git_dir / "config").write_text(_CONFIG)
        commit = _commit(tree)
        # Copied, not linked: a file that two worktrees share would carry a step's writes to the next.
        shutil.copytree(self._base_objects(), git_dir / "objects")
        self._write(git_dir / "objects", objects_above(self.store, tree, [self.base]), commit)
        (git_dir / _BRANCH).write_text(object_id("commit", commit).hex() + "\n")
        _write_index(self.store, tree, git_dir)
        if self.owner is not None:
            _give(git_dir, self.owner)

    def _base_objects(self) -> Path:
        if not self.cache.is_dir():
            unfinished = self.cache.with_name(f"{self.cache.name}.{os.getpid()}")
            self._write(unfinished, objects_above(self.store, self.base, []), b"")
            # Under its name only when complete, for the next step believes it.
            unfinished.rename(self.cache)
        return self.cache

    def _write(self, objects: Path, found: dict[bytes, Kind], commit: bytes) -> None:
        (objects / "pack").mkdir(parents=True, exist_ok=True)
        writer = PackWriter(objects / "pack")
        for oid, kind in found.items():
            if not copy_large(self.store, oid, objects):
                writer.add(oid, kind, self.store.read(oid))
        if commit:
            writer.add(object_id("commit", commit), "commit", commit)
        writer.finish()


def _commit(tree: bytes) -> bytes:
    # A constant date: the step's input must be the same on every machine.
    signed = f"{AUTHOR[0]} <{AUTHOR[1]}> 0 +0000"
    text = f"tree {tree.hex()}\nauthor {signed}\ncommitter {signed}\n\nThe workspace as this step found it\n"
    return text.encode()


def _write_index(store: ObjectStore, tree: bytes, git_dir: Path) -> None:
    # Without an index git starts from an empty one, which is right here.
    if tree == EMPTY_TREE:
        return
    index = pygit2.Index(str(git_dir / "index"))
    index.read_tree(store.tree_object(tree))
    index.write()


def _give(folder: Path, owner: tuple[int, int]) -> None:
    os.chown(folder, *owner)
    for path in folder.rglob("*"):
        os.chown(path, *owner, follow_symlinks=False)
