"""Files damaged while nobody runs: what each command says of them, and that a resume never ends in a wrong tree.

One run is made that has three steps done and one to do. Before each case it is put back as it was; one of its files is
damaged; then people look at it, and somebody resumes it. What must hold is the same for every file and every damage:
one clear error or a true repair, no traceback, and never a branch that an undisturbed run would not have made.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflowmaster.flows import cli

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
# Three done and one to do

## Steps

### one
```bash
echo ran; echo one > one.txt; echo "value=1" >> "$WM_OUTPUT"
```

### two
- needs: one
```bash
echo ran; echo two > two.txt
```

### three
- needs: one
- checkpoint: true
```bash
echo ran; echo three > three.txt
```

### four
- needs: two, three
```bash
echo ran; [ "$WM_ATTEMPT" != 1 ]; cat one.txt two.txt three.txt > four.txt
```
"""
FILES = {"one.txt": "one", "two.txt": "two", "three.txt": "three", "four.txt": "one\ntwo\nthree", "a.txt": "a"}
"""What the branch holds in the end, whatever happened."""

CODES = {0, 1, 2, 3, 4, 5, 7}
"""Exit codes that a command may end with; a traceback has none of its own."""


@dataclass
class Halfway:
    """A run that has stopped halfway, and how to put everything of it back as it was."""

    line: Any
    repo: Any
    id: str
    saved: Path

    @property
    def folder(self) -> Path:
        return self.line.folder(self.id)

    def restore(self) -> None:
        for place in (self.line.home, self.repo.path):
            shutil.rmtree(place)
        subprocess.run(["tar", "-xpf", self.saved, "-C", "/"], check=True)

    def file(self, what: str) -> Path:
        """Return the file that a name of `DAMAGEABLE` stands for."""
        if what == "result":
            return self.results()["two"]
        return {
            "audit": self.folder / "audit.jsonl",
            "journal": self.folder / "records.jsonl",
            "state": self.folder / "state.json",
            "record": self.folder / "run.json",
            "plan": self.folder / "plan.json",
            "prompt": self.folder / "prompt.md",
        }[what]

    def results(self) -> dict[str, Path]:
        """Step → file that Prefect persisted its result in."""
        state = json.loads((self.folder / "state.json").read_text())
        keys = {step: result["key"] for step, result in state["results"].items()}
        return {step: self.line.home / "results" / key for step, key in keys.items()}

    def ran(self) -> dict[str, int]:
        """Step → how often its command ran: each attempt that came to it said so in a log of its own."""
        logs = [path for path in (self.folder / "logs").iterdir() if path.read_text().startswith("ran\n")]
        names = [path.name.split(".")[0] for path in logs]
        return {name: names.count(name) for name in sorted(set(names))}


@pytest.fixture(scope="module")
def half(
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Halfway:
    line, repo = command_line(PREFECT_API_URL=prefect_server.url), repository({"a.txt": "a"})
    said = line.run(prompt_file(PROMPT), repo.path)
    assert said.code == 1, said.text
    saved = tmp_path_factory.mktemp("saved") / "all.tar"
    with tarfile.open(saved, "w") as archive:
        archive.add(line.home)
        archive.add(repo.path)
    return Halfway(line, repo, said.json["workflow_id"], saved)


@pytest.fixture
def halfway(half: Halfway, monkeypatch: pytest.MonkeyPatch) -> Halfway:
    """The run as it stopped, for commands of this process too."""
    half.restore()
    monkeypatch.setenv("WORKFLOWMASTER_HOME", str(half.line.home))
    monkeypatch.setenv("HOME", str(half.line.user_home))
    return half


DAMAGEABLE = ("result", "audit", "journal", "state", "record", "plan")
DAMAGES = ("truncated", "flipped", "emptied", "deleted")


def damage(path: Path, how: str, where: float = 0.5, bit: int = 0) -> bytes | None:
    """Damage a file; `where` is the place as a share of it. Returns what it holds now, None for nothing."""
    body = bytearray(path.read_bytes())
    at = min(int(where * len(body)), len(body) - 1)
    if how == "deleted":
        path.unlink()
        return None
    if how == "flipped":
        body[at] ^= 1 << bit
    path.write_bytes(bytes(body) if how == "flipped" else bytes(body[:at]) if how == "truncated" else b"")
    return path.read_bytes()


def asked(*words: str) -> tuple[int, str, str]:
    """Run a command that needs no Prefect in this process: exit code, stdout, stderr. Its traceback is the test's."""
    out, err = TextIOWrapper(BytesIO(), "utf-8"), TextIOWrapper(BytesIO(), "utf-8")
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = cli.main(words)
        except SystemExit as error:
            code = int(error.code or 0)
    for stream in (out, err):
        stream.flush()
    return code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


def looks(identity: str) -> list[tuple[str, ...]]:
    """Commands that only look."""
    return [
        ("list", "--json"),
        ("list",),
        ("report", identity, "--output", "-"),
        ("stats", "--json"),
        ("logs", identity),
        ("audit", "verify", identity),
        ("orphans", "--json"),
        ("state", "show", identity, "--json"),
        ("state", "validate", identity, "--json"),
        ("why", identity),
    ]


def examined(half: Halfway, what: str, how: str, place: float, bit: int) -> None:
    """Damage one file, look at the run in every way, and hold that nobody stumbles and nothing is changed by it."""
    path = half.file(what)
    whole = path.read_bytes()
    left = damage(path, how, place, bit)
    try:
        for words in looks(half.id):
            code, _, err = asked(*words)
            assert code in CODES, (words, code, err)
            assert code == 0 or err.strip(), f"{words} failed without a word"
            assert "Traceback" not in err
        assert (path.read_bytes() if path.exists() else None) == left, "looking has changed it"
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("what", DAMAGEABLE)
def test_looking_at_a_damaged_run_is_answered_and_changes_nothing(halfway: Halfway, what: str) -> None:
    for how in DAMAGES:
        examined(halfway, what, how, 0.5, 0)

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(how=st.sampled_from(["flipped", "truncated"]), place=st.floats(0, 1), bit=st.integers(0, 7))
    def anywhere(how: str, place: float, bit: int) -> None:
        examined(halfway, what, how, place, bit)

    if os.environ.get("HYPOTHESIS_PROFILE") == "full":
        anywhere()


SHORT = {
    ("result", "flipped"),
    ("result", "deleted"),
    ("audit", "truncated"),
    ("journal", "flipped"),
    ("state", "emptied"),
    ("record", "truncated"),
    ("plan", "flipped"),
}
"""Pairs of file and damage whose resume is part of the short form."""


@pytest.mark.parametrize(
    ("what", "how"),
    [
        pytest.param(what, how, marks=[] if (what, how) in SHORT else [pytest.mark.long])
        for what in DAMAGEABLE
        for how in DAMAGES
    ],
)
def test_a_resume_repairs_or_refuses_and_never_ends_wrong(halfway: Halfway, what: str, how: str) -> None:
    path = halfway.file(what)
    left = damage(path, how, random.Random(f"{what} {how}").random())
    said = halfway.line("resume", halfway.id, "--json", "-q")
    assert "Traceback" not in said.text, said.text
    assert said.code in CODES, said.text
    if said.code == 0:
        assert halfway.repo.files(said.json["commit"]) == FILES
    else:
        assert "error: " in said.err, said.err
        assert (path.read_bytes() if path.exists() else None) == left, "refused, and yet overwritten"
    if what == "result":
        assert said.code == 0, said.text
        assert halfway.ran() == {"one": 1, "two": 2, "three": 1, "four": 2}, "only the lost step runs again"


@pytest.mark.long
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_database_is_named_or_replaced(
    how: str,
    command_line: Callable[..., Any],
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
) -> None:
    line, repo = command_line(), repository({"a.txt": "a"})
    first = line.run(prompt_file(PROMPT), repo.path)
    assert first.code == 1, first.text
    for rest in (line.home / "prefect").glob("prefect.db-*"):
        rest.unlink()  # what is in the log would repair the file
    damage(line.home / "prefect/prefect.db", how, 0.0)
    said = line("resume", first.json["workflow_id"], "--json", "-q")
    assert "Traceback" not in said.text, said.text
    if said.code == 0:
        assert repo.files(said.json["commit"]) == FILES
    else:
        assert said.code == 4, said.text
        assert "prefect" in said.err
    assert line("list", "--json").code == 0
