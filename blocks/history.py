"""The private commits of one workflow: a small graph on top of the user's commit.

Ids must be equal for equal work, also on another machine and another day. So author and date are constants of the
base commit, parents stand in the plan's order, and a step that changed nothing gets no commit of its own but keeps
the one it started from. No walk ever goes below the root: what lies there may be missing (shallow clones), and
libgit2's own merge-base would look.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workflowmaster.blocks.joining import Join, conflict_between
from workflowmaster.blocks.trees import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from workflowmaster.blocks.ignore import Rules
    from workflowmaster.blocks.objectstore import ObjectStore

AUTHOR = ("WorkflowMaster", "workflowmaster@localhost")
"""Name and mail in commits that nobody else signs."""
_DATE = re.compile(rb"^committer .*> (\d+) ([+-]\d{4})$", re.MULTILINE)
_UNSAFE = re.compile(r"[\x00-\x1f<>]+")


@dataclass(slots=True)
class History:
    """Commits of one store above `root`, the user's commit."""

    store: ObjectStore
    root: bytes
    rules: Callable[[], Rules]
    project: bytes = b""
    """Tree of the workflow's base."""
    findings: list[str] = field(default_factory=list)
    """What the last merge decided by itself, one line each."""
    _parsed: dict[bytes, tuple[bytes, tuple[bytes, ...], bytes]] = field(default_factory=dict)
    _when: bytes = b""

    def tree_of(self, commit: bytes) -> bytes:
        """Return a commit's tree."""
        return self._head(commit)[0]

    def parents(self, commit: bytes) -> tuple[bytes, ...]:
        """Return a commit's parents; the root has none here."""
        return () if commit == self.root else self._head(commit)[1]

    def message(self, commit: bytes) -> str:
        """Return a commit's message."""
        return self._head(commit)[2].decode("utf-8", "replace")

    def commit(self, tree: bytes, parents: Sequence[bytes], message: str, *, author: tuple[str, str] = AUTHOR) -> bytes:
        """Store a commit and return its id: a function of these arguments and of the root's date."""
        name, mail = (" ".join(_UNSAFE.sub(" ", part).split()) for part in author)
        signed = f"{name} <{mail}> ".encode() + self._date()
        lines = [b"tree " + tree.hex().encode()]
        lines += [b"parent " + p.hex().encode() for p in parents]
        lines += [b"author " + signed, b"committer " + signed]
        # A NUL would end the message for git.
        body = message.replace("\0", "").strip() + "\n"
        return self.store.write("commit", b"\n".join(lines) + b"\n\n" + body.encode("utf-8", "replace"))

    def ancestors(self, *commits: bytes) -> set[bytes]:
        """Return these commits and all they descend from, down to the root."""
        seen: set[bytes] = set()
        todo = list(commits)
        while todo:
            commit = todo.pop()
            if commit not in seen:
                seen.add(commit)
                todo += self.parents(commit)
        return seen

    def topological(self, tip: bytes) -> list[bytes]:
        """Return the commits above the root that `tip` descends from, itself included, parents first."""
        order: dict[bytes, None] = {}
        todo = [tip]
        while todo:
            commit = todo[-1]
            # Not recursive: a chain of a thousand steps is as deep as it is long.
            waiting = [p for p in self.parents(commit) if p not in order and p != self.root]
            if commit in order or commit == self.root:
                todo.pop()
            elif waiting:
                todo += reversed(waiting)
            else:
                order[todo.pop()] = None
        return list(order)

    def heads(self, commits: Iterable[bytes]) -> list[bytes]:
        """Return the commits that no other of them descends from, in order, once each."""
        unique = list(dict.fromkeys(commits))
        if len(unique) == 1:
            return unique
        older = self.ancestors(*(p for c in unique for p in self.parents(c)))
        return [c for c in unique if c not in older]

    def merge(self, commits: Sequence[tuple[str, bytes]], message: str) -> bytes:
        """Join commits in the plan's order into one commit; MergeConflict names the files and both steps."""
        self.findings.clear()
        heads = self.heads(c for _, c in commits)
        if len(heads) == 1:
            return heads[0]
        # A commit that several steps ended with is named after the first of them.
        named = dict(reversed([(c, s) for s, c in commits]))
        tree = self._fold([(named[c], c) for c in heads])
        return self.commit(tree, heads, message)

    def _fold(self, heads: Sequence[tuple[str, bytes]]) -> bytes:
        (step, first), *rest = heads
        tree, behind = self.tree_of(first), self.ancestors(first)
        merged = [(step, tree)]
        for step, commit in rest:
            line = self.ancestors(commit)
            join = Join(self.store, self.project, self.rules)
            base, theirs = self._base_tree(behind & line), self.tree_of(commit)
            result = join.trees(base, tree, theirs)
            if join.conflicts:
                raise conflict_between(join, merged, base=base, ours=tree, theirs=step)
            self._report(join, step)
            tree, behind = result, behind | line
            merged.append((step, theirs))
        return tree

    def _report(self, join: Join, step: str) -> None:
        if join.overruled:
            some = ", ".join(show(p) for p in join.overruled[:3])
            more = f" and {len(join.overruled) - 3} more" if len(join.overruled) > 3 else ""
            self.findings.append(f"{some}{more}: ignored files that several steps changed, taken from {step}")

    def _base_tree(self, common: set[bytes]) -> bytes:
        """Return the tree that both sides started from.

        Several best common ancestors (two joins of the same steps in different company) are merged first, as git's
        recursive strategy does; where they conflict among themselves the root stands in, which can only report more
        conflicts, never hide one.
        """
        older = {p for c in common for p in self.parents(c)}
        # Common ancestors are closed downwards, so the best are those that are nobody's parent. Sorted, for equal ids.
        best = sorted(common - older)
        if not best:
            return self.tree_of(self.root)
        tree, behind = self.tree_of(best[0]), self.ancestors(best[0])
        for commit in best[1:]:
            line = self.ancestors(commit)
            join = Join(self.store, self.project, self.rules)
            tree = join.trees(self._base_tree(behind & line), tree, self.tree_of(commit))
            if join.conflicts:
                return self.tree_of(self.root)
            behind |= line
        return tree

    def _head(self, commit: bytes) -> tuple[bytes, tuple[bytes, ...], bytes]:
        found = self._parsed.get(commit)
        if found is None:
            # A signature's lines begin with a space and hold no empty line, so the first one ends the head.
            head, _, message = self.store.read(commit).partition(b"\n\n")
            lines = [line.split(b" ", 1) for line in head.split(b"\n")]
            parents = tuple(bytes.fromhex(v.decode()) for k, v in (x for x in lines if len(x) == 2) if k == b"parent")
            found = self._parsed[commit] = (bytes.fromhex(lines[0][1].decode()), parents, message)
        return found

    def _date(self) -> bytes:
        if not self._when:
            # Without a root there is nothing that is equal on every machine but the epoch.
            match = _DATE.search(self.store.read(self.root).partition(b"\n\n")[0]) if self.root else None
            self._when = b" ".join(match.groups()) if match else b"0 +0000"
        return self._when
