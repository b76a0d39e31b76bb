"""The kernel's list of mounts: captured lines, odd names, and host paths found in it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.mountinfo import MountPoint, at, parse, place

# A paranoid container under Docker 20.10 on kernel 6.18; the overlay's layers are shortened.
PARANOID = """\
72 48 0:39 / / ro,relatime master:2 - overlay overlay rw,lowerdir=/l/B:/l/5,upperdir=/o/9/diff,workdir=/o/9/work
73 72 0:42 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
74 72 0:43 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
76 72 0:45 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
89 72 254:0 /tmp/tmpstpxrnb4/x/in /wm ro,relatime - ext4 /dev/vda rw,discard,resv_strict
90 72 254:0 /tmp/tmpstpxrnb4/x/out /out rw,relatime - ext4 /dev/vda rw,discard,resv_strict
91 72 0:47 / /tmp rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=65536k,nr_inodes=4096
54 73 0:43 /null /proc/keys rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
56 76 0:49 / /sys/firmware ro,relatime - tmpfs tmpfs ro
"""

# A host: a file system mounted twice, a bind of a part of it, and a name that had to be escaped.
HOST = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
42 27 254:0 /var/lib/docker /var/lib/docker rw,relatime shared:1 - ext4 /dev/vda rw
43 27 254:16 / /data\040disk rw,relatime shared:2 master:3 - ext4 /dev/vdb rw
44 27 254:32 /home /srv/homes rw,relatime - btrfs /dev/vdc rw,subvol=/home
45 27 0:60 / /over rw - tmpfs tmpfs rw
46 45 0:61 / /over rw - tmpfs tmpfs rw
"""


def test_a_captured_list() -> None:
    mounts = {mount.target: mount for mount in parse(PARANOID)}
    assert len(mounts) == 9
    root, tmp, out = mounts["/"], mounts["/tmp"], mounts["/out"]
    assert (root.kind, root.writable, root.device, root.id) == ("overlay", False, "0:39", 72)
    assert (tmp.kind, tmp.size, tmp.detail("nr_inodes"), tmp.writable) == ("tmpfs", 64 * 2**20, "4096", True)
    assert (out.root, out.device, out.writable, out.size) == ("/tmp/tmpstpxrnb4/x/out", "254:0", True, None)
    assert not mounts["/wm"].writable
    assert not mounts["/sys/firmware"].writable


@pytest.mark.parametrize(
    ("size", "expected"),
    [("size=65536k", 2**26), ("size=4096", 4096), ("size=1m", 2**20), ("size=1g", 2**30), ("size=half", None), ("mode=755", None)],
)  # fmt: skip
def test_sizes(size: str, expected: int | None) -> None:
    (mount,) = parse(f"1 2 0:3 / /t rw - tmpfs tmpfs rw,{size}")
    assert mount.size == expected


@pytest.mark.parametrize(
    "line", ["", "nonsense", "1 2 0:3 / /t rw tmpfs tmpfs rw", "x 2 0:3 / /t rw - tmpfs tmpfs rw", "1 2 0:3 / - t t rw"]
)
def test_lines_of_another_form_are_left_out(line: str) -> None:
    assert parse(line) == ()


def test_the_mount_on_top_is_the_one_that_is_seen() -> None:
    found = at(parse(HOST), "/over")
    assert found
    assert found.device == "0:61"
    assert at(parse(HOST), "/nowhere") is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/tmp/x", ("254:0", "/tmp/x")),
        ("/", ("254:0", "/")),
        ("/var/lib/docker/volumes/v", ("254:0", "/var/lib/docker/volumes/v")),
        ("/data disk/a b", ("254:16", "/a b")),
        ("/data disk", ("254:16", "/")),
        ("/srv/homes/me", ("254:32", "/home/me")),
        # A name that only begins like a mount is not below it.
        ("/over2", ("254:0", "/over2")),
        ("/over/x", ("0:61", "/x")),
    ],
)
def test_where_a_path_of_the_host_lies(path: str, expected: tuple[str, str]) -> None:
    assert place(Path(path), parse(HOST)) == expected


def test_a_path_without_a_mount_is_nowhere() -> None:
    assert place(Path("/x"), parse("43 27 254:16 / /data rw - ext4 /dev/vdb rw")) is None


def test_a_link_is_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    ours = parse(Path("/proc/self/mountinfo").read_text())
    assert place(tmp_path / "link", ours) == place(tmp_path / "real", ours)
    assert place(tmp_path / "link", ours) != place(tmp_path, ours)


@given(st.text(alphabet=st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=20))
def test_any_name_survives_the_kernels_spelling(name: str) -> None:
    spelled = "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in name)
    # The kernel spells only these; a separator of records or of pages in a name must not hide its mount.
    (mount,) = parse(f"1 2 0:3 / /{spelled} rw - tmpfs tmpfs rw")
    assert mount.target == f"/{name}"


@given(st.sets(st.sampled_from(["ro", "rw", "nosuid"])), st.sets(st.sampled_from(["ro", "rw", "size=1k"])))
def test_either_side_makes_it_read_only(options: set[str], details: set[str]) -> None:
    fields: dict[str, Any] = {"options": frozenset(options), "details": frozenset(details)}
    mount = MountPoint(1, "0:1", "/", "/t", kind="tmpfs", **fields)
    assert mount.writable == ("ro" not in options | details)
