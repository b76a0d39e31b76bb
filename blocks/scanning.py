"""Directory → tree: what a step left, read by code of our own.

Not `git add -A`, which stores a nested repository as a bare link and loses its files; not libgit2, which refuses
names that are not UTF-8. Everything that a tree can hold is taken as it is, bytes exact: no attribute, filter or
line-ending rule is looked at. What a tree cannot hold (FIFOs, sockets, devices, any form of `.git`) is left out and
reported, one line each. The price is a `stat` of every file at every snapshot, about five microseconds each.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workflowmaster.blocks import handles
from workflowmaster.blocks.looseobjects import hash_rest
from workflowmaster.blocks.objectstore import object_id
from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.stamps import Key, Known, Node, Stamp, kernel_now, key_of, settled
from workflowmaster.blocks.trees import (
    DIRECTORY,
    EXECUTABLE,
    FILE,
    GITLINK,
    MAX_DEPTH,
    SYMLINK,
    Entry,
    Listing,
    bad_name,
    case_clashes,
    show,
)

if TYPE_CHECKING:
    from workflowmaster.blocks.ignore import Rules
    from workflowmaster.blocks.objectstore import ObjectStore
    from workflowmaster.blocks.screening import Screen

MOST_TREES = 50_000
"""Trees whose submodules are remembered."""
MAX_PATH = 4095
"""Bytes of a path that git and most tools can still open."""

_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
# A file of another mode is the same file to a tree, but not to the next step in this directory.
_USUAL_MODES = frozenset({stat.S_IFREG | handles.FILE_MODE, stat.S_IFREG | handles.EXECUTABLE_MODE})


class Gitlinks:
    """Submodules of trees. A tree's answer is remembered, so the next tree costs only what differs."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._found: dict[bytes, tuple[tuple[bytes, bytes], ...]] = {}

    def by_directory(self, tree: bytes) -> dict[bytes, dict[str, bytes]]:
        """Return directory (`b"libs/"`, the root is empty) → name → commit id."""
        found: dict[bytes, dict[str, bytes]] = {}
        for path, commit in self._below(tree):
            parent, slash, name = path.rpartition(b"/")
            found.setdefault(parent + slash, {})[os.fsdecode(name)] = commit
        return found

    def _below(self, tree: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """Return (path, commit id) of every submodule in a tree."""
        if tree not in self._found:
            if len(self._found) > MOST_TREES:
                self._found.clear()
            links: list[tuple[bytes, bytes]] = []
            for name, entry in self._store.tree(tree).items():
                if entry.mode == GITLINK:
                    links.append((name, entry.oid))
                elif entry.mode == DIRECTORY:
                    links += [(name + b"/" + path, commit) for path, commit in self._below(entry.oid)]
            self._found[tree] = tuple(links)
        return self._found[tree]


@dataclass(frozen=True, slots=True)
class _Here:
    """The directory being read."""

    fd: int
    node: Node
    prefix: bytes
    """Its path with a slash at the end; empty for the root."""
    depth: int
    rules: Rules | None = None
    """Ignore rules that decide what is taken; None takes everything."""
    was: Listing = field(default_factory=dict)
    """What the tree the step started from says, for a directory that this process does not know."""

    def before(self, name: str) -> Entry | None:
        """Return what a name stood for when the step started, as far as we know."""
        stamp = self.node.files.get(name)
        return stamp.entry if stamp is not None else self.was.get(os.fsencode(name))

    def below(self, name: str, store: ObjectStore) -> Listing:
        """Return `was` of a directory in this one."""
        entry = self.was.get(os.fsencode(name))
        return store.tree(entry.oid) if entry is not None and entry.mode == DIRECTORY else {}


@dataclass(slots=True)
class Scan:
    """One pass over a worktree."""

    store: ObjectStore
    gitlinks: dict[bytes, dict[str, bytes]]
    """Submodules of the tree the step started from: directory (`b"libs/"`, the root is empty) → name → commit id."""
    most_bytes: int
    """Bytes that files may have grown by."""
    start: bytes | None = None
    """The tree the step started from; spares writing what it holds when the directory is not known."""
    rules: Rules | None = None
    """Ignore rules above the root; with them, ignored files are not taken."""
    screen: Screen | None = None
    """Looks for secrets in what is new or changed, before it is stored."""
    lend: bool = True
    """Whether to give ourselves a permission that an owner took away; never in a directory of the user's."""
    now: int = field(default_factory=kernel_now)
    findings: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    exact: bool = True
    """Whether the directory equals the tree to the last bit of mode, so that the next step may start by diff."""
    grown_bytes: int = 0
    total_bytes: int = 0
    """Bytes of all regular files."""

    def run(self, fd: int, known: Known, prefix: bytes = b"") -> bytes:
        """Return the id of the tree of an open directory, written to the store.

        `prefix` is where the directory lies (`b"libs/"`), for rules and findings.
        WorkspaceError `unreadable`, `size` or `disk`.
        """
        # In a directory we know the stamps say more than the tree does.
        was = self.store.tree(self.start) if self.start is not None and known.root.tree is None else {}
        oid = self._directory(_Here(fd, known.root, prefix, 0, self._rules_in(fd, prefix, self.rules), was))
        # Never skipped: a result that silently lacks files is worse than none.
        if self.unreadable:
            shown = ", ".join(sorted(self.unreadable)[:10])
            message = (
                f"The step left {len(self.unreadable)} paths that belong to another user and cannot be read: {shown}. "
                "Let it make them readable (chmod -R a+rX), or run WorkflowMaster as root."
            )
            raise WorkspaceError("unreadable", message, files=tuple(sorted(self.unreadable)[:10]))
        # Stamps that were waiting belong to files that foreign code has had since.
        known.tree, known.fresh = None, []
        if self.exact:
            known.equals(fd, oid)
        return oid

    def _directory(self, here: _Here) -> bytes:
        """Read one directory into its node and return its tree; an unchanged one costs its stats and nothing else."""
        # Read to the end first: the listing's own descriptor is closed before we go deeper.
        with os.scandir(here.fd) as entries:
            found = list(entries)
        old, now = here.node, Node()
        links = self.gitlinks.get(here.prefix, {})
        # Submodules stand in no stamp, so a directory with one is always written out; there are few.
        same = old.tree is not None and not links and len(found) == len(old.files) + len(old.dirs)
        for item in found:
            st = item.stat(follow_symlinks=False)
            if here.rules is not None and here.rules.ignores(
                here.prefix + os.fsencode(item.name), directory=stat.S_ISDIR(st.st_mode)
            ):
                continue
            if stat.S_ISDIR(st.st_mode):
                same = self._enter(here, item.name, st, now) and same
                continue
            stamp = old.files.get(item.name)
            if stamp is None or not stamp.believed or stamp.key != key_of(st):
                same = self._reread(here, item.name, st, now) and same
            else:
                now.files[item.name] = stamp
            if st.st_mode not in _USUAL_MODES or st.st_nlink > 1:
                # A hard link would carry one write to two names in a reused directory, and to one in a fresh one.
                self.exact = self.exact and stat.S_ISLNK(st.st_mode)
            self.total_bytes += st.st_size
        old.files, old.dirs = now.files, now.dirs
        if not same or old.tree is None:
            old.tree = self._write(old, here.prefix, links)
        return old.tree

    def _write(self, node: Node, prefix: bytes, links: dict[str, bytes]) -> bytes:
        listing: Listing = {os.fsencode(n): s.entry for n, s in node.files.items()}
        for name, below in node.dirs.items():
            is_link = name in links
            listing[os.fsencode(name)] = Entry(GITLINK, links[name]) if is_link else Entry(DIRECTORY, below.tree or b"")
        for clash in case_clashes(listing):
            names = " and ".join(show(prefix + n) for n in clash)
            self.findings.append(f"{names}: differ only in case, so some file systems cannot hold both")
        return self.store.write_tree(listing)

    def _enter(self, here: _Here, name: str, st: os.stat_result, into: Node) -> bool:
        """Read a subdirectory and return whether it is what it was."""
        path = here.prefix + os.fsencode(name)
        if reason := _unfit(path, name, here.depth):
            self._leave_out(path, reason)
            return False
        # The permissions of a directory are in no tree.
        if stat.S_IMODE(st.st_mode) != handles.DIRECTORY_MODE:
            self.exact = False
        node = here.node.dirs.get(name) or Node()
        before = node.tree
        try:
            with handles.child(here.fd, name, lend=self.lend) as fd:
                if name in self.gitlinks.get(here.prefix, {}):
                    self._submodule(fd, path)
                    node = Node()
                else:
                    rules = self._rules_in(fd, path + b"/", here.rules)
                    was = here.below(name, self.store)
                    self._directory(_Here(fd, node, path + b"/", here.depth + 1, rules, was))
        except PermissionError:
            # Only somebody else's: permissions on what is ours were lent.
            self.unreadable.append(show(path))
            return False
        into.dirs[name] = node
        return node.tree == before

    def _reread(self, here: _Here, name: str, st: os.stat_result, into: Node) -> bool:
        """Read a file whose stamp does not speak for it and return whether it is what it was."""
        old = here.node.files.get(name)
        stamp = self._file(here, name, st)
        if stamp is None:
            return False
        into.files[name] = stamp
        return old is not None and old.entry == stamp.entry

    def _submodule(self, fd: int, path: bytes) -> None:
        with os.scandir(fd) as entries:
            if any(True for _ in entries):
                self._leave_out(path, "content of a submodule; the commit it names is kept")

    @staticmethod
    def _rules_in(fd: int, prefix: bytes, rules: Rules | None) -> Rules | None:
        if rules is None:
            return None
        try:
            source = os.open(".gitignore", handles.READ_FLAGS, dir_fd=fd)
        except OSError:
            return rules
        try:
            return rules.below(
                prefix.rstrip(b"/"), os.read(source, 1 << 22) if stat.S_ISREG(os.fstat(source).st_mode) else None
            )
        finally:
            os.close(source)

    def _leave_out(self, path: bytes, reason: str) -> None:
        self.exact = False
        self.findings.append(f"{show(path)}: left out, {reason}")

    def _file(self, here: _Here, name: str, st: os.stat_result) -> Stamp | None:
        path = here.prefix + os.fsencode(name)
        if reason := _unfit(path, name, 0):
            self._leave_out(path, reason)
            return None
        before = here.before(name)
        if self.screen is not None and before is None:
            self.screen.path(path)
        if stat.S_ISLNK(st.st_mode):
            # The target is content like any other: where it leads is never asked.
            target = os.fsencode(os.readlink(name, dir_fd=here.fd))
            if self.screen is not None and (before is None or object_id("blob", target) != before.oid):
                self.screen.target(os.fsdecode(target), path)
            return self._stamp(key_of(st), Entry(SYMLINK, self.store.write("blob", target, held=_id(before))), before)
        if not stat.S_ISREG(st.st_mode):
            self._leave_out(path, f"a {_KINDS.get(stat.S_IFMT(st.st_mode), 'special file')}")
            return None
        try:
            source = handles.open_file(here.fd, name, lend=self.lend)
        except PermissionError:
            self.unreadable.append(show(path))
            return None
        try:
            return self._content(source, path, before, here.node.files.get(name))
        finally:
            os.close(source)

    def _content(self, source: int, path: bytes, before: Entry | None, old: Stamp | None) -> Stamp | None:
        # Looked at again through the descriptor: between name and open it may have become something else.
        st = os.fstat(source)
        if not stat.S_ISREG(st.st_mode):
            self._leave_out(path, "it changed its kind while it was read")
            return None
        self._grow(path, st.st_size - (old.key[1] if old is not None else 0))
        names = self.screen.content(source) if self.screen is not None else None
        # What the step found there is not its doing.
        if self.screen is not None and names and hash_rest(source, st.st_size) != _id(before):
            raise self.screen.refusal(names, path)
        # git knows one bit, the owner's; setuid and all else end here.
        mode = EXECUTABLE if st.st_mode & stat.S_IXUSR else FILE
        oid = self.store.write_file(source, st.st_size, held=_id(before))
        return self._stamp(key_of(st), Entry(mode, oid), before)

    def _grow(self, path: bytes, by: int) -> None:
        """Count growth before anything is read: a sparse file can be longer than the disk."""
        self.grown_bytes += max(by, 0)
        if self.grown_bytes > self.most_bytes:
            message = (
                f"The step's files grew by more than {self.most_bytes} bytes (the last one read: {show(path)}). "
                "Let it clean up, or raise the step's disk limit."
            )
            raise WorkspaceError("size", message, files=(show(path),))

    def _stamp(self, key: Key, entry: Entry, before: Entry | None) -> Stamp:
        if before is not None and before.oid == entry.oid and _same_kind(before.mode, entry.mode):
            # Old gits wrote 100664: an untouched file keeps the mode it came with.
            entry = before
        return Stamp(key, entry, settled(key[3], self.now))


def _unfit(path: bytes, name: str, depth: int) -> str:
    """Return why a name cannot be part of a tree, or an empty string."""
    if depth >= MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} directories"
    if len(path) > MAX_PATH:
        return f"path longer than {MAX_PATH} bytes"
    return bad_name(os.fsencode(name))


def _id(entry: Entry | None) -> bytes | None:
    return entry.oid if entry is not None else None


def _same_kind(old: int, new: int) -> bool:
    return old == new or (old & 0o170000 == new & 0o170000 and old & 0o100 == new & 0o100)
