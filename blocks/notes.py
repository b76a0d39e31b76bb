"""A git note on a commit in the user's repository, which travels with it and which `git log --notes` shows.

A note changes no commit and no branch: it is a ref of its own, `refs/notes/workflowmaster`, with a history of its own,
so what was once written there stays to be found. libgit2 writes it: no hook runs, and the ref moves only from where it
was when the note was made, so two runs that end at the same moment do not lose each other's.
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
            oid = user.repo.create_note(text, who, who, commit, REF, True)
        except (pygit2.GitError, ValueError, KeyError, OSError) as error:
            trouble = error
            continue
        _own(user, oid)
        return
    raise WorkspaceError("note", f"The note of {commit} in {user.root} cannot be written: {trouble}") from trouble


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
