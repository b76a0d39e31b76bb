"""A run whose steps let their secrets out in every way we know, and then a search of every byte that it left anywhere.

Searched are the state directory with Prefect's database, its log and results, the log, the audit log, the report and
all objects of git, also those that are packed; the user's repository; the server's own folder; what the engine still
knows, and what it keeps on its disk; temporary folders; and what the command printed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.masking import Masker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = Path(__file__).parent / "prompts/secrets.md"

TOKEN = b"ghp_x7Qm/9f1c+A7vLz0"
ODD = 'it\'s "odd" & <\u017elu\u0165> \\ $HOME 100%'.encode()
KEY = b"-----BEGIN TEST KEY-----\n" + b"".join(base64.b64encode(b"key %d " % n * 6) + b"\n" for n in range(5))
SECRETS = {"TOKEN": TOKEN, "ODD": ODD, "KEY": KEY}
MASKER = Masker(SECRETS)

COMPLETED = {"prints", "throw-away", "judged", "allowed", "none"}
REFUSED = {
    "outputs": "wrote secret TOKEN, or a form of it, into /out/outputs",
    "outputs-broken": "wrote secret TOKEN, or a form of it, into /out/outputs",
    "file": "wrote secret TOKEN, or a form of it, into deep/er/config.txt",
    "file-name": "wrote secret TOKEN, or a form of it, into the name of ***",
    "odd-file": "wrote secret TOKEN, or a form of it, into the name of ***",
    "link": "wrote secret TOKEN, or a form of it, into the target of link",
    "large-file": "wrote secret KEY, or a form of it, into large",
    "artifact": "wrote secret TOKEN, or a form of it, into /out/artifacts/report.txt",
    "layer": "wrote secret TOKEN, or a form of it, into /out/workspace/config.txt",
    "goes-on": "wrote secret TOKEN, or a form of it, into config.txt",
}


@pytest.fixture(scope="module")
def repo(repository: Callable[..., Any]) -> Any:
    return repository()


@pytest.fixture(scope="module")
def answer(wm: Any, repo: Any, prefect_server: Any) -> Any:
    """One run; ODD comes from a block of the server, the others from the environment."""
    save_block(prefect_server, "odd", ODD.decode())
    given = {f"WORKFLOWMASTER_SECRET_{name}": SECRETS[name].decode() for name in ("TOKEN", "KEY")}
    return wm("run", PROMPT, "--workspace", repo.path, "--json", "--verbose", **given)


@pytest.fixture(scope="module")
def tasks(answer: Any) -> dict[str, Any]:
    return {task["id"]: task for task in answer.json["tasks"]}


def save_block(server: Any, name: str, value: str) -> None:
    kind = server.get("/block_types/slug/secret")
    schema = server.post("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}})[0]
    document = {"name": name, "data": {"value": value}, "block_schema_id": schema["id"], "block_type_id": kind["id"]}
    server.post("/block_documents/", document)


# --- what came of it ---


def test_steps_end_as_they_should(answer: Any, tasks: dict[str, Any]) -> None:
    assert answer.code == 1, answer.text
    assert {name for name, task in tasks.items() if task["status"] == "completed"} == COMPLETED, {
        name: task["reason"] for name, task in tasks.items()
    }
    assert {name: tasks[name]["reason"] for name in REFUSED if REFUSED[name] not in tasks[name]["reason"]} == {}
    assert {name: task["outputs"] for name, task in tasks.items() if task["outputs"]} == {}
    assert tasks["raises"]["exit_code"] == 1
    assert tasks["slow"]["timed_out"]


def test_nothing_but_secrets_is_masked(wm: Any, answer: Any) -> None:
    log = wm("logs", answer.json["workflow_id"], "--step", "prints").out.splitlines()
    assert log[:3] == ["plain ***", "stderr ***", "split ***"]
    assert "url https://example.org/?t=*** ***" in log
    assert r'json {"token": "***", "odd": "***", "key": "***\n"}' in log
    assert "hex *** ***0a" in log, "a line break at the end is no secret"
    assert log[-1] == "unfinished ***"
    traceback = wm("logs", answer.json["workflow_id"], "--step", "raises").out
    assert "KeyError: '***'" in traceback


def test_the_terminal_showed_the_same(answer: Any) -> None:
    assert "plain ***" in answer.err


def test_a_flood_of_secrets_is_cut_at_the_cap_of_what_was_produced(wm: Any, answer: Any) -> None:
    log = wm("logs", answer.json["workflow_id"], "--step", "flood").out
    assert "output cut at 1,048,576 bytes" in log.splitlines()[-1]
    assert log.count("***\n") == (1 << 20) // (len(TOKEN) + 1)


def test_what_is_no_secret_is_kept(repo: Any, answer: Any) -> None:
    files = repo.files(answer.json["branch"])
    assert files["harmless.txt"] == "harmless"
    assert len(files["digest.txt"].split()[0]) == 64
    assert not {"config.txt", "fine.txt", "large", "link"} & set(files)


def test_the_lines_in_prefects_log_are_masked(prefect_server: Any, answer: Any) -> None:
    lines = prefect_server.logs(answer.json["flow_run_id"], containing="[prints] plain")
    text = "\n".join(line["message"] for line in lines)
    assert "[prints] plain ***" in text
    assert MASKER.found(text.encode()) == frozenset()


# --- and what it left ---


def leaks(data: bytes) -> frozenset[str]:
    """Which secrets some bytes give away: as they are, and as a zlib stream such as git's loose objects and Prefect's."""
    found = MASKER.found(data)
    with contextlib.suppress(zlib.error):
        found |= MASKER.found(zlib.decompressobj().decompress(data, 1 << 26))
    return found


def files_below(top: Path) -> Iterator[Path]:
    # Not rglob, which fails when a folder goes while it is looked at; others use this machine too.
    for folder, _, names in os.walk(top):
        yield from (path for name in names if (path := Path(folder, name)).is_file() and not path.is_symlink())


def assert_clean(top: Path) -> int:
    """Hold that no file below, no name and no link has a secret; return how many were looked at."""
    count = 0
    for path in files_below(top):
        try:
            with path.open("rb") as file:
                data = file.read(1 << 26)  # others, who use the same engine, have files of a terabyte
        except (FileNotFoundError, PermissionError):
            continue  # gone meanwhile, or somebody else's
        assert leaks(data) == frozenset(), path
        assert MASKER.found(os.fsencode(path)) == frozenset()
        count += 1
    return count


def test_the_search_would_find_what_it_looks_for(tmp_path: Path) -> None:
    for name, data in (
        ("a", b"x" + TOKEN),
        ("b", zlib.compress(b"blob 3\0" + KEY)),
        ("c", base64.b64encode(b"y" + ODD)),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(data)
        with pytest.raises(AssertionError):
            assert_clean(tmp_path / name)


def test_nothing_is_left_in_the_state_directory(wm: Any, answer: Any) -> None:
    assert assert_clean(wm.home) > 50
    assert list(wm.user_home.iterdir()) == []


def test_nothing_is_left_in_any_git_object(wm: Any, repo: Any, answer: Any) -> None:
    store = next((wm.folder(answer.json["workflow_id"])).rglob("store.git"))
    for git in (store, repo.path / ".git"):
        listed = ["git", "-C", git, "cat-file", "--batch-all-objects", "--batch"]
        done = subprocess.run(listed, capture_output=True, check=True, env={**os.environ, "GIT_CONFIG_COUNT": "0"})
        assert done.stdout
        assert MASKER.found(done.stdout) == frozenset(), git
        assert_clean(git)
    assert_clean(repo.path)


def test_nothing_is_left_with_the_server(prefect_server: Any, answer: Any) -> None:
    run = answer.json["flow_run_id"]
    prefect_server.tasks(run, count=len(answer.json["tasks"]))
    told = [
        prefect_server.get(f"/flow_runs/{run}"),
        prefect_server.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}}),
        prefect_server.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}}),
        prefect_server.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}}),
        prefect_server.post("/block_documents/filter", {}),
    ]
    assert MASKER.found(json.dumps(told).encode()) == frozenset()
    # Blocks are encrypted in the database; its write-ahead log lies beside it.
    assert {path.name for path in files_below(prefect_server.home)} >= {"prefect.db"}
    assert_clean(prefect_server.home)


def test_nothing_is_left_with_the_engine(answer: Any) -> None:
    listed = subprocess.run(["docker", "ps", "-aq", "--no-trunc"], capture_output=True, check=True, text=True).stdout
    assert answer.json["workflow_id"] not in listed
    for container in listed.split():
        known = subprocess.run(["docker", "inspect", container], capture_output=True, check=False)
        assert MASKER.found(known.stdout) == frozenset()
    the_engines_disk_is_clean()


def the_engines_disk_is_clean() -> None:
    place = subprocess.run(["docker", "info", "-f", "{{.DockerRootDir}}"], capture_output=True, check=True, text=True)
    for folder in ("containers", "volumes"):
        top = Path(place.stdout.strip()) / folder
        if os.access(top, os.R_OK):
            assert_clean(top)


def test_nothing_is_left_in_temporary_folders(wm: Any, answer: Any) -> None:
    """What other tests do at the same time lies in folders of pytest's own."""
    since = (wm.folder(answer.json["workflow_id"]) / "plan.json").stat().st_mtime
    places = [path for path in Path(tempfile.gettempdir()).iterdir() if not path.name.startswith("pytest-")]
    for path in (path for place in places for path in (place, *files_below(place))):
        try:
            if path.is_file() and path.stat().st_mtime >= since and path.stat().st_size < 1 << 26:
                assert MASKER.found(path.read_bytes()) == frozenset(), path
        except (FileNotFoundError, PermissionError):
            continue


def test_nothing_is_in_what_was_printed(wm: Any, answer: Any) -> None:
    said = [
        answer.text,
        *(wm(*words.split()).text for words in ("logs", "report --format md", "audit show --json", "list --json")),
    ]
    assert MASKER.found("\n".join(said).encode()) == frozenset()


def test_names_are_part_of_the_plan_and_values_of_nothing(wm: Any, answer: Any) -> None:
    plan = json.loads((wm.folder(answer.json["workflow_id"]) / "plan.json").read_text())
    step = next(task for task in plan["tasks"] if task["id"] == "prints")
    assert step["secrets"] == ["TOKEN", "KEY", "ODD"]
    assert step["secret_env"] == {"GH_TOKEN": "TOKEN"}


# --- a run that is killed ---

KILLED = """\
# Killed

## Steps

### waits
- secrets: [TOKEN]
```bash
cat /run/secrets/TOKEN; echo
sleep 3
cat /run/secrets/TOKEN | base64
```
"""


def test_a_killed_run_leaves_nothing_either_and_its_resume_asks_again(
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> None:
    user = command_line(PREFECT_API_URL=prefect_server.url)
    given = {"WORKFLOWMASTER_SECRET_TOKEN": TOKEN.decode()}
    running = user.start("run", prompt_file(KILLED), "--workspace", repository().path, "--json", "-q", **given)
    wait_until(lambda: any(b"***" in log.read_bytes() for log in user.home.glob("workflows/*/logs/*")), 60.0)
    running.interrupt(signal.SIGKILL)
    assert running.ended().code == -signal.SIGKILL
    assert_clean(user.home)
    the_engines_disk_is_clean()
    (folder,) = (user.home / "workflows").iterdir()
    refused = user("resume", folder.name, "--json", "-q")
    assert (refused.code, "set WORKFLOWMASTER_SECRET_TOKEN" in refused.text) == (2, True)
    said = user("resume", folder.name, "--json", "-q", **given)
    assert said.code == 0, said.text
    assert_clean(user.home)


# --- secrets that cannot be had ---

ONE = "# One\n\n## Steps\n\n### only\n- secrets: [{name}]\n```bash\ntrue\n```\n"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            None,
            [
                "secret 'ABSENT' of step only is nowhere",
                "set WORKFLOWMASTER_SECRET_ABSENT",
                "no Secret block is 'absent'",
                "save a Prefect Secret block 'absent'",
            ],
        ),
        ("12345", ["is too short to be masked"]),
        ("x" * 50_000, ["has 50,000 bytes, and a secret may have 49,152"]),
    ],
    ids=["nowhere", "too short", "too large"],
)
def test_one_clear_error_and_nothing_half_done(
    wm: Any, repo: Any, prompt_file: Callable[..., Path], value: str | None, words: list[str]
) -> None:
    before, runs = repo.refs(), set((wm.home / "workflows").iterdir())
    given = {} if value is None else {"WORKFLOWMASTER_SECRET_ABSENT": value}
    said = wm.run(prompt_file(ONE.replace("{name}", "ABSENT"), "one.md"), repo.path, **given)
    assert said.code == 2, said.text
    assert [word for word in [*words, "one.md:5"] if word not in said.text] == []
    assert value is None or value not in said.text
    assert "Traceback" not in said.text
    assert repo.refs() == before
    assert set((wm.home / "workflows").iterdir()) == runs


@pytest.mark.long
def test_a_run_without_a_server_reads_blocks_of_its_own(bare: Any, repo: Any, prompt_file: Callable[..., Path]) -> None:
    """The temporary server is waited for; it has no such block, and that is said as always."""
    said = bare.run(prompt_file(ONE.replace("{name}", "ABSENT"), "one.md"), repo.path)
    assert (said.code, "no Secret block is 'absent'" in said.text) == (2, True), said.text
