"""The seccomp tiers: generated, nested in what they permit, and usable in real containers."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
from pathlib import Path

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster import policies

ROOT = Path(__file__).resolve().parents[2]
TIERS = ("S0", "S1", "S2", "S3", "S4")

spec = importlib.util.spec_from_file_location("make_seccomp", ROOT / "scripts" / "make_seccomp.py")
make_seccomp = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_seccomp)

PROFILES = {tier: json.loads((ROOT / "policies" / "seccomp" / f"{tier}.json").read_text()) for tier in TIERS}
NAMES = sorted({name for rule in PROFILES["S0"]["syscalls"] for name in rule["names"]} | {"keyctl", "io_uring_setup"})
CAPABILITIES = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_NICE"]


def holds(arg: dict, args: list[int]) -> bool:
    value = args[arg["index"]]
    match arg["op"]:
        case "SCMP_CMP_EQ":
            return value == arg["value"]
        case "SCMP_CMP_NE":
            return value != arg["value"]
        case "SCMP_CMP_MASKED_EQ":
            return value & arg["value"] == arg["valueTwo"]
    raise AssertionError(arg["op"])


def applies(rule: dict, arch: str, caps: set[str]) -> bool:
    """Docker's own reading of includes and excludes; the kernel is newer than any minKernel asks for."""
    wanted, unwanted = rule.get("includes", {}), rule.get("excludes", {})
    if "arches" in wanted and arch not in wanted["arches"]:
        return False
    if arch in unwanted.get("arches", []) or caps & set(unwanted.get("caps", [])):
        return False
    return set(wanted.get("caps", [])) <= caps


def permits(profile: dict, name: str, args: list[int], arch: str, caps: set[str]) -> bool:
    rules = [r for r in profile["syscalls"] if name in r["names"] and applies(r, arch, caps)]
    # Comparisons of one rule must all hold, rules of one call are alternatives.
    return any(r["action"] == "SCMP_ACT_ALLOW" and all(holds(a, args) for a in r.get("args", [])) for r in rules)


def test_regenerating_gives_the_committed_bytes():
    assert {path.name: path.read_text() == text for path, text in make_seccomp.texts().items()} == {
        f"{tier}.json": True for tier in TIERS
    }


def test_the_check_says_which_file_is_stale(tmp_path, monkeypatch, capsys):
    for path in (ROOT / "policies" / "seccomp").glob("*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "S2.json").write_text("{}")
    monkeypatch.setattr(make_seccomp, "FOLDER", tmp_path)
    assert make_seccomp.main(["--check"]) == 1
    assert capsys.readouterr().out == "S2.json is stale: run scripts/make_seccomp.py\n"
    assert make_seccomp.main([]) == 0
    assert make_seccomp.main(["--check"]) == 0


def test_a_misspelt_call_is_an_error_and_takes_nothing_silently():
    table = {"groups": {"a": ["read"]}, "conditions": {}, "tiers": {"S0": [], "S1": [{"names": ["raed"]}]}}
    with pytest.raises(ValueError, match="raed"):
        make_seccomp.make(table)


@pytest.mark.parametrize(("outer", "inner"), list(pairwise(TIERS)))
def test_each_tier_allows_a_proper_subset_of_names(outer, inner):
    allowed = {
        tier: {n for r in PROFILES[tier]["syscalls"] if r["action"] == "SCMP_ACT_ALLOW" for n in r["names"]}
        for tier in (outer, inner)
    }
    assert allowed[inner] < allowed[outer]


@given(
    name=st.sampled_from(NAMES),
    args=st.lists(
        st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 10, 16, 40, 0x40, 0x400040, 0o4755, 0o644])),
        min_size=6,
        max_size=6,
    ),
    arch=st.sampled_from(["amd64", "arm64", "s390x", "riscv64"]),
    caps=st.sets(st.sampled_from(CAPABILITIES)),
)
def test_what_a_tier_permits_every_looser_one_permits(name, args, arch, caps):
    permitted = [permits(PROFILES[tier], name, args, arch, caps) for tier in TIERS]
    assert permitted == sorted(permitted, reverse=True)


@pytest.mark.parametrize(
    ("name", "args", "last"),
    [
        # The last tier that permits the call with these arguments, for a container without capabilities.
        ("read", [0] * 6, "S4"),
        ("socket", [1, 1, 0, 0, 0, 0], "S4"),
        ("socket", [10, 1, 0, 0, 0, 0], "S3"),
        ("socket", [16, 1, 0, 0, 0, 0], "S2"),
        ("socket", [17, 1, 0, 0, 0, 0], "S0"),
        ("socket", [40, 1, 0, 0, 0, 0], None),
        # The kernel looks at the lower half only: this is 40 as well.
        ("socket", [40 | 1 << 32, 1, 0, 0, 0, 0], None),
        ("clone", [0x11, 0, 0, 0, 0, 0], "S4"),
        ("clone", [0x10000000, 0, 0, 0, 0, 0], None),
        ("clone3", [0] * 6, None),
        ("chmod", [0, 0o755, 0, 0, 0, 0], "S4"),
        ("chmod", [0, 0o4755, 0, 0, 0, 0], "S0"),
        ("openat", [0, 0, 0x41, 0o644, 0, 0], "S4"),
        ("openat", [0, 0, 0x41, 0o4755, 0, 0], "S0"),
        ("openat", [0, 0, 0, 0o4755, 0, 0], "S4"),
        ("ptrace", [0] * 6, "S1"),
        ("personality", [0] * 6, "S1"),
        ("memfd_create", [0] * 6, "S2"),
        ("shmget", [0] * 6, "S2"),
        ("fchownat", [0] * 6, "S2"),
        ("mknod", [0, 0o10644, 0, 0, 0, 0], "S3"),
        ("setuid", [0] * 6, "S3"),
        ("openat2", [0] * 6, "S0"),
        ("socketcall", [1, 0, 0, 0, 0, 0], "S0"),
        ("mount", [0] * 6, None),
        ("io_uring_setup", [0] * 6, None),
        ("keyctl", [0] * 6, None),
    ],
)
def test_where_a_call_ends(name, args, last):
    permitting = [tier for tier in TIERS if permits(PROFILES[tier], name, args, "amd64", set())]
    assert permitting == list(TIERS[: TIERS.index(last) + 1] if last else ())


# What ordinary steps do, in one script: threads, sub-processes, sockets, git, a virtual environment, tests, archives.
ORDINARY = r"""
set -e
python3 - <<'P'
import asyncio, socket, sqlite3, ssl, subprocess, threading
assert subprocess.check_output(["sh", "-c", "echo sub"]) == b"sub\n"
worker = threading.Thread(target=print, args=("thread",)); worker.start(); worker.join()
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen(); socket.socketpair()
asyncio.run(asyncio.sleep(0))
sqlite3.connect("/tmp/x.db").execute("create table a (b)")
P
mkdir /tmp/r && cd /tmp/r && git init -q . && git config user.email a@example.org && git config user.name a
echo hi >file && git add file && git commit -qm one && git gc -q && git clone -q . ../clone && cp -r . ../copy
python3 -m venv --without-pip /tmp/venv && /tmp/venv/bin/python -c "print('venv')"
printf 'def test_a():\n    assert True\n' >/tmp/test_a.py && python -m pytest -q -p no:cacheprovider /tmp/test_a.py | tail -n 1
make --version >/dev/null && tar czf /tmp/a.tgz -C /tmp r && chmod 755 /tmp/a.tgz && echo done
"""

# Each line: a hostile call, and the last policy under which it may succeed. Raw calls, since libc hides some.
HOSTILE = r"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    ctypes.set_errno(0)
    answer = libc.syscall(*args)
    print(name, "ok" if answer >= 0 else os.strerror(ctypes.get_errno()))
path = b"/tmp/hostile"
open(path, "w").close()
call("ptrace", 101, 0, 0, 0, 0)
call("chmod-setuid", 90, path, 0o4755)
call("open-setuid", 257, -100, b"/tmp/born-setuid", 0o101, 0o4755)
call("socket-packet-family", 41, 17, 3, 0)
call("socket-netlink", 41, 16, 3, 0)
call("socket-inet6", 41, 10, 1, 0)
call("memfd", 319, b"x", 0)
call("personality", 135, ctypes.c_ulong(0xFFFFFFFF))
call("link", 86, path, b"/tmp/linked")
call("unshare-user", 272, 0x10000000)
call("io-uring", 425, 1, 0)
call("keyring", 250, 0, 0, 0, 0, 0)
"""
LAST_ALLOWED = {
    "ptrace": "S1",
    "chmod-setuid": "S0",
    "open-setuid": "S0",
    "socket-packet-family": None,
    "socket-netlink": "S2",
    "socket-inet6": "S3",
    "memfd": "S2",
    "personality": "S1",
    "link": "S3",
    "unshare-user": None,
    "io-uring": None,
    "keyring": None,
}


def in_container(tier: str, argv: list[str]) -> str:
    policy = next(p for name in policies.ORDER if (p := policies.load(name)).seccomp == tier)
    client = docker.from_env()
    return client.containers.run(
        "workflowmaster/step:1",
        argv,
        security_opt=["no-new-privileges:true", "seccomp=" + policies.seccomp_text(policy)],
        cap_drop=["ALL"],
        read_only=True,
        tmpfs={"/tmp": "rw,nosuid,nodev,exec,size=100m"},
        network_mode="none",
        user="12345:12345",
        environment={"HOME": "/tmp"},
        init=True,
        remove=True,
    ).decode()


@pytest.mark.docker
@pytest.mark.parametrize("tier", TIERS)
def test_ordinary_work_runs_under_every_tier(tier):
    said = in_container(tier, ["bash", "-c", ORDINARY])
    assert said.splitlines()[0] == "thread"
    assert "1 passed" in said
    assert said.splitlines()[-1] == "done"


@pytest.mark.docker
@pytest.mark.parametrize("tier", TIERS)
def test_hostile_calls_end_where_the_table_says(tier):
    said = dict(line.split(" ", 1) for line in in_container(tier, ["python3", "-c", HOSTILE]).splitlines())
    expected = {
        name: last is not None and TIERS.index(tier) <= TIERS.index(last) for name, last in LAST_ALLOWED.items()
    }
    assert {name: answer == "ok" for name, answer in said.items()} == expected
