"""Keys in files: made once, private, and never over another."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from workflowmaster.blocks import keypair

if TYPE_CHECKING:
    from pathlib import Path

MAKER = "import sys; from pathlib import Path; from workflowmaster.blocks import keypair; print(keypair.public(Path(sys.argv[1])))"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys/signing.key"


def test_a_key_is_made_once_and_is_private(path: Path) -> None:
    public = keypair.public(path)
    assert keypair.public(path) == public
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in path.parent.iterdir()) == ["signing.key", "signing.pub"]


def test_what_is_signed_holds_and_nothing_else(path: Path) -> None:
    key, signature = keypair.sign(path, b"text")
    assert key == keypair.public(path)
    assert keypair.holds(key, signature, b"text")
    assert not keypair.holds(key, signature, b"other")
    assert not keypair.holds(keypair.public(path.with_name("another.key")), signature, b"text")
    assert not keypair.holds("no key", signature, b"text")


def test_two_processes_agree_on_one(path: Path) -> None:
    makers = [subprocess.Popen([sys.executable, "-c", MAKER, str(path)], stdout=subprocess.PIPE) for _ in range(4)]
    assert len({maker.communicate()[0] for maker in makers}) == 1


@pytest.mark.parametrize(
    ("text", "mode", "said"), [("x", 0o600, "is no key"), ("YQ==", 0o600, "1 bytes"), ("", 0o644, "chmod 600")]
)
def test_what_cannot_be_used_is_refused_and_stays(path: Path, text: str, mode: int, said: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ValueError, match=said):
        keypair.sign(path, b"text")
    assert path.read_text() == text
