"""A git note on a commit in the user's repository, which travels with it and which `git log --notes` shows.

A note changes no commit and no branch: it is a ref of its own, `refs/notes/workflowmaster`, with a history of its own,
so what was once written there stays to be found. The objects are made here and the ref is moved by compare-and-swap: no
hook runs, and two runs that end at the same moment do not lose each other's. libgit2's own `create_note` does: it reads
the ref, and writes it whatever it has become meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pygit2

from workflowmaster.blocks import userrepo
from workflowmaster.blocks.history import AUTHOR
from workflowmaster.blocks.refusal import WorkspaceError

if TYPE_CHECKING:
    from pathlib import Path

REF = "refs/notes/workflowmaster"
_TRIES = 8
"""How often a note is written anew because another run's came in between."""


def write(workspace: Path, commit: str, text: str) -> None:
    """Write the note of a commit, over an older one of ours. WorkspaceError `note` if it cannot be written."""
    user = userrepo.find(workspace)
    if user is None:
        return
    if commit not in user.repo:
        # git would write it all the same, and nobody would ever see it.
        raise WorkspaceError("note", f"The note of {commit} cannot be written: {user.root} has no such commit.")
    who = pygit2.Signature(*AUTHOR)
    trouble: Exception | None = None
    for _ in range(_TRIES):
        try:
            oid = _added(user.repo, commit, text, who)
        except (pygit2.GitError, ValueError, KeyError, OSError) as error:
            trouble = error
            continue
        _own(user, oid)
        return
    raise WorkspaceError("note", f"The note of {commit} in {user.root} cannot be written: {trouble}") from trouble


def _added(repo: pygit2.Repository, commit: str, text: str, who: pygit2.Signature) -> pygit2.Oid:
    """Add a note and return its blob. Raises where the ref was moved meanwhile."""
    before = repo.references.get(REF)
    tip = before.peel(pygit2.Commit) if before else None
    tree = repo.TreeBuilder(tip.tree) if tip else repo.TreeBuilder()
    blob = repo.create_blob(text.encode())
    # By its whole name: git spreads notes over folders only to be faster with thousands, and reads either form.
    tree.insert(commit, blob, pygit2.enums.FileMode.BLOB)
    made = repo.create_commit(None, who, who, f"Note of {commit}\n", tree.write(), [tip.id] if tip else [])
    if before:
        before.set_target(made)
    else:
        repo.create_reference(REF, made, force=False)
    return blob


def read(workspace: Path, commit: str) -> str | None:
    """Return the note of a commit; None if it has none. WorkspaceError if the repository cannot be used."""
    user = userrepo.find(workspace)
    if user is None:
        return None
    try:
        return str(user.repo.lookup_note(commit, REF).message)
    except (pygit2.GitError, ValueError, KeyError):
        return None


def _own(user: userrepo.UserRepo, oid: pygit2.Oid) -> None:
    """Give what was written to the owner of the repository: the ref, and the objects it took."""
    user.own_ref(REF)
    tip = user.repo.lookup_reference(REF).peel(pygit2.Commit)
    paths = [user.objects / text[:2] / text[2:] for text in map(str, (oid, tip.id, tip.tree_id))]
    user.own([one for path in paths if path.exists() for one in (path.parent, path)])
