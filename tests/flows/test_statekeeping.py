"""The state is what the records and results say, whatever of the snapshot is there: derived, it equals what was settled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflowmaster.flows import folders, journal, persisted, schemas, snapshots, statekeeping
from workflowmaster.flows.folders import UnknownWorkflow
from workflowmaster.flows.journey import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEPS = "abcd"
FILES = ("state.json", "run.json", "plan.json", "records.jsonl", "0001-a.json.gz", "0002-end.json.gz", "result a")
REPEATED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def steps_of(make: Any) -> list[Any]:
    return [make.step(name) for name in STEPS]


def told(state: Any) -> dict[str, str]:
    return {name: result.status for name, result in state.results.items()}


# --- a state is its snapshot and what was recorded since ---


def test_a_new_run_has_a_state_before_anything_was_written(run_of: Callable[..., Any]) -> None:
    state = run_of().folder.state()
    assert (state.status, state.results, state.workspace) == ("running", {}, "/w")
    assert [folder.id for folder in folders.everything()] == ["task-kept"]


def test_records_after_the_snapshot_are_added(run_of: Callable[..., Any]) -> None:
    run = run_of()
    run.begin()
    run.settle("a")
    run.snapshot()
    run.settle("b", "failed")
    run.records.append("keys", step="c", key="k", parts={})
    state = run.folder.state()
    assert told(state) == {"a": "completed", "b": "failed"}
    assert state.running == ("c",)
    assert (state.step_status("c"), state.flow_run_id) == ("in_progress", "f1")
    assert state.journal_at == run.folder.journal.stat().st_size > snapshots.read(run.folder).journal_at


def test_the_end_is_recorded_and_a_later_part_keeps_what_stands(run_of: Callable[..., Any]) -> None:
    run = run_of()
    run.begin()
    run.settle("a")
    run.close("partial")
    assert (run.folder.state().status, run.folder.state().branch) == ("partial", "b")
    run.begin()
    state = run.folder.state()
    assert (state.status, state.branch, state.commit != "") == ("running", "b", True)
    assert told(state) == {"a": "completed"}


def test_a_step_with_the_same_key_comes_back_and_one_with_another_runs(run_of: Callable[..., Any]) -> None:
    run = run_of()
    run.begin()
    first, second = run.settle("a"), run.settle("b")
    run.begin()
    run.records.append("keys", step="a", key=first.key, parts={})
    run.records.append("keys", step="b", key=f"{second.key}x", parts={})
    state = run.folder.state()
    assert (state.reused, state.running, told(state)) == (("a",), ("b",), {"a": "completed"})


def test_what_must_run_again_is_no_result_even_if_it_is_persisted(run_of: Callable[..., Any]) -> None:
    run = run_of()
    run.begin()
    run.settle("a")
    run.close("completed")
    run.records.append("rerun", steps=["a"], generation=1, why="")
    for state in (run.folder.state(), statekeeping.derive(run.folder)):
        assert (told(state), state.status, state.generations) == ({}, "partial", {"a": 1})
    run.snapshot()
    run.folder.state_file.write_text("{")
    assert told(run.folder.state()) == {}
    run.settle("a", generation=1)
    assert told(statekeeping.derive(run.folder)) == {"a": "completed"}


def test_the_persisted_result_wins_over_a_record_that_is_missing(run_of: Callable[..., Any]) -> None:
    run = run_of()
    run.begin()
    run.settle("a")
    run.snapshot()
    made = run.settle("b")
    lines = run.folder.journal.read_bytes().splitlines(keepends=True)
    run.folder.journal.write_bytes(b"".join(lines[:-1]))
    assert told(run.folder.state()) == {"a": "completed"}
    assert statekeeping.derive(run.folder).results["b"] == made


def test_a_plan_that_was_edited_takes_its_place_when_a_part_begins(run_of: Callable[..., Any], make: Any) -> None:
    run = run_of()
    run.begin()
    run.settle("a")
    run.snapshot()
    run.plan = run.plan.model_copy(update={"tasks": (make.step("a"), make.step("new"))})
    run.records.append("plan", hash=run.plan.workflow_hash)
    run.folder.plan_file.write_text(run.plan.model_dump_json())
    run.begin()
    assert [task.id for task in run.folder.state().plan.tasks] == ["a", "new"]


# --- whatever was killed, and wherever ---

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("settle"), st.sampled_from(STEPS), st.sampled_from(["completed", "failed", "blocked"])),
        st.tuples(st.just("snapshot"), st.just(""), st.just("")),
        st.tuples(st.just("begin"), st.just(""), st.just("")),
        st.tuples(st.just("again"), st.sampled_from(STEPS), st.just("")),
    ),
    max_size=25,
)


def play(run: Any, events: list[tuple[str, str, str]]) -> dict[str, str]:
    """Let a run do this, and say which results it has in the end."""
    known: dict[str, str] = {}
    generations = dict.fromkeys(STEPS, 0)
    run.begin()
    for what, step, status in events:
        if what == "settle":
            generations[step] += 1
            run.settle(step, status, generation=generations[step])
            known[step] = status
        elif what == "again":
            generations[step] += 1
            run.records.append("rerun", steps=[step], generation=generations[step], why="")
            known.pop(step, None)
        else:
            getattr(run, what)()
    return known


@REPEATED
@given(EVENTS, st.booleans())
def test_derived_is_what_was_settled_with_and_without_a_snapshot(
    run_of: Callable[..., Any], make: Any, events: list[Any], lost: bool
) -> None:
    run = run_of(*steps_of(make), workflow=folders.new_id())
    known = play(run, events)
    if lost:
        run.folder.state_file.unlink(missing_ok=True)
    assert told(run.folder.state()) == told(statekeeping.derive(run.folder)) == known


@REPEATED
@given(EVENTS, st.data())
def test_cut_off_anywhere_the_journal_yields_what_was_settled_until_then(
    run_of: Callable[..., Any], make: Any, events: list[Any], data: st.DataObject
) -> None:
    run = run_of(*steps_of(make), workflow=folders.new_id())
    play(run, [event for event in events if event[0] != "snapshot"])
    whole = run.folder.journal.read_bytes()
    # A share, because the times in the records have more digits or fewer.
    cut = len(whole) * data.draw(st.integers(0, 1000)) // 1000
    run.folder.journal.write_bytes(whole[:cut])
    lines = whole[:cut].splitlines(keepends=True)
    last = [json.loads(line.partition(b" ")[2]) for line in lines if line.endswith(b"\n")]
    wanted: dict[str, str] = {}
    for entry in last:
        if entry["kind"] == "result":
            wanted[entry["step"]] = entry["result"]["status"]
        elif entry["kind"] == "keys":
            wanted.pop(entry["step"], None)
        elif entry["kind"] == "rerun":
            wanted.pop(entry["steps"][0], None)
    found = told(run.folder.state())
    # Beyond the records, a persisted result is true: its step completed, and nothing says that it must run again.
    assert {step: status for step, status in found.items() if wanted.get(step) != status} == {
        step: "completed" for step, status in found.items() if wanted.get(step) != status
    }
    assert wanted.keys() <= found.keys()


@REPEATED
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_never_makes_another_state(run_of: Callable[..., Any], what: str, where: float, bit: int) -> None:
    run = run_of(workflow=folders.new_id())
    run.begin()
    run.settle("a")
    run.checkpoint(1, "a")
    run.settle("b", "failed")
    run.close("partial")
    run.snapshot()
    run.checkpoint(2)
    good = run.folder.state()
    path = run.files()[what]
    body = bytearray(path.read_bytes())
    body[int(where * len(body))] ^= 1 << bit
    path.write_bytes(body)
    try:
        found = run.folder.state()
    except UnknownWorkflow as error:
        # A flipped version number is the one damage that looks like something else.
        assert schemas.NEWER in str(error)  # noqa: PT017
        return
    assert {**found.model_dump(), "journal_at": 0} == {**good.model_dump(), "journal_at": 0}


# --- files of other versions ---


def test_a_state_of_version_1_is_read_and_becomes_one_of_today(run_of: Callable[..., Any], root: Path) -> None:
    run = run_of(workflow="task-20261122-202913-143d7a57")
    run.folder.journal.unlink()
    run.folder.state_file.write_bytes((root / "tests/fixtures/states/state-1.json").read_bytes())
    state = run.folder.state()
    assert (state.schema_version, state.status, state.journal_at) == (2, "partial", 0)
    assert told(state) == {"one": "completed", "two": "completed", "three": "completed", "side": "failed"}
    run.snapshot()
    assert snapshots.read(run.folder).model_dump() == state.model_dump()


@pytest.mark.parametrize("what", ["state.json", "run.json"])
def test_a_newer_version_is_refused_and_left_alone(halfway: Any, what: str) -> None:
    path = halfway.folder.path / what
    raw = json.loads(path.read_text()) | {"schema_version": 99, "unheard": [1]}
    path.write_text(json.dumps(raw))
    with pytest.raises(UnknownWorkflow, match="written by a newer version"):
        halfway.folder.state() if what == "state.json" else folders.kept(path, Record)
    assert json.loads(path.read_text()) == raw


@pytest.mark.parametrize("version", ["2", 0, -1, None, True, 1.5])
def test_what_is_no_version_is_told(version: object) -> None:
    with pytest.raises(ValueError, match="which is none"):
        schemas.readable({"schema_version": version}, 2, "state")


def test_an_old_version_cannot_hold_what_came_later() -> None:
    with pytest.raises(ValueError, match="version 1, which has no journal_at"):
        schemas.migrate({"schema_version": 1, "journal_at": 7}, "state")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "holds list where an object belongs"),
        (b'{"schema_version":2,"a":1,"checksum":"0"}', "does not match its checksum"),
    ],
)
def test_a_file_that_cannot_be_opened_is_told(body: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schemas.opened(body, "state")


@given(st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False) | st.text() | st.integers(), max_size=5))
def test_sealed_values_are_opened_again_however_they_are_laid_out(fields: dict[str, Any]) -> None:
    fields = {name: value for name, value in fields.items() if name != "schema_version"} | {"schema_version": 1}
    for text in (schemas.sealed(fields), json.dumps(json.loads(schemas.sealed(fields, indent=1)), indent=3)):
        assert schemas.opened(text.encode(), "run") == {name: v for name, v in fields.items() if name != "checksum"}


def test_a_plan_that_is_not_the_recorded_one_is_refused(halfway: Any) -> None:
    other = halfway.plan.model_copy(update={"max_parallel": 7})
    halfway.folder.plan_file.write_text(other.model_dump_json())
    with pytest.raises(UnknownWorkflow, match=r"is not the plan that run\.json names"):
        halfway.folder.plan()


# --- Prefect's results ---


def test_results_are_read_as_prefect_writes_them(home: Path, make: Any) -> None:
    from prefect.results import ResultRecord, ResultRecordMetadata
    from prefect.serializers import CompressedJSONSerializer

    key = f"task-x-{'0' * 64}"
    made = make.result("a", key=key)
    metadata = ResultRecordMetadata(storage_key=key, serializer=CompressedJSONSerializer())
    path = home / "results" / key
    path.parent.mkdir(parents=True)
    path.write_bytes(ResultRecord(metadata=metadata, result=made).serialize())
    assert persisted.read(path) == made
    assert list(persisted.files_of("task-x")) == [path]
    assert list(persisted.files_of("task")) == []
    assert persisted.file_of(key) == path
    path.rename(path.with_name(key.replace("0", "1")))
    with pytest.raises(ValueError, match="belongs to the key"):
        persisted.read(path.with_name(key.replace("0", "1")))


@pytest.mark.parametrize("body", ["", "{}", "[1]", '{"metadata": {"serializer": {"type": "pickle"}}, "result": ""}'])
def test_what_is_no_result_is_told(tmp_path: Path, body: str) -> None:
    path = tmp_path / "x"
    path.write_text(body)
    with pytest.raises(ValueError, match=r"is|cannot|kept"):
        persisted.read(path)


def test_a_run_that_is_read_while_it_writes_is_never_damaged(run_of: Callable[..., Any]) -> None:
    run = run_of()
    run.begin()
    run.settle("a")
    run.snapshot()
    with run.folder.journal.open("ab") as file:
        file.write(b'0123abcd {"at":1,"kind":"res')
    assert told(run.folder.state()) == {"a": "completed"}
    assert run.folder.condition()[1] == ""
    assert journal.read(run.folder.journal).damaged
