"""Wraps the calls at which a process can be torn apart: the engine's, git's, Prefect's, the records' and the audit's.

Used in a child process only, on the real code, before anything of it has run. Each passage is written to a trace with
one `write`, so that a killed process leaves all it has passed; at the drawn passage the process kills itself, in the
very thread that passes. Nothing in the product knows of this, and what is wrapped is found by looking, not listed: a
method added to `Engine` or `Store` tomorrow is a boundary tomorrow.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import inspect
import os
import re
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.machinery import ModuleSpec
    from types import ModuleType

VARIABLE = re.compile(r"(?<=/name/)[^/]+|[0-9a-f]{8}-[0-9a-f-]{27}|(?<=\.)[0-9a-f]{8,}|[0-9a-f]{16,}|\d+")
"""Parts of a path that differ from run to run: names, ids, keys, counts."""

QUIET = frozenset({"close", "client", "info"})
"""Methods that ask nobody."""


class Fuse:
    """Counts the passages of each boundary, and blows at one of them."""

    def __init__(self, trace: Path, kill: str = "", at: int = 1) -> None:
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._kill, self._at = kill, at
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def passes(self, name: str, harm: Callable[[], object] = lambda: None) -> None:
        """Write a passage down; if it is the drawn one, do what harm belongs to it and die."""
        with self._lock:
            self._counts[name] += 1
            os.write(self._trace, f"{name}\n".encode())
            if name == self._kill and self._counts[name] == self._at:
                harm()
                os.write(self._trace, b"KILLED\n")
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        """Return a call with its two boundaries; `name` makes their common part from the call's arguments."""
        if inspect.iscoroutinefunction(call):

            @functools.wraps(call)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with self.both(name(*args, **kwargs)):
                    return await call(*args, **kwargs)

            return awaited
        if inspect.isgeneratorfunction(inspect.unwrap(call)):
            return self._generating(call, name)

        @functools.wraps(call)
        def called(*args: Any, **kwargs: Any) -> Any:
            with self.both(name(*args, **kwargs)):
                return call(*args, **kwargs)

        return called

    def _generating(self, call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        if hasattr(call, "__wrapped__"):  # a context manager: its two ends are the caller's, its start is ours

            @functools.wraps(call)
            @contextlib.contextmanager
            def managed(*args: Any, **kwargs: Any) -> Iterator[Any]:
                with self.both(name(*args, **kwargs)), call(*args, **kwargs) as value:
                    yield value

            return managed

        @functools.wraps(call)
        def generated(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with self.both(name(*args, **kwargs)):
                yield from call(*args, **kwargs)

        return generated

    @contextlib.contextmanager
    def both(self, name: str) -> Iterator[None]:
        self.passes(f"{name} before")
        yield
        self.passes(f"{name} after")

    def methods(self, kind: str, owner: type) -> None:
        """Wrap every public method that a class itself defines."""
        for word, found in list(vars(owner).items()):
            plain = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
            if word.startswith("_") or word in QUIET or not inspect.isfunction(plain):
                continue
            wrapped = self.around(plain, _always(f"{kind}.{word}"))
            setattr(owner, word, type(found)(wrapped) if plain is not found else wrapped)

    def one(self, owner: Any, word: str, name: Callable[..., str] | str) -> None:
        """Wrap one function of a module or class."""
        naming = _always(name) if isinstance(name, str) else name
        setattr(owner, word, self.around(getattr(owner, word), naming))


def _always(name: str) -> Callable[..., str]:
    return lambda *_args, **_kwargs: name


def arm(fuse: Fuse) -> None:
    """Wrap everything; Prefect and its HTTP client when they come to be imported."""
    # First, for others take the function itself from this module when they are imported.
    atomic = importlib.import_module("workflowmaster.blocks.atomic")
    fuse.one(atomic, "write_atomically", lambda path, *_, **__: f"record.{_file(Path(path))}")
    atomic.Path = _renaming(fuse)
    _engine_and_git(fuse)
    records = importlib.import_module("workflowmaster.flows.journal").Journal
    fuse.one(records, "append", lambda _, kind, **__: f"record.journal {kind}")
    log = importlib.import_module("workflowmaster.flows.audit").AuditLog
    fuse.one(log, "append", lambda _, event, **__: f"audit.{event}")
    _when_imported(
        {
            "httpx": lambda module: _requests(fuse, module),
            "prefect.filesystems": lambda module: _results(fuse, module),
            "prefect.events.clients": lambda module: fuse.one(module.PrefectEventsClient, "_emit", "prefect.event"),
        }
    )


def _engine_and_git(fuse: Fuse) -> None:
    fuse.methods("engine", importlib.import_module("workflowmaster.blocks.engine").Engine)
    container = importlib.import_module("workflowmaster.blocks.container").Container
    fuse.one(container, "_say", "engine.go")
    fuse.methods("git", importlib.import_module("workflowmaster.blocks.workspace").Store)
    export = importlib.import_module("workflowmaster.blocks.export")
    fuse.one(export, "write_objects", "git.user objects")
    fuse.one(export, "swap_ref", "git.user ref")
    basis = importlib.import_module("workflowmaster.blocks.basis").Basis
    fuse.one(basis, "_pin", "git.user pin")


def _plain(name: str) -> str:
    return VARIABLE.sub("*", name)


def _file(path: Path) -> str:
    """Name a file by what it is: those of a kind have one boundary, however many there are."""
    return "checkpoint" if path.parent.name == "checkpoints" else _plain(path.name)


def _renaming(fuse: Fuse) -> type[Path]:
    """Return the Path of `atomic`, whose rename is a boundary too: the new file is complete, and not yet the one."""

    class Renaming(type(Path())):  # type: ignore[misc]
        def replace(self, target: Any) -> Any:
            with fuse.both("record.rename"):
                return super().replace(target)

    return Renaming


def _requests(fuse: Fuse, httpx: ModuleType) -> None:
    def name(_: Any, request: Any) -> str:
        return f"prefect.{request.method} {_plain(request.url.path).removeprefix('/api')}"

    fuse.one(httpx.AsyncHTTPTransport, "handle_async_request", name)
    fuse.one(httpx.HTTPTransport, "handle_request", name)


def _results(fuse: Fuse, filesystems: ModuleType) -> None:
    """Wrap the writing of a result, and let it also end in the middle: Prefect opens the file itself and writes."""
    local = filesystems.LocalFileSystem
    write = local.awrite_path

    async def awrite_path(self: Any, path: str, content: bytes) -> Any:
        def torn() -> None:
            place = self._resolve_path(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content[: len(content) // 2])

        with fuse.both("prefect.result"):
            fuse.passes("prefect.result torn", torn)
            return await write(self, path, content)

    local.awrite_path = awrite_path


def _when_imported(patches: dict[str, Callable[[ModuleType], None]]) -> None:
    """Patch modules right after their import, whenever that is: importing Prefect early would change the run."""

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            patch = patches.pop(name, None)
            spec = importlib.util.find_spec(name) if patch else None
            if spec is None or spec.loader is None or patch is None:
                return None
            execute = spec.loader.exec_module

            def executed(module: ModuleType) -> None:
                execute(module)
                patch(module)

            spec.loader.exec_module = executed  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, Finder())
