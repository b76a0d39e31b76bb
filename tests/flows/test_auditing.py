"""The command `audit`: over logs that were written by hand, so that every shape can be shown."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.audit import AuditLog
from workflowmaster.flows.auditfiles import PLAIN_GENESIS
from workflowmaster.flows.auditing import moment_of
from workflowmaster.flows.auditkeys import key_path
from workflowmaster.flows.plan import canonical

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = [
    *("workflow_id", "records", "holds", "reason", "first_bad", "file", "line", "finished", "checkpoints", "unsigned"),
    *("pending", "dropped", "torn_bytes", "anchors", "keys", "format"),
]
"""What `audit verify --json` promises."""


@pytest.fixture
def kept(command_line: Callable[..., Any], shapes: dict[str, Callable[[], Any]]) -> Any:
    """A command line in whose state directory one run lies, with its log."""
    line = command_line()
    make(line, shapes, "task-single")
    return line


def make(line: Any, shapes: dict[str, Callable[[], Any]], name: str, status: str = "completed") -> Path:
    folder = line.home / "workflows" / name
    folder.mkdir(parents=True)
    state = shapes["single"]().model_copy(update={"workflow_id": name, "status": status, "commit": "", "branch": ""})
    (folder / "state.json").write_text(state.model_dump_json())
    log = AuditLog(folder / "audit.jsonl")
    log.append("workflow.started", workflow=name)
    log.append("container.started", step="hello")
    if status != "running":
        log.append("workflow.finished", status=status)
    log.close()
    return folder / "audit.jsonl"


@pytest.fixture
def log(kept: Any) -> Path:
    return kept.folder("task-single") / "audit.jsonl"


def test_a_log_that_holds(kept: Any) -> None:
    found = kept("audit", "verify", "task-single", "--json").json
    assert list(found) == KEYS
    assert {key: found[key] for key in KEYS[1:5]} == {"records": 3, "holds": True, "reason": "", "first_bad": None}
    assert (found["finished"], found["checkpoints"], len(found["keys"])) == (True, 1, 1)
    seeds = kept.home / "audit/seeds"
    assert found["anchors"] == {f"folder:{seeds}": "agrees on 1 of 1 checkpoints"}
    assert kept("audit", "verify").out.startswith("3 records hold, 1 signed checkpoint\nanchor folder:")


def test_a_broken_one_ends_with_7_and_the_first_bad_record(kept: Any, log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b'"step":"hello"', b'"step":"other"'))
    said = kept("audit", "verify", "task-single", "--json")
    reason = f"{log}:2: the chain is broken at record 1: it was changed"
    assert (said.code, said.err) == (7, f"error: {reason}\n")
    assert list(said.json) == [*KEYS, "error"]
    told = {"holds": False, "first_bad": 1, "file": "audit.jsonl", "line": 2, "reason": reason, "error": reason}
    assert {key: said.json[key] for key in told} == told


def test_a_run_without_an_end_holds_and_says_so(kept: Any, shapes: Any) -> None:
    make(kept, shapes, "task-killed", "running")
    said = kept("audit", "verify", "task-killed")
    assert (said.code, said.out.splitlines()[0]) == (
        0,
        "2 records hold, 0 signed checkpoints; the run has no end yet, or was killed",
    )


@pytest.mark.parametrize("gone", ["seed", "key"])
def test_a_lost_key_is_one_clear_error(kept: Any, log: Path, gone: str) -> None:
    path = key_path(log) if gone == "key" else kept.home / "audit/seeds/task-single/seed"
    path.unlink()
    said = kept("audit", "verify", "task-single")
    assert (said.code, said.err.count("\n"), str(path) in said.err) == (7, 1, True)


def test_the_seed_can_lie_elsewhere(kept: Any, log: Path, tmp_path: Path) -> None:
    shutil.move(kept.home / "audit/seeds", tmp_path / "elsewhere")
    assert kept("audit", "verify").code == 7
    assert kept("audit", "verify", WORKFLOWMASTER_AUDIT_SEEDS=str(tmp_path / "elsewhere")).code == 0


def test_records_for_programs_and_for_people(kept: Any) -> None:
    records = [json.loads(line) for line in kept("audit", "show", "--json").out.splitlines()]
    assert [record["event"] for record in records] == ["workflow.started", "container.started", "workflow.finished"]
    lines = kept("audit", "show", "task-single").out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    assert lines[2].endswith('{"status": "completed"}')


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--type", "workflow.*"], 2),
        (["--type", "container.started"], 1),
        (["--type", "nothing"], 0),
        (["--since", "1h"], 3),
        (["--since", "3d"], 3),
        (["--since", "2099-01-01"], 0),
        (["--since", "2020-01-01T00:00:00+00:00", "--type", "*.started"], 2),
    ],
)
def test_records_of_a_time_and_of_a_kind(kept: Any, words: list[str], count: int) -> None:
    assert len(kept("audit", "show", *words).out.splitlines()) == count


def test_a_time_that_is_none_is_refused(kept: Any) -> None:
    said = kept("audit", "show", "--since", "yesterday")
    assert (said.code, "2h, 3d" in said.err) == (2, True)
    with pytest.raises(BadOption):
        moment_of("5")


@pytest.mark.parametrize(("text", "ago"), [("90s", 90), ("2h", 7200), ("400d", 400 * 86400)])
def test_how_long_ago(text: str, ago: float) -> None:
    assert moment_of(text) == pytest.approx(time.time() - ago, abs=5)


def test_a_record_that_cannot_be_read_ends_the_showing(kept: Any, log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b'{"seq":1', b'("seq":1'))
    said = kept("audit", "show")
    assert (said.code, len(said.out.splitlines())) == (7, 1)
    assert f"{log}:2: not a record of an audit log" in said.err


def test_a_log_of_the_old_format(kept: Any, shapes: Any) -> None:
    import hashlib

    path = make(kept, shapes, "task-old")
    for left in path.parent.glob("audit.*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    shutil.rmtree(kept.home / "audit/seeds/task-old")
    body = {"seq": 0, "ts": 1.0, "event": "workflow.finished", "prev": PLAIN_GENESIS}
    path.write_bytes(canonical({**body, "hash": hashlib.sha256(canonical(body)).hexdigest()}) + b"\n")
    assert (
        kept("audit", "verify", "task-old").out == "1 record hold (old format: a chain without keys or checkpoints)\n"
    )
    assert kept("audit", "show", "task-old", "--json").json["event"] == "workflow.finished"


def test_a_run_with_a_damaged_key_is_not_gone_on_with(kept: Any, log: Path) -> None:
    key_path(log).write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        AuditLog(log)
    assert key_path(log).read_bytes() == b"nonsense"
