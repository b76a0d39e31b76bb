"""From journals to a say in decisions: learned only from enough, used only where better, refused when damaged."""

from __future__ import annotations

import json
import random
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from workflowmaster.flows import cli, failurehistory, learned, learning, sharing
from workflowmaster.flows.fingerprints import fingerprint
from workflowmaster.flows.learned import Context
from workflowmaster.flows.plan import Failure, canonical
from workflowmaster.flows.settings import load

DAY = 86_400.0
START = time.time() - 100 * DAY
KINDS = [
    ("network", "rule:dns", "curl: (6) Could not resolve host: a.example", 0.9),
    ("network", "rule:connection", "connection reset by peer while fetching the index", 0.6),
    ("test_failure", "rule:tests", "FAILED tests/test_parser.py::test_nested - AssertionError", 0.05),
    ("unknown", "", "worker lost its heartbeat", 0.9),
    ("unknown", "", "schema drift in column total", 0.05),
]
"""Class, what named it, what was printed, and how often a retry helps."""


def line(kind: str, at: float, **fields: Any) -> bytes:
    body = canonical({"kind": kind, "at": at, **fields})
    return b"%08x %s\n" % (zlib.crc32(body), body)


def run(home: Path, number: int, cls: str, source: str, text: str, *, helped: bool) -> None:
    """Leave behind what a run leaves whose one step failed and was tried once more."""
    folder = failurehistory.folder_of(f"task-{number:04}", home)
    folder.path.mkdir(parents=True)
    at = START + number * DAY / 4
    failure = {"cls": cls, "fingerprint": fingerprint(cls, [text], 1), "lines": [text], "source": source}  # type: ignore[arg-type]
    about = {"step": "s", "key": "k", "reason": "r: s", "rule": "r", "failure": failure}
    last = (
        line("result", at + 90, step="s", result={"key": "k", "status": "completed", "attempts": 2, "seconds": 60.0})
        if helped
        else line("decision", at + 90, verb="continue", attempt=2, factors={"attempt": 2}, **about)
    )
    first = line("decision", at, verb="retry", attempt=1, factors={"attempt": 1}, **about)
    folder.journal.write_bytes(first + line("go", at + 30, step="s", attempt=2, key="k") + last)


def history(home: Path, count: int, start: int = 0) -> None:
    rng = random.Random(start + 1)
    for number in range(start, start + count):
        cls, source, text, rate = rng.choice(KINDS)
        run(home, number, cls, source, text, helped=rng.random() < rate)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with a history that was learned from."""
    home = tmp_path_factory.mktemp("taught")
    history(home, 160)
    assert learning.learn(home).made
    return home


@pytest.fixture
def home(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may break."""
    import shutil

    copied = tmp_path / "home"
    shutil.copytree(taught, copied)
    monkeypatch.setenv("WORKFLOWMASTER_HOME", str(copied))
    return copied


def failure(text: str, cls: str = "unknown") -> Failure:
    return Failure.model_validate({"cls": cls, "fingerprint": fingerprint(cls, [text], 1), "lines": (text,)})  # type: ignore[arg-type]


def test_a_retry_that_mostly_helps_is_told_from_one_that_never_does(home):
    good = learned.chance(load(), failure(KINDS[3][2]), Context())
    bad = learned.chance(load(), failure(KINDS[4][2]), Context())
    assert good
    assert bad
    assert good.probability > 0.7
    assert bad.probability < 0.3
    assert good.source == "fingerprint and text"
    assert good.cases >= 10


def test_a_failure_without_a_text_has_no_chance(home):
    nothing = Failure(cls="unknown", fingerprint=fingerprint("unknown", [KINDS[3][2]], 1))
    assert learned.chance(load(), nothing, Context()) is None


def test_the_model_names_what_rules_have_named(home):
    model = learned.model(load())
    assert model
    assert model.version == "1"
    cls, sure = model.classify(["fetch: connection reset by peer"]) or ("", 0.0)
    assert cls == "network"
    assert sure >= learning.SURE
    assert model.classify(["Zahnarzttermin verschoben"]) is None


def test_with_learning_off_nothing_is_consulted(home, monkeypatch):
    monkeypatch.setenv("WORKFLOWMASTER_LEARNING_ENABLED", "false")
    assert learned.model(load()) is None
    assert learned.chance(load(), failure(KINDS[3][2]), Context()) is None
    assert cli.main(["failures", "learn"]) == 2


def test_before_anything_was_learned_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKFLOWMASTER_HOME", str(tmp_path))
    assert learned.model(load()) is None
    assert learned.chance(load(), failure(KINDS[3][2]), Context()) is None
    assert learned.bundle() == learned.Bundle()


def test_too_short_a_history_is_not_learned_from(tmp_path):
    history(tmp_path, 6)
    report = learning.learn(tmp_path, force=True)
    assert not report.made
    assert report.version == 0
    assert "needed" in report.told["classes"]


def test_it_is_trained_again_only_when_there_is_enough_new(home):
    history(home, 5, start=160)
    report = learning.learn(home)
    assert not report.made
    assert "new cases" in report.told["all"]
    assert report.version == 1


def test_a_version_that_is_not_better_changes_nothing(home):
    before = (home / "learning" / "models" / "current.json").read_bytes()
    report = learning.learn(home, force=True)
    assert not report.made
    assert "not better, so nothing changes" in report.told["classes"]
    assert (home / "learning" / "models" / "current.json").read_bytes() == before


def test_when_the_world_has_changed_a_new_version_is_better(home):
    """What used to help never does any more: the version in use is wrong about every later case."""
    for number in range(200, 280):
        cls, source, text, rate = KINDS[number % 5]
        run(home, number, cls, source, text, helped=rate < 0.5)
    report = learning.learn(home)
    assert report.made
    assert report.version == 2
    assert learned.bundle(home).version == 2
    assert (home / "learning" / "models" / "2" / "classes.json").exists()


def test_an_earlier_version_can_be_used_again(home):
    (home / "learning" / "models" / "2").mkdir()
    learning.use(home, 1)
    assert learned.bundle(home).version == 1
    with pytest.raises(ValueError, match="3 is missing"):
        learning.use(home, 3)


def broken(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: broken(m / "1" / "classes.json"), "classes.json does not match its own SHA-256"),
        (lambda m: broken(m / "1" / "chances.json"), "chances.json does not match its own SHA-256"),
        (lambda m: (m / "current.json").write_text("{"), "current.json is damaged"),
        (lambda m: (m / "current.json").write_text('{"version": 9}'), "9 is missing"),
        (lambda m: (m / "current.json").write_text('{"version": "../1"}'), "which is none"),
    ],
)
def test_what_is_damaged_has_no_say_and_is_named(home, damage, message, caplog):
    damage(home / "learning" / "models")
    # The file was replaced at once, as a clock sees it: another version has another name for certain.
    learned._read.cache_clear()
    assert learned.model(load()) is None
    assert learned.chance(load(), failure(KINDS[3][2]), Context()) is None
    assert message in learned.bundle().trouble
    assert message in caplog.text


def test_what_others_have_seen_is_learned_from(home):
    strange = fingerprint("unknown", ["a strange failure"], 1)
    ask = Failure(cls="unknown", fingerprint=strange, lines=("a strange failure",))
    before = learned.chance(load(), ask, Context())
    shared = {
        "fingerprint": strange,
        "class": "unknown",
        "seen": 50,
        "tried": 50,
        "succeeded": 50,
        "last": "2023-12-20",
    }
    head = {"kind": "workflowmaster failures", "schema_version": 1, "source": "0" * 16}
    data = "".join(json.dumps(row) + "\n" for row in (head, shared)).encode()
    sharing.take_in(data, "x", name="c", home=home)
    # Nothing in use to beat: what others gave is no reason to be better on one's own later cases.
    (home / "learning" / "models" / "current.json").unlink()
    assert learning.learn(home, force=True).made
    after = learned.chance(load(), ask, Context())
    assert before
    assert after
    assert after.probability > before.probability
    assert after.source.startswith("class")


# --- commands ---


def test_the_list_says_what_failed_and_whether_learning_has_a_say(home, capsys):
    assert cli.main(["failures", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["learning"]["version"] == 1
    assert found["learning"]["retries"]["used"] is True
    assert sum(one["seen"] for one in found["fingerprints"]) == found["cases"]
    assert {one["class"] for one in found["fingerprints"]} == {"network", "test_failure", "unknown"}
    assert cli.main(["failures", "list"]) == 0
    shown = capsys.readouterr()
    assert "FAILED <path>::test_nested - AssertionError" in shown.out
    assert "has a say" in shown.err


def test_exporting_importing_and_forgetting(home, tmp_path, monkeypatch, capsys):
    file = tmp_path / "ours.jsonl"
    assert cli.main(["failures", "export", "-o", str(file)]) == 0
    monkeypatch.setenv("WORKFLOWMASTER_HOME", str(tmp_path / "elsewhere"))
    assert cli.main(["failures", "import", str(file), "--as", "team"]) == 0
    assert "5 fingerprints of team: taken in" in capsys.readouterr().err
    assert cli.main(["failures", "import", str(file), "--as", "team"]) == 0
    assert "nothing new" in capsys.readouterr().err
    assert cli.main(["failures", "forget", "team"]) == 0
    assert cli.main(["failures", "forget", "team"]) == 2
    assert cli.main(["failures", "import", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_learning_says_what_it_found(home, capsys):
    assert cli.main(["failures", "learn", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] is False
    assert cli.main(["failures", "learn", "--use", "1"]) == 0
    assert cli.main(["failures", "learn", "--use", "7"]) == 2


def test_asking_imports_nothing_that_trains(home):
    import subprocess

    script = (
        "import sys\nfrom workflowmaster.flows import learned, settings\n"
        "from workflowmaster.flows.plan import Failure\ns = settings.load()\n"
        f"print(learned.model(s).classify([{KINDS[0][2]!r}])[0])\n"
        f"learned.chance(s, Failure(cls='unknown', fingerprint='ab' * 8, lines=({KINDS[3][2]!r},)), learned.Context())\n"
        "print([name for name in ('sklearn', 'numpy', 'pandas', 'prefect', 'docker') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "network\n[]\n"
