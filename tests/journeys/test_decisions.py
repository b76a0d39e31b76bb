"""Steps that fail on real containers, and what is decided about each: its record, its audit line, its line in reports.

Each way to fail is a real one, and says in its own words what the engine or the tool said. Waits are short, because the
prompts ask for that; nothing here is timed but against them.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.flows import journal

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

MIB = 2**20

FAILING = """\
---
max-parallel: 6
---
# Fails in many ways

## Steps

### flake
- retries: {max: 2, wait: 0.1s}
```python
import os, urllib.request
if os.environ["WM_ATTEMPT"] == "1":
    urllib.request.urlopen("http://registry.example.invalid/simple/")
```

### hungry
- resources: {memory: 64m}
```python
open("hungry.txt", "w").write("fed")
held = bytearray(100 * 2**20)
```

### hangs
- priority: high
- timeout: 1s
```bash
sleep 60
```

### forbidden
- priority: high
- mandatory: false
```bash
mkdir /etc/mine
```

### tests
- priority: high
- retries: {max: 3, wait: 0.1s}
```bash
echo "FAILED tests/test_sum.py::test_sum - assert 3 == 4"
echo "1 failed, $((RANDOM % 90 + 10)) passed in 0.$RANDOM s"
exit 1
```

### limited
- retries: {max: 2, wait: 0.1s}
```python
import http.server, os, sys, threading, urllib.error, urllib.request

class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        refused = os.environ["WM_ATTEMPT"] == "1"
        self.send_response(403 if refused else 200)
        self.send_header("retry-after", "3")
        self.end_headers()
        self.wfile.write(b'{"message": "API rate limit exceeded for user ID 1."}' if refused else b"{}")

server = http.server.HTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=server.serve_forever, daemon=True).start()
try:
    urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/rate_limit")
except urllib.error.HTTPError as error:
    print(error, f"retry-after: {error.headers['retry-after']}", error.read().decode(), sep="\\n", file=sys.stderr)
    sys.exit(1)
```
"""

DOCS = """\
# A step that may be left out

## Steps

### one
```sh
true
```

### two
```sh
true
```

### three
```sh
true
```

### four
```sh
true
```

### five
```sh
true
```

### docs
- needs: one, two, three, four, five
- priority: low
- mandatory: false
```sh
echo half > docs.txt
echo "sphinx-build: warning treated as error" >&2
exit 2
```

### publish
- needs: docs
```sh
test ! -e docs.txt && echo done > published.txt
```
"""

WAITS = """\
# Is killed while it waits

## Steps

### hungry
- resources: {memory: 64m}
- retries: {max: 2, wait: 8s, backoff: fixed}
- on-retry: keep
```python
import os, pathlib
pathlib.Path("tries.txt").open("a").write(os.environ["WM_ATTEMPT"])
held = bytearray(100 * 2**20)
```
"""

Answer = dict[str, Any]


class Told:
    """Everything that a run has left about one step's failures."""

    def __init__(self, wm: Any, said: Any) -> None:
        self.said, self.wm = said, wm
        self.id: str = said.json["workflow_id"]
        self.folder: Path = wm.folder(self.id)
        self.tasks: dict[str, Answer] = {task["id"]: task for task in said.json["tasks"]}
        self.records = [entry.fields for entry in journal.read(self.folder / "records.jsonl").of("decision")]
        lines = (self.folder / "audit.jsonl").read_text().splitlines()
        self.audited = [one for one in map(json.loads, lines) if one.get("event") == "decision"]
        state = json.loads((self.folder / "state.json").read_text())
        self.results = state["results"]

    def of(self, step: str) -> list[Answer]:
        """The step's decisions, which must be the same in each place where they are kept."""
        found = [one for one in self.records if one["step"] == step]
        for place in (self.audited, self.said.json["decisions"]):
            assert [one["reason"] for one in place if one["step"] == step] == [one["reason"] for one in found]
        return found

    def verbs(self, step: str) -> list[tuple[str, str, str]]:
        return [(one["verb"], one["rule"], one["failure"]["cls"]) for one in self.of(step)]

    def reported(self, step: str) -> None:
        """Each decision has its line in the report, as a page and as text, and in `why`."""
        page = self.wm("report", self.id, "-o", "-").out
        text = self.wm("report", self.id, "--format", "md", "-o", "-").out
        why = self.wm("why", step, "--id", self.id).out
        for one in self.of(step):
            assert one["rule"] in page, "the page has the rule"
            assert one["rule"] in text.replace("\\", ""), "the text has the rule"
            assert f"attempt {one['attempt']}: {one['verb']}, {one['rule']}: " in why


@pytest.fixture(scope="module")
def told(wm: Any, repo: Any, prompt_file: Callable[..., Path]) -> Told:
    return Told(wm, wm.run(prompt_file(FAILING), repo.path))


def test_a_flake_of_the_network_is_retried_with_a_wait_and_done(told: Told, prefect_server: Any) -> None:
    assert (told.tasks["flake"]["status"], told.tasks["flake"]["attempts"]) == ("completed", 2)
    (decision,) = told.of("flake")
    assert (decision["verb"], decision["rule"], decision["attempt"]) == ("retry", "prompt-retries", 1)
    assert decision["failure"]["cls"] == "network"
    assert "Temporary failure in name resolution" in " ".join(decision["failure"]["lines"])
    assert 0.1 <= decision["wait_seconds"] <= 0.125, "as it was asked for, with jitter on top"
    told.reported("flake")
    # The wait was planned, so it is Prefect's own retry.
    runs = prefect_server.tasks(told.said.json["flow_run_id"], count=7)
    assert [one["run_count"] for one in runs if one["name"] == "flake"] == [2]


def test_who_is_told_to_come_back_later_waits_that_long(told: Told, prefect_server: Any) -> None:
    assert (told.tasks["limited"]["status"], told.tasks["limited"]["attempts"]) == ("completed", 2)
    (decision,) = told.of("limited")
    assert (decision["verb"], decision["failure"]["cls"], decision["failure"]["retry_after"]) == (
        "retry",
        "rate_limit",
        3.0,
    )
    first, second = told.results["limited"]["receipts"]
    assert decision["wait_seconds"] >= 3
    assert second["started_at"] - first["started_at"] - first["seconds"] >= 3
    told.reported("limited")
    # Nobody could plan that wait, so the next attempt is a task run of its own.
    runs = prefect_server.tasks(told.said.json["flow_run_id"], count=7)
    assert [one["run_count"] for one in runs if one["name"] == "limited"] == [1, 1]


def test_what_ran_out_of_memory_gets_more_and_is_done(told: Told, repo: Any) -> None:
    assert (told.tasks["hungry"]["status"], told.tasks["hungry"]["attempts"]) == ("completed", 2)
    assert told.verbs("hungry") == [("retry", "more-room", "out_of_memory")]
    (decision,) = told.of("hungry")
    assert decision["limits"] == {"memory": 128 * MIB, "seconds": None}
    first, second = told.results["hungry"]["receipts"]
    assert [one["memory_limit"] for one in (first, second)] == [64 * MIB, 128 * MIB]
    assert [one["oom_killed"] for one in (first, second)] == [True, False]
    assert first["policy_hash"] != second["policy_hash"]
    assert repo.files(told.said.json["branch"])["hungry.txt"] == "fed"
    told.reported("hungry")


def test_what_hangs_gets_more_time_once_and_is_then_a_persons(told: Told) -> None:
    assert told.verbs("hangs") == [("retry", "more-room", "timeout"), ("escalate", "still-too-small", "timeout")]
    assert [one["wall_limit"] for one in told.results["hangs"]["receipts"]] == pytest.approx([1, 2.2], abs=0.3)
    assert (told.tasks["hangs"]["status"], told.tasks["hangs"]["attempts"]) == ("waiting", 2)
    assert told.tasks["hangs"]["reason"].startswith("it failed and asks for a person: it ran longer than 2")
    assert told.said.code == 3
    told.reported("hangs")


def test_what_is_forbidden_is_not_tried_again(told: Told) -> None:
    (decision,) = told.of("forbidden")
    assert (decision["verb"], decision["failure"]["cls"]) == ("escalate", "permission")
    assert (decision["factors"]["barred"], told.tasks["forbidden"]["attempts"]) == ("never", 1)
    told.reported("forbidden")


def test_a_test_that_fails_the_same_way_twice_is_not_run_a_third_time(told: Told) -> None:
    first, second = told.of("tests")
    assert (first["verb"], first["rule"], first["factors"]["repeated"]) == ("retry", "prompt-retries", False)
    assert first["failure"]["fingerprint"] == second["failure"]["fingerprint"]
    assert (second["factors"]["repeated"], second["factors"]["barred"]) == (True, "repeated")
    assert (second["verb"], second["factors"]["most"], told.tasks["tests"]["attempts"]) == ("escalate", 4, 2)
    told.reported("tests")


def test_each_failed_attempt_has_one_decision(told: Told) -> None:
    failed = {step: sum(one["exit_code"] != 0 for one in result["receipts"]) for step, result in told.results.items()}
    assert {step: len(told.of(step)) for step in failed} == failed
    assert len(told.records) == sum(failed.values())


def test_documentation_of_low_priority_is_left_out_late_and_the_rest_goes_on(
    wm: Any, repo: Any, prompt_file: Callable[..., Path]
) -> None:
    told = Told(wm, wm.run(prompt_file(DOCS), repo.path))
    (decision,) = told.of("docs")
    assert (decision["verb"], decision["rule"]) == ("skip", "low-and-late")
    assert decision["factors"]["progress"] > 0.7
    assert decision["factors"]["dependants_run"] is True
    assert told.tasks["docs"]["status"] == "skipped"
    assert told.tasks["docs"]["reason"] == "given up, as the rule low-and-late says: exit 2"
    assert told.tasks["publish"]["status"] == "completed"
    assert (told.said.code, told.said.json["status"]) == (0, "completed")
    told.reported("docs")


def test_who_decides_nothing_alone_asks_about_everything(wm: Any, repo: Any, prompt_file: Callable[..., Path]) -> None:
    text = "# T\n\n## Steps\n\n### a\n- on-failure: skip\n- retries: 2\n```sh\nexit 1\n```\n"
    said = wm.run(prompt_file(text), repo.path, WORKFLOWMASTER_AUTONOMOUS_MODE="false")
    told = Told(wm, said)
    assert told.verbs("a") == [("escalate", "not-autonomous", "unknown")]
    assert (said.code, told.tasks["a"]["status"]) == (3, "waiting")
    written = wm.run(prompt_file(f"---\ndecisions: {{mode: off}}\n---\n{text}"), repo.path)
    assert [one["rule"] for one in written.json["decisions"]] == ["not-autonomous"]
    assert written.code == 3


def test_a_kill_in_the_middle_of_a_wait_loses_neither_count_nor_growth_nor_the_delay(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], wait_until: Callable[..., Any]
) -> None:
    known, repo = set((wm.home / "workflows").glob("*")), repository()
    running = wm.start("run", prompt_file(WAITS), "--workspace", repo.path, "--json", "-q")

    def decided() -> Path | None:
        assert running.process.poll() is None, running.ended().text
        made = set((wm.home / "workflows").glob("*")) - known
        return next((one for one in made if list(journal.read(one / "records.jsonl").of("decision"))), None)

    folder = wait_until(decided, 90.0)
    (entry,) = journal.read(folder / "records.jsonl").of("decision")
    running.interrupt(signal.SIGKILL)
    running.ended()
    due = entry.at + entry.fields["wait_seconds"]
    assert time.time() < due, "it was killed while it waited"
    said = wm("resume", folder.name, "--json", "-q")
    told = Told(wm, said)
    assert (said.code, told.tasks["hungry"]["status"], told.tasks["hungry"]["attempts"]) == (0, "completed", 2)
    assert told.verbs("hungry") == [("retry", "prompt-retries", "out_of_memory")], "nothing was decided twice"
    (second,) = told.results["hungry"]["receipts"]
    assert second["memory_limit"] == entry.fields["limits"]["memory"] == 128 * MIB
    assert second["started_at"] >= due - 0.5, "and it waited the rest of the delay"
    assert repo.files(said.json["branch"])["tries.txt"] == "12", "what the first attempt left was there"
    log = repo.git("log", "--format=%s", f"main..{said.json['branch']}").splitlines()
    assert log == ["hungry"], "of the two attempts only the step itself is a commit"
