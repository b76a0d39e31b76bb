"""How a model lies on disk: one line that says what it is, one line of numbers.

Nothing that is read back can be executed: a pickle is a program, and a model that travels from a colleague's machine
would be a colleague's program. Both lines are JSON; the first names the schema, the libraries and data it came from,
and the SHA-256 of the second's bytes. The price is size (a number is 18 letters) and a few milliseconds to read them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

SCHEMA = 1
"""Version of the form. A file of a higher one is refused: what its numbers mean we cannot know."""

LARGEST = 64 * 2**20
"""Bytes of a file at most, so that a foreign one cannot fill the memory."""


def packed(kind: str, numbers: dict[str, Any], about: dict[str, Any]) -> bytes:
    """Return a file's bytes: the manifest with `about` in it, and the numbers."""
    body = json.dumps(numbers, separators=(",", ":"), allow_nan=False).encode()
    digest = hashlib.sha256(body).hexdigest()
    head = {"kind": kind, "schema_version": SCHEMA, "sha256": digest, **about}
    return json.dumps(head, allow_nan=False).encode() + b"\n" + body + b"\n"


def manifest(data: bytes, kind: str) -> dict[str, Any]:
    """Return a file's first line. ValueError if it is none, another kind's, or of a newer version."""
    if len(data) > LARGEST:
        raise ValueError(f"is larger than the {LARGEST // 2**20} MiB that a model may have: train it again")
    head = _object(data.partition(b"\n")[0])
    if head.get("kind") != kind:
        raise ValueError(f"holds {str(head.get('kind'))[:40]!r} where {kind!r} belongs: train it again")
    version = head.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"has the schema version {str(version)[:40]!r}, which is none: train it again")
    if version > SCHEMA:
        raise ValueError(f"was written by a newer version of WorkflowMaster ({version}; this one knows {SCHEMA})")
    return head


def unpacked(data: bytes, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a file's manifest and numbers. ValueError if they are not what was written."""
    head = manifest(data, kind)
    body = data.partition(b"\n")[2].removesuffix(b"\n")
    if hashlib.sha256(body).hexdigest() != head.get("sha256"):
        raise ValueError("does not match its own SHA-256, so it was damaged or changed: train it again")
    return head, _object(body)


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no model ({error}): train it again") from error
    if not isinstance(found, dict):
        raise ValueError("is no model (no JSON object): train it again")  # noqa: TRY004 - the file's fault
    return found
