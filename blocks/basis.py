"""Where a workflow starts: its base commit, chosen once, written down, and pinned.

The base must outlive what the user does meanwhile: he may commit, reset, even `gc --prune=now`. A ref in his
repository, outside his branches, keeps the commit and all it reaches; copying the base instead took 2.3 s for 5,000
files. The cost is a ref that stays behind when a workflow is thrown away without `unpin`. A pin of that name that is
not ours is never overwritten: the next free name is taken, and the store remembers which.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import pygit2

from workflowmaster.blocks import handles, userrepo
from workflowmaster.blocks.caps import DEFAULT_CAPS
from workflowmaster.blocks.ignore import Rules
from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.scanning import Scan
from workflowmaster.blocks.stamps import Known
from workflowmaster.blocks.trees import show

if TYPE_CHECKING:
    from pathlib import Path

    from workflowmaster.blocks.history import History
    from workflowmaster.blocks.objectstore import ObjectStore

_ORIGIN = "refs/workflowmaster/origin"
_BASE = "refs/workflowmaster/base"
_PIN = "workflowmaster.pin"
_FIRST_MESSAGE = "Uncommitted changes the workflow started with"
_PRIVATE_MESSAGE = "The workspace the workflow started with"


@dataclass(frozen=True, slots=True)
class Basis:
    """What is needed to find a workflow's base, or to make it."""

    objects: ObjectStore
    history: History
    user: userrepo.UserRepo | None
    workflow: str
    """Id of the workflow; names the pin."""

    def establish(self, workspace: Path, *, include_dirty: bool) -> bytes:
        """Return the base commit: the one written down, else the workspace as it is now."""
        found = self._written_down()
        if found is None:
            found = self._begin(workspace, include_dirty=include_dirty)
        origin, base = found
        # Everything below walks down to the root and no further, so it has to be known first.
        self.history.root = origin
        self.history.project = self.history.tree_of(base)
        self._pin(origin)
        return base

    def unpin(self) -> None:
        """Remove the ref in the user's repository, if it is there."""
        config = self.objects.repo.config
        if self.user is not None and _PIN in config:
            # Gone already is as good.
            with suppress(KeyError):
                self.user.repo.references.delete(str(config[_PIN]))

    def _written_down(self) -> tuple[bytes, bytes] | None:
        refs = self.objects.repo.references
        # Killed between the two: what was begun counts for nothing, and beginning again is cheap.
        if _ORIGIN not in refs or _BASE not in refs:
            return None
        origin = userrepo.raw(refs[_ORIGIN].target)
        # Held through the alternates: this is where a base that the user lost first shows.
        if not self.objects.holds(origin):
            message = (
                f"The commit {origin.hex()} that workflow {self.workflow} started from is gone from its repository. "
                "Its pin was removed and garbage collected; start the workflow again."
            )
            raise WorkspaceError("base", message)
        return origin, userrepo.raw(refs[_BASE].target)

    def _begin(self, workspace: Path, *, include_dirty: bool) -> tuple[bytes, bytes]:
        if self.user is None:
            origin = base = self._private(workspace)
        else:
            # Vetted before it is looked at for changes: a partial clone would call every missing file deleted.
            origin = self.user.head()
            self._vet_complete(self.user, origin)
            base = self._with_changes(self.user, origin, include_dirty=include_dirty)
        # The origin comes last: only with it does a beginning count as done.
        for name, commit in ((_BASE, base), (_ORIGIN, origin)):
            self.objects.repo.create_reference(name, pygit2.Oid(raw=commit), force=True)
        return origin, base

    def _with_changes(self, user: userrepo.UserRepo, origin: bytes, *, include_dirty: bool) -> bytes:
        changed = user.uncommitted()
        if not changed:
            return origin
        if not include_dirty:
            raise _dirty(user.root, changed)
        # The commit takes its date from the root.
        self.history.root = origin
        tree = user.tree_with_changes(self.objects, self.history.tree_of(origin), changed)
        return self.history.commit(tree, [origin], _FIRST_MESSAGE)

    def _private(self, workspace: Path) -> bytes:
        """Snapshot a directory that is no repository, as `git init; git add -A; git commit` would, but over here."""
        # The snapshot would contain itself.
        if workspace in self.objects.git_dir.parents:
            message = (
                f"The state directory {self.objects.git_dir.parent} lies inside {workspace}. Set WORKFLOWMASTER_HOME."
            )
            raise WorkspaceError("unsafe", message)
        scan = Scan(self.objects, {}, DEFAULT_CAPS.total_bytes, rules=Rules(), lend=False)
        with handles.root(workspace, lend=False) as fd, self.objects.bulk():
            tree = scan.run(fd, Known())
        return self.history.commit(tree, [], _PRIVATE_MESSAGE)

    def _vet_complete(self, user: userrepo.UserRepo, origin: bytes) -> None:
        gone = [show(p) for p in userrepo.missing_objects(user, self.objects, self.history.tree_of(origin))]
        if gone:
            message = (
                f"{user.root} is a partial clone and lacks {len(gone)} files of its commit: {', '.join(gone[:10])}. "
                "Fetch them first: `git fetch --refetch --no-filter`."
            )
            raise WorkspaceError("partial", message, files=tuple(gone[:10]))

    def _pin(self, origin: bytes) -> None:
        """Make sure that a ref of ours in the user's repository holds the origin."""
        if self.user is None:
            return
        target = pygit2.Oid(raw=origin)
        # In the store's configuration and not as a ref: a ref to nothing of its own is damage to `git fsck`.
        config = self.objects.repo.config
        if _PIN not in config:
            config[_PIN] = self._claim(self.user, target)
            return
        # Written down means ours, so it may be put back or moved.
        self.user.repo.create_reference(str(config[_PIN]), target, force=True)
        self.user.own_ref(str(config[_PIN]))

    def _claim(self, user: userrepo.UserRepo, target: pygit2.Oid) -> str:
        """Create the ref under the first free name and return it.

        One that exists is never shared, not even with the same commit: whoever made it will remove it some day.
        """
        names = count(1)
        while True:
            n = next(names)
            name = f"refs/workflowmaster/{self.workflow}{f'.{n}' if n > 1 else ''}/base"
            # Creating without force is the compare-and-swap: of two processes one makes it, the other looks further.
            with suppress(pygit2.AlreadyExistsError):
                user.repo.create_reference(name, target, force=False)
                user.own_ref(name)
                return name


def _dirty(root: Path, changed: list[bytes]) -> WorkspaceError:
    shown = [show(p) for p in changed[:10]]
    more = f" and {len(changed) - 10} more" if len(changed) > 10 else ""
    message = (
        f"{root} has uncommitted changes: {', '.join(shown)}{more}. "
        "Commit or stash them, or take them along with --include-dirty."
    )
    return WorkspaceError("dirty", message, files=tuple(shown))
