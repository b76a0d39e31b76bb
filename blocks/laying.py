"""Tree → directory: make a worktree equal a commit, whatever foreign code has done to the directory before.

libgit2's checkout writes through a directory that a container swapped for a symlink (run: ten files of a victim
folder were overwritten), so it is never used. Here each directory is entered by descriptor without following links,
an existing file is never opened for writing (it may be a hard link) but unlinked and made new, and what is kept is
kept because its stamp proves it unchanged. `switch` walks the difference of two trees only, which is right exactly
when the directory is known to equal the first; in every other case it falls back to `lay`.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workflowmaster.blocks import handles
from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.stamps import Known, Node, Stamp, key_of
from workflowmaster.blocks.trees import GITLINK, MAX_DEPTH, SYMLINK, Entry, bad_name, is_file, is_tree, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflowmaster.blocks.objectstore import ObjectStore


@dataclass(frozen=True, slots=True)
class _Here:
    """The directory being written."""

    fd: int
    node: Node
    prefix: bytes
    new: bool = False
    """Just made by us, so nothing in it needs to be looked at."""


@dataclass(slots=True)
class Laying:
    """One pass that writes a worktree."""

    store: ObjectStore
    owner: tuple[int, int] | None
    """User and group that get what is written; None leaves our own."""
    fresh: list[Stamp] = field(default_factory=list)

    def lay(self, fd: int, known: Known, tree: bytes) -> None:
        """Make the open directory equal the tree exactly."""
        # Cleared first: should this pass fail half way, nobody may take the directory for any tree.
        known.tree, known.fresh = None, []
        self._own(fd, handles.DIRECTORY_MODE)
        self._lay(_Here(fd, known.root, b""), tree)
        self._done(fd, known, tree)

    def switch(self, fd: int, known: Known, tree: bytes) -> None:
        """Make the open directory, which equals `known.tree` exactly, equal another tree."""
        old, known.tree = known.tree, None
        if old is None:
            raise ValueError("switch needs a directory whose tree is known; use lay")
        if old != tree:
            self._switch(_Here(fd, known.root, b""), old, tree)
        self._done(fd, known, tree)

    def _done(self, fd: int, known: Known, tree: bytes) -> None:
        known.equals(fd, tree)
        known.fresh += self.fresh
        known.settle()

    def _lay(self, here: _Here, tree: bytes) -> None:
        want = self.store.tree(tree)
        here.node.tree = None
        present = {} if here.new else self._clear(here, want)
        here.node.files = {n: s for n, s in here.node.files.items() if n in present}
        here.node.dirs = {n: d for n, d in here.node.dirs.items() if n in present}
        for raw, entry in want.items():
            name = os.fsdecode(raw)
            if is_tree(entry):
                with self._directory(here, name, exists=name in present) as below:
                    self._lay(below, entry.oid)
            elif not self._untouched(here, name, entry, present.get(name)):
                self._replace(here, name, entry, exists=name in present)
        here.node.tree = tree

    def _clear(self, here: _Here, want: dict[bytes, Entry]) -> dict[str, os.stat_result]:
        """Remove what the tree does not have or has as another kind; return what stays, by name."""
        stay: dict[str, os.stat_result] = {}
        with os.scandir(here.fd) as entries:
            found = list(entries)
        for item in found:
            st = item.stat(follow_symlinks=False)
            entry = want.get(os.fsencode(item.name))
            # A submodule (160000) is a directory on disk too.
            if entry is not None and stat.S_ISDIR(st.st_mode) == (entry.mode & 0o040000 == 0o040000):
                stay[item.name] = st
            else:
                handles.remove(here.fd, item.name)
        return stay

    def _untouched(self, here: _Here, name: str, entry: Entry, st: os.stat_result | None) -> bool:
        stamp = here.node.files.get(name)
        if st is None or stamp is None or not stamp.believed or stamp.entry != entry or stamp.key != key_of(st):
            return False
        if self.owner is not None and (st.st_uid, st.st_gid) != self.owner:
            return False
        # A second name for the same inode would carry a later write to both.
        return entry.mode == SYMLINK or (st.st_nlink == 1 and stat.S_IMODE(st.st_mode) == _mode(entry))

    def _switch(self, here: _Here, old: bytes, new: bytes) -> None:
        before, after = self.store.tree(old), self.store.tree(new)
        here.node.tree = None
        for raw in before.keys() - after.keys():
            self._forget(here, os.fsdecode(raw))
        for raw, entry in after.items():
            was = before.get(raw)
            if was == entry:
                continue
            name = os.fsdecode(raw)
            if was is not None and is_tree(was) and is_tree(entry):
                with self._directory(here, name, exists=True) as below:
                    self._switch(below, was.oid, entry.oid)
            else:
                self._exchange(here, name, entry, exists=was is not None)
        here.node.tree = new

    def _exchange(self, here: _Here, name: str, entry: Entry, *, exists: bool) -> None:
        if not is_tree(entry):
            self._replace(here, name, entry, exists=exists)
            return
        if exists:
            self._forget(here, name)
        with self._directory(here, name, exists=False) as below:
            self._lay(below, entry.oid)

    def _forget(self, here: _Here, name: str) -> None:
        here.node.files.pop(name, None)
        here.node.dirs.pop(name, None)
        handles.remove(here.fd, name)

    @contextmanager
    def _directory(self, here: _Here, name: str, *, exists: bool) -> Iterator[_Here]:
        self._vet(here, name)
        if not exists:
            try:
                os.mkdir(name, handles.DIRECTORY_MODE, dir_fd=here.fd)
            except FileExistsError as error:
                raise _clash(here, name) from error
        with handles.child(here.fd, name) as fd:
            self._own(fd, handles.DIRECTORY_MODE)
            node = here.node.dirs.setdefault(name, Node())
            yield _Here(fd, node, here.prefix + os.fsencode(name) + b"/", new=not exists)

    def _replace(self, here: _Here, name: str, entry: Entry, *, exists: bool) -> None:
        """Write a file, a link or a submodule's empty directory in the place of whatever has that name."""
        self._vet(here, name)
        if exists:
            self._forget(here, name)
        if entry.mode == GITLINK:
            with self._directory(here, name, exists=False):
                return
        if entry.mode == SYMLINK:
            st = self._link(here, name, self.store.read(entry.oid))
        else:
            st = self._write(here, name, entry)
        # Not believed before the clock has moved on: a step that starts at once could write in this very tick.
        stamp = here.node.files[name] = Stamp(key_of(st), entry, believed=False)
        self.fresh.append(stamp)

    def _link(self, here: _Here, name: str, target: bytes) -> os.stat_result:
        try:
            os.symlink(target, os.fsencode(name), dir_fd=here.fd)
        except FileExistsError as error:
            raise _clash(here, name) from error
        if self.owner is not None:
            os.chown(name, *self.owner, dir_fd=here.fd, follow_symlinks=False)
        return os.stat(name, dir_fd=here.fd, follow_symlinks=False)

    def _write(self, here: _Here, name: str, entry: Entry) -> os.stat_result:
        if not is_file(entry):
            path = show(here.prefix + os.fsencode(name))
            raise WorkspaceError("unsafe", f"{path} has mode {entry.mode:o}, which no file can have.", files=(path,))
        try:
            fd = os.open(name, handles.CREATE_FLAGS, _mode(entry), dir_fd=here.fd)
        except FileExistsError as error:
            raise _clash(here, name) from error
        try:
            self.store.copy_to(entry.oid, fd)
            return self._own(fd, _mode(entry))
        finally:
            os.close(fd)

    def _own(self, fd: int, mode: int) -> os.stat_result:
        """Give an open file its owner and its permissions, whatever our umask is; return what it is then."""
        st = os.fstat(fd)
        foreign = self.owner is not None and (st.st_uid, st.st_gid) != self.owner
        if foreign and self.owner is not None:
            os.fchown(fd, *self.owner)
        # After the chown, which takes bits away.
        if stat.S_IMODE(st.st_mode) != mode:
            os.fchmod(fd, mode)
        elif not foreign:
            return st
        return os.fstat(fd)

    def _vet(self, here: _Here, name: str) -> None:
        # Raw trees are validated by nobody: a commit may ask for `../evil` or `.git/hooks/x`.
        raw = os.fsencode(name)
        reason = bad_name(raw)
        if here.prefix.count(b"/") >= MAX_DEPTH:
            reason = f"nested deeper than {MAX_DEPTH} directories"
        if reason:
            path = show(here.prefix + raw)
            raise WorkspaceError("unsafe", f"The commit holds {path}: {reason}. It is not written.", files=(path,))


def _clash(here: _Here, name: str) -> WorkspaceError:
    """Explain why a name that the directory does not have cannot be made."""
    path = show(here.prefix + os.fsencode(name))
    message = (
        f"{path} exists already under a name that differs only in case. "
        "Keep WORKFLOWMASTER_HOME on a file system that tells cases apart."
    )
    return WorkspaceError("case", message, files=(path,))


def _mode(entry: Entry) -> int:
    return handles.EXECUTABLE_MODE if entry.mode & 0o100 else handles.FILE_MODE
