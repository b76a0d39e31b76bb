"""Which hosts a list of words stands for, and which addresses no step may reach without an operator's word.

The hard choice: a name in a list is exact, and `*.` means what lies below it. Many lists elsewhere let `example.org`
cover its subdomains as well; whoever can be given a subdomain there (user pages, buckets) is then let in by a word
that was meant for the site itself. The accepted cost is that a host and its subdomains are two entries.

Addresses are judged by the registry of special-purpose addresses (RFC 6890 and its successors), as resolved, because a
public name may point anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml

from workflowmaster.policies.values import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Address = IPv4Network | IPv6Network
"""A network; a single address is one with a full prefix."""

WEB_PORTS = (80, 443)
"""Ports of an entry that names none."""

ANY = "*"
"""The entry that stands for every public host."""

_ECOSYSTEMS = Path(__file__).parent / "ecosystems.yaml"
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_ENTRY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]]+)(:(?P<port>\d{1,5}))?")
_NUMERIC = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*")

PRIVATE = tuple(
    map(
        ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",  # carrier-grade NAT; a cloud's resolver and metadata live here too
            "192.0.0.0/24",
            "192.88.99.0/24",
            "198.18.0.0/15",
            "fc00::/7",
            "fec0::/10",
            # Each carries an IPv4 address inside: what is private there must not be reached by another spelling.
            "64:ff9b::/96",
            "64:ff9b:1::/48",
            "2001::/32",
            "2002::/16",
        ),
    )
)
"""Networks of an organisation. The setting `private_hosts` opens parts of them, by name or by address."""

NEVER_BY_NAME = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local, and the metadata service of every large cloud
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/127",  # unspecified and loopback
            "fe80::/10",
            "ff00::/8",
            "100.100.100.200/32",  # metadata services outside the link-local range
            "192.0.0.192/32",
            "fd00:ec2::254/128",
        ),
    )
)
"""Addresses that only their own spelling in `private_hosts` opens: whoever owns a name can point it at any of them."""


@dataclass(frozen=True, order=True)
class Host:
    """One entry of a list, in canonical spelling."""

    name: str
    """Lower case, without `*.` and final dot; an address is spelled as `ipaddress` does; `*` is every public host."""
    port: int = 0
    """0: the web's ports in a list of what is allowed, every port in one of what is blocked."""
    below: bool = False
    """Written `*.name`: every name below it, and not itself."""

    @property
    def address(self) -> bool:
        """Whether it is an address and no name."""
        return ":" in self.name or bool(_NUMERIC.fullmatch(self.name))

    def covers(self, name: str, port: int, ports: Sequence[int] = ()) -> bool:
        """Whether a request to `name:port` is meant; `ports` are those of an entry without one, none: all."""
        fits = name.endswith(f".{self.name}") if self.below else self.name in (name, ANY)
        if self.name == ANY:
            fits = not numeric(name)
        return fits and (port == self.port if self.port else not ports or port in ports)

    def __str__(self) -> str:
        """Spell it as a list would."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{'*.' if self.below else ''}{name}{f':{self.port}' if self.port else ''}"


@dataclass(frozen=True)
class Reach:
    """What one step may reach: an ordered, canonical value, so that equal lists are equal."""

    allowed: tuple[Host, ...]
    blocked: tuple[Host, ...] = ()

    @classmethod
    def of(cls, allowed: Iterable[str], blocked: Iterable[str] = ()) -> Self:
        """Read two lists of words. ValueError for the first that is neither an ecosystem nor a host."""
        return cls(*(tuple(sorted({host for word in words for host in hosts(word)})) for words in (allowed, blocked)))

    def permits(self, name: str, port: int) -> bool:
        """Whether the lists let a request through; what its name resolves to is judged elsewhere."""
        name = name.lower().strip("[]").rstrip(".")
        if any(host.covers(name, port) for host in self.blocked):
            return False
        return any(host.covers(name, port, WEB_PORTS) for host in self.allowed)


@dataclass(frozen=True)
class Exceptions:
    """What the setting `private_hosts` opens."""

    names: tuple[Host, ...] = ()
    networks: tuple[Address, ...] = ()

    @classmethod
    def of(cls, words: Iterable[str]) -> Self:
        """Read names, addresses and networks. ValueError for the first that is none of them."""
        names, networks = [], []
        for word in words:
            network = _network(word)
            if network:
                networks.append(network)
                continue
            host = parse(word)
            if host.name == ANY or host.port:
                raise ValueError(f"{word!r}: a host name, an address or a network such as 10.1.0.0/16, without a port")
            names.append(host)
        return cls(tuple(sorted(set(names))), tuple(dict.fromkeys(networks)))


def parse(word: str) -> Host:
    """Return the host that a word names. ValueError says what is wrong with it, and what to write."""
    text = word.strip().lower()
    if "://" in text:
        raise ValueError(f"{word!r} is an address of a page; write the host alone: {_host_of(text)}")
    if "/" in text or "?" in text or "@" in text:
        raise ValueError(f"{word!r} has a path or a user; write the host alone: {_host_of(text)}")
    if text == ANY:
        return Host(ANY)
    below = text.startswith("*.")
    found = _ENTRY.fullmatch(text[2:] if below else text)
    if not found:
        raise ValueError(f"{word!r} is no host; write example.org, *.example.org, example.org:8443 or an address")
    name, port = found["host"].strip("[]"), int(found["port"] or 0)
    if found["port"] and not 0 < port < 65536:
        raise ValueError(f"{word!r}: ports go from 1 to 65535")
    if ":" in name or numeric(name):
        if below:
            raise ValueError(f"{word!r}: nothing lies below an address; write the address, or a name")
        return Host(_canonical(word, name), port)
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise ValueError(f"{word!r} is no host; write example.org, *.example.org, example.org:8443 or an address")
    return Host(name.rstrip("."), port, below)


def hosts(word: str) -> tuple[Host, ...]:
    """Return what a word of a list stands for: an ecosystem's hosts, or one. ValueError, with a suggestion.

    A single word is an ecosystem; a host without a dot is written with its port, `buildbox:80`.
    """
    text = word.strip().lower()
    if re.fullmatch(r"[a-z][a-z0-9_-]*", text):
        known = ecosystems()
        if text in known:
            return known[text]
        advice = did_you_mean(text, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"unknown ecosystem {word!r}{advice}; a host without a dot needs its port, as {text}:80")
    return (parse(word),)


@cache
def ecosystems() -> Mapping[str, tuple[Host, ...]]:
    """Return the ecosystems and their hosts, by name, sorted."""
    raw = yaml.safe_load(_ECOSYSTEMS.read_text(encoding="utf-8"))
    return {name: tuple(sorted(map(parse, raw[name]))) for name in sorted(raw)}


def numeric(name: str) -> bool:
    """Whether a host is an address in any spelling a resolver takes: dotted, one number, hexadecimal, IPv6."""
    return ":" in name or bool(_NUMERIC.fullmatch(name))


def closed(networks: Iterable[Address], opened: Iterable[Address]) -> tuple[Address, ...]:
    """Return networks without those that are opened, IPv4 first.

    By subtraction and not as an exception: of a name with several addresses each one must lie outside of what is left.
    """
    left = list(networks)
    for hole in opened:
        left = [rest for network in left for rest in _without(network, hole)]
    by_version: dict[int, list[Address]] = {4: [], 6: []}
    for network in left:
        by_version[network.version].append(network)
    return tuple(part for same in by_version.values() for part in collapse_addresses(same))  # type: ignore[type-var]


def _without(network: Address, hole: Address) -> Iterable[Address]:
    if network.version != hole.version or not network.overlaps(hole):
        return [network]
    if network.subnet_of(hole):  # type: ignore[arg-type] # the versions are equal
        return []
    return network.address_exclude(hole)  # type: ignore[arg-type]


def _network(word: str) -> Address | None:
    try:
        return ip_network(word.strip().strip("[]"))
    except ValueError:
        if "/" in word and numeric(word.partition("/")[0]):
            raise ValueError(f"{word!r} is no network: write it as 10.1.0.0/16, with no bits set after the /") from None
        return None


def _canonical(word: str, name: str) -> str:
    try:
        return str(ip_address(name))
    except ValueError:
        raise ValueError(f"{word!r} is no address; write all four numbers, or a name") from None


def _host_of(text: str) -> str:
    found = re.search(r"^([a-z+.-]*://)?([^/?@]*@)?([^/?]+)", text)
    return found[3] if found else "example.org"
