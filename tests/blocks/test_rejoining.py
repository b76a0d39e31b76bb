"""A container's whole output from its engine's log, and its end, for somebody who has not sent it off."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.output import Capture
from workflowmaster.blocks.rejoining import HEADER, PIECE, Entries, Gone, Rejoined

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.reader import Ending

TIME = b"2026-11-22T20:41:59.108164203Z "

# --- putting a log together ---


def kept(text: bytes) -> list[bytes]:
    """The entries that the driver `local` keeps of one stream, as its engine gives them back."""
    found: list[bytes] = []
    *whole, rest = text.split(b"\n")
    for line in whole:
        pieces = [line[at : at + PIECE] for at in range(0, len(line), PIECE)] or [b""]
        if len(pieces[-1]) == PIECE:
            pieces.append(b"")
        # The line break is forgotten where a line has more than one piece.
        found += pieces if len(pieces) > 1 else [line + b"\n"]
    return found + [rest[at : at + PIECE] for at in range(0, len(rest), PIECE)]


def framed(stream: int, entries: list[bytes]) -> bytes:
    return b"".join(HEADER.pack(stream, len(TIME + entry)) + TIME + entry for entry in entries)


def put_together(log: bytes, cut: int) -> dict[int, bytes]:
    entries, found = Entries(), {1: b"", 2: b""}
    for at in range(0, len(log), cut):
        for stream, text in entries.feed(log[at : at + cut]):
            found[stream] += text
    return found


LINES = st.lists(
    st.one_of(st.binary(max_size=40), st.integers(PIECE - 2, 3 * PIECE + 2).map(lambda size: b"x" * size)), max_size=6
).map(lambda lines: b"\n".join([*lines, b"mark\n"]))
"""What a container says in one stream: at last its shell's mark, so no long line is the last of all."""


@given(LINES, LINES, st.integers(1, 70_000))
def test_a_log_is_put_together_byte_for_byte_wherever_it_is_cut(out: bytes, err: bytes, cut: int) -> None:
    log = framed(1, kept(out)) + framed(2, kept(err))
    assert put_together(log, cut) == {1: out, 2: err}


def test_a_repaired_driver_that_keeps_the_line_break_is_understood_too() -> None:
    entries = [b"x" * PIECE, b"x\n", b"y" * PIECE, b"\n", b"end"]
    assert put_together(framed(1, entries), 1000)[1] == b"".join(entries)


def test_what_the_drivers_file_takes_is_never_thought_too_small() -> None:
    entries = Entries()
    list(entries.feed(framed(1, [b"\n"] * 1000)))
    assert entries.weight >= 1000 * 30  # 28 bytes of frame, time and stream stand with each line


# --- writing a log over ---


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 300))
def test_a_log_that_is_written_over_loses_nothing_wherever_that_is_cut_short(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, before: int, again: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.log"
    path.write_bytes(b"first\n" + text[:before])
    options: dict[str, Any] = {"cap": 1000, "policy": "standard", "over": 6}

    def fail() -> None:
        with Capture(path, **options) as capture:
            capture(text[:again])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"first\n" + text[: max(before, again)]
    with Capture(path, **options) as capture:
        capture(text)
    assert (path.read_bytes(), capture.start, capture.size) == (b"first\n" + text, 6, len(text))


def test_what_stood_behind_the_end_of_a_log_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"text\n[a note of the former owner]\n")
    with Capture(path, cap=100, policy="standard", over=0) as capture:
        capture(b"text\n")
    assert path.read_bytes() == b"text\n"


# --- on the real engine ---

docker = pytest.mark.docker


class Two:
    """A container that its first owner goes on reading, and a second one reads as well."""

    def __init__(self, engine: Engine, box: Any) -> None:
        self.engine, self.box = engine, box
        self.endings: list[Ending] = []
        self.output = bytearray()
        self.thread = threading.Thread(target=lambda: self.endings.append(box.go()), daemon=True)

    def go(self, until: bytes = b"begin\n") -> Two:
        """Send it off and wait for its first words."""
        self.box.container.attested = self.box.park().container.attested
        self.thread.start()
        end = time.monotonic() + 20
        while until not in self.box.output:
            assert time.monotonic() < end, bytes(self.box.output)
            time.sleep(0.01)
        return self

    def let_go(self) -> None:
        (self.box.exchange.outward / "go").touch()

    def ended(self) -> Two:
        self.let_go()
        self.thread.join(30)
        # The first reader sees the end before the engine notes it, and only then the log has a last line without break.
        assert self.engine.wait(self.box.container.id, 20) is not None
        return self

    def rejoin(self, *, over: float | None = None, room: int | None = None) -> Rejoined:
        first = self.box.container
        elapsed = time.monotonic() - first.gone_at
        gone = Gone(first.id, first.mark, elapsed, first.attested, over, room)
        return Rejoined(self.engine, first.request, gone)

    def read(self, rejoined: Rejoined, seconds: float = 30) -> Ending:
        def take(data: bytes) -> bool:
            self.output += data
            return True

        try:
            rejoined.park()
            return rejoined.run(seconds, take)
        finally:
            if rejoined.pidfd >= 0:
                os.close(rejoined.pidfd)


HELD = "until [ -e /out/go ]; do sleep 0.02; done"


@pytest.fixture
def two(engine: Engine, sh: Callable[..., Any]) -> Callable[..., Two]:
    """Make a container that runs a script, for two readers."""
    return lambda script, **changed: Two(engine, sh(f"echo begin; {script}", **changed))


SCRIPTS = {
    "words": f"{HELD}; echo end; exit 3",
    "no-newline": f"printf half; {HELD}; printf ' and half'",
    "long-lines": f"head -c 70000 /dev/zero | tr '\\0' x; {HELD}; echo; echo; head -c 32768 /dev/zero | tr '\\0' y; echo",
    "bytes": f"head -c 100000 /dev/urandom; {HELD}; printf '\\0\\377\\r\\n\\n'",
    "both-streams": f"echo out; echo err >&2; {HELD}; echo err >&2",
    "marks-of-others": f"printf '\\036%032d\\036000' 0; {HELD}; printf '\\036%032d\\036' 0 >&2",
    "kills-itself": f"{HELD}; kill -9 $$",
}


@docker
@pytest.mark.parametrize("way", ["running", "ended"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_second_reader_gets_the_same_bytes_and_the_same_end(script: str, way: str, two: Callable[..., Two]) -> None:
    pair = two(SCRIPTS[script]).go()
    if way == "running":
        rejoined = pair.rejoin()
        found: list[Ending] = []
        reading = threading.Thread(target=lambda: found.append(pair.read(rejoined)))
        reading.start()
        pair.ended()
        reading.join(30)
    else:
        found = [pair.read(pair.ended().rejoin(over=1.0))]
    (first,), (second,) = pair.endings, found
    assert bytes(pair.output) == bytes(pair.box.output)
    same = ("exit_code", "timed_out", "capped", "oom_killed", "error", "disk_capped")
    assert [getattr(second, name) for name in same] == [getattr(first, name) for name in same]
    assert second.usage.oom_kills == 0
    assert second.begin_seconds is None


@docker
def test_a_second_reader_keeps_the_wall_time_from_the_first_go(two: Callable[..., Two]) -> None:
    pair = two("exec sleep 60").go()
    pair.box.container.gone_at -= 10
    ending = pair.read(pair.rejoin(), seconds=11)
    assert (ending.timed_out, ending.exit_code) == (True, 143)
    assert 11 <= ending.seconds < 20


@docker
def test_one_that_ended_alone_after_its_wall_time_is_late(two: Callable[..., Two]) -> None:
    pair = two(HELD).go().ended()
    assert [pair.read(pair.rejoin(over=over), seconds=5).timed_out for over in (4.0, 5.5, 7.0)] == [False, False, True]


@docker
def test_one_that_was_killed_while_nobody_watched_is_not_believed(engine: Engine, two: Callable[..., Two]) -> None:
    pair = two("sleep 60").go()
    engine.kill(pair.box.container.id)
    pair.thread.join(30)
    with pytest.raises(SandboxUnavailable, match="killed while nobody watched") as caught:
        pair.read(pair.rejoin(over=1.0))
    assert caught.value.reason == "gone"


@docker
@pytest.mark.parametrize("way", ["running", "ended"])
def test_a_log_that_may_have_lost_its_beginning_is_not_believed(way: str, two: Callable[..., Two]) -> None:
    pair = two(HELD).go()
    rejoined = pair.rejoin(room=50, over=None if way == "running" else 1.0)
    pair.ended()
    with pytest.raises(SandboxUnavailable, match="lost its beginning"):
        pair.read(rejoined)


@docker
def test_one_that_never_got_its_go_is_told(engine: Engine, two: Callable[..., Two]) -> None:
    pair = two(HELD)
    container = pair.box.park().container
    container.gone_at = time.monotonic()
    container.stream.close()  # as its owner's death does
    assert engine.wait(container.id, 20) == 125
    with pytest.raises(SandboxUnavailable, match="before its command began") as caught:
        pair.read(pair.rejoin(over=0.1))
    assert caught.value.reason == "parked"


@docker
def test_one_that_is_gone_is_the_engines_trouble(engine: Engine, two: Callable[..., Two]) -> None:
    pair = two(HELD).go().ended()
    engine.remove(pair.box.container.id)
    with pytest.raises(SandboxUnavailable) as caught:
        pair.read(pair.rejoin(over=0.1))
    assert caught.value.reason == "gone"


@docker
def test_the_output_of_a_second_reader_is_cut_at_the_same_cap(two: Callable[..., Two], tmp_path: Path) -> None:
    pair = two(f"yes | head -c 5000; {HELD}").go().ended()
    rejoined = pair.rejoin(over=1.0)
    with Capture(tmp_path / "a.log", cap=1000, policy="standard") as capture:
        ending = rejoined.park().run(30, capture)
    assert ending.capped
    kept_text = bytes(pair.box.output)[:1000]
    assert (tmp_path / "a.log").read_bytes().startswith(kept_text + b"[workflowmaster: output cut at 1,000 bytes")
