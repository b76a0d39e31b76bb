"""The audit log of real runs: every kind of event, sealed and anchored, and the line of proof through all of it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

VALUE = "hunter2-and-more-of-it"
PROMPT = """\
# A run that leaves a trail

## Steps

### build
- secrets: TOKEN
```bash
test -s /run/secrets/TOKEN
echo built > built.txt
```

### flaky
- needs: build
- retries: {max: 1, backoff: fixed, wait: 100ms}
```bash
test "$WM_ATTEMPT" = 2
```

### release
- needs: flaky
- approval: required
```bash
echo released > released.txt
```
"""
SLOW = "# Slow\n\n## Steps\n\n### slow\n```bash\necho begun; sleep 60\n```\n"
KINDS = {
    *("plan.compiled", "settings.effective", "claim.taken", "workflow.started", "policy.applied", "step.started"),
    *("container.created", "container.attested", "container.started", "secret.used", "container.finished"),
    *("container.removed", "decision", "step.retried", "step.finished", "approval", "branch.exported"),
    *("forge.written", "workflow.finished"),
}


@pytest.fixture(scope="module")
def repo(repository: Callable[..., Any]) -> Any:
    return repository()


@pytest.fixture(scope="module")
def run(wm: Any, repo: Any, prompt_file: Callable[..., Path]) -> dict[str, Any]:
    given = {"WORKFLOWMASTER_SECRET_TOKEN": VALUE}
    waits = wm.run(prompt_file(PROMPT), repo.path, **given)
    assert waits.code == 3, waits.text
    said = wm("approve", waits.json["workflow_id"], "--json", "-q", **given)
    assert said.code == 0, said.text
    answer: dict[str, Any] = said.json
    return answer


@pytest.fixture(scope="module")
def folder(wm: Any, run: dict[str, Any]) -> Path:
    found: Path = wm.folder(run["workflow_id"])
    return found


@pytest.fixture
def undone(folder: Path) -> Iterator[Path]:
    """The log, and afterwards everything as it was."""
    copy = folder.parent.parent / "copy"
    shutil.copytree(folder, copy, symlinks=True)
    yield folder / "audit.jsonl"
    shutil.rmtree(folder)
    copy.rename(folder)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_kind_of_event_is_there(folder: Path) -> None:
    assert KINDS - {record["event"] for record in records(folder / "audit.jsonl")} == set()


def test_it_says_who_and_with_what_and_never_the_value(folder: Path) -> None:
    found = {record["event"]: record for record in records(folder / "audit.jsonl")}
    assert found["secret.used"]["secrets"] == ["TOKEN"]
    assert found["approval"]["answer"].startswith("approved by ")
    assert found["container.attested"]["enforced"]
    assert VALUE not in (folder / "audit.jsonl").read_text()


def test_it_holds_and_both_ends_are_sealed(wm: Any, run: dict[str, Any]) -> None:
    found = wm("audit", "verify", run["workflow_id"], "--json").json
    assert (found["holds"], found["finished"], found["checkpoints"]) == (True, True, 2)
    assert list(found["anchors"].values()) == ["agrees on 2 of 2 checkpoints", "agrees on 1 of 2 checkpoints"]


def test_the_note_on_the_branch_is_the_last_checkpoint(folder: Path, repo: Any, run: dict[str, Any]) -> None:
    note = repo.git("notes", "--ref", "workflowmaster", "show", run["commit"])
    assert note == (folder / "audit.checkpoints/000001.json").read_text().strip()
    last = records(folder / "audit.jsonl")
    sealed = max(record["seq"] for record in last if "seal" in record)
    assert json.loads(note)["statement"]["count"] == sealed + 1


def test_the_flow_run_has_it_as_an_artifact(prefect_server: Any, folder: Path, run: dict[str, Any]) -> None:
    wanted = {"artifacts": {"flow_run_id": {"any_": [run["flow_run_id"]]}, "key": {"any_": ["audit"]}}}
    found = prefect_server.post("/artifacts/filter", wanted)
    checkpoint = (folder / "audit.checkpoints/000001.json").read_text()
    assert any(checkpoint in one["data"] for one in found)


def test_the_line_from_the_prompt_to_the_pull_request_is_proved(wm: Any, run: dict[str, Any]) -> None:
    found = wm("audit", "prove", run["workflow_id"], "--json").json
    assert (found["holds"], found["complete"]) == (True, True), found
    names = [link["link"] for link in found["links"]]
    assert names[:3] == ["audit log", "prompt", "plan"]
    assert names[-2:] == ["branch", "pull request"]
    assert [name for name in names if name.startswith("flaky")] == [
        *("flaky: container", "flaky: container", "flaky: result", "flaky: commit"),
    ]


LINKS = {
    "prompt": lambda folder: (folder / "prompt.md").write_text("# another\n"),
    "plan": lambda folder: change(folder / "plan.json", '"max_parallel":3', '"max_parallel":4'),
    "pull request": lambda folder: change(folder / "pull-request.md", "Branch", "branch"),
}


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_was_touched_is_named(wm: Any, run: dict[str, Any], undone: Path, link: str) -> None:
    LINKS[link](undone.parent)
    said = wm("audit", "prove", run["workflow_id"], "--json")
    assert said.code == 7, said.text
    assert [one["link"] for one in said.json["links"] if one["holds"] is False] == [link]


def test_a_pull_request_that_is_gone_is_missing_and_not_wrong(wm: Any, run: dict[str, Any], undone: Path) -> None:
    (undone.parent / "pull-request.md").unlink()
    said = wm("audit", "prove", run["workflow_id"], "--json")
    assert (said.code, said.json["holds"], said.json["complete"]) == (0, True, False)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


TAMPERING = {
    "edited": lambda log: log.write_bytes(log.read_bytes().replace(b"approved by", b"approved BY")),
    "cut off": lambda log: log.write_bytes(b"".join(lines(log)[:-3])),
    "swapped": lambda log: log.write_bytes(b"".join([lines(log)[1], lines(log)[0], *lines(log)[2:]])),
    "wiped": lambda log: log.write_bytes(b""),
    "without its checkpoint": lambda log: (log.parent / "audit.checkpoints/000001.json").unlink(),
    "without its key": lambda log: (log.parent / "audit.key").unlink(),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_ends_with_7(wm: Any, run: dict[str, Any], undone: Path, how: str) -> None:
    TAMPERING[how](undone)
    said = wm("audit", "verify", run["workflow_id"], "--json")
    assert (said.code, said.json["holds"]) == (7, False), said.text
    assert wm("audit", "prove", run["workflow_id"]).code == 7


def test_a_damaged_key_stops_a_resume_before_anything_is_written(wm: Any, run: dict[str, Any], undone: Path) -> None:
    (undone.parent / "audit.key").write_text("nonsense")
    kept = {path: path.read_bytes() for path in undone.parent.iterdir() if path.is_file() and path.suffix != ".lock"}
    said = wm("resume", run["workflow_id"], "--from", "build", WORKFLOWMASTER_SECRET_TOKEN=VALUE)
    assert (said.code, "the audit log's key is damaged" in said.err) == (7, True), said.text
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_run_in_progress_and_a_killed_one_hold(
    wm: Any, repo: Any, prompt_file: Callable[..., Path], wait_until: Any, containers: Callable[..., list[str]]
) -> None:
    before = set((wm.home / "workflows").iterdir())
    running = wm.start("run", prompt_file(SLOW), "--workspace", repo.path, "-q")

    def started() -> Path | None:
        new = set((wm.home / "workflows").iterdir()) - before
        logs = [one / "audit.jsonl" for one in new if (one / "state.json").exists()]
        return next((log for log in logs if b'"container.started"' in log.read_bytes()), None)

    log = wait_until(started, 120.0)
    try:
        found = wm("audit", "verify", log.parent.name, "--json").json
        assert (found["holds"], found["finished"]) == (True, False), found
        running.interrupt(signal.SIGKILL)
        running.ended()
        found = wm("audit", "verify", log.parent.name, "--json").json
        assert (found["holds"], found["finished"], found["pending"]) == (True, False, 0), found
    finally:
        # It could still be adopted, so nothing of ours removes it.
        left = containers(log.parent.name)
        subprocess.run(["docker", "rm", "-f", *left], check=True, capture_output=True)
