"""Which error ends a command with which exit code, and how it is said."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from workflowmaster.blocks.engine import SandboxUnavailable
from workflowmaster.blocks.objectstore import WorkspaceError
from workflowmaster.flows.asking import BadOption
from workflowmaster.flows.claim import NeedsPerson
from workflowmaster.flows.compiled import StaleLock
from workflowmaster.flows.diagnostics import Diagnostic, PromptError
from workflowmaster.flows.folders import UnknownWorkflow
from workflowmaster.flows.refusals import explained
from workflowmaster.flows.settings import SettingsError
from workflowmaster.policies import PolicyError

PLACE = Diagnostic(
    code="WM999", severity="error", file="p.md", line=2, column=1, end_column=4, message="no good", help="mend it"
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PromptError(PLACE), 2),
        (WorkspaceError("dirty", "it is dirty"), 2),
        (UnknownWorkflow("nope"), 2),
        (SettingsError("bad"), 2),
        (StaleLock("stale"), 2),
        (BadOption("bad"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file", "p.md"), 2),
        (NotADirectoryError("no directory"), 2),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "p"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 2),
        (NeedsPerson("ask"), 3),
        (SandboxUnavailable("no engine"), 4),
        (OSError(errno.ENOSPC, "No space left on device"), 4),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 4),
        (WorkspaceError("disk", "no space left"), 4),
        (PolicyError("too loose"), 5),
        (RuntimeError("a bug"), None),
        (KeyError("a bug"), None),
        (OSError("a bug"), None),
        (ValueError("a bug"), None),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(error, json=True) == code
    said = capsys.readouterr()
    if code is None:
        assert (said.out, said.err) == ("", "")
        return
    answer = json.loads(said.out)
    assert set(answer) == {"error", "exit_code", "diagnostics"}
    assert answer["exit_code"] == code
    assert answer["error"]
    assert said.err


def test_a_prompt_is_shown_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.md").write_text("one\nbad line\n")
    where = PLACE.model_copy(update={"file": str(tmp_path / "p.md")})
    assert explained(PromptError(where), json=False) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[:2] == ["error WM999: no good", f"  --> {tmp_path}/p.md:2:1"]
    assert "2 | bad line" in said.err
    assert "= help: mend it" in said.err


def test_a_file_error_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Path("/no/such/file").read_text()
    assert explained(caught.value, json=False) == 2
    assert capsys.readouterr().err == "error: [Errno 2] No such file or directory: '/no/such/file'\n"
