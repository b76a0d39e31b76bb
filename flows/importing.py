"""Importing much at once without collecting garbage meanwhile.

What an import makes stays for good, and there is a lot of it: with the collector on, it walks half a million live
objects again and again and finds nothing. Measured on Prefect alone: 0.75 s with, 0.62 s without, and 0.31 s less at
exit, because what is frozen is not walked then either.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def uncollected() -> Iterator[None]:
    """Turn the collector off for the block, and leave out of it for good what the block made."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
