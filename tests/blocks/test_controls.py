"""The comparison alone: what is as declared passes, and whatever is made weaker is named by its control."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster import policies
from workflowmaster.blocks.attestation import Attested, Observed, attest, refuse
from workflowmaster.blocks.capabilities import mask
from workflowmaster.blocks.controls import CONTROLS, ELSEWHERE
from workflowmaster.blocks.effective import Effective
from workflowmaster.blocks.engine import EngineInfo
from workflowmaster.blocks.mountinfo import MountPoint
from workflowmaster.blocks.request import OUT, SCRATCH, WORKSPACE, ContainerRequest, Mount
from workflowmaster.policies import PolicyError, seccomp_text

if TYPE_CHECKING:
    from collections.abc import Callable

INFO = EngineInfo(
    version="20.10.24",
    api="1.41",
    cpus=8,
    memory=8 << 30,
    cgroup="1",
    storage="overlay2",
    security=("seccomp", "apparmor"),
    runtimes=("runc", "runsc"),
    root="/var/lib/docker",
    local=True,
)
BARE = replace(INFO, security=("seccomp",), runtimes=("runc",))
NAMES = st.sampled_from(policies.available())
OWN = dict.fromkeys(("cgroup", "ipc", "mnt", "net", "pid", "uts"), True)


def mount(target: str, kind: str, *options: str, root: str = "/") -> MountPoint:
    flags = frozenset(option for option in options if "=" not in option)
    return MountPoint(1, "0:1", root, target, flags, kind, frozenset({"rw", *(o for o in options if "=" in o)}))


def asked(name: str, **changed: Any) -> ContainerRequest:
    # Under runc unless a test says otherwise: gVisor does some of it in its own way.
    policy = policies.load(name).model_copy(update={"runtime": "runc", **changed})
    mounts = [Mount(Path("/in"), "/wm"), Mount(Path("/out"), OUT, writable=True)]
    if policy.workspace != "none":
        mounts.append(Mount(Path("/tree"), WORKSPACE, writable=policy.workspace in ("rw", "copy")))
    return ContainerRequest("n", "sha256:0", policy, ("true",), tuple(mounts))


def ideal(request: ContainerRequest) -> Effective:
    """Exactly what a request declares."""
    policy = request.policy
    flags = ("rw", "nosuid", "nodev", "noexec")
    seen = [mount("/", "overlay", policy.root_filesystem)]
    seen += [mount(one.target, "ext4", "rw" if one.writable else "ro", root=str(one.source)) for one in request.mounts]
    if policy.tmp:
        size, inodes = f"size={policy.tmp.size}", f"nr_inodes={policy.tmp.inodes or 100000}"
        seen.append(mount(SCRATCH, "tmpfs", *flags[: 3 if policy.tmp.exec else 4], size, inodes))
    if policy.shm:
        seen.append(mount("/dev/shm", "tmpfs", *flags, f"size={policy.shm}"))
    return Effective(
        uids=frozenset({1000}),
        gids=frozenset({1000}),
        bounding=mask(policy.capabilities),
        granted=0,
        no_new_privileges=True,
        seccomp=True,
        profile=seccomp_text(policy),
        init="docker-init",
        mounts=tuple(seen),
        foreign=frozenset(one.target for one in request.mounts),
        misplaced=frozenset(),
        exposed=frozenset(),
        rlimits={"nofile": policy.nofile, "core": policy.core, "memlock": policy.memlock},
        memory=policy.memory,
        memory_and_swap=policy.memory,
        cpus=policy.cpus,
        pids=policy.pids,
        devices=frozenset(),
        own=OWN,
        interfaces=frozenset({"lo"}),
        apparmor="docker-default",
        runtime="runc" if policy.runtime == "runc" else "runsc",
    )


def judged(request: ContainerRequest, seen: Effective, info: EngineInfo = INFO) -> Attested:
    return attest(request, Observed(seen, seen), info)


def weak(request: ContainerRequest, seen: Effective, info: EngineInfo = INFO) -> set[str]:
    return {finding.control for finding in judged(request, seen, info).weaker}


def test_every_field_of_a_policy_is_attested_or_kept_elsewhere() -> None:
    names = {one.name for one in CONTROLS}
    assert len(names) == len(CONTROLS)
    assert set(policies.load("standard").controls) <= names | ELSEWHERE
    assert not names & ELSEWHERE


def test_every_fact_is_one_that_is_read() -> None:
    known = {field.name for field in fields(Effective)}
    assert {fact.partition(".")[0] for one in CONTROLS for fact in one.facts} <= known


@given(NAMES)
def test_what_is_as_declared_passes(name: str) -> None:
    request = asked(name)
    attested = judged(request, ideal(request))
    assert attested.weaker == attested.absent == attested.told == ()
    assert set(attested.enforced) == {one.name for one in CONTROLS if one.promised(request)}
    refuse(request, attested, what="was removed")


def remounted(target: str, **changed: Any) -> Callable[[Effective], dict[str, Any]]:
    """Change one mount."""
    return lambda seen: {
        "mounts": tuple(replace(one, **changed) if one.target == target else one for one in seen.mounts or ())
    }


def and_mount(*words: str, root: str = "/") -> Callable[[Effective], dict[str, Any]]:
    return lambda seen: {"mounts": (*(seen.mounts or ()), mount(*words, root=root))}


def shared(name: str) -> Callable[[Effective], dict[str, Any]]:
    return lambda _seen: {"own": {**OWN, name: False}}


def more(field: str, by: float = 1.0) -> Callable[[Effective], dict[str, Any]]:
    return lambda seen: {field: getattr(seen, field) + by}


def unlimited(*names: str) -> Callable[[Effective], dict[str, Any]]:
    return lambda _seen: dict.fromkeys(names, math.inf)


def rlimit(name: str) -> Callable[[Effective], dict[str, Any]]:
    return lambda seen: {"rlimits": {**(seen.rlimits or {}), name: math.inf}}


def now(**changed: Any) -> Callable[[Effective], dict[str, Any]]:
    return lambda _seen: changed


# Under `hardened`: what is changed → the control that must be named, alone.
WEAKENED: list[tuple[str, Callable[[Effective], dict[str, Any]], str]] = [
    ("uid 0", now(uids=frozenset({0})), "user"),
    ("two uids", now(uids=frozenset({0, 1000})), "user"),
    ("another gid", now(gids=frozenset({1000, 4})), "user"),
    ("a bounding capability", now(bounding=mask(["NET_RAW"])), "capabilities"),
    ("an effective capability", now(granted=mask(["SYS_ADMIN"])), "capabilities"),
    ("new privileges", now(no_new_privileges=False), "no_new_privileges"),
    ("no filter", now(seccomp=False), "seccomp"),
    ("another filter", now(profile="{}"), "seccomp_profile"),
    ("a shell as pid 1", now(init="sh"), "init"),
    ("a writable root", remounted("/", options=frozenset({"rw"})), "root_filesystem"),
    ("tmp on disk", remounted(SCRATCH, kind="ext4"), "tmp"),
    ("tmp with setuid", remounted(SCRATCH, options=frozenset({"rw", "nodev", "noexec"})), "tmp"),
    ("tmp with devices", remounted(SCRATCH, options=frozenset({"rw", "nosuid", "noexec"})), "tmp"),
    ("tmp with programs", remounted(SCRATCH, options=frozenset({"rw", "nosuid", "nodev"})), "tmp"),
    ("tmp without a size", remounted(SCRATCH, details=frozenset({"rw", "nr_inodes=8192"})), "tmp"),
    ("tmp without end", remounted(SCRATCH, details=frozenset({"size=0", "nr_inodes=8192"})), "tmp"),
    ("tmp with many files", remounted(SCRATCH, details=frozenset({"size=1k", "nr_inodes=8193"})), "tmp"),
    ("tmp with any files", remounted(SCRATCH, details=frozenset({"size=1k", "nr_inodes=0"})), "tmp"),
    ("a folder elsewhere", now(misplaced=frozenset({"/wm"})), "mounts"),
    ("a writable /wm", remounted("/wm", options=frozenset({"rw"})), "mounts"),
    ("the engine's socket", remounted("/wm", root="/run/docker.sock"), "mounts"),
    ("Podman's /run", and_mount("/run", "tmpfs", "rw"), "other_mounts"),
    ("Podman's /var/tmp", and_mount("/var/tmp", "tmpfs", "rw"), "other_mounts"),
    ("a volume", and_mount("/data", "ext4", "rw", root="/var/lib/docker/volumes/x/_data"), "other_mounts"),
    ("cgroups to write", and_mount("/sys/fs/cgroup/memory", "cgroup", "rw"), "other_mounts"),
    ("names to write", and_mount("/etc/hosts", "ext4", "rw"), "other_mounts"),
    ("a bare path", now(exposed=frozenset({"/proc/keys"})), "kernel_paths"),
    ("a device", now(devices=frozenset({"b 8:0 rwm"})), "devices"),
    ("every device", now(devices=frozenset({"a *:* rwm"})), "devices"),
    ("a byte more memory", more("memory", 4096), "memory"),
    ("any memory", unlimited("memory"), "memory"),
    ("swap", more("memory_and_swap", 4096), "swap"),
    ("more time", more("cpus", 0.01), "cpus"),
    ("any time", unlimited("cpus"), "cpus"),
    ("a process more", more("pids"), "pids"),
    ("files", rlimit("nofile"), "nofile"),
    ("cores", rlimit("core"), "core"),
    ("locks", rlimit("memlock"), "memlock"),
    ("no list of limits", now(rlimits={"nofile": 1, "core": 0}), "memlock"),
    ("larger shm", remounted("/dev/shm", details=frozenset({f"size={16 * 2**20 + 4096}"})), "shm"),
    ("shm with programs", remounted("/dev/shm", options=frozenset({"rw", "nosuid", "nodev"})), "shm"),
    *((f"the host's {name}", shared(name), control) for name, control in (
        ("ipc", "ipc"), ("pid", "pid_namespace"), ("uts", "uts_namespace"),
        ("mnt", "mount_namespace"), ("net", "network_namespace"),
    )),
    ("an interface", now(interfaces=frozenset({"lo", "eth0"})), "network"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "control"), [row[1:] for row in WEAKENED], ids=[row[0] for row in WEAKENED])
def test_one_weaker_fact_is_one_finding(change: Callable[[Effective], dict[str, Any]], control: str) -> None:
    request = asked("hardened")
    seen = ideal(request)
    assert weak(request, replace(seen, **change(seen))) == {control}


def test_one_row_for_every_control_that_hardened_promises() -> None:
    request = asked("hardened")
    promised = {one.name for one in CONTROLS if one.promised(request)}
    assert {row[2] for row in WEAKENED} | {"workspace", "cgroup_namespace", "apparmor"} == promised


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [("hardened", ["rw"], {"workspace", "mounts"}), ("hardened", ["ro"], set()), ("standard", ["rw"], set())],
)
def test_a_workspace_is_as_writable_as_declared(name: str, options: list[str], expected: set[str]) -> None:
    request = asked(name)
    seen = ideal(request)
    assert weak(request, replace(seen, **remounted(WORKSPACE, options=frozenset(options))(seen))) == expected


def test_no_workspace_means_no_mount_there() -> None:
    request = asked("paranoid")
    seen = ideal(request)
    named = weak(request, replace(seen, **and_mount(WORKSPACE, "ext4", "ro")(seen), foreign=frozenset({WORKSPACE})))
    assert named == {"workspace", "other_mounts"}


@pytest.mark.parametrize("name", ["minimal", "development"])
def test_where_the_root_can_be_written_volumes_change_nothing(name: str) -> None:
    request = asked(name)
    seen = ideal(request)
    volume = and_mount("/data", "ext4", "rw", root="/var/lib/docker/volumes/x/_data")(seen)
    assert weak(request, replace(seen, **volume)) == set()


@pytest.mark.parametrize(
    ("target", "kind", "root"),
    [
        ("/proc", "proc", "/"),
        ("/dev", "tmpfs", "/"),
        ("/dev/pts", "devpts", "/"),
        ("/dev/mqueue", "mqueue", "/"),
        ("/sys/fs/cgroup", "tmpfs", "/"),
        ("/proc/keys", "tmpfs", "/null"),
        ("/dev/null", "devtmpfs", "/null"),
    ],
)
def test_what_every_engine_mounts_is_no_finding(target: str, kind: str, root: str) -> None:
    request = asked("paranoid")
    seen = ideal(request)
    assert weak(request, replace(seen, **and_mount(target, kind, "rw", root=root)(seen))) == set()


LOWER = {"memory": 0.5, "memory_and_swap": 0.5, "cpus": 0.5, "pids": 0.5}


@given(NAMES, st.sampled_from(sorted(LOWER)), st.floats(0.01, 1.0))
def test_what_is_stricter_than_declared_is_no_finding(name: str, field: str, factor: float) -> None:
    request = asked(name)
    seen = ideal(request)
    assert weak(request, replace(seen, **{field: getattr(seen, field) * factor})) == set()


@given(NAMES, st.sampled_from(sorted(LOWER)), st.floats(1.001, 100.0))
def test_any_larger_limit_is_a_finding(name: str, field: str, factor: float) -> None:
    request = asked(name)
    seen = ideal(request)
    control = {"memory_and_swap": "swap"}.get(field, field)
    assert weak(request, replace(seen, **{field: getattr(seen, field) * factor})) == {control}


@given(NAMES, st.sampled_from([field.name for field in fields(Effective)]))
def test_what_the_kernel_does_not_tell_is_the_engines_word(name: str, field: str) -> None:
    request = asked(name)
    seen = ideal(request)
    attested = attest(request, Observed(replace(seen, **{field: None}), seen), INFO)
    rests = {
        one.name for one in CONTROLS if one.promised(request) and field in [f.partition(".")[0] for f in one.facts]
    }
    assert set(attested.told) == rests
    assert attested.weaker == ()
    assert not set(attested.told) & set(attested.enforced)


@given(NAMES, st.sampled_from([field.name for field in fields(Effective)]))
def test_what_nobody_tells_is_refused_or_absent(name: str, field: str) -> None:
    request = asked(name)
    seen = replace(ideal(request), **{field: None})
    attested = judged(request, seen)
    rests = {
        one.name for one in CONTROLS if one.promised(request) and field in [f.partition(".")[0] for f in one.facts]
    }
    named = {finding.control for finding in (*attested.weaker, *attested.absent)}
    assert named == rests
    assert all("nobody tells" in finding.detail for finding in attested.weaker)


@pytest.mark.parametrize(
    ("field", "value", "lack", "control"),
    [
        ("apparmor", "prefer", {"apparmor": ""}, "apparmor"),
        ("runtime", "prefer-gvisor", {"runtime": "runc"}, "runtime"),
    ],
)
def test_what_is_preferred_is_absent_only_where_the_host_lacks_it(
    field: str, value: str, lack: dict[str, str], control: str
) -> None:
    request = asked("hardened", **{field: value})
    seen = replace(ideal(request), **lack)
    assert control in {finding.control for finding in judged(request, seen, BARE).absent}
    assert weak(request, seen, BARE) == set()
    assert control in weak(request, seen, INFO), "the host has it, and the container has not"


@pytest.mark.parametrize(("field", "value", "lack"), [("apparmor", "require", ""), ("runtime", "gvisor", "runc")])
def test_what_is_required_refuses_everywhere(field: str, value: str, lack: str) -> None:
    request = asked("hardened", **{field: value})
    for info in (INFO, BARE):
        assert field in weak(request, replace(ideal(request), **{field: lack}), info)


def test_more_cores_than_the_host_has_are_not_looked_for() -> None:
    request = asked("minimal")
    one_core = replace(INFO, cpus=1)
    assert weak(request, replace(ideal(request), cpus=1.0), one_core) == set()
    assert weak(request, replace(ideal(request), cpus=1.5), one_core) == {"cpus"}


def test_gvisors_own_threads_are_granted_and_no_more() -> None:
    request = asked("paranoid", runtime="prefer-gvisor")
    assert weak(request, replace(ideal(request), pids=256)) == set()
    assert weak(request, replace(ideal(request), pids=257)) == {"pids"}
    assert "pids" in weak(request, replace(ideal(request), pids=256, runtime="runc"), BARE)


@pytest.mark.parametrize("wanted", ["prefer-gvisor", "gvisor"])
def test_what_gvisor_does_not_apply_is_absent_whoever_says_otherwise(wanted: str) -> None:
    """Its sentry is all that the kernel knows; the engine would say that the filter was asked for."""
    request = asked("paranoid", runtime=wanted)
    sentry = Effective(memory=2**28, memory_and_swap=2**28, cpus=0.5, pids=256, runtime="runsc")
    attested = attest(request, Observed(sentry, ideal(request)), INFO)
    assert attested.weaker == ()
    assert attested.enforced == ("memory", "swap", "cpus", "pids", "runtime")
    assert {finding.control for finding in attested.absent} == {"no_new_privileges", "seccomp", "seccomp_profile"}
    assert {"capabilities", "mounts", "network"} <= set(attested.told)


def test_a_refusal_says_what_was_declared_what_was_found_and_what_to_do() -> None:
    request = asked("paranoid")
    attested = judged(request, replace(ideal(request), memory=math.inf, init="sh"))
    with pytest.raises(PolicyError) as refused:
        refuse(request, attested, what="was removed before any of the step's code ran")
    assert str(refused.value).splitlines() == [
        "policy paranoid cannot be kept here, so n was removed before any of the step's code ran:",
        "  init is weaker than declared: declared an init as pid 1, found sh; install the engine's init (docker-init, catatonit)",
        "  memory is weaker than declared: declared 256m, found unlimited; give the engine this cgroup controller, or use one that has it",
    ]
    assert refused.value.findings == attested.weaker
