"""Reading what holds: captured files of `/proc`, a `/proc` made of them, and real containers and processes."""

from __future__ import annotations

import math
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks import effective, mountinfo
from workflowmaster.blocks.cgroup import Cgroup
from workflowmaster.blocks.effective import MASKED, READ_ONLY, exposed, foreign, inside, misplaced, parse_limits
from workflowmaster.blocks.request import Mount, Volume

if TYPE_CHECKING:
    from collections.abc import Callable

# /proc/PID/status of a paranoid container's first process, kernel 6.18; lines that nobody reads are left out.
STATUS = """\
Name:	docker-init
Uid:	1000	1000	1000	1000
Gid:	1000	1000	1000	1000
Groups:	1000 
NSpid:	27708	1
CapInh:	0000000000000000
CapPrm:	0000000000000000
CapEff:	0000000000000000
CapBnd:	00000000000004fb
CapAmb:	0000000000000000
NoNewPrivs:	1
Seccomp:	2
Seccomp_filters:	1
"""  # noqa: W291 - as the kernel writes it

LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max core file size        0                    0                    bytes     
Max processes             96365                96365                processes 
Max open files            256                  4096                 files     
Max locked memory         65536                unlimited            bytes     
Max nice priority         0                    0                    
"""  # noqa: W291 - as the kernel writes it

NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  eth0:     286       3    0    0    0     0          0         0        0       0    0    0    0     0       0          0
"""

MOUNTS = """\
72 48 0:39 / / ro,relatime master:2 - overlay overlay rw
73 72 0:42 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
89 72 254:0 /tmp/x/in /wm ro,relatime - ext4 /dev/vda rw
52 73 0:42 /sys /proc/sys ro,nosuid - proc proc rw
54 73 0:43 /null /proc/keys rw,nosuid - tmpfs tmpfs rw
"""
OURS = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n22 27 0:21 / /proc rw - proc proc rw\n"

CGROUP = "9:memory:/docker/abc\n8:pids:/docker/abc\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A `/proc` with one container of Docker's in it, and us."""
    here = tmp_path / "proc/27708"
    files = {
        "status": STATUS,
        "limits": LIMITS,
        "mountinfo": MOUNTS,
        "comm": "docker-init\n",
        "cmdline": "/sbin/docker-init\0--\0/bin/sh\0",
        "net/dev": NET_DEV,
        "attr/current": "docker-default (enforce)\n",
    }
    for name, text in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    own = tmp_path / "proc/self"
    (own / "net").mkdir(parents=True)
    (own / "net/dev").write_text(NET_DEV)
    (own / "mountinfo").write_text(OURS)
    for name in ("keys", "sys"):
        (tmp_path / "proc" / name).mkdir()
    return tmp_path / "proc"


def test_a_container_is_read_from_its_files(proc: Path) -> None:
    seen = effective.read(27708, None, (Mount(Path("/tmp/x/in"), "/wm"),), proc=proc)
    assert (seen.uids, seen.gids) == (frozenset({1000}), frozenset({1000}))
    assert (seen.bounding, seen.granted, seen.no_new_privileges, seen.seccomp) == (0x4FB, 0, True, True)
    assert (seen.init, seen.apparmor, seen.runtime) == ("docker-init", "docker-default", None)
    assert seen.rlimits == {"core": 0, "nofile": 4096, "memlock": math.inf}
    assert seen.interfaces == {"lo", "eth0"}
    assert seen.foreign == {"/wm"}
    assert seen.misplaced == frozenset()
    assert seen.exposed == frozenset()
    # No links to namespaces, as for another user: what is shown must do.
    assert seen.own == {"mnt": True, "pid": True, "net": True}
    assert (seen.memory, seen.devices, seen.profile) == (None, None, None)


def test_gvisors_process_says_nothing_of_the_container(proc: Path, tmp_path: Path) -> None:
    """Seen on an engine with runsc 20221219: State.Pid is the sentry, which runs as another user with all rights."""
    (proc / "27708/cmdline").write_text("runsc-sandbox\0--root=/var/run/docker/runtime-runsc/moby\0boot\0")
    folder = tmp_path / "pids/docker/abc"
    folder.mkdir(parents=True)
    (folder / "pids.max").write_text("256\n")
    seen = effective.read(27708, Cgroup.parse(CGROUP, tmp_path), (), proc=proc)
    assert (seen.runtime, seen.pids) == ("runsc", 256)
    told = {name for name, value in vars(seen).items() if value is not None}
    assert told == {"runtime", "pids"}


@pytest.mark.parametrize("label", ["unconfined\n", "system_u:system_r:container_t:s0:c1,c2\n", "x (complain)\n", ""])
def test_other_labels_are_no_confinement(proc: Path, label: str) -> None:
    (proc / "27708/attr/current").write_text(label)
    assert effective.read(27708, None, (), proc=proc).apparmor == ""


def test_a_kernel_that_does_not_tell_is_not_believed(proc: Path) -> None:
    text = "".join(line for line in STATUS.splitlines(keepends=True) if not line.startswith(("NoNew", "Seccomp")))
    (proc / "27708/status").write_text(text)
    seen = effective.read(27708, None, (), proc=proc)
    assert (seen.no_new_privileges, seen.seccomp) == (None, None)


def test_a_runtime_that_is_not_done_is_waited_for(proc: Path) -> None:
    """Its filter is set at the last moment: read too early, a good container would be refused."""
    comm, status = proc / "27708/comm", proc / "27708/status"
    comm.write_text("runc:[2:INIT]\n")
    status.write_text(STATUS.replace("Seccomp:\t2", "Seccomp:\t0"))
    looking = threading.Event()

    def become() -> None:
        looking.wait(10)
        status.write_text(STATUS)
        comm.write_text("docker-init\n")

    thread = threading.Thread(target=become)
    thread.start()
    real = effective._text

    def slow(path: Path) -> str:
        looking.set()
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effective, "_text", slow)
        assert effective.read(27708, None, (), proc=proc).seccomp is True
    thread.join()


def test_a_runtime_that_never_gets_done_is_an_error(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (proc / "27708/comm").write_text("runc:[2:INIT]\n")
    monkeypatch.setattr(effective, "SETTLE", 0.01)
    with pytest.raises(TimeoutError, match="has not started the container's program"):
        effective.read(27708, None, (), proc=proc)


def test_columns_hold_names_with_blanks() -> None:
    assert parse_limits(LIMITS) == {"core": 0, "nofile": 4096, "memlock": math.inf}
    assert parse_limits("nonsense\n\nMax open files\n") == {}


# An engine with user namespaces (dockremap), and one without root (its user is 1000, its range begins at 100000).
REMAPPED = "         0     231072      65536\n"
ROOTLESS = "         0       1000          1\n         1     100000      65536\n"


@pytest.mark.parametrize(
    ("number", "table", "expected"),
    [
        (232072, REMAPPED, 1000),
        (1000, ROOTLESS, 0),
        (100999, ROOTLESS, 1000),
        (1000, "         0          0 4294967295\n", 1000),
        (1000, "", 1000),
        (5, REMAPPED, 5),
    ],
)
def test_uids_are_told_as_they_are_called_inside(number: int, table: str, expected: int) -> None:
    assert inside(number, table) == expected


@given(st.integers(0, 65535), st.integers(0, 2**31))
def test_translation_is_the_inverse_of_the_table(number: int, base: int) -> None:
    assert inside(base + number, f"0 {base} 65536\n") == number


def test_what_is_of_the_host() -> None:
    seen = mountinfo.parse(
        "1 2 0:39 / / ro - overlay overlay rw\n"
        "3 1 0:47 / /tmp rw - tmpfs tmpfs rw\n"
        "4 1 0:25 /docker.sock /s rw - tmpfs tmpfs rw\n"
        "5 1 0:21 / /hostproc rw - proc proc rw\n"
        "6 1 254:0 /etc /etc2 ro - ext4 /dev/vda rw\n"
        "7 1 0:99 / /f rw - fuse.sshfs x rw\n"
    )
    ours = mountinfo.parse(
        "27 1 254:0 / / rw - ext4 /dev/vda rw\n22 27 0:21 / /proc rw - proc p rw\n23 27 0:25 / /run rw - tmpfs t rw\n"
    )
    assert foreign(seen, ours) == {"/s", "/hostproc", "/etc2", "/f"}


@pytest.mark.parametrize(
    ("mount", "wrong"),
    [
        (Mount(Path("/tmp/x/in"), "/wm"), False),
        (Mount(Path("/tmp/x/out"), "/wm"), True),
        (Mount(Path("/tmp/x/in"), "/absent"), True),
        (Volume("step-1-wm", "/wm"), True),
    ],
)
def test_where_a_mount_leads(mount: Mount | Volume, wrong: bool) -> None:
    assert misplaced(mountinfo.parse(MOUNTS), mountinfo.parse(OURS), [mount]) == ({mount.target} if wrong else set())


def test_a_volume_is_known_by_its_name() -> None:
    seen = mountinfo.parse("89 72 254:0 /var/lib/docker/volumes/step-1-wm/_data /wm ro - ext4 /dev/vda rw")
    assert misplaced(seen, (), [Volume("step-1-wm", "/wm")]) == set()
    assert misplaced(seen, (), [Volume("step-2-wm", "/wm")]) == {"/wm"}


@pytest.mark.parametrize(
    ("lines", "present", "expected"),
    [
        ("", {"/proc/keys", "/proc/sys"}, {"/proc/keys", "/proc/sys"}),
        ("", set(), set()),
        ("1 2 0:1 /null /proc/keys rw - tmpfs tmpfs rw\n", {"/proc/keys"}, set()),
        ("1 2 0:1 /sys /proc/sys rw - proc proc rw\n", {"/proc/sys"}, {"/proc/sys"}),
        ("1 2 0:1 /sys /proc/sys ro - proc proc rw\n", {"/proc/sys"}, set()),
    ],
)
def test_what_of_the_kernel_is_exposed(lines: str, present: set[str], expected: set[str]) -> None:
    assert exposed(mountinfo.parse(lines), present) == expected


def test_the_lists_do_not_overlap() -> None:
    assert not set(MASKED) & set(READ_ONLY)


def test_this_process_shares_every_namespace_with_itself() -> None:
    seen = effective.read(os.getpid(), Cgroup.of(os.getpid()), ())
    assert seen.own
    assert not any(seen.own.values())
    assert seen.foreign == {mount.target for mount in seen.mounts or ()}


@pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces needs root")
@pytest.mark.parametrize(
    ("flag", "name"), [("--net", "net"), ("--uts", "uts"), ("--ipc", "ipc"), ("--mount", "mnt"), ("--cgroup", "cgroup")]
)
def test_one_namespace_of_its_own_is_seen_as_one(flag: str, name: str) -> None:
    with subprocess.Popen(
        ["unshare", flag, "sh", "-c", "echo made; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == b"made\n"
        own = effective.read(child.pid, None, ()).own or {}
        child.communicate(b"\n")
    assert {key for key, apart in own.items() if apart} == {name}


@pytest.mark.docker
def test_reading_costs_little(box: Callable[..., Any]) -> None:
    """A loose bound: on a machine that does nothing else it is under 2 ms."""
    made = box("true", policy="paranoid").park()
    request, pid = made.container.request, int(made.container._engine.state(made.container.id)["Pid"])
    times = []
    for _ in range(20):
        began = time.perf_counter()
        effective.read(pid, made.container.cgroup, request.mounts)
        times.append(time.perf_counter() - began)
    assert sorted(times)[len(times) // 2] < 0.05
