from __future__ import annotations

import random
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflowmaster.blocks.globs import compile_glob
from workflowmaster.blocks.ignore import EVERYTHING, MOST_LINES, Rules, parse_ignore, rules_from

if TYPE_CHECKING:
    from pathlib import Path

ATOMS = [
    b"a", b"b", b"c", b".", b"*", b"**", b"?", b"/", b"[ab]", b"[!a]", b"[a-c]", b"\\", b"\\*", b"!", b"#", b" ", b"[", b"]",
    b"[[:alpha:]]", b"[[:nope:]]", b"/**/", b"**/", b"[]a]", b"-", b"[a-]", b"[^b-c]", b"[c-a]", b"\xff", b"\r", b"[\\]]",
]  # fmt: skip
LINES = st.lists(st.sampled_from(ATOMS), min_size=1, max_size=5).map(b"".join)


def left_out(rules: Rules, path: bytes) -> bool:
    """Ask as a walk would: from the top, and no further than the first directory that is left out."""
    parts = path.split(b"/")
    return any(rules.ignores(b"/".join(parts[: n + 1]), directory=n < len(parts) - 1) for n in range(len(parts)))


def some_paths() -> list[bytes]:
    fixed = random.Random(7)
    names = [bytes(fixed.choice(b"abc.*[]!# -\\\xff\r") for _ in range(fixed.randint(1, 3))) for _ in range(600)]
    names = [n for n in names if n not in (b".", b"..")]
    return [b"/".join(fixed.sample(names, fixed.randint(1, 3))) for _ in range(300)]


PATHS = some_paths()


@pytest.fixture(scope="module")
def empty_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ignore")
    subprocess.run(["git", "init", "-q", path], check=True)
    return path


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, min_size=1, max_size=4).map(b"\n".join))
def test_git_says_the_same(empty_repo: Path, content: bytes) -> None:
    (empty_repo / ".gitignore").write_bytes(content)
    ask = ["git", "check-ignore", "--no-index", "-z", "--stdin"]
    said = subprocess.run(ask, cwd=empty_repo, input=b"\0".join(PATHS) + b"\0", capture_output=True, check=False).stdout
    ours = {p for p in PATHS if left_out(rules_from([content]), p)}
    assert ours == set(said.split(b"\0")) - {b""}


@pytest.mark.parametrize(
    ("content", "path", "directory", "ignored"),
    [
        (b"build/\n", b"build", True, True),
        (b"build/\n", b"build", False, False),
        (b"/top\n", b"sub/top", False, False),
        (b"a/*.c\n", b"a/x.c", False, True),
        (b"a/*.c\n", b"a/b/x.c", False, False),
        (b"a/**/x\n", b"a/x", False, True),
        (b"*.log\n!keep.log\n", b"keep.log", False, False),
        (b"!keep.log\n*.log\n", b"keep.log", False, True),
        (b"trail \n", b"trail", False, True),
        (b"trail\\ \n", b"trail ", False, True),
        (b"\\#x\n", b"#x", False, True),
        (b"\xef\xbb\xbfbom\n", b"bom", False, True),
        (b"crlf\r\n", b"crlf", False, True),
        (b"[a\n", b"[a", False, False),
        (b"**\n", b"anything", False, True),
    ],
)
def test_patterns_one_by_one(content: bytes, path: bytes, directory: bool, ignored: bool) -> None:
    assert rules_from([content]).ignores(path, directory=directory) is ignored


def test_the_nearer_file_wins_and_is_relative_to_its_folder() -> None:
    rules = rules_from([b"*.log\n"]).below(b"sub", b"!*.log\n/here\n")
    assert not rules.ignores(b"sub/x.log", directory=False)
    assert rules.ignores(b"sub/here", directory=False)
    assert not rules.ignores(b"sub/deep/here", directory=False)
    assert rules.below(b"sub/deep", b"*.log\n").ignores(b"sub/deep/x.log", directory=False)


def test_later_root_layers_are_stronger() -> None:
    assert not rules_from([b"x\n", b"!x\n"]).ignores(b"x", directory=False)


def test_nothing_comes_back_from_inside_an_ignored_folder() -> None:
    assert EVERYTHING.below(b"sub", b"!*\n").ignores(b"sub/x", directory=False)


@pytest.mark.parametrize(
    ("glob", "name"),
    [
        (b"*a" * 25 + b"b", b"a" * 255),
        (b"**/a*/" * 10 + b"x", b"/".join([b"aaa"] * 500)),
        (b"**/" * 30 + b"b", b"/".join([b"a"] * 1000)),
        (b"**/*a*a*a*a/**/*a*a*a/c", b"/".join([b"a" * 14] * 200)),
    ],
)
def test_no_glob_is_slow(glob: bytes, name: bytes) -> None:
    # The plain translation of the first takes longer than the age of the universe.
    started = time.perf_counter()
    assert not compile_glob(glob).fullmatch(name)
    assert time.perf_counter() - started < 1


def test_a_huge_ignore_file_is_cut() -> None:
    assert len(parse_ignore(b"a\n" * (MOST_LINES + 10))) == MOST_LINES
