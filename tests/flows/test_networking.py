"""What a step may reach follows from its policy and its words, and only ever narrows."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster import policies
from workflowmaster.blocks.receipt import Receipt
from workflowmaster.flows import networking, steptable
from workflowmaster.flows.networking import Traffic, granted, own_proxy, reach_of
from workflowmaster.flows.plan import Network, Source, Step, StepResult
from workflowmaster.flows.reading import Row
from workflowmaster.flows.settings import SettingsError, load
from workflowmaster.policies.hosts import Reach

WAYS = ("bridge", "proxy-any", "proxy-allowlist", "none")
NOTHING, NAMED, ANY, BUT = Network(), Network(allowed=("python",)), Network(allowed=("*",)), Network(blocked=("x.org",))


@pytest.mark.parametrize(
    ("policy", "wish", "way", "reach"),
    [
        ("minimal", None, "bridge", None),
        ("minimal", NOTHING, "none", None),
        ("minimal", NAMED, "proxy-allowlist", Reach.of(["python"])),
        ("minimal", BUT, "proxy-any", Reach.of(["*"], ["x.org"])),
        ("development", None, "proxy-any", Reach.of(["*"])),
        ("development", NOTHING, "none", None),
        ("development", NAMED, "proxy-allowlist", Reach.of(["python"])),
        ("development", ANY, "proxy-any", Reach.of(["*"])),
        ("development", BUT, "proxy-any", Reach.of(["*"], ["x.org"])),
        ("standard", None, "proxy-allowlist", None),
        ("standard", NOTHING, "none", None),
        ("standard", NAMED, "proxy-allowlist", Reach.of(["python"])),
        ("standard", BUT, "proxy-allowlist", None),
        ("hardened", None, "none", None),
        ("hardened", NAMED, "none", None),
        ("paranoid", ANY, "none", None),
    ],
)
def test_what_a_step_gets(policy, wish, way, reach):
    narrowed = granted(policies.load(policy), wish)
    assert narrowed.network == way
    assert reach_of(narrowed, wish) == reach


_WORDS = st.lists(st.sampled_from(["python", "x.org", "*.x.org:99", "*"]), max_size=3).map(tuple)


@given(st.sampled_from(policies.ORDER), st.none() | st.builds(Network, allowed=_WORDS, blocked=_WORDS))
def test_no_wish_grants_more_than_the_policy(name, wish):
    policy = policies.load(name)
    narrowed = granted(policy, wish)
    assert WAYS.index(narrowed.network) >= WAYS.index(policy.network)
    assert not policies.looser(narrowed, policy)


def test_a_policy_that_stays_as_it_is_is_the_same():
    """Its hash is in every result's key."""
    policy = policies.load("standard")
    assert granted(policy, NAMED) is policy
    assert granted(policy, None) is policy


def test_an_account_names_the_first_refused_hosts():
    refused = Counter({(f"h{n}.org", 443, "list"): n + 1 for n in range(12)})
    account = Traffic(attempts=100, refused=refused, bytes=7).account()
    assert account["network_attempts"] == 100
    assert account["network_refused"] == sum(range(1, 13))
    assert account["network_refused_hosts"] == tuple(f"h{n}.org:443" for n in range(networking.SHOWN))


def test_notes_say_what_was_refused_and_how_to_allow_it():
    refused = Counter(
        {("x.org", 443, "list"): 3, ("y.org", 22, "port"): 1, ("", 0, "malformed"): 1, ("::1", 80, "list"): 1}
    )
    notes = Traffic(refused=refused).notes()
    assert notes[0].startswith("[workflowmaster: refused x.org:443, 3 times: x.org is not among the hosts")
    assert "add the entry `y.org:22`" in notes[1]
    assert notes[2] == "[workflowmaster: refused ?:0: it was no request that a proxy understands.]"
    assert notes[3].startswith("[workflowmaster: refused [::1]:80: ")


def test_a_flood_of_hosts_is_cut_short():
    notes = Traffic(refused=Counter({(f"h{n}.org", 443, "list"): 1 for n in range(500)})).notes()
    assert len(notes) == networking.SHOWN + 1
    assert notes[-1] == "[workflowmaster: refused 490 more hosts; see the audit log]"


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_without_a_proxy_of_this_machine_there_is_no_parent():
    assert own_proxy() is None


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "http_proxy", "HTTP_PROXY"])
def test_the_proxy_of_this_machine_is_the_parent(monkeypatch, name):
    monkeypatch.setenv(name, "http://proxy.corp:8080")
    monkeypatch.setenv("NO_PROXY", ".corp.example")
    found = own_proxy()
    assert found
    assert (found.host, found.port, found.direct) == ("proxy.corp", 8080, (".corp.example",))


def test_a_proxy_that_cannot_be_used_is_told_without_its_password(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:hunter2@proxy.corp:1")
    with pytest.raises(SettingsError, match="HTTPS_PROXY or HTTP_PROXY") as refused:
        own_proxy()
    assert "hunter2" not in str(refused.value)


def test_the_setting_is_a_list_of_hosts_and_networks(home, monkeypatch):
    assert load().private_hosts == ()
    monkeypatch.setenv("WORKFLOWMASTER_PRIVATE_HOSTS", "git.corp, 10.0.0.0/8")
    assert load().private_hosts == ("git.corp", "10.0.0.0/8")
    assert not (home / "settings.toml").exists()


@pytest.mark.parametrize("word", ["10.1.2.3/16", "https://git.corp", "git.corp:443"])
def test_a_word_in_it_that_is_none_is_an_error(home, monkeypatch, word):
    monkeypatch.setenv("WORKFLOWMASTER_PRIVATE_HOSTS", word)
    with pytest.raises(SettingsError, match="WORKFLOWMASTER_PRIVATE_HOSTS"):
        load()
    assert not home.exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ""),
        ({"network_attempts": 1, "network_bytes": 2048}, "1 request, 2.0 KiB"),
        (
            {"network_attempts": 9, "network_bytes": 0, "network_refused": 3, "network_refused_hosts": ("x.org:443",)},
            "9 requests, 0 B; 3 refused: x.org:443",
        ),
    ],
)
def test_the_report_says_what_a_step_asked_of_the_proxy(fields, said):
    source = Source(line=1, end_line=1)
    step = Step(id="a", name="a", kind="command", source=source)
    result = StepResult(step="a", status="completed", key="k", receipts=(Receipt(**fields),))
    assert steptable._network(Row(step, "completed", result, reused=False, bars=())) == said
