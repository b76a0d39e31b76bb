"""`state show | validate | repair | restore`: every damage is found, and mended from what holds or refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import checkpoints, claim, cli, folders, journal, repairing, snapshots, soundness
from workflowmaster.flows.audit import records
from workflowmaster.flows.folders import UnknownWorkflow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CODES = {
    "state.json": "state.damaged",
    "run.json": "run.damaged",
    "plan.json": "plan.damaged",
    "prompt.md": "prompt.differs",
    "records.jsonl": "journal.",
    "0001-a.json.gz": "checkpoint.damaged",
    "0002-end.json.gz": "checkpoint.damaged",
    "result a": "result.damaged",
}
"""File → the flaw that its damage is."""
HOW = ("truncated", "flipped", "emptied", "deleted")


def damage(path: Path, how: str) -> None:
    body = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
        return
    if how == "flipped":
        body[len(body) // 2] ^= 1
    path.write_bytes({"truncated": body[: len(body) // 2], "emptied": b"", "flipped": body}[how])


def told(state: Any) -> dict[str, str]:
    return {name: result.status for name, result in state.results.items()}


def codes(found: Any) -> list[str]:
    return [flaw.code for flaw in found]


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    code = cli.main(["state", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def test_what_is_whole_holds(halfway: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert soundness.validate(halfway.folder) == []
    assert asked(capsys, "validate") == (0, {"workflow_id": "task-kept", "holds": True, "findings": []}, "")
    before = {path: path.read_bytes() for path in halfway.files().values()}
    assert repairing.repair(halfway.folder) == repairing.Repair(found=(), done=(), left=())
    assert {path: path.read_bytes() for path in halfway.files().values()} == before


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("what", CODES)
def test_every_damage_is_found_and_mended_and_set_aside(halfway: Any, what: str, how: str) -> None:
    good, path = halfway.folder.state(), halfway.files()[what]
    damage(path, how)
    left = path.read_bytes() if path.exists() else None
    found = codes(soundness.validate(halfway.folder))
    if how == "deleted" and what.endswith(".gz"):
        assert found == []  # the next ones are as good
        return
    code = CODES[what].replace("damaged", "missing") if how == "deleted" else CODES[what]
    assert any(one.startswith(code) for one in found), found
    done = repairing.repair(halfway.folder)
    if what == "prompt.md":  # the prompt's own file is nowhere, and nothing goes by the copy
        assert codes(done.left) == ["prompt.differs"]
        return
    assert done.left == ()
    kept = [file.read_bytes() for file in (halfway.folder.path / "damaged").glob("*")]
    assert not left or left in kept
    now = halfway.folder.state()
    if what == "result a":
        assert (told(now), now.generations) == ({"b": "failed", "c": "blocked"}, {"a": 1})
    else:
        assert {**now.model_dump(), "journal_at": 0} == {**good.model_dump(), "journal_at": 0}
    assert repairing.repair(halfway.folder).done == ()
    assert "state.repaired" in [record["event"] for record in records(halfway.folder.audit)]


@pytest.mark.parametrize("second", ["run.json", "plan.json", "records.jsonl", "result a", "0002-end.json.gz"])
@pytest.mark.parametrize("first", ["state.json", "records.jsonl"])
def test_two_damaged_files_are_mended_from_the_rest(halfway: Any, first: str, second: str) -> None:
    for name in {first, second}:
        damage(halfway.files()[name], "emptied")
    assert repairing.repair(halfway.folder).left == ()
    results = told(halfway.folder.state())
    assert results == {
        name: status
        for name, status in {"a": "completed", "b": "failed", "c": "blocked"}.items()
        if name != "a" or second != "result a"
    }
    assert halfway.folder.state().status == "partial"


def test_what_nothing_else_holds_is_refused_and_left_as_it_is(run_of: Callable[..., Any]) -> None:
    run = run_of()
    run.settle("a")  # killed before anything said what the run was asked for
    run.folder.record.write_text("{")
    before = {path: path.read_bytes() for path in run.files().values()}
    with pytest.raises(UnknownWorkflow, match=r"run\.json cannot be had.*Nothing was changed"):
        repairing.repair(run.folder)
    assert {path: path.read_bytes() for path in run.files().values()} == before


def test_a_newer_version_is_no_damage(halfway: Any, capsys: pytest.CaptureFixture[str]) -> None:
    raw = json.loads(halfway.folder.state_file.read_text()) | {"schema_version": 9}
    halfway.folder.state_file.write_text(json.dumps(raw))
    for words in (("repair",), ("show",), ("restore", "latest", "--checkpoint", "1")):
        code, said, err = asked(capsys, *words)
        assert code == 2
        assert "written by a newer version" in said["error"]
        assert err.startswith("error: ")
    assert asked(capsys, "validate")[1]["findings"][0]["code"] == "state.newer"
    assert json.loads(halfway.folder.state_file.read_text()) == raw


@pytest.mark.parametrize("where", ["result.newer", "journal.newer"])
def test_a_result_of_a_newer_version_is_no_damage(halfway: Any, make: Any, where: str) -> None:
    made = halfway.settled["a"]
    if where == "journal.newer":
        newer = made.model_dump(mode="json") | {"schema_version": 2}
        halfway.records.append("result", step="a", reused=False, result=newer)
    else:
        make.persist(halfway.files()["result a"], made, schema_version=2)
    before = {path: path.read_bytes() for path in halfway.files().values()}
    assert codes(soundness.validate(halfway.folder)) == [where]
    with pytest.raises(UnknownWorkflow, match="written by a newer version"):
        repairing.repair(halfway.folder)
    assert {path: path.read_bytes() for path in halfway.files().values()} == before


def test_a_result_that_says_something_else_makes_its_step_run_again(halfway: Any, make: Any) -> None:
    make.persist(halfway.files()["result a"], halfway.settled["a"], outputs={"x": "1"})
    assert codes(soundness.validate(halfway.folder)) == ["result.differs"]
    assert repairing.repair(halfway.folder).left == ()
    assert halfway.folder.state().generations == {"a": 1}


def test_nothing_is_mended_while_somebody_works_on_it(halfway: Any, capsys: pytest.CaptureFixture[str]) -> None:
    damage(halfway.folder.state_file, "emptied")
    with claim.take(halfway.folder):
        for words in (("repair",), ("restore", "latest", "--checkpoint", "1")):
            code, said, _ = asked(capsys, *words)
            assert code == 3
            assert "only one process works on a workflow" in said["error"]
    assert halfway.folder.state_file.read_bytes() == b""


def test_a_commit_that_is_gone_makes_its_step_run_again(halfway: Any, make: Any) -> None:
    lost = halfway.settled["a"].model_copy(update={"commit": "c" * 40})
    halfway.records.append("result", step="a", reused=False, result=lost.model_dump(mode="json"))
    assert "commit.missing" in codes(soundness.validate(halfway.folder))
    done = repairing.repair(halfway.folder)
    assert "a: its result is dropped, it runs again" in [mend.what for mend in done.done]
    assert "a" not in halfway.folder.state().results


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"status": "completed"}, "status.mandatory"),
        ({"running": ("c",), "status": "failed"}, "status.running"),
        ({"seconds": -1.0}, "status.times"),
        ({"running": ("ghost",), "status": "running"}, "step.unknown"),
    ],
)
def test_what_cannot_be_is_told(halfway: Any, change: dict[str, Any], code: str) -> None:
    snapshots.write(halfway.folder, halfway.folder.state().model_copy(update=change))
    assert code in codes(soundness.validate(halfway.folder))
    repairing.repair(halfway.folder)
    assert code not in codes(soundness.validate(halfway.folder))


def test_a_snapshot_that_the_records_contradict_is_derived_anew(halfway: Any) -> None:
    state = halfway.folder.state()
    wrong = state.results["b"].model_copy(update={"status": "skipped"})
    snapshots.write(halfway.folder, state.model_copy(update={"results": {**state.results, "b": wrong}}))
    assert codes(soundness.validate(halfway.folder)) == ["state.differs"]
    assert repairing.repair(halfway.folder).left == ()
    assert told(halfway.folder.state()) == told(state)


def test_needs_that_lead_nowhere_and_cycles_are_told(run_of: Callable[..., Any], make: Any) -> None:
    run = run_of(make.step("a", "b"), make.step("b", "a"), make.step("c", "nobody"))
    assert codes(soundness.validate(run.folder))[:2] == ["plan.dangling", "plan.cycle"]


def test_a_run_without_an_owner_and_a_clock_that_was_put_back_are_no_errors(run_of: Callable[..., Any]) -> None:
    run = run_of()
    run.begin()
    late = run.settle("a").model_copy(update={"started_at": 4e9})
    run.snapshot()
    run.records.append(
        "result", step="b", reused=False, result={**late.model_dump(mode="json"), "step": "b", "status": "failed"}
    )
    found = {flaw.code: flaw.severity for flaw in soundness.validate(run.folder)}
    assert found == {"status.orphaned": "warning", "time.future": "note"}


# --- going back ---


def test_restore_goes_back_to_a_checkpoint(halfway: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = asked(capsys, "restore", "latest", "--checkpoint", "1")
    assert (code, said["dropped"]) == (0, ["b", "c"])
    state = halfway.folder.state()
    assert (told(state), state.status, state.branch) == ({"a": "completed"}, "partial", "b")
    assert list((halfway.folder.path / "damaged").glob("state.json-*"))
    assert [entry.fields["steps"] for entry in journal.read(halfway.folder.journal).of("rerun")] == [["b"], ["c"]]
    event = [record for record in records(halfway.folder.audit) if record["event"] == "state.restored"]
    assert event[0]["dropped"] == ["b", "c"]
    assert asked(capsys, "restore", "latest", "--checkpoint", "1")[1]["dropped"] == []
    assert soundness.validate(halfway.folder) == []


@pytest.mark.parametrize(("number", "said"), [("7", "has no checkpoint 7; it has 1, 2"), ("2", "Good ones: 1")])
def test_restore_needs_a_checkpoint_that_holds(
    halfway: Any, capsys: pytest.CaptureFixture[str], number: str, said: str
) -> None:
    damage(checkpoints.files(halfway.folder)[2], "flipped")
    code, answer, _ = asked(capsys, "restore", "latest", "--checkpoint", number)
    assert code == 2
    assert said in answer["error"]
    assert told(halfway.folder.state()) == {"a": "completed", "b": "failed", "c": "blocked"}


def test_show_prints_the_state_and_its_checkpoints(halfway: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = asked(capsys, "show")
    assert (code, said["status"]) == (0, "partial")
    assert [(row["number"], row["name"], row["done"], row["tasks"]) for row in said["checkpoints"]] == [
        (1, "a", 1, 3),
        (2, "end", 1, 3),
    ]
    then = asked(capsys, "show", "task-kept", "--checkpoint", "1")[1]
    assert list(then["results"]) == ["a"]
    assert cli.main(["state", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "task-kept: partial"
    assert [line.split()[:2] for line in lines[1:4]] == [["completed", "a"], ["failed", "b"], ["blocked", "c"]]
    assert [line.split()[:2] for line in lines[4:]] == [["checkpoint", "1"], ["checkpoint", "2"]]


def test_for_people_a_repair_says_what_it_did(halfway: Any, capsys: pytest.CaptureFixture[str]) -> None:
    damage(halfway.folder.state_file, "flipped")
    assert cli.main(["state", "validate"]) == 1
    assert "state.damaged" in capsys.readouterr().out
    assert cli.main(["state", "repair"]) == 0
    assert "state.json: derived anew (before: damaged/state.json-" in capsys.readouterr().out
    assert cli.main(["state", "repair"]) == 0
    assert capsys.readouterr().out == "task-kept: nothing was to be mended\n"


# --- one damaged run among others ---


def test_a_damaged_run_breaks_nobody_elses_list(
    halfway: Any, run_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = run_of(workflow="task-other")
    other.begin()
    other.snapshot()
    damage(halfway.folder.state_file, "flipped")
    assert cli.main(["list", "--json"]) == 0
    rows = {row["workflow_id"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["task-other"]["status"] == "running"
    assert (rows["task-kept"]["status"], rows["task-kept"]["completed"]) == ("damaged", 1)
    assert "workflowmaster state repair task-kept" in rows["task-kept"]["reason"]
    for name in ("state.json", "plan.json", "0001-a.json.gz", "0002-end.json.gz"):
        damage(halfway.files()[name], "emptied")
    assert cli.main(["list"]) == 0
    out, err = capsys.readouterr()
    assert "damaged" in out
    assert "plan.json is damaged" in err
    assert cli.main(["stats", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["workflows"] == 1
    assert "not counted" in err
    assert [folder.id for folder in folders.everything()] != []
