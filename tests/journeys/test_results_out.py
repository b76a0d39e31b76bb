"""What steps hand out, under every way to work on a tree: artifacts, layers and copies, written by code that means harm."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks import bounded
from workflowmaster.blocks.bounded import mounted

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

Answer = dict[str, Any]

needs_mounts = pytest.mark.skipif(not bounded.usable(local=True), reason="mounting needs root, and loop devices")

PROMPT = r"""
# Results out

## Steps

### package
- artifacts: [dist/*.whl, summary.txt]
```bash
mkdir -p /out/artifacts/dist
printf 'wheel' > /out/artifacts/dist/a-1.0.whl
printf 'fine\n' > /out/artifacts/summary.txt
printf 'debris' > /out/artifacts/debris.log
```

### fails
- continue-on-error: true
```bash
mkdir -p /out/artifacts; echo 'two tests failed' > /out/artifacts/report.txt; exit 3
```

### forgets
- artifacts: report.html
- continue-on-error: true
```bash
mkdir -p /out/artifacts; ln -s /etc/passwd /out/artifacts/report.html
```

### hostile
- security-policy: hardened
```python
import os, socket
os.makedirs("/out/artifacts/ok"); os.chdir("/out/artifacts")
open("ok/plain.txt", "w").write("plain")
os.symlink("/etc/shadow", "absolute"); os.symlink("../../../../../../etc/shadow", "upwards"); os.symlink("/", "root")
os.mkfifo("fifo"); socket.socket(socket.AF_UNIX).bind("socket")
os.link("ok/plain.txt", "hard")
for name in (b".GIT", b"git~1", "\u202egpj.exe".encode(), b"two\nlines", b"\xff\xfe", b"\x1b[31mred"):
    open(name, "wb").write(b"x")
with open("sparse", "wb") as file:
    try:
        file.truncate(1 << 40)
    except OSError as error:
        print("refused:", error)
deep = os.open(".", os.O_RDONLY)
for _ in range(300):
    os.mkdir("d", dir_fd=deep); deep = os.open("d", os.O_RDONLY, dir_fd=deep)
os.makedirs("/out/workspace/.git"); open("/out/workspace/.git/config", "w").write("[core]\nfsmonitor = touch /tmp/x\n")
os.makedirs("/out/workspace/sub"); os.symlink("/etc", "/out/workspace/link"); os.mkfifo("/out/workspace/sub/fifo")
open("/out/workspace/sub/laid.txt", "w").write("laid")
```

### many
- security-policy: hardened
```python
import os
os.makedirs("/out/artifacts/n")
count = 0
try:
    for count in range(100_000):
        open(f"/out/artifacts/n/{count:06}", "w").close()
except OSError as error:
    print("refused after", count, error)
```

### bare
- security-policy: paranoid
- inputs: [a.txt]
- outputs: [lines]
```bash
test ! -e /workspace/a.txt
mkdir -p /out/artifacts; wc -l < /wm/inputs/a.txt > /out/artifacts/count.txt
echo "lines=$(cat /out/artifacts/count.txt)" >> "$WM_OUTPUT"
echo changed > /wm/inputs/a.txt || echo "inputs are read-only"
cp /bin/true /out/t && /out/t || echo "/out runs nothing"
```

### copy
- security-policy: testing
```bash
echo scribble > a.txt; mkdir -p /out/artifacts /out/workspace
cp a.txt /out/artifacts/seen.txt; echo never > /out/workspace/never.txt
```

### shut
- security-policy: hardened
```bash
echo scribble > a.txt && exit 9
touch new && exit 9
cat a.txt
```
"""

FILLS = """
# Fill

## Steps

### fill
- security-policy: hardened
- resources: {disk: 8m}
```bash
echo kept > /out/small
head -c 20000000 /dev/zero > /out/large
```
"""

SLEEPS = """
# Sleep

## Steps

### sleep
- security-policy: hardened
```bash
echo started; sleep 600
```
"""


@pytest.fixture(scope="module")
def said(wm: Any, repo: Any, before: dict[str, object], prompt_file: Callable[..., Path]) -> Any:
    return wm.run(prompt_file(PROMPT), repo.path)


@pytest.fixture(scope="module")
def results(wm: Any, said: Any) -> dict[str, Answer]:
    found: dict[str, Answer] = json.loads((wm.folder(said.json["workflow_id"]) / "state.json").read_text())["results"]
    return found


def names(task: Answer) -> list[str]:
    return [one["name"] for one in task["artifacts"]]


# --- artifacts ---


def test_declared_artifacts_are_in_the_answer_and_on_disk(tasks: dict[str, Answer]) -> None:
    task = tasks["package"]
    assert (task["status"], names(task)) == ("completed", ["dist/a-1.0.whl", "summary.txt"])
    wheel = task["artifacts"][0]
    assert Path(wheel["path"]).read_bytes() == b"wheel"
    assert (wheel["bytes"], wheel["sha256"]) == (5, hashlib.sha256(b"wheel").hexdigest())


def test_they_lie_in_the_runs_own_folder_and_in_the_report(wm: Any, said: Any) -> None:
    folder = wm.folder(said.json["workflow_id"])
    assert (folder / "artifacts/package/summary.txt").read_text() == "fine\n"
    assert not (folder / "artifacts/package/debris.log").exists()
    report = Path(said.json["report"]).read_text()
    assert "dist/a-1.0.whl" in report
    assert "artifacts/package/" in report


def test_a_step_that_fails_hands_out_what_it_has(tasks: dict[str, Answer]) -> None:
    assert (tasks["fails"]["exit_code"], names(tasks["fails"])) == (3, ["report.txt"])


def test_a_promise_that_a_link_should_keep_is_broken(tasks: dict[str, Answer], results: dict[str, Answer]) -> None:
    assert tasks["forgets"]["reason"] == "it left no report.html in /out/artifacts, as its artifacts promise"
    assert results["forgets"]["findings"] == ["/out/artifacts/report.html: left out, a symbolic link"]


def test_of_hostile_artifacts_only_plain_files_come(
    tasks: dict[str, Answer], results: dict[str, Answer], wm: Any, said: Any
) -> None:
    assert tasks["hostile"]["status"] == "completed", tasks["hostile"]["reason"]
    assert names(tasks["hostile"]) == ["hard", "ok/plain.txt"]
    folder = wm.folder(said.json["workflow_id"]) / "artifacts/hostile"
    assert all(not path.is_symlink() for path in folder.rglob("*"))
    told = "\n".join(results["hostile"]["findings"])
    for words in (
        "artifacts/absolute: left out, a symbolic link",
        "artifacts/upwards: left out, a symbolic link",
        "artifacts/root: left out, a symbolic link",
        "artifacts/fifo: left out, a FIFO",
        "artifacts/socket: left out, a socket",
        "artifacts/.GIT: left out, a form of .git",
        "artifacts/git~1: left out, a form of .git",
        r"artifacts/two\nlines: left out, its name has characters",
        r"artifacts/\xff\xfe: left out, its name is not UTF-8",
        "artifacts/hard: copied as a file of its own",
        "left out, nested deeper than 32 directories",
    ):
        assert words in told
    assert "sparse: left out" in told or "refused" in wm("logs", said.json["workflow_id"], "--step", "hostile").out


def test_of_a_hundred_thousand_files_a_few_come_and_the_rest_is_counted(
    tasks: dict[str, Answer], results: dict[str, Answer]
) -> None:
    assert len(tasks["many"]["artifacts"]) == 1000
    findings = results["many"]["findings"]
    assert len(findings) <= 101
    assert any("more names of /out/artifacts" in line for line in findings)


# --- layers, copies and nothing at all ---


def test_a_layer_is_laid_over_the_tree_and_what_no_tree_may_hold_is_not(
    repo: Any, said: Any, results: dict[str, Answer]
) -> None:
    files = repo.files(said.json["branch"])
    assert files["sub/laid.txt"] == "laid"
    assert not [name for name in files if ".git/" in name or "fifo" in name or name == "never.txt"]
    assert any(".git: left out" in line for line in results["hostile"]["findings"])


def test_under_paranoid_a_step_sees_its_inputs_and_nothing_else(wm: Any, said: Any, tasks: dict[str, Answer]) -> None:
    assert tasks["bare"]["status"] == "completed", tasks["bare"]["reason"]
    assert tasks["bare"]["outputs"] == {"lines": "3"}
    assert names(tasks["bare"]) == ["count.txt"]
    log = wm("logs", said.json["workflow_id"], "--step", "bare").out
    assert "inputs are read-only" in log
    if bounded.usable(local=True):
        assert "/out runs nothing" in log


def test_a_copy_is_thrown_away_and_its_artifacts_are_not(repo: Any, said: Any, tasks: dict[str, Answer]) -> None:
    (seen,) = tasks["copy"]["artifacts"]
    assert Path(seen["path"]).read_text() == "scribble\n"
    assert repo.files(said.json["branch"])["a.txt"] != "scribble"


def test_a_read_only_workspace_refuses_every_write(wm: Any, said: Any, tasks: dict[str, Answer]) -> None:
    assert tasks["shut"]["status"] == "completed", tasks["shut"]["reason"]
    assert "Read-only file system" in wm("logs", said.json["workflow_id"], "--step", "shut").out


def test_the_users_checkout_is_untouched(repo: Any, before: dict[str, object], said: Any) -> None:
    assert repo.state() == before


# --- mounts ---


@needs_mounts
def test_a_results_folder_that_is_full_says_so_and_leaves_no_mount(
    wm: Any, repo: Any, prompt_file: Callable[..., Path]
) -> None:
    said = wm.run(prompt_file(FILLS), repo.path)
    (task,) = said.json["tasks"]
    assert (said.code, task["exit_code"]) == (1, 1)
    assert task["reason"] == "exit 1 (it filled /out, a file system of 8,388,608 bytes)"
    assert mounted(wm.home) == []
    assert not list(wm.folder(said.json["workflow_id"]).rglob("*.ext4"))


@needs_mounts
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["ctrl-c", "sigterm", "kill"])
def test_however_a_run_ends_no_mount_and_no_file_outlives_it_for_long(
    command_line: Callable[..., Any],
    prefect_server: Any,
    repo: Any,
    prompt_file: Callable[..., Path],
    number: signal.Signals,
) -> None:
    wm = command_line(PREFECT_API_URL=prefect_server.url)
    running = wm.start("run", prompt_file(SLEEPS), "--workspace", repo.path, "--json", "-q")
    until = time.monotonic() + 120
    while not list(wm.home.glob("workflows/*/logs/sleep.1.log")):
        assert running.process.poll() is None, running.ended().text
        assert time.monotonic() < until, (running.interrupt(signal.SIGKILL), running.ended().text)[1]
        time.sleep(0.1)
    assert mounted(wm.home), "it is there while the step runs"
    running.interrupt(number)
    running.ended()
    if number == signal.SIGKILL:
        assert mounted(wm.home), "nobody could clean up"
        assert wm("clean").code == 0
        assert mounted(wm.home), "a resume could go on with it"
        closed = wm("cancel", "latest")
        assert closed.code == 0, closed.text
    assert mounted(wm.home) == []
    assert not list(wm.home.rglob("*.ext4"))
    held = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [line for line in held if line.startswith(os.fspath(wm.home))]
