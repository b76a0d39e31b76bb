"""The command `stats`: one run, all of them, group by group; damaged ones named and left out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows import cli, snapshots
from workflowmaster.flows.accounts import account
from workflowmaster.flows.counting import numbers, tally
from workflowmaster.flows.folders import Folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WITHIN = 5.0
"""Seconds of processor time for 300 runs of 20 steps; measured 0.95 s."""


@pytest.fixture(scope="module")
def kept(command_line: Callable[..., Any], shapes: dict[str, Callable[[], Any]]) -> Any:
    """A command line in whose state directory two runs lie."""
    line = command_line()
    for name, status in (("single", "completed"), ("failing", "partial")):
        folder = line.home / "workflows" / f"task-{name}"
        folder.mkdir(parents=True)
        state = shapes[name]().model_copy(update={"workflow_id": folder.name, "status": status})
        (folder / "state.json").write_text(state.model_dump_json())
    return line


def test_stats_of_one_and_of_all(kept: Any) -> None:
    all_of_them, one = kept("stats", "--json").json, kept("stats", "task-failing", "--json").json
    assert (all_of_them["workflows"], one["workflows"]) == (2, 1)
    assert all_of_them["workflow_status"] == {"partial": 1, "completed": 1}
    wanted = {"total_tasks": 6, "failed_tasks": 1, "blocked_tasks": 1, "reused_tasks": 1, "autonomous_decisions": 3}
    assert {key: one[key] for key in wanted} == wanted
    assert one["retries"] == 3


def test_people_read_rates_units_and_outcomes(kept: Any) -> None:
    lines = kept("stats", "task-failing").out.splitlines()
    told = dict(line.split(maxsplit=1) for line in lines)
    assert told["container_executions"] == "9"
    assert told["success_rate"] == "0% of 1 (95 times of 100 between 0% and 79%)"
    assert told["container_peak_memory"] == "p50 40.0 MiB; p90 134 MiB; p99 474 MiB; max 512 MiB"
    assert told["wait_seconds"].startswith("queued p50 0 s; p90 0.2 s; p99 0.2 s; backoff p50 -;")
    assert "decision retry by failed, and retries are left: 1 (1 failed)" in lines


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("workflow", ["Fix the parser", "Say hello"]),
        ("policy", ["development", "standard", "testing"]),
        (
            "step",
            [
                *(f"Fix the parser / {step}" for step in ("docs", "fix", "lint", "release", "reproduce", "tests")),
                "Say hello / hello",
            ],
        ),
    ],
)
def test_by_groups(kept: Any, by: str, names: list[str]) -> None:
    found = kept("stats", "--by", by, "--json").json
    assert list(found[f"by_{by}"]) == names
    assert sum(group["retries"] for group in found[f"by_{by}"].values()) == found["retries"] == 3
    shown = kept("stats", "--by", by).out.splitlines()[-len(names) :]
    assert [line[: len(name)] for line, name in zip(shown, names, strict=True)] == names


def test_since_leaves_older_runs_out(kept: Any) -> None:
    assert kept("stats", "--since", "2023-11-14", "--json").json["workflows"] == 2
    assert kept("stats", "--since", "7d", "--json").json["workflows"] == 0
    refused = kept("stats", "--since", "yesterday")
    assert (refused.code, refused.out) == (2, "")
    assert "--since yesterday: write a time such as" in refused.err


def test_stats_of_nothing_are_zeros(bare: Any) -> None:
    found = bare("stats", "--by", "workflow", "--json").json
    assert (found["total_tasks"], found["by_workflow"]) == (0, {})
    assert bare("stats").code == 0


def test_a_damaged_run_is_named_and_not_counted(run_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("task-whole", "task-torn", "task-lost"):
        made = run_of(workflow=name)
        made.begin()
        made.settle("a")
        made.close("partial")
        made.snapshot()
    torn, lost = (Folder(made.folder.path.parent / name) for name in ("task-torn", "task-lost"))
    torn.state_file.write_bytes(torn.state_file.read_bytes()[:-200])
    lost.state_file.unlink()
    lost.plan_file.unlink()
    assert cli.main(["stats", "--json"]) == 0
    said = capsys.readouterr()
    assert '"workflows": 1,' in said.out
    assert sorted(line.split(": ")[1].rpartition("/")[2] for line in said.err.splitlines()) == [
        "task-lost",
        "task-torn",
    ]
    assert all(line.startswith("not counted: ") and "state repair" in line for line in said.err.splitlines())
    # Asked for by name, it is counted as far as it is known, and its damage is told.
    assert cli.main(["stats", "task-torn", "--json"]) == 0
    said = capsys.readouterr()
    assert '"workflows": 1,' in said.out
    assert "state.json" in said.err
    assert cli.main(["stats", "task-lost", "--json"]) == 2


def test_a_damaged_record_is_told(run_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    made = run_of()
    made.begin()
    made.settle("a")
    made.snapshot()
    text = made.folder.journal.read_bytes()
    made.folder.journal.write_bytes(text[:40] + b"X" + text[41:])
    assert cli.main(["stats", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == "task-kept: counted without 1 damaged records\n"
    assert '"completed_tasks": 1,' in said.out


def test_a_run_that_somebody_works_on_is_going(run_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    from workflowmaster.flows.claim import take

    made = run_of()
    made.begin()
    made.snapshot()
    with take(made.folder):
        cli.main(["stats", "--json"])
    assert '"workflow_status": {"going": 1}' in capsys.readouterr().out
    cli.main(["stats", "--json"])
    assert '"workflow_status": {"interrupted": 1}' in capsys.readouterr().out


def test_three_hundred_runs_are_counted_at_once(home: Path, run_of: Callable[..., Any], make: Any) -> None:
    """A run of 20 steps, copied: what is measured is how long reading and counting takes."""
    made = run_of(*(make.step(f"s{n}", *([f"s{n - 1}"] if n else [])) for n in range(20)))
    made.begin()
    for n in range(20):
        key = {"work": "x" * 1500, "tree": "t" * 40}
        made.records.append("keys", step=f"s{n}", key="k", parts=key)
        made.records.append("go", step=f"s{n}", attempt=1, purpose="work", container=f"c{n}", name="n" * 60)
        made.settle(f"s{n}")
    made.close("completed")
    made.snapshot()
    state = made.folder.state()
    for n in range(299):
        folder = Folder(made.folder.path.parent / f"task-{n:04}")
        folder.path.mkdir()
        folder.journal.write_bytes(made.folder.journal.read_bytes())
        snapshots.write(folder, state.model_copy(update={"workflow_id": folder.id}))
    began = time.process_time()
    assert cli.main(["stats", "--json"]) == 0
    assert time.process_time() - began < WITHIN


def test_starts_are_counted_by_image_and_policy(shapes: dict[str, Callable[[], Any]]) -> None:
    def ran(image: str, policy: str, start: float | None, begin: float | None) -> Receipt:
        known = {"container_id": f"{image}{policy}{start}", "parked_seconds": 1.0}
        return Receipt(image=image, policy=policy, start_seconds=start, begin_seconds=begin, **known)

    receipts = [ran("a:1", "standard", second / 100, 0.01) for second in range(1, 101)]
    # One whose command was never reached, and one of before starts were measured.
    receipts += [
        ran("a:1", "hardened", 0.5, None),
        ran("a:1", "standard", None, None),
        ran("b:1", "standard", 0.25, 0.5),
    ]
    state = shapes["single"]()
    (name, result), *_ = state.results.items()
    state = state.model_copy(update={"results": {name: result.model_copy(update={"receipts": tuple(receipts)})}})
    found = numbers(tally([account(state)]))
    starts = found["container_starts"]
    assert {name: one["count"] for name, one in starts.items()} == {
        "a:1 hardened": 1,
        "a:1 standard": 100,
        "b:1 standard": 1,
    }
    assert found["container_executions"] == 103
    assert starts["a:1 standard"]["start_seconds"] == {"median": 0.505, "p95": 0.9505}
    assert starts["a:1 standard"]["begin_seconds"] == {"median": 0.01, "p95": 0.01}
    assert starts["a:1 hardened"]["begin_seconds"] == {"median": None, "p95": None}
    assert starts["b:1 standard"] == {
        "count": 1,
        "start_seconds": {"median": 0.25, "p95": 0.25},
        "parked_seconds": {"median": 1.0, "p95": 1.0},
        "begin_seconds": {"median": 0.5, "p95": 0.5},
    }


@pytest.mark.docker
@pytest.mark.prefect
def test_a_run_says_how_long_its_containers_took_to_be_there(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    text = "# Two\n\n## Steps\n\n### a\n```sh\ntrue\n```\n\n### b\n- needs: a\n- policy: testing\n```sh\ntrue\n```\n"
    done = wm.run(prompt_file(text), repository().path)
    assert done.code == 0, done.text
    starts = wm("stats", done.json["workflow_id"], "--json").json["container_starts"]
    assert {name: one["count"] for name, one in starts.items()} == {
        "workflowmaster/step:1 standard": 1,
        "workflowmaster/step:1 testing": 1,
    }
    for one in starts.values():
        assert 0 < one["begin_seconds"]["median"] < one["start_seconds"]["median"] < 60
    shown = wm("stats", done.json["workflow_id"]).out
    assert "workflowmaster/step:1 testing: 1 containers; median / p95 in seconds: start " in shown
