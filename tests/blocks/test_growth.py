"""The watch over a step's files: what it counts, when it gives the alarm, and what it costs."""

from __future__ import annotations

import itertools
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks import growth
from workflowmaster.blocks.growth import DEEPEST, Growth, Place, laid_size, size_of, unnamed
from workflowmaster.blocks.request import Mount
from workflowmaster.blocks.stamps import Node, Stamp
from workflowmaster.blocks.trees import FILE, Entry
from workflowmaster.blocks.workspace import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workflowmaster.blocks.engine import Engine

MB = 1_000_000


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "tree"
    made.mkdir()
    yield made
    remove_tree(made)


def fill(path: Path, size: int) -> Path:
    path.write_bytes(b"x" * size)
    return path


def raised(watch: Growth, seconds: float = 20) -> bool:
    """Wait for the alarm."""
    poll = select.poll()
    poll.register(watch.alarm, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


# --- what is counted ---


def test_a_tree_takes_what_its_blocks_take(tree: Path) -> None:
    before = size_of(tree)
    (tree / "a/b").mkdir(parents=True)
    fill(tree / "a/one", MB)
    fill(tree / "a/b/two", 2 * MB)
    assert 3 * MB <= size_of(tree) - before <= 3 * MB + 20_000


def test_a_sparse_terabyte_counts_for_what_it_holds(tree: Path) -> None:
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"x" * 8192)
    assert 8192 <= size_of(tree) < 100_000


def test_a_file_of_many_names_counts_once(tree: Path) -> None:
    fill(tree / "first", 4 * MB)
    alone = size_of(tree)
    for number in range(100):
        os.link(tree / "first", tree / f"again{number}")
    assert abs(size_of(tree) - alone) < 8192


def test_links_are_not_followed_and_odd_files_hold_nobody_up(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    fill(outside / "big", 5 * MB)
    before = size_of(tree)
    (tree / "dir").symlink_to(outside)
    (tree / "file").symlink_to(outside / "big")
    (tree / "loop").symlink_to(tree)
    os.mkfifo(tree / "fifo")
    assert size_of(tree) - before < 16_384
    with pytest.raises(NotADirectoryError):
        size_of(tree / "dir")


def test_names_of_any_bytes_are_counted(tree: Path) -> None:
    for name in (b"\xff\xfe", b"new\nline", b"-rf", "\u202etxt".encode()):
        with open(os.path.join(os.fsencode(tree), name), "wb") as file:
            file.write(b"x" * 10_000)
    assert size_of(tree) > 40_000


def test_a_nest_too_deep_to_be_measured_is_said(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(DEEPEST + 5):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RecursionError, match="more than 500 deep"):
        size_of(tree)
    assert len(os.listdir("/proc/self/fd")) == before
    look = Growth([Place("/workspace", tree)], 1 << 40).look()
    assert "nested directories" in look.over


def test_what_is_mounted_below_is_not_counted(tree: Path) -> None:
    (tree / "mnt").mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tree / "mnt"], capture_output=True)
    if done.returncode:
        pytest.skip("only root can mount")
    fill(tree / "mnt/big", 3 * MB)
    assert size_of(tree) < MB


@given(st.lists(st.integers(0, 50_000), max_size=20), st.lists(st.integers(0, 50_000), max_size=20))
def test_what_is_remembered_of_a_tree_is_at_least_what_its_files_hold(here: list[int], below: list[int]) -> None:
    def node(sizes: list[int]) -> Node:
        stamps = {str(n): Stamp((n, size, 0, 0, 0o100644), Entry(FILE, b""), True) for n, size in enumerate(sizes)}
        return Node(files=stamps)

    root = node(here)
    root.dirs["below"] = node(below)
    total = sum(here) + sum(below)
    assert total + 4096 <= laid_size(root) <= total + 4096 * (len(here) + len(below) + 1)


def test_what_is_remembered_agrees_with_the_disk(
    repo: Any, store: Any, worktree: Callable[..., Path], step: Callable[..., str]
) -> None:
    files = {f"d{n % 7}/f{n}": "x" * (n * 331) for n in range(200)}
    made = step(store, store.base, "make", files)
    place = worktree(store, made)
    laid, found = laid_size(store._known[place].root), size_of(place)
    assert abs(laid - found) < 50_000
    store.switch(place, made, store.base)
    assert abs(laid_size(store._known[place].root) - size_of(place)) < 50_000


def test_a_file_without_a_name_that_is_held_open_is_seen(tree: Path) -> None:
    code = (
        "import os, sys; f = open(sys.argv[1], 'wb'); f.write(b'x' * 3_000_000); f.flush(); g = os.dup(f.fileno());"
        "os.unlink(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    )
    args = [sys.executable, "-c", code, str(tree / "gone")]
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        pid = str(child.pid)
        here = frozenset([tree.stat().st_dev])
        assert size_of(tree) < 100_000
        assert 3 * MB <= unnamed([pid, pid], here) < 3 * MB + 8192, "two descriptors, one file"
        assert unnamed([pid], frozenset()) == 0
        child.communicate()
    assert unnamed([pid], here) == 0


# --- one look ---


def test_only_what_comes_on_top_counts(tree: Path) -> None:
    fill(tree / "old", 3 * MB)
    before = size_of(tree)
    watch = Growth([Place("/workspace", tree, before)], MB)
    assert watch.look().over == ""
    (tree / "old").unlink()
    fill(tree / "new", 3 * MB + 500_000)
    assert watch.look().over == ""
    fill(tree / "more", MB)
    assert watch.look().over == "let its files grow by more than 1,000,000 bytes"


def test_a_place_can_have_a_cap_of_its_own_and_all_have_one_together(tree: Path) -> None:
    for name in ("work", "out"):
        (tree / name).mkdir()
        fill(tree / name / "file", 2 * MB)
    work, out = Place("/workspace", tree / "work"), Place("/out", tree / "out", cap=MB)
    assert Growth([work, out], None).look().over == "let /out grow by more than 1,000,000 bytes"
    assert Growth([work], 3 * MB).look().over == ""
    assert Growth([work, Place("/out", tree / "out")], 3 * MB).look().over != ""
    assert Growth([work], 3 * MB, held=lambda: 2 * MB).look().over != ""
    assert Growth([work], 3 * MB, told=lambda: 2 * MB).look().over != ""


def test_places_that_are_found_late_count_from_then_on(tree: Path) -> None:
    fill(tree / "file", 2 * MB)
    answers: list[Any] = [ConnectionError("not now"), [Place("layer", tree)]]

    def late() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = Growth([], MB, late=late)
    assert watch.look().over == ""
    assert watch.look().over != ""
    assert watch.look().over != "", "asked once"


def test_an_engine_that_does_not_answer_now_is_no_alarm(tree: Path) -> None:
    def told() -> int:
        raise ConnectionError("not now")

    assert Growth([Place("/workspace", tree)], MB, told=told).look().over == ""


def test_a_place_that_is_gone_has_not_grown(tree: Path) -> None:
    assert Growth([Place("layer", tree / "gone")], MB).look().over == ""


def test_behind_a_closed_door_the_file_system_speaks(tree: Path, nobody: Any) -> None:
    closed = tree / "closed"
    closed.mkdir(mode=0o700)

    def check() -> None:
        watch = Growth([Place("/out", tree)], 3 * MB)
        look = watch.look(since=2 * MB)
        assert (look.blind, look.grown, look.over) == (True, 2 * MB, "")
        assert watch.look(since=4 * MB).over != ""

    tree.chmod(0o755)
    assert nobody.run(check) == ""


# --- the watch ---


def test_the_alarm_comes_while_files_are_being_written(tree: Path) -> None:
    with Growth([Place("/workspace", tree)], 20 * MB) as watch:
        assert not raised(watch, 0.3)
        began = time.monotonic()
        fill(tree / "big", 60 * MB)
        assert raised(watch)
        took = time.monotonic() - began
    assert watch.reason == "let its files grow by more than 20,000,000 bytes"
    assert watch.peak > 20 * MB
    assert took < 10


def test_many_small_files_raise_it_too(tree: Path) -> None:
    with Growth([Place("/workspace", tree)], 10 * MB) as watch:
        for number in range(5000):
            fill(tree / str(number), 3000)
        assert raised(watch)


def test_a_step_that_ends_at_once_is_not_walked(tree: Path) -> None:
    with Growth([Place("/workspace", tree)], 1 << 30) as watch:
        fill(tree / "small", MB)
    assert (watch.walks, watch.reason) == (0, "")


def test_nothing_of_it_stays(tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    watch = Growth([Place("/workspace", tree)], MB)
    with pytest.raises(ZeroDivisionError), watch:
        _ = 1 / 0
    assert watch._thread is not None
    assert not watch._thread.is_alive()
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_ends_in_the_middle_of_an_endless_walk(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walking = threading.Event()

    def endless(_: Path) -> Iterator[int]:
        walking.set()
        return itertools.repeat(0)

    monkeypatch.setattr(growth, "RARELY", 0.0)
    monkeypatch.setattr(growth, "sizes", endless)
    with Growth([Place("/workspace", tree)], MB):
        assert walking.wait(20)


@pytest.mark.long
def test_watching_five_thousand_files_takes_less_than_two_hundredths_of_a_core(tree: Path) -> None:
    for number in range(5000):
        folder = tree / str(number % 50)
        folder.mkdir(exist_ok=True)
        fill(folder / str(number), 5000)
    with Growth([Place("/workspace", tree, size_of(tree))], 4 << 30) as watch:
        began = time.process_time()
        time.sleep(20)
        share = (time.process_time() - began) / 20
    assert watch.walks >= 5
    assert share < 0.02


# --- a real container ---


@pytest.fixture
def working(sh: Callable[..., Any], tree: Path) -> Callable[[str], Any]:
    """Park containers that can write to the tree."""
    tree.chmod(0o777)

    def park(script: str) -> Any:
        box = sh(script)
        mounts = (*box.container.request.mounts, Mount(tree, "/workspace", writable=True))
        box.container.request = replace(box.container.request, mounts=mounts)
        return box.park()

    return park


def run(box: Any, watch: Growth) -> Any:
    box.exchange.write({}, {})
    return box.container.run(30, box.take, watch)


@pytest.mark.docker
def test_a_container_that_grows_past_its_cap_is_killed_and_its_end_says_so(
    working: Callable[[str], Any], tree: Path
) -> None:
    box = working("n=0; while :; do head -c 1000000 /dev/zero > /workspace/$n; n=$((n+1)); sleep 0.01; done")
    ending = run(box, Growth([Place("/workspace", tree)], 20 * MB))
    assert ending.disk_capped
    assert not ending.timed_out
    assert ending.exit_code == 137
    assert 20 * MB < size_of(tree) < 2000 * MB


@pytest.mark.docker
def test_a_container_that_stays_below_is_left_alone(working: Callable[[str], Any], tree: Path) -> None:
    box = working("head -c 1000000 /dev/zero > /workspace/x; sleep 0.3")
    ending = run(box, Growth([Place("/workspace", tree)], 20 * MB))
    assert (ending.exit_code, ending.disk_capped) == (0, False)


@pytest.mark.docker
def test_a_file_that_a_container_has_unlinked_still_counts(working: Callable[[str], Any], tree: Path) -> None:
    box = working("exec 3>/workspace/x; rm /workspace/x; head -c 30000000 /dev/zero >&3; sleep 30")
    devices = frozenset([tree.stat().st_dev])
    held = lambda: unnamed(box.container.pids(), devices)  # noqa: E731 - one line is all it is
    ending = run(box, Growth([Place("/workspace", tree)], 20 * MB, held=held))
    assert ending.disk_capped
    assert size_of(tree) < MB


@pytest.mark.docker
def test_a_containers_own_layer_is_found_and_told(sh: Callable[..., Any], engine: Engine) -> None:
    box = sh("head -c 5000000 /dev/zero > /var/tmp/x; sleep 30", policy="minimal").park()
    (layer,) = map(Path, engine.layers(box.container.id))
    assert engine.written(box.container.id) < 100_000
    ending = run(box, Growth([], 4 * MB, told=lambda: engine.written(box.container.id)))
    assert ending.disk_capped, "by the engine's word"
    if os.geteuid() == 0:
        assert size_of(layer) > 5 * MB, "and seen by ourselves"
    assert engine.written("f" * 64) == 0
