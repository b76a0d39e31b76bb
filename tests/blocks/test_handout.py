"""Secrets on their way in: every byte comes through every shell, into memory, and is seen nowhere else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster import policies
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.handout import LARGEST, NOTHING, RECEIVE, SECRETS, Handout, escaped
from workflowmaster.blocks.masking import Masker
from workflowmaster.blocks.output import Capture

if TYPE_CHECKING:
    from collections.abc import Callable

docker = pytest.mark.docker

SHELLS = [words for words in (["dash"], ["bash", "--posix"], ["busybox", "ash"]) if shutil.which(words[0])]
EVERY_BYTE = bytes(range(256)) * 2
NASTY = {
    "PLAIN": b"hunter2",
    "EVERY": EVERY_BYTE,
    "DIGITS_BEHIND": b"\x001\x0712\xff345",
    "LINES": b"\n\nfirst\r\n\nlast\n\n",
    "QUOTES": b"""it's "quoted" `id` $(id) %s %b \\c \\0101 \\\\""",
    "LARGE": os.urandom(1000) * 5,
}
VARIABLES = {name: value.replace(b"\0", b"") for name, value in NASTY.items()}


def variables_in(output: bytes) -> dict[str, bytes]:
    pairs = [pair.split(b"=", 1) for pair in output.split(b"\0") if b"=" in pair]
    return {pair[0].decode(): pair[1] for pair in pairs}


@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: words[0])
def test_every_byte_comes_through_every_shell(shell: list[str], tmp_path: Path) -> None:
    script = RECEIVE.replace(SECRETS, str(tmp_path)) + "exec env -0"
    done = subprocess.run(
        [*shell, "-c", script],
        input=Handout(NASTY, VARIABLES).lines(),
        capture_output=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == NASTY
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    found = variables_in(done.stdout)
    assert {name: found[name] for name in VARIABLES} == VARIABLES
    assert not {"wm_name", "wm_value"} & set(found)


@given(st.dictionaries(st.sampled_from(["A", "B", "C"]), st.binary(max_size=60), min_size=1))
def test_any_value_comes_through(values: dict[str, bytes]) -> None:
    with TemporaryDirectory() as folder:
        script = RECEIVE.replace(SECRETS, folder) + "cat"
        given_ = Handout(values).lines() + b"the rest\n"
        done = subprocess.run(["sh", "-c", script], input=given_, capture_output=True)
        assert done.stdout == b"the rest\n", "only what is the secrets' is read"
        assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == values


@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: words[0])
@pytest.mark.parametrize("kept", [0, 1, 8, -3, -1])
def test_a_pipe_that_closes_halfway_starts_nothing(shell: list[str], kept: int, tmp_path: Path) -> None:
    lines = Handout({"TOKEN": b"hunter2", "OTHER": b"hunter3"}).lines()[:kept]
    script = RECEIVE.replace(SECRETS, str(tmp_path)) + "echo began"
    done = subprocess.run([*shell, "-c", script], input=lines, capture_output=True)
    assert (done.returncode, done.stdout) == (125, b"")


def test_what_travels_has_no_special_byte() -> None:
    assert set(escaped(EVERY_BYTE)) <= set(b"\\0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert NOTHING.lines() == b""


def test_a_handout_shows_names_only() -> None:
    shown = repr(Handout({"TOKEN": b"hunter2"}, {"GH": b"hunter2"})) + f"{Handout({'TOKEN': b'hunter2'})}"
    assert "hunter2" not in shown
    assert "TOKEN" in shown


# --- in a container ---


def go(made: Any, handout: Handout, seconds: float = 30) -> Any:
    made.exchange.write({"HOME": "/tmp"}, {})
    return made.container.run(seconds, made.take, handout=handout)


LOOK = "cd /run/secrets; stat -c '%a %u %F %n' . *; grep ' /run/secrets ' /proc/mounts; sha256sum *; echo \"[$GH]\""


@docker
@pytest.mark.parametrize("policy", ["minimal", "standard", "hardened", "paranoid"])
@pytest.mark.parametrize("way", ["pidfd", "engine"])
def test_they_lie_in_memory_and_belong_to_the_steps_user(sh: Callable[..., Any], policy: str, way: str) -> None:
    made = sh(LOOK, policy=policy, ids=(1234, 1234), secrets=("EVERY", "TOKEN")).park(way)
    handout = Handout({"EVERY": EVERY_BYTE, "TOKEN": b"hunter2"}, {"GH": b"hunter2\n\n"})
    ending = go(made, handout)
    text = made.output.decode()
    assert (ending.exit_code, ending.timed_out, ending.error) == (0, False, ""), text
    assert "700 1234 directory .\n600 1234 regular file EVERY\n600 1234 regular file TOKEN\n" in text
    mounted = next(line for line in text.splitlines() if line.startswith("tmpfs")).split()
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(mounted[3].split(","))
    assert f"{hashlib.sha256(EVERY_BYTE).hexdigest()}  EVERY" in text
    assert "[hunter2\n\n]" in text


@docker
def test_the_value_is_in_nothing_that_the_engine_knows(sh: Callable[..., Any], engine: Any) -> None:
    made = sh("cat /run/secrets/TOKEN; sleep 0.2; cat /run/secrets/TOKEN >&2", secrets=("TOKEN",)).park()
    assert go(made, Handout({"TOKEN": b"hunter2-hunter2"}, {"GH": b"hunter2-hunter2"})).exit_code == 0
    assert made.output.count(b"hunter2-hunter2") == 2
    seen = json.dumps([engine.client.inspect_container(made.container.id), engine.client.containers(all=True)])
    assert "hunter2" not in seen
    place = Path(engine.client.info()["DockerRootDir"]) / "containers" / made.container.id
    if os.access(place, os.R_OK):
        assert [p for p in place.rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()] == []


@docker
def test_one_without_secrets_has_no_place_for_them(sh: Callable[..., Any]) -> None:
    made = sh("ls /run/secrets; env; grep -c secrets /proc/mounts").park()
    assert go(made, NOTHING).exit_code == 1
    assert b"No such file" in made.output
    assert made.output.endswith(b"\n0\n")


@docker
def test_the_largest_secrets_fit(sh: Callable[..., Any]) -> None:
    values = {name: os.urandom(LARGEST) for name in ("A", "B", "C")}
    made = sh("cat /run/secrets/* | sha256sum", secrets=tuple(values)).park()
    assert go(made, Handout(values)).exit_code == 0
    done = subprocess.run(["sha256sum"], input=b"".join(values.values()), capture_output=True)
    assert bytes(made.output) == done.stdout


@docker
def test_a_shell_that_does_not_listen_is_an_error_and_no_hanging_run(
    sh: Callable[..., Any], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflowmaster.blocks.container.HEARING", 1.0)
    values = {name: bytes(LARGEST) for name in "ABCDEFGHIJKLMNOP"}
    made = sh("true", secrets=tuple(values)).park()
    engine.client.pause(made.container.id)
    try:
        with pytest.raises(SandboxUnavailable, match="has not read its secrets for 1 s") as caught:
            go(made, Handout(values))
        assert caught.value.reason == "stuck"
    finally:
        engine.client.unpause(made.container.id)


@docker
def test_a_container_that_died_while_parked_is_told_as_always(sh: Callable[..., Any], engine: Any) -> None:
    made = sh("true", secrets=("TOKEN",)).park()
    engine.kill(made.container.id)
    engine.wait(made.container.id, 10)
    with pytest.raises(SandboxUnavailable, match="before its command began") as caught:
        go(made, Handout({"TOKEN": b"hunter2"}))
    assert "hunter2" not in str(caught.value)


@docker
@pytest.mark.parametrize("script", ["exit 7", "kill -KILL $$", "exec sleep 60", "printf 'no newline'; exit 125"])
@pytest.mark.parametrize("way", ["pidfd", "engine"])
def test_ends_are_told_as_without_secrets(sh: Callable[..., Any], script: str, way: str) -> None:
    ends = []
    for names in ((), ("TOKEN",)):
        made = sh(script, secrets=names).park(way)
        ending = go(made, Handout(dict.fromkeys(names, b"hunter2")), 1)
        ends.append((ending.exit_code, ending.timed_out, ending.capped, ending.error, bytes(made.output)))
    assert ends[0] == ends[1]


@docker
def test_other_secrets_than_asked_for_are_a_mistake_of_ours(sh: Callable[..., Any]) -> None:
    made = sh("true", secrets=("TOKEN",)).park()
    with pytest.raises(RuntimeError, match="TOKEN") as caught:
        go(made, Handout({"OTHER": b"hunter2"}))
    assert "hunter2" not in str(caught.value)


@docker
def test_the_log_of_a_masked_container_is_capped_by_what_it_produced(sh: Callable[..., Any], tmp_path: Path) -> None:
    small = policies.lower(policies.load("standard"), memory=64 * 1024**2)
    made = sh('yes "$(cat /run/secrets/TOKEN)"', policy=small, secrets=("TOKEN",)).park()
    made.exchange.write({}, {})
    mask = Masker({"TOKEN": b"hunter2"}).stream()
    with Capture(tmp_path / "log", cap=80_000, policy="standard", mask=mask) as capture:
        ending = made.container.run(30, capture, handout=Handout({"TOKEN": b"hunter2"}))
    assert (ending.capped, capture.size) == (True, 80_000)
    text = (tmp_path / "log").read_bytes()
    assert text.startswith(b"***\n" * 10_000 + b"[workflowmaster: output cut at 80,000 bytes")
