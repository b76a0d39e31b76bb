"""Signed manifests of images: what holds, what does not, and what is said about it."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.signing import KEY_FILE, Manifest, Trust, is_public_key
from workflowmaster.policies import PolicyError

ID, OTHER = "sha256:" + "a1" * 32, "sha256:" + "b2" * 32


def manifest(image_id: str = ID) -> Manifest:
    return Manifest(id=image_id, reference="workflowmaster/step:1", recipe="r", packages="p", signed_at=1.5)


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path / "state" / "images")


def test_what_was_signed_holds_and_nothing_else_does(trust: Trust) -> None:
    trust.sign(manifest())
    verdict = trust.verdict(ID)
    assert (verdict.manifest, verdict.key, verdict.trouble) == (manifest(), trust.own_key, "")
    assert trust.verdict(OTHER).trouble == "no signed manifest lists it"


def test_without_a_key_or_a_folder_nothing_is_trusted_and_nothing_is_made(trust: Trust) -> None:
    assert trust.own_key == ""
    assert trust.verdict(ID).manifest is None
    assert not trust.folder.exists()


def test_the_key_is_private_from_the_first_moment(trust: Trust) -> None:
    old = os.umask(0)
    try:
        trust.sign(manifest())
    finally:
        os.umask(old)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (trust.folder.parent, trust.folder, trust.folder / KEY_FILE)]
    assert modes == [0o700, 0o700, 0o600]


def test_one_key_signs_everything(trust: Trust) -> None:
    trust.sign(manifest())
    key = trust.own_key
    trust.sign(manifest(OTHER))
    assert {trust.verdict(ID).key, trust.verdict(OTHER).key, trust.own_key} == {key}
    assert is_public_key(key)


@given(data=st.data())
def test_any_changed_byte_voids_a_manifest(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    trust = Trust(tmp_path_factory.mktemp("trust"))
    path = trust.sign(manifest())
    text = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(text)
    verdict = trust.verdict(ID)
    assert verdict.manifest is None
    assert verdict.trouble == f"{path} was changed after it was signed"


def test_a_manifest_under_another_images_name_does_not_speak_for_it(trust: Trust) -> None:
    path = trust.sign(manifest())
    for suffix in (".json", ".sig"):
        moved = path.with_name(path.name.replace("a1" * 32, "b2" * 32)).with_suffix(suffix)
        moved.write_bytes(path.with_suffix(suffix).read_bytes())
    assert trust.verdict(OTHER).trouble.endswith("is about another image, a1a1a1a1a1a1")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.with_suffix(".sig").unlink(), "has no signature that can be read (FileNotFoundError)"),
        (lambda path: path.with_suffix(".sig").write_text("{}"), "has no signature that can be read (ValidationError)"),
        (lambda path: path.with_suffix(".sig").write_text('{"key": "ä", "signature": ""}'), "has no signature"),
        (lambda path: path.write_text(""), "was changed after it was signed"),
    ],
)
def test_damage_is_named(trust: Trust, damage, said: str) -> None:
    path = trust.sign(manifest())
    damage(path)
    verdict = trust.verdict(ID)
    assert verdict.manifest is None
    assert str(path) in verdict.trouble
    assert said in verdict.trouble


def test_a_stranger_is_believed_once_the_key_is_trusted(trust: Trust, tmp_path: Path) -> None:
    stranger = Trust(tmp_path / "elsewhere")
    path = stranger.sign(manifest())
    trust.sign(manifest(OTHER))
    for suffix in (".json", ".sig"):
        (trust.folder / path.with_suffix(suffix).name).write_bytes(path.with_suffix(suffix).read_bytes())
    refused = trust.verdict(ID)
    assert refused.manifest is None
    assert stranger.own_key in refused.trouble
    assert "`trusted_image_keys`" in refused.trouble
    believed = Trust(trust.folder, [stranger.own_key]).verdict(ID)
    assert (believed.manifest, believed.key) == (manifest(), stranger.own_key)


def test_one_bad_manifest_does_not_void_a_good_one_of_the_same_image(trust: Trust, tmp_path: Path) -> None:
    stranger = Trust(tmp_path / "elsewhere")
    path = stranger.sign(manifest())
    trust.sign(manifest())
    for suffix in (".json", ".sig"):
        (trust.folder / path.with_suffix(suffix).name).write_bytes(path.with_suffix(suffix).read_bytes())
    assert len(list(trust.folder.glob("*.json"))) == 2
    assert trust.verdict(ID).key == trust.own_key


def test_a_signature_by_another_key_under_a_trusted_name_is_none(trust: Trust, tmp_path: Path) -> None:
    """The key a signature claims is only a hint: the bytes must have been signed with it."""
    stranger = Trust(tmp_path / "elsewhere")
    forged = stranger.sign(manifest())
    trust.sign(manifest(OTHER))
    claim = json.loads(forged.with_suffix(".sig").read_text()) | {"key": trust.own_key}
    (trust.folder / forged.name).write_bytes(forged.read_bytes())
    (trust.folder / forged.name).with_suffix(".sig").write_text(json.dumps(claim))
    assert trust.verdict(ID).trouble.endswith("was changed after it was signed")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_can_read_signs_nothing(trust: Trust, mode: int) -> None:
    trust.sign(manifest())
    (trust.folder / KEY_FILE).chmod(mode)
    with pytest.raises(PolicyError, match="others can read it: chmod 600"):
        trust.sign(manifest(OTHER))


def test_a_key_file_that_holds_none_is_named(trust: Trust) -> None:
    trust.sign(manifest())
    (trust.folder / KEY_FILE).write_text("nothing of the kind")
    with pytest.raises(PolicyError, match=r"signing\.key is no key that signs images"):
        trust.verdict(ID)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (base64.b64encode(bytes(32)).decode(), True),
        (base64.b64encode(bytes(31)).decode(), False),
        ("not base64!", False),
        ("", False),
    ],
)
def test_what_a_public_key_looks_like(text: str, good: bool) -> None:
    assert is_public_key(text) is good


@pytest.mark.parametrize("image_id", ["", "*", "../../etc/passwd", "sha256:*"])
def test_an_id_is_never_a_pattern_or_a_path(trust: Trust, image_id: str) -> None:
    trust.sign(manifest())
    assert trust.verdict(image_id).manifest is None
