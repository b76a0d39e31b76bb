"""Several steps' trees → one: a three-way merge on tree objects, in the plan's order.

Not libgit2's `merge_commits`: it goes through an index, which has no place for empty directories, and it knows
nothing of ignored files. Walking the trees ourselves touches only what differs, keeps every entry as it is, and lets
the two kinds of content have their own rule: a file that belongs to the project is merged line by line or is a
conflict that names both steps; a file that `.gitignore` leaves out (a cache, `.venv`) is never merged by lines, and
where both sides changed it the later step in the plan wins, with a finding. The cost: a file that one step renamed
and another edited is a conflict, because renames are not looked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.trees import DIRECTORY, EMPTY_TREE, FILE, Entry, Listing, is_file, is_tree, show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pygit2

    from workflowmaster.blocks.ignore import Rules
    from workflowmaster.blocks.objectstore import ObjectStore

_MERGED = b"file"


class MergeConflict(WorkspaceError):
    """Two steps changed the same files in ways that cannot both hold.

    `files` are the paths; `ours` and `theirs` the ids of the earlier and the later step in the plan.
    """

    def __init__(self, files: tuple[str, ...], ours: str, theirs: str) -> None:
        shown = ", ".join(files[:10]) + (f" and {len(files) - 10} more" if len(files) > 10 else "")
        message = (
            f"Steps {ours} and {theirs} both changed {shown}. "
            f"Let {theirs} need {ours}, so that it starts from its result, or let them change different files."
        )
        super().__init__("conflict", message, files=files)
        self.ours = ours
        self.theirs = theirs


@dataclass(frozen=True, slots=True)
class Sides:
    """One path in the common ancestor and on both sides; None where it is not."""

    base: Entry | None
    ours: Entry | None
    theirs: Entry | None


@dataclass(slots=True)
class Join:
    """One merge of two trees over their common ancestor."""

    store: ObjectStore
    project: bytes
    """Tree of the workflow's base: what it holds is part of the project, whatever the ignore rules say."""
    rules: Callable[[], Rules]
    """Ignore rules above the root, asked for only when a file was changed on both sides."""
    conflicts: list[bytes] = field(default_factory=list)
    overruled: list[bytes] = field(default_factory=list)
    """Ignored files that both sides changed; theirs was taken."""

    def trees(self, base: bytes, ours: bytes, theirs: bytes) -> bytes:
        """Return the merged tree. Conflicting paths are noted and left as ours has them."""
        tops = Sides(Entry(DIRECTORY, base), Entry(DIRECTORY, ours), Entry(DIRECTORY, theirs))
        merged = self._entry(tops, b"", None)
        return merged.oid if merged else EMPTY_TREE

    def _entry(self, sides: Sides, path: bytes, rules: Rules | None) -> Entry | None:
        # Equal ids are equal content, so a whole folder is decided without being read.
        if sides.theirs in (sides.ours, sides.base):
            return sides.ours
        if sides.base == sides.ours:
            return sides.theirs
        # A folder that one side removed is looked into as well, so that a conflict names the file and not the folder.
        if all(side is None or is_tree(side) for side in (sides.ours, sides.theirs)):
            return self._directory(sides, path, rules)
        return self._both_changed(sides, path, rules)

    def _directory(self, sides: Sides, path: bytes, rules: Rules | None) -> Entry | None:
        base, ours, theirs = self._listing(sides.base), self._listing(sides.ours), self._listing(sides.theirs)
        inner = _Lazy(self, rules, path, (ours, theirs))
        merged: Listing = {}
        for name in sorted(base.keys() | ours.keys() | theirs.keys()):
            below = Sides(base.get(name), ours.get(name), theirs.get(name))
            # The two plain cases are decided here: asking `_entry` would read the ignore rules for nothing.
            if below.theirs in (below.ours, below.base):
                entry = below.ours
            elif below.base == below.ours:
                entry = below.theirs
            else:
                entry = self._entry(below, path + b"/" + name if path else name, inner.get())
            if entry is not None:
                merged[name] = entry
        if not merged and None in (sides.ours, sides.theirs):
            return None
        return Entry(DIRECTORY, self.store.write_tree(merged))

    def _listing(self, entry: Entry | None) -> Listing:
        return self.store.tree(entry.oid) if entry is not None and is_tree(entry) else {}

    def _both_changed(self, sides: Sides, path: bytes, rules: Rules | None) -> Entry | None:
        directory = is_tree(sides.ours) or is_tree(sides.theirs)
        # At the root there are no rules yet, and nothing above the root could leave it out.
        if rules is not None and self._left_out(path, rules, directory=directory):
            self.overruled.append(path)
            return sides.theirs
        merged = self._content(sides)
        if merged is None:
            self.conflicts.append(path)
            return sides.ours
        return merged

    def _left_out(self, path: bytes, rules: Rules, *, directory: bool) -> bool:
        # Tracked is tracked, as for git.
        if self.store.entry(self.project, path) is not None:
            return False
        parts = path.split(b"/")
        above = (b"/".join(parts[:n]) for n in range(1, len(parts)))
        return any(rules.ignores(p, directory=True) for p in above) or rules.ignores(path, directory=directory)

    def _content(self, sides: Sides) -> Entry | None:
        """Merge a file's lines, or return None where that cannot be done."""
        base, ours, theirs = sides.base, sides.ours, sides.theirs
        if ours is None or theirs is None or not (is_file(ours) and is_file(theirs)):
            return None
        # A link or folder that both sides made a file: there are no lines they share.
        if base is not None and not is_file(base):
            return None
        # The x bit merges on its own: whoever changed it has his way.
        before = base.mode if base is not None else ours.mode
        mode = theirs.mode if ours.mode == before else ours.mode
        if ours.oid == theirs.oid:
            return Entry(mode, ours.oid)
        index = self.store.repo.merge_trees(self._alone(base), self._alone(ours), self._alone(theirs))
        if index.conflicts is not None:
            return None
        merged = index[_MERGED.decode()].id.raw
        # libgit2 leaves the result out where the user's repository happens to hold it, reachable or not.
        return Entry(mode, self.store.write("blob", self.store.read(merged)))

    def _alone(self, entry: Entry | None) -> pygit2.Tree:
        """Return a tree with this one file: libgit2 then merges its lines and nothing else."""
        only = {} if entry is None else {_MERGED: Entry(FILE, entry.oid)}
        return self.store.tree_object(self.store.write_tree(only))


@dataclass(slots=True)
class _Lazy:
    """The ignore rules inside one directory, read when first asked for. The later side's `.gitignore` counts."""

    join: Join
    above: Rules | None
    path: bytes
    listings: tuple[Listing, Listing]
    found: Rules | None = None

    def get(self) -> Rules:
        if self.found is None:
            above = self.above if self.above is not None else self.join.rules()
            own = self.listings[1].get(b".gitignore") or self.listings[0].get(b".gitignore")
            content = self.join.store.read(own.oid) if own is not None and is_file(own) else None
            self.found = above.below(self.path, content)
        return self.found


def conflict_between(
    join: Join, merged: Sequence[tuple[str, bytes]], *, base: bytes, ours: bytes, theirs: str
) -> MergeConflict:
    """Say which earlier step holds the other side of a conflict, and in which files.

    `merged` are (step id, tree) of the steps joined so far, in plan order, `ours` is their merged tree and `base` what
    it was merged over. Files in conflict with other steps than the first file's are left for the next attempt to name.
    """
    entry = join.store.entry

    def owner(path: bytes) -> str:
        held, before = entry(ours, path), entry(base, path)
        for step, tree in reversed(merged):
            if entry(tree, path) == held:
                return step
        # Lines of several steps: the last that touched the file.
        return next((step for step, tree in reversed(merged) if entry(tree, path) != before), merged[-1][0])

    first = owner(join.conflicts[0])
    return MergeConflict(tuple(show(p) for p in join.conflicts if owner(p) == first), first, theirs)
