"""Lists of hosts: what a word stands for, what is refused as none, and which addresses stay closed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.policies.hosts import (
    ANY,
    NEVER_BY_NAME,
    PRIVATE,
    Exceptions,
    Host,
    Reach,
    closed,
    ecosystems,
    hosts,
    numeric,
    parse,
)


@pytest.mark.parametrize(
    ("word", "host"),
    [
        ("example.org", Host("example.org")),
        (" Example.ORG. ", Host("example.org")),
        ("*.example.org", Host("example.org", below=True)),
        ("example.org:8443", Host("example.org", 8443)),
        ("*.example.org:8443", Host("example.org", 8443, below=True)),
        ("buildbox:80", Host("buildbox", 80)),
        ("under_score.example.org", Host("under_score.example.org")),
        ("xn--bcher-kva.example", Host("xn--bcher-kva.example")),
        ("192.0.2.7", Host("192.0.2.7")),
        ("192.0.2.7:8080", Host("192.0.2.7", 8080)),
        ("[2001:DB8::0:1]", Host("2001:db8::1")),
        ("[2001:db8::1]:443", Host("2001:db8::1", 443)),
        ("*", Host(ANY)),
    ],
)
def test_a_host_has_one_spelling(word, host):
    assert parse(word) == host
    assert parse(str(host)) == host


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("https://example.org", "write the host alone: example.org"),
        ("http://example.org:80/x?y", "write the host alone: example.org:80"),
        ("example.org/path", "write the host alone: example.org"),
        ("user@example.org", "write the host alone: example.org"),
        ("example.org:", "is no host"),
        ("example.org:0", "ports go from 1 to 65535"),
        ("example.org:65536", "ports go from 1 to 65535"),
        ("-x.example.org", "is no host"),
        ("a..b", "is no host"),
        ("*.*.example.org", "is no host"),
        ("exa mple.org", "is no host"),
        ("example.org\nacl", "is no host"),
        ('example.org"', "is no host"),
        ("bücher.example", "is no host"),
        ("*.192.0.2.7", "nothing lies below an address"),
        ("127.1", "write all four numbers"),
        ("0x7f000001", "write all four numbers"),
        ("[::g]", "is no host"),
        ("", "is no host"),
    ],
)
def test_what_is_no_host_is_refused_with_advice(word, advice):
    with pytest.raises(ValueError, match=advice):
        parse(word)


def test_a_single_word_is_an_ecosystem():
    assert Host("pypi.org") in hosts("python")
    assert Host("githubusercontent.com", below=True) in hosts("GitHub")


@pytest.mark.parametrize(
    ("word", "advice"), [("pythn", "did you mean 'python'"), ("zzz", "known: debian"), ("intranet", "as intranet:80")]
)
def test_an_unknown_ecosystem_is_told_what_is_known(word, advice):
    with pytest.raises(ValueError, match=advice):
        hosts(word)


def test_the_ecosystems_are_what_the_documentation_lists():
    wanted = {"python", "node", "github", "debian", "rust", "go", "java", "docker", "ubuntu", "ruby", "php", "gitlab"}
    assert set(ecosystems()) == wanted
    for name, found in ecosystems().items():
        assert found, name
        # An ecosystem is never a way to everything, and never one to addresses.
        assert not any(host.name == ANY or numeric(host.name) for host in found)


@pytest.mark.parametrize(
    ("allowed", "blocked", "request_", "verdict"),
    [
        (["example.org"], [], ("example.org", 443), True),
        (["example.org"], [], ("example.org", 80), True),
        (["example.org"], [], ("EXAMPLE.org.", 443), True),
        (["example.org"], [], ("example.org", 22), False),
        (["example.org"], [], ("a.example.org", 443), False),
        (["example.org"], [], ("notexample.org", 443), False),
        (["*.example.org"], [], ("a.example.org", 443), True),
        (["*.example.org"], [], ("a.b.example.org", 443), True),
        (["*.example.org"], [], ("example.org", 443), False),
        (["*.example.org"], [], ("notexample.org", 443), False),
        (["example.org:8443"], [], ("example.org", 8443), True),
        (["example.org:8443"], [], ("example.org", 443), False),
        (["python"], [], ("pypi.org", 443), True),
        (["python"], ["pypi.org"], ("pypi.org", 443), False),
        (["python"], ["pypi.org:80"], ("pypi.org", 443), True),
        (["*"], ["*.example.org"], ("a.example.org", 443), False),
        (["*"], [], ("anything.example", 443), True),
        (["*"], [], ("8.8.8.8", 443), False),
        (["*", "8.8.8.8"], [], ("8.8.8.8", 443), True),
        (["[2001:db8::1]:80"], [], ("[2001:db8::1]", 80), True),
        ([], [], ("example.org", 443), False),
    ],
)
def test_what_lists_permit(allowed, blocked, request_, verdict):
    assert Reach.of(allowed, blocked).permits(*request_) is verdict


def test_equal_lists_are_equal_whatever_their_order():
    assert Reach.of(["b.org", "a.org:80", "a.org"]) == Reach.of(["a.org", "a.org:80", "B.org", "b.org"])
    assert hash(Reach.of(["python"])) == hash(Reach.of(["python", "pypi.org"]))


@given(st.lists(st.sampled_from(["a.org", "*.a.org", "b.a.org", "a.org:99", "python", "*"])), st.data())
def test_blocking_never_permits_more(words, data):
    blocked = data.draw(st.lists(st.sampled_from(["a.org", "*.a.org", "a.org:99", "python", "*"])))
    for request in (("a.org", 80), ("b.a.org", 443), ("a.org", 99), ("pypi.org", 443)):
        if Reach.of(words, blocked).permits(*request):
            assert Reach.of(words).permits(*request)


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_special_addresses_are_closed(address):
    assert any(ip_address(address) in network for network in closed((*PRIVATE, *NEVER_BY_NAME), ()))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:4700::1"])
def test_public_addresses_are_not(address):
    assert not any(ip_address(address) in network for network in closed((*PRIVATE, *NEVER_BY_NAME), ()))


def test_what_is_opened_is_cut_out_and_nothing_else():
    left = closed(PRIVATE, [ip_network("10.1.0.0/16"), ip_network("172.17.0.1/32")])
    assert not any(ip_address("10.1.2.3") in network for network in left)
    assert not any(ip_address("172.17.0.1") in network for network in left)
    for stays in ("10.0.255.255", "10.2.0.0", "172.17.0.0", "172.17.0.2", "192.168.0.1", "fc00::1"):
        assert any(ip_address(stays) in network for network in left)


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_an_address_is_closed_exactly_if_it_was_and_is_not_opened(address, bits):
    hole = ip_network(f"{address}/{bits}", strict=False)
    left = closed(NEVER_BY_NAME, [hole])
    assert not any(address in network for network in left)
    for probe in ("127.0.0.1", "169.254.169.254", "8.8.8.8"):
        was = any(ip_address(probe) in network for network in NEVER_BY_NAME)
        assert any(ip_address(probe) in n for n in left) == (was and ip_address(probe) not in hole)


def test_exceptions_are_names_addresses_and_networks():
    found = Exceptions.of(["git.corp.example", "*.lab.example", "10.1.0.0/16", "192.168.7.7", "[fd00::1]", "buildbox"])
    assert [str(host) for host in found.names] == ["buildbox", "git.corp.example", "*.lab.example"]
    assert [str(one) for one in found.networks] == ["10.1.0.0/16", "192.168.7.7/32", "fd00::1/128"]


@pytest.mark.parametrize("word", ["10.1.2.3/16", "http://x.org", "x.org:80", "*", "a b"])
def test_what_is_no_exception_is_refused(word):
    with pytest.raises(ValueError, match=r"no network|write the host alone|without a port|is no host"):
        Exceptions.of([word])
