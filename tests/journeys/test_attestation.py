"""Whole runs against an engine that does not do what it was told: nothing of the user's runs, and the exit code is 5.

The engine is the real one. In front of it sits a listener that changes what is asked for on its way, as a patched
engine, a plug-in or a missing controller would; the kernel's account then differs from our request.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

ENGINE = "/var/run/docker.sock"

CHAIN = """# Chain

## Steps

### first
- policy: hardened
- retries: 3
```sh
echo ran > /out/ran.txt
echo this must not be printed
```

### second
- needs: first
```sh
true
```

### beside
```sh
echo beside
```
"""

CHECKED = """# Checked

## Steps

### only
```sh
echo work
```
```check
true
```
"""


class Deceiver:
    """A socket that speaks for the engine and changes the containers that are asked for."""

    def __init__(self, path: Path, change: Callable[[str, dict[str, Any]], None]) -> None:
        self.url, self.change = f"unix://{path}", change
        self.created: list[str] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(ENGINE)
                threading.Thread(target=self._pass, args=(engine, client), daemon=True).start()
                threading.Thread(target=self._ask, args=(client, engine), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _ask(self, client: socket.socket, engine: socket.socket) -> None:
        """Pass requests on one by one, until one takes the connection over for a stream."""
        reading = client.makefile("rb")
        with contextlib.suppress(OSError):
            while line := reading.readline():
                head = [line]
                while (line := reading.readline()) not in (b"\r\n", b""):
                    head.append(line)
                length = next((int(one.split(b":")[1]) for one in head if one.lower().startswith(b"content-length")), 0)
                body = reading.read(length)
                if b"/containers/create" in head[0]:
                    head, body = self._changed(head, body)
                engine.sendall(b"".join(head) + b"\r\n" + body)
                if any(one.lower().startswith(b"upgrade") for one in head):
                    self._pass(client, engine)
                    return
        with contextlib.suppress(OSError):
            engine.shutdown(socket.SHUT_WR)

    def _changed(self, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
        found = re.search(rb"name=([^& ]+)", head[0])
        name = found[1].decode() if found else ""
        self.created.append(name)
        asked = json.loads(body)
        self.change(name, asked)
        body = json.dumps(asked).encode()
        kept = [one for one in head if not one.lower().startswith(b"content-length")]
        return [*kept, b"Content-Length: %d\r\n" % len(body)], body


@pytest.fixture
def deceiver(tmp_path: Path) -> Iterator[Callable[..., Deceiver]]:
    made: list[Deceiver] = []

    def make(change: Callable[[str, dict[str, Any]], None]) -> Deceiver:
        made.append(Deceiver(tmp_path / f"{len(made)}.sock", change))
        return made[-1]

    yield make
    for one in made:
        one.close()


def unlimited(_name: str, asked: dict[str, Any]) -> None:
    asked["HostConfig"]["Memory"] = asked["HostConfig"]["MemorySwap"] = 0


def records(folder: Path, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    return [one for one in found if one["event"] == event]


def test_an_engine_that_drops_a_limit_runs_nothing(
    wm: Any,
    repo: Any,
    prompt_file: Callable[..., Path],
    deceiver: Callable[..., Deceiver],
    containers: Callable[..., Any],
) -> None:
    engine = deceiver(lambda name, asked: unlimited(name, asked) if "-first-" in name else None)
    said = wm.run(prompt_file(CHAIN), repo.path, DOCKER_HOST=engine.url)
    assert said.code == 5, said.text
    tasks = {task["id"]: task for task in said.json["tasks"]}
    assert {name: task["status"] for name, task in tasks.items()} == {
        "first": "failed",
        "second": "blocked",
        "beside": "completed",
    }
    reason = tasks["first"]["reason"]
    assert "policy hardened cannot be kept here" in reason
    assert (
        "memory is weaker than declared: declared 1g, found unlimited; give the engine this cgroup controller" in reason
    )
    assert "swap is weaker than declared" in reason

    folder = wm.folder(said.json["workflow_id"])
    assert [one["step"] for one in records(folder, "container.started")] == ["beside"]
    (refused,) = records(folder, "step.refused")
    assert (refused["step"], {one["control"] for one in refused["findings"]}) == ("first", {"memory", "swap"})
    assert "this must not be printed" not in said.text
    assert not list(folder.rglob("ran.txt"))
    # Parked once and refused: an engine that does not keep a policy would not the second time either.
    assert len([name for name in engine.created if "-first-" in name]) == 1
    assert [one["verb"] for one in records(folder, "decision") if one["step"] == "first"] == ["continue"]
    assert containers(said.json["workflow_id"]) == []


def test_a_check_that_would_run_in_a_weaker_container_is_refused_too(
    wm: Any,
    repo: Any,
    prompt_file: Callable[..., Path],
    deceiver: Callable[..., Deceiver],
    containers: Callable[..., Any],
) -> None:
    def change(name: str, asked: dict[str, Any]) -> None:
        if name.endswith("-check"):
            asked["HostConfig"]["SecurityOpt"] = ["seccomp=unconfined"]

    said = wm.run(prompt_file(CHECKED), repo.path, DOCKER_HOST=deceiver(change).url)
    assert said.code == 5, said.text
    (task,) = said.json["tasks"]
    assert task["status"] == "failed"
    for control in ("no_new_privileges", "seccomp", "seccomp_profile"):
        assert f"{control} is weaker than declared" in task["reason"]
    assert containers(said.json["workflow_id"]) == []


def test_a_resume_on_a_good_engine_goes_on(
    wm: Any, repo: Any, prompt_file: Callable[..., Path], deceiver: Callable[..., Deceiver]
) -> None:
    engine = deceiver(unlimited)
    said = wm.run(prompt_file(CHAIN), repo.path, DOCKER_HOST=engine.url)
    assert said.code == 5, said.text
    again = wm("resume", said.json["workflow_id"], "--json", "-q")
    assert again.code == 0, again.text
    assert {task["status"] for task in again.json["tasks"]} == {"completed"}


@pytest.mark.parametrize(("line", "control"), [("apparmor: require", "apparmor"), ("runtime: gvisor", "runtime")])
def test_what_a_policy_insists_on_is_asked_before_anything_starts(
    bare: Any, repo: Any, prompt_file: Callable[..., Path], deceiver: Callable[..., Deceiver], line: str, control: str
) -> None:
    folder = bare.home / "policies"
    folder.mkdir(exist_ok=True)
    (folder / f"own-{control}.yaml").write_text(f"extends: testing\n{line}\nimage: any\nimages: null\nreason: a test\n")
    engine = deceiver(lambda _name, _asked: None)
    prompt = prompt_file("# One\n\n## Steps\n\n### only\n```sh\ntrue\n```\n")
    said = bare.run(prompt, repo.path, "--policy", f"own-{control}", DOCKER_HOST=engine.url)
    if said.code == 0:
        pytest.skip("this host has it")
    assert said.code == 5, said.text
    assert f"step only ({prompt}:5) cannot run" in said.json["error"]
    assert f"{control} is not to be had" in said.json["error"]
    assert engine.created == []
    assert not list((bare.home / "workflows").glob("*"))


def test_what_was_enforced_is_told_everywhere(wm: Any, repo: Any, prompt_file: Callable[..., Path]) -> None:
    said = wm.run(prompt_file(CHAIN), repo.path)
    assert said.code == 0, said.text
    folder = wm.folder(said.json["workflow_id"])
    told = {one["step"]: one for one in records(folder, "container.finished")}
    assert set(told) == {"first", "second", "beside"}
    for one in told.values():
        assert {"user", "capabilities", "seccomp", "memory", "swap", "network", "mounts"} <= set(one["enforced"])
        assert one["told"] == ["seccomp_profile"]
    assert "workspace" in told["first"]["enforced"]
    assert "workspace" not in told["second"]["enforced"], "standard promises nothing about it"
    report = (folder / "report.html").read_text()
    assert "Controls in force" in report
    assert "seccomp_profile" in report
    if not os.path.exists("/sys/module/apparmor"):
        assert "apparmor: wanted an AppArmor profile, found none" in told["first"]["absent"]
        assert "wanted an AppArmor profile" in report
