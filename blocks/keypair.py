"""Ed25519 keys in files: one private key of this machine's owner, made once, and what it has signed.

As base64 of the 32 raw bytes and not as PEM: the public half can be pasted into a setting, and reading it needs no
library. `cryptography` is imported only where something is signed or checked: 20 ms that most commands never need.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

from workflowmaster.blocks.atomic import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_BYTES = 32
"""Of an Ed25519 private or public key."""


def checked(path: Path, does: str = "signs for you") -> bytes:
    """Return a private key's raw bytes. ValueError, which says what the key `does`, if it is none or others read it."""
    # Whoever can read it can sign for us, and nobody would notice: as ssh does, refuse instead of warn.
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} {does}, and others can read it: chmod 600 it, or remove it for a new one")
    mend = "put it back from a copy, or remove it for a new one"
    try:
        raw = base64.b64decode(path.read_text("ascii").strip(), validate=True)
    except ValueError as error:
        raise ValueError(f"{path} is no key that {does} ({error}): {mend}") from error
    if len(raw) != KEY_BYTES:
        raise ValueError(f"{path} is no key that {does} ({len(raw)} bytes): {mend}")
    return raw


def private(path: Path, does: str = "signs for you") -> Ed25519PrivateKey:
    """Return the private key of a file, made with mode 0600 if it is missing. ValueError as `checked`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if path.exists():
        return Ed25519PrivateKey.from_private_bytes(checked(path, does))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Ed25519PrivateKey.generate()
    # Whole before it has its name, and never over another: somebody else may be making one at the same moment.
    mine = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    write_atomically(mine, base64.b64encode(made.private_bytes_raw()).decode() + "\n")
    try:
        os.link(mine, path)
    except FileExistsError:
        return private(path, does)
    finally:
        mine.unlink()
    return made


def public(path: Path) -> str:
    """Return the public half, in base64, of the private key in a file, which is made if it is missing."""
    known = path.with_suffix(".pub")
    # The public half lies beside it: it is asked for in the middle of runs, which must not wait for an import.
    if path.exists() and known.exists():
        return known.read_text("ascii").strip()
    text = base64.b64encode(private(path).public_key().public_bytes_raw()).decode()
    write_atomically(known, text + "\n")
    return text


def sign(path: Path, text: bytes) -> tuple[str, str]:
    """Sign a text with the key of a file; return public key and signature, both in base64."""
    key = private(path)
    return base64.b64encode(key.public_key().public_bytes_raw()).decode(), base64.b64encode(key.sign(text)).decode()


def holds(key: str, signature: str, text: bytes) -> bool:
    """Whether a signature over a text is that of a public key; all but the text in base64."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw, signed = base64.b64decode(key, validate=True), base64.b64decode(signature, validate=True)
        Ed25519PublicKey.from_public_bytes(raw).verify(signed, text)
    except (InvalidSignature, ValueError):
        return False
    return True
