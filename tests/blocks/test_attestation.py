"""Attestation against the real engine: every policy is kept, and every container that is too weak is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks import effective
from workflowmaster.blocks.attestation import Observed, attest
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.controls import CONTROLS
from workflowmaster.blocks.effective import Effective
from workflowmaster.blocks.inspected import told
from workflowmaster.blocks.request import SCRATCH, WORKSPACE, ContainerRequest, Mount
from workflowmaster.policies import PolicyError, SecurityPolicy, seccomp_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflowmaster.blocks.engine import Engine

pytestmark = pytest.mark.docker

RAN = "touch /out/ran"


class Loosened(Container):
    """A container that an engine would make if it heard other words than ours."""

    def __init__(
        self, engine: Engine, request: ContainerRequest, change: Callable[[dict[str, Any], dict[str, Any]], None]
    ):
        super().__init__(engine, request)
        self.change = change

    def _arguments(self, request: ContainerRequest) -> tuple[dict[str, Any], dict[str, Any]]:
        config, host = super()._arguments(request)
        self.change(config, host)
        return config, host


def says(**host: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Have the engine hear these host options in place of ours."""
    return lambda _config, ours: ours.update(host)


def adds(mount: dict[str, Any]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda _config, host: host["mounts"].append(mount)


def limit(**changed: int) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(_config: dict[str, Any], host: dict[str, Any]) -> None:
        for one in host["ulimits"]:
            one["Soft"] = one["Hard"] = changed.get(one["Name"], one["Hard"])

    return change


def options(change: Callable[[list[str]], list[str]]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda _config, host: host.update(security_opt=change(host["security_opt"]))


def tmpfs(text: str, target: str = SCRATCH) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda _config, host: host["tmpfs"].update({target: text})


def writable_wm(_config: dict[str, Any], host: dict[str, Any]) -> None:
    host["mounts"][0]["ReadOnly"] = False


def other_wm(_config: dict[str, Any], host: dict[str, Any]) -> None:
    host["mounts"][0]["Source"] = "/etc"


UNFILTERED = ["no-new-privileges:true", "seccomp=unconfined"]
OTHER_TIER = ["no-new-privileges:true", "seccomp=" + seccomp_text(policies.load("minimal"))]
BIND = {"Type": "bind", "ReadOnly": True}
NO_EXEC = "rw,nosuid,nodev,noexec,mode=1777"
GB = 2**30

# What is changed → (policy, the change, exactly the controls that must be named).
WEAKER: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, Any]], None], set[str]]] = {
    "root": ("standard", lambda config, _host: config.update(user="0:0"), {"user"}),
    "a group of the host": ("standard", says(group_add=["27"]), {"user"}),
    "a capability": ("standard", says(cap_add=["NET_RAW"]), {"capabilities"}),
    "all but one of the policy's": ("minimal", says(cap_add=["CHOWN"]), {"capabilities"}),
    "new privileges": ("standard", options(lambda ours: ours[1:]), {"no_new_privileges"}),
    "no seccomp": ("standard", says(security_opt=UNFILTERED), {"seccomp", "seccomp_profile"}),
    "another profile": ("hardened", says(security_opt=OTHER_TIER), {"seccomp_profile"}),
    "no init": ("standard", says(init=False), {"init"}),
    "a root that can be written": ("standard", says(read_only=False), {"root_filesystem", "other_mounts"}),
    "no tmpfs": ("hardened", says(tmpfs={}), {"tmp"}),
    "a larger tmpfs": ("hardened", tmpfs(f"{NO_EXEC},size=256m,nr_inodes=8192"), {"tmp"}),
    "a tmpfs that runs programs": ("hardened", tmpfs("rw,nosuid,nodev,exec,size=64m,nr_inodes=8192"), {"tmp"}),
    "a tmpfs without a count": ("hardened", tmpfs(f"{NO_EXEC},size=64m"), {"tmp"}),
    "a workspace": ("paranoid", adds({**BIND, "Source": "/usr", "Target": WORKSPACE}), {"workspace", "other_mounts"}),
    "a /wm that can be written": ("standard", writable_wm, {"mounts"}),
    "a /wm that is another folder": ("standard", other_wm, {"mounts"}),
    "a volume": ("standard", adds({"Type": "volume", "Target": "/data"}), {"other_mounts"}),
    "a tmpfs more": ("standard", tmpfs("rw,size=1m", "/run"), {"other_mounts"}),
    "a folder of the host": ("minimal", adds({**BIND, "Source": "/etc", "Target": "/host"}), {"other_mounts"}),
    "the engine's socket": ("minimal", adds({**BIND, "Source": "/var/run/docker.sock", "Target": "/s"}), {"mounts", "other_mounts"}),
    "bare kernel paths": ("standard", says(MaskedPaths=[], ReadonlyPaths=[]), {"kernel_paths"}),
    "a device": ("standard", says(devices=["/dev/loop-control:/dev/loop-control:rwm"]), {"devices"}),
    "more memory": ("paranoid", says(mem_limit=GB, memswap_limit=GB), {"memory", "swap"}),
    "no limit of memory": ("paranoid", says(mem_limit=None, memswap_limit=None), {"memory", "swap"}),
    "swap beside it": ("paranoid", says(memswap_limit=GB), {"swap"}),
    "more time": ("paranoid", says(nano_cpus=1_500_000_000), {"cpus"}),
    "all the time": ("paranoid", says(nano_cpus=None), {"cpus"}),
    "more processes": ("paranoid", says(pids_limit=65), {"pids"}),
    "any number of processes": ("paranoid", says(pids_limit=-1), {"pids"}),
    "more files": ("standard", limit(nofile=4097), {"nofile"}),
    "core dumps": ("standard", limit(core=-1), {"core"}),
    "locked memory": ("standard", limit(memlock=65537), {"memlock"}),
    "more shared memory": ("hardened", says(shm_size=32 * 2**20), {"shm"}),
    "shared memory at all": ("paranoid", says(ipc_mode="private"), {"shm"}),
    "the host's shared memory": ("minimal", says(ipc_mode="host"), {"ipc", "shm"}),
    "the host's processes": ("standard", says(pid_mode="host"), {"pid_namespace", "init"}),
    "the host's name": ("standard", says(uts_mode="host"), {"uts_namespace"}),
    "the host's network": ("minimal", says(network_mode="host"), {"network_namespace", "other_mounts"}),
    "a network": ("standard", says(network_mode="bridge"), {"network"}),
}  # fmt: skip


@pytest.fixture
def loosened(box: Callable[..., Any], engine: Engine) -> Callable[..., Any]:
    """Make a container under a policy whose engine hears something else."""

    def make(policy: str | SecurityPolicy, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Any:
        made = box("sh", "-c", RAN, policy=policy)
        made.container = Loosened(engine, made.container.request, change)
        return made

    return make


@pytest.mark.parametrize("case", WEAKER)
def test_a_weaker_container_is_refused_by_its_control(
    case: str, loosened: Callable[..., Any], exists: Callable[[str], bool]
) -> None:
    policy, change, expected = WEAKER[case]
    made = loosened(policy, change)
    with pytest.raises(PolicyError) as refused:
        made.park()
    assert {finding.control for finding in refused.value.findings} == expected
    assert f"policy {policy} cannot be kept here, so {made.container.request.name} was removed" in str(refused.value)
    for finding in refused.value.findings:
        assert f"  {finding.control} is weaker than declared: declared " in str(refused.value)
        assert "; " in finding.detail, "it must say what to do"
    assert not exists(made.container.request.name)
    assert list(made.exchange.outward.iterdir()) == []


def test_a_privileged_container_breaks_nearly_all_of_it(loosened: Callable[..., Any]) -> None:
    with pytest.raises(PolicyError) as refused:
        loosened("hardened", says(privileged=True)).park()
    named = {finding.control for finding in refused.value.findings}
    assert named >= {"capabilities", "seccomp", "kernel_paths", "devices", "other_mounts"}


def test_every_control_but_one_has_been_seen_to_refuse() -> None:
    """No option of the engine gives a container our mount namespace; the pure tests judge that one."""
    provoked = set().union(*(expected for _, _, expected in WEAKER.values()))
    recorded = {"cgroup_namespace", "apparmor", "runtime"}
    assert {one.name for one in CONTROLS} - provoked - recorded == {"mount_namespace", "secrets"}


@pytest.mark.parametrize("name", policies.available())
def test_every_policy_is_kept_on_this_engine(name: str, box: Callable[..., Any], engine: Engine) -> None:
    made = box("true", policy=name).park()
    attested, policy = made.container.attested, policies.load(name)
    assert attested.weaker == ()
    assert attested.told == ("seccomp_profile",)
    asked = {one.name for one in CONTROLS if one.promised(made.container.request)}
    absent = {finding.control for finding in attested.absent}
    assert set(attested.enforced) == asked - absent - {"seccomp_profile"}
    has = {"apparmor": "apparmor" in engine.info.security, "runtime": bool(engine.info.gvisor)}
    wants = {"apparmor": policy.apparmor != "none", "runtime": policy.runtime != "runc"}
    assert absent == {name for name, wanted in wants.items() if wanted and not has[name]}
    assert made.go().exit_code == 0


def test_a_cgroup_namespace_that_is_not_to_be_had_is_recorded(loosened: Callable[..., Any]) -> None:
    made = loosened("hardened", says(cgroupns="host")).park()
    absent = [finding for finding in made.container.attested.absent if finding.control == "cgroup_namespace"]
    assert [finding.detail for finding in absent] == ["wanted a namespace of its own, found that of the host"]
    assert made.go().exit_code == 0


@pytest.mark.parametrize(
    ("field", "value", "control"), [("apparmor", "require", "apparmor"), ("runtime", "gvisor", "runtime")]
)
def test_what_a_policy_insists_on_is_refused_before_anything_is_created(
    field: str, value: str, control: str, box: Callable[..., Any], engine: Engine, exists: Callable[[str], bool]
) -> None:
    if "apparmor" in engine.info.security or engine.info.gvisor:
        pytest.skip("this engine has it")
    made = box("true", policy=policies.load("hardened").model_copy(update={field: value}))
    with pytest.raises(PolicyError, match="was not created") as refused:
        made.park()
    assert [finding.control for finding in refused.value.findings] == [control]
    assert not exists(made.container.request.name)


@pytest.fixture(scope="module")
def image_with_volumes(engine: Engine, image_id: str) -> Any:
    """Our image, with two of its directories declared as volumes."""
    made = engine.client.create_container(image_id, ["true"])["Id"]
    tag = f"workflowmaster-test/volumes:{os.getpid()}"
    name, _, version = tag.partition(":")
    committed = engine.client.commit(made, name, version, changes=["VOLUME /data /usr/share/doc"])["Id"]
    engine.remove(made)
    yield committed
    engine.client.remove_image(tag, force=True)


def test_an_images_volumes_are_no_way_to_write(box: Callable[..., Any], image_with_volumes: str) -> None:
    made = box(
        "sh", "-c", "touch /data/x || ls -A /data /usr/share/doc", policy="standard", image_id=image_with_volumes
    )
    assert made.park().container.attested.weaker == ()
    assert made.go().exit_code == 0
    assert b"Read-only file system" in made.output or b"Permission denied" in made.output


def test_an_images_volume_that_can_be_written_is_refused_by_name(
    box: Callable[..., Any], engine: Engine, image_with_volumes: str
) -> None:
    made = box("true", policy="standard", image_id=image_with_volumes)
    uncovered = lambda _config, host: host.update(mounts=host["mounts"][:2])  # noqa: E731 - as the table has them
    made.container = Loosened(engine, made.container.request, uncovered)
    with pytest.raises(PolicyError) as refused:
        made.park()
    (finding,) = refused.value.findings
    assert finding.control == "other_mounts"
    assert f"/data, a writable volume that image {image_with_volumes[:19]} declares" in finding.detail


def test_where_the_root_can_be_written_a_volume_of_the_image_is_nothing_more(
    box: Callable[..., Any], image_with_volumes: str
) -> None:
    made = box("true", policy="minimal", image_id=image_with_volumes).park()
    assert "other_mounts" in made.container.attested.enforced


def test_secrets_have_a_place_of_their_own(box: Callable[..., Any]) -> None:
    made = box("true", policy="paranoid", secrets=("TOKEN",)).park()
    assert "secrets" in made.container.attested.enforced
    assert made.container.attested.weaker == ()


def test_a_bind_is_known_by_where_it_leads_and_not_by_its_name(box: Callable[..., Any], tmp_path: Path) -> None:
    """A symlink to the folder is the folder; another folder under the right target is refused."""
    real, link = tmp_path / "real folder", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    made = box("true", policy="standard")
    made.container.request = replace(made.container.request, mounts=(*made.exchange.mounts, Mount(link, "/data")))
    assert "mounts" in made.park().container.attested.enforced


def test_the_engines_word_alone_is_recorded_as_such(box: Callable[..., Any], engine: Engine) -> None:
    made = box("true", policy="hardened").park()
    request = made.container.request
    word = told(engine.inspect(made.container.id), request.mounts)
    attested = attest(request, Observed(None, word), engine.info)
    assert attested.weaker == ()
    assert attested.enforced == ()
    assert set(attested.told) == {*made.container.attested.enforced, "seccomp_profile"}


@pytest.mark.parametrize("case", sorted(set(WEAKER) - {"a group of the host", "root"}))
def test_the_engines_word_shows_what_it_was_told(case: str, loosened: Callable[..., Any], engine: Engine) -> None:
    """Weaker than the kernel's account, but what was asked for differently is seen there as well."""
    policy, change, expected = WEAKER[case]
    made = loosened(policy, change)
    container = made.container
    config, host = container._arguments(container.request)
    container.id = engine.create(container.request.name, config, host)
    word = told(engine.inspect(container.id), container.request.mounts)
    named = {one.control for one in attest(container.request, Observed(None, word), engine.info).weaker}
    assert named
    assert named <= expected | {"other_mounts", "mounts"}


def test_another_user_reads_nearly_all_of_it(box: Callable[..., Any], engine: Engine, nobody: Any) -> None:
    """A foreign uid's namespace links are closed to who is not root: three controls are then the engine's word."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    made = box("true", policy="hardened").park()
    request = made.container.request
    pid = int(engine.state(made.container.id)["Pid"])
    word, info = told(engine.inspect(made.container.id), request.mounts), engine.info

    def look() -> None:
        seen = effective.read(pid, made.container.cgroup, request.mounts)
        attested = attest(request, Observed(seen, word), info)
        assert attested.weaker == ()
        (nobody.folder / "told").write_text(" ".join(attested.told))

    assert nobody.run(look) == ""
    assert (nobody.folder / "told").read_text().split() == [
        "seccomp_profile",
        "ipc",
        "uts_namespace",
        "cgroup_namespace",
    ]


def test_a_container_that_is_gone_cannot_be_read(box: Callable[..., Any], engine: Engine) -> None:
    made = box("true", policy="standard").park()
    pid = int(engine.state(made.container.id)["Pid"])
    cgroup = made.container.cgroup
    made.container.remove()
    with pytest.raises((ProcessLookupError, FileNotFoundError)):
        effective.read(pid, cgroup, ())


def test_nothing_is_enforced_by_an_unknown_engine(image_id: str, engine: Engine) -> None:
    request = ContainerRequest("n", image_id, policies.load("minimal"), ("true",))
    attested = attest(request, Observed(None, Effective()), engine.info)
    assert attested.enforced == attested.told == ()
    assert {"memory", "user", "seccomp"} <= {finding.control for finding in attested.weaker}
    assert "nobody tells" in attested.weaker[0].detail


@pytest.mark.parametrize(("change", "weaker"), [(says(), set()), (says(pids_limit=-1), {"pids"})])
def test_a_corpse_is_judged_by_the_engines_word(
    change: Callable[..., None], weaker: set[str], loosened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that has ended shows no limits any more: that is no weakness, and hides none."""
    made = loosened("standard", change)

    def dying(*_: object) -> Effective:
        made.container.kill()
        return Effective(memory=float("inf"), rlimits={}, mounts=())

    monkeypatch.setattr(effective, "read", dying)
    named: set[str] = set()
    try:
        made.park()
    except PolicyError as refused:
        named = {finding.control for finding in refused.findings}
    assert named == weaker
    assert made.container.attested.enforced == ()
    assert "memory" in made.container.attested.told
