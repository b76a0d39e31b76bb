"""Hands fingerprints of failures on to other repositories, and takes theirs in as weaker evidence.

What travels is one line of JSON for each fingerprint: its class, how often it was seen, how often a retry helped, and
its decisive lines, masked and scrubbed (`scrubbing`). The hard choice is how much a stranger's word counts. A retry
that helps elsewhere helps here only where the same thing is broken, so all that others have seen of one fingerprint
counts no more than two cases of one's own, and never in the back-test that decides whether learning has a say at all.

A source is known by a number of its own, so importing its next file replaces the last one instead of counting it twice,
and `failures forget` takes all of it back.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from workflowmaster.analytics.retrychance import Trial
from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.flows import failurehistory, schemas
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.plan import FailureClass, Noun
from workflowmaster.flows.scrubbing import LONGEST, known_secrets, people, scrubbed
from workflowmaster.flows.snapshots import wrong

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workflowmaster.flows.failurehistory import Case

N = TypeVar("N", bound=Noun)

NEWEST = 1
"""Version of the files' form."""

MOST_LINES, MOST_BYTES = 10_000, 8 * 2**20
"""Lines and bytes of a file that is taken in."""

MOST_SOURCES = 32

FOREIGN = 2.0
"""Cases of one's own that all others have seen of one fingerprint counts for at most."""

Line = Annotated[str, StringConstraints(max_length=LONGEST)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


class Head(Noun):
    """First line of a file."""

    kind: Literal["workflowmaster failures"] = "workflowmaster failures"
    schema_version: int = NEWEST
    source: str = Field(pattern=r"[0-9a-f]{16}")
    """A random number that stands for who made it."""


class Shared(Noun):
    """What is known of one fingerprint, with nothing in it that names a place or a person."""

    fingerprint: str = Field(pattern=r"[0-9a-f]{16}")
    cls: FailureClass = Field(alias="class")
    seen: Annotated[int, Field(ge=1, le=1_000_000)]
    """Failed attempts."""
    tried: Count = 0
    """Retries of which it is known what they came to."""
    succeeded: Count = 0
    last: str = Field(default="", pattern=r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2})?")
    """Day of the last one (UTC)."""
    lines: Annotated[tuple[Line, ...], Field(max_length=failurehistory.MOST_LINES)] = ()


@dataclass(frozen=True)
class Source:
    """What was taken in from one source."""

    id: str
    name: str
    shared: tuple[Shared, ...]


# --- handing on ---


def export(cases: Sequence[Case], *, least: int = 2, lines: bool = True, home: Path | None = None) -> str:
    """Return what may be handed on of some cases: fingerprints seen at least `least` times, the commonest first."""
    groups: dict[tuple[str, FailureClass], list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.fingerprint, case.cls].append(case)
    names = repository_names(cases, home)
    masker = known_secrets()
    found = []
    for (fingerprint, cls), alike in groups.items():
        if len(alike) >= least:
            told = [scrubbed(line, names, masker) for line in alike[-1].lines] if lines else []
            found.append(_shared(fingerprint, cls, alike, tuple(line for line in told if line)))
    found.sort(key=lambda one: (-one.seen, one.fingerprint))
    head = Head(source=identity(home)).model_dump(mode="json")
    rows = [head, *(one.model_dump(mode="json", by_alias=True) for one in found)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _shared(fingerprint: str, cls: FailureClass, alike: Sequence[Case], lines: tuple[str, ...]) -> Shared:
    outcomes = Counter(case.outcome for case in alike if not case.grown)
    day = datetime.fromtimestamp(max(case.at for case in alike), UTC)
    fields: dict[str, Any] = {"class": cls, "seen": len(alike), "last": f"{day:%Y-%m-%d}", "lines": lines}
    tried = outcomes["succeeded"] + outcomes["failed"]
    return Shared(fingerprint=fingerprint, tried=tried, succeeded=outcomes["succeeded"], **fields)


def repository_names(cases: Iterable[Case], home: Path | None = None) -> frozenset[str]:
    """Return the names of the runs' repositories, by folders and remotes, and those of this machine and its user."""
    found = set(people())
    for workflow in {case.workflow for case in cases}:
        folder = failurehistory.folder_of(workflow, home)
        found |= {workflow}
        try:
            record = json.loads(folder.record.read_bytes())
            workspace = Path(record["options"]["workspace"])
        except (OSError, ValueError, TypeError, KeyError):
            continue
        found |= {part for part in workspace.parts if part.isidentifier() or "-" in part} | _remotes(workspace)
    return frozenset(found - {"home", "tmp", "src", "work", "usr", "var", "root", "opt", "Users", "code", "repo"})


def _remotes(workspace: Path) -> set[str]:
    """Return the words in the addresses of a repository's remotes: owner and name."""
    try:
        text = (workspace / ".git" / "config").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    addresses = re.findall(r"^\s*url\s*=\s*(\S+)", text, re.MULTILINE)
    words = {word.removesuffix(".git") for address in addresses for word in re.split(r"[/:@]+", address)[1:]}
    return {word for word in words if word and "." not in word}


def identity(home: Path | None = None) -> str:
    """Return the number that stands for this state directory where its failures are handed on; made once, at random."""
    path = failurehistory.learning(home) / "source"
    known = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    if not re.fullmatch(r"[0-9a-f]{16}", known):
        known = secrets.token_hex(8)
        write_atomically(path, known + "\n")
    return known


# --- taking in ---


def parsed(data: bytes, where: str) -> tuple[Head, tuple[Shared, ...]]:
    """Return what a file holds. BadOption, with the line, for one that is damaged, too large, or of a newer version."""
    if len(data) > MOST_BYTES:
        raise BadOption(f"{where}: {len(data)} bytes; {MOST_BYTES} are the most that is taken in")
    rows = data.splitlines()
    if not 1 <= len(rows) <= MOST_LINES + 1:
        raise BadOption(f"{where}: {len(rows)} lines; a head and up to {MOST_LINES} fingerprints belong in it")
    head = _read(Head, rows[0], f"{where}:1")
    found: dict[tuple[str, str], Shared] = {}
    for number, row in enumerate(rows[1:], 2):
        one = _read(Shared, row, f"{where}:{number}")
        if not one.succeeded <= one.tried <= one.seen:
            raise BadOption(
                f"{where}:{number}: {one.succeeded} of {one.tried} of {one.seen} cannot be: export it again"
            )
        if (one.fingerprint, one.cls) in found:
            raise BadOption(f"{where}:{number}: {one.fingerprint} is there twice: export it again")
        found[one.fingerprint, one.cls] = one
    return head, tuple(found.values())


def _read(kind: type[N], row: bytes, where: str) -> N:
    try:
        raw = schemas.parsed(row)
        if kind is Head:
            schemas.readable(raw, NEWEST, "failures")
        return kind.model_validate(raw)
    except ValidationError as error:
        raise BadOption(f"{where}: {wrong(error)}. It is no line of `failures export`") from error
    except ValueError as error:
        raise BadOption(f"{where}: it {error}") from error


def take_in(data: bytes, where: str, *, name: str, home: Path | None = None) -> tuple[Source, bool]:
    """Keep what a file holds, in place of what its source gave before. Also return whether anything changed.

    BadOption where it cannot be taken in; nothing is kept then.
    """
    head, shared = parsed(data, where)
    if head.source == identity(home):
        raise BadOption(f"{where}: these are this state directory's own failures, which it knows already")
    known = sources(home)
    if len(known) >= MOST_SOURCES and head.source not in {one.id for one in known}:
        raise BadOption(f"{where}: {MOST_SOURCES} sources are taken in already; `failures forget` one of them first")
    if any(one.name == name and one.id != head.source for one in known):
        raise BadOption(f"{where}: another source is called {name} already: give this one a name with --as")
    folder = _folder(home)
    kept = {"name": name, "shared": [one.model_dump(mode="json", by_alias=True) for one in shared]}
    text = json.dumps(kept, ensure_ascii=False)
    body = f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}"
    path = folder / f"{head.source}.json"
    changed = not path.exists() or path.read_text(encoding="utf-8") != body
    if changed:
        write_atomically(path, body)
    return Source(head.source, name, shared), changed


def sources(home: Path | None = None) -> list[Source]:
    """Return what was taken in, by name. BadOption, naming the file, for one that is damaged."""
    found = []
    for path in sorted(_folder(home).glob("*.json")):
        try:
            found.append(_source(path))
        except (ValueError, KeyError, TypeError) as error:
            mend = f"`workflowmaster failures forget {path.stem}`, and import it again"
            raise BadOption(f"{path}: it is damaged ({error}): {mend}") from error
    return sorted(found, key=lambda one: one.name)


def _source(path: Path) -> Source:
    first, _, body = path.read_text(encoding="utf-8").partition("\n")
    if first != hashlib.sha256(body.encode()).hexdigest():
        raise ValueError("it does not match its checksum")
    raw = schemas.parsed(body.encode())
    return Source(path.stem, str(raw["name"]), tuple(map(Shared.model_validate, raw["shared"])))


def forget(word: str, home: Path | None = None) -> str:
    """Take back what a source gave: by its name, or its number. Return its name. BadOption for an unknown one."""
    by_number = _folder(home) / f"{word}.json"
    if re.fullmatch(r"[0-9a-f]{16}", word) and by_number.exists():
        by_number.unlink()
        return word
    known = sources(home)
    for one in known:
        if one.name == word:
            (_folder(home) / f"{one.id}.json").unlink()
            return one.name
    names = ", ".join(one.name for one in known) or "none"
    raise BadOption(f"{word}: no such source. Taken in: {names} (`workflowmaster failures list`)")


def _folder(home: Path | None) -> Path:
    path = failurehistory.learning(home) / "imports"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def trials(home: Path | None = None) -> list[Trial]:
    """Return what others have seen as retries to learn from, all of one fingerprint worth `FOREIGN` cases at most."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for source in sources(home):
        for one in source.shared:
            total = sums[one.fingerprint, one.cls]
            total[0] += one.succeeded
            total[1] += one.tried
            total[2] = max(total[2], _moment(one.last))
    found = []
    for (fingerprint, cls), (hits, tried, at) in sums.items():
        if tried:
            worth = min(tried, FOREIGN) / tried
            for count, succeeded in ((hits, True), (tried - hits, False)):
                if count:
                    found.append(
                        Trial(fingerprint, cls, succeeded, weight=count * worth, own=False, at=at, known_at=at)
                    )
    return found


def _moment(day: str) -> float:
    try:
        return min(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp(), datetime.now(UTC).timestamp())
    except ValueError:
        return 0.0
