"""The sandbox on Podman's Docker-compatible socket: every policy holds there too, or the step is refused.

`scripts/engines start` sets one up; where none answers the tests are skipped, but those of the translation, which need
none.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks.accent import CLOSED, PROCESSES, for_podman, profile_path, volume_options
from workflowmaster.blocks.arguments import create_arguments
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import Engine, EngineInfo, SandboxUnavailable
from workflowmaster.blocks.request import SCRATCH, ContainerRequest, Volume

SOCKET = Path(os.environ.get("WORKFLOWMASTER_ENGINES", "/var/tmp/workflowmaster-engines")) / "podman.sock"
ANSWERS = pytest.mark.skipif(not SOCKET.exists(), reason=f"no Podman at {SOCKET}: scripts/engines start")

PODMAN = EngineInfo(
    version="4.3.1",
    api="1.41",
    cpus=2,
    memory=1 << 34,
    cgroup="1",
    storage="overlay",
    security=("seccomp",),
    runtimes=("crun", "kata", "krun", "runc", "runj", "runsc"),
    root="/var/lib/containers/storage",
    local=True,
    flavour="podman",
)

# --- the translation ---


def request(policy: str, **changed: Any) -> ContainerRequest:
    given = {"name": "x", "image_id": "sha256:1", "policy": policies.load(policy), "argv": ("true",)}
    return ContainerRequest(**{**given, **changed})


@pytest.mark.parametrize("policy", policies.names())
def test_nothing_is_granted_that_docker_would_not(policy: str) -> None:
    _, docker = create_arguments(request(policy), replace(PODMAN, flavour="docker", runtimes=("runc",)))
    _, podman = create_arguments(request(policy), PODMAN)
    changed = {name for name in {*docker, *podman} if docker.get(name) != podman.get(name)}
    assert changed <= {"cap_add", "security_opt", "ulimits", "log_config", "tmpfs", "binds"}
    assert podman["cap_add"] == []
    assert podman["security_opt"][-1] == f"seccomp={profile_path(policies.load(policy))}"
    assert podman["ulimits"] == [*docker["ulimits"], {"Name": "nproc", "Soft": PROCESSES, "Hard": PROCESSES}]
    assert all(podman["tmpfs"][place] == said for place, said in docker["tmpfs"].items())
    closed = {place for place, said in podman["tmpfs"].items() if said == CLOSED}
    assert closed == ({"/run", "/var/tmp"} if docker["read_only"] else set())


def test_a_bounded_tmpfs_becomes_a_volume_and_keeps_its_flags() -> None:
    asked = request("paranoid", memory=(Volume("v", SCRATCH, writable=True),))
    _, host = create_arguments(asked, PODMAN)
    assert SCRATCH not in host["tmpfs"]
    assert host["binds"] == [f"v:{SCRATCH}:rw,nosuid,nodev,noexec"]


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("rw,nosuid,nodev,exec,size=4096,mode=1777", None),
        ("rw,noexec,size=8192,nr_inodes=9,mode=1777", "nr_blocks=2,nr_inodes=9,mode=1777"),
        ("rw,noexec,uid=7,gid=8,size=65536,nr_inodes=9,mode=0700", "uid=7,gid=8,nr_blocks=16,nr_inodes=9,mode=0700"),
    ],
)
def test_options_of_a_tmpfs_in_the_words_of_a_volume(said: str, options: str | None) -> None:
    wanted = None if options is None else {"type": "tmpfs", "device": "tmpfs", "o": options}
    assert volume_options(said) == wanted


def test_a_remote_one_is_refused_because_it_reads_profiles_from_its_own_disk() -> None:
    with pytest.raises(SandboxUnavailable, match="a remote one cannot be held to a policy's") as caught:
        for_podman({}, request("standard"), replace(PODMAN, local=False))
    assert caught.value.reason == "unsupported"


def test_the_runtimes_it_lists_are_none_it_can_be_asked_for() -> None:
    assert PODMAN.gvisor is None
    assert replace(PODMAN, flavour="docker").gvisor == "runsc"


def test_the_profile_is_a_file_that_is_there() -> None:
    for name in policies.names():
        assert Path(profile_path(policies.load(name))).read_bytes()


# --- the real one ---


@pytest.fixture(scope="module")
def podman() -> Iterator[Engine]:
    made = Engine(f"unix://{SOCKET}")
    yield made
    made.close()


@pytest.fixture
def there(sh: Callable[..., Any], podman: Engine) -> Iterator[Callable[..., Any]]:
    """Make containers on Podman that run a script; nothing of them may stay."""
    made: list[tuple[Any, Container, Container]] = []
    workflow = f"test-podman-{secrets.token_hex(4)}"
    image = podman.image_id("workflowmaster/step:1")

    def make(script: str, **changed: Any) -> Any:
        box = sh(script, labels={"workflow": workflow}, image_id=image, **changed)
        made.append((box, Container(podman, box.container.request), box.container))
        box.container = made[-1][1]
        return box

    yield make
    for box, container, local in made:
        container.remove()
        box.container = local
    assert (podman.containers(workflow=workflow), podman.volumes(workflow=workflow)) == ([], [])


@ANSWERS
def test_it_is_known_by_what_it_says(podman: Engine) -> None:
    assert (podman.info.flavour, podman.info.local) == ("podman", True)


LOOK = """
id -u; grep -E 'Cap(Eff|Bnd|Amb)|NoNewPrivs|^Seccomp:' /proc/self/status; ulimit -n
for place in /run /var/tmp /etc /wm; do touch $place/x 2>/dev/null && echo "$place is writable"; done
cp /bin/true /tmp/t && /tmp/t && echo runs; df -k /tmp | tail -1; df -i /tmp | tail -1
"""


@ANSWERS
@pytest.mark.parametrize("policy", policies.names())
def test_every_policy_holds_by_the_kernels_word(there: Callable[..., Any], policy: str) -> None:
    wanted, box = policies.load(policy), there(LOOK, policy=policy)
    box.park()
    attested = box.container.attested
    assert attested.weaker == ()
    assert {"capabilities", "seccomp", "tmp", "memory", "pids", "other_mounts"} - {"tmp"} <= set(attested.enforced)
    assert attested.told == ("seccomp_profile",)
    assert box.go().exit_code == 0, box.output
    said = box.output.decode()
    assert said.startswith("1000\n")
    assert {line.split()[1] for line in said.splitlines() if line.startswith("Cap")} == {"0000000000000000"}
    assert ("is writable" in said) is (wanted.root_filesystem == "rw")
    assert ("runs" in said) is (wanted.tmp is None or wanted.tmp.exec)
    if wanted.tmp and wanted.tmp.inodes:
        kilobytes, inodes = (int(line.split()[1]) for line in said.splitlines()[-2:])
        assert (kilobytes, inodes) == (wanted.tmp.size // 1024, wanted.tmp.inodes)


@ANSWERS
def test_values_streams_and_exit_codes_come_through(there: Callable[..., Any]) -> None:
    box = there('printf %s "$V"; echo err >&2; echo out=1 >$WM_OUTPUT; exit 7')
    ended = box.park().go(V="it's\n$x `id`", WM_OUTPUT="/out/outputs")
    assert (ended.exit_code, ended.timed_out, ended.oom_killed) == (7, False, False)
    assert box.output.decode() == "it's\n$x `id`err\n"
    assert box.exchange.outputs() == {"out": "1"}
    assert ended.usage.peak_memory


@ANSWERS
@pytest.mark.parametrize("shell", ["", "exec "], ids=["a child", "the command itself"])
def test_out_of_memory_is_known_by_the_cgroup_where_the_engine_forgets_it(
    there: Callable[..., Any], shell: str
) -> None:
    ended = there(f"{shell}python3 -c 'b = bytearray(10**10)'", policy="paranoid").park().go()
    assert (ended.exit_code, ended.oom_killed) == (137, True)


@ANSWERS
def test_the_wall_time_and_the_output_cap_end_it(there: Callable[..., Any]) -> None:
    ended = there("sleep 60").park().go(seconds=0.5)
    assert ended.timed_out
    assert ended.seconds < 20
    box = there("yes")
    ended = box.park().go(sink=lambda data: box.take(data) and len(box.output) < 100_000)
    assert (ended.capped, ended.exit_code) == (True, 137)


@ANSWERS
def test_a_name_is_given_once_and_killing_twice_is_harmless(there: Callable[..., Any], podman: Engine) -> None:
    box = there("true").park()
    with pytest.raises(SandboxUnavailable) as caught:
        Container(podman, box.container.request).park()
    assert caught.value.reason == "conflict"
    podman.kill(box.container.id)
    assert podman.wait(box.container.id, 10) == 137
    podman.kill(box.container.id)
    podman.remove(box.container.id)
    podman.remove(box.container.id)


@ANSWERS
def test_closing_stdin_without_a_go_ends_it_with_nothing_run(there: Callable[..., Any], podman: Engine) -> None:
    box = there("touch /out/ran").park()
    box.exchange.write({}, {})
    box.container.stream.close()
    box.container.stream = None
    assert podman.wait(box.container.id, 10) == 125
    assert list(box.exchange.outward.iterdir()) == []
