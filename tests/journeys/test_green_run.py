"""One run in which everything succeeds: chains, fans, joins, a matrix, every kind of workspace, values and conditions.

One run for all of it, because a run costs seconds; each test looks at one side of what it left.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = Path(__file__).parent / "prompts/green.md"

NEEDS = {
    "build": set(),
    "install": {"build"},
    "use": {"install"},
    "test/3.11-debian": {"build"},
    "test/3.12-debian": {"build"},
    "join": {"use", "test/3.11-debian", "test/3.12-debian"},
    "flaky": {"install"},
    "checked": {"build"},
    "read-only": {"build"},
    "throw-away": {"build"},
    "inside-out": {"build"},
    "only-if-loud": {"build"},
    "after-loud": {"only-if-loud"},
    "anyway": {"only-if-loud"},
    "last": {"join", "flaky", "checked", "read-only", "throw-away", "inside-out", "anyway"},
}
SKIPPED = {"only-if-loud", "after-loud"}

LAST_SAYS = """\
venv
3.11 on debian, 1.2
3.12 on debian, 1.2
good
laid over
BASE
anyway
"""

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def said(wm: Any, repo: Any, before: dict[str, object]) -> Any:
    return wm.run(PROMPT, repo.path, "--input", "greeting=hello $(id) 'quoted'")


@pytest.fixture(scope="module")
def run(said: Any) -> Answer:
    assert said.code == 0, said.text
    answer: Answer = said.json
    return answer


@pytest.fixture(scope="module")
def tasks(run: Answer) -> dict[str, Answer]:
    return {task["id"]: task for task in run["tasks"]}


def test_it_completes(run: Answer, tasks: dict[str, Answer]) -> None:
    assert run["status"] == "completed"
    assert {name for name, task in tasks.items() if task["status"] == "completed"} == set(NEEDS) - SKIPPED


def test_the_answer_has_every_promised_key(run: Answer, tasks: dict[str, Answer]) -> None:
    promised = "workflow_id flow_run_id name status seconds tasks decisions branch commit pull_request report audit_log"
    assert set(promised.split()) <= set(run)
    of_a_task = "id status attempts exit_code seconds reused policy container_id oom_killed timed_out outputs"
    assert all(set(of_a_task.split()) <= set(task) for task in tasks.values())


def test_every_step_had_a_container_of_its_own(tasks: dict[str, Answer]) -> None:
    used = [task["container_id"] for task in tasks.values() if task["container_id"]]
    assert len(used) == len(set(used)) == len(NEEDS) - len(SKIPPED)


def test_no_container_and_no_work_tree_is_left(wm: Any, run: Answer, containers: Callable[..., list[str]]) -> None:
    assert containers(run["workflow_id"]) == []
    folder = wm.folder(run["workflow_id"])
    assert not [path for path in folder.iterdir() if path.name in ("exchange", "trees")]


def test_the_branch_holds_the_work_of_all_steps(repo: Any, run: Answer) -> None:
    assert repo.files(run["branch"]) == {
        ".gitignore": ".venv/\n*.pyc",
        "a.txt": "one\ntwo\nthree",
        "anyway.txt": "anyway",
        "built.txt": "base",
        "checked.txt": "good",
        "deep/hardened.txt": "laid over",
        "joined.txt": "venv\n3.11 on debian, 1.2\n3.12 on debian, 1.2",
        "paranoid.txt": "BASE",
        "tested-3.11.txt": "3.11 on debian, 1.2",
        "tested-3.12.txt": "3.12 on debian, 1.2",
        "used.txt": "venv",
    }


def test_the_branch_starts_at_the_users_commit_and_has_one_commit_a_step(repo: Any, run: Answer) -> None:
    assert repo.git("merge-base", "HEAD", run["branch"]) == repo.git("rev-parse", "HEAD")
    subjects = repo.git("log", "--no-merges", "--format=%s", f"HEAD..{run['branch']}").splitlines()
    assert sorted(subjects) == [
        "anyway",
        "build",
        "checked",
        "inside-out",
        "join",
        "read-only",
        "test/3.11-debian: test (3.11, debian)",
        "test/3.12-debian: test (3.12, debian)",
        "use",
    ]
    assert repo.git("rev-parse", run["branch"]) == run["commit"]


def test_the_users_checkout_is_untouched(repo: Any, before: dict[str, object], run: Answer) -> None:
    assert repo.state() == before


def test_of_refs_only_the_branch_is_left(repo: Any, run: Answer) -> None:
    assert repo.refs() == {"refs/heads/main", f"refs/heads/{run['branch']}", "refs/notes/workflowmaster"}


def test_the_repository_is_sound(repo: Any, run: Answer) -> None:
    assert repo.git("fsck", "--full", "--strict") == ""
    repo.git("gc", "--prune=now", "-q")
    assert repo.git("rev-parse", run["branch"]) == run["commit"]


def test_the_patch_applies_to_a_clean_checkout(wm: Any, repo: Any, run: Answer, tmp_path: Path) -> None:
    patch = wm.folder(run["workflow_id"]) / "changes.patch"
    clean = tmp_path / "clean"
    repo.git("clone", "-q", repo.path, clean)
    repo.git("apply", "--index", patch, cwd=clean)
    assert repo.git("write-tree", cwd=clean) == repo.git("rev-parse", f"{run['branch']}^{{tree}}")


def test_values_reach_later_steps(wm: Any, run: Answer, tasks: dict[str, Answer]) -> None:
    assert tasks["build"]["outputs"] == {"version": "1.2", "notes": "two\nlines"}
    assert wm("logs", run["workflow_id"], "--step", "last").out == LAST_SAYS


def test_inputs_arrive_as_data(wm: Any, run: Answer) -> None:
    assert wm("logs", run["workflow_id"], "--step", "build").out == "hello $(id) 'quoted', false\n"


def test_a_skipped_step_takes_those_along_that_need_it(tasks: dict[str, Answer]) -> None:
    assert {name for name, task in tasks.items() if task["status"] == "skipped"} == SKIPPED
    assert tasks["only-if-loud"]["reason"] == "its condition is not met: inputs.loud"
    assert tasks["after-loud"]["reason"] == "it needs only-if-loud, which is skipped"
    assert tasks["anyway"]["status"] == "completed"


def test_a_retry_is_visible_and_starts_from_a_clean_tree(wm: Any, run: Answer, tasks: dict[str, Answer]) -> None:
    assert tasks["flaky"]["attempts"] == 2
    (decision,) = run["decisions"]
    assert (decision["step"], decision["verb"]) == ("flaky", "retry")
    known = {"attempt": 1, "most": 3, "class": "unknown", "priority": "medium", "stated": True, "repeated": False}
    assert {name: decision["factors"][name] for name in known} == known
    logs = [wm("logs", run["workflow_id"], "--step", "flaky", "--attempt", number).out for number in ("1", "2")]
    assert logs == ["attempt 1\n", "attempt 2\n2\n"]


def test_the_check_ran_in_a_container_of_its_own(wm: Any, run: Answer) -> None:
    state = json.loads((wm.folder(run["workflow_id"]) / "state.json").read_text())
    receipts = state["results"]["checked"]["receipts"]
    assert [receipt["purpose"] for receipt in receipts] == ["work", "check"]
    assert receipts[0]["container_id"] != receipts[1]["container_id"]


def test_policies_are_those_of_the_prompt(tasks: dict[str, Answer]) -> None:
    wanted = {"read-only": "hardened", "throw-away": "testing", "inside-out": "paranoid"}
    assert {name: task["policy"] for name, task in tasks.items() if task["policy"] != "standard"} == wanted


def test_the_pull_request_names_every_step(wm: Any, run: Answer) -> None:
    text = Path(run["pull_request"]).read_text()
    assert text.splitlines()[0].lstrip("# ") == "Everything goes well"
    assert all(name in text for name in NEEDS)


def test_nothing_is_written_elsewhere(wm: Any, run: Answer) -> None:
    assert list(wm.user_home.iterdir()) == []
    assert list(wm.cwd.iterdir()) == []


def test_everything_kept_is_private(wm: Any, run: Answer) -> None:
    assert wm.home.stat().st_mode & 0o777 == 0o700
    assert wm.folder(run["workflow_id"]).stat().st_mode & 0o777 == 0o700


def test_stdout_is_json_and_stderr_is_for_people(said: Any, run: Answer) -> None:
    assert said.out.count("\n") == 1
    assert said.err.splitlines()[0].startswith("Completed: 13 steps done, 2 skipped by their condition in ")
    assert f"Branch: {run['branch']} at {run['commit'][:10]}" in said.err
    assert said.err.splitlines()[-1] == f"Next:   git switch {run['branch']}"


# What Prefect shows


@pytest.fixture(scope="module")
def flow_run(prefect_server: Any, run: Answer) -> Answer:
    found: Answer = prefect_server.get(f"/flow_runs/{run['flow_run_id']}")
    return found


@pytest.fixture(scope="module")
def task_runs(prefect_server: Any, run: Answer) -> dict[str, Answer]:
    found = prefect_server.tasks(run["flow_run_id"], count=len(NEEDS) - len(SKIPPED))
    return {one["name"]: one for one in found}


def test_the_flow_run_has_the_workflows_name_and_its_flow_the_prompts(
    prefect_server: Any, flow_run: Answer, run: Answer
) -> None:
    assert flow_run["name"] == run["workflow_id"]
    assert prefect_server.get(f"/flows/{flow_run['flow_id']}")["name"] == "Everything goes well"
    assert (flow_run["state_type"], flow_run["state_name"]) == ("COMPLETED", "Completed")
    assert flow_run["parameters"]["inputs"]["greeting"] == "hello $(id) 'quoted'"


def test_task_runs_are_named_and_tagged_after_their_steps(task_runs: dict[str, Answer]) -> None:
    assert set(task_runs) == set(NEEDS) - SKIPPED
    assert {one["state_name"] for one in task_runs.values()} == {"Completed"}
    assert set(task_runs["read-only"]["tags"]) == {"policy:hardened", "kind:command"}
    assert {name: one["run_count"] for name, one in task_runs.items() if one["run_count"] != 1} == {"flaky": 2}


def test_the_graph_in_the_ui_is_the_plans(prefect_server: Any, run: Answer, task_runs: dict[str, Answer]) -> None:
    graph = prefect_server.get(f"/flow_runs/{run['flow_run_id']}/graph-v2")
    nodes = dict(graph["nodes"])
    names = {key: node["label"] for key, node in nodes.items()}
    parents = {names[key]: {names[parent["id"]] for parent in node["parents"]} for key, node in nodes.items()}
    assert parents == {name: needs - SKIPPED for name, needs in NEEDS.items() if name not in SKIPPED}


def test_the_log_names_the_step_of_each_line(prefect_server: Any, run: Answer) -> None:
    lines = prefect_server.logs(run["flow_run_id"], containing="[last] anyway")
    said = [line["message"] for line in lines]
    assert "[flaky] attempt 1" in said
    assert "[build] hello $(id) 'quoted', false" in said


def test_there_is_one_report_artifact(prefect_server: Any, run: Answer) -> None:
    wanted = {"artifacts": {"flow_run_id": {"any_": [run["flow_run_id"]]}, "key": {"any_": ["report"]}}}
    (artifact,) = prefect_server.post("/artifacts/filter", wanted)
    assert artifact["key"] == "report"
    assert artifact["description"] == "completed: Everything goes well"
    assert artifact["data"].startswith("**Completed: 13 steps done, 2 skipped by their condition in ")


# What is read back


@pytest.fixture(scope="module")
def engine_images() -> str:
    form = ["docker", "image", "inspect", "-f", "{{.Id}}", "workflowmaster/step:1"]
    return subprocess.run(form, capture_output=True, text=True, check=True).stdout.strip()


def test_the_run_pins_image_ids_and_the_plan_names_references(wm: Any, run: Answer, engine_images: str) -> None:
    record = json.loads((wm.folder(run["workflow_id"]) / "run.json").read_text())
    plan = json.loads((wm.folder(run["workflow_id"]) / "plan.json").read_text())
    assert record["images"] == {"workflowmaster/step:1": engine_images}
    assert {task["image"] for task in plan["tasks"]} == {"workflowmaster/step:1"}


def test_logs_of_all_steps_stand_under_headings(wm: Any, run: Answer) -> None:
    text = wm("logs", run["workflow_id"]).out
    assert "==> flaky, attempt 1 <==\nattempt 1\n==> flaky, attempt 2 <==\nattempt 2\n2\n" in text
    assert text.endswith("==> last, attempt 1 <==\n" + LAST_SAYS)


def test_a_followed_log_of_a_finished_run_ends(wm: Any, run: Answer) -> None:
    assert wm("logs", "latest", "--step", "last", "--follow").out == LAST_SAYS


def test_logs_of_an_unknown_step_name_the_steps(wm: Any, run: Answer) -> None:
    said = wm("logs", run["workflow_id"], "--step", "nope")
    assert (said.code, said.out) == (2, "")
    assert "has no step 'nope'; its steps are build, " in said.err


def test_list_shows_the_run(wm: Any, run: Answer) -> None:
    (row,) = wm("list", "--json").json
    assert (row["workflow_id"], row["status"], row["completed"], row["tasks"]) == (
        run["workflow_id"],
        "completed",
        13,
        15,
    )
    assert row["branch"] == run["branch"]


def test_stats_count_it(wm: Any, run: Answer) -> None:
    numbers = wm("stats", run["workflow_id"], "--json").json
    wanted = {"workflows": 1, "total_tasks": 15, "completed_tasks": 13, "skipped_tasks": 2, "failed_tasks": 0}
    wanted |= {"retries": 1, "autonomous_decisions": 1, "container_executions": 15, "reused_tasks": 0}
    assert {key: numbers[key] for key in wanted} == wanted


def test_the_report_is_one_file_that_loads_nothing(wm: Any, run: Answer) -> None:
    assert wm("report", run["workflow_id"]).out.strip() == run["report"]
    text = Path(run["report"]).read_text()
    assert "Everything goes well" in text
    assert "src=" not in text.replace('src="data:', "")


def test_the_report_in_markdown(wm: Any, run: Answer, tmp_path: Path) -> None:
    target = tmp_path / "report.md"
    assert wm("report", run["workflow_id"], "--format", "md", "-o", target).out == ""
    assert wm("report", run["workflow_id"], "--format", "md").out.rstrip("\n") == target.read_text().rstrip("\n")
    assert target.read_text().startswith("**Completed: 13 steps done, 2 skipped by their condition in ")


def test_the_audit_log_tells_what_happened(wm: Any, run: Answer) -> None:
    records = [json.loads(line) for line in wm("audit", "show", run["workflow_id"], "--json").out.splitlines()]
    events = [record["event"] for record in records]
    assert events[:2] == ["plan.compiled", "settings.effective"]
    assert [event for event in events if event.startswith("workflow.")] == ["workflow.started", "workflow.finished"]
    assert events.count("container.started") == events.count("container.finished") == 15
    assert events.count("step.finished") == 15
    assert "hello" not in json.dumps(records), "values of inputs may be secret to whoever reads the log"


def test_the_audit_log_holds(wm: Any, run: Answer) -> None:
    said = wm("audit", "verify", run["workflow_id"], "--json")
    assert said.code == 0
    assert said.json["holds"] is True


def test_a_second_run_is_another_workflow(wm: Any, repo: Any, run: Answer) -> None:
    """Equal work without `cache: true` is done again, and gives the same trees; without --json nothing is on stdout."""
    said = wm("run", PROMPT, "--workspace", repo.path, "--input", "greeting=again", "--max-parallel", "2")
    assert (said.code, said.out) == (0, ""), said.text
    assert said.err.count(" completed ") == 13
    newest = wm("list", "--json").json[0]
    assert newest["workflow_id"] != run["workflow_id"]
    assert wm("stats", newest["workflow_id"], "--json").json["reused_tasks"] == 0
    trees = [repo.git("rev-parse", f"{branch}^{{tree}}") for branch in (newest["branch"], run["branch"])]
    assert trees[0] == trees[1]
