"""Workspace = git: a step is a function from tree to tree, and this is where trees live.

One bare store per workflow lies in the workflow's private folder and borrows the user's objects by an alternates
file, so opening it copies nothing. Every step starts from a commit and ends as one; retries, resumes and parallel
steps therefore never see each other's half-done work, and equal work has equal ids. The user's repository is touched
in two places only: a ref that pins the base (his garbage collection would otherwise take it from under us), and at
the end the branch. A workspace that is no repository is snapshotted into the store and stays free of git.

The hard choice is to have no git in between: directory ↔ tree is code of our own (`scanning`, `laying`), because
both libgit2's checkout and `git add` can be led astray by what a step leaves behind. See
docs/decisions/001-workspace-is-git.md.

Not thread-safe: all calls on one `Store` come from one thread. Several processes may work on the same user
repository with a folder each.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.blocks import bounded, handles, userrepo
from workflowmaster.blocks import export as exporting
from workflowmaster.blocks.basis import Basis
from workflowmaster.blocks.caps import DEFAULT_CAPS, Caps, Left, over_caps
from workflowmaster.blocks.export import ChangedFile
from workflowmaster.blocks.history import AUTHOR, History
from workflowmaster.blocks.ignore import Rules
from workflowmaster.blocks.joining import MergeConflict
from workflowmaster.blocks.laying import Laying
from workflowmaster.blocks.objectstore import ObjectStore
from workflowmaster.blocks.refusal import WorkspaceError, disk_errors
from workflowmaster.blocks.scanning import Gitlinks, Scan
from workflowmaster.blocks.stamps import Known
from workflowmaster.blocks.throwaway import Throwaway
from workflowmaster.blocks.trees import show

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workflowmaster.blocks.screening import Screen

__all__ = [
    "Caps",
    "ChangedFile",
    "MergeConflict",
    "Snapshot",
    "Store",
    "WorkspaceError",
    "prepare",
    "remove_tree",
]


MOST_DIRECTORIES = 16
"""Worktrees that are remembered before the first look at which are gone."""


@dataclass(frozen=True)
class Snapshot:
    """What a step left in its directory."""

    commit: str
    """The step's commit, or its only parent where nothing changed."""
    tree: str
    findings: tuple[str, ...]
    """What was left out, and what may surprise, one line each."""
    changed: bool
    bytes_added: int
    """Bytes of new file content in the store, uncompressed."""


class Store:
    """The trees and commits of one workflow. Make it with `Store.open`."""

    def __init__(
        self, folder: Path, objects: ObjectStore, user: userrepo.UserRepo | None, owner: tuple[int, int] | None
    ) -> None:
        self.folder = folder
        self.owner = owner
        """User and group that get every laid file; None leaves them ours."""
        self.subdir = ""
        """Where in the repository the workspace the user named lies: `services/api`; empty for its top. The whole
        repository is the workspace, because a step's commit is one of the whole repository."""
        self._objects = objects
        self._user = user
        self._known: dict[Path, Known] = {}
        self._gitlinks = Gitlinks(objects)
        self._rules: Rules | None = None
        self._history = History(objects, b"", self._outer_rules)
        self._base = b""

    @classmethod
    def open(
        cls, folder: Path, workspace: Path, *, include_dirty: bool = False, owner: tuple[int, int] | None = None
    ) -> Store:
        """Open the workflow's store, or make it, and pin the base.

        `folder` is the workflow's private folder, and its name the workflow's id. Opened again it has the same base,
        wherever the user's branches have moved meanwhile; `include_dirty` counts only the first time.
        WorkspaceError `dirty`, `unborn`, `sha256`, `reftable`, `partial`, `bare`, `owner`, `broken`, `base`, `filter`.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It may have been made by somebody with another umask, and everything the user wrote will lie in it.
        folder.chmod(0o700)
        workspace = workspace.resolve(strict=True)
        user = userrepo.find(workspace)
        with disk_errors(str(folder)):
            objects = ObjectStore.create(folder / "store.git", alternate=user.objects if user else None)
            store = cls(folder, objects, user, owner)
            store._base = Basis(objects, store._history, user, folder.name).establish(
                workspace, include_dirty=include_dirty
            )
        if user is not None and workspace != user.root:
            store.subdir = str(workspace.relative_to(user.root))
        return store

    @property
    def base(self) -> str:
        """Commit every first step starts from: the user's commit, or his uncommitted changes on top of it."""
        return self._base.hex()

    @property
    def origin(self) -> str:
        """The user's own commit the workflow started from."""
        return self._history.root.hex()

    @property
    def repository(self) -> Path:
        """Git folder that `export` makes the branch in: the user's, or the store itself where he has none."""
        return self._user.common if self._user else self._objects.git_dir

    @property
    def findings(self) -> tuple[str, ...]:
        """What the last `merge` decided by itself, one line each."""
        return tuple(self._history.findings)

    def merge(self, commits: Sequence[tuple[str, str]], *, message: str) -> str:
        """Join (step id, commit) pairs, given in plan order, into one commit.

        None give the base, one gives itself, and so does one that descends from all others. Ignored files that two
        sides changed are taken from the later step, with a line in `findings`. MergeConflict names files and steps.
        """
        if not commits:
            return self.base
        with disk_errors(str(self.folder)):
            return self._history.merge([(s, bytes.fromhex(c)) for s, c in commits], message).hex()

    def lay(self, commit: str, directory: Path) -> None:
        """Make an existing directory equal the commit's tree exactly, whatever ran in it before.

        Every name in it is looked at; files that provably did not change are kept.
        """
        known = self._remember(directory)
        known.throwaway = False
        with disk_errors(str(directory)), handles.root(directory) as fd:
            Laying(self._objects, self.owner).lay(fd, known, self._tree(commit))

    def switch(self, directory: Path, old: str, new: str) -> None:
        """Make a directory that holds `old` hold `new`, by the difference of the two trees.

        Right after `lay`, `switch` or a clean `snapshot` of `old` this looks only at what differs, and trusts that no
        foreign code has run since; in any other state it is `lay`. After a failed attempt use `lay`.
        """
        # A caller's `old` is believed only where it is what we know ourselves.
        with disk_errors(str(directory)), handles.root(directory) as fd:
            known = self._known.get(directory)
            if known is not None and known.still(fd, self._tree(old)):
                Laying(self._objects, self.owner).switch(fd, known, self._tree(new))
                return
        self.lay(new, directory)

    def release(self, directory: Path) -> None:
        """Say that foreign code may run in a directory from now on; it saves the next snapshot some reading."""
        known = self._known.get(directory)
        if known is not None:
            known.seal()

    def snapshot(  # noqa: PLR0913 - one commit needs all of it
        self,
        directory: Path,
        *,
        parents: Sequence[str],
        step: str,
        message: str,
        caps: Caps = DEFAULT_CAPS,
        screen: Screen | None = None,
    ) -> Snapshot:
        """Commit everything in a directory, ignored files included, on top of the commit(s) the step started from.

        WorkspaceError `unreadable` (files of another user), `size` (more than the caps allow), `disk`, and `secret`
        if `screen` finds one in what is new or changed: nothing of the directory is stored then.
        """
        known = self._remember(directory)
        before = self._objects.bytes_written
        first = self._tree(parents[0])
        with disk_errors(str(self.folder)), handles.root(directory) as fd:
            self._remove_throwaway(fd, known)
            scan = Scan(self._objects, self._gitlinks.by_directory(first), caps.total_bytes, start=first, screen=screen)
            tree = self._scan(scan, fd, directory)
            tree = self._prune(tree, known, scan, caps)
            return self._commit(tree, scan, parents, f"{message}\n\nStep: {step}", before)

    def _scan(self, scan: Scan, fd: int, directory: Path) -> bytes:
        try:
            with self._objects.bulk():
                return scan.run(fd, self._known[directory])
        except BaseException:
            # The stamps taken so far speak of objects that were never stored.
            del self._known[directory]
            raise

    def _prune(self, tree: bytes, known: Known, scan: Scan, caps: Caps) -> bytes:
        left = Left(self._objects, known.root, self._outer_rules(), self._history.project)
        gone = over_caps(left, caps, scan.total_bytes)
        if not gone:
            return tree
        # The directory still has what the tree has not: the next step in it must start with a full look.
        known.tree = None
        scan.findings += [f"{show(path)}: left out, {reason}" for path, reason in gone.items()]
        return self._objects.edit(tree, dict.fromkeys(gone))

    def _commit(self, tree: bytes, scan: Scan, parents: Sequence[str], message: str, before: int) -> Snapshot:
        heads = [bytes.fromhex(p) for p in parents]
        # A step that changed nothing is no commit: equal trees keep equal ids, and a no-op costs no write.
        changed = tree != self._history.tree_of(heads[0])
        commit = heads[0] if len(heads) == 1 and not changed else self._history.commit(tree, heads, message)
        added = self._objects.bytes_written - before
        return Snapshot(commit.hex(), tree.hex(), tuple(sorted(scan.findings)), changed, added)

    def export(
        self,
        commit: str,
        *,
        branch: str,
        message: str = "",
        author: tuple[str, str] | None = None,
        expected: str | None = None,
    ) -> str:
        """Make the user's branch: one commit a step, without ignored files, on top of `origin`. Return its tip.

        `message` becomes the last paragraph of every commit. The branch is created, or moved if it is still at
        `expected`; an export that was cut short can simply be repeated. Nothing else of the user's changes.
        WorkspaceError `branch` if it exists elsewhere, is checked out, or cannot have that name.
        """
        rewrite = exporting.Rewrite(self._history, message, author or AUTHOR)
        tip = rewrite.run(bytes.fromhex(commit))
        name = f"refs/heads/{branch}"
        if self._user is None:
            exporting.swap_ref(self._objects.repo, name, tip, expected)
            return tip.hex()
        with disk_errors(str(self._user.objects)):
            # Objects first: a ref whose objects are missing would be damage, the reverse is only waste.
            written = exporting.write_objects(self._objects, exporting.objects_of(rewrite), self._user.objects)
            self._user.own(written)
            exporting.swap_ref(self._user.repo, name, tip, expected)
        self._user.own_ref(name)
        return tip.hex()

    def patch(self, commit: str) -> bytes:
        """Return the outcome as `git apply` takes it on top of the base: binary files too, ignored ones left out."""
        return exporting.make_patch(self._objects, self._visible(self.base), self._visible(commit))

    def changed_files(self, commit: str) -> list[ChangedFile]:
        """Return the files that the outcome changes against the base, ignored ones left out."""
        return exporting.changes(self._objects, self._visible(self.base), self._visible(commit))

    def throwaway_git(self, directory: Path) -> None:
        """Give a laid directory a repository of its own: one commit of what git would track, and nothing of ours.

        It holds copies, never a link to the store; `snapshot`, `lay` and `switch` remove it again.
        """
        known = self._remember(directory)
        if known.tree is None:
            raise ValueError(f"{directory} must be laid before it gets a repository")
        # What git would not track must not look untracked to the step either.
        tree = exporting.visible(self._objects, known.tree, [self._tree(self.base)], self._outer_rules())
        with disk_errors(str(directory)):
            cache = self.folder / "throwaway-pack"
            Throwaway(self._objects, self._history.project, cache, self.owner).put(tree, directory)
        known.throwaway = True

    def expect_throwaway(self, directory: Path) -> None:
        """Take a directory for one that a process that is no more has given a repository of its own."""
        self._remember(directory).throwaway = True

    def unpin(self) -> None:
        """Let go of the user's repository: remove the base's ref. The store then cannot be relied on any more."""
        Basis(self._objects, self._history, self._user, self.folder.name).unpin()

    def close(self) -> None:
        """Free files and memory. The store can be opened again."""
        self._objects.repo.free()
        if self._user is not None:
            self._user.repo.free()
        self._known.clear()

    def _remember(self, directory: Path) -> Known:
        """Return what is known of a directory, and forget those that are gone: a thousand files are a megabyte."""
        # Taken out and put in again, so that the order of the dict is the order of use.
        known = self._known.pop(directory, None) or Known()
        if len(self._known) >= MOST_DIRECTORIES:
            self._known = {d: k for d, k in self._known.items() if d.exists()}
        while len(self._known) >= 4 * MOST_DIRECTORIES:
            del self._known[next(iter(self._known))]
        self._known[directory] = known
        return known

    def _outer_rules(self) -> Rules:
        # Read once: the user may edit his ignore files while the workflow runs, and its results should not change.
        if self._rules is None:
            self._rules = self._user.rules() if self._user else Rules()
        return self._rules

    def _tree(self, commit: str) -> bytes:
        return self._history.tree_of(bytes.fromhex(commit))

    def _visible(self, commit: str) -> bytes:
        """Return the tree of the user's view of a commit."""
        return self._history.tree_of(exporting.Rewrite(self._history).run(bytes.fromhex(commit)))

    def _remove_throwaway(self, fd: int, known: Known) -> None:
        if known.throwaway:
            handles.remove(fd, ".git")
            known.throwaway = False


def prepare(directory: Path, uid: int, gid: int) -> None:
    """Make a worktree's directory, owned by the user that the container runs as."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(directory, uid, gid, follow_symlinks=False)


def remove_tree(directory: Path) -> None:
    """Remove a directory that foreign code has written, however deep, unreadable or odd; nothing outside is touched.

    What is mounted below it is unmounted first, and never walked into. WorkspaceError `owner` if parts belong to
    another user and we are not root, `mounted` if something stays mounted.
    """
    if not directory.parent.is_dir():
        return
    bounded.release(directory)
    if left := bounded.mounted(directory):
        raise WorkspaceError("mounted", f"{left[0]} is mounted and cannot be unmounted; umount it as root.")
    fd = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        handles.remove(fd, directory.name)
    finally:
        os.close(fd)
