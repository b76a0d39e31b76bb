"""Takes out of a masked line what strangers may not read: secrets, paths, hosts, names of repositories and people.

A log is not written for strangers, and no list of patterns finds every secret. So this works the other way round where
it can: a word is kept only while it looks like a word. What is long and mixes letters with digits, what stands behind
`password=`, what has a slash, an at sign or is an address is replaced, known or not; host names go unless everybody
knows them (the public package registries). The accepted cost is that a few harmless words go too. What cannot be seen
from its form, a customer's name in the name of a test, is left: the file is text, and meant to be read before it is
handed on.
"""

from __future__ import annotations

import getpass
import os
import re
from contextlib import suppress
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from workflowmaster.blocks.forms import LEAST
from workflowmaster.blocks.masking import Masker
from workflowmaster.flows.fingerprints import masked
from workflowmaster.flows.settings import PREFIX, SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LONGEST = 300
"""Characters of a line that are handed on."""

SHORTEST_NAME = 3
"""Letters of a repository's or a person's name that is looked for; shorter ones are in every word."""

_SECRET = "<secret>"  # noqa: S105 - the mark that stands for one
_TOLD = re.compile(
    r"(?i)\b((?:[\w-]*(?:passw(?:or)?d|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|auth)"
    r"[\w-]*)[\"']?\s*(?:[=:]|\bis\b)\s*(?:bearer\s+|basic\s+)?|(?:bearer|basic|token)\s+)(?:\"[^\"]*\"|'[^']*'|[^\s,;]+)"
)
_PEM = re.compile(r"-----BEGIN [A-Z ]+-----.*")
_PREFIXED = re.compile(
    r"(?<![A-Za-z0-9])(?:gh[pousr]_|github_pat_|glpat-|xox[a-z]-|sk-|pk_|rk_|AKIA|ASIA|AIza|ya29\.|eyJ|npm_|pypi-|hf_|SG\.)"
    r"[\w.+/=-]{6,}"
)
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*")
_HOST = re.compile(r"(?<![\w<.-])(?:[A-Za-z0-9_](?:[\w-]*[A-Za-z0-9_])?\.)+[A-Za-z]{2,}(?![\w-])")
_SLASHED = re.compile(r"[^\s\"'`()\[\]<>|,;]*[/\\][^\s\"'`()\[\]|,;]*")
_FILE = re.compile(r"(?<![\w<])[\w-]+\.[A-Za-z][A-Za-z0-9]{0,4}(?![\w(])")
_MIXED = re.compile(r"(?<![\w<])[A-Za-z0-9_+=~-]{16,}(?![\w>])")
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://")


def scrubbed(line: str, names: Iterable[str] = (), masker: Masker | None = None) -> str:
    """Return a line that may be handed on; `names` are words to take out, in any case."""
    line = masker.text(line) if masker else line
    line = _PEM.sub(_SECRET, line)
    line = _TOLD.sub(lambda found: found[1] + _SECRET, line)
    line = _PREFIXED.sub(_SECRET, line)
    line = masked(_MAIL.sub("<mail>", line))
    line = _HOST.sub(_host, line)
    line = _SLASHED.sub(_slashed, line)
    line = _FILE.sub(_file, line)
    line = _MIXED.sub(_mixed, line)
    for name in sorted(names, key=len, reverse=True):
        if len(name) >= SHORTEST_NAME:
            line = re.sub(rf"(?<![A-Za-z0-9<]){re.escape(name)}(?![A-Za-z0-9>])", "<name>", line, flags=re.IGNORECASE)
    return masked(line)[:LONGEST]


def _host(found: re.Match[str]) -> str:
    return found[0] if found[0].lower() in public() else "<host>"


def _slashed(found: re.Match[str]) -> str:
    """Mask what has a slash in it, but for an address of which only the host is left."""
    text = found[0]
    scheme = _SCHEME.match(text)
    if scheme and text[scheme.end() :].lower() in public():
        return text
    return f"{scheme[0]}<host><path>" if scheme else "<path>"


def _file(found: re.Match[str]) -> str:
    return found[0] if found[0].lower() in public() else "<path>"


def _mixed(found: re.Match[str]) -> str:
    """Mask what no person would have typed: long, and of letters and digits, or of letters in all cases at once."""
    word = found[0]
    changes = sum(a.isupper() != b.isupper() for a, b in pairwise(word) if a.isalpha() and b.isalpha())
    strange = any(sign.isdigit() for sign in word) or changes > len(word) / 3
    return _SECRET if strange else word


@cache
def public() -> frozenset[str]:
    """Return the hosts that everybody knows: those of the package registries in `policies`."""
    from workflowmaster.policies.hosts import ecosystems

    return frozenset(host.name for listed in ecosystems().values() for host in listed)


def known_secrets(environment: Mapping[str, str] | None = None) -> Masker | None:
    """Return what masks the secrets in this process's environment; None where there are none."""
    found = os.environ if environment is None else environment
    head = f"{PREFIX}{SECRETS}_"
    values = {name: value.encode() for name, value in found.items() if name.startswith(head) and len(value) >= LEAST}
    with suppress(ValueError):
        return Masker(values) if values else None
    return None


def people() -> frozenset[str]:
    """Return the names of this machine and its user."""
    found = {os.uname().nodename, *os.uname().nodename.split(".")}
    with suppress(OSError, KeyError):
        found.add(getpass.getuser())
    # Everybody's machine has these.
    return frozenset(found - {"root", "localhost", "local"})
