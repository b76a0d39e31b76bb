"""Secrets in streams: no form comes through, whatever the chunks, and nothing else is touched or delayed."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import sys
import time
from itertools import pairwise
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.blocks.forms import LEAST, forms, lines_of
from workflowmaster.blocks.masking import Masker

TOKEN = b"ghp_9f1c/+A7~xQ"
ODD = 'it\'s "odd" & <new>\\\t\u017elu\u0165 $HOME'.encode()
KEY = (
    b"-----BEGIN PRIVATE KEY-----\n"
    + b"".join(base64.b64encode(bytes([n]) * 48) + b"\n" for n in range(1, 6))
    + b"Zm9v\n-----END PRIVATE KEY-----\n"
)
NULS = b"\0\xff\xfe raw \0 bytes \x1e"
SECRETS = {"TOKEN": TOKEN, "ODD": ODD, "KEY": KEY, "NULS": NULS, "PLAIN": b"hunter2"}
MASKER = Masker(SECRETS)
KINDS = sorted(SECRETS)


def through(masker: Masker, parts: list[bytes]) -> bytes:
    stream = masker.stream()
    return b"".join([*map(stream.feed, parts), stream.rest()])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


# --- the forms ---

SPELLED = {
    "as it is": lambda v: v,
    "base64": base64.b64encode,
    "base64, one byte before it": lambda v: base64.b64encode(b"x" + v),
    "base64, two bytes before it": lambda v: base64.b64encode(b"xy" + v),
    "base64 with more behind it": lambda v: base64.b64encode(v + b"\n"),
    "base64 of basic authentication": lambda v: base64.b64encode(b"user:" + v),
    "URL-safe base64": base64.urlsafe_b64encode,
    "URL-safe base64 without padding": lambda v: base64.urlsafe_b64encode(v).rstrip(b"="),
    "base64 over lines": lambda v: base64.encodebytes(b"a longer text before it, so that the lines are cut in it" + v),
    "hex": lambda v: v.hex().encode(),
    "HEX": lambda v: v.hex().upper().encode(),
    "URL": lambda v: quote(v, safe="").encode(),
    "URL in lower case": lambda v: re.sub("%..", lambda found: found[0].lower(), quote(v, safe="")).encode(),
    "form": lambda v: quote_plus(v).encode(),
    "representation": lambda v: repr(v).encode(),
}
TEXTS = {
    "JSON": lambda v: json.dumps({"key": v.decode()}).encode(),
    "JSON in UTF-8": lambda v: json.dumps([v.decode()], ensure_ascii=False).encode(),
    "shell": lambda v: shlex.quote(v.decode()).encode(),
    "Python": lambda v: repr(v.decode()).encode(),
    "an exception": lambda v: f"KeyError: {v.decode()!r}".encode(),
}


# What holds bytes that are no text cannot be spelt as one.
PAIRS = [
    (name, spelling) for name in KINDS for spelling in (*SPELLED, *TEXTS) if (name, spelling in TEXTS) != ("NULS", True)
]


@pytest.mark.parametrize(("name", "spelling"), PAIRS)
def test_each_spelling_is_masked(name: str, spelling: str) -> None:
    value = SECRETS[name]
    printed = b"before " + {**SPELLED, **TEXTS}[spelling](value) + b" after\n"
    masked = through(MASKER, [printed])
    assert MASKER.mark in masked
    assert [form for form in forms(value) if form in masked] == []
    assert masked.startswith(b"before ")
    assert masked.endswith(b" after\n")
    # What is left of it is at most what two letters of base64 or a quote can say, and PEM's frame.
    left = masked.replace(MASKER.mark, b"").replace(b"before ", b"").replace(b" after\n", b"")
    assert name == "KEY" or len(left) <= 18 or b"lines" in spelling.encode(), left


@pytest.mark.parametrize(
    "script",
    [
        'set -x; : "$V"',
        "printf '%q\\n' \"$V\"",
        "declare -p V",
        'echo "$V" | base64',
        'echo "$V" | xxd -p',
        "export -p | grep V=",
    ],
)
@pytest.mark.parametrize("name", ["TOKEN", "ODD", "PLAIN", "KEY"])
def test_what_a_real_shell_prints_is_masked(name: str, script: str) -> None:
    done = subprocess.run(
        ["bash", "-c", script],
        env={"V": SECRETS[name].decode(), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
    )
    printed = done.stdout + done.stderr
    masked = through(MASKER, [printed])
    assert MASKER.mark in masked, printed
    assert MASKER.found(printed) == {name}
    if name == "TOKEN":
        assert b"9f1c" not in masked


def test_each_line_of_a_key_is_masked_by_itself_and_its_frame_is_not() -> None:
    lines = KEY.splitlines()
    assert lines_of(KEY) == lines[1:-2]
    masked = through(MASKER, [b"\n".join([*reversed(lines), b"end"])])
    assert masked.splitlines() == [lines[-1], lines[-2], *[MASKER.mark] * 5, lines[0], b"end"]


@pytest.mark.parametrize(
    "value", [b"", b"x", b"12345", b"a\nb\nc\nd\ne\nf\ng\n", b"\n\n\n\n\n\n\n", b"-----BEGIN X-----\nab\n"]
)
def test_what_is_too_short_to_be_masked_is_refused_without_being_told(value: bytes) -> None:
    with pytest.raises(ValueError, match=f"secret S has no line of at least {LEAST} bytes") as refused:
        Masker({"S": value})
    assert not value.strip() or repr(value)[2:-1] not in str(refused.value)


def test_a_masker_does_not_show_what_it_looks_for() -> None:
    assert "hunter" not in repr(MASKER) + str(MASKER)


# --- streams ---

noise = st.one_of(st.binary(max_size=6), st.sampled_from([b"\n", b"\r\n", b" ", b"=", b"hunter", b"ghp_", b"***"]))
spelled = st.sampled_from(sorted(form for value in SECRETS.values() for form in forms(value)))
output = st.lists(
    st.one_of(noise, spelled, spelled.map(lambda f: f[:-1]), spelled.map(lambda f: f[1:])), max_size=8
).map(b"".join)


@given(output, st.lists(st.integers(0, 10_000), max_size=8))
def test_any_chunks_give_the_same_bytes_and_no_form_comes_through(data: bytes, places: list[int]) -> None:
    whole = through(MASKER, [data])
    assert through(MASKER, cut(data, places)) == whole
    assert [form for value in SECRETS.values() for form in forms(value) if form in whole] == []
    assert MASKER.found(whole) == frozenset()


@settings(max_examples=25)
@given(st.binary(min_size=LEAST, max_size=80).filter(lines_of), st.binary(max_size=5), st.binary(max_size=5))
def test_any_value_is_masked_at_every_cut(value: bytes, before: bytes, after: bytes) -> None:
    masker = Masker({"S": value})
    for form in (value, base64.b64encode(b"1" + value), quote(value).encode()):
        data = before + form + after
        whole = through(masker, [data])
        assert {through(masker, [data[:at], data[at:]]) for at in range(len(data))} <= {whole}
        assert through(masker, [data[at : at + 1] for at in range(len(data))]) == whole
        assert value.strip(b"\r\n") not in whole.replace(masker.mark, b"\0\n\0") or b"\0" in value


@given(st.text("abc", max_size=30), st.lists(st.integers(0, 100), max_size=4))
def test_values_that_repeat_themselves_and_overlap(text: str, places: list[int]) -> None:
    masker = Masker({"A": b"abcabca", "B": b"aaaaaa", "C": b"bcabcab", "D": b"abcabcabcabc"})
    data = text.encode()
    whole = through(masker, [data])
    assert through(masker, cut(data, places)) == whole
    assert masker.found(whole) == frozenset()


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_what_is_no_secret_is_not_touched(data: bytes, places: list[int]) -> None:
    masker = Masker({"S": b"\x00\x01\x02\x03 very unlikely \x04\x05"})
    assert through(masker, cut(data, places)) == data


@pytest.mark.parametrize("line", [b"hello\n", b"plain h\n", b"ghp\n", b"50%\r", b"", b"no newline", b"hun\n"])
def test_a_line_is_passed_on_when_it_comes(line: bytes) -> None:
    assert MASKER.stream().feed(line) == line


def test_only_what_could_become_a_secret_is_held() -> None:
    stream = MASKER.stream()
    assert stream.feed(b"password: hun") == b"password: "
    assert stream.feed(b"dred\n") == b"hundred\n"
    assert stream.feed(b"hunter\n") == b"", "a line break does not end it"
    assert stream.feed(b"2\n") == b"***\n"
    assert stream.names == {"PLAIN"}


def test_a_secret_cut_off_by_the_end_is_masked_and_a_word_is_not() -> None:
    assert through(MASKER, [b"hunt"]) == b"hunt"
    assert through(MASKER, [b"x hunter"]) == b"x ***"
    assert through(MASKER, [b"x ghp_9f1c/+A7~x"]) == b"x ***"


def test_a_secret_at_the_very_end_is_found() -> None:
    stream = MASKER.stream()
    stream.feed(lines_of(KEY)[0])  # it could become the whole key
    stream.rest()
    assert stream.names == {"KEY"}


def test_the_mark_is_part_of_no_secret() -> None:
    masker = Masker({"STARS": b"a***b***c", "OTHER": b"hunter2"})
    assert masker.mark == b"###"
    assert through(masker, [b"a***hunter2***b***c a***b***c"]) == b"a***###***b***c ###"


def test_texts_are_masked_whatever_they_hold() -> None:
    assert MASKER.text("said hunter2, \udcff") == "said ***, \ufffd"
    assert MASKER.text("nothing \udcff here") == "nothing \udcff here"


# --- cost ---


def seconds(work) -> float:
    """CPU seconds of this process: others may use the machine."""
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize("piece", [64, 1 << 16])
@pytest.mark.parametrize(
    "text", [b"some ordinary output of a tool\n", b"ghp_9f1c/+A7~x", b"aaaaaaaa"], ids=["plain", "nearly", "same"]
)
def test_time_grows_with_the_output_and_not_with_its_square(text: bytes, piece: int) -> None:
    def run(size: int) -> float:
        data = (text * (size // len(text) + 1))[:size]
        stream = MASKER.stream()
        return seconds(lambda: [stream.feed(data[at : at + piece]) for at in range(0, size, piece)])

    small = min(run(1 << 18) for _ in range(3))
    assert min(run(1 << 21) for _ in range(3)) < 8 * small * 4


def test_without_secrets_the_library_is_not_even_loaded() -> None:
    code = "import sys, workflowmaster.blocks.masking, workflowmaster.blocks.output; print('ahocorasick_rs' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"
