"""Where an outcome is published: issue, progress, pull request, review; on this machine, as files.

A forge is asked with frozen values, one per thing that is published, so that another forge can send exactly what
this one writes and a dry run can be compared with the real one. `LocalForge` is the whole forge of a run without
GitHub: the caller's folder holds `issue.md`, `pull-request.md`, `changes.patch`, `review.md` and `questions.md`, each
replaced in one step, so asking again changes nothing and a reader never sees half a file. Accepted cost: one issue and
one pull request per folder, which is what a workflow has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from workflowmaster.blocks.atomic import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

PROGRESS_MARK: Final = "<!-- workflowmaster:progress -->"
"""Line of `issue.md` below which the progress stands; text from prompts cannot contain it."""


class Value(BaseModel):
    """Base of what a forge is given and gives back."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ChangedFile(Value):
    """One file of a change."""

    path: str
    change: Literal["added", "modified", "deleted", "renamed"] = "modified"
    added: int = Field(default=0, ge=0)
    """Lines added; 0 for a binary file."""
    deleted: int = Field(default=0, ge=0)
    """Lines deleted; 0 for a binary file."""
    binary: bool = False


class IssueRequest(Value):
    """An issue to be opened."""

    title: str = Field(min_length=1)
    body: str
    """Markdown, ready to be published."""
    labels: tuple[str, ...] = ()


class PullRequest(Value):
    """A branch proposed for a base, and the difference it makes."""

    title: str = Field(min_length=1)
    body: str
    """Markdown, ready to be published."""
    branch: str = Field(min_length=1)
    base: str = ""
    """Name of the branch it is proposed for; empty where the forge's default is meant."""
    draft: bool = True
    patch: bytes = b""
    """What `git apply` takes on the base; empty when nothing changed."""
    files: tuple[ChangedFile, ...] = ()


class ReviewRequest(Value):
    """A review asked for."""

    body: str
    reviewers: tuple[str, ...] = ()
    """Login names; empty asks whoever runs the workflow."""


class Reference(Value):
    """Something that was published, and where to find it."""

    kind: Literal["issue", "pull_request", "review"]
    location: str
    """URL; with the local forge the path of the file."""
    number: int | None = None
    """Its number on a forge that counts."""
    created: bool = True
    """Whether it was made by this call; false when it was there already."""


class ForgeError(OSError):
    """Publishing failed: what, where, and what to do about it."""


class Forge(Protocol):
    """What a workflow needs of a forge. Every call may be made again and then changes nothing."""

    def open_issue(self, request: IssueRequest) -> Reference:
        """Find or open the workflow's issue."""
        ...

    def update_progress(self, issue: Reference, body: str) -> None:
        """Replace the one progress note of an issue."""
        ...

    def open_pull_request(self, request: PullRequest) -> Reference:
        """Find or open the workflow's pull request, and bring its text up to date."""
        ...

    def request_review(self, pull_request: Reference, request: ReviewRequest) -> Reference:
        """Ask for a review of a pull request."""
        ...

    def ask(self, body: str) -> None:
        """Publish what the run asks people, in place of what it asked before; an empty text: nothing any more."""
        ...


class LocalForge:
    """A forge in a folder, made if it is missing. The files are readable by their owner only, like the rest of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def issue_file(self) -> Path:
        """Where the issue and its progress are."""
        return self.folder / "issue.md"

    @property
    def pull_request_file(self) -> Path:
        """Where the pull request's text is."""
        return self.folder / "pull-request.md"

    @property
    def patch_file(self) -> Path:
        """Where the change itself is."""
        return self.folder / "changes.patch"

    @property
    def review_file(self) -> Path:
        """Where the review is asked for."""
        return self.folder / "review.md"

    @property
    def questions_file(self) -> Path:
        """Where the run says what it asks people."""
        return self.folder / "questions.md"

    def open_issue(self, request: IssueRequest) -> Reference:
        """Write `issue.md`; progress noted earlier stays."""
        # Progress has a life of its own: a resumed run opens the same issue and must not wipe its history.
        _, mark, progress = self._read(self.issue_file).partition(PROGRESS_MARK)
        labels = f"Labels: {', '.join(request.labels)}\n\n" if request.labels else ""
        text = f"# {request.title}\n\n{labels}{_unmarked(request.body)}\n"
        return self._publish("issue", self.issue_file, f"{text}\n{mark}{progress}" if mark else text)

    def update_progress(self, issue: Reference, body: str) -> None:
        """Write the progress into `issue.md`, in place of what was noted there before.

        Raises ForgeError if `issue` is none of this folder.
        """
        # Two workflows' folders look alike; writing into the wrong one would be silent.
        if issue.kind != "issue" or issue.location != str(self.issue_file):
            raise ForgeError(f"{issue.location}: not the issue of {self.folder}; pass what open_issue returned")
        text = self._read(self.issue_file).partition(PROGRESS_MARK)[0].rstrip("\n")
        self._publish("issue", self.issue_file, f"{text}\n\n{PROGRESS_MARK}\n\n## Progress\n\n{_unmarked(body)}\n")

    def open_pull_request(self, request: PullRequest) -> Reference:
        """Write `changes.patch`, then `pull-request.md`; without a change there is no patch file."""
        if request.patch:
            self._replace(self.patch_file, request.patch)
        else:
            self.patch_file.unlink(missing_ok=True)
        # The text comes last: whoever sees it can rely on the patch it speaks of.
        return self._publish("pull_request", self.pull_request_file, _pull_request_text(request))

    def request_review(self, pull_request: Reference, request: ReviewRequest) -> Reference:
        """Write `review.md`, which asks the person who runs the workflow."""
        asked = f"Asked: {', '.join(request.reviewers)}\n\n" if request.reviewers else ""
        text = f"# Review of {pull_request.location}\n\n{asked}{request.body}\n"
        return self._publish("review", self.review_file, text)

    def ask(self, body: str) -> None:
        """Write `questions.md`, or remove it."""
        if body:
            self._replace(self.questions_file, f"{body.rstrip()}\n".encode("utf-8", "replace"))
        else:
            self.questions_file.unlink(missing_ok=True)

    def _publish(self, kind: Literal["issue", "pull_request", "review"], path: Path, text: str) -> Reference:
        existed = path.exists()
        data = text.encode("utf-8", "replace")
        # Unchanged files keep their time stamp, so that a resume does not look like a new publication.
        if not existed or path.read_bytes() != data:
            self._replace(path, data)
        return Reference(kind=kind, location=str(path), created=not existed)

    def _read(self, path: Path) -> str:
        return path.read_text("utf-8") if path.exists() else ""

    def _replace(self, path: Path, data: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            mend = "free space or mend the folder's rights, then resume"
            raise ForgeError(f"{path}: cannot be written ({error.strerror or error}); {mend}") from error


def _pull_request_text(request: PullRequest) -> str:
    base = f" into `{request.base}`" if request.base else ""
    draft = ", draft" if request.draft else ""
    patch = "`changes.patch`, for `git apply`" if request.patch else "no change, so there is no patch"
    return f"# {request.title}\n\nBranch `{request.branch}`{base}{draft}; {patch}.\n\n{request.body}\n"


def _unmarked(body: str) -> str:
    """Make sure that a text cannot hold the mark that separates it from the progress."""
    return body.replace(PROGRESS_MARK, PROGRESS_MARK.replace("<", "&lt;"))
