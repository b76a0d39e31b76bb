"""Whether commits are still there, asked from outside of any run."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from workflowmaster.blocks.objectstore import ObjectStore
from workflowmaster.blocks.refusal import WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def missing(git_dir: Path, commits: Iterable[str]) -> dict[str, str]:
    """Return the commits (hexadecimal) that cannot be read, or whose tree cannot, each with the reason.

    What lies deeper is found out when a step is laid out from it: to read all of it would take as long as the run.
    """
    if not (git_dir / "HEAD").exists():
        return dict.fromkeys(commits, f"{git_dir.name} is no git repository any more")
    objects = ObjectStore(git_dir)
    found: dict[str, str] = {}
    for commit in commits:
        try:
            words = objects.read(bytes.fromhex(commit)).split(maxsplit=2)
            objects.tree(bytes.fromhex(words[1].decode()))
        except (WorkspaceError, ValueError, IndexError, OSError, zlib.error) as error:
            # A damaged object file ends in any of these, according to where it was hit.
            found[commit] = str(error)
    return found
