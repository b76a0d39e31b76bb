"""That every control of every policy arrives in a real container: read inside it, on this host and from the engine."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks.arguments import create_arguments
from workflowmaster.blocks.engine import EngineInfo
from workflowmaster.blocks.request import ContainerRequest, Mount
from workflowmaster.policies import SecurityPolicy, seccomp_text

if TYPE_CHECKING:
    from collections.abc import Callable

docker = pytest.mark.docker

INFO = EngineInfo(
    version="20.10.24",
    api="1.41",
    cpus=2,
    memory=8 << 30,
    cgroup="1",
    storage="overlay2",
    security=("seccomp",),
    runtimes=("runc",),
    root="/var/lib/docker",
    local=True,
)

PROBE = """
import json, os, resource, subprocess
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
def able(path):
    try:
        open(path, "w").close()
        return True
    except OSError as error:
        return error.strerror
def runs(path):
    try:
        with open(path, "w") as file:
            file.write("#!/bin/sh\\nexit 7\\n")
        os.chmod(path, 0o755)
        return subprocess.run([path]).returncode
    except OSError as error:
        return error.strerror
print(json.dumps({
    "status": {name: value.strip() for name, value in status.items()},
    "mounts": open("/proc/self/mountinfo").read().splitlines(),
    "limits": {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name.upper())) for name in ("nofile", "core", "memlock")},
    "networks": sorted(n for n in os.listdir("/sys/class/net") if open(f"/sys/class/net/{n}/operstate").read() != "down\\n"),
    "pid1": open("/proc/1/comm").read().strip(),
    "processes": [open(f"/proc/{pid}/comm").read().strip() for pid in os.listdir("/proc") if pid.isdigit()],
    "root": able("/probe"),
    "tmp": runs("/tmp/probe"),
    "wm": able("/wm/probe"),
    "out": able("/out/probe"),
    "argv": open("/proc/1/cmdline").read(),
    "cwd": os.getcwd(),
}))
"""


class Seen:
    """One container of a policy, as it is seen from inside, from this host and by the engine."""

    def __init__(self, made: Any, engine: Any) -> None:
        self.policy: SecurityPolicy = made.container.request.policy
        self.request: ContainerRequest = made.container.request
        self.inspect = engine.client.inspect_container(made.container.id)
        self.cgroup = {name: _controls(path) for name, path in made.container.cgroup.paths.items() if "=" not in name}
        made.exchange.write({}, {"work": PROBE})
        ending = made.container.run(30, made.take)
        assert ending.exit_code == 0, made.output.decode()
        self.inside: dict[str, Any] = json.loads(made.output)
        self.mounts = {row.split()[4]: row for row in self.inside["mounts"]}


def _controls(folder: Path) -> dict[str, str]:
    wanted = re.compile(r"memory\.(limit_in_bytes|memsw\.limit_in_bytes|max|swap\.max)|pids\.max|cpu\.(cfs_.*_us|max)")
    return {path.name: path.read_text().strip() for path in folder.iterdir() if wanted.fullmatch(path.name)}


@pytest.fixture(scope="module", params=policies.names())
def seen(request: pytest.FixtureRequest, make_box: Callable[..., Any], engine: Any) -> Seen:
    made = make_box("python3", "/wm/work", policy=request.param).park()
    found = Seen(made, engine)
    made.container.remove()
    return found


def mask(names: tuple[str, ...]) -> int:
    numbers = {
        "CHOWN": 0,
        "DAC_OVERRIDE": 1,
        "FOWNER": 3,
        "FSETID": 4,
        "KILL": 5,
        "SETGID": 6,
        "SETUID": 7,
        "NET_BIND_SERVICE": 10,
    }
    return sum(1 << numbers[name] for name in names)


@docker
def test_privileges_are_what_the_policy_says(seen: Seen) -> None:
    status = seen.inside["status"]
    assert int(status["CapBnd"], 16) == mask(seen.policy.capabilities)
    # A user other than root holds none of what is in the bounding set.
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [0, 0, 0, 0]
    assert status["NoNewPrivs"] == str(int(seen.policy.no_new_privileges))
    assert status["Seccomp"] == "2"
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1000"] * 4
    assert status["Groups"].split() in ([], ["1000"])


@docker
def test_file_systems_are_what_the_policy_says(seen: Seen) -> None:
    root = seen.mounts["/"].split()[5].split(",")
    assert seen.policy.root_filesystem in root
    assert seen.inside["root"] == (
        "Read-only file system" if seen.policy.root_filesystem == "ro" else "Permission denied"
    )
    assert seen.inside["wm"] == "Read-only file system"
    assert seen.inside["out"] is True
    tmp = seen.policy.tmp
    assert ("/tmp" in seen.mounts) == (tmp is not None)
    if tmp is None:
        return
    mount, _, file_system = seen.mounts["/tmp"].partition(" - ")
    assert {"rw", "nosuid", "nodev"} <= set(mount.split()[5].split(","))
    assert ("noexec" in mount.split()[5].split(",")) == (not tmp.exec)
    assert seen.inside["tmp"] == (7 if tmp.exec else "Permission denied")
    assert f"size={tmp.size // 1024}k" in file_system
    assert "mode=1777" in file_system or "mode" not in file_system
    assert (f"nr_inodes={tmp.inodes}" in file_system) == (tmp.inodes is not None)


@docker
def test_limits_are_what_the_policy_says(seen: Seen, engine: Any) -> None:
    policy, cpus = seen.policy, min(seen.policy.cpus, engine.info.cpus)
    if engine.info.cgroup == "1":
        memory = seen.cgroup["memory"]
        assert int(memory["memory.limit_in_bytes"]) == policy.memory
        assert int(memory["memory.memsw.limit_in_bytes"]) == policy.memory
        cpu = seen.cgroup["cpu"]
        assert int(cpu["cpu.cfs_quota_us"]) / int(cpu["cpu.cfs_period_us"]) == pytest.approx(cpus)
        assert int(seen.cgroup["pids"]["pids.max"]) == policy.pids
    else:
        controls = seen.cgroup[""]
        assert (int(controls["memory.max"]), controls["memory.swap.max"]) == (policy.memory, "0")
        quota, period = map(int, controls["cpu.max"].split())
        assert quota / period == pytest.approx(cpus)
        assert int(controls["pids.max"]) == policy.pids
    expected = {name: [getattr(policy, name)] * 2 for name in ("nofile", "core", "memlock")}
    assert seen.inside["limits"] == expected
    shm = seen.mounts.get("/dev/shm", "")
    assert (f"size={policy.shm // 1024}k" in shm) if policy.shm else shm == ""


@docker
def test_the_network_is_what_the_policy_says(seen: Seen) -> None:
    """Under a policy with a proxy, what is let through comes to its loopback: it has no other interface."""
    assert seen.inside["networks"] == (["eth0", "lo"] if seen.policy.network == "bridge" else ["lo"])


@docker
def test_an_init_reaps_and_only_its_own_processes_are_seen(seen: Seen) -> None:
    assert seen.inside["pid1"] == ("docker-init" if seen.policy.init else "sh")
    assert sorted(seen.inside["processes"]) == sorted(["python3", "sh", *(["docker-init"] if seen.policy.init else [])])


@docker
def test_the_container_carries_its_labels_and_a_log_that_an_adopter_can_read(seen: Seen) -> None:
    assert (
        seen.inspect["Config"]["Labels"].items()
        >= {f"workflowmaster.{k}": v for k, v in seen.request.labels.items()}.items()
    )
    assert seen.inspect["Name"] == f"/{seen.request.name}"
    log = seen.inspect["HostConfig"]["LogConfig"]
    assert log["Type"] == "local"
    assert int(log["Config"]["max-size"].rstrip("m")) << 20 > seen.policy.output_cap * (13 + 25) / 13
    assert seen.inside["cwd"] == "/tmp"


@pytest.mark.parametrize("name", policies.names())
def test_no_policy_asks_for_more_than_it_says(name: str) -> None:
    """What no test can see from inside: options that would widen a container, and those an engine ignores."""
    policy = policies.load(name)
    request = ContainerRequest("n", "sha256:0", policy, ("true",), labels={"workflow": "w"})
    config, host = create_arguments(request, INFO)
    assert host["cap_drop"] == ["ALL"]
    assert "seccomp=" + seccomp_text(policy) in host["security_opt"]
    assert host["memswap_limit"] == host["mem_limit"]
    assert host["nano_cpus"] <= INFO.cpus * 1_000_000_000
    assert "cpu_count" not in host
    assert not {"privileged", "devices", "pid_mode", "userns_mode", "volumes_from", "cgroup_parent", "binds"} & set(
        host
    )
    assert config["healthcheck"] == {"test": ["NONE"]}
    assert config["stdin_open"] is True
    assert not config.get("tty")


@docker
def test_a_mount_with_a_colon_arrives(sh: Callable[..., Any], tmp_path: Path) -> None:
    odd = tmp_path / 'a:b, c"d'
    odd.mkdir()
    odd.chmod(0o755)
    (odd / "file").write_text("there")
    made = sh("cat /data/file; echo x >/data/new")
    made.container.request = replace(made.container.request, mounts=(*made.exchange.mounts, Mount(odd, "/data")))
    ending = made.park().go()
    assert bytes(made.output).startswith(b"there")
    assert b"Read-only file system" in made.output
    assert ending.exit_code == 2
