"""Folders that the kernel holds to a size, and what becomes of their mounts."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks import bounded
from workflowmaster.blocks.bounded import Bound, bound_of, create, image_of, is_full, is_mounted, mounted, release
from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.exchange import Exchange
from workflowmaster.blocks.workspace import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workflowmaster.blocks.engine import Engine

USER = (1000, 1000)
SMALL = Bound(4 << 20)

needs_root = pytest.mark.skipif(not bounded.usable(local=True), reason="mounting needs root, and loop devices")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "state" / "out"
    made.mkdir(parents=True)
    yield made
    release(tmp_path)


def devices(image: Path) -> list[str]:
    """Loop devices that hold a file, also one that is unlinked."""
    found = Path("/sys/block").glob("loop*/loop/backing_file")
    return [str(path) for path in found if path.read_text().startswith(str(image))]


def write_for_ever(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass


def touch_for_ever(folder: Path) -> None:
    for number in itertools.count():
        os.mknod(folder / str(number))


def settle(folder: Path, count: int) -> bool:
    """Wait until that many devices hold a folder's file.

    A container of anybody's that is just being started has a copy of every mount, for a moment.
    """
    until = time.monotonic() + 30
    while (found := len(devices(image_of(folder)))) != count and time.monotonic() < until:
        time.sleep(0.05)
    return found == count


# --- which policies are bounded ---


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("minimal", None),
        ("development", None),
        ("standard", None),
        ("testing", Bound(2 << 30, exec=True)),
        ("hardened", Bound(512 << 20)),
        ("paranoid", Bound(64 << 20)),
    ],
)
@needs_root
def test_a_policy_with_a_cap_on_results_is_bounded(name: str, wanted: Bound | None) -> None:
    assert bound_of(policies.load(name), local=True) == wanted


@pytest.mark.parametrize(
    ("changed", "size"),
    [({"disk": 8 << 20}, 8 << 20), ({"disk": None}, 64 << 20), ({"result_cap": None}, None), ({"disk": 1000}, None)],
)
@needs_root
def test_the_smaller_cap_counts_and_a_tiny_one_is_left_to_the_watch(changed: dict[str, Any], size: int | None) -> None:
    policy = policies.load("paranoid").model_copy(update=changed)
    bound = bound_of(policy, local=True)
    assert (bound and bound.size) == size


@pytest.mark.parametrize("missing", ["engine elsewhere", "no loop devices", "no mkfs"])
def test_where_it_cannot_be_had_nothing_is_bounded(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "no loop devices":
        monkeypatch.setattr(bounded, "CONTROL", Path("/nonexistent"))
    if missing == "no mkfs":
        monkeypatch.setattr(bounded, "PROGRAMS", ("mkfs.nothing",))
    assert bound_of(policies.load("paranoid"), local=missing != "engine elsewhere") is None


# --- what a bounded folder is ---


@needs_root
def test_the_kernel_ends_what_goes_past_it_and_nothing_else_is_touched(folder: Path) -> None:
    create(folder, SMALL, USER)
    assert (folder.stat().st_uid, folder.stat().st_gid) == USER
    assert os.listdir(folder) == []
    assert not is_full(folder)
    with pytest.raises(OSError, match="No space left") as caught:
        write_for_ever(folder / "big")
    assert caught.value.errno == errno.ENOSPC
    assert is_full(folder)
    assert 0.9 * SMALL.size < (folder / "big").stat().st_size < SMALL.size
    assert image_of(folder).stat().st_blocks * 512 <= SMALL.size


@needs_root
def test_empty_files_have_their_limit_too(folder: Path) -> None:
    create(folder, SMALL, USER)
    with pytest.raises(OSError, match="No space left"):
        touch_for_ever(folder)
    assert is_full(folder)


@needs_root
@pytest.mark.parametrize("exec_", [False, True])
def test_it_is_mounted_without_what_a_result_needs_not(folder: Path, exec_: bool) -> None:
    create(folder, Bound(4 << 20, exec=exec_), USER)
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {folder} " in line)
    options = set(line.split()[5].split(","))
    assert {"nosuid", "nodev"} <= options
    assert ("noexec" not in options) is exec_


@needs_root
def test_a_sparse_terabyte_fits_into_none(folder: Path) -> None:
    create(folder, Bound(4 << 20), USER)
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert not is_full(folder)
    assert image_of(folder).stat().st_blocks * 512 < SMALL.size


@needs_root
def test_making_it_again_gives_an_empty_one_and_the_old_ones_are_gone(folder: Path) -> None:
    for _ in range(3):
        create(folder, SMALL, USER)
        assert os.listdir(folder) == []
        (folder / "x").write_text("earlier")
        assert len(mounted(folder)) == 1
        assert settle(folder, 1)


@needs_root
def test_a_disk_without_room_is_the_engines_trouble_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], check=True)
    try:
        (small / "out").mkdir()
        with pytest.raises(SandboxUnavailable, match="no file system of 67,108,864 bytes") as caught:
            create(small / "out", Bound(64 << 20), USER)
        assert caught.value.reason == "disk"
        assert [path.name for path in small.iterdir()] == ["out"]
    finally:
        subprocess.run(["umount", "-l", small], check=True)


# --- what becomes of the mounts ---


@needs_root
def test_release_unmounts_all_that_is_below_and_frees_the_devices(tmp_path: Path) -> None:
    odd = [tmp_path / name / "out" for name in ("plain", "with space", "tab\tline\n", "back\\slash", "ü", "[x]*")]
    for place in odd:
        place.mkdir(parents=True)
        create(place, SMALL, USER)
    assert set(mounted(tmp_path)) == set(odd)
    assert set(release(tmp_path)) == set(odd)
    assert mounted(tmp_path) == []
    assert all(settle(place, 0) for place in odd)
    assert release(tmp_path) == []


@needs_root
def test_a_name_that_begins_alike_is_not_below(tmp_path: Path) -> None:
    one, other = tmp_path / "run", tmp_path / "run-2"
    for place in (one, other):
        place.mkdir()
        create(place, SMALL, USER)
    try:
        assert release(one) == [one]
        assert is_mounted(other)
    finally:
        release(other)


@needs_root
def test_it_is_unmounted_while_somebody_still_reads_in_it(folder: Path) -> None:
    create(folder, SMALL, USER)
    (folder / "x").write_text("there")
    with (folder / "x").open() as file:
        release(folder)
        assert not is_mounted(folder)
        assert file.read() == "there"
    assert settle(folder, 0)


@needs_root
def test_a_tree_with_a_mount_in_it_is_removed_and_what_was_mounted_is_not_walked(folder: Path, tmp_path: Path) -> None:
    create(folder, SMALL, USER)
    other = tmp_path / "others"
    other.mkdir()
    (other / "precious").write_text("keep")
    bind = folder.parent / "bind"
    bind.mkdir()
    subprocess.run(["mount", "--bind", other, bind], check=True)
    remove_tree(folder.parent)
    assert not folder.parent.exists()
    assert (other / "precious").read_text() == "keep"
    assert mounted(tmp_path) == []


# --- and a real container ---


@pytest.fixture
def parked(make_box: Callable[..., Any], tmp_path: Path, engine: Engine) -> Iterator[Callable[..., Any]]:
    """Park a container whose `/out` is bounded."""
    exchange = Exchange(tmp_path / "x")

    def park(script: str, bound: Bound = SMALL) -> Any:
        exchange.make(USER, bound)
        box = make_box("sh", "-c", script, mounts=exchange.mounts, policy="testing").park()
        box.exchange = exchange
        return box

    yield park
    release(tmp_path)


@needs_root
@pytest.mark.docker
def test_a_container_gets_enospc_and_we_read_what_it_wrote(parked: Callable[..., Any]) -> None:
    box = parked("echo kept > /out/small; head -c 9000000 /dev/zero > /out/big; echo $?; echo x > /out/after")
    bounded.confirm(box.container.pidfd, box.exchange.outward, "/out")
    assert box.go().exit_code != 0
    assert b"No space left on device" in box.output
    assert (box.exchange.outward / "small").read_text() == "kept\n"
    assert is_full(box.exchange.outward)


@needs_root
@pytest.mark.docker
def test_programs_in_it_run_only_where_they_may(parked: Callable[..., Any]) -> None:
    script = "cp /bin/true /out/t && /out/t && echo ran"
    ran = parked(script, Bound(4 << 20, exec=True))
    assert ran.go().exit_code == 0
    assert b"ran" in ran.output
    ran.container.remove()
    refused = parked(script, SMALL)
    assert refused.go().exit_code == 126
    assert b"ran" not in refused.output


@needs_root
@pytest.mark.docker
def test_a_container_outlives_our_own_mount_and_leaves_no_device(parked: Callable[..., Any], tmp_path: Path) -> None:
    box = parked("head -c 1000000 /dev/zero > /out/big; wc -c < /out/big")
    release(tmp_path)
    assert not is_mounted(box.exchange.outward)
    assert len(devices(image_of(box.exchange.outward))) == 1, "the container's own view of it"
    assert box.go().exit_code == 0
    assert b"1000000" in box.output
    box.container.remove()
    assert settle(box.exchange.outward, 0)


@needs_root
@pytest.mark.docker
def test_an_engine_that_sees_another_folder_is_found_out(parked: Callable[..., Any], tmp_path: Path) -> None:
    box = parked("true")
    twin = tmp_path / "twin"
    twin.mkdir()
    with pytest.raises(SandboxUnavailable, match="does not see what this process mounts") as caught:
        bounded.confirm(box.container.pidfd, twin, "/out")
    assert caught.value.reason == "mount"
    with pytest.raises(SandboxUnavailable):
        bounded.confirm(-1, box.exchange.outward, "/out")
    box.go()
    bounded.confirm(box.container.pidfd, twin, "/out")  # it is dead, and its reader will tell why


def test_the_programs_are_found_without_a_root_users_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert all(map(bounded._found, bounded.PROGRAMS)) is (shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is not None)
