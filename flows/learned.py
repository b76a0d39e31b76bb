"""What was learned, as a decision asks for it: read from files, never trained here.

A decision may wait five milliseconds for this, so nothing that trains is imported, and the models in use are read once
in a process and again only when another version has been put into use. The hard choice is what to do about a file that
cannot be believed: nothing learned is so good that a run should fail for the lack of it. So a bad file means that
nothing learned has a say, once with a warning in the log, and `failures list` names it.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast, get_args

from workflowmaster.analytics import modelfile, retrychance, texts
from workflowmaster.flows.fingerprints import masked
from workflowmaster.flows.plan import FailureClass
from workflowmaster.flows.settings import home

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workflowmaster.analytics.retrychance import Chance, Learned
    from workflowmaster.analytics.texts import TextModel
    from workflowmaster.flows.plan import Failure
    from workflowmaster.flows.settings import Settings

log = logging.getLogger(__name__)

KNOWN = frozenset(get_args(FailureClass))

WORKED = "succeeded"
"""Label of texts after which a retry helped."""


@dataclass(frozen=True)
class Context:
    """Where a failure happened, besides what it is."""

    kind: str = ""
    priority: str = ""
    policy: str = ""
    image: str = ""
    attempt: int = 1
    """The attempt that failed; 1 is the first."""


@dataclass(frozen=True)
class Bundle:
    """One version of everything that was learned."""

    version: int = 0
    """0 where there is none."""
    classes: TextModel | None = None
    """Names classes of failures that no rule knows."""
    retries: TextModel | None = None
    """Says whether a retry helps after such a text."""
    chances: Learned | None = None
    trouble: str = ""
    """Why nothing learned is used although there is something; empty otherwise."""


@dataclass(frozen=True)
class Namer:
    """The model of classes, as `understanding` asks it."""

    model: TextModel
    version: str

    def classify(self, lines: Sequence[str]) -> tuple[FailureClass, float] | None:
        """Return a class and its probability, from decisive lines; None where it cannot tell."""
        found = self.model.classify([masked(line) for line in lines])
        if found is None or found[0] not in KNOWN:
            return None
        return cast("FailureClass", found[0]), found[1]


def model(settings: Settings) -> Namer | None:
    """Return the model of failure texts that is in use; None where there is none, or learning is off."""
    found = bundle() if settings.learning_enabled else Bundle()
    return Namer(found.classes, str(found.version)) if found.classes else None


def chance(settings: Settings, failure: Failure, context: Context) -> Chance | None:
    """Return how likely a retry is to succeed; None where nothing learned may have a say (`retrychance.chance`)."""
    found = bundle() if settings.learning_enabled else Bundle()
    if found.chances is None:
        return None
    lines = [masked(line) for line in failure.lines]
    about = described(lines, failure.cls)
    trial = retrychance.Trial(
        failure.fingerprint, failure.cls, attempt=context.attempt, text=helped(found.retries, about), at=time.time()
    )
    return retrychance.chance(found.chances, trial, lines)


def helped(model: TextModel | None, about: Sequence[str]) -> float | None:
    """Return the text model's probability that a retry helps; None where it has no say."""
    if model is None or model.familiar(about) < texts.LEAST_FAMILIAR:
        return None
    return model.probabilities(about, raw=True).get(WORKED)


def described(lines: Sequence[str], cls: str) -> list[str]:
    """Return what the model of retries reads: masked lines, and the class they were given."""
    return [*lines, f"class_{cls}"]


def place(root: Path | None = None) -> Path:
    """Return the folder of all versions."""
    return (root or home()) / "learning" / "models"


def bundle(root: Path | None = None) -> Bundle:
    """Return what is in use, read once for each version."""
    pointer = place(root) / "current.json"
    try:
        seen = pointer.stat()
    except OSError:
        return Bundle()
    return _read(pointer, seen.st_mtime_ns, seen.st_ino)


@lru_cache(maxsize=4)
def _read(pointer: Path, changed: int, number: int) -> Bundle:
    del changed, number
    try:
        return read(pointer.parent, in_use(pointer))
    except (OSError, ValueError) as error:
        text = f"nothing learned is used: {error}"
        log.warning("%s", text)
        return Bundle(trouble=text)


def in_use(pointer: Path) -> int:
    """Return the version in use. ValueError, naming the file, where it cannot be told."""
    try:
        version = json.loads(pointer.read_bytes())["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{pointer} is damaged: `workflowmaster failures learn` makes it anew") from error
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"{pointer} names the version {str(version)[:40]!r}, which is none")
    return version


def read(folder: Path, version: int) -> Bundle:
    """Read one version. ValueError, naming the file, for one that cannot be believed; OSError."""
    kept = folder / str(version)
    if not kept.is_dir():
        raise ValueError(f"{kept} is missing: `workflowmaster failures learn` makes a version anew")
    models: dict[str, Any] = {}
    for name in ("classes", "retries", "chances"):
        path = kept / f"{name}.json"
        if path.exists():
            try:
                models[name] = _chances(path) if name == "chances" else _texts(path, version)
            except ValueError as error:
                raise ValueError(f"{path} {error}") from error
    return Bundle(version=version, **models)


def _texts(path: Path, version: int) -> TextModel:
    return replace(texts.load(path.read_bytes()), version=str(version))


def _chances(path: Path) -> Learned:
    _, numbers = modelfile.unpacked(path.read_bytes(), "retry rates")
    return retrychance.Learned.from_json(numbers)
