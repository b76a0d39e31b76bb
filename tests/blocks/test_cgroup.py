"""The kernel's account of a container, in both versions of its files; real ones from a real container."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks.cgroup import Cgroup, Limits, Usage, belongs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ID = "51241ce20cd61b1f4b5f3ea4a3d8e0c2f9f7f1a7d0b1c2d3e4f5a6b7c8d9e0f1"

# /proc/PID/cgroup of a container's first process: kernel 6.18, version 1, cgroupfs driver.
VERSION_1 = f"""\
11:pids:/docker/{ID}
10:memory:/docker/{ID}
9:freezer:/docker/{ID}
8:devices:/docker/{ID}
7:cpuset:/docker/{ID}
6:cpuacct:/docker/{ID}
5:cpu:/docker/{ID}
4:blkio:/docker/{ID}
1:name=systemd:/docker/{ID}
0::/docker/{ID}
"""

# The same where systemd mounts two controllers together (Debian 10, CentOS 7).
VERSION_1_JOINED = f"4:cpu,cpuacct:/docker/{ID}\n3:memory:/docker/{ID}\n2:pids:/docker/{ID}\n1:name=systemd:/x\n"

VERSION_2 = f"0::/system.slice/docker-{ID}.scope\n"

OOM_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
MEMORY_EVENTS = "low 0\nhigh 0\nmax 47\noom 3\noom_kill 2\noom_group_kill 0\n"
CPU_STAT = "usage_usec 340120\nuser_usec 300000\nsystem_usec 40120\nnr_periods 4\nnr_throttled 0\nthrottled_usec 0\n"

# A paranoid container's files: 256m, no swap, half a core, 64 processes. Version 1 read here, version 2 as systemd's
# driver writes it on Debian 12 (kernel documentation, cgroup-v2.rst, for the words).
LIMITS_1 = {
    "memory/memory.limit_in_bytes": "268435456\n",
    "memory/memory.memsw.limit_in_bytes": "268435456\n",
    "cpu/cpu.cfs_quota_us": "50000\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "pids/pids.max": "64\n",
    "devices/devices.list": "b *:* m\nc *:* m\nc 1:3 rwm\nc 136:* rwm\n",
}
LIMITS_2 = {"memory.max": "268435456\n", "memory.swap.max": "0\n", "cpu.max": "50000 100000\n", "pids.max": "64\n"}

# The same of a container without any limit. Version 1 has no word for that: it is the largest number of whole pages.
UNLIMITED_1 = {
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/memory.memsw.limit_in_bytes": "9223372036854771712\n",
    "cpu/cpu.cfs_quota_us": "-1\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "pids/pids.max": "max\n",
    "devices/devices.list": "a *:* rwm\n",
}
UNLIMITED_2 = {"memory.max": "max\n", "memory.swap.max": "max\n", "cpu.max": "max 100000\n", "pids.max": "max\n"}


def lay(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def legacy(tmp_path: Path) -> Cgroup:
    below = f"docker/{ID}"
    lay(
        tmp_path,
        {
            f"memory/{below}/memory.max_usage_in_bytes": "52428800\n",
            f"memory/{below}/memory.oom_control": OOM_CONTROL,
            f"cpuacct/{below}/cpuacct.usage": "340120000\n",
            f"pids/{below}/pids.peak": "7\n",
        },
    )
    found = Cgroup.parse(VERSION_1, tmp_path)
    assert found
    return found


@pytest.fixture
def unified(tmp_path: Path) -> Cgroup:
    below = f"system.slice/docker-{ID}.scope"
    files = {"memory.peak": "52428800\n", "memory.events": MEMORY_EVENTS, "cpu.stat": CPU_STAT, "pids.peak": "7\n"}
    lay(tmp_path, {f"{below}/{name}": text for name, text in files.items()})
    found = Cgroup.parse(VERSION_2, tmp_path)
    assert found
    return found


def made(folder: Path, text: str, files: Mapping[str, str], below: str) -> Cgroup:
    """A cgroup whose files hold this; `below` is its path under a controller, or under the one root."""
    paths = {f"{name.rpartition('/')[0]}/{below}/{name.rpartition('/')[2]}": body for name, body in files.items()}
    lay(folder, {path.lstrip("/"): body for path, body in paths.items()})
    found = Cgroup.parse(text, folder)
    assert found
    return found


@pytest.mark.parametrize(
    ("text", "below", "bounded", "unbounded"),
    [
        (VERSION_1, f"docker/{ID}", LIMITS_1, UNLIMITED_1),
        (VERSION_2, f"system.slice/docker-{ID}.scope", LIMITS_2, UNLIMITED_2),
    ],
    ids=["version 1", "version 2"],
)
def test_limits_of_both_versions(
    tmp_path: Path, text: str, below: str, bounded: dict[str, str], unbounded: dict[str, str]
) -> None:
    size = 256 * 2**20
    limits = made(tmp_path / "a", text, bounded, below).limits()
    assert (limits.memory, limits.memory_and_swap, limits.cpus, limits.pids) == (size, size, 0.5, 64)
    none = made(tmp_path / "b", text, unbounded, below).limits()
    assert (none.memory, none.memory_and_swap, none.cpus, none.pids) == (math.inf,) * 4
    legacy = text == VERSION_1
    assert limits.devices == (frozenset({"b *:* m", "c *:* m", "c 1:3 rwm", "c 136:* rwm"}) if legacy else None)
    assert none.devices == (frozenset({"a *:* rwm"}) if legacy else None)


@pytest.mark.parametrize(
    ("text", "below", "files", "expected"),
    [
        # Swap accounting is off: the kernel has no file, and that is not "no limit".
        (VERSION_1, f"docker/{ID}", {"memory/memory.limit_in_bytes": "4096\n"}, Limits(memory=4096)),
        (VERSION_2, f"system.slice/docker-{ID}.scope", {"memory.max": "4096\n"}, Limits(memory=4096)),
        (VERSION_2, f"system.slice/docker-{ID}.scope", {"cpu.max": "\n", "pids.max": "many\n"}, Limits()),
        (VERSION_2, f"system.slice/docker-{ID}.scope", {"memory.max": "9\n", "memory.swap.max": "3\n"}, Limits(9, 12)),
    ],
)
def test_limits_that_the_kernel_does_not_tell_are_left_out(
    tmp_path: Path, text: str, below: str, files: dict[str, str], expected: Limits
) -> None:
    assert made(tmp_path, text, files, below).limits() == expected


def test_a_process_of_another_container_is_not_taken_for_ours(tmp_path: Path) -> None:
    """Its number may have been given to somebody else since the engine told it."""
    lay(tmp_path, {"7/cgroup": VERSION_1})
    assert belongs(7, ID, proc=tmp_path)
    assert not belongs(7, "0" * 64, proc=tmp_path)
    assert not belongs(8, ID, proc=tmp_path)


@pytest.mark.parametrize("version", ["legacy", "unified"])
def test_both_versions_tell_the_same(version: str, request: pytest.FixtureRequest) -> None:
    cgroup: Cgroup = request.getfixturevalue(version)
    assert cgroup.unified == (version == "unified")
    usage = cgroup.usage()
    assert usage == Usage(52428800, 7, pytest.approx(0.34012), 2)


@pytest.mark.parametrize("version", ["legacy", "unified"])
def test_what_the_kernel_does_not_tell_is_left_out(
    version: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """No `memory.peak` before Linux 5.19, no `pids.peak` before 6.6; and a cgroup that has gone has nothing."""
    cgroup: Cgroup = request.getfixturevalue(version)
    for name in ("memory.peak", "memory.max_usage_in_bytes", "pids.peak"):
        for path in tmp_path.rglob(name):
            path.unlink()
    assert cgroup.usage() == Usage(None, None, pytest.approx(0.34012), 2)
    for path in tmp_path.rglob("*.*"):
        if path.is_file():
            path.unlink()
    assert cgroup.usage() == Usage()


def test_controllers_that_are_mounted_together_are_found(tmp_path: Path) -> None:
    cgroup = Cgroup.parse(VERSION_1_JOINED, tmp_path)
    assert cgroup
    assert cgroup.paths["cpuacct"] == tmp_path / "cpuacct/docker" / ID


@pytest.mark.parametrize("text", ["", "garbage\n", "3:cpu:/docker/x\n2:pids:/docker/x\n"])
def test_a_text_without_memory_is_no_cgroup_of_ours(text: str) -> None:
    assert Cgroup.parse(text) is None


def test_a_process_that_is_gone_has_none(tmp_path: Path) -> None:
    assert Cgroup.of(123, proc=tmp_path) is None


@pytest.mark.docker
def test_what_a_container_used_is_what_it_did(box: Callable[..., Any]) -> None:
    """About 50 MB and about 0.3 CPU-s, beside what an interpreter takes. Asked again where the kernel was faster."""
    work = (
        "import time; b = bytearray(50_000_000); b[::4096] = b'x' * len(b[::4096])\n"
        "end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass"
    )
    for _ in range(5):
        ending = box("python3", "-c", work).park().go()
        usage = ending.usage
        if usage.peak_memory is not None:
            break
    assert ending.exit_code == 0
    assert usage.peak_memory
    assert 50_000_000 < usage.peak_memory < 90_000_000
    assert usage.cpu_seconds
    assert 0.3 < usage.cpu_seconds < 0.8
    assert usage.peak_pids is None or 2 <= usage.peak_pids < 20
    assert usage.oom_kills == 0
