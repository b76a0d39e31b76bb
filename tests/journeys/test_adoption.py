"""The command line is killed while a step works, and a resume goes on with it as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

HEAD = "# Left alone\n\n## Steps\n\n### one\n```bash\necho made >one.txt\n```\n"

LAST = "\n### last\n- needs: work\n```bash\ncat one.txt made.txt\n```\n"


def prompt(script: str, *bullets: str, check: str = "", last: str = LAST) -> str:
    """A prompt whose step `work` runs a script, after a step before it and before one behind it."""
    lines = "".join(f"- {bullet}\n" for bullet in ("needs: one", *bullets))
    judged = f"\n```bash check\n{check}\n```\n" if check else ""
    return f"{HEAD}\n### work\n{lines}```bash\n{script}\n```\n{judged}{last}"


HELD = "until [ -e /out/go ]; do sleep 0.05; done"
"""A step that goes on when the test says so, by a file."""

WORK = "echo 1\necho 2\necho made >made.txt\necho out=5 >>$WM_OUTPUT"

SLOW = f"echo begin\n{HELD}\n{WORK}"

DONE = "begin\n1\n2\n"


class Line:
    """A command line whose runs are killed."""

    def __init__(self, wm: Any, repo: Path, wait_until: Callable[..., Any]) -> None:
        self.wm, self.repo, self.wait_until = wm, repo, wait_until

    def killed(self, path: Path, *, said: str = "begin\n", log: str = "work.1.log") -> Path:
        """Run until a log has a text, kill the run, and return the workflow's folder."""
        known = set((self.wm.home / "workflows").glob("*"))
        running = self.wm.start("run", path, "--workspace", self.repo, "--json", "-q")
        return self._kill(running, lambda: set((self.wm.home / "workflows").glob("*")) - known, said, log)

    def _kill(self, running: Any, folders: Callable[[], set[Path]], said: str, log: str) -> Path:
        def there() -> list[Path]:
            assert running.process.poll() is None, running.ended().text
            return [one for one in folders() if (one / "logs" / log).exists() and said in text(one / "logs" / log)]

        (folder,) = self.wait_until(there, 90.0)
        running.process.kill()
        running.process.communicate()
        found: Path = folder
        return found

    def resumed(self, folder: Path, way: str = "adopted", *, code: int = 0) -> Any:
        """Resume, and let the step go on once it is adopted; or let it end before, so that it is harvested."""
        if way == "harvested":
            self.let_go(folder)
            until_it_ended(folder, self.wait_until)
        before = len(events(folder, "container.adopted"))
        running = self.wm.start("resume", folder.name, "--json", "-q")
        if way == "adopted":
            over = running.process.poll
            self.wait_until(lambda: over() is not None or len(events(folder, "container.adopted")) > before, 60.0)
            self.let_go(folder)
        answer = running.ended()
        assert answer.code == code, answer.text
        return answer.json

    @staticmethod
    def let_go(folder: Path) -> None:
        for place in (folder / "exchange").glob("*-work-*/out"):
            (place / "go").touch()


def text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def events(folder: Path, kind: str = "container.") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"].startswith(kind)]


def sent_off(folder: Path, step: str = "work") -> int:
    """How often a container of the step got its go."""
    return len([one for one in events(folder, "container.started") if one["step"] == step])


def result(folder: Path, step: str = "work") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "state.json").read_text())["results"][step]
    return found


def receipt(folder: Path, step: str = "work") -> dict[str, Any]:
    found: dict[str, Any] = result(folder, step)["receipts"][-1]
    return found


def until_it_ended(folder: Path, wait_until: Callable[..., Any]) -> None:
    """Wait until no container of a workflow runs."""
    words = ["docker", "ps", "-q", "--filter", f"label=workflowmaster.workflow={folder.name}"]
    wait_until(lambda: not subprocess.run(words, capture_output=True, text=True, check=True).stdout, 60.0)


@pytest.fixture
def line(
    wm: Any, repository: Callable[..., Any], wait_until: Callable[..., Any], containers: Callable[..., list[str]]
) -> Iterator[Line]:
    """What a killed command line and its successor do; nothing of them may be left."""
    made = Line(wm, repository().path, wait_until)
    yield made
    for folder in (wm.home / "workflows").iterdir():
        assert containers(folder.name) == []
        assert not (folder / "trees").exists()


# --- what works on is adopted, what has ended is harvested ---


@pytest.mark.parametrize("way", ["adopted", "harvested"])
def test_a_step_goes_on_as_if_its_owner_had_not_been_killed(
    way: str, line: Line, prompt_file: Callable[..., Path]
) -> None:
    plain = prompt_file(prompt(SLOW.replace(HELD, "sleep 1")))
    expected = line.wm.folder(line.wm.run(plain, line.repo).json["workflow_id"])
    folder = line.killed(prompt_file(prompt(SLOW)))
    said = line.resumed(folder, way)
    assert sent_off(folder) == 1
    (told,) = [one for one in events(folder) if one["event"] in ("container.adopted", "container.harvested")]
    assert told["event"] == f"container.{way}"
    assert text(folder / "logs/work.1.log") == text(expected / "logs/work.1.log") == DONE
    assert [path.name for path in (folder / "logs").glob("work.*")] == ["work.1.log"]
    ours, theirs = result(folder), result(expected)
    same = ("commit", "attempts", "exit_code", "outputs", "findings")
    assert [ours[name] for name in same] == [theirs[name] for name in same]
    got = receipt(folder)
    assert (got["adopted"], receipt(expected)["adopted"]) == (True, False)
    assert 0 < got["unwatched_seconds"] <= got["seconds"] < 60
    same = ("enforced", "told", "absent", "command", "image", "policy_hash", "user", "bytes_out")
    assert [got[name] for name in same] == [receipt(expected)[name] for name in same]
    assert {task["status"] for task in said["tasks"]} == {"completed"}
    assert text(folder / "logs/last.1.log") == "made\nmade\n"


def test_a_step_is_killed_for_twice_and_still_runs_once(line: Line, prompt_file: Callable[..., Path]) -> None:
    folder = line.killed(prompt_file(prompt(SLOW)))
    resuming = line.wm.start("resume", folder.name, "--json", "-q")
    line.wait_until(lambda: events(folder, "container.adopted"), 60.0)
    resuming.process.kill()
    resuming.process.communicate()
    line.resumed(folder)
    assert (sent_off(folder), len(events(folder, "container.adopted"))) == (1, 2)
    assert text(folder / "logs/work.1.log") == DONE
    assert receipt(folder)["adopted"]


# --- ends of every kind ---

ENDS = {
    "fails": ("exit 3", (3, None, False), "exit 3"),
    "crashes": ("kill -SEGV $$", (139, 11, False), "it was killed by SIGSEGV (exit 139)"),
    "out of memory": ("tail /dev/zero", (137, 9, True), "it ran out of memory"),
}
"""What a step ends by → (exit code, signal, out of memory), and the reason in words. Not by SIGKILL or SIGTERM: whether
it was the step's own doing then, nobody can tell who has not watched."""


@pytest.mark.parametrize(
    ("end", "way"),
    [
        ("fails", "adopted"),
        ("out of memory", "harvested"),
        *[
            pytest.param(end, way, marks=pytest.mark.long)
            for end, way in itertools.product(ENDS, ("adopted", "harvested"))
            if (end, way) not in (("fails", "adopted"), ("out of memory", "harvested"))
        ],
    ],
    ids=lambda name: name.replace(" ", "-"),
)
def test_an_end_is_judged_as_if_it_had_been_watched(
    end: str, way: str, line: Line, prompt_file: Callable[..., Path]
) -> None:
    script, expected, reason = ENDS[end]
    once = ("resources: {memory: 64m}", "retries: 0")
    folder = line.killed(prompt_file(prompt(f"echo begin; {HELD}; {script}", *once)))
    said = line.resumed(folder, way, code=1)
    got = receipt(folder)
    assert (got["exit_code"], got["signal"], got["oom_killed"]) == expected
    assert (got["adopted"], got["timed_out"]) == (True, False)
    assert reason in next(task for task in said["tasks"] if task["id"] == "work")["reason"]
    assert (sent_off(folder), result(folder)["attempts"]) == (1, 1)


@pytest.mark.parametrize("way", ["adopted", pytest.param("harvested", marks=pytest.mark.long)])
def test_a_step_has_what_is_left_of_its_wall_time(way: str, line: Line, prompt_file: Callable[..., Path]) -> None:
    # The harvested one ends by itself, long after somebody would have stopped it.
    script = "exec sleep 60" if way == "adopted" else f"sleep 8; {HELD}"
    folder = line.killed(prompt_file(prompt(f"echo begin; {script}", "timeout: 6s", "retries: 0")))
    said = line.resumed(folder, way, code=1)
    got = receipt(folder)
    assert (got["timed_out"], got["adopted"], sent_off(folder)) == (True, True, 1)
    assert 5.9 <= got["seconds"] < 25
    log = text(folder / "logs/work.1.log")
    assert log.startswith("begin\n")
    assert log.endswith("[workflowmaster: stopped after 6 s, the step's wall time]\n")
    assert "it ran longer than 6 s" in next(task for task in said["tasks"] if task["id"] == "work")["reason"]


# --- checks, attempts, outputs ---


@pytest.mark.parametrize("way", [pytest.param("adopted", marks=pytest.mark.long), "harvested"])
def test_a_check_goes_on_and_the_work_before_it_is_not_done_again(
    way: str, line: Line, prompt_file: Callable[..., Path]
) -> None:
    check = f"echo checking\n{HELD}\ntest -f made.txt\necho checked"
    folder = line.killed(prompt_file(prompt(f"echo begin\n{WORK}", check=check)), said="checking\n")
    line.resumed(folder, way)
    assert text(folder / "logs/work.1.log") == f"{DONE}checking\nchecked\n"
    receipts = result(folder)["receipts"]
    assert [(one["purpose"], one["adopted"]) for one in receipts] == [("work", False), ("check", True)]
    assert result(folder)["outputs"] == {"out": "5"}
    assert sent_off(folder) == 2


def test_the_check_of_an_adopted_step_runs_after_it(line: Line, prompt_file: Callable[..., Path]) -> None:
    folder = line.killed(prompt_file(prompt(SLOW, check="echo checking; test -f made.txt")))
    line.resumed(folder)
    receipts = result(folder)["receipts"]
    assert [(one["purpose"], one["adopted"]) for one in receipts] == [("work", True), ("check", False)]
    assert text(folder / "logs/work.1.log") == f"{DONE}checking\n"


@pytest.mark.long
def test_a_second_attempt_is_adopted_as_the_second(line: Line, prompt_file: Callable[..., Path]) -> None:
    script = f"echo begin $WM_ATTEMPT; test $WM_ATTEMPT = 2; {HELD}; echo made >made.txt"
    retried = prompt(script, "retries: {max: 2, wait: 0.1s}")
    folder = line.killed(prompt_file(retried), said="begin 2\n", log="work.2.log")
    said = line.resumed(folder)
    assert next(task for task in said["tasks"] if task["id"] == "work")["attempts"] == 2
    receipts = result(folder)["receipts"]
    assert [(one["exit_code"], one["adopted"]) for one in receipts] == [(1, False), (0, True)]
    assert sent_off(folder) == 2


ODD = """\
import sys, random
o = sys.stdout.buffer
o.write(b"no \\0 text \\377\\376\\r\\n\\n\\n" + random.Random(5).randbytes(20_000_000))
o.write(b"x" * 16384 + b"\\n" + b"y" * 40000 + b"\\n\\n\\x1e" + b"0" * 32 + b"\\x1e000")
"""


@pytest.mark.long
def test_large_and_odd_output_comes_back_byte_for_byte(line: Line, prompt_file: Callable[..., Path]) -> None:
    large = f"echo begin\npython3 - <<'END'\n{ODD}END\n{HELD}\nprintf end; echo made >made.txt"
    bullets = ("policy: development", "reason: it prints a lot", "network: {}")
    plain = prompt_file(prompt(large.replace(HELD, "true"), *bullets))
    expected = line.wm.folder(line.wm.run(plain, line.repo).json["workflow_id"])
    folder = line.killed(prompt_file(prompt(large, *bullets)))
    line.resumed(folder)
    theirs, ours = expected / "logs/work.1.log", folder / "logs/work.1.log"
    assert ours.read_bytes() == theirs.read_bytes()
    assert ours.stat().st_size > 20_000_000
    assert (sent_off(folder), receipt(folder)["adopted"]) == (1, True)
    assert receipt(folder)["bytes_out"] == receipt(expected)["bytes_out"]


# --- what cannot be adopted starts clean ---

ONCE = SLOW.replace(HELD, "test $WM_ATTEMPT = 2 || sleep 60")
"""Work whose second attempt waits for nobody."""


def test_a_step_whose_container_is_gone_starts_clean_and_says_why(line: Line, prompt_file: Callable[..., Path]) -> None:
    folder = line.killed(prompt_file(prompt(ONCE)))
    subprocess.run(["docker", "rm", "-f", last_sent_off(folder)], check=True, capture_output=True)
    line.resumed(folder, "anew")
    (told,) = events(folder, "container.abandoned")
    assert (told["step"], told["reason"]) == ("work", "its container is gone")
    assert (result(folder)["attempts"], receipt(folder)["adopted"], sent_off(folder)) == (2, False, 2)
    assert text(folder / "logs/work.2.log") == DONE


def last_sent_off(folder: Path) -> str:
    """The container of the last record of a go."""
    found = re.findall(r'"container":"([0-9a-f]{64})".*"kind":"go"', (folder / "records.jsonl").read_text())
    return str(found[-1])


@pytest.mark.long
def test_a_container_with_secrets_starts_clean(line: Line, prompt_file: Callable[..., Path]) -> None:
    secret = prompt(ONCE, "secrets: [token]")
    line.wm.env["WORKFLOWMASTER_SECRET_TOKEN"] = "s3cr3t-value-of-a-test"
    folder = line.killed(prompt_file(secret))
    line.resumed(folder, "anew")
    (told,) = events(folder, "container.abandoned")
    assert told["reason"].startswith("it was given secrets")
    assert (result(folder)["attempts"], receipt(folder)["adopted"]) == (2, False)


def test_parked_containers_of_a_dead_owner_are_removed_and_other_runs_spare_what_works(
    line: Line, prompt_file: Callable[..., Path], containers: Callable[..., list[str]]
) -> None:
    folder = line.killed(prompt_file(prompt(SLOW)))
    cleaned = line.wm("clean", "--json").json
    name = f"{folder.name}-work-1"
    assert [one for one in cleaned["kept"] if one.startswith(folder.name)] == containers(folder.name) == [name]
    assert name in line.wm("clean").err
    other = line.wm.run(prompt_file(HEAD), line.repo)
    assert other.code == 0, other.text
    assert containers(folder.name) == [name]
    line.resumed(folder)
    assert sent_off(folder) == 1


@pytest.mark.long
def test_adopting_takes_less_than_a_second(line: Line, prompt_file: Callable[..., Path]) -> None:
    folder = line.killed(prompt_file(prompt(SLOW)))
    line.resumed(folder)
    started = max(one["ts"] for one in events(folder, "workflow.started"))
    (told,) = events(folder, "container.adopted")
    assert 0 < told["ts"] - started < 1.0
