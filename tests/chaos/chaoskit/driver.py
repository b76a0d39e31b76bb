"""The command line under a fuse: `python -P driver.py TRACE KILL AT WORDS…` is `workflowmaster WORDS…` that may die.

With no KILL it only writes its trace. Several commands may follow one another in one process, with `--then` between
them, each command's answer then being one line of JSON: looking at a run after a round would otherwise cost more than
the round.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

THEN = "--then"


def boundaries() -> object:
    """Load the module beside this one without putting its folder on the path of the code under test."""
    spec = importlib.util.spec_from_file_location("chaos_boundaries", Path(__file__).with_name("boundaries.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(words: list[str]) -> Iterator[list[str]]:
    """Yield the commands between the separators."""
    while THEN in words:
        end = words.index(THEN)
        yield words[:end]
        words = words[end + 1 :]
    yield words


def answered(words: list[str]) -> dict[str, object]:
    """Run one command and return what it answered."""
    from workflowmaster.flows.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as asked:
            code = int(str(asked.code or 0)) if str(asked.code or 0).isdigit() else 1
    return {"words": words, "code": code, "out": out.getvalue(), "err": err.getvalue()}


def main() -> int:
    """Arm the fuse and run."""
    trace, kill, at, *words = sys.argv[1:]
    if trace != "-":
        found = boundaries()
        found.arm(found.Fuse(Path(trace), kill, int(at)))  # type: ignore[attr-defined]
    if THEN in words:
        for one in commands(words):
            print(json.dumps(answered(one)))
        return 0
    from workflowmaster.flows.cli import main as command_line

    return command_line(words)


if __name__ == "__main__":
    sys.exit(main())
