"""Workspaces that are not simply a clean repository: dirty ones, none at all, full disks; and results that are reused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
# Add a line

## Steps

### add
```bash
cat *.txt
echo added >> a.txt
```
"""

CACHED = """\
# Remember

## Steps

### slow
- cache: true
```bash
echo "made once" | tee made.txt
echo "digest=abc" >> "$WM_OUTPUT"
```

### quick
- needs: slow
```bash
cat made.txt; echo "$STEP_SLOW_DIGEST"
```
"""

FILLS = """\
# Fill the disk

## Steps

### fill
```bash
head -c 64000000 /dev/urandom > big.bin
```
"""

Answer = dict[str, Any]


def by_id(answer: Answer) -> dict[str, Answer]:
    return {task["id"]: task for task in answer["tasks"]}


def test_uncommitted_changes_go_along_as_a_commit_of_their_own(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    repo = repository()
    repo.write({"a.txt": "changed\n", "new.txt": "new\n", ".venv/x": "ignored\n"})
    before = repo.state()
    said = wm.run(prompt_file(PROMPT), repo.path, "--include-dirty")
    assert said.code == 0, said.text
    assert repo.state() == before
    assert repo.files(said.json["branch"])["a.txt"] == "changed\nadded"
    assert repo.files(said.json["branch"])["new.txt"] == "new"
    subjects = repo.git("log", "--format=%s", f"HEAD..{said.json['branch']}").splitlines()
    assert subjects == ["add", "Uncommitted changes the workflow started with"]
    patch = (wm.folder(said.json["workflow_id"]) / "changes.patch").read_text()
    assert patch.count("diff --git") == 1, "what the user has already is no part of the patch"
    repo.git("apply", "--check", wm.folder(said.json["workflow_id"]) / "changes.patch")


def test_a_directory_that_is_no_repository(
    wm: Any, prompt_file: Callable[..., Path], tmp_path: Path, snapshot_of: Callable[..., dict[str, Any]]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "a.txt").write_text("one\n")
    before = snapshot_of(work)
    said = wm.run(prompt_file(PROMPT), work)
    assert said.code == 0, said.text
    assert snapshot_of(work) == before
    assert said.json["branch"]
    patch = wm.folder(said.json["workflow_id"]) / "changes.patch"
    subprocess.run(
        ["git", "apply", str(patch)], cwd=work, check=True, env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    )
    assert (work / "a.txt").read_text() == "one\nadded\n"


def test_a_folder_inside_a_repository_stands_for_all_of_it(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    repo = repository({"a.txt": "one\n", "services/api/b.txt": "two\n"})
    said = wm.run(prompt_file(PROMPT), repo.path / "services/api")
    assert said.code == 0, said.text
    assert set(repo.files(said.json["branch"])) == {"a.txt", "services/api/b.txt"}


def test_two_runs_at_once_in_one_repository(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    repo, prompt = repository(), prompt_file(PROMPT)
    before = repo.state()
    both = [wm.start("run", prompt, "--workspace", repo.path, "--json", "-q") for _ in range(2)]
    answers = [running.ended() for running in both]
    assert [said.code for said in answers] == [0, 0], answers[0].text + answers[1].text
    branches = {f"refs/heads/{said.json['branch']}" for said in answers}
    assert repo.refs() == {"refs/heads/main", *branches, "refs/notes/workflowmaster"}
    assert len(branches) == 2
    assert repo.state() == before


def test_a_run_that_changes_nothing_leaves_no_branch(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    repo = repository()
    said = wm.run(prompt_file("# Look\n\n## Steps\n\n### look\n```bash\nls\n```\n"), repo.path)
    assert said.code == 0, said.text
    assert (said.json["branch"], said.json["commit"]) == (None, None)
    assert repo.refs() == {"refs/heads/main"}


def test_what_is_cached_is_reused_by_another_run(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], orphans: Callable[[], list[str]]
) -> None:
    repo, prompt = repository(), prompt_file(CACHED)
    first = wm.run(prompt, repo.path)
    second = wm.run(prompt, repo.path)
    assert (first.code, second.code) == (0, 0), first.text + second.text
    assert {name: task["reused"] for name, task in by_id(second.json).items()} == {"slow": True, "quick": False}
    assert wm("logs", second.json["workflow_id"], "--step", "quick").out == "made once\nabc\n"
    assert repo.files(second.json["branch"])["made.txt"] == "made once"
    records = (wm.folder(second.json["workflow_id"]) / "audit.jsonl").read_text().splitlines()
    started = [r["step"] for r in map(json.loads, records) if r["event"] == "container.started"]
    assert started == ["quick"]
    assert repo.git("merge-base", "HEAD", second.json["branch"]) == repo.git("rev-parse", "HEAD")
    assert repo.git("log", "--format=%s", f"HEAD..{second.json['branch']}").splitlines() == ["slow"]
    shutil.rmtree(wm.folder(first.json["workflow_id"]))
    again = wm.run(prompt, repo.path)
    assert [task["reused"] for task in again.json["tasks"]] == [False, False], "whoever made it is gone"
    assert again.json["status"] == "completed"
    repo.commit({"a.txt": "other\n"})
    third = wm.run(prompt, repo.path)
    assert {name: task["reused"] for name, task in by_id(third.json).items()} == {"slow": False, "quick": False}


def test_a_disk_that_fills_up_is_named(
    wm: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    small_disk: Path,
    orphans: Callable[[], list[str]],
) -> None:
    repo = repository()
    before, known = repo.state(), set(orphans())
    said = wm.run(prompt_file(FILLS), repo.path, WORKFLOWMASTER_HOME=str(small_disk))
    assert said.code in (1, 4), said.text
    assert "Traceback" not in said.text
    assert "space" in said.text
    assert repo.state() == before
    assert set(orphans()) <= known


def test_a_disk_that_is_full_from_the_start_is_named(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], small_disk: Path
) -> None:
    subprocess.run(["dd", "if=/dev/zero", f"of={small_disk / 'filler'}", "bs=64k"], capture_output=True, check=False)
    repo = repository()
    said = wm.run(prompt_file(FILLS), repo.path, WORKFLOWMASTER_HOME=str(small_disk))
    assert said.code == 4, said.text
    assert "Traceback" not in said.text
    assert "space" in said.json["error"]
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["filler"]
    assert repo.refs() == {"refs/heads/main"}
