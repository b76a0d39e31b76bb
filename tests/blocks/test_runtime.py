"""Which runtime and confinement is asked for, and what is refused before anything is tried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workflowmaster import policies
from workflowmaster.blocks.arguments import create_arguments
from workflowmaster.blocks.engine import EngineInfo
from workflowmaster.blocks.request import ContainerRequest, Mount
from workflowmaster.blocks.runtime import confinement_for, is_gvisor, lacking, pids_granted, runtime_for

BARE = EngineInfo(
    version="20.10.24",
    api="1.41",
    cpus=2,
    memory=8 << 30,
    cgroup="1",
    storage="overlay2",
    security=("seccomp",),
    runtimes=("io.containerd.runc.v2", "runc"),
    root="/var/lib/docker",
    local=True,
)
FULL = replace(BARE, security=("apparmor", "seccomp"), runtimes=("runc", "runsc"))
HARDENED = policies.load("hardened")


def policy(**changed: str) -> policies.SecurityPolicy:
    return HARDENED.model_copy(update=changed)


@pytest.mark.parametrize(
    ("wanted", "bare", "full"), [("runc", None, None), ("prefer-gvisor", None, "runsc"), ("gvisor", None, "runsc")]
)
def test_gvisor_is_asked_for_where_it_is(wanted: str, bare: str | None, full: str | None) -> None:
    assert runtime_for(policy(runtime=wanted), BARE) == bare
    assert runtime_for(policy(runtime=wanted), FULL) == full


@pytest.mark.parametrize("wanted", ["none", "prefer", "require"])
def test_apparmor_is_asked_for_only_where_the_host_has_it(wanted: str) -> None:
    """An engine on a host without it accepts the word silently."""
    assert confinement_for(policy(apparmor=wanted), BARE) is None
    assert confinement_for(policy(apparmor=wanted), FULL) == (None if wanted == "none" else "docker-default")


@pytest.mark.parametrize(
    ("changed", "info", "controls"),
    [
        ({"apparmor": "require", "runtime": "gvisor"}, FULL, []),
        ({"apparmor": "prefer", "runtime": "prefer-gvisor"}, BARE, []),
        ({"apparmor": "require"}, BARE, ["apparmor"]),
        ({"runtime": "gvisor"}, BARE, ["runtime"]),
        ({"apparmor": "require", "runtime": "gvisor"}, BARE, ["apparmor", "runtime"]),
        ({}, replace(BARE, security=()), ["seccomp"]),
    ],
)
def test_what_an_engine_lacks(changed: dict[str, str], info: EngineInfo, controls: list[str]) -> None:
    found = lacking(policy(**changed), info)
    assert [finding.control for finding in found] == controls
    assert all("; " in finding.detail for finding in found), "it must say what to do"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("runsc", True), ("runsc-kvm", True), ("gvisor", True), ("runc", False), ("crun", False), (None, False)],
)
def test_names_of_gvisor(name: str | None, expected: bool) -> None:
    assert is_gvisor(name) == expected


def test_gvisors_threads_are_granted_where_it_runs() -> None:
    paranoid = policies.load("paranoid")
    assert (pids_granted(paranoid, gvisor=False), pids_granted(paranoid, gvisor=True)) == (64, 256)
    assert pids_granted(policies.load("standard"), gvisor=True) == 512


def test_the_engine_is_told() -> None:
    request = ContainerRequest("n", "sha256:0", policies.load("paranoid"), ("true",))
    _, bare = create_arguments(request, BARE)
    _, full = create_arguments(request, FULL)
    assert ("runtime" in bare, bare["pids_limit"], bare["cgroupns"]) == (False, 64, "private")
    assert (full["runtime"], full["pids_limit"]) == ("runsc", 256)
    assert not [option for option in bare["security_opt"] if option.startswith("apparmor")]
    assert "apparmor=docker-default" in full["security_opt"]


@pytest.mark.parametrize(
    ("name", "covered"), [("standard", ["/data"]), ("paranoid", ["/data"]), ("minimal", []), ("development", [])]
)
def test_volumes_of_an_image_are_covered_where_nothing_may_be_written(name: str, covered: list[str]) -> None:
    mounts = (Mount(policies.model.FOLDER, "/wm"),)
    request = ContainerRequest("n", "sha256:0", policies.load(name), ("true",), mounts)
    _, host = create_arguments(request, BARE, volumes=("/data", "/tmp", "/wm/"))
    more = host["mounts"][1:]
    assert [mount["Target"] for mount in more] == covered
    assert all(mount["Type"] == "tmpfs" and mount["ReadOnly"] for mount in more)
