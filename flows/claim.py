"""Who works on a workflow: one process, by a lock of the kernel's on this machine and an epoch on the Prefect server.

The lock is `flock` on a file of its own and not a file with a pid in it: the kernel frees it within milliseconds
however its holder ends, keeps it for one that is merely stopped, and cannot be fooled by a pid that is given out again.
What the file says about its holder is only told to people, and only while that process lives. The cost is that it needs
a file system that can lock, which is told where it cannot, and that it says nothing to another machine with a state
directory of its own: for that there are epochs (`epochs`), which a claim carries once the server has been asked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.trouble import SandboxUnavailable
from workflowmaster.flows import folders
from workflowmaster.flows.settings import home
from workflowmaster.flows.wording import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workflowmaster.flows.epochs import Tenure
    from workflowmaster.flows.folders import Folder

POLL = 0.05
"""Seconds between two looks at a lock that somebody holds. The kernel wakes nobody who may also give up."""

GRACE = 1.0
"""Seconds to wait for a lock whose holder does not say who it is: it is about to, or looks only for a moment."""

MOST = 4096
"""Bytes of a lock file that are read."""

CANNOT_LOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class NeedsPerson(RuntimeError):
    """The run cannot go on without a person: an agent to be named, an approval to be given, a claim to be freed."""


@dataclass(frozen=True)
class Holder:
    """Who holds, or held, a workflow."""

    owner: Owner
    since: float
    """Unix time, seconds; told to people, never compared."""
    epoch: int = 0
    """Number of its epoch on the Prefect server; 0 before the server was asked."""
    command: str = ""
    """The program and its first word, without arguments: those may be private."""
    released: bool = False
    """Whether it has given the workflow back; until then it holds it, or is dead."""

    @classmethod
    def me(cls, *, epoch: int = 0) -> Holder:
        """Return this process, as of now."""
        words = [Path(sys.argv[0]).name, *(word for word in sys.argv[1:2] if not word.startswith("-"))]
        return cls(Owner.me(), time.time(), epoch, " ".join(words)[:80])

    @classmethod
    def read(cls, text: bytes) -> Holder | None:
        """Read what a lock file says; None if nobody has written, or somebody is writing."""
        try:
            said = json.loads(text)
            owner = Owner(str(said["host"]), int(said["pid"]), str(said["started"]))
            known = float(said["since"]), int(said["epoch"]), str(said["command"])
            return cls(owner, *known, released=bool(said["released"]))
        except (ValueError, KeyError, TypeError):
            return None

    def text(self) -> bytes:
        """Spell it for the lock file."""
        said = asdict(self)
        return json.dumps({**said.pop("owner"), **said}).encode()

    def __str__(self) -> str:
        place = self.owner.host.partition("/")[0]
        return f"process {self.owner.pid} on {place} since {moment(self.since)}" + (
            f" ({self.command})" if self.command else ""
        )


class Claim:
    """A workflow held by this process, until it is closed or the process ends."""

    def __init__(self, workflow: str, handle: int, former: Holder | None = None) -> None:
        self.workflow = workflow
        self.former = former
        """Who held the lock before; since we hold it now, that process no longer works on this workflow."""
        self.holder = Holder.me(epoch=former.epoch if former else 0)
        self.fresh = False
        """Whether the workflow is new, so that nobody else can know of it."""
        self.rival = ""
        """Flow run of whoever holds the workflow, once that has refused it to us."""
        self.superseded: Owner | None = None
        """Whose epoch ended by its silence alone: it may be asleep, and what it left on our engine is not its own."""
        self.until = 0.0
        """When, on `time.monotonic`, waiting for a holder elsewhere ends; 0 is not to wait."""
        self.tell: Callable[[str], object] = lambda _: None
        """Called with what people should know while they wait."""
        self.tenure: Tenure | None = None
        """Its epoch on the Prefect server, once that has been asked for."""
        self._handle = handle

    @property
    def epoch(self) -> int:
        """Number of its epoch; 0 while it has none."""
        return self.tenure.number if self.tenure else 0

    @property
    def lost(self) -> str:
        """Why the workflow is no longer ours, in a sentence; empty while it is."""
        return self.tenure.lost if self.tenure else ""

    def leaves(self, engine: str) -> bool:
        """Whether the workflow was lost to somebody on this very engine, who may have adopted what runs there."""
        successor = self.tenure.successor if self.tenure else None
        return successor is not None and successor.engine == engine != ""

    async def must_hold(self, *, look: bool = False) -> None:
        """Go on only while the workflow is ours: the fence before go, before a result is kept, before publishing.

        Free while the last beat is fresh; with `look`, or when it is not, the server is asked. Of a claim that is lost
        it never returns: whoever lost it is cancelled. SandboxUnavailable if the server stays away for too long.
        """
        if self.tenure:
            await self.tenure.must_hold(look=look)

    def say(self, holder: Holder) -> None:
        """Write into the lock file who holds it."""
        self.holder, text = holder, holder.text()
        os.pwrite(self._handle, text, 0)
        os.ftruncate(self._handle, len(text))

    def close(self) -> None:
        """Give the lock back. What the file says stays: the next holder learns from it whose time is over."""
        if self._handle < 0:
            return
        # A full disk must not keep the lock; the worst that comes of it is one refusal that names us.
        with contextlib.suppress(OSError):
            self.say(replace(self.holder, released=True))
        os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_file(folder: Folder) -> Path:
    """Return the file whose lock is the claim: outside of the workflow's folder, which may be copied or removed."""
    return folder.path.parent.parent / "claims" / f"{folder.id}.lock"


def take(folder: Folder, *, wait: float = 0.0, tell: Callable[[str], object] = lambda _: None) -> Claim:
    """Claim a workflow for this process. NeedsPerson, with who holds it, if nobody ends within `wait` seconds.

    SandboxUnavailable where the state directory's file system cannot lock. `tell` hears what is waited for.
    """
    until = time.monotonic() + wait if wait else 0.0
    handle = _locked(folder, until, tell)
    try:
        claim = Claim(folder.id, handle, Holder.read(os.pread(handle, MOST, 0)))
        claim.fresh, claim.until, claim.tell = not folder.begun, until, tell
        claim.say(claim.holder)
    except BaseException:
        os.close(handle)
        raise
    return claim


@contextlib.contextmanager
def aside(folder: Folder) -> Iterator[None]:
    """Keep others away for a moment without claiming the workflow. NeedsPerson if somebody works on it."""
    handle = _locked(folder, 0.0, lambda _: None)
    try:
        yield
    finally:
        os.close(handle)


def claimed(folder: Folder) -> bool:
    """Return whether a living process holds the workflow on this machine."""
    return holder_of(folder) is not None


def holder_of(folder: Folder) -> Holder | None:
    """Return who holds the workflow on this machine; None if nobody does.

    A holder that does not say who it is, for it is just beginning, is a process 0.
    """
    path = lock_file(folder)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Shared, so that two who only look do not take each other for a holder.
        if _flock(path, handle, fcntl.LOCK_SH):
            return None
        return _living(handle) or Holder(Owner("", 0, ""), time.time())
    finally:
        os.close(handle)


def tidy() -> list[str]:
    """Remove the lock files of workflows that are no more; return those workflows' ids."""
    removed = []
    for path in sorted((home() / "claims").glob("*.lock")):
        folder = folders.Folder(folders.workflows() / path.stem)
        if folder.path.exists():
            continue
        # Under its own lock, and `_locked` looks again whether the file is still there.
        with contextlib.suppress(NeedsPerson, FileNotFoundError), aside(folder):
            if not folder.path.exists():
                path.unlink()
                removed.append(path.stem)
    return removed


def _locked(folder: Folder, until: float, tell: Callable[[str], object]) -> int:
    """Open and lock a workflow's lock file; wait until then, or a moment for one who does not say who it is."""
    path, told, unknown = lock_file(folder), "", time.monotonic() + GRACE
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _flock(path, handle, fcntl.LOCK_EX) and _same(path, handle):
                mine, handle = handle, -1
                return mine
            holder = _living(handle)
        finally:
            if handle >= 0:
                os.close(handle)
        if time.monotonic() >= max(until, 0.0 if holder else unknown):
            raise NeedsPerson(held(folder.id, holder))
        if holder and str(holder) != told:
            told = str(holder)
            tell(f"{folder.id} is held by {holder}; waiting{_how_long(until)}")
        time.sleep(POLL)


def held(workflow: str, holder: Holder | None, why: str = "") -> str:
    """Return the sentence that refuses a workflow that somebody else holds."""
    return (
        f"{workflow} is held by {holder or 'another process'}{why}. Wait until it ends (`--wait` waits for that), or "
        "stop it there: only one process works on a workflow"
    )


def _how_long(until: float) -> str:
    return " until it ends" if math.isinf(until) else f" {math.ceil(max(until - time.monotonic(), 0))} s for it"


def _living(handle: int) -> Holder | None:
    """Return whom a lock file names, unless that process is dead: then the present holder has not written yet."""
    holder = Holder.read(os.pread(handle, MOST, 0))
    return None if holder is None or holder.released or holder.owner.proven_dead() else holder


def _same(path: Path, handle: int) -> bool:
    """Whether the locked file is still the one of that name; it is not when it was tidied away meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _flock(path: Path, handle: int, kind: int) -> bool:
    """Try to lock. SandboxUnavailable where the file system has no locks."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise
        raise SandboxUnavailable(
            f"{path}: the file system cannot lock files ({error.strerror}), and without a lock two processes could work"
            " on one workflow. Put the state directory on a local disk (WORKFLOWMASTER_HOME), or mount its share with "
            "locks",
            reason="unsupported",
        ) from error
    return True
