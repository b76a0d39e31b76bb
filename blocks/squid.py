"""What squid is told, and what it tells: rules → configuration, log line → attempt. Pure.

The hard choice: every container speaks to squid from a loopback address of its own (127.0.0.0/8 has sixteen million),
and the address says both which list holds and who it was. So one port and one configuration serve any number of steps,
and a line of the log names its container without a word that the container could have forged. The accepted cost is an
address plan, below: twelve bits for the list, twelve for the container.

Order matters in squid: the first line that fits decides. Each refusal carries a word (`why`) into the log and has a
page of its own. What a list says is judged before a name is resolved, so a refused host costs no look-up; the address
is judged after, on every address the name has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from workflowmaster.policies.hosts import ANY, NEVER_BY_NAME, PRIVATE, WEB_PORTS, Exceptions, Host, Reach, closed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from workflowmaster.policies.hosts import Address

PORT = 3128
"""Where squid listens, in its own container's loopback only."""

_LOOPBACK = int(IPv4Address("127.0.0.0"))
_BITS = 12
MOST = 2**_BITS - 2
"""Lists in one configuration, and containers under one list at a time."""

Why = Literal["list", "blocked", "port", "address", "protocol", "malformed", ""]

REFUSALS: dict[str, str] = {
    "list": "%H is not among the hosts this step may reach. To allow it, add it to `network:` of the step or the file.",
    "blocked": "%H is blocked by `network: blocked` of the step or the file. To allow it, take it off that list.",
    "port": "port %p of %H is not open to this step: an entry without a port means 80 and 443. To allow it, add the "
    "entry `%H:%p` to `network:` of the step or the file.",
    "address": "%H is, or resolves to, an address inside this organisation or of this machine. Only the operator can "
    "allow that: setting `private_hosts`.",
    "protocol": "only http, and https through CONNECT, are let through.",
}
"""Why a request is refused → the page its client gets; `%H` and `%p` are filled in by squid."""


FAILURES: dict[str, str] = {
    "ERR_DNS_FAIL": "%H cannot be found: %z",
    "ERR_CONNECT_FAIL": "%H does not answer on port %p: %E",
    "ERR_CANNOT_FORWARD": "%H cannot be reached on port %p: %E",
    "ERR_READ_ERROR": "the connection to %H broke: %E",
    "ERR_READ_TIMEOUT": "%H stopped answering: %E",
    "ERR_ZERO_SIZE_OBJECT": "%H closed the connection without an answer.",
}
"""What can go wrong behind the proxy → the page its client gets, in place of squid's own of a hundred lines."""


def page(why: str) -> str:
    """Return the file name of a refusal's page; clients also see it in the header `X-Squid-Error`."""
    return f"ERR_WORKFLOWMASTER_{why.upper()}"


def pages() -> dict[str, str]:
    """Return squid's templates, by file name."""
    # Without `%s`, the server's name, squid puts a signature of ten lines under every page.
    refused = {page(why): f"Refused by WorkflowMaster's proxy (%s): {text}\n" for why, text in REFUSALS.items()}
    return refused | {
        name: f"WorkflowMaster's proxy (%s) let this through, but {text}\n" for name, text in FAILURES.items()
    }


@dataclass(frozen=True)
class Parent:
    """The proxy that this machine itself must go through."""

    host: str
    port: int
    login: str = ""
    """`user:password`, as its URL had it; empty for none. A secret: only squid's configuration holds it."""
    direct: tuple[str, ...] = ()
    """Hosts that are asked without it; `.example.org` and what lies below."""

    @classmethod
    def of(cls, url: str, direct: str = "") -> Parent | None:
        """Read `http_proxy` and `no_proxy`. None for an empty URL; ValueError for one that squid cannot use."""
        if not url.strip():
            return None
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname or not re.fullmatch(r"[\w.:-]+", parts.hostname):
            raise ValueError("this machine's own proxy must be given as http://host:port")
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if parts.username else ""
        if re.search(r"[\s\"'\\#]", login):
            raise ValueError("the user or password of this machine's own proxy has a character that squid cannot take")
        skipped = (word.strip().removeprefix("*") for word in direct.split(","))
        return cls(
            parts.hostname, parts.port or 80, login, tuple(w for w in skipped if re.fullmatch(r"[\w.-]+", w, re.ASCII))
        )


def source(number: int, serial: int) -> str:
    """Return the address from which a container under the list of that number speaks; both count from 1."""
    if not (0 < number <= MOST and 0 < serial <= MOST):
        raise ValueError(f"list {number}, container {serial}: at most {MOST} of each")
    return str(IPv4Address(_LOOPBACK + (number << _BITS) + serial))


def place(address: str) -> tuple[int, int]:
    """Return the number of the list and of the container that an address stands for; the reverse of `source`."""
    return divmod(int(IPv4Address(address)) - _LOOPBACK, 1 << _BITS)


def configuration(
    reaches: Sequence[Reach],
    *,
    exceptions: Exceptions | None = None,
    own: Iterable[Address] = (),
    parent: Parent | None = None,
) -> str:
    """Return squid's configuration: list `n` of `reaches` (from 1) holds for the addresses `source(n, …)`.

    `own` are addresses of the engine's host, refused like private ones.
    """
    lines = [*_HEAD, *_addresses(exceptions or Exceptions(), tuple(own))]
    for number, reach in enumerate(reaches, 1):
        lines += _rules(number, reach)
    lines += ["http_access deny all", *(_parent(parent) if parent else ())]
    return "\n".join(lines) + "\n"


_HEAD = (
    f"http_port 127.0.0.1:{PORT}",
    "visible_hostname workflowmaster",
    "pid_filename none",
    "coredump_dir none",
    "netdb_filename none",
    "pinger_enable off",
    "cache_log stdio:/dev/stderr",
    "logformat wm %>a %.20rm %.255>rd %>rP %>Hs %>st %<st %{why}note %{private}note",
    # Written line by line as each request ends; a step's receipt waits for its lines.
    "access_log stdio:/dev/stdout wm",
    "error_directory /tmp/pages",
    "email_err_data off",
    "httpd_suppress_version_string on",
    "cache deny all",
    "cache_mem 0 MB",
    "memory_pools off",
    "digest_generation off",
    "via off",
    "forwarded_for delete",
    "reply_header_access X-Cache deny all",
    "reply_header_access X-Cache-Lookup deny all",
    "max_filedescriptors 8192",
    "dns_timeout 10 seconds",
    # The lower bound of every answer too: no name can change its address between being judged and being used.
    "negative_dns_ttl 30 seconds",
    "connect_timeout 20 seconds",
    "forward_timeout 40 seconds",
    "request_timeout 1 minute",
    "read_timeout 15 minutes",
    "shutdown_lifetime 0 seconds",
    "acl nothing src 255.255.255.255/32",
    "acl web port " + " ".join(map(str, WEB_PORTS)),
    "acl plain proto HTTP",
    "acl tunnel method CONNECT",
    # Any spelling of an address: dotted, short, hexadecimal, one number, IPv6.
    r"acl literal dstdom_regex -n -i ^\[?[0-9a-f.]*:[0-9a-f:.]*\]?$ ^(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*$",
    *(f"acl why_{why} annotate_transaction why={why}" for why in REFUSALS),
    *(f"deny_info {page(why)} why_{why}" for why in REFUSALS),
    "acl used_private annotate_transaction private=yes",
    "http_access deny manager why_protocol",
    "http_access deny !plain !tunnel why_protocol",
)


def _addresses(exceptions: Exceptions, own: tuple[Address, ...]) -> Iterator[str]:
    """Name the addresses that are closed to every name, and those that a name among the exceptions opens."""
    yield from _values("never", "dst", closed(NEVER_BY_NAME, exceptions.networks))
    yield from _values("private", "dst", closed((*PRIVATE, *own), exceptions.networks))
    yield from _values("inside", "dst", closed((*PRIVATE, *NEVER_BY_NAME, *own), ()))
    yield from _matching("excepted", exceptions.names)


def _rules(number: int, reach: Reach) -> Iterator[str]:
    this = f"list{number}"
    yield f"acl {this} src {IPv4Address(_LOOPBACK + (number << _BITS))}/{32 - _BITS}"
    yield from _ported(f"{this}_blocked", reach.blocked, default="")
    yield from _ported(f"{this}_open", reach.allowed, default="web")
    yield from _matching(f"{this}_named", reach.allowed)
    yield f"http_access deny {this} {this}_blocked why_blocked"
    yield f"http_access deny {this} !{this}_named why_list"
    yield f"http_access deny {this} !{this}_open why_port"
    yield f"http_access deny {this} never why_address"
    yield f"http_access deny {this} private !excepted why_address"
    yield f"http_access allow {this} inside used_private"
    yield f"http_access allow {this}"


def _ported(name: str, entries: Iterable[Host], *, default: str) -> Iterator[str]:
    """Define an acl that fits where an entry's host and its port fit; entries without one go with `default`."""
    by_port: dict[int, list[Host]] = {}
    for host in entries:
        by_port.setdefault(host.port, []).append(host)
    parts = []
    for port, same in by_port.items():
        part = f"{name}_{port}"
        yield from _matching(f"{part}_hosts", same)
        if port:
            yield f"acl {part}_port port {port}"
        yield f"acl {part} all-of {part}_hosts {f'{part}_port' if port else default}".rstrip()
        parts.append(part)
    yield f"acl {name} any-of {' '.join(parts) or 'nothing'}"


def _matching(name: str, entries: Iterable[Host]) -> Iterator[str]:
    """Define an acl that fits where one of the entries' hosts does. `-n`: an address is never looked up backwards."""
    entries = list(entries)
    exact = [host.name for host in entries if not host.below and host.name != ANY]
    below = [rf"[^.].*\.{re.escape(host.name)}$".replace(r"\-", "-") for host in entries if host.below]
    yield from _values(f"{name}_exact", "dstdomain -n", dict.fromkeys(_spellings(exact)))
    yield from _values(f"{name}_below", "dstdom_regex -n -i", [f"^{one}" for one in dict.fromkeys(below)])
    parts = [f"{name}_exact", f"{name}_below"]
    if any(host.name == ANY for host in entries):
        yield f"acl {name}_every all-of !literal"
        parts.append(f"{name}_every")
    yield f"acl {name} any-of {' '.join(parts)}"


def _spellings(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield name
        if ":" in name:
            yield f"[{name}]"


def _values(name: str, kind: str, values: Iterable[object]) -> Iterator[str]:
    """Define an acl with a line for each value: squid cuts long lines. Without any, one that never fits."""
    lines = [f"acl {name} {kind} {value}" for value in values]
    yield from lines or [f"acl {name} any-of nothing"]


def _parent(parent: Parent) -> Iterator[str]:
    login = f" login={parent.login}" if parent.login else ""
    yield f"cache_peer {parent.host} parent {parent.port} 0 no-query no-digest default{login}"
    if parent.direct:
        yield from _values("direct", "dstdomain -n", parent.direct)
        yield "always_direct allow direct"
    yield "never_direct allow all"


@dataclass(frozen=True)
class Attempt:
    """One request to the proxy, as squid logged it when it had ended."""

    source: str
    """Address of the container's forwarder, as `source` gives them."""
    method: str
    host: str
    """Empty where the request was so broken that it named none."""
    port: int
    status: int
    """What the client was answered; 0 if it left before."""
    sent: int
    """Bytes that the container sent, request line and headers included."""
    received: int
    """Bytes that the container got."""
    why: Why = ""
    """Why it was refused; empty if it was let through, whatever came of it."""
    private: bool = False
    """Whether it went to an address inside that the operator has opened."""

    @property
    def allowed(self) -> bool:
        """Whether the proxy let it through."""
        return not self.why

    @property
    def bytes(self) -> int:
        """Bytes in both directions."""
        return self.sent + self.received


def attempt(line: str) -> Attempt | None:
    """Read one line of the log. None for what is none: a connection without a request, or another text."""
    fields = line.split(" ")
    if len(fields) != 9 or not all(field.isdigit() for field in fields[4:7]):
        return None
    client, method, host, port, status, sent, received, why, private = fields
    if method == "-":
        return None
    if host == "-":
        why = "malformed"
    return Attempt(
        source=client,
        method=method[:20],
        host="" if host == "-" else unquote(host).lower().strip("[]")[:253],
        port=int(port) if port.isdigit() else 0,
        status=int(status),
        sent=int(sent),
        received=int(received),
        why=why if why in (*REFUSALS, "malformed") else "",  # type: ignore[arg-type]
        private=private == "yes",
    )
