"""The workspace's one error.

One class with a `code` instead of a family of classes: callers tell cases apart in two places only (a conflict and a
dirty workspace), everybody else prints the message. The price is a word that mypy cannot check; the list below is
complete.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class WorkspaceError(RuntimeError):
    """The workspace cannot be used as asked. `code` names the case, `files` the paths it is about.

    Codes: dirty, unborn, sha256, reftable, partial, bare, owner, broken, base, branch, conflict, unreadable, unsafe,
    case, size, disk, filter, index, inputs, mounted, secret.
    """

    def __init__(self, code: str, message: str, *, files: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.files = files


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn a full disk or quota into a WorkspaceError that says where."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"No space left while writing {where}. Free some, then `workflowmaster resume` goes on from here."
        raise WorkspaceError("disk", message) from error
