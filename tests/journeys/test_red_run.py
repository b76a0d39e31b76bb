"""One run in which steps fail in every way there is: each failure stays where it belongs and says why.

The ways to break a container are real ones, and the reasons are what the run really printed for them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = Path(__file__).parent / "prompts/red.md"

FAILED = {
    "fails": "exit 7",
    "tolerated": "exit 3",
    "slow": "it ran longer than 1 s and was stopped; raise timeout-minutes if it needs more",
    "greedy": "it ran out of memory under policy standard (exit 137)",
    "forks": "it ran longer than 4 s and was stopped; raise timeout-minutes if it needs more",
    "chatty": "it printed more than policy hardened keeps and was stopped; write to a file instead",
    "checked": "its check failed: exit 1",
    "stubborn": "exit 9",
    "not-listed": "exit 1",
    "promises": "it did not write answer to $WM_OUTPUT, as its outputs promise",
    "garbles": "line 1 of $WM_OUTPUT is 'no equals sign'; expected name=value",
    "points-outside": "/out/outputs cannot be read as a plain file (Too many levels of symbolic links)",
    "not-there": "a command was not found in the image (exit 127); see its log",
    "killed": "it was killed by SIGSEGV (exit 139)",
}
COMPLETED = {"fine", "cleanup", "on-trouble", "after-tolerated", "after-given-up", "links", "reads-links"}

SICK = "given up, as the rule unwell says: "
"""What a busy machine puts before the reason of a failure: below a health of a half, such a step counts as skipped."""

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def said(wm: Any, repo: Any, before: dict[str, object]) -> Any:
    return wm.run(PROMPT, repo.path)


@pytest.fixture(scope="module")
def run(said: Any) -> Answer:
    assert said.code == 1, said.text
    answer: Answer = said.json
    return answer


@pytest.fixture(scope="module")
def tasks(run: Answer) -> dict[str, Answer]:
    return {task["id"]: task for task in run["tasks"]}


def log(wm: Any, run: Answer, step: str) -> str:
    text: str = wm("logs", run["workflow_id"], "--step", step).out
    return text


def test_what_could_complete_did(run: Answer, tasks: dict[str, Answer]) -> None:
    assert run["status"] == "partial"
    assert {name for name, task in tasks.items() if task["status"] == "completed"} == COMPLETED


def test_each_failure_says_why(tasks: dict[str, Answer]) -> None:
    ended = {name: task["reason"] for name, task in tasks.items() if task["status"] in ("failed", "skipped")}
    assert {name: reason.removeprefix(SICK) for name, reason in ended.items() if name != "given-up"} == FAILED


def test_the_run_names_the_step_that_failed_first_and_the_next_command(said: Any, run: Answer) -> None:
    first = run["reason"].removeprefix("step ").partition(":")[0]
    assert run["reason"] == f"step {first}: {FAILED[first]}"
    assert f"Step {first} failed: {FAILED[first]}\n" in said.err
    assert said.err.splitlines()[-1] == f"Next:   workflowmaster logs {run['workflow_id']} --step {first}"
    assert "Traceback" not in said.text


def test_what_needs_a_failed_step_is_blocked(tasks: dict[str, Answer]) -> None:
    assert tasks["blocked"]["status"] == "blocked"
    assert tasks["blocked"]["reason"] == "it needs fails, which is failed"
    assert tasks["blocked"]["container_id"] is None


def test_a_tolerated_failure_keeps_its_work_and_a_given_up_one_does_not(repo: Any, run: Answer, tasks: Any) -> None:
    assert tasks["given-up"]["status"] == "skipped"
    assert tasks["given-up"]["reason"] == "given up, as its on-failure says: exit 4"
    files = repo.files(run["branch"])
    assert files["tolerated.txt"] == "kept anyway"
    assert "given-up.txt" not in files


def test_exit_codes_and_marks(tasks: dict[str, Answer]) -> None:
    codes = {name: tasks[name]["exit_code"] for name in ("fails", "slow", "greedy", "not-there", "killed", "fine")}
    assert codes == {"fails": 7, "slow": 143, "greedy": 137, "not-there": 127, "killed": 139, "fine": 0}
    assert {name for name, task in tasks.items() if task["timed_out"]} == {"slow", "forks"}
    assert {name for name, task in tasks.items() if task["oom_killed"]} == {"greedy"}


def test_retries_are_spent_counted_and_explained(wm: Any, run: Answer, tasks: dict[str, Answer]) -> None:
    assert (tasks["stubborn"]["attempts"], tasks["not-listed"]["attempts"]) == (3, 1)
    said = {step: [d for d in run["decisions"] if d["step"] == step] for step in ("stubborn", "not-listed")}
    assert [(d["attempt"], d["rule"]) for d in said["stubborn"]][:2] == [(1, "prompt-retries"), (2, "prompt-retries")]
    last, only = said["stubborn"][2], said["not-listed"][0]
    assert (last["attempt"], last["factors"]["barred"], len(said["stubborn"])) == (3, "spent", 3)
    assert (only["attempt"], only["factors"]["barred"], len(said["not-listed"])) == (1, "not-listed", 1)
    assert {last["verb"], only["verb"]} <= {"continue", "skip"}
    state = json.loads((wm.folder(run["workflow_id"]) / "state.json").read_text())
    assert [receipt["exit_code"] for receipt in state["results"]["stubborn"]["receipts"]] == [9, 9, 9]
    assert log(wm, run, "stubborn") == "attempt 3\nerror: blue\n"


def test_prefect_counts_the_same_attempts(prefect_server: Any, run: Answer, tasks: dict[str, Answer]) -> None:
    ran = [name for name, task in tasks.items() if task["container_id"]]
    runs = {one["name"]: one for one in prefect_server.tasks(run["flow_run_id"], count=len(ran))}
    assert set(runs) == set(ran)
    assert {name: one["run_count"] for name, one in runs.items() if one["run_count"] != 1} == {"stubborn": 3}
    failed = {name for name, one in runs.items() if one["state_type"] == "FAILED"}
    assert failed == set(FAILED) | {"given-up"}
    flow_run = prefect_server.get(f"/flow_runs/{run['flow_run_id']}")
    assert (flow_run["state_type"], flow_run["state_name"]) == ("FAILED", "StepsFailed")
    assert flow_run["state"]["message"] == run["reason"]


def test_output_is_cut_at_the_cap_and_says_so(wm: Any, run: Answer) -> None:
    text = log(wm, run, "chatty")
    assert text.startswith("first words\nxxxx")
    mark = "\n[workflowmaster: output cut at 8,388,608 bytes, the cap of policy hardened; the container was stopped]\n"
    assert text.endswith(mark)
    assert len(text) == 8 * 2**20 + len(mark)


def test_a_timeout_is_named_in_the_log(wm: Any, run: Answer) -> None:
    # The step is asked to end, and bash says that it was.
    assert log(wm, run, "slow") == "started\nTerminated\n[workflowmaster: stopped after 1 s, the step's wall time]\n"


def test_a_fork_bomb_stays_within_its_limit(wm: Any, run: Answer) -> None:
    state = json.loads((wm.folder(run["workflow_id"]) / "state.json").read_text())
    (receipt,) = state["results"]["forks"]["receipts"]
    assert receipt["seconds"] < 20
    assert receipt["peak_pids"] is None or receipt["peak_pids"] <= 256


def test_links_and_git_folders_do_no_harm(repo: Any, run: Answer, tasks: dict[str, Answer], wm: Any) -> None:
    assert repo.git("ls-tree", run["branch"], "passwd").startswith("120000 blob")
    assert repo.git("show", f"{run['branch']}:passwd") == "/etc/passwd"
    names = repo.git("ls-tree", "-r", "--name-only", run["branch"]).splitlines()
    assert not [name for name in names if ".git" in name.split("/")]
    state = json.loads((wm.folder(run["workflow_id"]) / "state.json").read_text())
    assert any(".git" in line for line in state["results"]["links"]["findings"])


def test_the_users_checkout_is_untouched(repo: Any, before: dict[str, object], run: Answer) -> None:
    assert repo.state() == before


def test_no_container_is_left(run: Answer, containers: Callable[..., list[str]]) -> None:
    assert containers(run["workflow_id"]) == []


def test_the_base_stays_pinned_for_a_resume(repo: Any, run: Answer) -> None:
    assert repo.refs() == {
        "refs/heads/main",
        f"refs/heads/{run['branch']}",
        f"refs/workflowmaster/{run['workflow_id']}/base",
        "refs/notes/workflowmaster",
    }


def test_the_log_in_prefect_has_what_a_failed_step_said(prefect_server: Any, run: Answer) -> None:
    said = [line["message"] for line in prefect_server.logs(run["flow_run_id"], containing="[fails] the last words")]
    assert "[slow] started" in said
