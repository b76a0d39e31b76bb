"""Checkpoints: signed statements of how far a log had come, which outlive what they speak of.

The keys of a log prove who wrote a record; they cannot prove that nothing follows it. A checkpoint can: it names the
last record, its hash and their number, and the checkpoint before, and is signed with a key of this machine that lies
outside the workflow's folder. One is made at every thousandth record, when a file is full, and whenever a run ends or
waits. Each is a small file of its own and not a line of one: a file is replaced whole or not at all, copies of single
ones go to the anchors, and a rotated log can be dropped while its checkpoint stays.

The statement says nothing that the record it ends with does not settle, not even when it was signed. So two processes
that sign the same one write the same bytes, and a killed one is followed up by whoever comes next.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ValidationError

from workflowmaster.blocks import keypair
from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.flows.auditkeys import AuditBroken
from workflowmaster.flows.plan import Noun, canonical

if TYPE_CHECKING:
    from pathlib import Path

    from workflowmaster.flows.settings import Settings

EVERY: Final = 1000
"""Records of an epoch at most."""
SIGNING_KEY: Final = "signing.key"
_DROPPED: Final = "dropped.json"


class Checkpoint(Noun):
    """What a log had come to at the end of one epoch."""

    schema_name: Literal["workflowmaster/checkpoint/1"] = "workflowmaster/checkpoint/1"
    workflow: str
    epoch: int
    """Its number too: each epoch but the last ends with one."""
    first: int
    """First record of the epoch."""
    last: int
    head: str
    """Hash of the last record."""
    count: int
    """Records of the workflow up to here, in all files."""
    previous: str
    """SHA-256 of the previous checkpoint's file; empty for the first."""


class Dropped(Noun):
    """Which files of a log retention has removed; what stands for them is the checkpoint of the last epoch in them."""

    schema_name: Literal["workflowmaster/dropped/1"] = "workflowmaster/dropped/1"
    workflow: str
    files: tuple[str, ...]
    epoch: int
    """Last epoch that is gone."""
    at: float
    """Unix time, seconds."""


class Signed(Noun):
    """A statement as it lies in a file: its text, and who says so."""

    statement: Checkpoint | Dropped
    key: str
    """Public key, base64."""
    signature: str
    """Over the statement's canonical JSON; base64."""

    @property
    def text(self) -> bytes:
        """What is signed."""
        return canonical(self.statement.model_dump(mode="json"))

    @property
    def holds(self) -> bool:
        """Whether the signature is that of the key which is named."""
        return keypair.holds(self.key, self.signature, self.text)


@dataclass(frozen=True)
class Sealing:
    """How a workflow's log is kept."""

    seeds: Path
    """Folder with the workflow's seed, and the first copies of its checkpoints."""
    signing_key: Path
    enabled: bool = True
    """Whether checkpoints are signed and anchored. The chain is kept anyway."""
    anchors: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    """Public keys of other machines whose checkpoints hold here."""
    most_bytes: int = 100 * 2**20
    """Size at which a file of the log is full."""
    every: int = EVERY

    @classmethod
    def of(cls, log: Path, settings: Settings | None = None) -> Sealing:
        """Return how a log is kept by these settings, or by those that hold now if it lies in a state directory."""
        folder = log.parent
        if folder.parent.name != "workflows":
            # A log on its own, as tests and benchmarks make: its seed has no better place.
            return cls(folder / "audit.seeds" / folder.name, folder / SIGNING_KEY)
        # Beside the workflows and not from the environment: a state directory that was moved keeps its logs.
        base = folder.parent.parent / "audit"
        if settings is None:
            from workflowmaster.flows.settings import load

            settings = load()
        return cls(
            seeds=(settings.audit_seeds.expanduser() if settings.audit_seeds else base / "seeds") / folder.name,
            signing_key=base / SIGNING_KEY,
            enabled=settings.audit_enabled,
            anchors=settings.audit_anchors,
            trusted=settings.trusted_audit_keys,
            most_bytes=settings.audit_max_mb * 2**20,
        )

    def insist(self) -> None:
        """Refuse a signing key that cannot be used, before anything has begun. AuditBroken."""
        if self.enabled and self.signing_key.exists():
            try:
                keypair.checked(self.signing_key)
            except ValueError as error:
                raise AuditBroken(str(error)) from error

    def believed(self, key: str) -> bool:
        """Whether checkpoints signed with this public key count here."""
        return key in self.trusted or (self.signing_key.exists() and key == keypair.public(self.signing_key))


def checkpoints(log: Path) -> Path:
    """Return the folder of a log's checkpoints."""
    return log.with_name("audit.checkpoints")


def checkpoint_path(log: Path, epoch: int) -> Path:
    """Return where the checkpoint of an epoch lies."""
    return checkpoints(log) / f"{epoch:06}.json"


def write_signed(path: Path, statement: Checkpoint | Dropped, sealing: Sealing) -> bytes:
    """Sign a statement, put it there atomically and durably, and return the file's bytes. OSError, ValueError."""
    text = canonical(statement.model_dump(mode="json"))
    key, signature = keypair.sign(sealing.signing_key, text)
    data = canonical(Signed(statement=statement, key=key, signature=signature).model_dump(mode="json")) + b"\n"
    path.parent.mkdir(exist_ok=True, mode=0o700)
    write_atomically(path, data)
    return data


def read_signed(path: Path) -> Signed:
    """Read a signed statement and hold its signature against the key it names. AuditBroken, FileNotFoundError."""
    try:
        found = Signed.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise AuditBroken(f"{path}: not a signed statement: {error.errors()[0]['msg']}") from error
    if not found.holds:
        raise AuditBroken(f"{path}: was changed after it was signed")
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's file, by which the next one names it; empty if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def dropped_path(log: Path) -> Path:
    """Return where it is written down which files retention has removed."""
    return checkpoints(log) / _DROPPED


def dropped(log: Path) -> Dropped | None:
    """Read which files of a log retention has removed; None if it has removed none. AuditBroken."""
    path = dropped_path(log)
    if not path.exists():
        return None
    found = read_signed(path)
    if not isinstance(found.statement, Dropped) or found.statement.workflow != log.parent.name:
        raise AuditBroken(f"{path}: is no statement about this log")
    return found.statement
