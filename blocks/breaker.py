"""Circuit breakers for what lies outside: after some failures in a row nobody asks again until a look has succeeded.

The states and their changes are pybreaker's; what it counts is kept in a file, one for each service, so that runs side
by side learn from each other and `doctor` sees what they saw. The hard choice is that outcomes are told to a breaker
and calls are not wrapped in it: pybreaker holds its lock while the call lasts, and containers are started side by side
for half a second each. The cost is that a caller has to ask `state` first; there are two callers.

A file that is damaged counts as a closed breaker with nothing counted, and one that cannot be written as this process's
own: whoever is kept from working by a breaker must be kept from it by failures, never by the breaker's own trouble.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.blocks.home import home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pybreaker

State = Literal["closed", "half-open", "open"]

NAMES = ("engine", "github")
"""The services that have a breaker."""

THRESHOLD = 3
"""Failures in a row that open a breaker, where nothing is configured: the guide's number."""
SECONDS = 10.0
"""How long an open breaker keeps everybody away before one may look. A local engine restarts in less, and a look costs
it nothing."""

log = logging.getLogger(__name__)


class Kept(BaseModel):
    """What a breaker's file holds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = ""
    at: str = ""
    """Address of the service, where it is not the usual one."""
    state: State = "closed"
    failure_count: int = Field(default=0, ge=0)
    """Failures in a row."""
    since: float = 0.0
    """Unix time at which the state began; 0 for a breaker that has never been open."""
    seconds: float = Field(default=SECONDS, ge=0)
    """How long it stays open before a look."""
    threshold: int = THRESHOLD
    openings: int = 0
    """How often it has been opened, ever."""
    why: str = ""
    """The last failure, in one line."""

    def due(self, now: float) -> float:
        """Return the seconds until somebody may look; 0 for now. A clock that was set back keeps nobody away."""
        left = self.since + self.seconds - now
        return max(left, 0.0) if self.state == "open" and self.since <= now else 0.0

    def seen(self, now: float) -> State:
        """Return the state for whoever looks now: one that has been open for long enough waits for a look."""
        return "half-open" if self.state == "open" and not self.due(now) else self.state


class Breaker:
    """One service's breaker, for all threads and processes with this state directory."""

    def __init__(  # noqa: PLR0913 - each has a default that holds for everybody but tests
        self,
        name: str,
        *,
        threshold: int = THRESHOLD,
        seconds: float = SECONDS,
        at: str = "",
        folder: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.seconds, self.clock = name, seconds, clock
        self._store = _Store(file_of(name, at, folder), Kept(name=name, at=at, threshold=threshold), clock)

    @functools.cached_property
    def _breaker(self) -> pybreaker.CircuitBreaker:
        """The machine behind it, made when something has failed: its import takes longer than starting a container."""
        import pybreaker

        store = cast("pybreaker.CircuitBreakerStorage", self._store)
        return pybreaker.CircuitBreaker(
            self._store.fresh.threshold,
            self.seconds,
            state_storage=store,
            name=self.name,
            throw_new_error_on_trip=False,
        )

    @property
    def kept(self) -> Kept:
        """What is known of the service now."""
        return self._store.read()

    @property
    def state(self) -> State:
        """`closed`: go on. `open`: keep away for `wait` seconds. `half-open`: one may look, by `probe`."""
        return self.kept.seen(self.clock())

    @property
    def wait(self) -> float:
        """Seconds until somebody may look; 0 unless it is open."""
        return self.kept.due(self.clock())

    def failed(self, why: str) -> State:
        """Count a failure that was the service's own, and return the state it leads to."""
        with self._store.alone():
            # One that began before it was opened tells nothing new.
            if not self.wait:
                self._store.change(why=why.splitlines()[0][:300] if why else "", seconds=self.seconds)
                with contextlib.suppress(_Failure):
                    self._try_out()
                    self._breaker.call(_fail)
            return self.state

    def succeeded(self) -> None:
        """Count a success: whatever it was before, it works now. Nothing is written where nothing was wrong."""
        if self.kept.state == "closed" and not self.kept.failure_count:
            return
        with self._store.alone():
            if self.kept.state != "closed":
                self._breaker.half_open()
            self._breaker.call(_succeed)

    def rest(self, seconds: float, why: str) -> None:
        """Keep everybody away for as long as the service has asked for. It counts as no failure."""
        with self._store.alone():
            self._store.change(seconds=seconds, why=why.splitlines()[0][:300] if why else "")
            self._breaker.open()

    def probe(self, answers: Callable[[], bool]) -> bool:
        """Look whether the service answers, if it is time and nobody else is looking. Returns whether one may go on.

        `answers` may take its time: nobody is kept waiting by it.
        """
        if self.state == "closed":
            return True
        with self._store.looking() as mine:
            if not mine or self.wait:
                return False
            with self._store.alone():
                self._try_out()
            if answers():
                self.succeeded()
                return True
            self.failed(self.kept.why or "it does not answer")
            return False

    def _try_out(self) -> None:
        """Take an open breaker whose time is over to half-open, by our clock: pybreaker's cannot be given one."""
        if self.kept.state == "open":
            self._breaker.half_open()


class _Failure(Exception):
    """A failure that is told."""


def _fail() -> None:
    raise _Failure


def _succeed() -> None:
    return


class _Store:
    """What pybreaker counts, in a file: read anew each time, and changed by one process at a time.

    It has the methods of pybreaker's `CircuitBreakerStorage`, and is none, because that class comes with the import.
    """

    def __init__(self, file: Path, fresh: Kept, clock: Callable[[], float]) -> None:
        self._file, self.fresh, self._clock = file, fresh, clock
        self._gate, self._depth = threading.RLock(), 0
        self._unwritten: Kept | None = None

    def read(self) -> Kept:
        """Return what the file holds; of one that is missing or damaged, nothing."""
        return self._unwritten or read(self._file) or self.fresh

    def change(self, **fields: object) -> None:
        """Write some fields anew. What a disk does not take is kept in memory, for this process alone."""
        changed = self.read().model_copy(update={"threshold": self.fresh.threshold, **fields})
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._file, changed.model_dump_json(), durable=False)
            self._unwritten = None
        except OSError as error:
            # pybreaker asks for what it has just set, and would ask for ever if it did not get that.
            self._unwritten = changed
            log.warning("breaker %s is not kept: %s", self.fresh.name, error)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the file against other threads and processes, for the moment that a change takes."""
        with self._gate, contextlib.ExitStack() as held:
            if not self._depth:
                held.enter_context(_locked(self._file.with_suffix(".lock"), wait=True))
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    @contextlib.contextmanager
    def looking(self) -> Iterator[bool]:
        """Be the one who looks, and say whether one is: the kernel gives it back if we die meanwhile."""
        with _locked(self._file.with_suffix(".probe"), wait=False) as mine:
            yield mine

    # --- what pybreaker asks for ---

    @property
    def state(self) -> str:
        """The state's name."""
        return self.read().state

    @state.setter
    def state(self, state: str) -> None:
        kept = self.read()
        if state == "open":
            self.change(state=state, since=self._clock(), openings=kept.openings + 1)
        elif state != kept.state:
            self.change(state=state, since=self._clock())

    def increment_counter(self) -> None:
        """Count a failure."""
        self.change(failure_count=self.read().failure_count + 1)

    def reset_counter(self) -> None:
        """Forget the failures."""
        if self.read().failure_count:
            self.change(failure_count=0)

    @property
    def counter(self) -> int:
        """Failures in a row."""
        return self.read().failure_count

    def increment_success_counter(self) -> None:
        """Nothing: one success is enough, so there is nothing to count."""

    def reset_success_counter(self) -> None:
        """Nothing, for the same reason."""

    @property
    def success_counter(self) -> int:
        """As many as are enough."""
        return 1

    @property
    def opened_at(self) -> datetime | None:
        """When it was opened."""
        return datetime.fromtimestamp(self.read().since, UTC)

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        """Nothing: the state's own change notes it, by a clock that can be given."""


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file, and say whether we do. Where none can be made, everybody holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("%s cannot be locked: %s", path, error)
        yield True
        return
    try:
        yield _taken(handle, wait=wait)
    finally:
        os.close(handle)


def _taken(handle: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def file_of(name: str, at: str = "", folder: Path | None = None) -> Path:
    """Return where a breaker is kept. Each address has one of its own: one engine's outage is not another's."""
    mark = f"-{hashlib.sha256(at.encode()).hexdigest()[:8]}" if at else ""
    return (folder or home() / "breakers") / f"{name}{mark}.json"


def read(file: Path) -> Kept | None:
    """Read a breaker's file; None if it is missing or says nothing that can be believed."""
    try:
        return Kept.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def states(folder: Path | None = None, clock: Callable[[], float] = time.time) -> dict[str, dict[str, object]]:
    """Return every breaker by name with `failure_count`, `state`, `since`, `wait_seconds`, `openings` and `why`.

    `engine` and `github` are always there; one of another address has it behind its name: `engine tcp://build:2376`.
    Writes nothing.
    """
    now = clock()
    found = [read(path) for path in sorted((folder or home() / "breakers").glob("*.json"))]
    kept = [Kept(name=name) for name in NAMES] + [one for one in found if one and one.name]
    return {f"{one.name} {one.at}".strip(): _told(one, now) for one in kept}


def _told(kept: Kept, now: float) -> dict[str, object]:
    told = kept.model_dump(include={"failure_count", "since", "openings", "why", "threshold"})
    return {"state": cast("str", kept.seen(now)), **told, "wait_seconds": round(kept.due(now), 1)}
