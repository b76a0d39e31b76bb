"""The versions of what we keep, and how a file of an older one becomes one of today.

Every file carries its `schema_version` and, where a wrong value in it could be believed, a SHA-256 of its own content.
The checksum is over the values and not over the bytes, so that a file which somebody has only laid out anew still
holds; the price is that reading computes the one spelling of everything once more (60 ms for a thousand steps). A
version is raised by one function in `STEPS`. A file of a newer version is refused before anything else is looked at:
what its fields mean we cannot know, and whoever wrote it wants it back untouched.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

from workflowmaster.flows.plan import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

What = Literal["state", "run", "checkpoint"]
"""Kinds of files that carry a version: `state.json`, `run.json`, `checkpoints/*.json.gz`."""

NEWEST: Mapping[What, int] = {"state": 2, "run": 1, "checkpoint": 1}

CHECKSUM = "checksum"
"""Key of a file's SHA-256 (hex) over the one JSON spelling of all its other keys."""

NEWER = "written by a newer version of WorkflowMaster"
"""What every refusal of a newer file says."""


def sealed(fields: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return plain JSON values as the text of a file, with their checksum."""
    spaced = (",", ":") if indent is None else (",", ": ")
    return json.dumps({**fields, CHECKSUM: _checksum(fields)}, ensure_ascii=False, indent=indent, separators=spaced)


def opened(data: bytes, what: What) -> dict[str, Any]:
    """Return a file's values in today's form. ValueError says in one clause why they cannot be had.

    A file without a checksum is taken as it is: older versions wrote none.
    """
    raw = parsed(data)
    readable(raw, NEWEST[what], what)
    given = raw.pop(CHECKSUM, None)
    if given is not None and given != _checksum(raw):
        raise ValueError("does not match its checksum")
    return migrate(raw, what)


def parsed(data: bytes) -> dict[str, Any]:
    """Return a file's values as they are. ValueError if it holds no JSON object."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error})") from error
    if not isinstance(raw, dict):
        raise ValueError(f"holds {type(raw).__name__} where an object belongs")  # noqa: TRY004 - the file's fault
    return raw


def readable(raw: Mapping[str, Any], newest: int, what: str) -> int:
    """Return the version of a file's values. ValueError if it is none, or newer than this program knows."""
    version = raw.get("schema_version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"has the schema version {version!r}, which is none")
    if version > newest:
        raise ValueError(f"was {NEWER} ({what} {version}; this one knows {newest}): use that one")
    return version


def migrate(raw: dict[str, Any], what: What) -> dict[str, Any]:
    """Bring a file's values to today's version, one version at a time. ValueError if they cannot be what they say."""
    for version in range(readable(raw, NEWEST[what], what), NEWEST[what]):
        raw = {**STEPS[what, version](raw), "schema_version": version + 1}
    return raw


def is_newer(reason: object) -> bool:
    """Whether a refusal is about a file of a newer version, which nobody may touch."""
    return NEWER in str(reason)


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(dict(fields))).hexdigest()


NEW_IN_2: Mapping[str, Any] = {"journal_at": 0, "plan_hash": "", "generations": {}, "results_place": ""}


def _state_1(raw: dict[str, Any]) -> dict[str, Any]:
    """Version 1 was the whole truth of its moment, with no journal beside it."""
    if strange := raw.keys() & NEW_IN_2.keys():
        # A flipped version number must not pass for an old file and lose what came after it.
        raise ValueError(f"says it is of version 1, which has no {min(strange)}")
    return {**raw, **NEW_IN_2}


STEPS: Mapping[tuple[What, int], Callable[[dict[str, Any]], dict[str, Any]]] = {("state", 1): _state_1}
"""(file, version) → what makes it one version newer. Nothing but this knows the older forms."""
