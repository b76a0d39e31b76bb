"""Private commits → the user's branch: the same history without what `.gitignore` leaves out.

Each step stays one commit, because a reviewer reads a branch commit by commit; steps that changed nothing a reviewer
would see disappear, and joins that become plain with them. The rules are applied as `git add` would: a file that the
parent already has stays, whatever `.gitignore` says now. Writing is a pack in the user's object folder and then one
compare-and-swap of the ref. `git fetch` or `push` would run his reference-transaction and update hooks; a pack that
is there without its ref (we were killed in between) is dead weight that his next gc takes, and the repeated export
writes the same bytes again.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pygit2
from pygit2.enums import DiffOption

from workflowmaster.blocks.history import AUTHOR, History
from workflowmaster.blocks.ignore import EVERYTHING, Rules
from workflowmaster.blocks.objectstore import LARGE, Kind, ObjectStore
from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.trees import GITLINK, Entry, Listing, is_file, is_tree, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_TRAILER = re.compile(r"[A-Za-z][A-Za-z-]*: ")


@dataclass(slots=True)
class Rewrite:
    """The user's view of a history."""

    history: History
    message: str = ""
    """Last paragraph of every commit."""
    author: tuple[str, str] = AUTHOR
    made: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    """Commits written, with their parents, oldest first."""

    def run(self, tip: bytes) -> bytes:
        """Return the tip of the rewritten history; the root itself if nothing is left of it."""
        root = self.history.root
        # The user's own commits stay as they are, and everything above them is made new.
        mapped = {root: root}
        for commit in self.history.topological(tip):
            mapped[commit] = self._one(commit, [mapped[p] for p in self.history.parents(commit)])
        return mapped[tip]

    def _one(self, commit: bytes, parents: Sequence[bytes]) -> bytes:
        heads = self.history.heads(parents)
        before = tuple(self.history.tree_of(h) for h in heads)
        tree = visible(self.history.store, self.history.tree_of(commit), before, self.history.rules())
        # Nothing a reviewer would see; a join whose sides became one line disappears the same way.
        if len(heads) == 1 and tree == before[0]:
            return heads[0]
        new = self.history.commit(tree, heads, self._message(commit), author=self.author)
        self.made[new] = tuple(heads)
        return new

    def _message(self, commit: bytes) -> str:
        own, extra = self.history.message(commit).strip(), self.message.strip()
        last = own.rpartition("\n")[2]
        # Trailers belong into one paragraph, or git does not take them for trailers.
        both = "\n" if _TRAILER.match(last) and _TRAILER.match(extra) else "\n\n"
        return both.join(part for part in (own, extra) if part)


def visible(store: ObjectStore, tree: bytes, tracked: Sequence[bytes], rules: Rules) -> bytes:
    """Return the tree without ignored files that none of the `tracked` trees has, and without empty directories."""
    return _visible(store, tree, tracked, rules, b"") or store.write_tree({})


def _visible(store: ObjectStore, tree: bytes, tracked: Sequence[bytes], rules: Rules, path: bytes) -> bytes | None:
    # What the parent has already stays whatever the rules say, so an untouched folder is not even read.
    if tree in tracked:
        return tree
    listing = store.tree(tree)
    own = listing.get(b".gitignore")
    rules = rules.below(path, store.read(own.oid) if own is not None and is_file(own) else None)
    others = [store.tree(t) for t in tracked]
    kept: Listing = {}
    for name, entry in listing.items():
        there = [o[name] for o in others if name in o]
        full = path + b"/" + name if path else name
        if not is_tree(entry):
            if any(not is_tree(t) for t in there) or not rules.ignores(full, directory=entry.mode == GITLINK):
                kept[name] = entry
            continue
        below = [t.oid for t in there if is_tree(t)]
        ignored = rules.ignores(full, directory=True)
        # An ignored folder is entered only for the tracked files in it.
        if below or not ignored:
            oid = _visible(store, entry.oid, below, EVERYTHING if ignored else rules, full)
            if oid is not None:
                kept[name] = Entry(entry.mode, oid)
    return store.write_tree(kept) if kept else None


def objects_of(rewrite: Rewrite) -> dict[bytes, Kind]:
    """Return what the rewritten history adds to the root: its commits, trees and blobs."""
    history = rewrite.history
    found: dict[bytes, Kind] = dict.fromkeys(rewrite.made, "commit")
    for commit, parents in rewrite.made.items():
        known = [history.tree_of(p) for p in parents]
        _collect(history.store, history.tree_of(commit), known, found)
    return found


def objects_above(store: ObjectStore, tree: bytes, known: Sequence[bytes]) -> dict[bytes, Kind]:
    """Return a tree's trees and blobs, except what stands at the same path in one of the `known` trees."""
    found: dict[bytes, Kind] = {}
    _collect(store, tree, known, found)
    return found


def _collect(store: ObjectStore, tree: bytes, known: Sequence[bytes], found: dict[bytes, Kind]) -> None:
    if tree in known or tree in found:
        return
    found[tree] = "tree"
    others = [store.tree(t) for t in known]
    for name, entry in store.tree(tree).items():
        there = [o[name] for o in others if name in o]
        # At the same path in a parent it is there already; elsewhere a second copy does no harm.
        if entry in there or entry.mode == GITLINK:
            continue
        if is_tree(entry):
            _collect(store, entry.oid, [t.oid for t in there if is_tree(t)], found)
        else:
            found[entry.oid] = "blob"


def write_objects(store: ObjectStore, oids: Iterable[bytes], objects: Path) -> list[Path]:
    """Add objects to an object folder: one pack, and files of their own for the large ones. Return what was written.

    libgit2 packs in memory, so a large object is copied as the loose file it already is.
    """
    written: list[Path] = []
    # libgit2's builder and not our own: this pack stays with the user, so its deltas are worth their time.
    builder = pygit2.PackBuilder(store.repo)
    for oid in oids:
        copied = copy_large(store, oid, objects)
        written += copied
        if not copied:
            builder.add(pygit2.Oid(raw=oid))
    if len(builder):
        pack = objects / "pack"
        before = set(pack.iterdir()) if pack.is_dir() else set()
        builder.write(str(pack))
        written += [p for p in pack.iterdir() if p not in before]
    return written


def copy_large(store: ObjectStore, oid: bytes, objects: Path) -> list[Path]:
    """Copy an object into another object folder if it is a large file of its own; return the copy, or nothing."""
    source = store.loose_path(oid)
    if source is None or source.stat().st_size < LARGE // 64 or store.size(oid) < LARGE:
        return []
    target = objects / source.parent.name / source.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copyfile(source, temporary)
        # As git leaves its own objects.
        temporary.chmod(0o444)
        temporary.replace(target)
    return [target.parent, target]


def swap_ref(repo: pygit2.Repository, name: str, new: bytes, expected: str | None) -> None:
    """Point a branch at a commit if it is absent, already there, or still at `expected`.

    WorkspaceError `branch` if it is anything else, or if a working tree of the user has it checked out.
    """
    target = pygit2.Oid(raw=new)
    # git takes a leading dash for an option, so a branch of that name could not be used.
    if not pygit2.reference_is_valid_name(name) or _short(name).startswith("-") or _short(name) == "HEAD":
        raise _refused(name, "is no branch name that git accepts. Choose another branch name.")
    try:
        ref = repo.lookup_reference(name)
    except KeyError:
        _create(repo, name, target)
        return
    # An export repeated after it was cut short.
    if ref.target == target:
        return
    if expected is None or str(ref.target) != expected:
        raise _refused(name, f"exists already, at {ref.target}. Choose another branch name, or delete it.")
    if _checked_out(repo, name):
        raise _refused(name, "is checked out, and moving it would change what `git status` says. Switch away from it.")
    try:
        # libgit2 writes only if the ref still has the value it was read with.
        ref.set_target(target)
    except (ValueError, OSError, pygit2.GitError) as error:
        raise _refused(name, f"was moved by somebody else just now: {error}. Look at it, then run again.") from error


def _refused(name: str, why: str) -> WorkspaceError:
    return WorkspaceError("branch", f"Branch {_short(name)} {why}")


def _create(repo: pygit2.Repository, name: str, target: pygit2.Oid) -> None:
    try:
        repo.create_reference(name, target, force=False)
    except (ValueError, OSError, pygit2.GitError) as error:
        raise _refused(name, f"cannot be created: {error}. Choose another branch name.") from error


def _checked_out(repo: pygit2.Repository, name: str) -> bool:
    branch = repo.lookup_branch(_short(name))
    return branch is not None and branch.is_checked_out()


def _short(name: str) -> str:
    return name.removeprefix("refs/heads/")


def make_patch(store: ObjectStore, old: bytes, new: bytes) -> bytes:
    """Return the difference of two trees as `git apply` takes it, binary files included."""
    patches = _diff(store, old, new)
    return b"".join(bytes(p.data) for p in patches)


def _diff(store: ObjectStore, old: bytes, new: bytes) -> list[pygit2.Patch]:
    diff = store.tree_object(old).diff_to_tree(store.tree_object(new), flags=DiffOption.SHOW_BINARY)
    return [p for p in diff if p is not None]


@dataclass(frozen=True)
class ChangedFile:
    """One file of the outcome, for reports."""

    path: str
    """Control characters and undecodable bytes are escaped."""
    status: str
    """`A` added, `M` modified, `D` deleted, `T` changed its kind."""
    additions: int
    """Lines; 0 for binary files."""
    deletions: int


def changes(store: ObjectStore, old: bytes, new: bytes) -> list[ChangedFile]:
    """Return what changed between two trees, by path."""
    found = []
    for patch in _diff(store, old, new):
        _, added, removed = patch.line_stats
        file = patch.delta.old_file if patch.delta.status_char() == "D" else patch.delta.new_file
        found.append(ChangedFile(show(file.raw_path), patch.delta.status_char(), added, removed))
    return sorted(found, key=lambda c: c.path)
