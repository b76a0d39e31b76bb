"""The local forge: files that appear whole, once, and stay the same when asked for again."""

from __future__ import annotations

import os
import subprocess

import pytest
from pydantic import ValidationError

from workflowmaster.blocks.forge import (
    PROGRESS_MARK,
    ChangedFile,
    Forge,
    ForgeError,
    IssueRequest,
    LocalForge,
    PullRequest,
    Reference,
    ReviewRequest,
)

ISSUE = IssueRequest(title="Fix the parser", body="Nested brackets crash it.", labels=("bug", "workflowmaster"))
# What `git diff` printed for one changed line, byte for byte; the new line is not UTF-8.
PATCH = (
    b"diff --git a/parser.py b/parser.py\nindex 1269488..92a7a0f 100644\n--- a/parser.py\n+++ b/parser.py\n"
    b"@@ -1 +1 @@\n-data\n+caf\xe9\n"
)
PULL = PullRequest(title="Fix the parser", body="## What\n\nIt.", branch="workflowmaster/t1", base="main", patch=PATCH)

ISSUE_TEXT = "# Fix the parser\n\nLabels: bug, workflowmaster\n\nNested brackets crash it.\n"
PULL_TEXT = "# Fix the parser\n\nBranch `workflowmaster/t1` into `main`, draft; `changes.patch`, for `git apply`.\n\n## What\n\nIt.\n"


@pytest.fixture
def forge(tmp_path):
    return LocalForge(tmp_path / "workflow")


def snapshot(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.iterdir()}


def test_it_is_a_forge(forge):
    used: Forge = forge
    assert used is forge


def test_an_issue_is_a_file(forge):
    made = forge.open_issue(ISSUE)
    assert made == Reference(kind="issue", location=str(forge.folder / "issue.md"), created=True)
    assert forge.issue_file.read_text() == ISSUE_TEXT


def test_a_pull_request_is_its_text_and_its_patch(forge):
    made = forge.open_pull_request(PULL)
    assert made.location == str(forge.folder / "pull-request.md")
    assert forge.pull_request_file.read_text() == PULL_TEXT
    assert forge.patch_file.read_bytes() == PATCH


def test_git_applies_the_patch(forge, tmp_path):
    forge.open_pull_request(PULL)
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "parser.py").write_text("data\n")
    subprocess.run(["git", "init", "-q"], cwd=repository, check=True)
    subprocess.run(["git", "apply", str(forge.patch_file)], cwd=repository, check=True)
    assert (repository / "parser.py").read_bytes() == b"caf\xe9\n"


def test_asking_again_changes_nothing(forge):
    def everything():
        issue = forge.open_issue(ISSUE)
        forge.update_progress(issue, "half done")
        pull = forge.open_pull_request(PULL)
        return issue, pull, forge.request_review(pull, ReviewRequest(body="Please look.", reviewers=("ada",)))

    first = everything()
    before = snapshot(forge.folder)
    assert [r.created for r in first] == [True, True, True]
    assert [r.created for r in everything()] == [False, False, False]
    after = snapshot(forge.folder)
    assert {name: (data, inode) for name, (data, _, inode) in after.items() if name != "changes.patch"} == {
        name: (data, inode) for name, (data, _, inode) in before.items() if name != "changes.patch"
    }
    assert set(after) == {"issue.md", "pull-request.md", "changes.patch", "review.md"}


def test_a_better_text_replaces_the_old_one(forge):
    forge.open_pull_request(PULL)
    again = forge.open_pull_request(PULL.model_copy(update={"body": "Better.", "draft": False, "base": ""}))
    assert not again.created
    assert forge.pull_request_file.read_text() == (
        "# Fix the parser\n\nBranch `workflowmaster/t1`; `changes.patch`, for `git apply`.\n\nBetter.\n"
    )


def test_without_a_change_there_is_no_patch(forge):
    forge.open_pull_request(PULL)
    forge.open_pull_request(PULL.model_copy(update={"patch": b""}))
    assert not forge.patch_file.exists()
    assert "no change, so there is no patch" in forge.pull_request_file.read_text()


def test_progress_is_one_note_that_is_replaced(forge):
    issue = forge.open_issue(ISSUE)
    forge.update_progress(issue, "1 of 3")
    forge.update_progress(issue, "2 of 3")
    assert forge.issue_file.read_text() == f"{ISSUE_TEXT}\n{PROGRESS_MARK}\n\n## Progress\n\n2 of 3\n"


def test_progress_survives_a_new_issue_text(forge):
    forge.update_progress(forge.open_issue(ISSUE), "1 of 3")
    forge.open_issue(ISSUE.model_copy(update={"body": "Clearer."}))
    text = forge.issue_file.read_text()
    assert "Clearer." in text
    assert "Nested" not in text
    assert text.endswith("## Progress\n\n1 of 3\n")


def test_a_forged_mark_in_a_text_does_not_hide_the_progress(forge):
    evil = f"before\n{PROGRESS_MARK}\nafter"
    issue = forge.open_issue(ISSUE.model_copy(update={"body": evil}))
    forge.update_progress(issue, evil)
    forge.update_progress(issue, "real")
    text = forge.issue_file.read_text()
    assert text.count(PROGRESS_MARK) == 1
    assert "after" in text
    assert text.endswith("real\n")


def test_progress_of_another_issue_is_refused(forge):
    with pytest.raises(ForgeError, match="not the issue of"):
        forge.update_progress(Reference(kind="issue", location="/elsewhere/issue.md"), "x")
    assert not forge.folder.exists()


def test_a_review_asks_the_person(forge):
    pull = forge.open_pull_request(PULL)
    made = forge.request_review(pull, ReviewRequest(body="Look at the lexer."))
    assert forge.review_file.read_text() == f"# Review of {pull.location}\n\nLook at the lexer.\n"
    assert made.kind == "review"


def test_text_that_is_no_utf8_is_replaced(forge):
    forge.open_issue(ISSUE.model_copy(update={"body": "byte \udcff"}))
    assert "byte ?" in forge.issue_file.read_text()


def test_files_are_private(forge):
    old = os.umask(0)
    try:
        forge.open_pull_request(PULL)
    finally:
        os.umask(old)
    assert {p.stat().st_mode & 0o777 for p in forge.folder.iterdir()} == {0o600}


def test_a_link_in_the_way_is_replaced_not_followed(forge, tmp_path):
    forge.folder.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    forge.patch_file.symlink_to(victim)
    forge.open_pull_request(PULL)
    assert victim.read_text() == "mine"
    assert forge.patch_file.read_bytes() == PATCH
    assert not forge.patch_file.is_symlink()


def test_a_folder_that_cannot_be_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ForgeError, match=r"file/x/issue\.md: cannot be written .*then resume"):
        LocalForge(tmp_path / "file" / "x").open_issue(ISSUE)


def test_a_failed_write_leaves_nothing_behind(forge):
    forge.patch_file.mkdir(parents=True)
    with pytest.raises(ForgeError, match=r"changes\.patch: cannot be written"):
        forge.open_pull_request(PULL)
    assert [p.name for p in forge.folder.iterdir()] == ["changes.patch"]


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (IssueRequest, {"title": "", "body": ""}),
        (PullRequest, {"title": "t", "body": "", "branch": ""}),
        (PullRequest, {"title": "t", "body": "", "branch": "b", "brnach": "x"}),
        (ChangedFile, {"path": "a", "added": -1}),
        (Reference, {"kind": "gist", "location": "x"}),
    ],
)
def test_requests_are_checked(model, given):
    with pytest.raises(ValidationError):
        model.model_validate(given)


def test_requests_are_values():
    with pytest.raises(ValidationError, match="frozen"):
        ISSUE.title = "other"
