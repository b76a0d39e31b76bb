"""A container before its go, between go and removal, and when it cannot be had: nothing runs early or stays behind."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.blocks.container import Container
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.request import Mount
from workflowmaster.blocks.wrapper import LONGEST_ENVIRONMENT, LONGEST_VALUE, environment_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

docker = pytest.mark.docker

NASTY: Mapping[str, str] = {
    "EMPTY": "",
    "QUOTES": """it's "quoted" `twice` $(id) $HOME \\ \\\\ !""",
    "LINES": "first\nsecond\n\nfourth\n",
    "UNICODE": "žluťoučký 🐎 \u200b",
    "CONTROL": "tab\there\rreturn \x1e\x1f\x01",
    "BYTES": b"not \xff\xfe UTF-8".decode("utf-8", "surrogateescape"),
    "SECRET": "s3cret-9f1c",
    # Names that our own shell uses, or could.
    "wm_go": "mine",
    "t": "mine",
    "r": "mine",
    "IFS": "x",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PS1": "$(id)",
    "ENV": "/wm/evil",
}

# --- the environment ---


def through_a_shell(text: str) -> dict[str, str]:
    """What a real sh makes of an environment file."""
    done = subprocess.run(
        ["sh", "-c", '. "$0" && exec env -0', "/dev/stdin"],
        input=text.encode(errors="surrogateescape"),
        capture_output=True,
        env={"PATH": "/usr/bin:/bin"},
        check=True,
    )
    pairs = done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]
    return dict(pair.split("=", 1) for pair in pairs)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True).filter(
    lambda n: n not in ("OPTIND", "PATH", "PWD", "_")
)
values = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.binary().map(lambda b: b.replace(b"\0", b"").decode("utf-8", "surrogateescape")),
)


@settings(max_examples=60)
@given(st.dictionaries(names, values, max_size=6))
def test_every_value_comes_through_a_shell_unchanged(environment: dict[str, str]) -> None:
    assert through_a_shell(environment_file(environment)).items() >= environment.items()


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä", "a\nb", "OPTIND"])
def test_a_name_that_no_shell_takes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be an environment variable"):
        environment_file({name: "x"})


def test_what_no_environment_can_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="A has a NUL byte"):
        environment_file({"A": "x\0y"})
    assert environment_file({"A": "x" * (LONGEST_VALUE - 2)})
    with pytest.raises(ValueError, match="A has 131,072 bytes"):
        environment_file({"A": "x" * (LONGEST_VALUE - 1)})
    many = {f"V{n}": "x" * 100_000 for n in range(LONGEST_ENVIRONMENT // 100_000 + 1)}
    with pytest.raises(ValueError, match="the environment has"):
        environment_file(many)


@docker
def test_the_largest_environment_starts_a_program(sh: Callable[..., Any]) -> None:
    values = {f"V{n}": "x" * 131_000 for n in range(LONGEST_ENVIRONMENT // 131_072 - 1)}
    values["LAST"] = "y" * (LONGEST_VALUE - len("LAST="))
    made = sh("exec env | wc -c").park()
    assert made.go(**values).exit_code == 0, made.output
    assert int(made.output) > 7 * 131_000


@docker
def test_the_environment_reaches_the_code_and_nobody_else(box: Callable[..., Any], engine: Any) -> None:
    code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items()}))"
    made = box("python3", "-c", code).park()
    state = engine.client.inspect_container(made.container.id)
    processes = made.container.cgroup.paths["" if made.container.cgroup.unified else "pids"] / "cgroup.procs"
    parked = [Path(f"/proc/{pid}/environ").read_bytes() for pid in processes.read_text().split()]
    assert made.go(**NASTY).exit_code == 0, made.output
    found = json.loads(made.output)
    assert {name: found[name] for name in NASTY} == dict(NASTY)
    assert set(found) - set(NASTY) <= {"HOSTNAME", "HOME", "PWD", "LC_CTYPE", "LANG"}
    after = json.dumps([state, engine.client.inspect_container(made.container.id)])
    assert "s3cret" not in after
    assert len(parked) == 2
    assert not any(b"s3cret" in environ for environ in parked)


# --- parked ---


@docker
def test_nothing_of_the_steps_runs_before_go(sh: Callable[..., Any]) -> None:
    made = sh("touch /out/ran").park()
    names = {Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] for pid in pids(made)}
    assert names == {b"/sbin/docker-init", b"/bin/sh"}
    assert list(made.exchange.outward.iterdir()) == []
    assert made.go().exit_code == 0
    assert (made.exchange.outward / "ran").exists()


def pids(made: Any) -> list[str]:
    cgroup = made.container.cgroup
    return (cgroup.paths["" if cgroup.unified else "pids"] / "cgroup.procs").read_text().split()


@docker
def test_closing_stdin_without_a_go_ends_it_with_nothing_run(sh: Callable[..., Any], engine: Any) -> None:
    made = sh("touch /out/ran").park()
    made.exchange.write({}, {})
    made.container.stream.close()
    assert engine.wait(made.container.id, 10) == 125
    assert list(made.exchange.outward.iterdir()) == []


OWNER = """
import sys
from pathlib import Path
from workflowmaster import policies
from workflowmaster.blocks.container import Container
from workflowmaster.blocks.request import ContainerRequest
from workflowmaster.blocks.engine import Engine
from workflowmaster.blocks.exchange import Exchange
name, image, folder, label = sys.argv[1:]
exchange = Exchange(Path(folder)).make((1000, 1000))
exchange.write({}, {})
request = ContainerRequest(name, image, policies.load("standard"), ("touch", "/out/ran"), exchange.mounts, {"workflow": label}, workdir="/tmp")
held = Container(Engine(), request).park()
print(held.id, flush=True)
sys.stdin.read()
"""


@docker
def test_a_parked_container_ends_by_itself_when_its_owner_is_killed(
    sh: Callable[..., Any], engine: Any, tmp_path: Path
) -> None:
    like = sh("true").container.request
    arguments = [like.name, like.image_id, str(tmp_path / "x"), like.labels["workflow"]]
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        container = owner.stdout.readline().strip()
        assert engine.state(container)["Running"]
        owner.send_signal(signal.SIGKILL)
        assert engine.wait(container, 10) == 125
        assert not (tmp_path / "x/out/ran").exists()
    finally:
        owner.kill()
        owner.communicate()
        engine.remove(like.name)


@pytest.fixture
def discard_image(engine: Any) -> Iterator[Callable[[str], None]]:
    """Remove an image at the end of the test, with the containers that still use it."""
    images: list[str] = []
    yield images.append
    for image in images:
        for one in engine.client.containers(all=True, filters={"ancestor": image}):
            engine.remove(one["Id"])
        engine.client.remove_image(image, force=True)


@docker
def test_an_image_brings_neither_entrypoint_nor_health_check(
    sh: Callable[..., Any], engine: Any, discard_image: Callable[[str], None]
) -> None:
    """Both are somebody's code; a health check would even run while the container waits for its go."""
    base = sh("true")
    base.container.park()
    changes = [
        'ENTRYPOINT ["touch", "/out/entered"]',
        "HEALTHCHECK --interval=1s CMD touch /out/healthy",
        "USER root",
        "WORKDIR /nowhere",
    ]
    image = engine.client.commit(base.container.id, repository="wm-test/nosy", changes=changes)["Id"]
    discard_image(image)
    made = sh("id -u; pwd", image_id=image).park()
    assert engine.client.inspect_container(made.container.id)["State"].get("Health") is None
    assert made.go().exit_code == 0
    assert bytes(made.output) == b"1000\n/tmp\n"
    assert list(made.exchange.outward.iterdir()) == []


# --- failures leave nothing behind ---


@docker
def test_a_name_is_given_once(sh: Callable[..., Any], engine: Any, exists: Callable[[str], bool]) -> None:
    """Two owners of one attempt: the engine lets one of them have it, and the other does not harm it."""
    first = sh("true").park()
    second = Container(engine, first.container.request)
    with pytest.raises(SandboxUnavailable) as caught:
        second.park()
    assert caught.value.reason == "conflict"
    second.remove()
    assert first.go().exit_code == 0
    assert exists(first.container.request.name)


@docker
def test_of_several_that_race_for_a_name_one_wins(sh: Callable[..., Any], engine: Any) -> None:
    request = sh("true").container.request
    ready = threading.Barrier(4)

    def race(_: int) -> Container | str:
        one = Container(engine, request)
        ready.wait()
        try:
            return one.park()
        except SandboxUnavailable as error:
            return error.reason

    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(race, range(4)))
    winners = [one for one in outcomes if isinstance(one, Container)]
    for one in winners:
        one.remove()
    assert len(winners) == 1
    assert outcomes.count("conflict") == 3


@docker
@pytest.mark.parametrize(
    ("changed", "reason", "words"),
    [
        ({"image_id": "sha256:" + "0" * 64}, "image", "No such image"),
        ({"image_id": "wm-test/not-there:1"}, "image", "No such image"),
        ({"mounts": (Mount(Path("/no/such/directory"), "/data"),)}, "mount", "/no/such/directory"),
        ({"user": "nobody-knows-him"}, "image", "nobody-knows-him"),
        ({"workdir": "/etc/passwd"}, "image", "/etc/passwd"),
    ],
    ids=["image id", "image name", "mount", "user", "workdir"],
)
def test_what_cannot_be_parked_says_why_and_leaves_nothing(
    sh: Callable[..., Any], exists: Callable[[str], bool], changed: dict[str, Any], reason: str, words: str
) -> None:
    made = sh("true", **changed)
    with pytest.raises(SandboxUnavailable, match=re.escape(words)) as caught:
        made.park()
    assert caught.value.reason == reason
    assert not exists(made.container.request.name)
    assert made.container.pidfd == -1
    assert made.container.stream is None


@docker
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "No such file or directory"), (b"\0no program", "Exec format error")],
    ids=["no shell", "wrong format"],
)
def test_an_image_whose_shell_does_not_run_is_the_images_fault(
    sh: Callable[..., Any], engine: Any, discard_image: Callable[[str], None], content: bytes, words: str
) -> None:
    """The engine's init starts well and only then finds no shell: exit 127, which must not look like the step's own."""
    image = engine.client.import_image_from_data(tar_with_shell(content), repository="wm-test/shell")
    image_id = json.loads(image.splitlines()[-1])["status"]
    discard_image(image_id)
    made = sh("true", image_id=image_id).park()
    with pytest.raises(SandboxUnavailable, match=words) as caught:
        made.go()
    assert caught.value.reason == "image"


def tar_with_shell(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("bin/sh" if content else "empty")
        entry.mode, entry.size = 0o755, len(content)
        tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@docker
def test_one_that_died_while_parked_was_not_the_step(sh: Callable[..., Any], engine: Any) -> None:
    made = sh("true").park()
    engine.kill(made.container.id)
    engine.wait(made.container.id, 10)
    with pytest.raises(SandboxUnavailable, match="before its command began") as caught:
        made.go()
    assert caught.value.reason == "parked"


# --- removal ---


@docker
@pytest.mark.parametrize("state", ["new", "parked", "running", "ended", "removed by somebody"])
def test_it_can_be_removed_in_every_state_and_twice(
    sh: Callable[..., Any], engine: Any, exists: Callable[[str], bool], state: str
) -> None:
    made = sh("echo up; sleep 60" if state == "running" else "true")
    container = made.container
    if state != "new":
        made.park()
    if state == "running":
        with pytest.raises(ZeroDivisionError):
            made.go(60, lambda _: 1 // 0)
    if state == "ended":
        assert made.go().exit_code == 0
    if state == "removed by somebody":
        engine.remove(container.id)
    container.remove()
    container.remove()
    container.kill()
    assert not exists(container.request.name)
    assert (container.pidfd, container.stream) == (-1, None)


def pidfds() -> int:
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum("pidfd" in os.readlink(link) for link in links if os.path.lexists(link))


@docker
def test_fifty_containers_leave_no_descriptor_and_no_container(make_box: Callable[..., Any], engine: Any) -> None:
    """docker-py keeps a few connections; after enough containers to fill its pools the number must stay as it is."""

    def one(_: int) -> int:
        made = make_box("true").park()
        ending = made.go()
        made.container.remove()
        return ending.exit_code

    held = pidfds()  # of other tests' containers
    with ThreadPoolExecutor(2) as threads:
        assert set(threads.map(one, range(8))) == {0}
        before = len(os.listdir("/proc/self/fd"))
        assert set(threads.map(one, range(42))) == {0}
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    engine.close()
    assert pidfds() == held
