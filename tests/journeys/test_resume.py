"""Runs that are gone on with: what finished comes back, what changed runs, and nothing else does."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
---
max-parallel: 2
inputs:
  who: {type: string, default: ada}
---
# A diamond

## Steps

### base
```sh
echo base > base.txt
```

### left
- needs: base
```sh
echo "left $INPUT_WHO" > left.txt
```

### right
- needs: base
```sh
echo right > right.txt
```

### last
- needs: left, right
```sh
cat base.txt left.txt right.txt > all.txt
```
"""

STUBBORN = """\
# Fails every time

## Steps

### stubborn
- retries: {max: 2, wait: 1s}
```sh
echo working
if [ "$WM_ATTEMPT" -gt 1 ]; then sleep 4; fi
echo "error: $(echo one two three four five six seven | cut -d' ' -f"$WM_ATTEMPT")"
exit 3
```
"""

Answer = dict[str, Any]


def ran(answer: Any) -> set[str]:
    """Steps that did not come back."""
    return {task["id"] for task in answer.json["tasks"] if not task["reused"]}


def why(wm: Any, workflow: str) -> dict[str, Answer]:
    return {step["step"]: step for step in wm("why", "--id", workflow, "--json").json["steps"]}


@pytest.fixture(scope="module")
def finished(wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]) -> Callable[..., Any]:
    """Run the diamond to its end; returns the prompt, the repository and the answer."""

    def run(*words: str) -> tuple[Path, Any, Any]:
        prompt, repo = prompt_file(PROMPT), repository()
        said = wm.run(prompt, repo.path, *words)
        assert said.code == 0, said.text
        return prompt, repo, said

    return run


@pytest.fixture(scope="module")
def over(finished: Callable[..., Any]) -> tuple[Path, Any, Any]:
    """A finished run for those that only look at it."""
    found: tuple[Path, Any, Any] = finished()
    return found


def test_a_resume_of_a_run_that_stands_asks_no_server_and_writes_nothing(wm: Any, over: Any) -> None:
    _, repo, said = over
    folder = wm.folder(said.json["workflow_id"])
    before, refs = (folder / "audit.jsonl").read_bytes(), repo.git("for-each-ref")
    again = wm("resume", folder.name, "--json", "-q", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert again.code == 0, again.text
    assert ran(again) == set()
    same = ("workflow_id", "flow_run_id", "status", "branch", "commit", "pull_request", "report")
    assert [again.json[name] for name in same] == [said.json[name] for name in same]
    assert ((folder / "audit.jsonl").read_bytes(), repo.git("for-each-ref")) == (before, refs)


def test_a_run_that_nobody_saw_to_its_very_end_takes_the_long_way(
    wm: Any, finished: Callable[..., Any], prefect_server: Any
) -> None:
    """As if it had been killed after its last word: its flow run is open."""
    _, _, said = finished()
    (wm.folder(said.json["workflow_id"]) / "sealed").unlink()
    state = {"state": {"type": "RUNNING"}, "force": True}
    prefect_server.post(f"/flow_runs/{said.json['flow_run_id']}/set_state", state)
    again = wm("resume", said.json["workflow_id"], "--json", "-q")
    assert (again.code, ran(again)) == (0, set())
    assert prefect_server.get(f"/flow_runs/{said.json['flow_run_id']}")["state_type"] == "COMPLETED"


def test_a_finished_run_whose_limits_are_others_now_runs_again(wm: Any, finished: Callable[..., Any]) -> None:
    _, _, said = finished()
    again = wm("resume", said.json["workflow_id"], "--json", "-q", WORKFLOWMASTER_MAX_MEMORY_MB="100")
    assert again.code == 0, again.text
    assert ran(again) == {task["id"] for task in said.json["tasks"]}


def test_a_resume_of_what_is_done_runs_nothing_and_adds_nothing_to_the_graph(
    wm: Any, finished: Callable[..., Any], prefect_server: Any
) -> None:
    _, repo, said = finished()
    rows = {run["id"] for run in prefect_server.tasks(said.json["flow_run_id"], count=4)}
    repo.git("branch", "-D", said.json["branch"])
    again = wm("resume", said.json["workflow_id"], "--json", "-q")
    assert again.code == 0, again.text
    assert ran(again) == set()
    assert repo.git("rev-parse", said.json["branch"]) == said.json["commit"], "what is missing comes back"
    assert again.json["flow_run_id"] == said.json["flow_run_id"]
    assert again.json["commit"] == said.json["commit"]
    flow_run = prefect_server.get(f"/flow_runs/{said.json['flow_run_id']}")
    assert (flow_run["run_count"], flow_run["state_type"]) == (2, "COMPLETED")
    assert {run["id"] for run in prefect_server.tasks(said.json["flow_run_id"], count=4)} == rows
    assert {one["verdict"] for one in why(wm, said.json["workflow_id"]).values()} == {"reused"}


def test_an_edited_prompt_runs_exactly_what_changed_and_what_sees_a_difference(
    wm: Any, finished: Callable[..., Any]
) -> None:
    prompt, repo, said = finished()
    workflow = said.json["workflow_id"]
    prompt.write_text(PROMPT.replace('"left $INPUT_WHO"', '"LEFT $INPUT_WHO"'))
    assert ran(wm("resume", workflow, "--kept", "--json", "-q")) == set()
    again = wm("resume", workflow, "--json", "-q")
    assert again.code == 0, again.text
    assert "was edited since: changed: left; 3 as before" in again.err
    assert ran(again) == {"left", "last"}
    assert repo.files(again.json["branch"])["all.txt"] == "base\nLEFT ada\nright"
    reasons = why(wm, workflow)
    (work,) = reasons["left"]["changes"]
    assert work["component"] == "work"
    assert work["detail"][1:] == ['-echo "left $INPUT_WHO" > left.txt', '+echo "LEFT $INPUT_WHO" > left.txt']
    (tree,) = reasons["last"]["changes"]
    assert (tree["component"], tree["detail"]) == ("tree", ["M left.txt (from left)"])
    assert (reasons["base"]["verdict"], reasons["last"]["verdict"]) == ("reused", "ran again")
    told = wm("why", "left", "--id", workflow)
    assert "left  ran again: what it depends on changed: its work (work) changed" in told.out
    # A comment changes what the step is, and nothing that the next one sees.
    prompt.write_text(prompt.read_text().replace("echo right", "# say it\necho right"))
    assert ran(wm("resume", workflow, "--json", "-q")) == {"right"}
    assert wm("audit", "verify", workflow).code == 0


@pytest.mark.long
def test_a_changed_default_reaches_the_steps_that_see_it(wm: Any, finished: Callable[..., Any]) -> None:
    prompt, _, said = finished()
    prompt.write_text(PROMPT.replace("default: ada", "default: bob"))
    again = wm("resume", said.json["workflow_id"], "--json", "-q")
    assert ran(again) == {"base", "left", "right", "last"}, "every step is given every input"
    change = why(wm, said.json["workflow_id"])["base"]["changes"]
    assert [(one["component"], one["detail"]) for one in change] == [("environment", ["INPUT_WHO: ada → bob"])]


def test_from_a_step_on_it_and_what_needs_it_run_anew(wm: Any, finished: Callable[..., Any]) -> None:
    _, _, said = finished()
    workflow = said.json["workflow_id"]
    again = wm("resume", workflow, "--from", "left", "--json", "-q")
    assert again.code == 0, again.text
    assert ran(again) == {"left", "last"}
    assert why(wm, workflow)["left"]["because"] == "resume --from left"
    assert ran(wm("resume", workflow, "--json", "-q")) == set()
    unknown = wm("resume", workflow, "--from", "lfet", "--json", "-q")
    assert unknown.code == 2
    assert "did you mean 'left'" in unknown.json["error"]


def harm(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        place = data.index(b'"result"') + 60
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


@pytest.mark.parametrize("how", ["gone", *(pytest.param(how, marks=pytest.mark.long) for how in ("cut", "flipped"))])
def test_a_lost_result_runs_its_step_again_and_is_told(
    how: str, wm: Any, finished: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, said = finished()
    workflow = said.json["workflow_id"]
    folder = wm.folder(workflow)
    key = json.loads((folder / "state.json").read_text())["results"]["left"]["key"]
    harm(wm.home / "results" / key, how)
    again = wm("resume", workflow, "--json")
    assert again.code == 0, again.text
    assert ran(again) == {"left"}
    assert again.json["commit"] == said.json["commit"], "the same work gives the same tree"
    assert "left runs again, because its result is lost" in again.err
    events = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "result.damaged"] == ["left"]
    assert ran(wm("resume", workflow, "--json", "-q")) == set()


def test_retries_go_on_where_a_kill_cut_them_short(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], wait_until: Callable[..., Any]
) -> None:
    known = set((wm.home / "workflows").glob("*"))
    running = wm.start("run", prompt_file(STUBBORN), "--workspace", repository().path, "--json", "-q")

    def second() -> Path | None:
        assert running.process.poll() is None, running.ended().text
        logs = (folder / "logs/stubborn.2.log" for folder in set((wm.home / "workflows").glob("*")) - known)
        return next((log.parents[1] for log in logs if log.exists() and log.read_text() == "working\n"), None)

    folder = wait_until(second, 60.0)
    running.interrupt(signal.SIGKILL)
    running.ended()
    state = why(wm, folder.name)["stubborn"]
    assert state["verdict"] == "interrupted"
    said = wm("resume", folder.name, "--json", "-q")
    assert said.code == 1, said.text
    decided = [(one["verb"], one["factors"]["attempt"]) for one in said.json["decisions"]]
    assert decided[:2] == [("retry", 1), ("retry", 2)], "two retries are left to it, killed or not"
    assert [attempt for _, attempt in decided] == [1, 2, 3]
    told = why(wm, folder.name)["stubborn"]
    # Where the killed attempt could not be taken over, its number is used up and its retry is not.
    assert [one["attempt"] for one in told["decisions"]] in ([1, 2, 3], [1, 3, 4])
    # Who resumes a run that failed wants the step tried once more, with all that it may have.
    third = wm("resume", folder.name, "--json", "-q")
    assert [one["factors"]["attempt"] for one in third.json["decisions"]] == [1, 2, 3, 1, 2, 3]


def test_a_flow_run_that_the_server_has_forgotten_is_followed_by_a_new_one(
    wm: Any, finished: Callable[..., Any], prefect_server: Any
) -> None:
    _, repo, said = finished()
    repo.git("branch", "-D", said.json["branch"])  # or it would stand, and no server be asked
    prefect_server.delete(f"/flow_runs/{said.json['flow_run_id']}")
    again = wm("resume", said.json["workflow_id"], "--json")
    assert again.code == 0, again.text
    assert ran(again) == set()
    assert again.json["flow_run_id"] not in ("", said.json["flow_run_id"])
    assert "is gone from the Prefect server: a new one goes on" in again.err
    # In its own graph every step has a row.
    assert len(prefect_server.tasks(again.json["flow_run_id"], count=4)) == 4


@pytest.mark.long
def test_another_server_is_told_and_one_where_it_lives_is_not_left(
    wm: Any, bare: Any, finished: Callable[..., Any], prefect_server: Any
) -> None:
    _, repo, said = finished()
    repo.git("branch", "-D", said.json["branch"])  # or it would stand, and no server be asked
    workflow, flow_run = said.json["workflow_id"], said.json["flow_run_id"]
    record = json.loads((wm.folder(workflow) / "run.json").read_text())
    assert record["api_url"] == prefect_server.url
    prefect_server.post(f"/flow_runs/{flow_run}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    refused = wm("resume", workflow, "--json", "-q", PREFECT_API_URL="-")
    assert refused.code == 3, refused.text
    assert f"PREFECT_API_URL={prefect_server.url} workflowmaster resume {workflow}" in refused.json["error"]
    prefect_server.post(f"/flow_runs/{flow_run}/set_state", {"state": {"type": "CRASHED"}, "force": True})
    again = wm("resume", workflow, "--json", PREFECT_API_URL="-")
    assert again.code == 0, again.text
    assert "which is not the server in use: a new one goes on here" in again.err
    assert ran(again) == set()
    assert again.json["flow_run_id"] != flow_run
    assert json.loads((wm.folder(workflow) / "run.json").read_text())["api_url"] == ""
    with closing(sqlite3.connect(wm.home / "prefect" / "prefect.db")) as database:
        (count,) = database.execute("select count(*) from flow_run where name = ?", [workflow]).fetchone()
    assert count == 1


# --- `run` of the same prompt ---


def test_a_run_of_the_same_prompt_offers_the_unfinished_one(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    text = PROMPT.replace("cat base.txt", "cat missing.txt base.txt")
    prompt, repo = prompt_file(text), repository()
    first = wm.run(prompt, repo.path)
    assert first.code == 1
    workflow = first.json["workflow_id"]
    second = wm.run(prompt, repo.path, "--new")
    assert "go on with it" not in second.err
    third = wm.run(prompt, repo.path)
    line = f"{second.json['workflow_id']} of the same prompt has not ended well; go on with it: workflowmaster resume"
    assert line in third.err
    assert third.json["workflow_id"] not in (workflow, second.json["workflow_id"])
    prompt.write_text(PROMPT)
    fourth = wm.run(prompt, repo.path, "--resume", workflow)
    assert fourth.code == 0, fourth.text
    assert (fourth.json["workflow_id"], ran(fourth)) == (workflow, {"last"})
    fifth = wm.run(prompt, repo.path, "--resume")
    assert fifth.json["workflow_id"] == third.json["workflow_id"], "the newest"


@pytest.mark.parametrize("what", ["prompt", "workspace", "policy", "nothing"])
def test_another_run_than_the_one_that_is_meant_is_refused(
    what: str, wm: Any, over: Any, prompt_file: Callable[..., Path], repository: Callable[..., Any]
) -> None:
    prompt, repo, said = over
    workflow = said.json["workflow_id"]
    other = prompt_file("# Other\n\n## Steps\n\n### x\n```sh\ntrue\n```\n", "other.md")
    words, error = {
        "prompt": ((other, repo.path, "--resume", workflow), f"that is a run of {prompt}, not of {other}"),
        "workspace": ((prompt, (there := repository().path), "--resume", workflow), f"not on {there}"),
        "policy": ((prompt, repo.path, "--resume", workflow, "--policy", "testing"), "--policy: a run keeps"),
        "nothing": ((other, repo.path, "--resume"), f"no run of {other} in {repo.path} is known"),
    }[what]
    before = (wm.folder(workflow) / "state.json").read_bytes()
    refused = wm.run(*words)
    assert refused.code == 2
    assert error in refused.json["error"]
    assert (wm.folder(workflow) / "state.json").read_bytes() == before


def test_on_a_terminal_it_is_asked(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], root: Path
) -> None:
    """A pseudo-terminal, and a person who says yes."""
    import pty
    import subprocess
    import sys

    prompt, repo = prompt_file(PROMPT.replace("cat base.txt", "cat missing.txt base.txt")), repository()
    first = wm.run(prompt, repo.path)
    prompt.write_text(PROMPT)
    ours, theirs = pty.openpty()
    env = {**os.environ, "WORKFLOWMASTER_HOME": str(wm.home), "HOME": str(wm.user_home), **wm.env}
    command = [
        sys.executable,
        "-m",
        "workflowmaster.flows.cli",
        "run",
        str(prompt),
        "--workspace",
        str(repo.path),
        "-q",
    ]
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=root, env=env)
    os.close(theirs)
    said = b""
    try:
        while b"[Y/n]" not in said:
            said += os.read(ours, 4096)
        os.write(ours, b"y\n")
        while chunk := os.read(ours, 4096):
            said += chunk
    except OSError:
        pass  # the other end has closed
    finally:
        os.close(ours)
    assert running.wait(60) == 0, said
    assert f"{first.json['workflow_id']} of the same prompt has not ended well. Go on with it? [Y/n]".encode() in said
    assert json.loads((wm.folder(first.json["workflow_id"]) / "state.json").read_text())["status"] == "completed"


# --- what cannot be read ---


def test_a_run_of_a_newer_version_is_left_alone(wm: Any, finished: Callable[..., Any]) -> None:
    _, _, said = finished()
    folder = wm.folder(said.json["workflow_id"])
    record = folder / "run.json"
    record.write_text(record.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    before = {path.name: path.read_bytes() for path in folder.glob("*.json*")}
    refused = wm("resume", folder.name, "--json", "-q")
    assert refused.code == 2, refused.text
    assert "written by a newer version" in refused.json["error"]
    assert {path.name: path.read_bytes() for path in folder.glob("*.json*")} == before


@pytest.mark.parametrize("name", [pytest.param("run.json", marks=pytest.mark.long), "plan.json"])
def test_a_damaged_file_is_mended_from_the_records_and_told(name: str, wm: Any, finished: Callable[..., Any]) -> None:
    _, _, said = finished()
    folder = wm.folder(said.json["workflow_id"])
    path = folder / name
    path.write_bytes(path.read_bytes()[:100])
    again = wm("resume", folder.name, "--json", "-q")
    assert again.code == 0, again.text
    assert f"repaired: {name}" in again.err
    assert (ran(again), again.json["commit"]) == (set(), said.json["commit"])
