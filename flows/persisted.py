"""Prefect's persisted results, read without Prefect.

They are the truth about finished steps, and whoever judges a damaged workflow has to look at all of them at once: that
must work where no server answers, and not wait for Prefect's import. So the few lines of its format that we ask for
(`compressed/json`) are read here: JSON around base64 around xz, whose own CRC-64 makes a flipped bit an error. A result
in any other place or form (a bucket, a serialiser of the user's) is not judged and counts as not there.
"""

from __future__ import annotations

import base64
import binascii
import json
import lzma
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from workflowmaster.flows import schemas
from workflowmaster.flows.plan import StepResult
from workflowmaster.flows.settings import home

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = "compressed/json"
OURS = "workflowmaster.flows.plan.StepResult"
KEY = re.compile(r"[a-z0-9][a-z0-9-]*-[0-9a-f]{64}")
"""A result's key: the workflow's id, or `shared`, and a SHA-256."""


def places(recorded: str = "") -> list[Path]:
    """Return the folders in which Prefect may keep a run's results: where this user's go, and where it says it did.

    A deployment's run has the settings of its worker, and so may have a place of its own.
    """
    usual = Path(os.environ.get("PREFECT_LOCAL_STORAGE_PATH") or home() / "results")
    return list(dict.fromkeys([usual, *([Path(recorded)] if recorded else [])]))


def elsewhere() -> str:
    """Return where Prefect keeps results instead, if the user has told it to keep them in a storage block."""
    return os.environ.get("PREFECT_DEFAULT_RESULT_STORAGE_BLOCK") or os.environ.get(
        "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK", ""
    )


def file_of(key: str, recorded: str = "") -> Path | None:
    """Return the file of a key, if there is one."""
    if not KEY.fullmatch(key):
        return None
    return next((path for place in places(recorded) if (path := place / key).is_file()), None)


def files_of(workflow_id: str, recorded: str = "") -> Iterator[Path]:
    """Yield the files of one workflow's results; not those it shares with others."""
    found = [path for place in places(recorded) for path in sorted(place.glob(f"{workflow_id}-*"))]
    # Another workflow's id may begin with this one's.
    return (path for path in found if KEY.fullmatch(path.name) and len(path.name) == len(workflow_id) + 65)


def read(path: Path) -> StepResult:
    """Read one. ValueError says why it cannot be believed."""
    try:
        outer = json.loads(path.read_bytes())
        if outer["metadata"]["serializer"]["type"] != FORM:
            raise ValueError(f"is kept as {outer['metadata']['serializer']['type']}, not {FORM}")
        inner = json.loads(lzma.decompress(base64.b64decode("".join(outer["result"].split()), validate=True)))
        if inner["__class__"] != OURS:
            raise ValueError(f"holds {inner['__class__']}")
        schemas.readable(inner["data"], 1, "the result of a step")
        result = StepResult.model_validate(inner["data"])
    except ValidationError as error:
        raise ValueError(f"holds no result of a step: {error.errors()[0]['msg']}") from error
    except (lzma.LZMAError, binascii.Error, UnicodeDecodeError, EOFError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is no persisted result: {error!r}") from error
    if result.key != path.name:
        raise ValueError(f"belongs to the key {result.key}")
    return result
