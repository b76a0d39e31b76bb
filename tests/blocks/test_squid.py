"""Squid's configuration and log lines, as values; that squid does what they say is shown in `test_egress`."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks import squid
from workflowmaster.policies.hosts import Exceptions, Reach

# Lines as squid 5.7 wrote them.
ALLOWED = "127.0.16.1 GET host.docker.internal 41821 200 163 1367 - yes"
REFUSED = "127.0.16.1 CONNECT evil.example 443 403 37 486 list -"
TUNNEL = "127.0.32.1 CONNECT example.org 443 200 557 2325 - -"
IPV6 = "127.0.16.1 GET %5b::1%5d 80 403 127 479 list -"
EMPTY = "127.0.0.1 - - - 0 0 0 - -"
GARBAGE = "127.0.16.1 NONE - - 400 0 3554 - -"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (ALLOWED, ("GET", "host.docker.internal", 41821, True, 200, 163, 1367, True)),
        (REFUSED, ("CONNECT", "evil.example", 443, False, 403, 37, 486, False)),
        (TUNNEL, ("CONNECT", "example.org", 443, True, 200, 557, 2325, False)),
        (IPV6, ("GET", "::1", 80, False, 403, 127, 479, False)),
        (GARBAGE, ("NONE", "", 0, False, 400, 0, 3554, False)),
    ],
)
def test_a_line_is_an_attempt(line, expected):
    found = squid.attempt(line)
    got = (found.method, found.host, found.port, found.allowed, found.status, found.sent, found.received, found.private)
    assert got == expected
    assert found.bytes == found.sent + found.received


@pytest.mark.parametrize("line", [EMPTY, "", "ready", "opened 7", "2026/11/22 17:41:51| Using", f"{ALLOWED} more"])
def test_what_is_no_attempt_is_left_out(line):
    assert squid.attempt(line) is None


@given(st.text(max_size=200))
def test_no_line_breaks_the_reader(text):
    squid.attempt(text)
    squid.attempt(f"127.0.16.1 {text} x 80 200 1 1 - -")


@given(st.integers(1, squid.MOST), st.integers(1, squid.MOST))
def test_an_address_says_who_speaks(number, serial):
    address = squid.source(number, serial)
    assert squid.place(address) == (number, serial)
    assert ip_address(address) in ip_network("127.0.0.0/8")
    # The lowest block is ours: probes and marks come from 127.0.0.1.
    assert address != "127.0.0.1"


@pytest.mark.parametrize("bad", [(0, 1), (1, 0), (squid.MOST + 1, 1), (1, squid.MOST + 1)])
def test_the_address_plan_has_an_end(bad):
    with pytest.raises(ValueError, match="at most 4094"):
        squid.source(*bad)


def lines(*reaches: Reach, **options) -> list[str]:
    return squid.configuration(reaches, **options).splitlines()


def test_each_list_holds_for_the_addresses_of_its_own():
    made = lines(Reach.of(["a.org"]), Reach.of(["b.org"]))
    assert "acl list1 src 127.0.16.0/20" in made
    assert "acl list2 src 127.0.32.0/20" in made
    for number, serial in ((1, 1), (1, squid.MOST), (2, 1)):
        network = ip_network(f"127.0.{16 * number}.0/20")
        assert ip_address(squid.source(number, serial)) in network


def test_what_no_list_allows_is_denied_last():
    made = [line for line in lines(Reach.of(["a.org"])) if line.startswith("http_access")]
    assert made[-1] == "http_access deny all"
    assert made.index("http_access deny list1 never why_address") < made.index("http_access allow list1")
    assert made.index("http_access deny list1 list1_blocked why_blocked") < made.index("http_access allow list1")


def test_the_port_listens_in_the_container_alone():
    assert [line for line in lines() if line.startswith("http_port")] == ["http_port 127.0.0.1:3128"]


def test_every_acl_is_defined_before_it_is_used():
    reaches = [Reach.of(["python", "*.x.org:8443", "[2001:db8::1]"], ["github"]), Reach.of(["*"]), Reach.of([])]
    known = {"all", "manager", "CONNECT"}
    for line in lines(*reaches, exceptions=Exceptions.of(["git.corp", "10.0.0.0/8"]), own=[ip_network("192.0.2.1/32")]):
        words = line.split()
        if words[0] == "acl":
            used = words[3:] if words[2] in ("any-of", "all-of") else []
            assert {word.lstrip("!") for word in used} <= known, line
            known.add(words[1])
        elif words[0] == "http_access":
            assert {word.lstrip("!") for word in words[2:]} <= known, line


def test_a_refusal_has_a_page_that_says_how_to_allow_it():
    pages = squid.pages()
    assert set(squid.REFUSALS) == {"list", "blocked", "port", "address", "protocol"}
    for why in squid.REFUSALS:
        assert pages[squid.page(why)].startswith("Refused by WorkflowMaster's proxy (%s): ")
    assert "`private_hosts`" in pages[squid.page("address")]


def test_an_opened_network_is_cut_out_and_an_opened_name_is_excepted():
    made = lines(Reach.of(["x.org"]), exceptions=Exceptions.of(["git.corp", "192.168.0.0/16"]))
    assert "acl private dst 192.168.0.0/16" not in made
    assert "acl private dst 10.0.0.0/8" in made
    assert "acl excepted_exact dstdomain -n git.corp" in made
    # A name never opens loopback or the cloud's metadata; whoever owns it could point it there.
    assert "http_access deny list1 never why_address" in made


def test_the_hosts_own_addresses_are_closed():
    assert "acl private dst 203.0.113.9/32" in lines(own=[ip_network("203.0.113.9/32")])


_NAMES = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,3}\.org", fullmatch=True)


@given(_NAMES, _NAMES)
def test_the_pattern_for_names_below_fits_as_the_rules_say(domain, name):
    made = lines(Reach.of([f"*.{domain}"]))
    (pattern,) = {line.split()[-1] for line in made if "_below dstdom_regex" in line}
    fits = bool(re.search(pattern, name, re.IGNORECASE))
    assert fits == Reach.of([f"*.{domain}"]).permits(name, 443)
    assert re.search(pattern, f"sub.{domain}")
    assert not re.search(pattern, domain)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", None),
        ("http://proxy.corp:8080", ("proxy.corp", 8080, "")),
        ("proxy.corp:8080", ("proxy.corp", 8080, "")),
        ("http://me:p%40ss@proxy.corp", ("proxy.corp", 80, "me:p@ss")),
    ],
)
def test_the_machines_own_proxy_is_read_from_its_url(url, expected):
    found = squid.Parent.of(url, "localhost, .corp.example,*.x.org")
    assert (found and (found.host, found.port, found.login)) == expected
    if found:
        assert found.direct == ("localhost", ".corp.example", ".x.org")


@pytest.mark.parametrize("url", ["socks5://x:1", "http://", "http://a b:80", "http://u:p%20w@x:80"])
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(url):
    with pytest.raises(ValueError, match="own proxy") as caught:
        squid.Parent.of(url)
    assert "p w" not in str(caught.value)


def test_with_a_proxy_of_its_own_everything_goes_through_it():
    made = lines(Reach.of(["a.org"]), parent=squid.Parent("proxy.corp", 8080, "me:word", (".corp.example",)))
    assert "cache_peer proxy.corp parent 8080 0 no-query no-digest default login=me:word" in made
    assert made[-2:] == ["always_direct allow direct", "never_direct allow all"]
