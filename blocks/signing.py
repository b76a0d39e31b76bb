"""Which images are ours: manifests signed with Ed25519, and the keys that are believed.

The hard choice: a signature of our own over a small manifest, instead of a registry's (cosign, notation). Those sign
what a registry holds; the images here are built on the machine, never pushed, and have no digest but the engine's id.
The id is the hash of the image's configuration and layers, so whoever signs the id has signed the content. The accepted
cost: a manifest travels as a file beside the image, by hand, and a lost key cannot be called back everywhere.

What it protects against is an image that came to the engine by another way: a tag that was moved, a build of somebody
else's, an import. It does not protect against who can read the private key, or against who is root on this machine.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from workflowmaster.blocks import keypair
from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.policies import Held, PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEMA: Final = "workflowmaster/image/1"
KEY_FILE = "signing.key"

_MOST = 64 * 1024
"""Bytes of a manifest or a signature that are read; ours have 400."""


class Manifest(BaseModel):
    """What is signed about one image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_name: Literal["workflowmaster/image/1"] = SCHEMA
    id: str
    """The engine's id, `sha256:…`."""
    reference: str
    """Name it was built as."""
    recipe: str
    """Hash of the recipe it was built by."""
    packages: str
    """SHA-256 (hex) of the list of packages in it."""
    signed_at: float
    """Unix time, seconds."""


class Signature(BaseModel):
    """A detached signature over a manifest file's bytes; both in base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    signature: str


@dataclass(frozen=True)
class Verdict:
    """What the manifests say about one image."""

    manifest: Manifest | None
    key: str = ""
    """Public key it was signed with; empty without a manifest that holds."""
    trouble: str = ""
    """Why none holds; empty where one does."""


class Trust:
    """The manifests in a folder, the key of this machine that lies with them, and the keys of others.

    `folder` is made, with mode 0700, when the first key is. `trusted` are public keys in base64.
    """

    def __init__(self, folder: Path, trusted: Sequence[str] = ()) -> None:
        self.folder = folder
        self.trusted = frozenset(trusted)

    @property
    def own_key(self) -> str:
        """This machine's public key in base64; empty while it has none."""
        return public(self._private()) if (self.folder / KEY_FILE).exists() else ""

    def sign(self, manifest: Manifest) -> Path:
        """Sign a manifest, making the key if there is none, and return the manifest's path."""
        private = self._private()
        key = public(private)
        # One file for each signer: a team's manifests of one image can lie in one folder.
        path = self.folder / f"{_stem(manifest.id)}.{binascii.hexlify(base64.b64decode(key))[:8].decode()}.json"
        text = manifest.model_dump_json(indent=1) + "\n"
        signature = Signature(key=key, signature=base64.b64encode(private.sign(text.encode())).decode())
        # The signature last: a manifest without one is not believed, a signature without its manifest is not found.
        write_atomically(path, text, durable=True)
        write_atomically(path.with_suffix(".sig"), signature.model_dump_json() + "\n", durable=True)
        return path

    def verdict(self, image_id: str) -> Verdict:
        """Return the first manifest of an image that holds, or why none does."""
        troubles = []
        for path in self._manifests(image_id):
            # One that does not hold is no reason against one that does: a team's folder has several of each image.
            verdict = self._judge(path, image_id)
            if verdict.manifest:
                return verdict
            troubles.append(verdict.trouble)
        return Verdict(None, trouble="; ".join(troubles) or "no signed manifest lists it")

    def _manifests(self, image_id: str) -> Iterator[Path]:
        yield from sorted(self.folder.glob(f"{_stem(image_id)}.*.json"))

    def _judge(self, path: Path, image_id: str) -> Verdict:
        try:
            text = _read(path)
            signature = Signature.model_validate_json(_read(path.with_suffix(".sig")))
            base64.b64decode(signature.key, validate=True)
        except (OSError, ValidationError, ValueError) as error:
            return Verdict(None, trouble=f"{path} has no signature that can be read ({type(error).__name__})")
        # The claimed key decides only what is said; what is believed is the check against that key below.
        if signature.key not in self.trusted and signature.key != self.own_key:
            said = f"{path} is signed with the key {signature.key}, which is not among `trusted_image_keys`"
            return Verdict(None, trouble=said)
        # Over the file's bytes, not over what they parse to: two spellings of one manifest are two manifests.
        if not keypair.holds(signature.key, signature.signature, text):
            return Verdict(None, trouble=f"{path} was changed after it was signed")
        return _read_manifest(path, text, image_id, signature.key)

    def _private(self) -> Ed25519PrivateKey:
        """Return this machine's key, made if there is none. PolicyError if it cannot be used."""
        self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            return keypair.private(self.folder / KEY_FILE, "signs images")
        except ValueError as error:
            raise PolicyError(f"{error}, and build the image again") from error


def held(reference: str, image_id: str, judge: Trust, by: str = "") -> Held:
    """Return what holds an image to its id: besides a signature, `by`, which is `lock`, `record` or nothing."""
    from workflowmaster.blocks import imagebuild

    # Today's recipe, not the one the manifest names: what an older version built is not this product's any more.
    verdict = judge.verdict(image_id)
    product = verdict.manifest is not None and verdict.manifest.recipe == imagebuild.recipe_hash()
    by_itself = "digest" if "sha256:" in reference else ""
    signed = verdict.manifest is not None
    return Held(image_id, by_itself or by, signed=signed, product=product, trouble=verdict.trouble)


def public(private: Ed25519PrivateKey) -> str:
    """Return the public key of a private one, in base64."""
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def is_public_key(text: str) -> bool:
    """Whether a text can be a public key: 32 bytes in base64."""
    try:
        return len(base64.b64decode(text, validate=True)) == keypair.KEY_BYTES
    except ValueError:
        return False


def _stem(image_id: str) -> str:
    # An id is hex after its prefix; anything else must not become a pattern or a path.
    return "".join(letter for letter in image_id.removeprefix("sha256:") if letter in "0123456789abcdef") or "none"


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST)


def _read_manifest(path: Path, text: bytes, image_id: str, key: str) -> Verdict:
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError:
        return Verdict(None, trouble=f"{path} is a manifest of another version")
    if manifest.id != image_id:
        # A whole, signed manifest under another image's name.
        return Verdict(None, trouble=f"{path} is about another image, {manifest.id[7:19]}")
    return Verdict(manifest, key)
