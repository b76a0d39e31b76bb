"""WorkflowMaster's room `flows`.

What other programs call is re-exported here and imported when it is asked for, because a flow's file imports Prefect.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflowmaster.flows.orphans import Orphan, detect_orphaned_workflows, should_resume
    from workflowmaster.flows.totals import get_execution_statistics

__all__ = ["Orphan", "detect_orphaned_workflows", "get_execution_statistics", "should_resume"]

_HOME = dict.fromkeys(__all__, "workflowmaster.flows.orphans") | {
    "get_execution_statistics": "workflowmaster.flows.totals",
}


def __getattr__(name: str) -> Any:
    """Import a re-exported name from the module that has it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
