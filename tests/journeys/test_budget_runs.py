"""Budgets on real containers: what is spent stops the run in order, exit code 6, and a larger one goes on with it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

ROOT = Path(__file__).parents[2]
PREFECT = Path(sys.executable).with_name("prefect")
WITHIN = 2.0
"""Seconds after its budget is spent in which nothing of a run works any more."""
SLOW = """\
trap 'date +%s.%N > /out/artifacts/stopped; exit 1' TERM
echo working
[ "$WM_ATTEMPT" != 1 ] || { sleep 60 & wait; }
"""


def prompt_of(budget: str, *steps: tuple[str, str, str]) -> str:
    """Write a prompt with a budget, of steps with their attributes and scripts."""
    body = "".join(f"\n### {name}\n{attributes}```bash\n{script}\n```\n" for name, attributes, script in steps)
    return f"---\nname: Spend\n{f'budget: {budget}' if budget else ''}\n---\n# Spend\n\n## Steps\n{body}"


@pytest.fixture
def line(command_line: Callable[..., Any], prefect_server: Any) -> Any:
    """A user of the session's server with one run only."""
    return command_line(PREFECT_API_URL=prefect_server.url)


@pytest.fixture
def begin(line: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]) -> Callable[..., Any]:
    """Run a prompt on a new repository."""

    def run(text: str, *words: str, **env: str) -> Any:
        return line.run(prompt_file(text), repository().path, *words, **env)

    return run


def records(line: Any, workflow: str, *kinds: str) -> list[dict[str, Any]]:
    lines = (line.folder(workflow) / "records.jsonl").read_text().splitlines()
    return [one for one in (json.loads(text[9:]) for text in lines) if one["kind"] in kinds]


def events(line: Any, workflow: str, name: str) -> list[dict[str, Any]]:
    lines = (line.folder(workflow) / "audit.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["event"] == name]


def statuses(answer: Any) -> dict[str, str]:
    return {task["id"]: task["status"] for task in answer.json["tasks"]}


def reused(answer: Any) -> set[str]:
    return {task["id"] for task in answer.json["tasks"] if task["reused"]}


# --- minutes ---


def test_a_run_whose_minutes_are_spent_is_stopped_and_goes_on_with_more(
    begin: Callable[..., Any], line: Any, prefect_server: Any, containers: Callable[..., list[str]]
) -> None:
    needs = "- needs: before\n"
    spent = begin(
        prompt_of("{minutes: 0.1}", ("before", "", "echo 1 > b.txt"), ("slow", needs, SLOW), ("after", needs, "true"))
    )
    workflow = spent.json["workflow_id"]
    assert (spent.code, spent.json["status"]) == (6, "paused"), spent.text
    assert re.match(r"the budget of the run is spent: 0\.1\d* of 0\.1 minutes\. `", spent.json["reason"])
    assert f"`workflowmaster resume {workflow} --budget minutes=0.2`" in spent.json["reason"]
    assert (spent.json["budget"]["limit"], spent.json["budget"]["over"]) == ({"minutes": 0.1}, ["minutes"])
    assert statuses(spent) == {"before": "completed", "slow": "pending", "after": statuses(spent)["after"]}
    assert not containers(workflow)
    # From the moment it was spent until the container had gone.
    (said,) = events(line, workflow, "budget.spent")
    stopped = records(line, workflow, "spent")[-1]
    assert stopped["step"] == "slow"
    assert stopped["at"] - records(line, workflow, "budget")[0]["at"] < WITHIN
    assert said["limits"] == ["minutes"]
    assert [one["limit"] for one in events(line, workflow, "budget.low")] == ["minutes"]
    flow_run = prefect_server.get(f"/flow_runs/{spent.json['flow_run_id']}")
    assert (flow_run["state"]["name"], flow_run["state"]["type"]) == ("Suspended", "PAUSED")
    assert "<dt>Budget</dt>" in (line.folder(workflow) / "report.html").read_text()

    assert line("resume", workflow, "--json", "-q").code == 6
    too_small = line("resume", workflow, "--budget", "minutes=0.1", "--json", "-q")
    assert (too_small.code, "give more than that" in too_small.json["error"]) == (2, True)
    assert not events(line, workflow, "budget.granted")

    done = line("resume", workflow, "--budget", "minutes=9", "--json", "-q")
    assert (done.code, done.json["status"]) == (0, "completed"), done.text
    assert "before" in reused(done)
    assert not reused(done) & {"slow"}
    assert done.json["budget"]["spent"]["minutes"] > spent.json["budget"]["spent"]["minutes"]
    assert [one["limits"] for one in events(line, workflow, "budget.granted")] == [{"minutes": 9}]


@pytest.mark.long
def test_two_steps_side_by_side_use_container_minutes_twice_as_fast(begin: Callable[..., Any], line: Any) -> None:
    sleeps = ("", "sleep 60")
    spent = begin(prompt_of("{container-minutes: 0.1}", ("one", *sleeps), ("two", *sleeps)))
    workflow = spent.json["workflow_id"]
    assert (spent.code, spent.json["budget"]["over"]) == (6, ["container-minutes"]), spent.text
    first, second = (one["at"] for one in records(line, workflow, "go"))
    ended = records(line, workflow, "budget")[0]["at"]
    # Six seconds of containers: of two that work side by side.
    assert (ended - first) + (ended - second) == pytest.approx(6.0, abs=1.0)
    assert sum(next(iter(one["containers"].values())) for one in records(line, workflow, "spent") if "step" in one) >= 6


# --- attempts ---


def test_what_attempts_do_not_reach_for_waits_for_more(begin: Callable[..., Any], line: Any) -> None:
    steps = [(name, "", "true") for name in ("one", "two", "three")]
    spent = begin(prompt_of("{attempts: 2}", *steps, ("four", "- needs: one\n", "true")))
    assert (spent.code, spent.json["status"]) == (6, "paused"), spent.text
    assert sorted(statuses(spent).values()) == ["completed", "completed", "pending", "pending"]
    assert spent.json["budget"]["spent"]["attempts"] == 2
    done = line("resume", spent.json["workflow_id"], "--budget", "attempts=4", "--json", "-q")
    assert (done.code, len(reused(done)), done.json["budget"]["spent"]["attempts"]) == (0, 2, 4), done.text


@pytest.mark.long
def test_a_failed_step_is_not_tried_again_without_a_budget_for_it(begin: Callable[..., Any], line: Any) -> None:
    flaky = '[ "$WM_ATTEMPT" -gt 2 ] || exit 7'
    spent = begin(
        prompt_of("{attempts: 2}", ("flaky", "- retries: {max: 3, wait: 1s, backoff: fixed}\n", flaky)),
    )
    assert (spent.code, spent.json["status"]) == (6, "paused"), spent.text
    last = spent.json["decisions"][-1]
    assert (last["rule"], last["factors"]["budget_spent"]) == (
        "budget-spent",
        "the budget of the run is spent: 2 of 2 attempts",
    )
    done = line("resume", spent.json["workflow_id"], "--budget", "attempts=9", "--json", "-q")
    assert (done.code, done.json["budget"]["spent"]["attempts"]) == (0, 3), done.text


@pytest.mark.long
def test_the_operators_ceiling_holds_for_a_run_without_a_budget(begin: Callable[..., Any], line: Any) -> None:
    two = prompt_of("", ("one", "", "true"), ("two", "- needs: one\n", "true"))
    spent = begin(two, WORKFLOWMASTER_BUDGET_ATTEMPTS="1")
    assert (spent.code, spent.json["budget"]["over"]) == (6, ["attempts"]), spent.text
    assert "budget_attempts allows no more" in spent.json["reason"]
    again = ("resume", spent.json["workflow_id"], "--json", "-q")
    refused = line(*again, "--budget", "attempts=5", WORKFLOWMASTER_BUDGET_ATTEMPTS="1")
    assert (refused.code, "the operator's setting" in refused.json["error"]) == (2, True)
    assert line(*again).code == 0


# --- money ---


def test_money_that_steps_say_they_spent_stops_the_next_one_until_the_prompt_allows_more(
    line: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    pays = 'echo usd=0.6 >> "$WM_OUTPUT"'
    steps = (
        ("one", "", pays),
        ("two", "- needs: one\n- continue-on-error: true\n", f"{pays}; exit 3"),
        ("three", "- needs: two\n", "true"),
    )
    prompt = prompt_file(prompt_of("{usd: 1}", *steps))
    spent = line.run(prompt, repository().path)
    assert (spent.code, spent.json["status"]) == (6, "paused"), spent.text
    # What a failed attempt has cost counts too.
    assert spent.json["budget"]["spent"]["usd"] == pytest.approx(1.2)
    assert statuses(spent)["three"] == "pending"
    prompt.write_text(prompt_of("{usd: 5}", *steps))
    done = line("resume", spent.json["workflow_id"], "--json", "-q")
    assert statuses(done)["three"] == "completed", done.text
    assert (done.json["budget"]["limit"], "one" in reused(done)) == ({"usd": 5}, True)


@pytest.mark.long
def test_what_is_no_amount_of_money_is_said_and_counts_as_nothing(begin: Callable[..., Any], line: Any) -> None:
    answer = begin(prompt_of("{usd: 1}", ("odd", "", 'echo usd=-5 >> "$WM_OUTPUT"')))
    assert (answer.code, answer.json["budget"]["spent"]["usd"]) == (0, 0), answer.text
    (found,) = records(line, answer.json["workflow_id"], "result")
    assert any("usd=-5: no amount of money" in one for one in found["result"]["findings"])


# --- a step's own ---


def test_a_step_is_stopped_by_its_own_minutes_and_what_does_not_need_it_goes_on(
    begin: Callable[..., Any], line: Any
) -> None:
    spent = begin(
        prompt_of(
            "",
            ("slow", "- budget: {minutes: 0.05}\n- retries: 2\n", SLOW),
            ("beside", "", "sleep 5; echo done > beside.txt"),
            ("after", "- needs: slow\n", "true"),
        )
    )
    workflow = spent.json["workflow_id"]
    assert (spent.code, spent.json["status"], spent.json["budget"]["over"]) == (6, "paused", ["slow:minutes"]), (
        spent.text
    )
    tasks = {task["id"]: task for task in spent.json["tasks"]}
    assert (tasks["slow"]["status"], tasks["slow"]["attempts"], tasks["slow"]["timed_out"]) == ("failed", 1, True)
    assert "the budget of step slow is spent" in tasks["slow"]["reason"]
    assert tasks["slow"]["seconds"] < 3 + WITHIN + 3
    assert tasks["beside"]["status"] == "completed"
    assert line("resume", workflow, "--json", "-q").code == 6
    done = line("resume", workflow, "--budget", "slow:minutes=5", "--json", "-q")
    assert (done.code, reused(done)) == (0, {"beside"}), done.text


# --- a crash ---


def test_a_killed_run_keeps_what_it_has_used_and_the_time_it_was_dead_is_free(
    line: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], wait_until: Callable[..., Any]
) -> None:
    script = "echo working; sleep 4"
    prompt = prompt_file(
        prompt_of("{minutes: 1.5, attempts: 9}", ("one", "", script), ("two", "- needs: one\n", script))
    )
    running = line.start("run", prompt, "--workspace", repository().path, "--json", "-q")
    logs = wait_until(lambda: list((line.home / "workflows").glob("*/logs/two.1.log")), 90.0)
    workflow = logs[0].parents[1].name
    wait_until(lambda: [one for one in records(line, workflow, "spent") if one["worked"] > 5], 60.0)
    running.interrupt(signal.SIGKILL)
    running.ended()
    killed = time.time()
    worked = records(line, workflow, "spent")[-1]["worked"]
    began = records(line, workflow, "begun")[0]["at"]
    wait_until(lambda: time.time() > killed + 8, 30.0)
    done = line("resume", workflow, "--json", "-q")
    assert (done.code, reused(done)) == (0, {"one"}), done.text
    spent = done.json["budget"]["spent"]
    again = records(line, workflow, "begun")[1]["at"]
    closed = records(line, workflow, "closed")[-1]["at"]
    assert spent["minutes"] * 60 >= worked
    # Nobody worked on it between the kill and the second part; an adopted container did.
    assert spent["minutes"] * 60 <= (killed - began) + (closed - again) + 1
    assert again - killed > 8
    assert spent["attempts"] == 2
    assert spent["container-minutes"] * 60 == pytest.approx(8.0, abs=3.0)


# --- a deployment's run ---


def prefect(line: Any, folder: Path, *words: str) -> None:
    env = {
        "PATH": f"{PREFECT.parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(line.user_home),
        "PREFECT_HOME": str(line.home / "prefect"),
        "PREFECT_API_URL": line.env["PREFECT_API_URL"],
        "WORKFLOWMASTER_HOME": str(line.home),
    }
    command = [PREFECT, "--no-prompt", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_a_deployments_run_is_suspended_and_goes_on_in_the_same_flow_run(
    line: Any, prefect_server: Any, repository: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "cut.md").write_text(prompt_of("{attempts: 1}", ("one", "", "true"), ("two", "- needs: one\n", "true")))
    assert line("compile", tmp_path / "cut.md", "-o", tmp_path).code == 0
    prefect(line, tmp_path, "work-pool", "create", "budgets", "--type", "process")
    prefect(line, tmp_path, "deploy", "cut.py:cut", "--name", "budgets", "--pool", "budgets")
    deployment = prefect_server.get("/deployments/name/Spend/budgets")["id"]
    given = {"parameters": {"workspace": str(repository().path)}}
    number = prefect_server.post(f"/deployments/{deployment}/create_flow_run", given)["id"]
    prefect(line, tmp_path, "worker", "start", "--pool", "budgets", "--type", "process", "--run-once")
    run = prefect_server.get(f"/flow_runs/{number}")
    assert (run["state"]["type"], run["state"]["name"]) == ("PAUSED", "Suspended"), run["state"]
    assert run["state"]["message"].startswith("the budget of the run is spent: 1 of 1 attempts.")
    done = line("resume", run["name"], "--budget", "attempts=3", "--json", "-q")
    assert (done.code, done.json["flow_run_id"], reused(done)) == (0, number, {"one"}), done.text


# --- the documentation ---


def test_the_example_of_the_documentation_runs(begin: Callable[..., Any]) -> None:
    page = (ROOT / "docs" / "budgets.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^````markdown\n(.*?)^````$", page, re.DOTALL | re.MULTILINE)
    answer = begin(example)
    assert answer.code == 0, answer.text
    limits = {"minutes": 45, "attempts": 8, "container-minutes": 90, "usd": 5}
    assert answer.json["budget"]["limit"] == limits | {"estimate:minutes": 2, "estimate:attempts": 2}
    assert answer.json["budget"]["spent"]["usd"] == 0.25
