from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.trees import (
    DIRECTORY,
    EXECUTABLE,
    FILE,
    GITLINK,
    SYMLINK,
    Entry,
    bad_name,
    case_clashes,
    encode,
    is_file,
    parse,
    show,
)

if TYPE_CHECKING:
    from pathlib import Path

OID = bytes(range(20))
NAMES = st.binary(min_size=1, max_size=20).filter(lambda n: b"/" not in n and b"\0" not in n)
ENTRIES = st.builds(
    Entry, st.sampled_from([FILE, EXECUTABLE, SYMLINK, DIRECTORY, GITLINK]), st.binary(min_size=20, max_size=20)
)


@given(st.dictionaries(NAMES, ENTRIES, max_size=12))
def test_trees_read_back_as_written(entries: dict[bytes, Entry]) -> None:
    assert parse(encode(entries)) == entries


def test_the_order_is_git_s(tmp_path: Path) -> None:
    # A directory sorts as `a/`, which is after `a-b` and `a.b`: the trap in every second implementation.
    entries = {n: Entry(FILE, OID) for n in (b"a.b", b"a-b", b"a0", b"ab", b"\xff")}
    entries[b"a"] = Entry(DIRECTORY, OID)
    subprocess.run(["git", "init", "-q", "--bare", tmp_path], check=True)
    listing = b"".join(
        b"%06o %s %s\t%s\0" % (e.mode, b"tree" if e.mode == DIRECTORY else b"blob", e.oid.hex().encode(), n)
        for n, e in entries.items()
    )
    made = (
        subprocess.run(
            ["git", "mktree", "-z", "--missing"], input=listing, cwd=tmp_path, capture_output=True, check=True
        )
        .stdout.strip()
        .decode()
    )
    raw = subprocess.run(["git", "cat-file", "tree", made], cwd=tmp_path, capture_output=True, check=True).stdout
    assert encode(entries) == raw


@pytest.mark.parametrize("cut", [1, 19, 25])
def test_a_tree_that_ends_too_early_is_an_error(cut: int) -> None:
    with pytest.raises(ValueError, match=r"subsection not found|ends inside"):
        parse(encode({b"name": Entry(FILE, OID)})[:-cut])


@pytest.mark.parametrize(
    "name",
    [
        b".git", b".GIT", b".Git", b"git~1", b"GIT~1", b".git ", b".git.", b".git . .", b".git\\x", b".git::$INDEX_ALLOCATION",
        ".g\u200cit".encode(), ".gi\ufefft".encode(), b"git~1 ", b".git:stream",
    ],
)  # fmt: skip
def test_every_form_of_dot_git_is_refused(name: bytes) -> None:
    assert bad_name(name) == "a form of .git"


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../evil", b"/etc", b"a/b", b"a\0b"])
def test_names_that_are_no_names_are_refused(name: bytes) -> None:
    assert bad_name(name) == "not a file name"


@pytest.mark.parametrize(
    "name",
    [
        b".gitignore", b".github", b"git", b"git~2", b"x.git", b".gitx", b"...", b"-rf", b"a\\b", b"a:b", b"con", b"a\nb", b"\xff\xfe",
        b"x" * 255, "\u200c".encode(), b".git-x", b" .git", b"~",
    ],
)  # fmt: skip
def test_odd_but_honest_names_pass(name: bytes) -> None:
    assert bad_name(name) == ""


def test_case_clashes_are_found_beyond_ascii() -> None:
    names = [b"README", b"readme", "Ä".encode(), "ä".encode(), b"b", b"\xff", b"\xfe"]
    assert sorted(case_clashes(names)) == [(b"README", b"readme"), ("Ä".encode(), "ä".encode())]


def test_paths_are_shown_on_one_line() -> None:
    assert show(b"a\nb\x1b[31m\xff/ok") == "a\\nb\\x1b[31m\\xff/ok"


def test_old_file_modes_are_files() -> None:
    assert is_file(Entry(0o100664, OID))
    assert not is_file(Entry(SYMLINK, OID))
    assert not is_file(Entry(GITLINK, OID))
