"""The commands about images, on the real step image."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster.blocks import imagebuild
from workflowmaster.blocks.signing import Trust

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.docker

STEP = imagebuild.DEFAULT_IMAGE


def test_an_image_that_was_built_before_is_signed_once(command_line: Callable[..., Any]) -> None:
    line = command_line()
    shutil.rmtree(line.home / "images")
    first, again = (line("image", "build", "--json") for _ in range(2))
    assert first.code == 0, first.text
    assert set(first.json) == {"reference", "id", "seconds", "how", "key", "proxy"}
    assert first.json["proxy"]["reference"] == "workflowmaster/proxy:1"
    assert first.json["how"] == "cached"
    trust = Trust(line.home / "images")
    verdict = trust.verdict(first.json["id"])
    assert verdict.manifest
    assert (verdict.manifest.reference, verdict.manifest.recipe) == (STEP, imagebuild.recipe_hash())
    assert (verdict.key, first.json["key"], again.json["key"]) == (trust.own_key,) * 3
    assert len(list((line.home / "images").glob("*.json"))) == 1
    assert stat.S_IMODE((line.home / "images/signing.key").stat().st_mode) == 0o600
    manifest = next((line.home / "images").glob("*.json")).read_text()
    assert "seconds" not in manifest
    assert trust.own_key not in manifest


def test_images_are_listed_with_recipe_signature_and_use(bare: Any) -> None:
    name = "wm-test-list"
    subprocess.run(["docker", "create", "--name", name, STEP, "true"], check=True, capture_output=True)
    try:
        ours = next(row for row in bare("image", "list", "--json").json if STEP in row["tags"])
    finally:
        subprocess.run(["docker", "rm", name], check=True, capture_output=True)
    assert set(ours) == {"id", "tags", "bytes", "recipe", "created_at", "signed", "key", "trouble", "containers"}
    assert ours["id"].startswith("sha256:")
    assert ours["bytes"] > 10**6
    assert (ours["recipe"], ours["signed"], ours["trouble"]) == (imagebuild.recipe_hash(), True, "")
    assert ours["containers"] >= 1


def test_an_unsigned_image_is_listed_as_that(command_line: Callable[..., Any]) -> None:
    line = command_line()
    shutil.rmtree(line.home / "images")
    ours = next(row for row in line("image", "list", "--json").json if STEP in row["tags"])
    assert (ours["signed"], ours["key"], ours["trouble"]) == (False, None, "no signed manifest lists it")
    assert "not signed" in line("image", "list").out
    finding = next(one for one in line("doctor", "--json").json if one["check"] == "image")
    assert (finding["status"], finding["mend"]) == ("warning", "workflowmaster image build")


def test_the_packages_of_an_image_are_printed_for_people_and_programs(bare: Any) -> None:
    said = bare("image", "sbom")
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    assert {line[0] for line in lines} == {"deb", "pypi"}
    made = bare("image", "sbom", STEP, "--json").json
    assert (made["bomFormat"], len(made["components"])) == ("CycloneDX", len(lines))


@pytest.mark.parametrize("words", [("sbom", "nowhere/none:1"), ("scan", "nowhere/none:1")])
def test_an_image_that_is_not_there_is_infrastructure(bare: Any, words: tuple[str, ...]) -> None:
    said = bare("image", *words)
    assert (said.code, said.out) == (4, "")
    assert "docker pull nowhere/none:1 first" in said.err


@pytest.mark.parametrize("words", [("build",), ("list",), ("sbom",), ("scan",)])
def test_without_an_engine_each_says_so(bare: Any, words: tuple[str, ...]) -> None:
    said = bare("image", *words, "--json", DOCKER_HOST="unix:///none.sock")
    assert said.code == 4
    assert json.loads(said.out)["exit_code"] == 4
    assert "the Docker Engine does not answer" in said.err
