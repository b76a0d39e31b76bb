"""Whether an audit log is what was written: every record, every key, every checkpoint, and what the anchors remember.

What is found without any anchor: any byte changed, any record deleted, put in, moved or written twice, an end cut
off, a file emptied, removed or taken from another workflow, a checkpoint that is missing or signed by somebody else.
What only an anchor finds: an older copy of everything put back at once. What nobody finds: records that were never
written.

A log without an end is no broken log. A run that is under way, and one that was killed, have records after their last
checkpoint; those hold by their keys, and by the mark in the key file that says how far the disk had them.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from workflowmaster.flows import anchoring, auditkeys, sealing
from workflowmaster.flows.auditfiles import PLAIN_GENESIS, End, files, is_plain
from workflowmaster.flows.auditkeys import AuditBroken
from workflowmaster.flows.auditline import Line, genesis, hash_of, mac, next_key, parsed
from workflowmaster.flows.plan import canonical
from workflowmaster.flows.sealing import Checkpoint, Sealing

if TYPE_CHECKING:
    from pathlib import Path

_EVENT: Final = re.compile(rb'"event":"([^"]+)"')
PLAIN_ENDS: Final = frozenset({"workflow.finished", "approval"})
"""Events that a log without keys ends with while nobody works on its run."""


@dataclass
class Verdict:
    """What an audit log came to."""

    workflow: str
    records: int = 0
    holds: bool = True
    reason: str = ""
    """Why it does not hold."""
    first_bad: int | None = None
    """Number of the first record that does not hold, where it is about one."""
    file: str = ""
    line: int = 0
    finished: bool = False
    """Whether the run has ended, or waits, by its own word."""
    checkpoints: int = 0
    """Signed checkpoints that hold."""
    unsigned: int = 0
    """Epochs without one, because `audit_enabled` was off."""
    pending: int = 0
    """Epochs whose checkpoint is yet to be signed: whoever goes on with the run signs it."""
    dropped: int = 0
    """Records that retention has removed; a checkpoint stands for them."""
    torn_bytes: int = 0
    """Bytes of half a record at the end, left by a killed writer."""
    anchors: dict[str, str] = field(default_factory=dict)
    """Anchor → what it said."""
    keys: tuple[str, ...] = ()
    """Public keys that signed the checkpoints."""
    format: int = 2
    """1 is the plain chain of the time before there were keys."""

    def public(self) -> dict[str, Any]:
        """Return what `audit verify --json` prints: stable names."""
        body = {"workflow_id": self.workflow, **{k: v for k, v in vars(self).items() if k != "workflow"}}
        return body | ({} if self.holds else {"error": self.reason})


def examine(log: Path, how: Sealing, *, ended: bool = False, note: str | None = None) -> Verdict:
    """Check a log and say what it came to; never raises for a log that does not hold.

    `ended` says that the run has ended, or waits, and nobody works on it: then its log must say so too. `note` is the
    checkpoint that the branch's git note holds.
    """
    verdict = Verdict(log.parent.name)
    try:
        if is_plain(log) and len(files(log)) == 1:
            verdict.format = 1
            verdict.records, event = plain(log)
            verdict.finished = event in PLAIN_ENDS
            if ended and not verdict.finished:
                _bad(log, verdict.records, verdict.records, "the end is missing", after=True)
        else:
            _Examination(log, how, verdict).run(ended=ended, note=note)
    except (AuditBroken, OSError) as error:
        verdict.holds, verdict.reason = False, str(error)
        if isinstance(error, AuditBroken) and error.file:
            verdict.file, verdict.line = error.file, error.line
            verdict.first_bad = error.record if error.record >= 0 else None
    return verdict


def verify(log: Path, *, ended: bool = False) -> int:
    """Check a log and return the number of its records. AuditBroken names the first that does not hold."""
    verdict = examine(log, Sealing.of(log), ended=ended)
    if not verdict.holds:
        raise AuditBroken(verdict.reason, record=-1 if verdict.first_bad is None else verdict.first_bad)
    return verdict.records


def _bad(path: Path, line: int, record: int, why: str, *, after: bool = False) -> NoReturn:
    where = f"after record {record - 1}" if after else f"at record {record}"
    said = f"{path}:{line}: the chain is broken {where}: {why}"
    raise AuditBroken(said, record=record, file=path.name, line=line)


class _Examination:
    """One look at one log."""

    def __init__(self, log: Path, how: Sealing, verdict: Verdict) -> None:
        self.log, self.how, self.verdict = log, how, verdict
        self.seq, self.head, self.epoch, self.sealed = -1, genesis(log.parent.name), 0, False
        self.first = 0
        self.ends: dict[int, End] = {}
        self.known: set[int] = set()
        """Epochs that have a checkpoint."""
        self.place: tuple[Path, int] = (log, 0)
        self.finished_at = -1
        self.gone: frozenset[str] = frozenset()
        """Names of files that retention has removed, or was killed over."""
        self.vouched: dict[str, object] = {}
        """What the next record must say about the file of the old format before it."""

    def run(self, *, ended: bool, note: str | None) -> None:
        """Look at everything once; raises AuditBroken at the first thing that does not hold."""
        # Backwards to how they are written, so that of a run that is under way nobody seems to know too much.
        remembered = self._asked(note)
        self.known = {int(path.stem) for path in sealing.checkpoints(self.log).glob("??????.json")}
        self.held = auditkeys.look(auditkeys.key_path(self.log))
        seed = auditkeys.read_seed(self.how.seeds)
        if auditkeys.key_at(seed, self.held.epoch) != self.held.key:
            raise AuditBroken(
                f"{auditkeys.key_path(self.log)}: the key does not come from the seed in {self.how.seeds}: one of them "
                "is another log's"
            )
        self._begin_behind_dropped()
        self.key = auditkeys.key_at(seed, self.epoch)
        for path in files(self.log):
            if path.name not in self.gone:
                self._old(path) if is_plain(path) else self._file(path)
        self.verdict.records = self.seq + 1
        self.verdict.finished = self.finished_at >= 0
        self._is_the_end()
        self._checkpoints(ended=ended)
        if ended and self.finished_at < 0:
            self._missing("the run has ended, and its log does not say so")
        self._anchors(remembered)

    def _begin_behind_dropped(self) -> None:
        found = sealing.dropped(self.log)
        if found is None:
            return
        self.gone = frozenset(found.files)
        last = self._signed(found.epoch, self._key_of(sealing.dropped_path(self.log)))
        self.seq, self.head, self.epoch, self.first = last.last, last.head, found.epoch + 1, last.last + 1
        self.verdict.dropped = last.count
        if not self.log.exists():
            # All of it is gone, and its end was under that checkpoint.
            self.finished_at = last.last

    def _key_of(self, path: Path) -> str:
        key = sealing.read_signed(path).key
        if not self.how.believed(key):
            raise AuditBroken(f"{path}: is signed with {key}, which is neither ours nor among `trusted_audit_keys`")
        return key

    def _old(self, path: Path) -> None:
        """Check a file of the time before keys; the record after it vouches for its bytes."""
        plain(path)
        self.vouched = {"file": path.name, "size": path.stat().st_size, "sha256": _sha256(path)}

    def _file(self, path: Path) -> None:
        """Walk through one file. Written for speed: this is where a verifier spends its time."""
        mark, last = self.held.seq, path == self.log
        with path.open("rb", buffering=1 << 20) as file:
            for number, line in enumerate(file, 1):
                seq = self.seq + 1
                one = parsed(line)
                if one is None:
                    if last and not line.endswith(b"\n"):
                        self.verdict.torn_bytes = len(line)
                        break
                    _bad(path, number, seq, "it is no record")
                if hash_of(line) != one.hash or one.seq != seq or one.prev != self.head:
                    _bad(path, number, seq, self._fault(one, line))
                if self.sealed or one.epoch != self.epoch:
                    self._step(path, number, one)
                if mac(self.key, one.hash) != one.mac:
                    _bad(path, number, seq, "it was not written with the log's key")
                if seq == mark and one.hash != self.held.head:
                    _bad(path, number, seq, "it is not the record that had reached the disk")
                if self.vouched:
                    self._vouch(path, line)
                self.seq, self.head, self.place = seq, one.hash, (path, number)
                if one.seal is not None:
                    self._seal(one, line)

    def _vouch(self, path: Path, line: bytes) -> None:
        record, wanted = json.loads(line), self.vouched
        if {name: record.get(name) for name in wanted} != wanted:
            _bad(path, 1, 0, f"{wanted['file']} is not the file it speaks of")
        self.vouched = {}

    def _fault(self, one: Line, line: bytes) -> str:
        seq = self.seq + 1
        if hash_of(line) != one.hash:
            return "it was changed"
        if one.seq > seq:
            return f"records {seq} to {one.seq - 1} are missing before it"
        return "it stands here again, or too late" if one.seq < seq else "it does not follow the record before it"

    def _step(self, path: Path, number: int, one: Line) -> None:
        """Go on to the next epoch, which only a sealed record ends."""
        if not self.sealed or one.epoch != self.epoch + 1:
            said = f"it is of epoch {one.epoch}, and {self.epoch} {'was closed' if self.sealed else 'is not'}"
            _bad(path, number, one.seq, said)
        self.key, self.epoch, self.sealed, self.first = next_key(self.key), one.epoch, False, one.seq

    def _seal(self, one: Line, line: bytes) -> None:
        self.sealed = True
        self.ends[one.epoch] = End(self.first, one.seq, one.hash, one.seal or "")
        found = _EVENT.search(line)
        if found and found[1] == b"workflow.finished":
            self.finished_at = one.seq

    def _missing(self, why: str) -> NoReturn:
        path, line = self.place
        _bad(path, line, self.seq + 1, f"the end is missing: {why}", after=True)

    def _is_the_end(self) -> None:
        """Hold the last record against the key file, which knows how far the log had come."""
        if self.seq < 0:
            self._missing("no record is left")
        if self.held.seq > self.seq:
            self._missing(f"record {self.held.seq} had reached the disk")
        if self.held.epoch > self.epoch + (self.sealed or self.verdict.dropped > self.seq):
            self._missing(f"its key is that of epoch {self.held.epoch}, and the last record is of epoch {self.epoch}")

    def _checkpoints(self, *, ended: bool) -> None:
        keys = []
        for epoch, end in self.ends.items():
            path = sealing.checkpoint_path(self.log, epoch)
            if not end.key:
                self.verdict.unsigned += 1
            elif not path.exists() and epoch >= self.held.signed and not ended:
                self.verdict.pending += 1
            else:
                self._agrees(path, self._signed(epoch, end.key), end)
                keys.append(end.key)
        if beyond := sorted(epoch for epoch in self.known if epoch >= self.epoch and epoch not in self.ends):
            self._missing(f"checkpoint {beyond[0]} speaks of records that are not there")
        self.verdict.checkpoints, self.verdict.keys = len(keys), tuple(dict.fromkeys(keys))

    def _signed(self, epoch: int, key: str) -> Checkpoint:
        """Return the checkpoint of an epoch, if it holds and is signed with this key."""
        path = sealing.checkpoint_path(self.log, epoch)
        if not path.exists():
            raise AuditBroken(f"{path}: the signed checkpoint of epoch {epoch} is missing", file=path.name)
        found = sealing.read_signed(path)
        if found.key != key or not self.how.believed(key):
            said = "is signed with another key than the log names" if found.key != key else _NOT_OURS.format(key=key)
            raise AuditBroken(f"{path}: {said}", file=path.name)
        if not isinstance(found.statement, Checkpoint):
            raise AuditBroken(f"{path}: is no checkpoint", file=path.name)
        return found.statement

    def _agrees(self, path: Path, found: Checkpoint, end: End) -> None:
        epoch = int(path.stem)
        before = sealing.digest(sealing.checkpoint_path(self.log, epoch - 1)) if epoch else ""
        wanted = Checkpoint(
            workflow=self.log.parent.name,
            epoch=epoch,
            first=end.first,
            last=end.last,
            head=end.head,
            count=end.last + 1,
            previous=before,
        )
        if found != wanted:
            differs = [name for name in Checkpoint.model_fields if getattr(found, name) != getattr(wanted, name)]
            raise AuditBroken(
                f"{path}: does not agree with the log: {', '.join(differs)}", record=end.last, file=path.name
            )

    def _asked(self, note: str | None) -> dict[str, dict[int, bytes]]:
        """Ask the anchors what they remember, and note those that cannot be asked."""
        found: dict[str, dict[int, bytes]] = {}
        for name in anchoring.names(self.how) if self.how.enabled else ():
            try:
                found[name] = anchoring.made(name).kept(self.log.parent.name)
            except (OSError, ValueError) as error:
                self.verdict.anchors[name] = f"cannot be asked: {error}"
        return found if note is None else {**found, "git note": _of_note(note)}

    def _anchors(self, remembered: dict[str, dict[int, bytes]]) -> None:
        """Hold what the anchors remember against what is here."""
        here = {int(p.stem): p.read_bytes() for p in sealing.checkpoints(self.log).glob("??????.json")}
        for name, kept in remembered.items():
            self.verdict.anchors[name] = self._remembers(name, kept, here)

    def _remembers(self, name: str, kept: dict[int, bytes], here: dict[int, bytes]) -> str:
        for epoch, data in sorted(kept.items()):
            if epoch not in here:
                self._missing(f"the anchor {name} remembers checkpoint {epoch}; an older copy was put back")
            if here[epoch] != data:
                raise AuditBroken(f"the anchor {name} remembers another checkpoint {epoch} than the one that is here")
        return f"agrees on {len(kept)} of {len(here)} checkpoints"


_NOT_OURS: Final = "is signed with {key}, which is neither this machine's key nor among `trusted_audit_keys`"


def _of_note(text: str) -> dict[int, bytes]:
    """Return the checkpoint in a git note by its epoch."""
    try:
        return {int(json.loads(text)["statement"]["epoch"]): text.encode()}
    except (ValueError, KeyError, TypeError) as error:
        raise AuditBroken(f"the git note on the branch is no checkpoint: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(path: Path) -> tuple[int, str]:
    """Check a log of the format without keys; return the number of its records and the last one's event."""
    prev, count, event = PLAIN_GENESIS, 0, ""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            record = _plain_record(path, number, line)
            good = hashlib.sha256(canonical({k: v for k, v in record.items() if k != "hash"})).hexdigest()
            if record.get("hash") != good or record.get("prev") != prev or record.get("seq") != count:
                _bad(path, number, count, "it was changed, or does not follow the record before it")
            prev, event, count = good, str(record["event"]), number
    return count, event


def _plain_record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not {"seq", "hash", "event"} <= record.keys():
        _bad(path, number, number - 1, "it is no record")
    return record
