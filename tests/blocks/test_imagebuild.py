"""The step image: what is in it, and that it is built once, wholly or not at all."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time

import docker
import pytest
from docker.errors import ImageNotFound

from workflowmaster.blocks import imagebuild, rootfs
from workflowmaster.blocks.imagebuild import DEFAULT_IMAGE, PROXY, RECIPE_LABEL, STEP, ImageBuildError

# `apt-get indextargets` as printed on a Debian 12 with two third-party sources (whose origin is their own).
TARGETS = """\
Debian|http://deb.example.org/debian/|bookworm|main
Debian|http://deb.example.org/debian/|bookworm-updates|main
Debian|http://deb.example.org/debian/|bookworm|main
. nodistro|https://node.example.org/|nodistro|main
Debian|http://deb.example.org/debian-security/|bookworm-security|main
cloud-sdk-bookworm|https://cloud.example.org/apt/|cloud-sdk-bookworm|main
"""


@pytest.fixture
def client():
    with_docker = docker.from_env()
    yield with_docker
    with_docker.close()


@pytest.fixture
def recipe(tmp_path):
    """A copy of the recipe that a test may spoil."""
    copy = tmp_path / "step"
    shutil.copytree(STEP.folder, copy)
    return dataclasses.replace(STEP, folder=copy)


def said_in_image(client, script: str) -> str:
    return client.containers.run(DEFAULT_IMAGE, ["sh", "-c", script], network_mode="none", remove=True).decode().strip()


def test_the_name_of_the_image_costs_no_import_of_docker():
    code = f"import sys; from {imagebuild.__name__} import DEFAULT_IMAGE; print('docker' in sys.modules, DEFAULT_IMAGE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "workflowmaster/step:1"]


@pytest.mark.parametrize("name", ["packages.txt", "finish.sh", "Dockerfile"])
def test_every_file_of_the_recipe_is_in_its_hash(recipe, name):
    before = imagebuild.recipe_hash(recipe)
    assert imagebuild.recipe_hash(recipe) == before == imagebuild.recipe_hash()
    with (recipe.folder / name).open("a") as file:
        file.write("\n")
    assert imagebuild.recipe_hash(recipe) != before


def test_third_party_sources_stay_out_of_the_image():
    assert rootfs.own_sources(TARGETS) == [
        "deb http://deb.example.org/debian/ bookworm main",
        "deb http://deb.example.org/debian/ bookworm-updates main",
        "deb http://deb.example.org/debian-security/ bookworm-security main",
    ]


def test_before_an_update_apt_knows_no_origin():
    assert rootfs.own_sources("$(ORIGIN)|http://deb.example.org/debian/|bookworm|main\n") == []


def test_a_host_without_packages_is_told_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ImageBuildError, match=r"no Debian packages.*docker pull debian:bookworm-slim"),
        rootfs.made(STEP.folder, print),
    ):
        raise AssertionError


def test_a_user_without_the_tool_is_told_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "apt-get").write_text("#!/bin/sh\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ImageBuildError, match=r"sudo apt-get install mmdebstrap"), rootfs.made(STEP.folder, print):
        raise AssertionError


def test_a_failing_tool_is_quoted(tmp_path):
    with pytest.raises(ImageBuildError) as caught:
        rootfs._run(["sh", "-c", "echo that went wrong >&2; exit 3"])
    assert str(caught.value).startswith("sh failed with exit code 3:\nthat went wrong\n")


@pytest.mark.docker
def test_a_second_build_does_nothing(client):
    first = imagebuild.build()
    start = time.monotonic()
    second = imagebuild.build()
    assert time.monotonic() - start < 1
    assert (second.how, second.id, second.reference) == ("cached", first.id, DEFAULT_IMAGE)
    assert client.images.get(DEFAULT_IMAGE).labels[RECIPE_LABEL] == imagebuild.recipe_hash()


@pytest.mark.docker
def test_another_recipe_makes_the_image_stale(client, recipe):
    assert imagebuild.current(client, recipe=recipe) is not None
    (recipe.folder / "packages.txt").write_text("python3\n")
    assert imagebuild.current(client, recipe=recipe) is None


@pytest.mark.docker
def test_an_image_that_is_not_there_is_not_current(client):
    assert imagebuild.current(client, "workflowmaster/no-such-image:1") is None


@pytest.mark.docker
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("id -u; id -g; id -un", r"1000\n1000\nstep"),
        ("python --version", r"Python 3\.\d+\.\d+"),
        ("python3 -c 'import ssl, sqlite3, venv, ensurepip; print(1)'", "1"),
        ("python -m pip --version", r"pip \d.*"),
        ("python -m pytest --version", r"pytest \d.*"),
        ("git --version", r"git version 2\..*"),
        ("make --version | head -n 1", r"GNU Make 4.*"),
        ("patch --version | head -n 1", r"GNU patch 2.*"),
        ("bash -c 'echo $BASH_VERSION'", r"\d.*"),
        ("test -s /etc/ssl/certs/ca-certificates.crt && echo certificates", "certificates"),
        ("TZ=Asia/Tokyo date -d @0 +%H", "09"),
        ("pwd; echo $HOME; echo $LANG", r"/workspace\n/home/step\nC\.UTF-8"),
        # Nothing of the machine it was built on, and nothing that could raise privileges.
        ("cat /etc/machine-id; find /etc/apt /var/lib/apt/lists -name '*mmdebstrap*' -o -name '*Packages*'; true", ""),
        ("find / -xdev -type f -perm /6000 2>/dev/null; true", ""),
        ("find / -xdev -nouser 2>/dev/null; true", ""),
    ],
)
def test_what_is_in_the_image(client, script, expected):
    assert re.fullmatch(expected, said_in_image(client, script), re.DOTALL)


@pytest.mark.docker
def test_the_image_has_the_settings_the_dockerfile_names(client):
    config = client.images.get(DEFAULT_IMAGE).attrs["Config"]
    assert (config["User"], config["WorkingDir"], config["Cmd"]) == ("step", "/workspace", ["bash"])
    assert {"LANG=C.UTF-8", "HOME=/home/step"} <= set(config["Env"])


@pytest.mark.docker
def test_the_image_stays_small(client):
    assert client.images.get(DEFAULT_IMAGE).attrs["Size"] < 300 * 1024**2


@pytest.fixture
def nothing_left(client):
    """Fail the test where it leaves an image of ours behind."""
    before = {image.id for image in client.images.list(all=True)}
    yield
    new = [image for image in client.images.list(all=True) if image.id not in before]
    assert [image.id for image in new if RECIPE_LABEL in image.labels] == []
    with pytest.raises(ImageNotFound):
        client.images.get("workflowmaster/half:1")


@pytest.mark.docker
def test_an_image_that_does_not_run_gets_no_name(client, monkeypatch, tmp_path, nothing_left):
    whole = tmp_path / "whole.tar"
    with tarfile.open(whole, "w") as archive:
        archive.add(STEP.folder, "recipe")
    # The engine takes half an archive without a word.
    (tmp_path / "half.tar").write_bytes(whole.read_bytes()[:700])
    half = imagebuild._import(client, tmp_path / "half.tar", STEP, print)
    monkeypatch.setattr(imagebuild, "_build", lambda _client, _recipe, _log: (half, "by hand"))
    with pytest.raises(ImageBuildError, match="does not run, and was removed"):
        imagebuild.build(reference="workflowmaster/half:1")


@pytest.mark.docker
def test_two_builds_at_once_are_one(client, monkeypatch):
    """The second waits for the first, and finds its image."""
    built = []
    image = client.images.get(DEFAULT_IMAGE).id

    def slow(_client, _recipe, _log):
        built.append(threading.get_ident())
        waiting.wait(timeout=30)
        return image, "by hand"

    waiting = threading.Event()
    monkeypatch.setattr(imagebuild, "_build", slow)
    hows = []
    threads = [
        threading.Thread(target=lambda: hows.append(imagebuild.build(reference="workflowmaster/twice:1").how))
        for _ in range(2)
    ]
    try:
        for thread in threads:
            thread.start()
        waiting.set()
        for thread in threads:
            thread.join(timeout=60)
        assert sorted(hows) == ["by hand", "cached"]
        assert len(built) == 1
    finally:
        client.images.remove("workflowmaster/twice:1")


@pytest.mark.docker
@pytest.mark.long
def test_a_failed_build_leaves_no_image(recipe, nothing_left):
    (recipe.folder / "packages.txt").write_text("no-such-package-anywhere\n")
    with pytest.raises(ImageBuildError, match="no-such-package-anywhere"):
        imagebuild.build(recipe, reference="workflowmaster/half:1")


@pytest.mark.docker
@pytest.mark.long
def test_a_build_from_nothing(client):
    lines = []
    image = imagebuild.build(reference="workflowmaster/step:from-nothing", force=True, log=lines.append)
    try:
        assert image.how in ("dockerfile", "mmdebstrap", "debootstrap")
        # Half a minute on two idle cores; tests share theirs.
        assert image.seconds < 120
        assert lines
        assert client.containers.run(image.id, ["python", "-c", "print(6 * 7)"], remove=True) == b"42\n"
    finally:
        client.images.remove(image.reference)


def in_proxy(client, script: str) -> str:
    options = {"network_mode": "none", "remove": True, "read_only": True, "cap_drop": ["ALL"]}
    return client.containers.run(PROXY.reference, ["sh", "-c", script], **options).decode().strip()


@pytest.mark.docker
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("id -u; id -g; id -un", r"3128\n3128\negress"),
        ("squid --version | head -n 1", r"Squid Cache: Version [5-9].*"),
        ("socat -V | grep -c UNIX", "[1-9]"),
        ("stat -c '%U %a' /sockets", "egress 700"),
        ("find / -xdev -type f -perm /6000 2>/dev/null; true", ""),
    ],
)
def test_what_is_in_the_proxy_image(client, script, expected):
    assert re.fullmatch(expected, in_proxy(client, script), re.DOTALL)


@pytest.mark.docker
def test_the_proxy_image_is_built_once_and_is_not_the_step_image(client):
    first = imagebuild.build(PROXY)
    second = imagebuild.build(PROXY)
    assert (second.how, second.id, second.reference) == ("cached", first.id, "workflowmaster/proxy:1")
    assert imagebuild.recipe_hash(PROXY) != imagebuild.recipe_hash()
    assert client.images.get(PROXY.reference).labels[RECIPE_LABEL] == imagebuild.recipe_hash(PROXY)
