"""A run outlives whoever reads its log.

A worker reads what the process of a flow run prints through a pipe. When the worker is killed, the next line of the log
finds nobody at the other end, and rich, with which Prefect prints, answers that with SystemExit: the run was ended in
the middle of its steps, as if somebody had interrupted it, because a line was not read. Every line also goes to the
Prefect server, and all that steps print to files of ours, so a console without a reader is merely silenced. The cost is
that a run of the command line whose stderr is piped into something that ends goes on unseen, as `nohup` has it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console


def outlive() -> None:
    """Have Prefect's consoles fall silent, instead of ending the process, once nobody reads them."""
    from prefect.logging.handlers import PrefectConsoleHandler

    for handler in _handlers():
        if isinstance(handler, PrefectConsoleHandler):
            # rich means it to be overridden; a subclass would have to be known to Prefect's logging settings.
            handler.console.on_broken_pipe = partial(_fall_silent, handler.console)  # type: ignore[method-assign]


def _handlers() -> Iterator[logging.Handler]:
    """Yield the handlers of all loggers."""
    yield from logging.root.handlers
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield from logger.handlers


def _fall_silent(console: Console) -> None:
    console.quiet = True
