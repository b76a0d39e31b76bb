"""The policies as Prefect blocks: what a document may change, what it runs, and that a server gives it back."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from workflowmaster import policies
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.sandbox import DockerHost, DockerSandbox, SandboxRun
from workflowmaster.flows import documents
from workflowmaster.flows.embedded import EmbeddedServer
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OTHER_DOCUMENT = "for-one-flow"


# --- what a document may say ---


def test_every_field_is_described_where_operators_see_it() -> None:
    """Prefect shows the docstring and the fields' descriptions in its UI."""
    assert DockerSandbox.__doc__
    for name, field in DockerSandbox.model_fields.items():
        assert f"    {name}: " in DockerSandbox.__doc__
        assert field.description or name == "host"
    assert DockerSandbox.get_description() == "Runs a command in a container of its own, under a named security policy."
    assert (DockerSandbox.get_block_type_slug(), DockerHost.get_block_type_slug()) == (
        "docker-sandbox",
        "workflowmaster-docker-host",
    )


@pytest.mark.parametrize("block", [DockerSandbox, DockerHost])
def test_an_unknown_field_is_an_error(block: type[Any]) -> None:
    with pytest.raises(ValidationError, match="memory_limit"):
        block(memory_limit="1g")


@pytest.mark.parametrize("name", policies.names())
def test_a_document_as_it_is_saved_stands_for_its_policy(name: str) -> None:
    assert DockerSandbox(policy=name).effective() == policies.load(name)


def test_a_tightened_field_takes_effect() -> None:
    block = DockerSandbox(
        policy="standard", limits={"memory": "256m", "network": "none", "tmp": {"size": "16m", "exec": False}}
    )
    found = block.effective()
    assert (found.memory, found.network, found.tmp.exec) == (256 * 1024**2, "none", False)
    assert found.name == "standard"
    assert policies.looser(found, policies.load("standard")) == ()
    assert found.hash != policies.load("standard").hash


def test_a_loosened_field_needs_a_reason() -> None:
    block = DockerSandbox(policy="hardened", limits={"network": "bridge", "memory": "2g"})
    with pytest.raises(PolicyError) as caught:
        block.effective()
    said = str(caught.value)
    assert said.startswith("block docker-sandbox/hardened grants more than policy hardened")
    assert "network: bridge instead of none" in said
    assert "memory: 2g > 1g" in said
    assert "fill in its field `reason`" in said
    with pytest.raises(PolicyError):
        block.model_copy(update={"reason": "  \n"}).effective()
    allowed = block.model_copy(update={"reason": "the model server is on the host"}).effective()
    assert (allowed.network, allowed.reason) == ("bridge", "the model server is on the host")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"memroy": "1g"}, "limits.memroy is no control of a policy; did you mean 'memory'?"),
        ({"memory": "lots"}, "memory: Value error, 'lots' is no size"),
        ({"seccomp": "none"}, "seccomp: Input should be 'S0'"),
        ({"tmp": {"size": "1m"}}, "tmp.exec: Field required"),
        ({"tmp": None}, "nothing else would be writable"),
        # Whose limits these are is not for them to say.
        ({"name": "paranoid"}, "limits.name is no control"),
        ({"reason": "because"}, "limits.reason is no control"),
        ({"extends": "minimal"}, "limits.extends is no control"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match="block docker-sandbox/standard") as caught:
        DockerSandbox(policy="standard", limits=limits).effective()
    assert words in str(caught.value)


def test_a_policy_that_does_not_exist() -> None:
    with pytest.raises(PolicyError, match="did you mean 'hardened'"):
        DockerSandbox(policy="hardend").effective()


# --- what it runs ---


def folder_of(run: SandboxRun) -> Path:
    return run._log.parent


@pytest.mark.docker
@pytest.mark.parametrize("name", ["minimal", "standard", "paranoid"])
def test_a_command_runs_and_its_output_is_fetched(engine: Any, name: str, wait_until: Callable[..., Any]) -> None:
    block = DockerSandbox(policy=name, command=["sh", "-c", "id -u; pwd; echo x=1 >$WM_OUTPUT; echo oops >&2"])

    async def use() -> tuple[SandboxRun, str]:
        run = await block.trigger()
        await run.wait_for_completion()
        return run, await run.fetch_result()

    run, text = asyncio.run(use())
    assert text.splitlines()[1:] == ["/tmp", "oops"]
    assert (200_000 <= int(text.splitlines()[0]) < 260_000) == (policies.load(name).user == "unique" and is_root())
    assert run.ending.exit_code == 0
    assert engine.containers(workflow="sandbox") == []
    folder = folder_of(run)
    assert folder.stat().st_mode & 0o077 == 0
    del run
    wait_until(lambda: gc.collect() is not None and not folder.exists())


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signed_images: Callable[[Path], None]) -> Path:
    """A state directory that has signed the step image, as `image build` leaves it."""
    home = tmp_path / "state"
    home.mkdir()
    signed_images(home)
    monkeypatch.setenv("WORKFLOWMASTER_HOME", str(home))
    return home


@pytest.mark.docker
def test_an_image_that_nobody_has_signed_is_refused(state: Path) -> None:
    shutil.rmtree(state / "images")
    with pytest.raises(
        PolicyError, match="block docker-sandbox/hardened: policy 'hardened' wants images that are signed"
    ):
        asyncio.run(DockerSandbox(policy="hardened", command=["true"]).trigger())


@pytest.mark.docker
def test_an_image_that_the_policy_does_not_name_is_refused(engine: Any, image_id: str) -> None:
    engine.client.tag(image_id, "somebody/else", "1")
    try:
        with pytest.raises(PolicyError, match="does not allow the image 'somebody/else:1'"):
            asyncio.run(DockerSandbox(command=["true"], image="somebody/else:1").trigger())
    finally:
        engine.client.remove_image("somebody/else:1")


def is_root() -> bool:
    return os.geteuid() == 0


AS_A_USER = """
import asyncio, os, sys, tempfile
from workflowmaster.blocks.sandbox import DockerSandbox
async def use():
    script = "id -u; mkdir /out/workspace; umask 077; echo mine >/out/outputs; mkdir /out/shut; touch /out/shut/x"
    run = await DockerSandbox(policy=sys.argv[1], command=["sh", "-c", script]).trigger()
    await run.wait_for_completion()
    return run, await run.fetch_result()
if os.geteuid() == 0:
    asyncio.run(use())  # root's Python may lie where nobody else reads: what is imported late is imported now
    os.setgroups([os.stat("/var/run/docker.sock").st_gid])
    os.setresgid(65533, 65533, 65533)
    os.setresuid(65533, 65533, 65533)
os.environ["HOME"] = tempfile.tempdir = tempfile.mkdtemp(dir="/tmp")
run, text = asyncio.run(use())
print(text.strip(), os.geteuid(), tempfile.tempdir)
"""


@pytest.mark.docker
@pytest.mark.parametrize("name", ["standard", "hardened"])
def test_a_user_who_is_not_root_leaves_nothing_behind_either(engine: Any, name: str, state: Path) -> None:
    """Under `hardened` the container has a uid of its own, whose closed files only the engine can hand over."""
    if is_root():
        for place in (*state.parents[:3], state, *state.rglob("*")):
            place.chmod(place.stat().st_mode | 0o011)
        for place in (state, *state.rglob("*")):
            os.chown(place, 65533, 65533)
            place.chmod(0o700 if place.is_dir() else 0o600)
    done = subprocess.run([sys.executable, "-c", AS_A_USER, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    inside, outside, folder = done.stdout.split()
    assert os.listdir(folder) == []
    os.rmdir(folder)
    assert (inside == outside) == (name == "standard")
    assert engine.containers(workflow="sandbox") == []


@pytest.mark.docker
@pytest.mark.parametrize(
    ("command", "seconds", "words"),
    [
        (["sh", "-c", "echo why; exit 3"], None, "exit 3"),
        (["no-such-command"], None, "a command was not found in the image"),
        (["sleep", "60"], 0.5, "it ran longer than 0.5 s"),
    ],
)
def test_a_failed_command_says_why(engine: Any, command: list[str], seconds: float | None, words: str) -> None:
    block = DockerSandbox(command=command, timeout_seconds=seconds)

    async def use() -> str:
        run = await block.trigger()
        with pytest.raises(RuntimeError, match=words):
            await run.wait_for_completion()
        return await run.fetch_result()

    text = asyncio.run(use())
    assert ("why" in text) == (command[0] == "sh")
    assert engine.containers(workflow="sandbox") == []


@pytest.mark.docker
def test_a_command_that_fills_the_disk_is_stopped(engine: Any) -> None:
    script = "while :; do head -c 1000000 /dev/zero >> /out/x; sleep 0.02; done"
    block = DockerSandbox(command=["sh", "-c", script], limits={"disk": "20m"})

    async def use() -> None:
        run = await block.trigger()
        with pytest.raises(RuntimeError, match="its files grew by more than policy standard allows"):
            await run.wait_for_completion()

    asyncio.run(use())


@pytest.mark.docker
def test_it_runs_without_being_waited_for(engine: Any) -> None:
    """`trigger` starts it; who waits later, even in another event loop, gets the same."""
    run = asyncio.run(DockerSandbox(command=["echo", "done"]).trigger())
    run._done.result(30)
    assert engine.containers(workflow="sandbox") == []
    assert asyncio.run(run.fetch_result()) == "done\n"
    asyncio.run(run.wait_for_completion())


@pytest.mark.docker
def test_a_tightened_document_runs_under_what_it_says() -> None:
    """64 MB instead of the policy's 2 GB: the same command runs under one and not under the other."""
    command = ["python3", "-c", "b = bytearray(200_000_000)"]

    async def use(limits: dict[str, Any]) -> None:
        run = await DockerSandbox(command=command, limits=limits).trigger()
        await run.wait_for_completion()

    asyncio.run(use({}))
    with pytest.raises(RuntimeError, match="it ran out of memory under policy standard"):
        asyncio.run(use({"memory": "64m"}))


@pytest.mark.docker
def test_what_cannot_run_is_refused_before_anything_is_made(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cases: list[tuple[DockerSandbox, type[Exception], str]] = [
        (DockerSandbox(), ValueError, "no command to run"),
        (DockerSandbox(command=["true"], image="wm-test/not-there:1"), SandboxUnavailable, "never pulled"),
        (DockerSandbox(command=["true"], limits={"pids": 10_000}), PolicyError, "gives no reason"),
        (
            DockerSandbox(command=["true"], host=DockerHost(url="unix:///no/such.sock")),
            SandboxUnavailable,
            "DOCKER_HOST",
        ),
    ]
    for block, error, words in cases:
        with pytest.raises(error, match=words):
            asyncio.run(block.trigger())
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert engine.containers(workflow="sandbox") == []


# --- on a server ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ready_database: Callable[[Path], None]) -> Iterator[None]:
    """A real Prefect server of this file's own, because its documents are edited here."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    home = tmp_path_factory.mktemp("server")
    ready_database(home)
    own = EmbeddedServer(home).start()
    try:
        with temporary_settings({PREFECT_API_URL: own.wait_ready()}):
            yield
    finally:
        own.stop(wait=True)


async def save_tightened() -> dict[str, DockerSandbox]:
    first = await documents.save()
    again = await documents.save()
    assert (set(first.values()), set(again.values())) == ({"saved"}, {"kept"})
    assert tuple(first) == policies.names()
    block = await DockerSandbox.aload("standard")
    block.limits = {"memory": "1g", "tmp": {"size": "16m", "exec": False}}
    await block.asave("standard", overwrite=True)
    await DockerSandbox(policy="hardened", limits={"network": "bridge"}, host=DockerHost(url="unix:///x")).asave(
        "hardened", overwrite=True
    )
    await DockerSandbox(policy="standard", limits={"memory": "64m"}).asave(OTHER_DOCUMENT)
    return await documents.saved()


@pytest.mark.prefect
def test_documents_come_back_as_an_operator_left_them(server: None) -> None:
    assert asyncio.run(documents.saved()) == {}, "before `workflowmaster init`"
    saved = asyncio.run(save_tightened())
    assert set(saved) == set(policies.names())
    standard = saved["standard"].effective()
    assert (standard.memory, standard.tmp.exec) == (1 << 30, False), "and not what another document says"
    with pytest.raises(PolicyError, match="grants more than policy hardened"):
        saved["hardened"].effective()
    assert saved["hardened"].host == DockerHost(url="unix:///x")
    assert saved["paranoid"].effective() == policies.load("paranoid")


@pytest.mark.prefect
def test_force_takes_an_operators_change_back(server: None) -> None:
    async def use() -> dict[str, DockerSandbox]:
        await documents.save()
        await DockerSandbox(policy="testing", limits={"pids": 16}).asave("testing", overwrite=True)
        assert set((await documents.save(force=True)).values()) == {"saved"}
        return await documents.saved()

    saved = asyncio.run(use())
    assert [name for name, block in saved.items() if block.limits] == []
    assert set(saved) == set(policies.names())


@pytest.mark.prefect
def test_a_document_that_stands_for_another_policy_is_refused(server: None) -> None:
    async def use() -> None:
        await documents.save()
        await DockerSandbox(policy="minimal").asave("paranoid", overwrite=True)
        try:
            await documents.saved()
        finally:
            await DockerSandbox(policy="paranoid").asave("paranoid", overwrite=True)

    with pytest.raises(PolicyError, match="docker-sandbox/paranoid stands for policy minimal"):
        asyncio.run(use())


@pytest.mark.prefect
def test_one_document_round_trip(server: None) -> None:
    async def use() -> tuple[DockerSandbox, DockerSandbox]:
        block = DockerSandbox(
            policy="minimal",
            limits={"pids": 99, "environment": ["A", "B*"]},
            reason="why",
            host=DockerHost(url="tcp://engine:2376"),
            image="python:3.12",
            command=["pytest", "-q"],
            timeout_seconds=12.5,
        )
        await block.asave("mine", overwrite=True)
        return block, await DockerSandbox.aload("mine")

    block, loaded = asyncio.run(use())
    assert loaded.model_dump(exclude={"host"}) == block.model_dump(exclude={"host"})
    assert loaded.host.url == "tcp://engine:2376"
    assert loaded.effective() == block.effective()
