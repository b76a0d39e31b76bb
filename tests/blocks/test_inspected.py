"""The engine's word in the kernel's words: what Docker and Podman answer, and what each leaves unsaid."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from workflowmaster.blocks.capabilities import EVERY, mask
from workflowmaster.blocks.effective import MASKED, READ_ONLY
from workflowmaster.blocks.inspected import DEFAULT_CAPABILITIES, told
from workflowmaster.blocks.mountinfo import at
from workflowmaster.blocks.request import Mount, Volume

# What Docker Engine 20.10.24 answers for a `hardened` container; parts that nobody reads are left out.
DOCKER: dict[str, Any] = {
    "HostConfig": {
        "NetworkMode": "none",
        "CapAdd": None,
        "CapDrop": ["ALL"],
        "CgroupnsMode": "private",
        "IpcMode": "private",
        "PidMode": "",
        "Privileged": False,
        "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges:true", 'seccomp={"defaultAction":"SCMP_ACT_ERRNO"}'],
        "Tmpfs": {"/tmp": "rw,nosuid,nodev,noexec,size=134217728,mode=1777,nr_inodes=8192"},
        "UTSMode": "",
        "ShmSize": 16777216,
        "Runtime": "runc",
        "Memory": 1073741824,
        "NanoCpus": 1000000000,
        "CpuPeriod": 0,
        "CpuQuota": 0,
        "Devices": None,
        "DeviceCgroupRules": None,
        "DeviceRequests": None,
        "MemorySwap": 1073741824,
        "PidsLimit": 256,
        "Ulimits": [
            {"Name": "nofile", "Hard": 1024, "Soft": 1024},
            {"Name": "core", "Hard": 0, "Soft": 0},
            {"Name": "memlock", "Hard": 65536, "Soft": 65536},
        ],
        "MaskedPaths": [
            *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
            *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
        ],
        "ReadonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        "Init": True,
    },
    "Mounts": [
        {"Type": "bind", "Source": "/tmp/x/in", "Destination": "/wm", "Mode": "", "RW": False, "Propagation": "rprivate"},
        {"Type": "bind", "Source": "/tmp/x/out", "Destination": "/out", "Mode": "", "RW": True, "Propagation": "rprivate"},
        {"Type": "volume", "Name": "bd93", "Source": "/var/lib/docker/volumes/bd93/_data", "Destination": "/data", "RW": True},
        {"Type": "tmpfs", "Source": "", "Destination": "/usr/share/doc", "Mode": "", "RW": False},
    ],
    "NetworkSettings": {"Networks": {"none": {"Gateway": ""}}},
    "AppArmorProfile": "",
    "Config": {"User": "1000:1000"},
}  # fmt: skip

# What Podman 4.3.1 answers over Docker's API where it differs: everything spelled out, or not at all.
PODMAN_HOST = {
    "CapDrop": [f"CAP_{name}" for name in DEFAULT_CAPABILITIES if name != "CHOWN"],
    "CapAdd": [],
    "CgroupnsMode": None,
    "Init": None,
    "SecurityOpt": ["no-new-privileges"],
    "Ulimits": [{"Name": "RLIMIT_NOFILE", "Hard": 1024, "Soft": 1024}],
    "MaskedPaths": None,
    "ReadonlyPaths": None,
}
MOUNTS = (Mount(Path("/tmp/x/in"), "/wm"), Mount(Path("/tmp/x/out"), "/out", writable=True))


def answer(**host: Any) -> dict[str, Any]:
    return {**DOCKER, "HostConfig": {**DOCKER["HostConfig"], **host}}


def test_dockers_answer() -> None:
    seen = told(DOCKER, MOUNTS)
    assert (seen.uids, seen.gids, seen.bounding, seen.granted) == (frozenset({1000}), frozenset({1000}), 0, None)
    assert (seen.no_new_privileges, seen.seccomp, seen.profile) == (True, True, '{"defaultAction":"SCMP_ACT_ERRNO"}')
    assert (seen.memory, seen.memory_and_swap, seen.cpus, seen.pids) == (2**30, 2**30, 1.0, 256)
    assert seen.rlimits == {"nofile": 1024, "core": 0, "memlock": 65536}
    assert (seen.init, seen.runtime, seen.apparmor) == ("init", "runc", "")
    assert seen.own == dict.fromkeys(("pid", "ipc", "uts", "net", "mnt", "cgroup"), True)
    assert seen.interfaces == {"lo"}
    assert (seen.exposed, seen.devices, seen.misplaced) == (frozenset(), frozenset(), frozenset())
    assert seen.foreign == {"/wm", "/out", "/data"}


def test_dockers_mounts_are_spelled_as_the_kernel_would() -> None:
    mounts = told(DOCKER, MOUNTS).mounts or ()
    found = {one.target: one for one in mounts}
    assert set(found) == {"/", "/tmp", "/dev/shm", "/wm", "/out", "/data", "/usr/share/doc"}
    assert [target for target, one in found.items() if one.writable] == ["/tmp", "/dev/shm", "/out", "/data"]
    assert (found["/tmp"].size, found["/tmp"].detail("nr_inodes")) == (128 * 2**20, "8192")
    assert {"nosuid", "nodev", "noexec"} <= found["/tmp"].options
    assert found["/dev/shm"].size == 16 * 2**20


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (Mount(Path("/tmp/x/in"), "/wm"), set()),
        (Mount(Path("/tmp/y/in"), "/wm"), {"/wm"}),
        (Mount(Path("/tmp/x/in"), "/absent"), {"/absent"}),
        (Volume("bd93", "/data"), set()),
        (Volume("other", "/data"), {"/data"}),
    ],
)
def test_mounts_are_compared_by_source(asked: Mount | Volume, wrong: set[str]) -> None:
    assert told(DOCKER, [asked]).misplaced == wrong


def test_podmans_answer_leaves_unsaid_what_it_does_not_say() -> None:
    seen = told(answer(**PODMAN_HOST), MOUNTS)
    assert seen.bounding == mask(["CHOWN"])
    assert seen.no_new_privileges is True
    assert (seen.profile, seen.init, seen.exposed) == (None, None, None)
    assert "cgroup" not in (seen.own or {})
    assert seen.rlimits == {"nofile": 1024}


@pytest.mark.parametrize(
    ("host", "field", "expected"),
    [
        ({"Memory": 0}, "memory", math.inf),
        ({"MemorySwap": -1}, "memory_and_swap", math.inf),
        ({"NanoCpus": 0}, "cpus", math.inf),
        ({"NanoCpus": 0, "CpuQuota": 50000}, "cpus", 0.5),
        ({"NanoCpus": 0, "CpuQuota": 50000, "CpuPeriod": 25000}, "cpus", 2.0),
        ({"PidsLimit": None}, "pids", math.inf),
        ({"PidsLimit": -1}, "pids", math.inf),
        ({"CapAdd": ["cap_chown", "KILL"]}, "bounding", mask(["CHOWN", "KILL"])),
        ({"CapAdd": ["ALL"]}, "bounding", mask(EVERY)),
        ({"CapDrop": None}, "bounding", mask(DEFAULT_CAPABILITIES)),
        ({"Privileged": True}, "bounding", mask(EVERY)),
        ({"Privileged": True}, "exposed", frozenset((*MASKED, *READ_ONLY))),
        ({"Privileged": True}, "seccomp", False),
        ({"SecurityOpt": ["seccomp=unconfined"]}, "seccomp", False),
        ({"SecurityOpt": None}, "no_new_privileges", False),
        ({"SecurityOpt": ["no-new-privileges:false"]}, "no_new_privileges", False),
        ({"MaskedPaths": []}, "exposed", frozenset({"/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"})),
        ({"Devices": [{"PathOnHost": "/dev/sda"}]}, "devices", frozenset({"/dev/sda"})),
        ({"DeviceRequests": [{"Driver": "nvidia"}]}, "devices", frozenset({"nvidia"})),
        ({"DeviceCgroupRules": ["b 8:* rwm"]}, "devices", frozenset({"b 8:* rwm"})),
        ({"NetworkMode": "host"}, "interfaces", frozenset({"lo", "host"})),
        ({"Init": False}, "init", "none"),
        ({"Runtime": "runsc"}, "runtime", "runsc"),
        ({"Ulimits": [{"Name": "core", "Hard": -1}]}, "rlimits", {"core": math.inf}),
        ({"Ulimits": None}, "rlimits", {}),
    ],
)
def test_one_word_changed(host: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(told(answer(**host), MOUNTS), field) == expected


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ({"PidMode": "host"}, "pid"),
        ({"PidMode": "container:abc"}, "pid"),
        ({"IpcMode": "host"}, "ipc"),
        ({"UTSMode": "host"}, "uts"),
        ({"NetworkMode": "container:abc"}, "net"),
        ({"CgroupnsMode": "host"}, "cgroup"),
    ],
)
def test_a_namespace_that_is_shared(host: dict[str, Any], name: str) -> None:
    own = told(answer(**host), MOUNTS).own or {}
    assert {key for key, apart in own.items() if not apart} == {name}


@pytest.mark.parametrize(("user", "uids"), [("", {0}), ("0", {0}), ("1000", {1000}), ("step", None), ("7:8", {7})])
def test_who_it_runs_as(user: str, uids: set[int] | None) -> None:
    """A name stands in the image's own list of users: the engine does not say whom it means."""
    assert told({**DOCKER, "Config": {"User": user}}, ()).uids == uids


@pytest.mark.parametrize(("profile", "expected"), [("docker-default", "docker-default"), ("unconfined", ""), ("", "")])
def test_confinement(profile: str, expected: str) -> None:
    assert told({**DOCKER, "AppArmorProfile": profile}, ()).apparmor == expected


def test_without_shared_memory_there_is_no_mount_of_it() -> None:
    assert at(told(answer(IpcMode="none"), ()).mounts or (), "/dev/shm") is None


def test_an_empty_answer_promises_nothing() -> None:
    seen = told({}, MOUNTS)
    assert (seen.memory, seen.pids, seen.cpus) == (math.inf,) * 3
    assert (seen.uids, seen.no_new_privileges, seen.init) == (frozenset({0}), False, None)
    assert seen.misplaced == {"/wm", "/out"}
