"""Folders of containers on an engine that has another disk: the real one, reached over TCP."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import OURS, Engine, SandboxUnavailable
from workflowmaster.blocks.refusal import WorkspaceError
from workflowmaster.blocks.request import EXCHANGE, OUT, WORKSPACE, Mount, Volume
from workflowmaster.blocks.tunnel import command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

docker = pytest.mark.docker

ROOM = 1 << 24


@pytest.fixture(scope="module")
def remote(far_engine: str) -> Iterator[Engine]:
    """The engine of this machine, as one on another."""
    made = Engine(far_engine)
    yield made
    made.close()


@pytest.fixture
def away(sh: Callable[..., Any], remote: Engine, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make containers on the remote engine that run a script in a workspace; nothing of them may stay."""
    made: list[tuple[Any, Container, Container]] = []
    workflow = f"test-away-{secrets.token_hex(4)}"

    def make(script: str, *, workspace: bool = True, writable: bool = True, **changed: Any) -> Any:
        box = sh(script, labels={"workflow": workflow}, **changed)
        request = box.container.request
        if workspace:
            (tmp_path / "tree").mkdir(exist_ok=True)
            mounts = (*request.mounts, Mount(tmp_path / "tree", WORKSPACE, writable=writable))
            request = replace(request, mounts=mounts, workdir=WORKSPACE)
        local, box.container = box.container, Container(remote, request)
        box.tree = tmp_path / "tree"
        made.append((box, box.container, local))
        return box

    yield make
    for box, container, local in made:
        container.remove()
        box.container = local  # its own fixture removes what that one made
    assert (remote.containers(workflow=workflow), remote.volumes(workflow=workflow)) == ([], [])


@docker
def test_an_engine_behind_tcp_is_remote_even_if_it_is_this_one(remote: Engine, engine: Engine) -> None:
    assert (remote.info.local, engine.info.local) == (False, True)
    assert replace(remote.info, local=True) == engine.info


@docker
def test_folders_go_in_and_come_back(away: Callable[..., Any], contents: Callable[..., Any]) -> None:
    box = away(
        "cat a d/* && readlink l && test -x run && echo new >d/new && rm a && ln -s /etc/passwd p && "
        "mkdir -p e/f && chmod 000 e/f && echo result >/out/r && echo v=1 >$WM_OUTPUT"
    )
    (box.tree / "d").mkdir()
    (box.tree / "a").write_text("one\n")
    Path(os.fsdecode(os.fsencode(box.tree) + b"/d/\xff\n")).write_text("two\n")
    (box.tree / "l").symlink_to("nowhere")
    (box.tree / "run").touch(0o755)
    assert box.park().go(WM_OUTPUT="/out/outputs").exit_code == 0, box.output
    assert box.output.decode() == "one\ntwo\nnowhere\n"
    assert (box.tree / "a").exists(), "nothing comes back before it is fetched"
    assert (box.container.fetch(OUT, ROOM), box.container.fetch(WORKSPACE, ROOM)) == ((), ())
    assert contents(box.tree) == {
        b"d": ("dir",),
        b"d/\xff\n": ("file", False, b"two\n"),
        b"d/new": ("file", False, b"new\n"),
        b"e": ("dir",),
        b"e/f": ("dir",),
        b"l": ("link", Path("nowhere")),
        b"p": ("link", Path("/etc/passwd")),
        b"run": ("file", True, b""),
    }
    assert box.exchange.outputs() == {"v": "1"}
    assert (box.exchange.outward / "r").read_text() == "result\n"


@docker
@pytest.mark.parametrize("policy", policies.names())
def test_every_policy_runs_and_is_told_to_hold(away: Callable[..., Any], policy: str) -> None:
    with_tree = policies.load(policy).workspace != "none"
    box = away(
        'id -u; touch /wm/x && exit 1; touch /workspace/x && echo writable; test "$(stat -c %u /out)" = 1000 && touch /out/x',
        policy=policy,
        workspace=with_tree,
        writable=policies.load(policy).workspace in ("rw", "copy"),
    )
    assert box.park().go().exit_code == 0, box.output
    lines = box.output.decode().splitlines()
    assert lines[0] == "1000"
    assert ("writable" in lines) is (policies.load(policy).workspace in ("rw", "copy"))
    assert box.container.attested.weaker == box.container.attested.enforced == ()
    assert {"seccomp", "memory", "pids"} <= set(box.container.attested.told)


@docker
def test_the_volumes_are_its_own_labelled_and_closed(away: Callable[..., Any], remote: Engine) -> None:
    box = away("ls -A /wm /out /workspace")
    box.park()
    workflow = box.container.request.labels["workflow"]
    listed = remote.volumes(workflow=workflow)
    assert {one["Name"].rpartition("-")[2] for one in listed} == {"wm", "out", "workspace"}
    assert all(one["Labels"][f"{OURS}.role"] == "files" for one in listed)
    (helper,) = [one for one in remote.containers(workflow=workflow) if one["Labels"].get(f"{OURS}.role")]
    assert helper["State"] == "created", "nothing ever runs in it"
    assert box.go().exit_code == 0


@docker
def test_the_ways_to_end_are_the_same(away: Callable[..., Any]) -> None:
    ended = away("exit 7").park().go()
    assert (ended.exit_code, ended.timed_out, ended.oom_killed) == (7, False, False)
    ended = away("trap 'exit 0' TERM; echo begun; sleep 60").park().go(seconds=1.0)
    assert ended.timed_out
    assert ended.seconds < 30
    ended = away("exec python3 -c 'b = bytearray(10**10)'", policy="paranoid", workspace=False).park().go()
    assert (ended.exit_code, ended.oom_killed) == (137, True)
    box = away("yes")
    ended = box.park().go(sink=lambda data: box.take(data) and len(box.output) < 100_000)
    assert (ended.capped, ended.exit_code) == (True, 137)


@docker
def test_output_is_complete_and_in_order(away: Callable[..., Any]) -> None:
    box = away("for n in $(seq 3000); do echo $n; echo $n >&2; done; head -c 3000000 /dev/zero")
    assert box.park().go().exit_code == 0
    lines, zeros = box.output.split(b"\0", 1)
    assert [int(line) for line in lines.split()] == [n for n in range(1, 3001) for _ in (1, 2)]
    assert len(zeros) == 2_999_999


HOSTILE = """
mkfifo f; ln -s / root; ln -s ../../.. up; chmod u+s,g+s .; truncate -s 1T /out/sparse; mkdir /out/workspace
ln -s /etc/passwd /out/outputs; python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('s')"; ln f hard; echo x >good
"""


@docker
def test_a_hostile_tree_comes_back_as_files_and_links_only(
    away: Callable[..., Any], contents: Callable[..., Any]
) -> None:
    box = away(HOSTILE)
    assert box.park().go().exit_code == 0, box.output
    assert set(box.container.fetch(WORKSPACE, ROOM)) == {
        "f: left out, a FIFO",
        "hard: left out, a hard link to something that was left out",
    }
    assert {name: what[0] for name, what in contents(box.tree).items()} == {
        b"good": "file",
        b"root": "link",
        b"up": "link",
    }
    assert not stat.S_IMODE(box.tree.stat().st_mode) & 0o6000
    began = time.monotonic()
    with pytest.raises(WorkspaceError, match="more than") as caught:
        box.container.fetch(OUT, ROOM)
    assert caught.value.code == "size"
    assert time.monotonic() - began < 30, "a terabyte is refused by its header"


@docker
def test_a_step_may_grow_what_it_was_given_and_not_more(away: Callable[..., Any]) -> None:
    box = away("head -c 2000 /dev/zero >more")
    (box.tree / "given").write_bytes(bytes(5000))
    assert box.park().go().exit_code == 0
    assert box.container.fetch(WORKSPACE, 2000) == ()
    (box.tree / "more").unlink()
    with pytest.raises(WorkspaceError, match="more than 6,000 bytes"):
        box.container.fetch(WORKSPACE, 1000)


@docker
def test_only_directories_travel(away: Callable[..., Any], tmp_path: Path) -> None:
    box = away("true")
    (tmp_path / "file").write_text("x")
    more = (*box.container.request.mounts, Mount(tmp_path / "file", "/file"))
    box.container = Container(box.container._engine, replace(box.container.request, mounts=more))
    with pytest.raises(SandboxUnavailable, match="cannot be mounted at /file: the engine is on another host") as caught:
        box.park()
    assert caught.value.reason == "mount"


@docker
@pytest.mark.parametrize("changed", [{"image_id": "sha256:" + "0" * 64}, {"workdir": "relative"}, {"user": "no-such"}])
def test_what_cannot_be_parked_leaves_neither_volume_nor_helper(
    away: Callable[..., Any], changed: dict[str, str]
) -> None:
    box = away("true")
    box.container.request = replace(box.container.request, **changed)
    with pytest.raises((SandboxUnavailable, ValueError)):
        box.park()
    workflow = box.container.request.labels["workflow"]
    engine = box.container._engine
    assert (engine.containers(workflow=workflow), engine.volumes(workflow=workflow)) == ([], [])


@docker
def test_a_name_is_given_once_and_the_second_takes_nothing_from_the_first(away: Callable[..., Any]) -> None:
    first = away("cat /workspace/f")
    (first.tree / "f").write_text("mine")
    first.park()
    second = Container(first.container._engine, first.container.request)
    with pytest.raises(SandboxUnavailable) as caught:
        second.park()
    assert caught.value.reason == "conflict"
    assert first.go().exit_code == 0
    assert first.output == b"mine"


@docker
def test_losing_the_connection_while_parked_ends_the_container(away: Callable[..., Any], remote: Engine) -> None:
    box = away("touch /out/ran")
    box.park()
    box.container.stream.shutdown(socket.SHUT_RDWR)
    assert remote.wait(box.container.id, 10) == 125


def test_a_volume_is_spelled_without_what_the_image_has_there() -> None:
    assert Volume("v", "/out").spelled() == {
        "Type": "volume",
        "Source": "v",
        "Target": "/out",
        "ReadOnly": True,
        "VolumeOptions": {"NoCopy": True},
    }
    assert EXCHANGE == "/wm"


# --- ssh ---


@pytest.mark.parametrize(
    ("url", "ends"),
    [
        ("ssh://host", ["-L", "HERE:/var/run/docker.sock", "--", "host", "cat"]),
        ("ssh://me@host:2222", ["-l", "me", "-p", "2222", "-L", "HERE:/var/run/docker.sock", "--", "host", "cat"]),
        ("ssh://host/run/p.sock", ["-L", "HERE:/run/p.sock", "--", "host", "cat"]),
    ],
)
def test_the_way_by_ssh(url: str, ends: list[str]) -> None:
    assert command(url, Path("HERE"))[-len(ends) :] == ends


@pytest.mark.parametrize("url", ["ssh://", "ssh://-oProxyCommand=x", "ssh://-x@host", "ssh://me:secret@host"])
def test_an_address_that_ssh_could_misread_is_refused(url: str) -> None:
    with pytest.raises(ConnectionError) as caught:
        command(url, Path("HERE"))
    assert "secret@" not in str(caught.value)


def test_no_way_by_ssh_is_the_engines_trouble_in_sshs_own_words() -> None:
    if shutil.which("ssh") is None:
        pytest.skip("ssh is not installed")
    with pytest.raises(SandboxUnavailable, match=r"no way to ssh://127\.0\.0\.1:1: .*(refused|closed)") as caught:
        _ = Engine("ssh://127.0.0.1:1").info
    assert caught.value.reason == "engine"


SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@pytest.fixture
def by_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real sshd of this test's own, and a HOME whose keys it takes."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    for name in ("host", "mine"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "sshd").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/mine.pub\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
    )
    (tmp_path / "config").write_text(
        f"IdentityFile {tmp_path}/mine\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    )
    wrapper = tmp_path / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path}/config "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "sshd"], stderr=subprocess.PIPE)
    try:
        for line in server.stderr or ():
            if b"listening" in line:
                break
        else:
            pytest.skip("sshd does not start here")
        yield f"ssh://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@docker
def test_a_step_runs_on_an_engine_behind_ssh(by_ssh: str, away: Callable[..., Any]) -> None:
    box = away("cat f; echo new >g; exit 3")
    (box.tree / "f").write_text("there\n")
    far = Engine(by_ssh)
    try:
        assert not far.info.local
        box.container = Container(far, box.container.request)
        assert box.park().go().exit_code == 3
        assert box.output == b"there\n"
        box.container.fetch(WORKSPACE, ROOM)
        assert (box.tree / "g").read_text() == "new\n"
        assert far.wait(box.container.id, 5) == 3
        box.container.remove()
    finally:
        way = far._tunnel
        far.close()
    assert way is not None
    assert way._process.returncode is not None
    assert not way.socket.exists()


HOLDING = """
import sys
from workflowmaster.blocks.engine import Engine
engine = Engine(sys.argv[1])
engine.info
print(engine._tunnel._process.pid, flush=True)
sys.stdin.read()
"""


@docker
def test_the_way_ends_with_a_killed_owner(by_ssh: str, wait_until: Callable[..., Any]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, by_ssh], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        pid = int(owner.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        owner.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


# --- what a dead owner left ---

LEAVING = """
import os, sys
from pathlib import Path
from workflowmaster import policies
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import Engine
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.owner import Owner
from workflowmaster.blocks.request import SCRATCH, ContainerRequest
url, image, workflow, folder = sys.argv[1:]
exchange = Exchange(Path(folder)).make((1000, 1000))
labels = {"workflow": workflow, **Owner.me().labels()}
asked = ContainerRequest(workflow, image, policies.load("standard"), ("true",), exchange.mounts, labels, workdir=SCRATCH)
Container(Engine(url), asked).park()
os.kill(os.getpid(), 9)
"""


@docker
def test_what_a_killed_owner_left_is_swept_up_with_its_volumes(remote: Engine, image_id: str, tmp_path: Path) -> None:
    from workflowmaster.flows.sweeping import sweep

    workflow = f"test-left-{secrets.token_hex(4)}"
    words = [sys.executable, "-c", LEAVING, remote.url, image_id, workflow, tmp_path / "x"]
    assert subprocess.run(words, check=False).returncode == -9
    assert len(remote.volumes(workflow=workflow)) == 2
    swept = sweep(remote, workflow=workflow)
    assert sorted(swept.containers) == [workflow, f"{workflow}-files"]
    assert len(swept.volumes) == 2
    assert (remote.containers(workflow=workflow), remote.volumes(workflow=workflow)) == ([], [])
