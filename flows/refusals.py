"""Which error means which exit code, and how it is said: one place, so that no command invents its own."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path

from workflowmaster.blocks.objectstore import WorkspaceError
from workflowmaster.flows import diskspace
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.auditkeys import AuditBroken
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.compiled import StaleLock
from workflowmaster.flows.diagnostics import PromptError, render
from workflowmaster.flows.folders import UnknownWorkflow
from workflowmaster.flows.settings import SettingsError
from workflowmaster.policies import PolicyError

INVALID, PERSON, INFRASTRUCTURE, POLICY, AUDIT = 2, 3, 4, 5, 7


def explained(error: Exception, *, json: bool) -> int | None:
    """Say what went wrong on stderr and return the exit code; None for an error that is our own fault.

    With `json` the same is an object on stdout: `{"error", "exit_code", "diagnostics"}`.
    """
    code = _code(error)
    if code is None:
        return None
    diagnostics = error.diagnostics if isinstance(error, PromptError) else ()
    if json:
        shown = [diagnostic.public() for diagnostic in diagnostics]
        print(json_module.dumps({"error": _sentence(error), "exit_code": code, "diagnostics": shown}))
    if diagnostics:
        texts = {diagnostic.file: _text(diagnostic.file) for diagnostic in diagnostics}
        sys.stderr.write("\n".join(render(d, texts[d.file]) for d in diagnostics) + "\n")
    else:
        sys.stderr.write(f"error: {_sentence(error)}\n")
    return code


def _sentence(error: Exception) -> str:
    """Return what went wrong, and what those who passed it on have noted about going on from there."""
    text = diskspace.told(error) if isinstance(error, OSError) and diskspace.is_full(error) else str(error)
    return ". ".join([text, *getattr(error, "__notes__", ())])


def _code(error: Exception) -> int | None:
    if isinstance(error, PolicyError):
        return POLICY
    if isinstance(error, AuditBroken):
        return AUDIT
    if isinstance(error, NeedsPerson):
        return PERSON
    if isinstance(error, WorkspaceError):
        return INFRASTRUCTURE if error.code == "disk" else INVALID
    if isinstance(error, (PromptError, UnknownWorkflow, SettingsError, StaleLock, BadOption)):
        return INVALID
    return _system(error) if isinstance(error, OSError) else None


def _system(error: OSError) -> int | None:
    """Judge what the system refused: a full disk and a silent engine are nobody's input, a bad path is."""
    if isinstance(error, ConnectionError) or diskspace.is_full(error):
        return INFRASTRUCTURE
    named = error.filename is not None or isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError))
    return INVALID if named else None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return None
