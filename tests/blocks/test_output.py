"""The log of an attempt: the same bytes and the same lines, however the output arrived."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.masking import Masker
from workflowmaster.blocks.output import LONGEST_LINE, Capture, follow, tail

CUT = b"[workflowmaster: output cut at 10 bytes, the cap of policy paranoid; the container was stopped]\n"

# Made of what lines are made of, with some that are too long.
output = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\n", b"\r\n", b"a", "é🐎".encode(), b"\xff", b"\x1e", b"x" * LONGEST_LINE, "é".encode() * LONGEST_LINE]
        ),
        st.binary(max_size=8),
    ),
    max_size=12,
).map(b"".join)


def capture(parts: list[bytes], cap: int = 1 << 30, masker: Masker | None = None) -> tuple[bytes, list[str], bool]:
    lines: list[str] = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "logs/a.1.log"
        mask = masker.stream() if masker else None
        with Capture(path, cap=cap, policy="paranoid", lines=lines.append, mask=mask) as taken:
            more = [taken(part) for part in parts]
        return path.read_bytes(), lines, all(more)


@given(output, st.lists(st.integers(0, 200_000), max_size=6))
def test_any_cut_gives_the_same_file_and_the_same_lines(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in pairwise(edges)]
    whole = capture([data])
    assert capture(parts) == whole
    assert whole[0] == data
    assert max([len(line.encode(errors="replace")) for line in whole[1]], default=0) <= 3 * LONGEST_LINE


@given(st.text(st.characters(codec="utf-8")))
def test_the_lines_are_the_files_lines(text: str) -> None:
    *whole, rest = text.split("\n")
    _, lines, _ = capture([text.encode()])
    assert lines == [*(line.removesuffix("\r") for line in whole), *([rest] if rest else [])]


def test_a_long_line_is_cut_between_characters() -> None:
    _, lines, _ = capture([b"x" + "ž".encode() * LONGEST_LINE + b"\nend"])
    assert "�" not in "".join(lines)
    assert lines[-1] == "end"
    assert "".join(lines[:-1]) == "x" + "ž" * LONGEST_LINE


@given(st.lists(st.binary(max_size=7), max_size=8))
def test_the_cap_is_exact_and_never_silent(parts: list[bytes]) -> None:
    data = b"".join(parts)
    text, _, complete = capture(parts, cap=10)
    assert complete == (len(data) <= 10)
    if complete:
        assert text == data
    else:
        end = b"" if data[:10].endswith(b"\n") else b"\n"
        assert text == data[:10] + end + CUT


def test_a_note_stands_on_a_line_of_its_own_even_when_nobody_watches(tmp_path: Path) -> None:
    with Capture(tmp_path / "log", cap=100, policy="standard") as taken:
        taken(b"progress 5%")
        taken.note("[stopped]")
        taken.note("[and said so]")
        taken(b"more\n")
        taken.note("[end]")
    assert (tmp_path / "log").read_bytes() == b"progress 5%\n[stopped]\n[and said so]\nmore\n[end]\n"


def test_who_watches_sees_lines_as_they_come(tmp_path: Path) -> None:
    lines: list[str] = []
    with Capture(tmp_path / "log", cap=1000, policy="standard", lines=lines.append) as taken:
        taken(b"one\ntw")
        assert lines == ["one"]
        taken(b"o\r\n\nthree")
        assert lines == ["one", "two", ""]
        assert (tmp_path / "log").read_bytes() == b"one\ntwo\r\n\nthree"
        taken.note("[stopped]")
    assert lines == ["one", "two", "", "three", "[stopped]"]


def test_a_second_container_of_an_attempt_goes_on_in_the_same_log(tmp_path: Path) -> None:
    for text in (b"work\n", b"check\n"):
        with Capture(tmp_path / "log", cap=6, policy="standard") as taken:
            assert taken(text)
    assert (tmp_path / "log").read_bytes() == b"work\ncheck\n"


def test_a_full_disk_is_an_error_of_the_writer() -> None:
    with (
        pytest.raises(OSError, match="No space left"),
        Capture(Path("/dev/full"), cap=1 << 30, policy="standard") as taken,
    ):
        taken(b"x" * 100_000)


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        (b"", 3, ""),
        (b"a\nb\nc\nd\n", 2, "c\nd"),
        (b"a\nb\nc", 2, "b\nc"),
        (b"a\x0cb\x1ec\n", 5, "a\x0cb\x1ec"),
        (b"\xff\n", 5, "�"),
        (b"\n\n", 5, "\n"),
    ],
)
def test_a_tail_is_the_last_lines(tmp_path: Path, text: bytes, lines: int, expected: str) -> None:
    (tmp_path / "log").write_bytes(text)
    assert tail(tmp_path / "log", lines) == expected


def test_a_tail_reads_little_of_a_large_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 5_000_000 + b"\nlast\n")
    assert tail(tmp_path / "log", 20, most=100) == "x" * 94 + "\nlast"
    assert tail(tmp_path / "none") == ""


def test_following_misses_nothing_from_before_the_first_byte_to_the_last(tmp_path: Path) -> None:
    log, seen = tmp_path / "log", bytearray()
    steps = iter([None, b"one\n", b"", b"two\nthree", b"\xff"])

    def ended() -> bool:
        step = next(steps, None)
        if step is not None:
            with log.open("ab") as file:
                file.write(step)
        return step == b"\xff"

    follow(log, ended, seen.extend, every=0)
    assert bytes(seen) == b"one\ntwo\nthree\xff"


# --- secrets ---

MASKER = Masker({"TOKEN": b"s3cr3t-t0ken"})


@given(output, st.lists(st.integers(0, 200_000), max_size=6), st.integers(1, 60))
def test_with_secrets_the_cap_counts_what_was_produced(data: bytes, cuts: list[int], cap: int) -> None:
    data = data[:40] + b"token=s3cr3t-t0ken\n" + data[40:]
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in pairwise(edges)]
    whole = capture([data], cap, MASKER)
    assert capture(parts, cap, MASKER) == whole
    assert whole[2] == (len(data) <= cap)
    stream = MASKER.stream()
    shown = stream.feed(data[:cap]) + stream.rest()
    assert whole[0].startswith(shown)
    assert b"s3cr3t" not in whole[0]
    assert "s3cr3t" not in "\n".join(whole[1])


def test_a_masked_line_comes_as_one_line_and_when_it_comes(tmp_path: Path) -> None:
    lines: list[str] = []
    with Capture(tmp_path / "log", cap=1000, policy="standard", lines=lines.append, mask=MASKER.stream()) as taken:
        taken(b"one s3cr")
        taken(b"3t-t0ken\ntwo\n")
        assert lines == ["one ***", "two"]
        taken(b"s3cr3t-")
        taken.note("[stopped]")
    assert (tmp_path / "log").read_bytes() == b"one ***\ntwo\n***\n[stopped]\n"
    assert taken.size == len(b"one s3cr3t-t0ken\ntwo\ns3cr3t-")
    assert lines[2:] == ["***", "[stopped]"]
