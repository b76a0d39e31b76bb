"""What goes into a container and what comes out, written by code that means no good."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.exchange import (
    LARGEST_OUTPUT,
    NAME,
    OUTPUTS_CAP,
    BadOutputs,
    Exchange,
    parse_outputs,
    read_plain,
)

USER = (1000, 1000)


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    return Exchange(tmp_path / "deep/down/x").make(USER)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- inwards ---


@pytest.fixture
def umask_077() -> object:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_the_containers_user_can_read_whatever_our_umask_is(umask_077: object, tmp_path: Path) -> None:
    exchange = Exchange(tmp_path / "x").make(USER)
    exchange.write({"A": "b"}, {"work": "true\n"})
    exchange.place("data/deep/in.csv", b"1,2\n")
    exchange.place("tool", b"#!/bin/sh\n", executable=True)
    below = [path for path in exchange.inward.rglob("*") if path.is_dir()]
    assert sorted(str(path.relative_to(exchange.inward)) for path in below) == [
        "inputs",
        "inputs/data",
        "inputs/data/deep",
    ]
    assert {mode(path) for path in (exchange.inward, exchange.outward, *below)} == {0o755}
    assert {mode(exchange.inward / name) for name in ("env", "stdin", "work", "inputs/data/deep/in.csv")} == {0o644}
    assert mode(exchange.inward / "inputs/tool") == 0o755
    if os.geteuid() == 0:
        assert (exchange.outward.stat().st_uid, exchange.inward.stat().st_uid) == (USER[0], 0)


def test_stdin_is_empty_unless_it_is_given(exchange: Exchange) -> None:
    exchange.write({}, {})
    assert (exchange.inward / "stdin").read_bytes() == b""
    exchange.write({}, {"stdin": "a prompt\n\udcff"})
    assert (exchange.inward / "stdin").read_bytes() == b"a prompt\n\xff"
    assert (exchange.inward / "env").read_bytes() == b""


def test_it_can_be_made_again(exchange: Exchange) -> None:
    exchange.write({"A": "b"}, {})
    assert exchange.make(USER).outputs() == {}


# --- outwards: what is in the file ---


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("\n\n  \n", {}),
        ("a=1", {"a": "1"}),
        ("a=1\nb-c=2\n", {"a": "1", "b-c": "2"}),
        ("a=x=y=z\n", {"a": "x=y=z"}),
        ("a=\n", {"a": ""}),
        ("a=  spaces  \n", {"a": "  spaces  "}),
        (" a =1\n", {"a": "1"}),
        ("a=1\na=2\n", {"a": "2"}),
        ("a=x<<y\n", {"a": "x<<y"}),
        ("a<<END\nEND\n", {"a": ""}),
        ("a<<END\none\n\n two\nEND\nb=3\n", {"a": "one\n\n two", "b": "3"}),
        ("a<<EOF=1\nx\nEOF=1\n", {"a": "x"}),
        ("a<<E\n E\nE \nE\n", {"a": " E\nE "}),
        ("a=page\x0cfeed\x1e\u2028\x85\r\n", {"a": "page\x0cfeed\x1e\u2028\x85\r"}),
    ],
)
def test_outputs_are_read_as_they_were_written(text: str, found: dict[str, str]) -> None:
    assert parse_outputs(text) == found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hello\n", 1),
        ("a=1\n\n=2\n", 3),
        ("a=1\n1a=2\n", 2),
        ("a b=2\n", 1),
        ("ä=2\n", 1),
        ("a=1\nb<<END\nnever\n", 2),
        ("b<<\n\n", 1),
        ("<<E\nE\n", 1),
        ("a=1\nb=x\0y\n", 2),
    ],
)
def test_a_line_that_is_no_output_is_named(text: str, line: int) -> None:
    with pytest.raises(BadOutputs, match=rf"^line {line} of \$WM_OUTPUT"):
        parse_outputs(text)


names = st.from_regex(NAME, fullmatch=True)
lines = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"))


@given(st.dictionaries(names, lines))
def test_plain_values_come_back(values: dict[str, str]) -> None:
    assert parse_outputs("".join(f"{name}={value}\n" for name, value in values.items())) == values


@given(st.dictionaries(names, st.lists(lines.filter(lambda line: line != "--end--"), min_size=1).map("\n".join)))
def test_values_of_several_lines_come_back(values: dict[str, str]) -> None:
    assert parse_outputs("".join(f"{name}<<--end--\n{value}\n--end--\n" for name, value in values.items())) == values


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_outputs(text)
    except BadOutputs as error:
        found, refusal = {}, str(error)
    else:
        refusal = ""
    assert not refusal or re.match(r"line \d+ of \$WM_OUTPUT", refusal)
    assert all(NAME.fullmatch(name) and "\0" not in value for name, value in found.items())


# --- outwards: what the file is ---


def make_device(path: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: it never ends


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # a socket's address is short
        server.bind(path.name)


HOSTILE = {
    "symlink": lambda path: path.symlink_to("/etc/passwd"),
    "dangling symlink": lambda path: path.symlink_to("nowhere"),
    "symlink to itself": lambda path: path.symlink_to("outputs"),
    "FIFO": os.mkfifo,
    "directory": Path.mkdir,
    "socket": make_socket,
    "too large": lambda path: path.write_bytes(b"a=" + b"x" * OUTPUTS_CAP),
    "sparse": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
    "not UTF-8": lambda path: path.write_bytes(b"a=1\nb=\xff\n"),
    **({"device": make_device} if os.geteuid() == 0 else {}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_outputs_are_refused_and_nothing_waits(
    exchange: Exchange, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exchange.folder)
    before = len(os.listdir("/proc/self/fd"))
    HOSTILE[kind](exchange.outward / "outputs")
    with pytest.raises(BadOutputs) as caught:
        exchange.outputs()
    assert "root:" not in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_caps_are_exact(exchange: Exchange) -> None:
    lines = [b"%c=" % name + b"x" * LARGEST_OUTPUT + b"\n" for name in b"ab"]
    rest = OUTPUTS_CAP - len(b"".join(lines)) - 2
    (exchange.outward / "outputs").write_bytes(b"".join(lines) + b"c=" + b"x" * rest)
    assert {name: len(value) for name, value in exchange.outputs().items()} == {
        "a": LARGEST_OUTPUT,
        "b": LARGEST_OUTPUT,
        "c": rest,
    }


def test_an_output_that_no_later_step_could_carry_is_refused_by_name(exchange: Exchange) -> None:
    (exchange.outward / "outputs").write_bytes(b"small=1\nlarge=" + b"x" * (LARGEST_OUTPUT + 1))
    with pytest.raises(BadOutputs, match=r"output large of .* is larger than 98,304 bytes"):
        exchange.outputs()


def test_a_line_that_is_not_utf_8_is_named(exchange: Exchange) -> None:
    (exchange.outward / "outputs").write_bytes(b"a=1\nb=2\nc=\xe9t\xe9\n")
    with pytest.raises(BadOutputs, match="line 3"):
        exchange.outputs()


def test_no_file_is_no_outputs(exchange: Exchange) -> None:
    assert exchange.outputs() == {}
    assert read_plain(exchange.outward, "other", 10) == b""


def test_a_folder_that_was_shut_is_refused_too(exchange: Exchange, tmp_path: Path) -> None:
    """Its owner can do that. Root would not notice, so root becomes another user first."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom workflowmaster.blocks.exchange import BadOutputs, read_plain\n"
        "if os.geteuid() == 0: os.setresuid(65533, 65533, 65533)\n"
        "try: read_plain(Path(sys.argv[1]), 'outputs', 10)\n"
        "except BadOutputs as error: print(error)\n"
    )
    shut = Path("/tmp") / f"wm-test-shut-{os.getpid()}"
    shut.mkdir(mode=0o000)
    try:
        done = subprocess.run([sys.executable, "-c", code, str(shut)], capture_output=True, text=True, check=True)
    finally:
        shut.rmdir()
    assert done.stdout == "/out/outputs cannot be read as a plain file (Permission denied)\n"
