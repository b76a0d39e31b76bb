"""Unix time that a run can measure with: the wall clock's at this process's start, and the steady clock's since.

Somebody may set the machine's clock while a run is under way, by hand, by a time server or by a laptop's sleep, and a
step that began before and ended after would have taken minus an hour. The cost: what a long-running process writes
down keeps the error that its clock had when it started; the audit log, which is compared with the outside, does not
use this.
"""

from __future__ import annotations

import time

_ORIGIN = time.time() - time.monotonic()


def now() -> float:
    """Return Unix time in seconds, which within this process never goes back and never jumps."""
    return _ORIGIN + time.monotonic()
