"""Moves the clock of one Python process: its `time.time` is off by what a file says, from the moment it says so.

Python imports a module of this name by itself, before anything else can have taken `time.time` away. The machine's
clock stays as it is, for others use it; and the monotonic clocks stay, as they do where somebody sets a clock.
"""

from __future__ import annotations

import os
import time

_true, _true_ns = time.time, time.time_ns


def offset() -> int:
    """Return by how many seconds the clock is off now."""
    try:
        with open(os.environ["CHAOS_CLOCK"], encoding="ascii") as file:
            return int(file.read() or 0)
    except (OSError, KeyError, ValueError):
        return 0


if "CHAOS_CLOCK" in os.environ:
    time.time = lambda: _true() + offset()
    time.time_ns = lambda: _true_ns() + offset() * 10**9
