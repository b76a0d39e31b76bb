"""A run's log may lose its reader; the run goes on."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from workflowmaster.flows import readers

TORN = """
import logging, os, sys
from prefect.logging.handlers import PrefectConsoleHandler
from workflowmaster.flows import readers
ends = os.pipe()
logger = logging.getLogger("prefect.tests.torn")
logger.addHandler(PrefectConsoleHandler(os.fdopen(ends[1], "w", buffering=1)))
logger.propagate = False
if sys.argv[1] == "outlive":
    readers.outlive()
os.close(ends[0])
for number in range(3):
    logger.warning("line %d", number)
print("still here", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("how", "code", "said"), [("outlive", 0, "still here\n"), ("as it is", 1, "")])
def test_a_console_without_a_reader_falls_silent_and_ends_nothing(how: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", TORN, how], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, said), done.stderr


def test_a_console_with_a_reader_goes_on_printing() -> None:
    from prefect.logging.handlers import PrefectConsoleHandler

    read, write = os.pipe()
    logger = logging.getLogger("prefect.tests.read")
    handler = PrefectConsoleHandler(os.fdopen(write, "w", buffering=1))
    logger.addHandler(handler)
    try:
        readers.outlive()
        logger.warning("a line")
        assert b"a line" in os.read(read, 100)
        assert not handler.console.quiet
    finally:
        logger.removeHandler(handler)
        handler.stream.close()
        os.close(read)
