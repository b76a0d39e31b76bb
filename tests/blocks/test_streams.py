"""The engine's frames and our own marks, cut in every way a network can cut them."""

from __future__ import annotations

import struct
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.streams import EDGE, Frames, Marks

if TYPE_CHECKING:
    from collections.abc import Iterable

MARK = EDGE + b"0123456789abcdef0123456789abcdef" + EDGE

# Captured from Docker Engine 20.10.24: `printf out; printf err >&2`, attached with stdin, stdout and stderr.
CAPTURED = bytes.fromhex("01000000000000036f75740200000000000003657272")

# Bytes of which marks are made, so that beginnings of them are common; not all of the secret, which no step knows.
nasty = st.lists(st.sampled_from([b"a", EDGE, MARK[:9], MARK[:32], b"\x1e0", b"\n"])).map(b"".join)


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def read(parts: Iterable[bytes]) -> dict[int, bytes]:
    frames, got = Frames(), {1: b"", 2: b""}
    for part in parts:
        for stream, chunk in frames.feed(part):
            assert chunk, "an empty piece is no output"
            got[stream] += chunk
    return got


def test_what_an_engine_really_sent() -> None:
    assert list(Frames().feed(CAPTURED)) == [(1, b"out"), (2, b"err")]


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))), st.lists(st.integers(0, 400)))
def test_any_cut_of_the_stream_gives_the_same_bytes(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(*one) for one in sent)
    expected = {stream: b"".join(body for to, body in sent if to == stream) for stream in (1, 2)}
    assert read(pieces(data, cuts)) == expected


def test_a_frame_is_passed_on_before_it_is_complete() -> None:
    frames = Frames()
    assert list(frames.feed(frame(1, b"progress")[:11])) == [(1, b"pro")]
    assert list(frames.feed(b"gress")) == [(1, b"gress")]


@pytest.mark.parametrize(("stream", "to"), [(0, 1), (1, 1), (2, 2), (3, 2)])
def test_a_stream_the_engine_names_otherwise_is_still_output(stream: int, to: int) -> None:
    assert list(Frames().feed(frame(stream, b"x"))) == [(to, b"x")]


def test_many_small_frames_cost_what_their_bytes_cost() -> None:
    """A program that writes single characters makes 100,000 frames of a megabyte."""
    data = frame(1, b"x") * 100_000
    began = time.process_time()
    assert read([data])[1] == b"x" * 100_000
    assert time.process_time() - began < 2.0


def take(marks: Marks, parts: Iterable[bytes]) -> bytes:
    return b"".join(marks.feed(part) for part in parts)


@given(nasty, nasty, nasty, st.lists(st.integers(0, 300)))
def test_marks_are_found_and_taken_out_wherever_the_stream_is_cut(
    before: bytes, between: bytes, after: bytes, cuts: list[int]
) -> None:
    marks = Marks(MARK, expected=2, digits=3)
    output = take(marks, pieces(before + MARK + between + MARK + b"042" + after, cuts))
    assert output == before + between
    assert (marks.complete, marks.said, marks.rest()) == (True, b"042", b"")


@given(nasty, st.lists(st.integers(0, 300)))
def test_without_its_mark_a_stream_is_passed_on_whole(data: bytes, cuts: list[int]) -> None:
    marks = Marks(MARK, expected=1, digits=3)
    output = take(marks, pieces(data, cuts))
    assert output + marks.rest() == data
    assert not marks.complete


@given(nasty)
def test_no_more_is_held_back_than_could_be_a_mark(data: bytes) -> None:
    marks = Marks(MARK, expected=1, digits=0)
    held = data[len(marks.feed(data)) :]
    assert held == b"" or MARK.startswith(held)


def test_output_is_not_held_back_for_looking_at() -> None:
    marks = Marks(MARK, expected=1, digits=3)
    assert marks.feed(b"a prompt without a newline: ") == b"a prompt without a newline: "
    assert marks.feed(EDGE) == b""
    assert marks.feed(b"x") == EDGE + b"x"


def test_a_mark_is_complete_only_with_its_digits() -> None:
    marks = Marks(MARK, expected=1, digits=3)
    marks.feed(MARK + b"00")
    assert not marks.complete
    marks.feed(b"7")
    assert marks.complete
    assert marks.said == b"007"
